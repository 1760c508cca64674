"""The one registry of metrics. A metric is defined by sufficient statistics of a row and by how summed rows combine.

That one form serves everything: the value over a data set, a bootstrap replicate (a weighted sum of rows), and corpus
measures that are no mean of rows (perplexity, BLEU). `load` gives the same metrics as `evaluate` modules, offline.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from jsonschema import Draft202012Validator, SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.evaluation.metrics.answers import Answer, Leaf, code_tree, leaves
from grokora_pipeline.evaluation.metrics.rouge import rouge
from grokora_pipeline.evaluation.metrics.tool_calls import CallError, check_calls
from grokora_pipeline.evaluation.significance import FloatArray, ratio
from grokora_pipeline.models.messages import (
    Message,
    calls_of,
    canonical,
    json_value,
    lenient_json,
    message_text,
    strict_json,
)
from grokora_pipeline.sandbox.coder import same_effect

Stats = tuple[float, ...]
WORST_NATS = 20.0  # a uniform guess among a vocabulary of 250,000 tokens costs 12.4
# Names that recorders give to fields; a name that none of them uses makes no metric.
_TYPED = re.compile(r"text|typed|key|command", re.IGNORECASE)
_PLACE = re.compile(r"coord|position|point|^(x|y|width|height)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Metric:
    """`score` gives a row's k sufficient statistics or, for a mean, its value; None if the metric does not apply to
    the row. `combine` maps summed statistics [..., k] to values [...]. `full` is the value of an answer that is all
    right; None if no value says so."""

    name: str
    score: Callable[[Answer], Stats | float | None]
    combine: Callable[[FloatArray], FloatArray] = ratio
    higher_is_better: bool = True
    full: float | None = 1.0

    def stats(self, answer: Answer) -> Stats | None:
        """A row's k sufficient statistics, those of a mean being (value, 1); None if the metric does not apply."""
        score = self.score(answer)
        return score if score is None or isinstance(score, tuple) else (float(score), 1.0)

    def table(self, answers: Sequence[Answer]) -> FloatArray | None:
        """[rows, k] statistics, zeros if the metric does not apply; None if it applies to no row."""
        rows = [self.stats(answer) for answer in answers]
        width = next((len(row) for row in rows if row is not None), 0)
        if not width:
            return None
        return np.array([(0.0,) * width if row is None else row for row in rows], dtype=np.float64)

    def value(self, answers: Sequence[Answer]) -> float | None:
        """The metric over all rows; None if it applies to none."""
        table = self.table(answers)
        return None if table is None else float(self.combine(table.sum(axis=0)))


def exact_match(answer: Answer) -> bool:
    """Whether content (but for white space at its ends) and calls are the expected ones, JSON being read as values."""

    def fields(message: Message) -> Counter[Leaf]:
        """What a message says, without regard to how its JSON is written."""
        text = message_text(message).strip()
        value, calls = strict_json(text), [[call.name, call.arguments] for call in calls_of(message)]
        return Counter(leaves([value if isinstance(value, dict | list) else text, calls]))

    return fields(answer.prediction) == fields(answer.reference)


def valid_json(answer: Answer) -> bool | None:
    """Whether the answer is a JSON object or array and nothing else; applies if the expected answer is JSON.

    If the expected answer itself wraps its JSON in a fence, so may the answer.
    """
    expected = message_text(answer.reference).strip()
    if calls_of(answer.reference) or not isinstance(lenient_json(expected), dict | list):
        return None
    # what training taught is right, with a fence or without
    read = lenient_json if strict_json(expected) is None else strict_json
    return isinstance(read(message_text(answer.prediction).strip()), dict | list)


def schema_valid(answer: Answer) -> bool | None:
    """Whether the answer is JSON that the agent's JSON Schema accepts; applies if the agent has a schema."""
    if answer.schema is None:
        return None
    text = message_text(answer.prediction).strip()
    value = strict_json(text)
    return (value is not None or text == "null") and accepts(answer.schema, value)


def accepts(schema: Any, value: Any) -> bool:
    """Whether a JSON Schema accepts a value.

    A schema that is none, as a log's tools may have, accepts nothing, nor does one that cannot say (`multipleOf` of a
    number beyond all floats).
    """
    try:
        Draft202012Validator.check_schema(schema)
        # without a registry jsonschema fetches what a log's schema refers to over the network
        return bool(Draft202012Validator(schema, registry=Registry()).is_valid(value))
    except (SchemaError, Unresolvable, OverflowError):
        return False


def field_score(answer: Answer, *, metric: str) -> float | None:
    """F1 of the leaf fields of JSON answers and tool calls that a metric looks at, or `field_precision` or
    `field_recall` of all; None if no such field is expected."""
    reference, prediction = json_value(answer.reference), json_value(answer.prediction)
    expected, predicted = (
        Counter(part for leaf in fields if (part := _part(leaf, metric)) is not None)
        for fields in (
            [] if reference is None else leaves(reference),
            [] if prediction is None else leaves(prediction, beside=reference),
        )
    )
    if not expected:
        return None
    right = (expected & predicted).total()
    if metric == "field_precision":
        return right / max(1, predicted.total())
    return right / expected.total() if metric == "field_recall" else 2 * right / (predicted.total() + expected.total())


def _part(leaf: Leaf, metric: str) -> Leaf | tuple[str | int, ...] | None:
    """What a metric compares of a leaf field; None if it does not look at this one."""
    path, value = leaf
    name = str(path[-1]) if path else ""
    is_action = name in {"action", "name"} or name.endswith("type")
    if metric == "argument_keys":
        return path
    if metric == "verdict":  # the decision, wherever in the answer it stands
        return (path[-1:], value) if name in {"valid", "approved", "situation", "verdict"} else None
    looked_at = {
        "action_type": is_action,
        # what goes through the keyboard: text and keys, by the names that recorders give these fields
        "typed_text": value.startswith('"') and _TYPED.search(name) and not is_action,
        # numbers of a place on the screen; a waiting time or a count of scrolls is none
        "coordinates": value.lstrip("-")[:1].isdigit() and any(_PLACE.search(str(part)) for part in path),
    }
    return leaf if looked_at.get(metric, True) else None


def call_error(answer: Answer) -> CallError | None:
    """What keeps the answer's calls from being the expected ones; None when nothing does."""
    return check_calls(calls_of(answer.prediction), calls_of(answer.reference), answer.tools)


def tool_call_match(answer: Answer) -> bool | None:
    """Whether the calls are the expected ones (none, if none is due); applies if a call was possible.

    It says nothing of an expected call whose arguments cannot be read.
    """
    expected = calls_of(answer.reference)
    if any(call.arguments is None for call in expected) or not (answer.tools or expected):
        return None
    return call_error(answer) is None


def no_call(answer: Answer) -> bool | None:
    """Whether no call is made; applies if tools were offered and none was due."""
    if not answer.tools or calls_of(answer.reference):
        return None
    return not calls_of(answer.prediction)


def code_parses(answer: Answer) -> bool | None:
    """Whether the answer is Python that parses; applies if the expected answer is."""
    if answer.answer_type != "code" or code_tree(message_text(answer.reference).strip()) is None:
        return None
    text = message_text(answer.prediction).strip()
    return bool(text) and code_tree(text) is not None  # nothing at all would parse


def code_match(answer: Answer) -> bool | None:
    """Whether the Python answer has the expected syntax tree; the text decides if that does not parse."""
    if answer.answer_type != "code":
        return None
    expected = code_tree(message_text(answer.reference).strip())
    if expected is None:
        return exact_match(answer)
    return code_tree(message_text(answer.prediction).strip()) == expected


def code_runs(answer: Answer) -> bool | None:
    """Whether a shell command does in the sandbox's vault what the expected one does, if that one works there."""
    if answer.answer_type != "code":
        return None
    return same_effect(message_text(answer.prediction), message_text(answer.reference))


def rouge_score(answer: Answer, *, name: str) -> float:
    """`rouge1`, `rouge2` or `rougeL` of the whole answers; equal ones need no word ("", "✓", "==") to score 1."""
    predicted, expected = canonical(answer.prediction), canonical(answer.reference)
    return 1.0 if predicted == expected else rouge(predicted, expected)[name]


@lru_cache(maxsize=1)
def _bleu_scorer() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU()


def bleu_signature() -> str:
    """sacreBLEU's own statement of how the score was made."""
    scorer = _bleu_scorer()
    scorer.corpus_score(["a"], [["a"]])
    return str(scorer.get_signature())


def _bleu_stats(answer: Answer) -> Stats:
    bleu = _bleu_scorer().corpus_score([canonical(answer.prediction)], [[canonical(answer.reference)]])
    return (float(bleu.sys_len), float(bleu.ref_len), *map(float, bleu.counts), *map(float, bleu.totals))


def bleu_of(sums: FloatArray) -> FloatArray:
    """[..., 10] summed (system length, reference length, 4 x matches, 4 x n-grams) → BLEU 0-100 with sacreBLEU's
    exponential smoothing (Chen & Cherry 2014, method 3) and brevity penalty (Papineni et al. 2002)."""
    system, reference, right, total = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:10]
    missed = (right == 0) & (total > 0)
    smoothed = np.where(missed, 0.5 ** np.cumsum(missed, axis=-1), right)
    precision = np.divide(smoothed, total, out=np.zeros_like(total), where=total > 0)
    with np.errstate(divide="ignore"):
        log_mean = np.log(precision).mean(axis=-1)
        brevity = np.minimum(
            0.0, 1.0 - np.divide(reference, system, out=np.full_like(system, np.inf), where=system > 0)
        )
    # sacreBLEU gives 0 if not one n-gram of any length matches, whatever the smoothing would say
    nothing_right = right.sum(axis=-1) == 0
    scores: FloatArray = np.where(nothing_right, 0.0, 100.0 * np.exp(brevity + log_mean))
    return scores


def bounded(nll: float, tokens: int) -> float:
    """A negative log-likelihood in nats, at most `WORST_NATS` a token: one NaN or infinity of a broken adapter would
    make a NaN of every figure, interval and p-value, and JSON has none."""
    worst = WORST_NATS * max(1, tokens)
    return nll if nll < worst else worst  # NaN is not less


def _nats(answer: Answer, *, of_bytes: bool) -> Stats | None:
    """(negative log-likelihood of the expected answer, its tokens or, in bits, its bytes)."""
    size = len(canonical(answer.reference).encode("utf-8", "replace")) if of_bytes else answer.reference_tokens
    if answer.nll is None or (of_bytes and not size):
        return None
    return bounded(answer.nll, answer.reference_tokens) / (log(2) if of_bytes else 1.0), float(size)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "perplexity",
            partial(_nats, of_bytes=False),
            lambda sums: np.exp(ratio(sums)),
            higher_is_better=False,
            full=None,
        ),
        Metric("bits_per_byte", partial(_nats, of_bytes=True), higher_is_better=False, full=None),
        Metric("exact_match", exact_match),
        Metric("valid_json", valid_json),
        Metric("schema_valid", schema_valid),
        *(
            Metric(name, partial(field_score, metric=name))
            for name in (
                *("field_accuracy", "field_precision", "field_recall"),
                # the parts of an action, apart: a text model cannot see where on a screenshot to click
                *("action_type", "argument_keys", "typed_text", "coordinates", "verdict"),
            )
        ),
        Metric("tool_call_match", tool_call_match),
        Metric("no_call", no_call),
        Metric("code_parses", code_parses),
        Metric("code_match", code_match),
        Metric("code_runs", code_runs),
        *(Metric(name, partial(rouge_score, name=name)) for name in ("rouge1", "rouge2", "rougeL")),
        Metric("sacrebleu", _bleu_stats, bleu_of, full=100.0),
        Metric("finished", lambda answer: answer.finished),
        Metric("answer_chars", lambda answer: len(canonical(answer.prediction)), higher_is_better=False, full=None),
        Metric("answer_tokens", lambda answer: answer.new_tokens, higher_is_better=False, full=None),
    )
}


def get_metric(name: str) -> Metric:
    """A metric by name; GrokoraError lists the names there are."""
    if name not in METRICS:
        raise GrokoraError(f"there is no metric {name!r}; choose one of {', '.join(METRICS)} as main_metric.")
    return METRICS[name]


def load(name: str) -> Any:
    """The metric as an `evaluate.EvaluationModule`, loaded from the package by path: no hub, no network."""
    import evaluate

    get_metric(name)
    return evaluate.load(str(Path(__file__).with_name("evaluate_module.py")), name)
