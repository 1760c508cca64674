"""Lease devices, then become the command: `python -m grokora_pipeline.workers.lease --count 1 -- command …`.

One lock file a device, held by the process that uses it: the kernel gives the lease back when that process dies,
whatever the cause. The command sees exactly the leased devices in CUDA_VISIBLE_DEVICES. A machine without a GPU leases
its CPU instead, to two processes if its memory is enough for both. Nothing here imports Dagster or torch.
"""

import argparse
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from grokora_pipeline.errors import GrokoraError, disk_refusal
from grokora_pipeline.workers.frame import PASSIVE_THREADS

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.2
_TWO_STEPS_BYTES = 15 * 2**30  # a machine of 16 GiB reports a little less


def discover_devices(configured: str) -> list[str]:
    """The devices that may be leased: the setting `devices`, else the inherited CUDA mask, else nvidia-smi's list,
    else the CPU's slots."""
    chosen = configured or os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in chosen.split(",") if name.strip() not in {"", "-1"}]
    if not chosen and shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        listing = subprocess.run(command, capture_output=True, text=True, check=False)
        names = listing.stdout.split() if listing.returncode == 0 else []
    # Two steps side by side keep two cores busier than one does: it imports, tokenizes and waits for its threads on one
    # core. A training takes at most 6 GiB on a CPU (`training/budget.py`), so two need a machine of 16.
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    two_fit = memory >= _TWO_STEPS_BYTES and (os.cpu_count() or 1) > 1
    return names or (["cpu", "cpu2"] if two_fit else ["cpu"])


def lease_folder() -> Path:
    """Where the lock files are: one folder a user and machine, since devices belong to the machine."""
    folder = Path(tempfile.gettempdir()) / f"grokora-leases-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def acquire(devices: Sequence[str], count: int, folder: Path) -> list[str]:
    """Take `count` free devices, all or none ([]); they stay locked until this process ends."""
    locks: dict[str, int] = {}
    for device in devices:
        descriptor = os.open(folder / f"{device}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        locks[device] = descriptor
        if len(locks) == count:
            for lock in locks.values():
                os.set_inheritable(lock, True)
            return list(locks)
    for descriptor in locks.values():
        os.close(descriptor)
    return []


def leased_cpus() -> int:
    """How many processes of this machine have leased a slot of its CPU now."""
    count = 0
    for file in lease_folder().glob("cpu*.lock"):
        with file.open() as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                count += 1
    return count


def die_with_parent(parent: int = 0) -> None:
    """Ask the kernel for SIGTERM when the parent dies, so that a killed run leaves no orphan on the device (Linux).

    GrokoraError if the process `parent` was dead before the kernel was asked.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if parent and os.getppid() != parent:
            raise GrokoraError("The step that asked for a device is gone.")


def main(argv: Sequence[str] | None = None) -> int:
    """Take the lease and replace this process by the command."""
    parser = argparse.ArgumentParser(description="Lease devices, then become the command.")
    parser.add_argument("--count", type=int, default=1, help="how many devices the command needs")
    parser.add_argument("--parent", type=int, default=0, help="the process that starts this, whose end is its end")
    parser.add_argument("--stamp", type=Path, help="a file to touch when the devices are leased")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args(argv)
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        parser.error("a command is needed after --")
    try:
        die_with_parent(arguments.parent)
        # not the settings: whoever starts this has them, and the folder of somebody's own Dagster is no project of ours
        devices = discover_devices(os.environ.get("GROKORA_DEVICES", ""))
        on_cpu = devices[0].startswith("cpu")
        count, folder = 1 if on_cpu else arguments.count, lease_folder()
        if count > len(devices):
            raise GrokoraError(
                f"{count} GPUs are asked for, but this machine offers {len(devices)}; lower grokora/gpus."
            )
        while not (leased := acquire(devices, count, folder)):
            time.sleep(_POLL_SECONDS)
    except (GrokoraError, OSError) as error:  # such as a disk that takes no lock file
        print(f"error: {disk_refusal(error) or error}", file=sys.stderr)
        return 2
    if arguments.stamp:
        arguments.stamp.touch()
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if on_cpu else ",".join(leased)
    os.environ.update({**PASSIVE_THREADS, **os.environ})
    return os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
