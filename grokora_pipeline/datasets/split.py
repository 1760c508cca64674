"""Train and validation without leaks, and stable while logs grow, are redacted anew and are cut into other files.

Examples that share a session, a task or a near-duplicate cluster are tied and stay on one side. A side, once given, is
remembered by example, session and task and never changes. A new example that would tie both sides together is held
back; so is a training example if it turns out to touch validation. A cluster or task over so many examples that
validation would stay empty is divided, and the split says so.
"""

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import orjson
from pydantic import BaseModel, ConfigDict, Field

from grokora_pipeline.datasets.example import Example

Side = Literal["train", "validation"]
SIDES: tuple[Side, Side] = ("train", "validation")
Key = tuple[str, str]  # what examples share: ("session_id" | "task_key" | "cluster", its value)
STRETCH = 20  # steps: a divided session goes to both sides in stretches of this length, not step by step
ENOUGH = 0.5  # of the wanted validation share: below it, clusters and then tasks are divided
TOO_FEW = 0.1  # of the wanted validation share: below it, a session is divided


class SplitOptions(BaseModel):
    """How the examples are divided: the one place of these defaults. Dagster's launchpad is made from this model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation_share: float = Field(default=0.2, gt=0, lt=1, description="Share of the examples that is never trained.")
    seed: int = Field(default=7, description="Draws which new groups go to validation.")


@dataclass(slots=True)
class Assignment:
    """The sides that were ever given, and what was divided: the content of `assignment.json`."""

    examples: dict[str, Side] = field(default_factory=dict)  # by example id
    sessions: dict[str, Side] = field(default_factory=dict)  # by session id, or `id/stretch-n` of a divided one
    tasks: dict[str, Side] = field(default_factory=dict)  # by task key
    divided_sessions: list[str] = field(default_factory=list)
    divided_tasks: list[str] = field(default_factory=list)
    # A cluster has no name that lasts, so a divided one is known again by its members, or by their sessions where all
    # members have new ids.
    divided_members: list[str] = field(default_factory=list)
    divided_member_sessions: list[str] = field(default_factory=list)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Assignment":
        """Read `assignment.json`; an older store's is a mapping of example id to side."""
        if isinstance(document.get("examples"), dict):
            return cls(**document)
        return cls(examples={name: cast(Side, side) for name, side in document.items()})

    def side_of(self, example: Example) -> Side | None:
        """The side that an example, else its session, else its task was given before; None if none was."""
        session = session_key(example, self.divided_sessions)
        task = str(example.meta.get("task_key") or "")
        by_task = self.tasks.get(task) if task not in self.divided_tasks else None
        return self.examples.get(example.id) or self.sessions.get(session) or by_task

    def divided_clusters(self, examples: Iterable[Example]) -> set[str]:
        """The names of those clusters that were divided before: most of their known members were in a divided one."""
        members, sessions = set(self.divided_members), set(self.divided_member_sessions)
        votes: dict[str, Counter[tuple[bool, bool]]] = defaultdict(Counter)  # (known by id, was divided) by cluster
        for example in examples if members else ():
            if example.id in self.examples:
                votes[cluster_of(example)][True, example.id in members] += 1
            elif session_key(example, ()) in self.sessions:
                votes[cluster_of(example)][False, session_key(example, ()) in sessions] += 1
        return {
            name
            for name, vote in votes.items()
            if (vote[True, True] > vote[True, False])
            or (not vote[True, True] + vote[True, False] and vote[False, True] > vote[False, False])
        }


def read_assignment(split: Path) -> Assignment:
    """The assignment of a published split. An older store's knows no sessions: its rows tell their sides."""
    document = orjson.loads((split / "assignment.json").read_bytes())
    assignment = Assignment.from_json(document)
    if not assignment.sessions and (split / "dataset_dict.json").exists():
        from datasets import load_from_disk

        rows = load_from_disk(str(split))
        assignment.sessions = {session: side for side in SIDES for session in rows[side]["group"] if session}
    return assignment


@dataclass(slots=True)
class Split:
    """Where each example goes. What is not in `sides` is held back: it would tie the two sides together."""

    sides: dict[str, Side] = field(default_factory=dict)  # by example id
    groups: dict[str, str] = field(default_factory=dict)  # name of the tied group by example id
    held_back: list[str] = field(default_factory=list)  # example ids
    divided: list[str] = field(default_factory=list)  # what was divided, in words
    divided_keys: set[Key] = field(default_factory=set)
    assignment: Assignment = field(default_factory=Assignment)  # with the sides that were remembered before
    naive_leaks: dict[str, int] = field(default_factory=dict)  # what a split by rows would have leaked

    @property
    def validation_share(self) -> float:
        """Validation examples over all that have a side."""
        return Counter(self.sides.values())["validation"] / max(1, len(self.sides))


def split_examples(
    examples: Sequence[Example],
    options: SplitOptions,
    pairs: Iterable[tuple[str, str]],
    previous: Assignment | None = None,
) -> Split:
    """Give every example a side; examples that had one keep it.

    `pairs` are the example ids of near duplicates, as the dataset found them. The result depends on the examples and
    the seed, not on the examples' order.
    """
    previous = previous or Assignment()
    ordered = sorted(examples, key=lambda example: example.id)
    divided: set[Key] = {("session_id", name) for name in previous.divided_sessions}
    divided |= {("task_key", name) for name in previous.divided_tasks}
    divided |= {("cluster", name) for name in previous.divided_clusters(ordered)}
    placement = _Placement(ordered, previous, divided, options)
    rounds = 0
    while weakest := placement.weakest_keys(2**rounds):
        rounds += 1
        divided = divided | weakest
        placement = _Placement(ordered, previous, divided, options)
    placement.hold_back_near_duplicates(pairs)
    return placement.split()


def session_key(example: Example, divided: Iterable[str]) -> str:
    """The session's name in an assignment: its id, or `id/stretch-n` for the n-th stretch of a divided session."""
    session = str(example.meta.get("session_id") or "")
    return f"{session}/stretch-{int(example.meta.get('step') or 0) // STRETCH}" if session in divided else session


def cluster_of(example: Example) -> str:
    """The name of the example's near-duplicate cluster, "" if it has none."""
    return str(example.meta.get("cluster") or "")


class _Placement:
    """Sides for examples under one set of divided keys: disjoint sets of keys (union-find), each with a side or none.

    Remembered examples come first, validation before training, so that a training example that touches validation is
    the one that is held back; then the new ones by session. What touches no side is placed last, group by group.
    """

    def __init__(
        self, examples: Sequence[Example], previous: Assignment, divided: set[Key], options: SplitOptions
    ) -> None:
        self.examples, self.previous, self.divided = examples, previous, divided
        self.seed, self.share = options.seed, options.validation_share
        self.divided_sessions = {value for name, value in divided if name == "session_id"}
        self.held: set[str] = set()
        self._parents: dict[Key, Key] = {}
        self._root_sides: dict[Key, Side] = {}
        known = {example.id: previous.side_of(example) for example in examples}
        self.remembered = {name: side for name, side in known.items() if side}
        for side in reversed(SIDES):
            for example in examples:
                if self.remembered.get(example.id) == side:
                    self._insert(example, side)
        for example in sorted(examples, key=lambda one: (str(one.meta.get("session_id")), one.id)):
            if example.id not in self.remembered:
                self._insert(example, None)
        self.groups: dict[Key, list[Example]] = defaultdict(list)
        for example in examples:
            if example.id not in self.held:
                self.groups[self._find(self.keys(example)[0])].append(example)
        self.sides: dict[str, Side] = {
            example.id: self._root_sides[root]
            for root, group in self.groups.items()
            if root in self._root_sides
            for example in group
        }
        self._assign([group for root, group in self.groups.items() if root not in self._root_sides])

    def keys(self, example: Example) -> list[Key]:
        """What ties an example to others; the first key is always there."""
        session = session_key(example, self.divided_sessions)
        keys = [("session_id", session) if session else ("example", example.id)]
        others = [("task_key", str(example.meta.get("task_key") or "")), ("cluster", cluster_of(example))]
        return keys + [key for key in others if key[1] and key not in self.divided]

    def _find(self, key: Key) -> Key:
        parents = self._parents
        parents.setdefault(key, key)
        while parents[key] != key:
            parents[key] = key = parents[parents[key]]
        return key

    def _insert(self, example: Example, side: Side | None) -> None:
        keys = self.keys(example)
        if side:  # old examples of one cluster on two sides are compared pair by pair, later
            keys = [key for key in keys if key[0] != "cluster" or self._root_sides.get(self._find(key), side) == side]
        roots = [self._find(key) for key in keys]
        sides = {self._root_sides[root] for root in roots if root in self._root_sides} | ({side} if side else set())
        if len(sides) > 1:
            self.held.add(example.id)
            return
        for root in roots[1:]:
            self._parents[self._find(root)] = self._find(roots[0])
        if sides:
            self._root_sides[self._find(roots[0])] = sides.pop()

    def _assign(self, groups: Sequence[list[Example]]) -> None:
        """Sides for new groups, in the order of their seeded hash, so that each outcome has its share on both sides."""
        totals = Counter(example.meta["status"] for example in self.examples if example.id not in self.held)
        validation = Counter(
            example.meta["status"] for example in self.examples if self.sides.get(example.id) == "validation"
        )
        for group in sorted(groups, key=lambda one: seeded_hash(self.seed, one[0].id)):
            counts = Counter(example.meta["status"] for example in group)
            gaps = {outcome: self.share * totals[outcome] - validation[outcome] for outcome in counts}
            helps = sum(abs(gaps[name] - counts[name]) for name in counts) < sum(abs(gap) for gap in gaps.values())
            if helps:
                validation.update(counts)
            for example in group:
                self.sides[example.id] = "validation" if helps else "train"
        if len(groups) > 1 and len(set(self.sides.values())) == 1:  # neither side may be empty, however small the data
            missing: Side = "train" if "validation" in self.sides.values() else "validation"
            for example in min(groups, key=lambda one: (len(one), one[0].id)):
                self.sides[example.id] = missing

    def weakest_keys(self, count: int) -> set[Key]:
        """Up to `count` keys to divide next: the largest clusters of the largest group of new examples, else its tasks.

        Empty if validation has enough, or if dividing could not give it more. A session is divided last and only if
        validation would have next to nothing.
        """
        validation = Counter(self.sides.values())["validation"] / max(1, len(self.sides))
        if validation >= ENOUGH * self.share or len(self.sides) < 2 / self.share:  # so few cannot be measured anyway
            return set()
        new = {root: sum(one.id not in self.remembered for one in group) for root, group in self.groups.items()}
        for root in sorted(new, key=lambda one: (-new[one], self.groups[one][0].id)):
            if not new[root]:
                break
            group = self.groups[root]
            for kind in ("cluster", "task_key"):
                sessions: dict[Key, set[Key]] = defaultdict(set)
                sizes: Counter[Key] = Counter()
                for example in group:
                    keys = self.keys(example)
                    for key in keys[1:]:
                        if key[0] == kind:
                            sessions[key].add(keys[0])
                            sizes[key] += 1
                ties = [key for key in sizes if len(sessions[key]) > 1]
                if ties:
                    return set(sorted(ties, key=lambda key: (-sizes[key], key))[:count])
            session = str(group[0].meta.get("session_id") or "")
            stretches = {int(example.meta.get("step") or 0) // STRETCH for example in group}
            if validation < TOO_FEW * self.share and len(stretches) > 1 and session not in self.divided_sessions:
                return {("session_id", session)}
        return set()

    def hold_back_near_duplicates(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Of similar examples on different sides, hold back the new ones, and of those that are left few.

        Clusters do not chain, so two rows may be alike in different clusters; a model that trained on the one would be
        measured on the other. The example that is like most of the other side goes first, since it alone may cost them
        all; one of validation counts as much as its share is smaller. Of two old ones training's is held back.
        """
        by_id = {example.id: example for example in self.examples}
        across: dict[str, set[str]] = defaultdict(set)
        for pair in pairs:
            apart = len({self.sides.get(name, "") for name in pair} & set(SIDES)) == 2
            if apart and not any(is_divided(by_id[name], self.divided) for name in pair):
                for name, other in (pair, pair[::-1]):
                    across[name].add(other)
        old = self.remembered.keys()
        held = [name for name in sorted(across) if self.sides[name] == "train" and name in old and across[name] & old]
        held += [name for name in sorted(across) if name not in old and across[name] & old]
        weights = {"train": 1.0, "validation": self.share / (1 - self.share)}

        def rank(name: str) -> tuple[float, str]:
            """Most ties across the sides first; a validation example counts less, since they are fewer."""
            return -len(across.get(name, ())) * weights[self.sides[name]], name

        def hold(name: str) -> None:
            """Take an example out of both sides, and with it all its ties."""
            for other in across.pop(name):
                across[other].discard(name)
                if not across[other]:
                    del across[other]
            self.held.add(name)
            del self.sides[name]

        for name in held:
            if name in across:
                hold(name)
        queue = sorted(map(rank, across))  # a sorted list is a heap
        while across:
            before = heapq.heappop(queue)
            name = before[1]
            if name in across and rank(name) > before:  # some of those that it is like were held back since
                heapq.heappush(queue, rank(name))
            elif name in across:
                hold(name)

    def split(self) -> Split:
        """The split, with the memory for the next one."""
        groups = {one.id: group[0].id[:16] for group in self.groups.values() for one in group if one.id in self.sides}
        before = self.previous
        placed = [example for example in self.examples if example.id in self.sides]
        tasks = {
            task: self.sides[one.id]
            for one in placed
            if (task := str(one.meta.get("task_key") or "")) and ("task_key", task) not in self.divided
        }
        sessions = {name: self.sides[one.id] for one in placed if (name := session_key(one, self.divided_sessions))}
        members = [one for one in self.examples if ("cluster", cluster_of(one)) in self.divided]
        assignment = Assignment(
            examples={**before.examples, **self.sides},
            sessions={**before.sessions, **sessions},
            tasks={**before.tasks, **tasks},
            divided_sessions=sorted({*before.divided_sessions, *self.divided_sessions}),
            divided_tasks=sorted({*before.divided_tasks, *(name for kind, name in self.divided if kind == "task_key")}),
            divided_members=sorted({*before.divided_members, *(one.id for one in members)}),
            divided_member_sessions=sorted(
                {*before.divided_member_sessions, *(str(one.meta.get("session_id") or "") for one in members)}
            ),
        )
        return Split(
            sides=self.sides,
            groups=groups,
            held_back=sorted(self.held),
            divided=divided_in_words(self.examples, self.divided),
            divided_keys=self.divided,
            assignment=assignment,
            naive_leaks=naive_leaks(self.examples, self.seed, self.share),
        )


def divided_in_words(examples: Sequence[Example], divided: Iterable[Key]) -> list[str]:
    """A line for each divided key that examples have, the largest first: `task 3f… (200 of 300 examples)`."""
    words = {"cluster": "near duplicates of", "task_key": "task", "session_id": "session"}
    sizes = Counter((kind, str(example.meta.get(kind) or "")) for example in examples for kind in words)
    present = sorted((key for key in divided if sizes[key]), key=lambda key: (-sizes[key], key))
    return [f"{words[kind]} {value} ({sizes[kind, value]} of {len(examples)} examples)" for kind, value in present]


def seeded_hash(seed: int, name: str) -> str:
    """A name's place in an order that the seed shuffles."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def is_divided(example: Example, divided: Collection[Key]) -> bool:
    """Whether the example's session or its near-duplicate cluster is on both sides on purpose."""
    return ("cluster", cluster_of(example)) in divided or ("session_id", str(example.meta["session_id"])) in divided


def straddling(
    examples: Sequence[Example],
    sides: Mapping[str, Side],
    pairs: Iterable[tuple[str, str]],
    divided: Collection[Key] = (),
) -> list[str]:
    """What is on both sides, found from the examples themselves: sessions, tasks and `pairs` of near duplicates.

    `divided` names what is on both sides on purpose.
    """
    lines = []
    for name in ("session_id", "task_key"):
        sides_of: dict[str, set[Side]] = defaultdict(set)
        for example in examples:
            value = str(example.meta.get(name) or "")
            if value and example.id in sides and (name, value) not in divided:
                sides_of[value].add(sides[example.id])
        lines += [f"{name} {value}" for value, both in sorted(sides_of.items()) if len(both) > 1]
    by_id = {example.id: example for example in examples}
    for first, second in pairs:
        on_purpose = any(is_divided(by_id[name], divided) for name in (first, second))
        if {sides.get(first), sides.get(second)} == set(SIDES) and not on_purpose:
            lines.append(f"near duplicates {first[:16]} and {second[:16]}")
    return lines


def naive_leaks(examples: Sequence[Example], seed: int, share: float) -> dict[str, int]:
    """How many validation rows of a split by rows would have had their session, task or near duplicate in training."""
    kinds = ("session_id", "task_key", "cluster")
    ranked = sorted(examples, key=lambda example: seeded_hash(seed, example.id))
    count = round(share * len(ranked))
    validation, train = ranked[:count], ranked[count:]
    trained = {(kind, example.meta.get(kind)) for example in train for kind in kinds if example.meta.get(kind)}
    leaks = dict.fromkeys(kinds, 0)
    rows = 0
    for example in validation:
        shared = [kind for kind in kinds if (kind, example.meta.get(kind)) in trained]
        rows += bool(shared)
        for kind in shared:
            leaks[kind] += 1
    return {"validation_rows": count, "leaked_rows": rows, **leaks}
