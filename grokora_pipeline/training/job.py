"""A training job: what a plan means on this machine, read and checked before anything is loaded."""

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store import content_version
from grokora_pipeline.training.adapter import is_whole
from grokora_pipeline.training.layout import Row
from grokora_pipeline.training.plan import TrainingKnobs, resolve_knobs
from grokora_pipeline.training.preferences import complete_pairs
from grokora_pipeline.training.tokenize import load_split
from grokora_pipeline.workers.frame import Plan

LEAST_ROWS = 2
# The names in an output or work folder of a training (and of `write_atomic`); a folder with others is somebody else's.
_OURS = re.compile(r"\..*|(checkpoint-|adapter|best|tensorboard).*|(run|initial|training|checksums)\.json|README\.md")
# What changes how a run is computed but not what it learns: a checkpoint survives a change of these.
_NOT_LEARNT = {"deadline_hours", "memory_gib", "num_processes", "checkpoint_steps", "self_test"}


@dataclass(slots=True)
class Run:
    """What a plan means on this machine. `too_long`: rows of the split that exceed the knob `max_length`."""

    plan: Plan
    knobs: TrainingKnobs
    base: Path
    base_id: str
    output: Path
    work: Path
    train_rows: list[Row]
    validation_rows: list[Row]
    too_long: int
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, plan: Plan) -> "Run":
        """Read a plan (see `training/__main__.py`); GrokoraError if it is wrong."""
        missing = [name for name in ("base", "split", "output") if not isinstance(plan.get(name), str)]
        overrides = plan.get("knobs") or {}
        if missing or not isinstance(overrides, dict):
            raise GrokoraError(
                f"The training plan lacks {', '.join(missing) or 'a mapping of knobs'}; it needs the paths base, split "
                "and output."
            )
        overrides = dict(overrides)
        knobs = resolve_knobs(str(overrides.pop("preset", "best")), overrides)
        # a row of one token, or of weight 0, teaches nothing
        sides = [[row for row in side if any(row.weights)] for side in load_split(Path(plan["split"]))]
        train, validation = ([row for row in side if len(row.ids) <= knobs.max_length] for side in sides)
        if (knobs.dropout or knobs.neftune) and any(row.judged for row in train):
            raise GrokoraError(
                "DPO and KTO compare the adapter with its base answer by answer, which noise would blur: set dropout "
                "and neftune to 0, or learn_from: failures."
            )
        too_long = sum(map(len, sides)) - len(train) - len(validation)
        if len(train) < LEAST_ROWS or not validation:
            raise GrokoraError(
                f"{plan['split']} has {len(train)} training and {len(validation)} validation rows of at most "
                f"{knobs.max_length} tokens with an answer to learn; at least {LEAST_ROWS} and 1 are needed: record "
                "more sessions, or raise max_length."
            )
        output, base = Path(plan["output"]), Path(plan["base"])
        work = Path(plan.get("work") or output.with_name(f"{output.name}.work"))
        for folder in (output, work):  # both are emptied before they are written
            if strange := sorted(path.name for path in folder.glob("*") if not _OURS.fullmatch(path.name)):
                raise GrokoraError(f"{folder} holds {strange[0]}, which is of no training; name a folder for it alone.")
        base_id = str(plan.get("base_id") or base.name)
        train = complete_pairs(train[: knobs.max_examples or None])
        validation = complete_pairs(validation[: knobs.max_validation or None])
        return cls(plan, knobs, base, base_id, output, work, train, validation, too_long)

    def fingerprint(self) -> str:
        """A hash of what decides the result: a checkpoint of another run is never resumed from."""
        knobs = self.knobs.model_dump(exclude=_NOT_LEARNT)
        every = (*self.train_rows, *self.validation_rows)
        rows = [[row.ids, row.weights, *filter(None, (row.judged, row.pair))] for row in every]
        return content_version(knobs, rows, self.base_id, self.plan.get("versions"))

    def finished(self) -> Path | None:
        """The folder of the whole adapter that an earlier attempt at this very run left behind, or None.

        It is in the output, or in the work folder if the attempt was killed before what it made was published.
        """
        for folder in (self.output, self.work / "adapter"):
            if is_whole(folder):
                earlier = orjson.loads((folder / "training.json").read_bytes())
                # What the deadline cut short is not finished for a plan that gives it more hours.
                longer = earlier.get("deadline_hit") and self.knobs.deadline_hours > earlier["knobs"]["deadline_hours"]
                if earlier.get("fingerprint") == self.fingerprint() and not longer:
                    return folder
        return None
