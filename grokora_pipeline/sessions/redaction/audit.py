"""A second look at what was stored: the published rules once more, over every text of every turn.

Redaction replaces whatever these rules find, hence a finding means that it was left out or that it failed.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from grokora_pipeline.sessions.redaction.detection import scan
from grokora_pipeline.sessions.redaction.published import in_text
from grokora_pipeline.sessions.redaction.structure import walk
from grokora_pipeline.sessions.table import read_rows

_COLUMNS = ["turn_id", "source_file", "line", "session_id", "task", "prompt", "tools", "completion"]


def surviving_secrets(session_logs: Path, days: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Secrets in a published `session_logs` folder: turn_id, source_file, line and the rule's name, never the secret.

    `days` limits the look to days that were rebuilt. Takes up to four seconds to start, then some 100 MB/s.
    """
    for turn in read_rows(session_logs, _COLUMNS, days):
        rules: list[str] = []

        def look(text: str, _name: str, _depth: int, rules: list[str] = rules) -> str:
            """Note what is found in a text; the text stays as it is."""
            rules += (finding.rule for finding in in_text(text))
            return text

        columns = (turn["prompt"], turn["tools"] or "null", turn["completion"])
        walk([turn["session_id"], turn["task"], *map(orjson.loads, columns)], look)
        where = {"turn_id": turn["turn_id"], "source_file": turn["source_file"], "line": turn["line"]}
        yield from ({**where, "rule": rule} for rule in rules)


def kinds_in(value: Any) -> list[str]:
    """The kinds of what redaction, run over a JSON-like value once more, would still replace in it.

    Placeholders are no findings, so a value that was redacted by the same rules gives none.
    """
    kinds: list[str] = []

    def look(text: str, name: str, _depth: int) -> str:
        """Note what is found in a text; the text stays as it is."""
        kinds.extend(piece.kind for piece in scan(text, name) if not isinstance(piece, str) and piece.family)
        return text

    walk(value, look)
    return kinds
