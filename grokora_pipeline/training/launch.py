"""Several processes for one plan: `python -m grokora_pipeline.training plan.json` turns into their launcher."""

import os
import sys
from pathlib import Path

import orjson


def launcher(processes: int, *, cuda: bool) -> list[str]:
    """The command in front of `grokora_pipeline.training plan.json`; accelerate needs MPI for CPUs."""
    if cuda:
        config = str(Path(__file__).with_name("accelerate.yaml"))
        start = ["accelerate.commands.launch", "--config_file", config, "--num_processes", str(processes)]
        return [sys.executable, "-m", *start, "-m"]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]


def processes_wanted(plan_file: Path) -> tuple[int, bool]:
    """(processes, whether on CUDA) that `num_processes` means on this machine; `auto` is one a visible GPU."""
    try:
        wanted = orjson.loads(plan_file.read_bytes()).get("knobs", {}).get("num_processes", "auto")
    except (OSError, ValueError, AttributeError):
        return 1, False  # the worker says what is wrong with the plan
    if wanted == 1 or (wanted != "auto" and not isinstance(wanted, int)):
        return 1, False
    import torch  # two seconds, which this process needs anyway: it becomes the worker unless there are several

    devices = torch.cuda.device_count()
    if devices:
        return (devices if wanted == "auto" else min(devices, wanted)), True
    return (1 if wanted == "auto" else wanted), False


def become_launcher(plan_file: Path) -> None:
    """If the plan wants several processes and this is not one of them, replace this process by their launcher."""
    if "RANK" in os.environ:
        return
    count, cuda = processes_wanted(plan_file)
    if count > 1:
        command = [*launcher(count, cuda=cuda), "grokora_pipeline.training", str(plan_file)]
        os.execv(command[0], command)
