"""A second look at what was stored, by an engine that shares nothing with our redaction: MongoDB's Kingfisher.

Its several hundred rules name the provider of a credential and ask for its exact form, so that a hit is worth stopping
for. It runs offline; credentials are never tried out.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from grokora_pipeline.sessions.redaction.detectors import PLACEHOLDER
from grokora_pipeline.sessions.table import read_rows

_COLUMNS = ["turn_id", "source_file", "line", "session_id", "task", "prompt", "tools", "completion"]


@cache
def _scanner() -> Any:
    from kingfisher_sdk import Rules, Scanner

    return Scanner(Rules(cache=False, confidence="medium"), redact=True)


def surviving_secrets(session_logs: Path, days: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Secrets in a published `session_logs` folder: turn_id, source_file, line and the rule's name, never the secret.

    `days` limits the look to days that were rebuilt. Takes about three seconds to start, then some 100 MB/s.
    """
    for turn in read_rows(session_logs, _COLUMNS, days):
        texts = [str(value or "") for name, value in turn.items() if name in _COLUMNS[2:]]
        text = PLACEHOLDER.sub("", "\n".join(texts))
        for finding in _scanner().scan(text.encode("utf-8", "surrogatepass")):
            if finding.visible:
                where = {"turn_id": turn["turn_id"], "source_file": turn["source_file"], "line": turn["line"]}
                yield {**where, "rule": finding.rule_name}
