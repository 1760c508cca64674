"""The slow exact path: one row at a time by the model's own `generate` or forward, with the cache it makes (torch).

For models whose memory of a text is not one key and value a layer and token (recurrent, convolutional, hybrid), and for
rows beyond the length to which cached keys stay true.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from grokora_pipeline.serving.engine.rows import ActiveRow
from grokora_pipeline.serving.engine.sampling import choose_tokens


class _Chooser(LogitsProcessor):  # type: ignore[misc]
    """Chooses the row's next token as the batch would, and leaves `generate` no other choice."""

    def __init__(self, row: ActiveRow, stop_ids: tuple[int, ...]) -> None:
        self.row, self.stop_ids = row, stop_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        (token,) = choose_tokens(scores.clone(), [self.row], self.stop_ids)
        self.row.advance(token, self.stop_ids)
        forced = torch.full_like(scores, -torch.inf)
        forced[0, token if isinstance(token, int) else 0] = 0
        return forced


class _RowDone(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, row: ActiveRow) -> None:
        self.row = row

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self.row.done, device=input_ids.device)


def generate_row(model: Any, row: ActiveRow, stop_ids: tuple[int, ...]) -> None:
    """Answer one row, chunk by chunk, until it is done."""
    ids = torch.tensor([row.tokens], device=model.device)
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=row.limit - len(row.tokens),
        do_sample=False,
        pad_token_id=0,
        logits_processor=LogitsProcessorList([_Chooser(row, stop_ids)]),
        stopping_criteria=StoppingCriteriaList([_RowDone(row)]),
    )


def score_row(model: Any, tokens: Sequence[int], keep: int) -> Tensor:
    """The logits [keep, vocabulary] at a row's last `keep` tokens, without any cache."""
    ids = torch.tensor([list(tokens)], device=model.device)
    out = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    logits: Tensor = out.logits[0, -keep:]
    return logits
