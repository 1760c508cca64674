"""Every path, device and default, read from the environment (`GROKORA_*`, also from a `.env`) in one place."""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from zoneinfo import TZPATH, ZoneInfo, ZoneInfoNotFoundError, available_timezones

from dotenv.parser import parse_stream
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from grokora_pipeline.errors import GrokoraError, first_mistake

PROJECT_ROOT = Path(__file__).resolve().parent.parent  # the checkout, if this is one
_DEVICE = re.compile(r"-1|\d+|(?i:cpu)\d*|(GPU|MIG)-[\w/-]+")
_PATHS = ("logs", "cache", "agents", "recordings")
_PREFIX = "GROKORA_"
Preset = Literal["plan", "best", "sample", ""]  # "": whoever comes next decides
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


class Settings(BaseModel):
    """What a person can set from outside. Nothing is read from the environment here: see `read_settings`.

    Relative paths are taken from the working directory. What is not given lies below `home`, the project's folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Field(default_factory=Path.cwd, description="The project's folder.")
    logs: Path = Field(
        default_factory=lambda known: known["home"] / "data" / "session_logs", description="Root of the session logs."
    )
    store: str = Field(
        default_factory=lambda known: str(known["home"] / "data" / "store"),
        description="Folder or fsspec URL of all artifacts.",
    )
    cache: Path = Field(
        default=Path("~/.cache/grokora"), validate_default=True, description="This machine's copies of a remote store."
    )
    agents: Path = Field(
        default_factory=lambda known: agents_file(known["home"]) or known["home"] / "agents.yaml",
        description="Who the agents are.",
    )
    base_model: str = Field(
        default="", description="HF id (`org/name` or `org/name@revision`) or a folder; empty: bundled."
    )
    preset: Preset = Field(default="", description="Wins over agents.yaml; both empty: `best`.")
    devices: str = Field(
        default="", description="GPU indices, as `0,1`; `cpu`, or `cpu,cpu2` for two steps at once; empty: all GPUs."
    )
    executor: Literal["local", "ray", "k8s"] = Field(default="local", description="Where steps run.")
    automation: Literal["on", "off"] = Field(default="off", description="Whether sensor and schedules start running.")
    settle_seconds: float = Field(
        default=2.0, ge=0, allow_inf_nan=False, description="A log that changed this recently is still being written."
    )
    timezone: str = Field(default="UTC", description="IANA name of the zone that training windows are in.")
    recordings: Path | None = Field(
        default=None, description="Where the gateway records; empty: below the logs, but never beside the sample."
    )
    api_key: SecretStr | None = Field(default=None, description="The bearer key of the gateway.")

    @field_validator("home", "store", *_PATHS)
    @classmethod
    def _absolute(cls, value: Path | str | None) -> Path | str | None:
        if isinstance(value, str):
            return value if "://" in value else str(_expanded(Path(value)).absolute())
        return value and _expanded(value).absolute()

    @field_validator("devices")
    @classmethod
    def _known_devices(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",")] if value else []
        if not all(_DEVICE.fullmatch(name) for name in names):
            raise ValueError("give indices as nvidia-smi lists them, such as `0,1`, or `cpu`")
        return ",".join(name.lower() if name.lower().startswith("cpu") else name for name in names)

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ValueError, OSError, ZoneInfoNotFoundError) as error:
            raise ValueError("no such zone; use a name such as Europe/Berlin") from error
        return value

    @property
    def recordings_folder(self) -> Path:
        """`<logs>/recordings`, so that what is recorded is read; `data/logs` stands in for the committed sample."""
        sample = self.home / "data" / "session_logs"
        return self.recordings or (self.home / "data" / "logs" if self.logs == sample else self.logs) / "recordings"

    def environment(self) -> dict[str, str]:
        """The settings as variables that mean the same in a child process, in any folder and beside any `.env`."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        if self.base_model and Path(self.base_model).is_dir():
            values["base_model"] = Path(self.base_model).absolute()
        variables = {
            _PREFIX + name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values.items()
            if value not in {None, ""}
        }
        return {**variables, _PREFIX + "ENV_FILE": ""}  # no `.env`: one where the child works would add to these


def agents_file(folder: Path) -> Path | None:
    """The agents.yaml of a project's folder, or None if the folder is no project."""
    return next((path for path in (folder / "agents.yaml", folder / "data" / "agents.yaml") if path.is_file()), None)


def find_home(cwd: Path, environ: Mapping[str, str]) -> Path | None:
    """The project: GROKORA_HOME, else the nearest folder from `cwd` upward with an agents.yaml, else the checkout."""
    if home := environ.get("GROKORA_HOME", "").strip():
        return (cwd / _expanded(Path(home))).absolute()
    folders = [cwd, *cwd.parents]
    # a `dagster.yaml` beside it tells a project of ours from another program's agents.yaml further up
    nearest = (folder for folder in folders if (folder / "dagster.yaml").is_file() and agents_file(folder))
    checkout = PROJECT_ROOT if (PROJECT_ROOT / "pyproject.toml").is_file() and agents_file(PROJECT_ROOT) else None
    return next(nearest, checkout)


def find_env_file(cwd: Path, home: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The one `.env` that counts: the nearest from `cwd` upward with a GROKORA_ variable, else the project's.

    A command names it in GROKORA_ENV_FILE (empty: none) for the processes that it starts, wherever they work.
    """
    if "GROKORA_ENV_FILE" in environ:
        return Path(environ["GROKORA_ENV_FILE"]) if environ["GROKORA_ENV_FILE"] else None
    candidates = [folder / ".env" for folder in (cwd, *cwd.parents, *([home] if home else []))]
    return next((path for path in candidates if path.is_file() and _own_variables(path)), None)


def _own_variables(path: Path) -> dict[str, str]:
    """The GROKORA_ variables of a `.env` that have a value; GrokoraError if the file or such a line cannot be read."""
    try:
        # -sig: Notepad begins a file with a byte order mark, which would become a part of the first name
        with path.open(encoding="utf-8-sig") as stream:
            lines = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise GrokoraError(f"{path} cannot be read ({error}); correct it, or move it away.") from error
    for line in lines:  # what another program's variables look like is no business of ours
        if line.error and _PREFIX in line.original.string.upper():
            raise GrokoraError(f"{path}, line {line.original.line}: this is not NAME=value; is a quote never closed?")
    values = {line.key.upper(): (line.value or "").strip() for line in lines if line.key}
    return {name: value for name, value in values.items() if value and name.startswith(_PREFIX)}


def misspelt(environ: Mapping[str, str], env_file: Path | None) -> list[str]:
    """The GROKORA_ variables, sorted, that are no settings: nothing reads them."""
    known = {_PREFIX + name.upper() for name in (*Settings.model_fields, "env_file")}
    names = {name.upper() for name in environ if name.upper().startswith(_PREFIX)}
    return sorted((names | (_own_variables(env_file).keys() if env_file else set())) - known)


def read_settings(environ: Mapping[str, str], cwd: Path) -> Settings:
    """The settings of an environment; a variable wins over the `.env`, whose relative paths start at its own folder.

    Raises GrokoraError naming the variable that is wrong, or how to get a project if there is none.
    """
    home = find_home(cwd, environ)
    env_file = find_env_file(cwd, home, environ)
    values: dict[str, Any] = {}
    sources = [({k.upper(): v.strip() for k, v in environ.items()}, cwd)]
    if env_file:
        sources.insert(0, (_own_variables(env_file), env_file.parent))
    for source, base in sources:
        for name in Settings.model_fields:
            if value := source.get(_PREFIX + name.upper()):
                values[name] = from_folder(name, value, base)
    if home is None and not {"agents", "logs", "store"} <= values.keys():
        raise GrokoraError(
            f"There is no grokora project at {cwd} or above it; `grokora init FOLDER` makes one to work in."
        )
    values.setdefault("timezone", local_timezone(environ))
    try:
        return Settings(**{"home": home or cwd, **values})
    except ValidationError as error:
        keys, why, value = first_mistake(error)
        raise GrokoraError(
            f"{_PREFIX}{'_'.join(keys).upper()}={value!r} is not usable: {why}; correct it in the environment or "
            f"{env_file or '.env'}."
        ) from error


def from_folder(name: str, value: str, base: Path) -> str:
    """A value whose relative path, if it is one, starts at the folder that it was written for."""
    path = base / _expanded(Path(value))
    is_path = name in {*_PATHS, "home"} or (name == "store" and "://" not in value)
    is_base = name == "base_model" and (path.is_dir() or value.startswith(("/", "~", "./", "../")))
    return str(path) if is_path or is_base else value


def _expanded(path: Path) -> Path:
    """The path with `~` replaced; GrokoraError if there is no such person."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise GrokoraError(f"{path}: there is no home folder for {path.parts[0]}; write the path out.") from error


def http_options(url: str) -> dict[str, Any]:
    """How httpx asks an address: this machine's own without the environment's proxy, others by it if there is one.

    Raises GrokoraError if the address, or that proxy, cannot be used.
    """
    import httpx

    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise GrokoraError(f"{url} is no address ({error}); give one such as http://127.0.0.1:8080.") from error
    if parts.scheme not in {"http", "https"} or not parts.host:
        raise GrokoraError(f"{url} is no http(s) address; give one such as http://127.0.0.1:8080.")
    if parts.host in LOOPBACK:
        return {"trust_env": False}
    try:
        httpx.Client().close()
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        reason = str(error).split(". ")[0]
        raise GrokoraError(
            f"The proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names cannot be used ({reason}); correct or unset it."
        ) from error
    return {}


def local_timezone(environ: Mapping[str, str], localtime: Path = Path("/etc/localtime")) -> str:
    """The IANA name of this machine's zone, from TZ (`Europe/Berlin`, `:Europe/Berlin`, a zone file) or /etc/localtime.

    A zone file that is no link, as containers mount it, is recognised by its bytes. UTC if nothing names a zone.
    """
    zones = available_timezones()
    zone = environ.get("TZ", "").removeprefix(":")
    if zone in zones:
        return zone
    file = Path(zone) if zone.startswith("/") else localtime
    if (zone and not zone.startswith("/")) or not file.is_file():
        return "UTC"  # also for POSIX's own form (`CET-1CEST`), which names no zone; doctor shows what was understood
    linked = file.resolve().as_posix().partition("zoneinfo/")[2].removeprefix("posix/")
    if linked in zones:
        return linked
    content = file.read_bytes()
    files = ((name, Path(root) / name) for name in sorted(zones) for root in TZPATH)
    same_size = ((name, path) for name, path in files if path.is_file() and path.stat().st_size == len(content))
    return next((name for name, path in same_size if path.read_bytes() == content), "UTC")


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once: for commands and the front door of the definitions."""
    return read_settings(os.environ, Path.cwd())
