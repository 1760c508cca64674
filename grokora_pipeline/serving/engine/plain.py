"""The slow exact path: one row at a time by the model's own `generate` or forward, with the cache it makes (torch).

For models whose memory of a text is not one key and value a layer and token (recurrent, convolutional, hybrid), and for
rows beyond the length to which cached keys stay true.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grokora_pipeline.models.loading import prompt_marks
from grokora_pipeline.serving.engine.rows import ActiveRow
from grokora_pipeline.serving.engine.sampling import choose_tokens


def generate_row(model: Any, row: ActiveRow, stop_ids: tuple[int, ...]) -> None:
    """Answer one row, chunk by chunk, until it is done."""

    def choose(_: Tensor, scores: Tensor) -> Tensor:
        """A logits processor: choose the next token as the batch would, and leave `generate` no other choice."""
        (token,) = choose_tokens(scores.clone(), [row], stop_ids)
        row.advance(token, stop_ids)
        forced = torch.full_like(scores, -torch.inf)
        forced[0, token if isinstance(token, int) else 0] = 0
        return forced

    ids = torch.tensor([row.tokens], device=model.device)
    marks = prompt_marks(model, ids, [len(row.tokens)])
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=row.limit - len(row.tokens),
        do_sample=False,
        pad_token_id=0,
        logits_processor=[choose],
        stopping_criteria=[lambda ids, *_, **__: torch.full((len(ids),), row.done, device=ids.device)],
        **marks,
    )


def score_row(model: Any, tokens: Sequence[int], keep: int) -> Tensor:
    """The logits [keep, vocabulary] at a row's last `keep` tokens, of which the first ends the prompt; no cache."""
    ids = torch.tensor([list(tokens)], device=model.device)
    marks = prompt_marks(model, ids, [len(tokens) - keep + 1])
    out = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **marks)
    logits: Tensor = out.logits[0, -keep:]
    return logits
