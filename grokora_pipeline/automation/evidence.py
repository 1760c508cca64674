"""Evidence for training an agent again, read from the store: its adapter against the examples that there are now."""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from math import exp
from pathlib import Path
from statistics import fmean

import orjson

from grokora_pipeline.agents import AgentSpec, RetrainPolicy
from grokora_pipeline.assets.common import read_json
from grokora_pipeline.datasets.example import read_examples
from grokora_pipeline.errors import counted
from grokora_pipeline.sessions.verdicts import read_turns
from grokora_pipeline.store import Artifact, Store
from grokora_pipeline.store.champions import Registry

Ratings = dict[str, list[tuple[str, int]]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One agent's adapter, its report and its champion against the present split; None if there is none."""

    split: str | None
    trained_on: str | None
    adapter: str | None
    trained_at: datetime | None
    base_changed: bool
    evaluated: bool  # the report is of this adapter
    report_current: bool  # and on the present split
    known: int  # examples that the adapter was trained on
    new: int  # distinct learnable examples that it was not
    new_held_out: int  # validation examples that there were not when it was trained
    ratings: tuple[int, ...]  # of the last rated sessions
    drift: float | None  # perplexity of the champion on new held-out rows / on the others

    @property
    def up_to_date(self) -> bool:
        """Whether there is nothing that the adapter could learn from."""
        return self.adapter is not None and self.trained_on == self.split and not self.base_changed


def gather(store: Store, agent: AgentSpec) -> Evidence:
    """The evidence of one agent; what it reads is kept by version, so that an idle tick costs a few small files."""
    name = agent.name
    links = ("tokenized_split", "lora_adapter", "eval_report")
    split, adapter, report = (store.current(f"{name}/{link}") for link in links)
    versions: dict[str, str] = adapter.read_json("training.json")["versions"] if adapter else {}
    trained_on = versions.get(f"{name}/tokenized_split")
    base = store.pointer("base_model", "current") or {}
    judged = report.read_json("report.json")["versions"] if report else {}
    logs, dataset = store.current("session_logs"), store.current(f"{name}/task_dataset")
    then = _folder(store, f"{name}/tokenized_split", trained_on)
    new, new_held_out, known = _news(dataset.path, split.path, then) if dataset and split else (0, 0, 0)
    rated = _ratings(logs.path).get(name, [])[-agent.retrain.rated_sessions :] if logs else []
    pointer = store.pointer(f"{name}/lora_adapter", "current") or {}
    return Evidence(
        split=split.version if split else None,
        trained_on=trained_on,
        adapter=adapter.version if adapter else None,
        trained_at=datetime.fromisoformat(pointer["at"]) if adapter else None,
        base_changed=adapter is not None and versions.get("base_model") != base.get("version"),
        evaluated=adapter is not None and judged.get("adapter") == adapter.version,
        report_current=split is not None and judged.get(f"{name}/tokenized_split") == split.version,
        known=known,
        new=new,
        new_held_out=new_held_out,
        ratings=tuple(rating for _, rating in rated),
        drift=_drift(store, name, report, agent.retrain.drift_rows),
    )


def reason_to_train(evidence: Evidence, policy: RetrainPolicy) -> str:
    """Why the agent is due, in a few words; empty if it is not."""
    if evidence.split is None or evidence.up_to_date:
        return ""
    if evidence.adapter is None:
        return f"never trained, {counted(evidence.new, 'example')}"
    if evidence.base_changed:
        return "the base model changed"
    if evidence.new >= policy.new_examples or 0 < policy.new_share * evidence.known <= evidence.new:
        return f"{counted(evidence.new, 'new example')} beside the {evidence.known} it learnt"
    if len(evidence.ratings) >= policy.min_ratings and fmean(evidence.ratings) < policy.rating_below:
        return f"mean rating {fmean(evidence.ratings):.2f} of the last {len(evidence.ratings)} rated sessions"
    if evidence.drift is not None and evidence.drift > policy.drift:
        return f"perplexity on new logs is {evidence.drift:.2f} times the old"
    return ""


def lacking(evidence: Evidence, policy: RetrainPolicy) -> str:
    """What an agent has and what it needs to be due, in words."""
    needed = min(policy.new_examples, max(1, int(-(-policy.new_share * evidence.known // 1))))
    rating = f"{fmean(evidence.ratings):.2f}" if evidence.ratings else "none"
    drift = f"{evidence.drift:.2f}" if evidence.drift is not None else "not measured"
    rated = counted(len(evidence.ratings), "session")
    return (
        f"{evidence.new} of {counted(needed, 'new example')}; mean rating {rating} ({rated}); perplexity drift {drift}"
    )


def _folder(store: Store, key: str, version: str | None) -> Path | None:
    """The folder of a published version on this machine; None if the store has it no more."""
    artifact = store.find(key, version) if version else None
    return artifact.path if artifact else None


def _sides(split: Path | None) -> dict[str, str]:
    """Side by example id of a published split."""
    return read_json(split / "examples.json") if split else {}


@lru_cache(maxsize=1024)  # published folders never change, so their paths say all
def _news(dataset: Path, now: Path, then: Path | None) -> tuple[int, int, int]:
    """(new training examples, new validation examples, examples trained on); near duplicates count once."""
    clusters = {example.id: str(example.meta["cluster"]) for example in read_examples(dataset)}
    old = _sides(then)
    learnt = {clusters[name] for name in old.keys() & clusters.keys()}
    new = {clusters[name]: side for name, side in _sides(now).items() if name in clusters.keys() - old.keys()}
    sides = [side for cluster, side in new.items() if cluster not in learnt]
    return sides.count("train"), sides.count("validation"), list(old.values()).count("train")


@lru_cache(maxsize=2)
def _ratings(logs: Path) -> Ratings:
    """(start, rating) of every rated session by the agents that took part in it, oldest first."""
    rated_sessions: dict[tuple[str, str], tuple[str, int]] = {}
    for turn in read_turns(logs, ["session_id", "agent", "started_at", "rating"]):
        if turn["agent"] and turn["rating"] is not None:
            rated_sessions[turn["agent"], turn["session_id"]] = (turn["started_at"], turn["rating"])
    ratings: Ratings = {}
    for (agent, _), rated in sorted(rated_sessions.items(), key=lambda item: item[1]):
        ratings.setdefault(agent, []).append(rated)
    return ratings


def _drift(store: Store, agent: str, report: Artifact | None, least: int) -> float | None:
    """Perplexity of the champion on held-out rows that are newer than it, over that on the others; None: unmeasured."""
    champion = Registry(store).in_service(agent)
    if report is None or champion is None:
        return None
    versions = report.read_json("report.json")["versions"]
    served = Registry(store).version(agent)  # a prompt's version, if one stands before the adapter
    system = {versions["champion"]: "champion", versions["adapter"]: "adapter"}.get(served)
    dataset = _folder(store, f"{agent}/task_dataset", versions.get(f"{agent}/task_dataset"))
    trained_on = champion.read_json("training.json")["versions"].get(f"{agent}/tokenized_split")
    then = _folder(store, f"{agent}/tokenized_split", trained_on)
    return _perplexity_ratio(report.path, dataset, then, system, least) if system and dataset and then else None


@lru_cache(maxsize=1024)
def _perplexity_ratio(report: Path, dataset: Path, then: Path, system: str, least: int) -> float | None:
    ids = {example.meta["turn_id"]: example.id for example in read_examples(dataset)}
    known = _sides(then).keys()
    rows = [orjson.loads(line) for line in (report / "predictions.jsonl").read_bytes().splitlines()]
    # in reports of before, a NaN of a broken adapter is null
    rows = [row for row in rows if row["system"] == system and row["nll"] is not None]
    new = [row for row in rows if ids.get(row["turn_id"]) not in known]
    old = [row for row in rows if ids.get(row["turn_id"]) in known]
    # the mean negative log-likelihood (nats) a token of the reference answers; perplexity is its exp
    nats = [
        sum(row["nll"] for row in some) / max(1, sum(row["reference_tokens"] for row in some)) for some in (new, old)
    ]
    return exp(nats[0] - nats[1]) if len(new) >= least and old else None
