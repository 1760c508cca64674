"""DPO and KTO as token weights: both losses depend on the adapter through the nll of whole answers alone (torch).

With s = d loss / d nll of an answer, the gradient of the loss is that of the sum of s x nll, so an optimiser step is
the plain weighted step: first the answers' nll without a gradient, then the slopes become the weights of their tokens.
The formulas are TRL's (`loss_type` "sigmoid" and "kto"), which the tests compare with; the reference is the base
without its adapter.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from peft import PeftModel
from torch import float64, sigmoid, tensor
from torch.nn.functional import softplus

from grokora_pipeline.training.gradients import TreeLoss
from grokora_pipeline.training.layout import Row
from grokora_pipeline.training.plan import TrainingKnobs

Slopes = list[float]  # d loss / d nll, an entry an answer


def dpo(better: Sequence[float], worse: Sequence[float], beta: float) -> tuple[float, Slopes, Slopes]:
    """Mean of -log sigmoid(beta x (better - worse)) over pairs (eq. 7 of arXiv 2305.18290), and its slopes.

    `better` and `worse` are log ratios: log-likelihood of an answer under the adapter less that under the base.
    """
    margins = beta * (tensor(better, dtype=float64) - tensor(worse, dtype=float64))
    slopes = beta * sigmoid(-margins) / len(margins)
    return float(softplus(-margins).mean()), slopes.tolist(), (-slopes).tolist()


def kto(better: Sequence[float], worse: Sequence[float], kl: float, beta: float) -> tuple[float, Slopes, Slopes]:
    """Mean of 1 - sigmoid(±beta x (log ratio - kl)) over answers (eq. 8 of arXiv 2402.01306), and its slopes.

    `kl` >= 0 estimates how far the adapter is from the base; no gradient flows through it.
    """
    signs = tensor([1.0] * len(better) + [-1.0] * len(worse), dtype=float64)
    values = sigmoid(beta * signs * (tensor([*better, *worse], dtype=float64) - kl))
    slopes = (signs * beta * values * (1 - values) / len(signs)).tolist()
    return float(1 - values.mean()), slopes[: len(better)], slopes[len(better) :]


class Preferences:
    """Turns a step's rows into rows whose token weights carry the loss of preferences beside the plain one.

    The loss of a step is `answer_weight` x the weighted mean nll of the plain rows + `preference_weight` x DPO of its
    pairs, or KTO of its judged answers.
    """

    def __init__(self, model: PeftModel, losses: TreeLoss, knobs: TrainingKnobs) -> None:
        self.model, self.losses, self.knobs = model, losses, knobs
        self._of_base: dict[Row, float] = {}

    def weigh(self, rows: Sequence[Row]) -> tuple[list[Row], float]:
        """(rows, constant) so that the step's loss is the rows' sum of weight x nll + the constant."""
        knobs, plain = self.knobs, [row for row in rows if row.judged != "worse" and not row.pair]
        total = sum(sum(row.weights) for row in plain) or 1.0
        weighted = [_scaled(row, knobs.answer_weight / total) for row in plain]
        judged = [row for row in rows if row.judged]
        if not judged:
            return weighted, 0.0
        # Sorted, "better" stands before "worse", so that the sides of pairs are every other row.
        pairs = sorted((row for row in judged if row.pair), key=lambda row: (row.pair, row.judged))
        better = pairs[::2] or [row for row in judged if row.judged == "better"]
        worse = pairs[1::2] or [row for row in judged if row.judged == "worse"]
        # Weight 1 for each token of the answer: a preference is about the answer, however often it was logged.
        answers = [
            replace(row, weights=tuple(float(weight > 0) for weight in row.weights)) for row in (*better, *worse)
        ]
        strangers = [] if pairs else mismatched(answers)
        ours = self.losses.nlls([*answers, *strangers])
        base = self._nlls_of_base([*answers, *strangers])
        ratios = [of_base - nll for of_base, nll in zip(base, ours, strict=True)]
        first, second, others = (
            ratios[: len(better)],
            ratios[len(better) : len(answers)],
            ratios[len(answers) :],
        )
        if pairs:
            loss, up, down = dpo(first, second, knobs.beta)
        else:
            loss, up, down = kto(first, second, max(0.0, fmean(others or [0.0])), knobs.beta)
        ours = ours[: len(answers)]
        slopes = [knobs.preference_weight * slope for slope in (*up, *down)]
        weighted += [_scaled(row, slope) for row, slope in zip(answers, slopes, strict=True)]
        return weighted, knobs.preference_weight * loss - sum(a * b for a, b in zip(slopes, ours, strict=True))

    def _nlls_of_base(self, rows: Sequence[Row]) -> list[float]:
        """The nlls under the base, which never change: those of judged rows are computed once."""
        new = [row for row in rows if row not in self._of_base]
        if new:
            with self.model.disable_adapter():
                self._of_base |= zip(new, self.losses.nlls(new), strict=True)
        values = [self._of_base[row] for row in rows]
        self._of_base = {row: nll for row, nll in self._of_base.items() if row.judged}
        return values


def mismatched(answers: Sequence[Row]) -> list[Row]:
    """Each prompt with the next row's answer: answers to prompts they do not belong to, as TRL makes them for KTO."""
    if len(answers) < 2:
        return []
    cuts = [row.prompt for row in answers]
    following = zip([*answers[1:], answers[0]], [*cuts[1:], cuts[0]], strict=True)
    return [
        Row(row.ids[:cut] + other.ids[start:], row.weights[:cut] + other.weights[start:], answer_at=cut)
        for row, cut, (other, start) in zip(answers, cuts, following, strict=True)
    ]


def complete_pairs(rows: Sequence[Row]) -> list[Row]:
    """The rows without those whose pair lacks the other half (too long, or beyond a limit of rows)."""
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(row.pair, set()).add(row.judged)
    return [row for row in rows if not row.pair or len(sides[row.pair]) == 2]


def _scaled(row: Row, factor: float) -> Row:
    return replace(row, weights=tuple(weight * factor for weight in row.weights))
