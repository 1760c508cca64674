"""The systems that are compared: one model in memory, with its adapters switched on and off."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grokora_pipeline.evaluation.cache import AnswerCache, tokens_key
from grokora_pipeline.evaluation.generation import Decoding, Generated, Prefixes, completion_nll, generate
from grokora_pipeline.models.loading import Quantisation, load_adapter, load_base
from grokora_pipeline.store import content_version, file_sha256

Tokens = Sequence[int]
Progress = Callable[[int, int], None]


class Systems:
    """One base model and its adapters by name. Results are remembered in the cache folder, where there is one."""

    def __init__(
        self,
        base: Path,
        base_hash: str,
        adapters: dict[str, Path],
        *,
        cache: Path | None = None,
        quantisation: Quantisation = "none",
    ) -> None:
        self.model: Any = load_base(base, quantisation=quantisation)
        for place, (name, folder) in enumerate(adapters.items()):
            if place == 0:
                self.model = load_adapter(self.model, folder, name=name)
            else:
                self.model.load_adapter(str(folder), adapter_name=name, use_safetensors=True)
        self.model.eval()
        self._cache, self._caches = cache, dict[str, AnswerCache]()
        self._prefixes: dict[str | None, Prefixes] = {name: Prefixes() for name in (None, *adapters)}
        self._facts = (base_hash, str(self.model.dtype), quantisation)
        self._hashes = {name: file_sha256(folder / "adapter_model.safetensors") for name, folder in adapters.items()}

    @contextmanager
    def active(self, adapter: str | None) -> Iterator[Any]:
        """The model with one adapter switched on, or with none."""
        if adapter is not None:
            self.model.set_adapter(adapter)
            yield self.model
        elif self._hashes:
            with self.model.disable_adapter():
                yield self.model
        else:
            yield self.model

    def answers(
        self,
        adapter: str | None,
        prompts: Sequence[Tokens],
        decoding: Decoding,
        progress: Progress | None = None,
        *,
        seeds: Sequence[int] | None = None,
    ) -> list[tuple[Generated, bool]]:
        """Each prompt's answer, and whether it came from the cache. Equal questions are asked once."""
        cache = self._remembered(adapter, "answer", decoding)
        drawn = seeds if seeds and decoding.temperature > 0 else None
        keys = [tokens_key(prompt, *([[drawn[place]]] if drawn else [])) for place, prompt in enumerate(prompts)]
        fresh = _missing(cache, keys)
        if fresh:
            with self.active(adapter) as model:
                made = generate(
                    model,
                    [prompts[place] for place in fresh],
                    decoding,
                    progress,
                    seeds=[drawn[place] for place in fresh] if drawn else None,
                    prefixes=self._prefixes[adapter],
                )
            cache.add((keys[place], [one.tokens, one.seconds]) for place, one in zip(fresh, made, strict=True))
        new = set(fresh)
        return [(Generated(*cache.get(key)), place not in new) for place, key in enumerate(keys)]

    def likelihoods(self, adapter: str | None, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> list[float]:
        """Each completion's summed negative log-likelihood in nats, given its prompt."""
        cache = self._remembered(adapter, "nll")
        keys = [tokens_key(*pair) for pair in zip(prompts, completions, strict=True)]
        fresh = _missing(cache, keys)
        if fresh:
            pairs = [prompts[place] for place in fresh], [completions[place] for place in fresh]
            with self.active(adapter) as model:
                nlls = completion_nll(model, *pairs, prefixes=self._prefixes[adapter])
            cache.add((keys[place], nll) for place, nll in zip(fresh, nlls, strict=True))
        return [float(cache.get(key)) for key in keys]

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
    """The first place of every key that the cache does not hold."""
    places: dict[str, int] = {}
    for place, key in enumerate(keys):
        if cache.get(key) is None:
            places.setdefault(key, place)
    return list(places.values())
