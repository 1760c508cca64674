"""`grokora doctor`: what this machine can do, each line ok, warning or missing, with the command that mends it."""

import difflib
import importlib.util
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
from rich.markup import escape

from grokora_pipeline.errors import GrokoraError, counted
from grokora_pipeline.settings import find_env_file, find_home, get_settings, misspelt
from grokora_pipeline.store import Store

State = Literal["ok", "warning", "missing"]
_COLOURS: dict[State, str] = {"ok": "green", "warning": "yellow", "missing": "red"}
_MIN_FREE_GIB = 5.0
_MIN_MEMORY_GIB = 6.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    state: State
    subject: str
    detail: str
    hint: str = ""

    def line(self) -> str:
        """The line as rich markup."""
        hint = f"  → {self.hint}" if self.hint else ""
        return f"[{_COLOURS[self.state]}]{self.state:8}[/]{self.subject:14}{escape(self.detail)}{escape(hint)}"


def examine() -> list[Finding]:
    """All findings, cheap ones first; nothing is changed and nothing is downloaded."""
    store = Store.of(get_settings()).root
    folder = next(folder for folder in (store, *store.parents) if folder.exists())
    hint = "free some space or set GROKORA_STORE to another disk"
    disk = _room("disk", shutil.disk_usage(folder).free, _MIN_FREE_GIB, f"free for the store at {store}", hint)
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        hint = "make the folder writable, or set GROKORA_STORE to one of yours"
        disk = Finding("missing", "disk", f"nothing can be written below {folder}, where the store {store} is", hint)
    root = get_settings().logs
    count = sum(1 for path in root.rglob("*") if path.is_file()) if root.is_dir() else 0
    logs = Finding("ok", "session logs", f"{counted(count, 'file')} below {root}")
    if not count:
        hint = "set GROKORA_LOGS, or grokora sandbox record"
        logs = Finding("missing", "session logs", f"nothing at {root}", hint)
    return [
        *_settings(),
        Finding("ok", "Python", platform.python_version()),  # of an older one, pip refuses the package
        _torch(),
        _gpu(),
        _room("memory", psutil.virtual_memory().available, _MIN_MEMORY_GIB, "available", "close other programs"),
        disk,
        logs,
        _agents(),
        _base_model(),
    ]


def _settings() -> list[Finding]:
    settings, variable = get_settings(), os.environ.get("TZ", "")
    zone = Finding("ok", "time zone", f"{settings.timezone}, for the training windows of agents.yaml")
    if settings.timezone == "UTC" and variable.removeprefix(":") not in {"", "UTC", "UTC0", "Etc/UTC"}:
        hint = "set TZ to one such as Europe/Berlin"
        zone = Finding("warning", "time zone", f"UTC; TZ={variable} names no zone", hint)
    env_file = find_env_file(Path.cwd(), find_home(Path.cwd(), os.environ), os.environ)
    text = f"{settings.home}, settings from {env_file or 'the environment (no .env)'}"
    if unread := misspelt(os.environ, env_file):
        known = [f"GROKORA_{name.upper()}" for name in type(settings).model_fields]
        meant = [difflib.get_close_matches(name, known, n=1) for name in unread]
        hint = "; ".join(f"did you mean {close[0]}?" for close in meant if close) or f"settings: {', '.join(known)}"
        return [Finding("warning", "project", f"{text}; nothing reads {', '.join(unread)}", hint), zone]
    return [Finding("ok", "project", text), zone]


def _torch() -> Finding:
    for name in ("torch", "bitsandbytes"):
        if not importlib.util.find_spec(name):
            return Finding(
                "missing", "torch", f"{name} is not installed", f"pip install {name}; in a checkout: make demo"
            )
    import torch

    native = "bf16 is native" if torch.cpu._is_avx512_bf16_supported() else "bf16 is emulated, fp32 is used"
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"CPU build, {native}"
    quantised = f"bitsandbytes {metadata.version('bitsandbytes')}"  # NF4 and int8
    return Finding("ok", "torch", f"{torch.__version__} ({built}), {torch.get_num_threads()} threads, {quantised}")


def _gpu() -> Finding:
    if not shutil.which("nvidia-smi"):
        return Finding("warning", "GPU", "no NVIDIA driver found; everything runs on the CPU, more slowly")
    query = "--query-gpu=name,driver_version,memory.free"
    answer = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return Finding("warning", "GPU", "nvidia-smi fails", "reinstall or load the NVIDIA driver")
    import torch

    if not torch.cuda.is_available():
        return Finding(
            "warning", "GPU", f"{answer.stdout.strip()}, but torch cannot use it", "pip install torch==2.13.0"
        )
    return Finding("ok", "GPU", "; ".join(answer.stdout.strip().splitlines()) + " free")


def _room(subject: str, free: int, needed: float, what: str, hint: str) -> Finding:
    """Whether `free` bytes are the `needed` GiB."""
    enough = free >= needed * 2**30
    return Finding("ok" if enough else "warning", subject, f"{free / 2**30:.1f} GiB {what}", "" if enough else hint)


def _agents() -> Finding:
    from grokora_pipeline.assets.common import load_project
    from grokora_pipeline.assets.knobs import resolve

    try:
        project = load_project()
        for agent in project.agents:  # any key that an agent does not know is a training knob, also a misspelt one
            resolve(project, agent)
    except GrokoraError as error:
        return Finding("missing", "agents", str(error), "correct the file")
    return Finding("ok", "agents", ", ".join(agent.name for agent in project.agents))


def _base_model() -> Finding:
    from grokora_pipeline.models.fingerprint import BUNDLED_ID, availability

    model = get_settings().base_model
    name = model or "bundled SmolLM2-135M-Instruct"
    try:
        where = availability(model)
    except GrokoraError as error:
        return Finding(
            "missing",
            "base model",
            str(error),
            "set GROKORA_BASE_MODEL; the bundled one: make demo in a checkout, or grokora init --sample",
        )
    base = Store.of(get_settings()).current("base_model")
    record = base.read_json("base_model.json") if base else {}
    if record.get("model_id") != (model or BUNDLED_ID):
        record = {}  # another base was made ready, or none
    verdicts = [str(record.get(use, "")) for use in ("trained", "served")]
    return Finding("ok", "base model", " ".join(filter(None, [f"{name}: {where}.", *verdicts])))
