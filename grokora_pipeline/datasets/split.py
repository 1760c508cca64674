"""Train and validation without leaks, and stable while logs are added.

Examples that share a session, a task or a near-duplicate cluster belong together and stay on one side. A side, once
given, is never changed: of new examples that would tie both sides together, the tie is held back.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from grokora_pipeline.datasets import duplicates
from grokora_pipeline.datasets.duplicates import Groups
from grokora_pipeline.datasets.examples import Example

Side = Literal["train", "validation"]
SIDES: tuple[Side, Side] = ("train", "validation")


@dataclass(slots=True)
class Split:
    """Where each example goes. What is in neither mapping is held back: it would tie the two sides together."""

    sides: dict[str, Side] = field(default_factory=dict)  # example id -> side
    groups: dict[str, str] = field(default_factory=dict)  # example id -> name of its group
    held_back: list[str] = field(default_factory=list)
    naive_leaks: dict[str, int] = field(default_factory=dict)  # what a split by rows would have leaked

    @property
    def validation_share(self) -> float:
        """Validation examples over all that have a side."""
        return Counter(self.sides.values())["validation"] / max(1, len(self.sides))


def split_examples(
    examples: Sequence[Example],
    *,
    seed: int,
    validation_share: float = 0.2,
    previous: Mapping[str, Side] | None = None,
    near_duplicate: float = 0.9,
) -> Split:
    """Give every example a side. `previous` holds the sides of all examples that ever had one; none is changed."""
    old = {example.id: previous[example.id] for example in examples if example.id in previous} if previous else {}
    split = Split()
    undecided: list[list[Example]] = []
    for group in components(examples):
        sides = {old[example.id] for example in group if example.id in old}
        if len(sides) > 1:
            undecided += _untie(group, old, near_duplicate, split)
        elif sides:
            _place(group, sides.pop(), split)
        else:
            undecided.append(group)
    _assign(undecided, split, examples, seed, validation_share)
    split.naive_leaks = naive_leaks(examples, seed, validation_share)
    return split


def components(examples: Sequence[Example]) -> list[list[Example]]:
    """The groups of examples that are connected by a session, a task or a cluster, in a fixed order."""
    groups = Groups(len(examples))
    firsts: dict[tuple[str, str], int] = {}
    for place, example in enumerate(examples):
        for key in _keys(example):
            groups.join(place, firsts.setdefault(key, place))
    found: dict[int, list[Example]] = defaultdict(list)
    for place, example in enumerate(examples):
        found[groups.find(place)].append(example)
    return sorted(found.values(), key=_name)


def _keys(example: Example) -> list[tuple[str, str]]:
    return [
        (name, value) for name in ("session_id", "task_key", "cluster") if (value := str(example.meta.get(name) or ""))
    ]


def _name(group: Iterable[Example]) -> str:
    return min(example.id for example in group)


def _place(group: Iterable[Example], side: Side, split: Split) -> None:
    group = list(group)
    name = _name(group)[:16]
    for example in group:
        split.sides[example.id] = side
        split.groups[example.id] = name


def _untie(
    group: Sequence[Example], old: Mapping[str, Side], near_duplicate: float, split: Split
) -> list[list[Example]]:
    """Place a group that new examples tie to both sides; returns the parts that turn out to touch neither."""
    tie = _Tie(group, near_duplicate)
    tie.place_old(old)
    pending = tie.sessions([example for example in group if example.id not in old])
    progress = True
    while progress:
        progress = False
        for session in list(pending):
            if tie.place_session(pending[session]):
                del pending[session]
                progress = True
    for side in SIDES:
        placed = [example for example in group if tie.sides.get(example.id) == side]
        for part in components(placed):
            _place(part, side, split)
    split.held_back += sorted(tie.held)
    return components([example for members in pending.values() for example in members])


class _Tie:
    """The examples of one tied group, and which sides each touches directly: by session, by task, by similar text."""

    def __init__(self, group: Sequence[Example], near_duplicate: float) -> None:
        self.sides: dict[str, Side] = {}
        self.held: set[str] = set()
        self._similar: dict[str, set[str]] = defaultdict(set)
        self._keys: dict[tuple[str, str], Side] = {}
        for first, second in near_pairs(group, near_duplicate):
            self._similar[first.id].add(second.id)
            self._similar[second.id].add(first.id)
        self._examples = {example.id: example for example in group}

    def place_old(self, old: Mapping[str, Side]) -> None:
        """Old examples keep their side: validation first, so that a training example that touches it is held back."""
        for side in reversed(SIDES):
            for name, example in sorted(self._examples.items()):
                if old.get(name) == side:
                    self._put(example, side)

    @staticmethod
    def sessions(examples: Iterable[Example]) -> dict[str, list[Example]]:
        """Examples by session, in a fixed order."""
        found: dict[str, list[Example]] = defaultdict(list)
        for example in sorted(examples, key=lambda one: one.id):
            found[str(example.meta["session_id"])].append(example)
        return found

    def place_session(self, members: Sequence[Example]) -> bool:
        """Put a new session on the side that it touches most; False while it touches none."""
        touched = Counter(side for example in members for side in self._touched(example))
        if not touched:
            return False
        session = self._keys.get(("session_id", str(members[0].meta["session_id"])))
        most: Side = "train" if touched["train"] > touched["validation"] else "validation"
        side = session or most
        for example in members:
            self._put(example, side)
        return True

    def _put(self, example: Example, side: Side) -> None:
        if self._touched(example) - {side}:
            self.held.add(example.id)
            return
        self.sides[example.id] = side
        for key in self._own_keys(example):
            self._keys[key] = side

    def _touched(self, example: Example) -> set[Side]:
        by_key = {self._keys[key] for key in self._own_keys(example) if key in self._keys}
        return by_key | {self.sides[name] for name in self._similar[example.id] if name in self.sides}

    @staticmethod
    def _own_keys(example: Example) -> list[tuple[str, str]]:
        return [key for key in _keys(example) if key[0] != "cluster"]


def _assign(
    groups: Sequence[list[Example]], split: Split, examples: Sequence[Example], seed: int, share: float
) -> None:
    """Sides for new groups, in the order of their seeded hash, so that each outcome has its share on both sides."""
    by_id = {example.id: example for example in examples}
    totals, validation = Counter[str](), Counter[str]()
    for name, side in split.sides.items():
        totals[_outcome(by_id[name])] += 1
        validation[_outcome(by_id[name])] += side == "validation"
    for group in groups:
        totals.update(_outcome(example) for example in group)
    for group in sorted(groups, key=lambda one: _hash(seed, _name(one))):
        counts = Counter(_outcome(example) for example in group)
        now = sum(abs(share * totals[outcome] - validation[outcome]) for outcome in counts)
        then = sum(abs(share * totals[outcome] - validation[outcome] - count) for outcome, count in counts.items())
        if then < now:
            validation.update(counts)
        _place(group, "validation" if then < now else "train", split)
    _fill_empty(groups, split)


def _fill_empty(groups: Sequence[list[Example]], split: Split) -> None:
    """With two groups or more, neither side may be empty, however small the dataset."""
    sides = set(split.sides.values())
    if len(sides) == 1 and len(groups) > 1:
        missing: Side = "train" if sides == {"validation"} else "validation"
        _place(min(groups, key=lambda one: (sum(1 for _ in one), _name(one))), missing, split)


def _outcome(example: Example) -> str:
    return str(example.meta.get("status") or "")


def _hash(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def near_pairs(examples: Sequence[Example], threshold: float) -> list[tuple[Example, Example]]:
    """Pairs of near duplicates among examples, from their texts."""
    texts = [duplicates.plain_text([*example.prompt, *example.completion]) for example in examples]
    table = duplicates.signatures(texts)
    return [(examples[first], examples[second]) for first, second in duplicates.near_pairs(table, threshold)]


def straddling(examples: Sequence[Example], sides: Mapping[str, Side], near_duplicate: float = 0.9) -> list[str]:
    """What is on both sides, found anew from the examples themselves: sessions, tasks, pairs of similar texts."""
    placed = [example for example in examples if example.id in sides]
    found = []
    for name in ("session_id", "task_key"):
        seen: dict[str, set[Side]] = defaultdict(set)
        for example in placed:
            if example.meta.get(name):
                seen[str(example.meta[name])].add(sides[example.id])
        found += [f"{name} {value}" for value, both in sorted(seen.items()) if len(both) > 1]
    for first, second in near_pairs(placed, near_duplicate):
        if sides[first.id] != sides[second.id]:
            found.append(f"near duplicates {first.id[:16]} and {second.id[:16]}")
    return found


def naive_leaks(examples: Sequence[Example], seed: int, share: float) -> dict[str, int]:
    """How many validation rows of a split by rows would have had their session, task or near duplicate in training."""
    ranked = sorted(examples, key=lambda example: _hash(seed, example.id))
    count = round(share * len(ranked))
    validation, train = ranked[:count], ranked[count:]
    trained = {key for example in train for key in _keys(example)}
    leaks = dict.fromkeys(("session_id", "task_key", "cluster"), 0)
    rows = 0
    for example in validation:
        shared = [name for name, value in _keys(example) if (name, value) in trained]
        rows += bool(shared)
        for name in shared:
            leaks[name] += 1
    return {"validation_rows": count, "leaked_rows": rows, **leaks}
