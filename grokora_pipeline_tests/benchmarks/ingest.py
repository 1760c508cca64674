"""How fast logs become turns: generates recordings, ingests them, and prints one JSON line.

    python -m grokora_pipeline_tests.benchmarks.ingest [TURNS] [--workers N] [--profile]
    python -m grokora_pipeline_tests.benchmarks.ingest --files N
    python -m grokora_pipeline_tests.benchmarks.ingest --like FOLDER [--megabytes N]

The logs: sessions of ten turns in one file each, over ten days, about 4 kB a turn; one turn in fifty holds a secret or
an address. `mb_per_second` is of the first ingest, start of the processes included; `orjson_mb_per_second` is bare
`orjson.loads` over the same lines in one process of the same run. With `--files` it measures what an idle tick costs:
N small files, the listing that the sensor compares (`listing_seconds`), and an ingest that finds nothing new
(`rerun_seconds`). With `--like` the logs are varied copies of the session files (JSONL) below FOLDER, those of coding
agents, for example: other ids, other words, every seventh one ten times as long. `processes_pss_mib` is the largest sum
over all processes at one moment, a page that several share counted once (PSS; Linux only), sampled twice a second.
"""

import argparse
import cProfile
import hashlib
import pstats
import random
import re
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import psutil

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.sessions.ingest import IngestReport, ingest
from grokora_pipeline.sessions.scan import manifest
from grokora_pipeline.store import content_version

STEPS = 10
AGENTS = tuple(AgentSpec(name=name, description=name) for name in ("coordinator", "observer", "actor", "validator"))
TEXT = (
    "window button report folder invoice terminal browser clipboard settings notes vault picture scroll press type "
    "open close move copy the a of into under beside screen shows task field menu line column page result after before"
)
WORDS = TEXT.split()
IDS = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?:(?<=msg_|req_)|(?<=call_)|(?<=toolu_))[A-Za-z0-9]{8,}"
)
VARIED = re.compile(r"\b(?:button|file|minutes|session|state|timer|user|value)\b", re.IGNORECASE)
PLANTED = (
    "AWS_ACCESS_KEY_ID=AKIA{0}",
    "password: {0}x!9",
    "mail {0}@example.org",
    "Authorization: Bearer {0}{0}",
    "postgres://app:{0}@db.example.org/x",
)


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("turns", type=int, nargs="?", default=100_000)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--profile", action="store_true", help="run in one process and print where the time goes")
    parser.add_argument("--files", type=int, default=0, help="measure an idle tick over so many files instead")
    parser.add_argument("--like", type=Path, help="a folder of session files that are varied instead")
    parser.add_argument("--megabytes", type=int, default=1_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="grokora-ingest-") as name:
        result = (
            measure_files(Path(name), arguments.files)
            if arguments.files
            else measure_copies(Path(name), arguments.like, arguments.megabytes, arguments.workers)
            if arguments.like
            else measure(Path(name), arguments.turns, 1 if arguments.profile else arguments.workers, arguments.profile)
        )
    print(orjson.dumps(result).decode())


def measure(root: Path, turns: int, workers: int | None, profile: bool) -> dict[str, Any]:
    """All figures of one size; times in seconds, memory in MiB."""
    logs = root / "logs"
    size = write_logs(logs, turns)
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    seconds, report, first = timed(logs, None, root / "first", workers)
    profiler.disable()
    rerun_seconds, again, second = timed(logs, first, root / "second", workers)
    write_session(logs, "one-new-session", 5, random.Random(0))
    new_seconds, added, _ = timed(logs, second, root / "third", workers)
    if report.turns != turns or again.version != report.version or added.turns != turns + STEPS:
        raise AssertionError(f"wrong counts: {report.turns}, {again.turns}, {added.turns}")
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    return {
        "turns": turns,
        "seconds": round(seconds, 2),
        "megabytes": round(size / 1e6, 1),
        "mb_per_second": round(size / 1e6 / seconds, 1),
        "orjson_mb_per_second": round(size / 1e6 / orjson_seconds(logs), 1),
        "peak_rss_mib": round(peak_rss_mib(), 1),
        "rerun_seconds": round(rerun_seconds, 2),
        "one_new_session_seconds": round(new_seconds, 2),
        "turns_per_second": round(turns / seconds),
        "redactions": sum(report.redactions.values()),
        "files": report.files,
        "workers": workers or "auto",
    }


def measure_files(root: Path, files: int) -> dict[str, Any]:
    """What an idle tick costs over so many files; times in seconds."""
    for number in range(files):
        path = root / "logs" / f"{number % 200:03d}" / f"monitoring_{number}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"[2026-03-01 08:00:00] Monitoring started\n")
    start = time.perf_counter()
    content_version(manifest(root / "logs"))
    listing = time.perf_counter() - start
    first_seconds, _, first = timed(root / "logs", None, root / "first", None)
    rerun_seconds, again, _ = timed(root / "logs", first, root / "second", None)
    if again.files_read:
        raise AssertionError(f"{again.files_read} files were read again")
    return {
        "files": files,
        "seconds": round(first_seconds, 2),
        "listing_seconds": round(listing, 2),
        "rerun_seconds": round(rerun_seconds, 2),
    }


def measure_copies(root: Path, originals: Path, megabytes: int, workers: int | None) -> dict[str, Any]:
    """What so many megabytes of sessions cost that are like some samples; times in seconds, memory in MiB."""
    texts = [path.read_text("utf-8") for path in sorted(originals.rglob("*.jsonl"))]
    size = 0
    for number in count():
        for sample, text in enumerate(texts):
            path = root / "logs" / f"{number % 100:02d}" / f"session-{number}-{sample}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            copies = [varied(text, f"{number}-{copy}") for copy in range(1 if number % 7 else 10)]
            for place in range(1, len(copies)):  # a session that goes on where the copy before it ended
                last = re.findall(r'"uuid": ?"([^"]+)"', copies[place - 1])[-1:]
                copies[place] = re.sub(
                    r'"parentUuid": ?null', f'"parentUuid":"{"".join(last)}"', copies[place], count=1
                )
            size += path.write_bytes("".join(copies).encode())
        if size >= megabytes * 1e6:
            break
    generated = time.process_time()
    samples: list[float] = []
    ended = threading.Event()
    sampler = threading.Thread(target=sample_memory, args=(samples, ended))
    sampler.start()
    seconds, report, first = timed(root / "logs", None, root / "first", workers)
    ended.set()
    sampler.join()
    rerun_seconds, again, _ = timed(root / "logs", first, root / "second", workers)
    if again.files_read:
        raise AssertionError(f"{again.files_read} files were read again")
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "megabytes": round(size / 1e6),
        "files": report.files,
        "turns": report.turns,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in used) - generated, 1),
        "peak_rss_mib": round(peak_rss_mib(), 1),
        "processes_pss_mib": round(max(samples), 1),
        "worker_rss_mib": round(used[1].ru_maxrss / 1024, 1),
        "rerun_seconds": round(rerun_seconds, 2),
        "skipped": report.skipped,
    }


def varied(text: str, name: str) -> str:
    """The same session with ids of its own, and a number behind every third of some words."""
    places, mark = count(), hashlib.sha256(name.encode()).hexdigest()[:4]
    text = IDS.sub(lambda match: _like(match[0], hashlib.sha256(f"{name}{match[0]}".encode()).hexdigest()), text)
    return VARIED.sub(lambda match: match[0] if next(places) % 3 else f"{match[0]}_{mark}", text)


def _like(old: str, digits: str) -> str:
    """The digits as an id of the same form: with the dashes of a UUID, if it is one."""
    new = iter(digits)
    return "".join("-" if letter == "-" else next(new) for letter in old[:64])


def timed(logs: Path, previous: Path | None, output: Path, workers: int | None) -> tuple[float, IngestReport, Path]:
    """One ingest and how long it took."""
    output.mkdir()
    start = time.perf_counter()
    report = ingest(logs, AGENTS, previous, output, settle_seconds=0, workers=workers)
    return time.perf_counter() - start, report, output


def orjson_seconds(logs: Path) -> float:
    """Bare parsing of the same lines, reading not counted."""
    seconds = 0.0
    for path in sorted(logs.rglob("*.jsonl")):
        lines = path.read_bytes().splitlines()
        start = time.perf_counter()
        for line in lines:
            orjson.loads(line)
        seconds += time.perf_counter() - start
    return seconds


def peak_rss_mib() -> float:
    """The largest resident set of this process or of one of its children (ru_maxrss is in KiB on Linux)."""
    whos = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in whos) / 1024


def sample_memory(samples: list[float], ended: threading.Event) -> None:
    """Add the proportional set size (MiB) of this process and all below it, twice a second until `ended`."""
    own = psutil.Process()
    while not ended.wait(0.5):
        total = 0
        for process in (own, *own.children(recursive=True)):
            with suppress(psutil.Error, OSError):  # it has ended since it was listed
                total += process.memory_full_info().pss
        samples.append(total / (1 << 20))


def write_logs(logs: Path, turns: int) -> int:
    """Sessions of ten turns, spread over ten days; returns the bytes written."""
    generator = random.Random(7)
    sessions = turns // STEPS
    return sum(
        write_session(logs, f"session-{number:06d}", 1 + number * 10 // sessions, generator)
        for number in range(sessions)
    )


def write_session(logs: Path, name: str, day: int, generator: random.Random) -> int:
    """One recording; returns its size."""
    path = logs / f"2026-03-{day:02d}" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(orjson.dumps(call, option=orjson.OPT_APPEND_NEWLINE) for call in calls(name, day, generator))
    path.write_bytes(data + orjson.dumps({"session_id": name, "outcome": {"status": "success", "rating": 5}}) + b"\n")
    return len(data)


def calls(name: str, day: int, generator: random.Random) -> Iterator[dict[str, Any]]:
    """The calls of a session, about 4 kB each: a fixed system prompt, a changing screen, an answer in JSON."""
    for step in range(STEPS):
        screen = " ".join(generator.choices(WORDS, k=520)) + f" at ({step * 31}, {generator.randrange(1080)})"
        if generator.random() < 0.02:
            token = f"{generator.getrandbits(80):016X}"[:16].replace("0", "Q")
            screen += "\n" + generator.choice(PLANTED).format(token)
        agent = AGENTS[step % len(AGENTS)].name
        messages = [{"role": "system", "content": f"You are the {agent}. " + "Answer in JSON. " * 12}]
        messages.append({"role": "user", "content": screen})
        answer = {"element": generator.choice(WORDS), "x": generator.randrange(1920), "note": screen[:300]}
        yield {
            "session_id": name,
            "agent": agent,
            "step": step,
            "started_at": f"2026-03-{day:02d}T10:{step:02d}:00+00:00",
            "request": {"model": "base", "messages": messages, "temperature": 0.7},
            "response": {"choices": [{"message": {"role": "assistant", "content": orjson.dumps(answer).decode()}}]},
        }


if __name__ == "__main__":
    main()
