"""An agent whose answer is code: a request about the files of a vault, answered by one shell command.

An answer is judged by running it in the sandbox's own shell (`Vault.run`, in memory: nothing of the machine is touched)
beside the expected one: `same_effect`, the metric `code_runs`. `python -m grokora_pipeline.sandbox.coder FOLDER` writes
recordings to learn from; `data/agents.coder.yaml` is the agent.
"""

import json
import random
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from grokora_pipeline.sandbox.vault import Vault

AGENT = "coder"
FILES = {
    "notes.txt": "buy milk\ncall Ada\nerror: disk full\nfix the roof\n",
    "report.md": "# Report\nsales rose\ncosts fell\nerror: none\n",
    "todo.txt": "water plants\npay rent\nsort papers\n",
    "draft.md": "# Draft\nfirst line\nsecond line\n",
    "data/scores.csv": "ada,3\nbob,1\ncarol,2\n",
    "data/names.csv": "zoe\nadam\nmia\n",
    "old/log.txt": "started\nerror: timeout\nerror: retry\nstopped\n",
}
FOLDERS = ("data", "old", "archive")
SYSTEM = (
    "You are the coder of the Grokputer vault. Answer with one shell command in a code block.\nFiles: "
    + ", ".join(FILES)
    + "\nFolders: "
    + ", ".join(FOLDERS)
)
# (wordings of a request, the command); {file}, {folder}, {word}, {name} and {n} are drawn
TASKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Copy {file} into {folder}.", "Put a copy of {file} into {folder}."), "cp {file} {folder}/"),
    (("Move {file} to {folder}.", "{file} belongs into {folder}."), "mv {file} {folder}/"),
    (("Rename {file} to {name}.", "Call {file} {name} from now on."), "mv {file} {name}"),
    (("How many lines has {file}?", "Count the lines of {file}."), "wc -l {file}"),
    (("How many words are in {file}?", "Count the words of {file}."), "wc -w {file}"),
    (("Show the first {n} lines of {file}.", "What are the top {n} lines of {file}?"), "head -n {n} {file}"),
    (("Show the last {n} lines of {file}.", "What does {file} end with? {n} lines."), "tail -n {n} {file}"),
    (("Which lines of {file} say {word}?", "Find {word} in {file}."), "grep {word} {file}"),
    (("How many lines of {file} say {word}?", "Count {word} in {file}, by lines."), "grep -c {word} {file}"),
    (("Show {file} sorted.", "Sort the lines of {file}."), "sort {file}"),
    (("Write {file}, sorted, to {name}.", "{name} shall be {file} in order."), "sort {file} > {name}"),
    (("Append {word} to {file}.", "Add a line to {file}: {word}."), "echo {word} >> {file}"),
    (("Make a folder {word}.", "I need a new folder {word}."), "mkdir {word}"),
    (("Delete {file}.", "{file} can go."), "rm {file}"),
)
_FENCE = re.compile(r"```(?:bash|sh|shell)?[ \t]*\n(.*?)\n?```", re.DOTALL)


def same_effect(answer: str, expected: str) -> bool | None:
    """Whether an answer leaves the same files and prints the same as the expected one; None if that one fails here.

    Each is run in a fresh vault. The order in which files changed does not count. The command of an answer is its first
    fenced block, if it has one, else all of it.
    """
    effects = []
    for text in (expected, answer):
        vault, fenced = Vault(dict(FILES), set(FOLDERS)), _FENCE.search(text)
        shell = vault.run((fenced.group(1) if fenced else text).strip())
        effects.append((shell.returncode, shell.stdout, vault.files, vault.folders))
    wanted, actual = effects
    return None if wanted[0] else actual == wanted


def requests(seed: int, count: int) -> list[tuple[str, str]]:
    """(request, command) pairs; every kind of task comes up equally often."""
    rng = random.Random(f"coder-{seed}")
    pairs = []
    for index in range(count):
        wordings, command = TASKS[index % len(TASKS)]
        words = rng.sample(["error", "line", "sales", "Ada", "sort", "plan", "ideas", "music", "photos", "taxes"], 1)
        slots = {"file": rng.choice(list(FILES)), "folder": rng.choice(FOLDERS), "word": words[0]}
        slots |= {"name": rng.choice(["final.txt", "new.md", "kept.txt", "copy.csv"]), "n": str(rng.randint(1, 3))}
        pairs.append((rng.choice(wordings).format(**slots), command.format(**slots)))
    return pairs


def record(root: Path, seed: int = 7, sessions: int = 400) -> int:
    """Write recordings of the coder below a folder, a session a request; returns how many. A seed has its bytes."""
    lines, now = list[str](), datetime(2025, 11, 3, 8, tzinfo=UTC)
    for index, (request, command) in enumerate(requests(seed, sessions)):
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": request}]
        answer = {"role": "assistant", "content": f"```bash\n{command}\n```"}
        line = {
            "session_id": f"coder-{seed}-{index:04d}",
            "agent": AGENT,
            "step": 0,
            "started_at": (now + timedelta(minutes=index)).isoformat(),
            "request": {"model": "scripted-expert", "messages": messages},
            "response": {"choices": [{"index": 0, "message": answer, "finish_reason": "stop"}]},
            "outcome": {"status": "success"},
        }
        lines.append(json.dumps(line) + "\n")
    folder = root / "recordings"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"coder-{seed}.jsonl").write_text("".join(lines), encoding="utf-8")
    return sessions


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m grokora_pipeline.sandbox.coder FOLDER")
    print(f"{record(Path(sys.argv[1]))} sessions are in {sys.argv[1]}/recordings.")
