"""Which turns may be learnt. Selection is a view: every turn stays in `session_logs`, and every refusal is counted."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from grokora_pipeline.agents import AgentSpec, LearnFrom, Teachers, UnknownBlame, UnknownOutcome
from grokora_pipeline.sessions.turns import TurnRow

Reason = Literal[
    "forgotten",
    "refused_teacher",
    "failed_step",
    "low_rating",
    "failed_without_blame",
    "blamed_agent",
    "at_or_after_blamed_step",
    "unknown_outcome",
    "reconstructed",
    "incomplete_prompt",
]
_OF_AGENT = {name: field.default for name, field in AgentSpec.model_fields.items()}  # what agents.yaml may set, too
_LATER = ("learn_from", "unknown_blame", "replay")  # options that came after the first stores
_OWN = re.compile(r"base|[a-z][a-z0-9_]*@(prompt-)?[0-9a-f]{16}")  # as the gateway calls who answered, in recordings


class DatasetOptions(BaseModel):
    """What goes into a dataset: the one place of these defaults. Dagster's launchpad is made from this model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learn_from: LearnFrom = Field(
        default=_OF_AGENT["learn_from"],
        description="Beside successes: steps of failed sessions before the blamed one (failures, and the two that "
        "follow), rated answers (ratings: KTO), pairs of a better and a worse answer (preferences: DPO).",
    )
    unknown_blame: UnknownBlame = Field(
        default=_OF_AGENT["unknown_blame"],
        description="Which steps of a failed session are learnt if nobody is blamed, with learn_from.",
    )
    unknown_outcome: UnknownOutcome = Field(
        default=_OF_AGENT["unknown_outcome"],
        description="Which turns of sessions with an unknown outcome are learnt.",
    )
    min_rating: int = Field(
        default=4,
        ge=1,
        le=5,
        description="Rated lower, a session is not learnt; with learn_from, the steps before a blamed one are.",
    )
    reconstructed: bool = Field(default=True, description="Learn prompts that were rebuilt from several log lines.")
    max_weight: int = Field(default=3, ge=1, description="Copies of one example count at most this often.")
    near_duplicate: float = Field(
        default=0.9, gt=0, le=1, description="Jaccard similarity from which two examples are near duplicates."
    )
    max_per_session: int = Field(default=100, ge=1, description="Examples of one session at most.")
    max_per_task: int = Field(default=1000, ge=1, description="Examples of one task at most.")
    max_session_share: float = Field(
        default=0.05, gt=0, le=1, description="Share of all weight that one session may hold, from 20 sessions on."
    )
    replay: float = Field(
        default=_OF_AGENT["replay"],
        ge=0,
        le=1,
        description="At most this share more: examples of earlier datasets whose logs are gone. It takes those alone "
        "that were made with replay on, and none that was forgotten since.",
    )

    def inputs(self) -> dict[str, Any]:
        """What decides a dataset's content. Options that older stores did not know count only if they were changed."""
        return self.model_dump(exclude={name for name in _LATER if getattr(self, name) == _OF_AGENT[name]})


@dataclass(frozen=True, slots=True)
class Blame:
    """The first step of a session that is known to have gone wrong, and who took it."""

    step: int
    agents: frozenset[str]


def blames(turns: Iterable[Mapping[str, Any]]) -> dict[str, Blame]:
    """The blame of each session, from its turns of all agents (session_id, step, agent, blamed)."""
    blamed: dict[str, list[tuple[int, str]]] = {}
    for turn in turns:
        if turn["blamed"]:
            blamed.setdefault(turn["session_id"], []).append((turn["step"], turn["agent"] or ""))
    return {
        session: Blame(min(step for step, _ in steps), frozenset(agent for _, agent in steps))
        for session, steps in blamed.items()
    }


def in_file(session: str, file: str) -> str:
    """The entry of the forget list for a session's id in one log file."""
    return f"{session} in {file}"


def forget_names(session: str, files: Sequence[str], sha256: str) -> set[str]:
    """The entries of the forget list that would take out a turn which stands in these log files."""
    # `id~1a2b3c4d` is the name of one of several sessions with an id, as long as there are several
    ids = (session, session.rpartition("~")[0])
    return {session, *files, f"sha256:{sha256}", *(in_file(one, file) for one in ids for file in files)}


def refuse(
    turn: TurnRow,
    blame: Blame | None,
    options: DatasetOptions,
    *,
    teachers: Teachers | None = None,
    forgotten: Collection[str] = (),
    last_step: int = 0,
) -> Reason | None:
    """Why a turn may not be learnt; None if it may. `last_step` is its session's, of all agents.

    `forgotten` holds session ids, log files and their `lineage.other_names`. `teachers` says whose answers are learnt.
    """
    files = [turn["source_file"], *turn["copies"]]
    if forgotten and not forget_names(turn["session_id"], files, turn["source_sha256"]).isdisjoint(forgotten):
        return "forgotten"
    if teachers is not None and not teachers.accepts(turn["model"]):
        return "refused_teacher"
    if turn["step_failed"]:
        return "failed_step"
    rating = turn["rating"]
    low = rating is not None and rating < options.min_rating
    # A rating is of a whole session: if somebody is blamed for it, it says nothing against the steps before.
    if low and (blame is None or options.learn_from == "successes"):
        return "low_rating"
    if reason := refuse_prompt(turn, options):
        return reason
    if turn["status"] == "failure" or low:
        return _refuse_of_failure(turn, blame, options, last_step)
    if turn["status"] == "success" or rating is not None or options.unknown_outcome == "all":
        return None
    called_a_tool = options.unknown_outcome == "tool_calls" and '"tool_calls":[{' in turn["completion"]
    # From an answer of its own that nobody praised a model learns nothing; held out, its writer would always be right.
    return None if called_a_tool and not _OWN.fullmatch(turn["model"] or "") else "unknown_outcome"


def refuse_prompt(turn: TurnRow, options: DatasetOptions) -> Reason | None:
    """Why nothing can be learnt behind a turn's prompt, be its answer good or bad; None if it can."""
    if turn["completeness"] not in ("whole", "reconstructed") or turn["prompt"] == "[]":
        return "incomplete_prompt"
    return "reconstructed" if turn["completeness"] == "reconstructed" and not options.reconstructed else None


def _refuse_of_failure(turn: TurnRow, blame: Blame | None, options: DatasetOptions, last_step: int) -> Reason | None:
    """Of a failed session, only what came before the step that went wrong; by default not the blamed agent's steps.

    The blamed step and what follows it have no rows of their own: they are seen only as context of later prompts.
    """
    more = options.learn_from != "successes"
    if blame is None:
        first_half = options.unknown_blame == "first_half" and 2 * turn["step"] < last_step
        return None if more and (first_half or options.unknown_blame == "all") else "failed_without_blame"
    if turn["agent"] in blame.agents and not more:
        return "blamed_agent"
    return "at_or_after_blamed_step" if turn["step"] >= blame.step else None
