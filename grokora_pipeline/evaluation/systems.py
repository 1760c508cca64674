"""The systems that are compared: the base model and its adapters, answered and scored by the server's own decoder."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grokora_pipeline.evaluation.cache import AnswerCache, tokens_key
from grokora_pipeline.models.loading import Quantisation
from grokora_pipeline.serving.engine.decoder import Decoder, Progress
from grokora_pipeline.serving.engine.request import Completion, GenerationRequest
from grokora_pipeline.store import content_version, file_sha256

Tokens = Sequence[int]
# Part of every cached result's identity. Raise it when the decoder computes something else: 1 padded between prefix and
# suffix, which sliding windows counted, and ran adapters in fp32.
DECODER_VERSION = 2


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are decoded: greedy at temperature 0, else sampled with a seed of each row's own."""

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0


class Systems:
    """One base model and its adapters by name. Results are remembered in the cache folder, if there is one."""

    def __init__(
        self,
        base: Path,
        base_hash: str,
        adapters: dict[str, Path],
        *,
        cache: Path | None = None,
        quantisation: Quantisation = "none",
    ) -> None:
        self.decoder = Decoder.load(base, quantisation=quantisation)
        for name, folder in adapters.items():
            self.decoder.add_adapter(name, folder)
        self._cache, self._caches = cache, dict[str, AnswerCache]()
        self._facts = (base_hash, str(self.decoder.model.dtype), quantisation, DECODER_VERSION)
        self._hashes = {name: file_sha256(folder / "adapter_model.safetensors") for name, folder in adapters.items()}

    def answers(
        self,
        adapter: str | None,
        prompts: Sequence[Tokens],
        decoding: Decoding,
        progress: Progress | None = None,
        *,
        seeds: Sequence[int] | None = None,
    ) -> list[tuple[Completion, bool]]:
        """Each prompt's answer, and whether it came from the cache. Equal questions are asked once.

        A prompt that fills the context is not answered (no tokens, finish "length"), as the server refuses it.
        """
        cache = self._remembered(adapter, "answer", decoding)
        drawn = list(seeds or [decoding.seed] * len(prompts)) if decoding.temperature > 0 else None
        keys = [tokens_key(prompt, *([[drawn[index]]] if drawn else [])) for index, prompt in enumerate(prompts)]
        fresh = _missing(cache, keys)  # an index a key, so what two systems ask alike is generated once
        room = self.decoder.chat.context_length
        short_enough = [index for index in fresh if len(prompts[index]) < room]
        requests = [
            GenerationRequest(
                tuple(prompts[index]),
                adapter,
                decoding.max_new_tokens,
                decoding.temperature,
                # mixed with the prompt: with one seed for all rows, alike prompts would all draw the same numbers
                seed=zlib.crc32(repr(list(prompts[index])).encode(), drawn[index]) if drawn else None,
            )
            for index in short_enough
        ]
        completions = dict(zip(short_enough, self.decoder.generate(requests, progress), strict=True))
        entries = {index: completions.get(index, Completion([], "length", 0.0)) for index in fresh}
        cache.add((keys[index], [one.tokens, one.finish, one.seconds]) for index, one in entries.items())
        new = set(fresh)
        return [(Completion(*cache[key]), index not in new) for index, key in enumerate(keys)]

    def likelihoods(self, adapter: str | None, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> list[float]:
        """Each completion's summed negative log-likelihood in nats, given its prompt."""
        cache = self._remembered(adapter, "nll")
        keys = [tokens_key(*pair) for pair in zip(prompts, completions, strict=True)]
        fresh = _missing(cache, keys)
        if fresh:
            pairs = [prompts[index] for index in fresh], [completions[index] for index in fresh]
            nlls = self.decoder.score(adapter, *pairs)
            cache.add((keys[index], nll) for index, nll in zip(fresh, nlls, strict=True))
        return [float(cache[key]) for key in keys]

    def forget(self) -> None:
        """Remove from the cache folder what this object's systems answered: a secret is among it."""
        for cache in self._caches.values():
            cache.remove()

    def _remembered(self, adapter: str | None, what: str, decoding: Decoding | None = None) -> AnswerCache:
        identity = content_version(what, self._hashes[adapter] if adapter else None, self._facts, decoding)
        if identity not in self._caches:
            self._caches[identity] = AnswerCache(self._cache, identity)
        return self._caches[identity]


def _missing(cache: AnswerCache, keys: Sequence[str]) -> list[int]:
    """The first index of every key that the cache does not hold."""
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        if cache.get(key) is None:
            first.setdefault(key, index)
    return list(first.values())
