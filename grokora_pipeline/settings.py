"""Every path, device and default, read from the environment (`GROKORA_*`, also from `.env`) in one place."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from grokora_pipeline.errors import GrokoraError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
SAMPLE_LOGS = PROJECT_ROOT / "data" / "session_logs"


class Settings(BaseModel):
    """What a person can set from outside. Relative paths are taken from the working directory."""

    model_config = ConfigDict(frozen=True)

    logs: Path = Field(default=SAMPLE_LOGS, description="Root of the session logs.")
    store: str = Field(
        default=str(PROJECT_ROOT / "data" / "store"), description="Folder or fsspec URL of all artifacts."
    )
    cache: Path = Field(
        default=Path("~/.cache/grokora"), validate_default=True, description="This machine's copies of a remote store."
    )
    agents: Path = Field(default=PROJECT_ROOT / "data" / "agents.yaml", description="Who the agents are.")
    base_model: str = Field(
        default="", description="HF id (`org/name` or `org/name@revision`) or a folder; empty: bundled."
    )
    preset: Literal["plan", "best", "sample", ""] = Field(
        default="", description="Wins over agents.yaml; both empty: `best`."
    )
    devices: str = Field(default="", description="GPU indices, as `0,1`; `cpu` for none; empty: ask the machine.")
    executor: Literal["local", "ray", "k8s"] = "local"
    automation: Literal["on", "off"] = "off"
    settle_seconds: float = Field(
        default=2.0, ge=0, description="A log that changed this recently is still being written."
    )
    recordings: Path | None = Field(
        default=None, description="Where the gateway records; empty: below the logs, but never beside the sample."
    )
    api_key: SecretStr | None = Field(default=None, description="The bearer key of the gateway.")

    @property
    def recordings_folder(self) -> Path:
        """`<logs>/recordings`, so that what is recorded is read; `data/logs` stands in for the committed sample."""
        logs = PROJECT_ROOT / "data" / "logs" if self.logs == SAMPLE_LOGS else self.logs
        return self.recordings or logs / "recordings"

    def environment(self) -> dict[str, str]:
        """What was set, as variables that mean the same in a child process and in another working directory."""
        values = {name: getattr(self, name) for name in self.model_fields_set}
        if self.base_model and Path(self.base_model).is_dir():
            values["base_model"] = Path(self.base_model).absolute()
        return {
            f"GROKORA_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values.items()
            if value is not None
        }

    @field_validator("logs", "cache", "agents", "recordings")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @field_validator("store")
    @classmethod
    def _absolute_store(cls, value: str) -> str:
        return value if "://" in value else str(Path(value).expanduser().absolute())


class _Environment(BaseSettings, Settings):
    """The same fields, each from its `GROKORA_` variable where it is not given."""

    model_config = SettingsConfigDict(
        env_prefix="GROKORA_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once; an invalid value raises GrokoraError naming its variable."""
    try:
        return _Environment()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"GROKORA_{'_'.join(str(part) for part in first['loc']).upper()}"
        raise GrokoraError(
            f"{name}={first.get('input')!r} is not usable: {first['msg']}; correct it in the environment or .env."
        ) from error
