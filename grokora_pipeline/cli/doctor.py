"""`grokora doctor`: what this machine can do, each line ok, warning or missing, with the command that mends it."""

import difflib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
from rich.markup import escape

from grokora_pipeline.agents import load_agents
from grokora_pipeline.errors import GrokoraError
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
    checks: list[Callable[[], Finding]] = [
        _project,
        _time_zone,
        _python,
        _torch,
        _gpu,
        _bitsandbytes,
        _memory,
        _disk,
        _logs,
        _agents,
        _base_model,
    ]
    return [check() for check in checks]


def _project() -> Finding:
    settings = get_settings()
    env_file = find_env_file(Path.cwd(), find_home(Path.cwd(), os.environ), os.environ)
    text = f"{settings.home}, settings from {env_file or 'the environment (no .env)'}"
    if unread := misspelt(os.environ, env_file):
        known = [f"GROKORA_{name.upper()}" for name in type(settings).model_fields]
        meant = [difflib.get_close_matches(name, known, n=1) for name in unread]
        hint = "; ".join(f"did you mean {close[0]}?" for close in meant if close) or f"settings: {', '.join(known)}"
        return Finding("warning", "project", f"{text}; nothing reads {', '.join(unread)}", hint)
    return Finding("ok", "project", text)


def _time_zone() -> Finding:
    zone, value = get_settings().timezone, os.environ.get("TZ", "")
    if zone == "UTC" and value.removeprefix(":") not in {"", "UTC", "UTC0", "Etc/UTC"}:
        return Finding("warning", "time zone", f"UTC; TZ={value} names no zone", "set TZ to one such as Europe/Berlin")
    return Finding("ok", "time zone", f"{zone}, for the training windows of agents.yaml")


def _python() -> Finding:
    state: State = "ok" if sys.version_info >= (3, 11) else "missing"
    return Finding(state, "Python", platform.python_version(), "" if state == "ok" else "install Python 3.11 or newer")


def _torch() -> Finding:
    if not importlib.util.find_spec("torch"):
        return Finding("missing", "torch", "not installed", "make demo  (or pip install torch==2.13.0)")
    import torch

    native = "bf16 is native" if torch.cpu._is_avx512_bf16_supported() else "bf16 is emulated, fp32 is used"
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"CPU build, {native}"
    return Finding("ok", "torch", f"{torch.__version__} ({built}), {torch.get_num_threads()} threads")


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


def _bitsandbytes() -> Finding:
    try:
        return Finding("ok", "bitsandbytes", metadata.version("bitsandbytes"))
    except metadata.PackageNotFoundError:
        return Finding("missing", "bitsandbytes", "not installed; NF4 and int8 need it", "pip install bitsandbytes")


def _memory() -> Finding:
    free = psutil.virtual_memory().available / 2**30
    state: State = "ok" if free >= _MIN_MEMORY_GIB else "warning"
    return Finding(state, "memory", f"{free:.1f} GiB available", "" if state == "ok" else "close other programs")


def _disk() -> Finding:
    store = Store(get_settings().store, get_settings().cache).root
    existing = next(folder for folder in [store, *store.parents] if folder.exists())
    free = shutil.disk_usage(existing).free / 2**30
    state: State = "ok" if free >= _MIN_FREE_GIB else "warning"
    hint = "" if state == "ok" else "free some space or set GROKORA_STORE to another disk"
    return Finding(state, "disk", f"{free:.0f} GiB free for the store at {store}", hint)


def _logs() -> Finding:
    logs = get_settings().logs
    count = sum(1 for path in logs.rglob("*") if path.is_file()) if logs.is_dir() else 0
    if count:
        return Finding("ok", "session logs", f"{count} files below {logs}")
    return Finding("missing", "session logs", f"nothing at {logs}", "set GROKORA_LOGS, or grokora sandbox record")


def _agents() -> Finding:
    try:
        agents = load_agents(get_settings().agents)
    except GrokoraError as error:
        return Finding("missing", "agents", str(error), "correct the file")
    return Finding("ok", "agents", ", ".join(agent.name for agent in agents))


def _base_model() -> Finding:
    from grokora_pipeline.models.fingerprint import BUNDLED_ID, availability

    model = get_settings().base_model
    name = model or "bundled SmolLM2-135M-Instruct"
    try:
        where = availability(model)
    except GrokoraError as error:
        return Finding("missing", "base model", str(error), "set GROKORA_BASE_MODEL, or make demo for the bundled one")
    base = Store(get_settings().store, get_settings().cache).current("base_model")
    record = base.read_json("base_model.json") if base else {}
    if record.get("model_id") != (model or BUNDLED_ID):
        record = {}  # another base was made ready, or none
    tried = [str(record.get(use, "")) for use in ("trained", "served")]
    return Finding("ok", "base model", " ".join(filter(None, [f"{name}: {where}.", *tried])))
