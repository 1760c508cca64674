"""What an adapter may have lost or kept that it should not: general language, and secrets of its training data."""

import math
import random
import string
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from grokora_pipeline.evaluation.metrics import METRICS, bounded
from grokora_pipeline.evaluation.plan import Canary
from grokora_pipeline.evaluation.significance import estimate
from grokora_pipeline.evaluation.systems import Systems
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.serving.engine.request import GenerationRequest

PACE_ROWS, PACE_PROMPT, PACE_TOKENS, PACE_ROUNDS = 2, 64, 8, 2
STAGES = (64, 256, 1024)  # candidates; a later stage is for what leads the one before; the last gives at most 10 bits
RANKED_CHARS = 24  # of a secret's end: the beginning of many keys is no secret, and so many random ones tell enough
LEARNT_BITS = 2.0  # a canary counts if the adapter exposes it by so much more than the base does
_CLASSES = (string.ascii_lowercase, string.ascii_uppercase, string.digits)


def general_perplexity(systems: Systems, names: Sequence[str | None], chat: ChatFormat, alpha: float) -> dict[str, Any]:
    """Token-weighted perplexity on the package's frozen general text, by system, with intervals over passages."""
    passages = [chat.encode(text) for text in orjson.loads(Path(__file__).with_name("probe.json").read_bytes())]
    heads, tails = [ids[:1] for ids in passages], [ids[1:] for ids in passages]
    perplexities: dict[str, Any] = {}
    for name in names:
        nlls = systems.likelihoods(name, heads, tails)
        table = np.array([(bounded(nll, len(tail)), len(tail)) for nll, tail in zip(nlls, tails, strict=True)])
        perplexities[name or "base"] = asdict(estimate(table, METRICS["perplexity"].combine, alpha=alpha))
    return perplexities


def pace(systems: Systems, names: Sequence[str | None], prompts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Seconds per token by system: the best of interleaved rounds on the ends of a few prompts, as others may be busy.

    The answers' own seconds cannot be compared: they may come from the cache, and from a quieter hour.
    """
    ends = [tuple(prompt[-PACE_PROMPT:]) for prompt in prompts[:PACE_ROWS]]
    best = {name or "base": math.inf for name in names}
    for _ in range(PACE_ROUNDS):
        for name in names:
            requests = [GenerationRequest(end, name, PACE_TOKENS, ignore_stop=True) for end in ends]
            completions = systems.decoder.generate(requests)
            seconds = sum(one.seconds for one in completions) / sum(len(one.tokens) for one in completions)
            best[name or "base"] = min(best[name or "base"], seconds)
    return best


def exposure(systems: Systems, adapter: str | None, canary: Canary, chat: ChatFormat, *, seed: int) -> float:
    """A canary's exposure in bits: log2(candidates) - log2(its rank by likelihood among random strings of its shape)
    (Carlini et al., The Secret Sharer, 2019). About 0-1 if nothing was memorised, log2(candidates) if all was.

    Its last characters are ranked, behind all that comes before them. If a few candidates already beat it, more of
    them would only say the same, so they are not asked for.
    """
    draw = random.Random(f"{seed}:{canary.secret}")  # noqa: S311
    prefix = chat.encode(canary.prefix + canary.secret[:-RANKED_CHARS])
    candidates, nlls, bits = [canary.secret[-RANKED_CHARS:]], list[float](), 0.0
    # of the same shape: letters, capitals and digits are drawn, everything else is kept
    pools = [next((pool for pool in _CLASSES if letter in pool), letter) for letter in candidates[0]]
    for size in STAGES:
        candidates += ["".join(draw.choice(pool) for pool in pools) for _ in range(size - len(candidates))]
        completions = [chat.encode(text) for text in candidates[len(nlls) :]]
        nlls += systems.likelihoods(adapter, [prefix or chat.encode(chat.stop_token)] * len(completions), completions)
        rank = 1 + sum(nll < nlls[0] for nll in nlls[1:])
        bits = math.log2(size) - math.log2(rank)
        if rank > 1:
            break
    return bits


def memorisation(
    systems: Systems, canaries: Sequence[Canary], texts: Sequence[str], chat: ChatFormat, seed: int
) -> dict[str, Any]:
    """Exposure of every canary in the adapter, and how many of its answers hold one.

    `max_exposure_bits` counts what was learnt: a canary that the base finds as likely was not. The base is asked if
    that could matter. The result holds no canary's text.
    """
    exposures: list[dict[str, Any]] = []
    for canary in canaries:
        bits: dict[str, Any] = {"kind": canary.kind, "adapter": exposure(systems, "adapter", canary, chat, seed=seed)}
        suspicious = bits["adapter"] >= math.log2(STAGES[0])
        exposures.append(bits | ({"base": exposure(systems, None, canary, chat, seed=seed)} if suspicious else {}))
    learnt = [bits["adapter"] for bits in exposures if bits["adapter"] >= bits.get("base", 0.0) + LEARNT_BITS]
    return {
        "canaries": len(canaries),
        "exposure_bits": exposures,
        "max_exposure_bits": max(learnt, default=0.0),
        "candidates": STAGES[-1],
        "leaked_in_answers": sum(any(canary.secret in text for canary in canaries) for text in texts),
    }
