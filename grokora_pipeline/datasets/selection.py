"""Which turns may be learnt. Selection is a view: every turn stays in `session_logs`, and every refusal is counted."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grokora_pipeline.sessions.turns import TurnRow

Reason = Literal[
    "forgotten",
    "failed_step",
    "low_rating",
    "failed_without_blame",
    "blamed_agent",
    "at_or_after_blamed_step",
    "unknown_outcome",
    "reconstructed",
    "incomplete_prompt",
]


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """What goes into a dataset. The defaults are the ones the README explains."""

    unknown_outcome: Literal["tool_calls", "all", "none"] = "tool_calls"
    min_rating: int = 4
    reconstructed: bool = True
    max_weight: int = 3  # copies of one example count at most this often
    near_duplicate: float = 0.9  # Jaccard similarity from which two examples are near duplicates
    max_per_session: int = 100
    max_per_source: int = 100
    max_source_share: float = 0.05
    forgotten: tuple[str, ...] = ()  # session ids and source files


@dataclass(frozen=True, slots=True)
class Blame:
    """The first step of a session that is known to have gone wrong, and who took it."""

    step: int
    agents: frozenset[str]


def blames(turns: Iterable[Mapping[str, Any]]) -> dict[str, Blame]:
    """The blame of each session, from its turns of all agents (session_id, step, agent, blamed)."""
    found: dict[str, list[tuple[int, str]]] = {}
    for turn in turns:
        if turn["blamed"]:
            found.setdefault(turn["session_id"], []).append((turn["step"], turn["agent"] or ""))
    return {
        session: Blame(min(step for step, _ in steps), frozenset(agent for _, agent in steps))
        for session, steps in found.items()
    }


def refuse(turn: TurnRow, blame: Blame | None, options: DatasetOptions) -> Reason | None:
    """Why a turn may not be learnt; None if it may."""
    if _is_forgotten(turn, options.forgotten):
        return "forgotten"
    if turn["step_failed"]:
        return "failed_step"
    rating = turn["rating"]
    if rating is not None and rating < options.min_rating:
        return "low_rating"
    if turn["completeness"] not in ("whole", "reconstructed"):
        return "incomplete_prompt"
    if turn["completeness"] == "reconstructed" and not options.reconstructed:
        return "reconstructed"
    if turn["status"] == "failure":
        return _refuse_failed(turn, blame)
    if turn["status"] == "success" or rating is not None or options.unknown_outcome == "all":
        return None
    called_a_tool = options.unknown_outcome == "tool_calls" and '"tool_calls":[{' in turn["completion"]
    return None if called_a_tool else "unknown_outcome"


def _is_forgotten(turn: TurnRow, forgotten: Sequence[str]) -> bool:
    return turn["session_id"] in forgotten or turn["source_file"] in forgotten


def _refuse_failed(turn: TurnRow, blame: Blame | None) -> Reason | None:
    """Of a failed session, only what others did before the step that is known to have gone wrong."""
    if blame is None:
        return "failed_without_blame"
    if turn["agent"] in blame.agents:
        return "blamed_agent"
    return "at_or_after_blamed_step" if turn["step"] >= blame.step else None
