"""Collaboration plans: Markdown files in which Claude and Grok answered one task in rounds.

Only round 1 is honest: in later rounds neither saw the other's text and both refer to it. The file joins the rounds by
a blank line without a mark; the plan above repeats each side's last round, which separates two rounds exactly.
"""

import re
from collections.abc import Iterator

from grokora_pipeline.sessions.readers.common import Source, assistant, decode, to_utc, user
from grokora_pipeline.sessions.turns import Item, Skipped, Turn

_HEADER = re.compile(r"^\*\*(Generated|Correlation ID|Rounds)\*\*: *(.+?) *$", re.MULTILINE)
_TASK = re.compile(r"^## Task Description\s*\n(.+?)\n+---", re.MULTILINE | re.DOTALL)
_ERROR = re.compile(r"\[Error: [^\]\n]*API failed[^\]\n]*\]")
_SIDES = ("Claude", "Grok")


def looks_like(head: bytes) -> bool:
    """Whether it starts as a collaboration plan."""
    return head.startswith(b"# Collaboration Plan") and b"**Correlation ID**" in head


def read(source: Source) -> Iterator[Item]:
    """At most one turn a side; a side whose first round cannot be told from the others is skipped."""
    text, problem = decode(source.read())
    if problem:
        yield problem
    text = text.replace("\r\n", "\n")
    header: dict[str, str] = dict(_HEADER.findall(text))
    task = _TASK.search(text)
    rounds = int(header["Rounds"]) if re.fullmatch("[0-9]{1,4}", header.get("Rounds", "")) else 0
    for number, side in enumerate(_SIDES):
        answer = _first_round(text, side, rounds)
        if not task or not answer:
            yield Skipped("round_not_separable")
            continue
        goal = task.group(1).strip()
        yield Turn(
            session_id=header.get("Correlation ID", source.name),
            agent=side.lower(),
            step=number,
            started_at=to_utc(header.get("Generated")),
            source_file=source.name,
            source_sha256=source.sha256,
            source_format=source.format,
            prompt=[user(f"**COORDINATOR** (Round 1):\n\n{goal}")],
            completion=assistant(answer),
            completeness="reconstructed",
            line=text[: text.find(answer)].count("\n") + 1,
            task=goal,
        )


def _first_round(text: str, side: str, rounds: int) -> str:
    """The side's first contribution, "" if it is an error line or not separable from the second."""
    spoken = _section(text, f"### {side}'s Contributions", ("### Grok's Contributions", "\n---\n\n## Metadata"))
    if _ERROR.match(spoken):
        return ""
    last = _section(
        text, f"### From {side}'s Perspective", ("### From Grok's Perspective", "### Next Steps\n1. Review both")
    )
    if rounds == 1:
        return _ERROR.sub("", spoken).strip()
    if rounds == 2 and last and spoken.endswith(last) and spoken != last:
        return _ERROR.sub("", spoken.removesuffix(last)).strip()
    heading = re.match(r"(#+ )", spoken)
    parts = re.split(rf"\n\n(?={heading.group(1)})", spoken) if heading else []
    return parts[0].strip() if parts and len(parts) == rounds else ""


def _section(text: str, start: str, ends: tuple[str, ...]) -> str:
    """The text between a heading and what follows it; "" without either: a file may end within an answer."""
    _, heading, rest = text.partition(f"{start}\n")
    if not heading:
        return ""
    stops = [stop for end in ends if end != start and (stop := rest.find(end)) >= 0]
    return rest[: min(stops, default=0)].strip()
