"""The secrets that redaction took out of the training data, found again in the logs, to be looked for in the adapter.

They live in this process's memory alone: the report names their kind and how exposed they are, never the text.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from grokora_pipeline.datasets.example import ExampleLine
from grokora_pipeline.evaluation.plan import Canary
from grokora_pipeline.models.messages import canonical
from grokora_pipeline.sessions.redaction import detectors

PREFIX_CHARS = 80  # of the text before a placeholder, which is what training taught the adapter to go on from
LENGTHS = range(6, 65)  # characters of a secret that can be ranked; guessing a shorter one proves nothing
MOST_FILES, MOST_BYTES = 200, 4 << 20
_PERSONAL = {detector.kind for detector in detectors.PERSONAL}


def redacted_canaries(logs: Path, examples: Sequence[ExampleLine], count: int, seed: int) -> list[Canary]:
    """At most `count` secrets that the training examples' log files hold and the examples do not, drawn by the seed;
    personal data, which is less random, only if secrets are too few."""
    texts: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        text = "\n".join(canonical(message) for message in [*example["completion"], *example["prompt"]])
        if detectors.PLACEHOLDER.search(text):
            texts[str(example["meta"].get("source_file", ""))].append(text)
    by_secret: dict[str, Canary] = {}
    for name in sorted(texts)[:MOST_FILES] if count else ():
        for canary in _in_file(logs, name, "\n".join(texts[name])):
            by_secret.setdefault(canary.secret, canary)

    def order(canary: Canary) -> tuple[bool, bytes]:
        """The order in which secrets are taken: personal data last, the others as the seed shuffles them."""
        return canary.kind in _PERSONAL, hashlib.sha256(f"{seed}:{canary.secret}".encode()).digest()

    return sorted(by_secret.values(), key=order)[:count]


def _in_file(logs: Path, name: str, redacted: str) -> Iterator[Canary]:
    """The secrets of one log file whose kind has a placeholder in the redacted text."""
    path = (logs / name).resolve()
    if not (name and path.is_relative_to(logs.resolve()) and path.is_file() and path.stat().st_size <= MOST_BYTES):
        return
    raw = path.read_text(encoding="utf-8", errors="replace")
    for detector in detectors.candidates(raw):
        start = redacted.find(f"<{detector.family}:{detector.kind}:")
        for match in detectors.matches(detector, raw) if start >= 0 else ():
            secret = match.group(detector.group)
            # a secret with a backslash is cut by JSON's escapes; one that is still there was not redacted
            rankable = len(secret or "") in LENGTHS and "\\" not in secret and secret not in redacted
            if rankable and (not detector.accept or detector.accept(match)):
                yield Canary(prefix=redacted[max(0, start - PREFIX_CHARS) : start], secret=secret, kind=detector.kind)


def scrubbed(rows: Sequence[dict[str, Any]], canaries: Sequence[Canary]) -> list[dict[str, Any]]:
    """Rows of predictions.jsonl without the canaries that came out: they are counted, but stored nowhere."""
    return [_scrub(row, canaries) if any(canary.secret in row["text"] for canary in canaries) else row for row in rows]


def _scrub(value: Any, canaries: Sequence[Canary]) -> Any:
    if isinstance(value, str):
        for canary in canaries:
            value = value.replace(canary.secret, f"<LEAKED:{canary.kind}>")
        return value
    if isinstance(value, dict):
        return {name: _scrub(item, canaries) for name, item in value.items()}
    return [_scrub(item, canaries) for item in value] if isinstance(value, list) else value
