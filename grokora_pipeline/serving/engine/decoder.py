"""The decoder: one base model, any number of adapters on it, all rows that are being answered in one batch (torch).

It is synchronous: whoever owns it calls `step`, or `generate` and `score` for a list of requests. The server's thread
(`engine`) and evaluation use the same one, so what is judged is what is served.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from grokora_pipeline.errors import GrokoraError, one_line
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.loading import Quantisation, load_base, share_cores
from grokora_pipeline.serving.engine.adapters import Adapter, AdapterStack, read_adapter
from grokora_pipeline.serving.engine.constrain import Grammars
from grokora_pipeline.serving.engine.drafts import KEPT, LONGEST, MATCHED, AnswerHistory, draft_length
from grokora_pipeline.serving.engine.plain import generate_row, score_row
from grokora_pipeline.serving.engine.prefix_cache import BLOCK, PrefixCache
from grokora_pipeline.serving.engine.request import Completion, GenerationRequest, TokenChunk
from grokora_pipeline.serving.engine.rows import ActiveRow
from grokora_pipeline.serving.engine.runner import PASS_ERRORS, ModelRunner, build_runner, exact_tokens
from grokora_pipeline.serving.engine.sampling import choose_tokens
from grokora_pipeline.serving.engine.scheduler import PrefillPace, Scheduler

logger = logging.getLogger(__name__)
SCORE_LOGIT_BYTES = 256 << 20  # of one scoring pass
# Tokens of a pass whose arithmetic takes as long as reading the weights does.
EVEN_TOKENS = {"cpu": 32.0, "cuda": 128.0}
Progress = Callable[[int, int], None]  # (done, of all)


class Decoder:
    """Answers and scores rows. `row_bytes` bounds the keys and values of running rows, all together, and `cache_bytes`
    the prefix cache; rows beyond `max_rows` or `row_bytes` wait. A pass runs at most `prefill_tokens` of prompts; if
    `paced`, of a long prompt only as many as keep running rows fast, by measured time.

    `slow_reason` is "" if rows share batches; else it says why every row is answered alone, by the model's own
    `generate`: as exact, and slower.
    """

    def __init__(
        self,
        model: Any,
        chat: ChatFormat,
        *,
        max_rows: int = 64,
        row_bytes: int = 1 << 30,
        cache_bytes: int = 512 << 20,
        prefill_tokens: int = 2048,
        paced: bool = False,
    ) -> None:
        self.model, self.chat = model, chat
        self.stop_ids = tuple(chat.stop_ids)
        # the base's own generation settings (repetition penalties and the like) would act in the slow path alone
        model.generation_config = GenerationConfig()
        self.stack = AdapterStack(model)
        self.adapters: dict[str, Adapter] = {}
        self.runner, self.slow_reason = build_runner(model)
        if self.slow_reason:
            logger.warning("Every row is answered alone, by the model's own generate, because %s.", self.slow_reason)
        self._exact_tokens = exact_tokens(model.config)
        # A running state is that after the last token: nothing of it says what it was at an earlier one.
        stateful = self.runner is not None and bool(self.runner.slots.states)
        self.prefixes = PrefixCache(0 if stateful else cache_bytes)
        pace = PrefillPace() if paced else None
        self.scheduler = Scheduler(max_rows, row_bytes, prefill_tokens, pads=not stateful, pace=pace)
        self.counts = dict.fromkeys(("prompt_tokens", "cached_tokens", "generated_tokens", "steps", "failed"), 0)
        self.alone: ActiveRow | None = None  # the row that the model's own generate answers now
        self._active: list[Adapter | None] = []
        self._answers = defaultdict[Adapter | None, AnswerHistory](AnswerHistory)
        self._token_bytes = self.runner.slots.token_bytes() if self.runner else 0  # the probe has shown it
        self._retired: list[Adapter] = []
        self._grammars = Grammars(chat, model.config.get_text_config().vocab_size)

    @classmethod
    def load(
        cls,
        base: Path,
        *,
        quantisation: Quantisation = "none",
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        paced: bool = False,
        **limits: int,
    ) -> "Decoder":
        """A decoder on the base model in a folder; `limits` as of the class."""
        model = load_base(base, quantisation=quantisation, dtype=dtype, device=device)
        return cls(model, ChatFormat.load(base), paced=paced, **limits)

    # --- adapters ----------------------------------------------------------------------------------------------------

    def install(self, adapter: Adapter) -> None:
        """Put an adapter beside the others; its name means it from now on, rows that run keep the one they have."""
        self.stack.install(adapter)
        self._active = []
        if self.runner and self.scheduler.mixes and not self._can_mix(adapter):
            self.scheduler.mixes = False
        if old := self.adapters.get(adapter.name):
            self._retired.append(old)
        self.adapters[adapter.name] = adapter

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter from its folder. GrokoraError if it does not fit the base."""
        self.install(read_adapter(name, folder, self.model))

    def retire(self, name: str) -> None:
        """Refuse new rows of an adapter; its memory is freed when its last row has finished."""
        if adapter := self.adapters.pop(name, None):
            self._retired.append(adapter)

    @torch.inference_mode()
    def _can_mix(self, adapter: Adapter) -> bool:
        """Whether a pass can give two rows different adapters: a layer that hands an expert some tokens of both rows
        does not tell whose they are. Such models are answered one adapter after another."""
        runner = ModelRunner(self.model)  # with slots of its own: rows may be running
        try:
            self.stack.activate([None, adapter], tokens=2)
            runner.slots.open()
            runner.slots.open()
            runner.run(0, [[0, 1], [2, 3]])
        except PASS_ERRORS:
            return False
        finally:
            self._active = []
        return True

    def _activate(self, adapters: list[Adapter | None], tokens: int) -> None:
        self.stack.tokens = tokens
        if adapters != self._active:
            self.stack.activate(adapters, tokens)
            self._active = adapters

    def _free_retired(self) -> None:
        used = {row.adapter for row in [*self.scheduler.waiting, *self.scheduler.rows]}
        for adapter in [adapter for adapter in self._retired if adapter not in used]:
            self.stack.remove(adapter)
            self.prefixes.forget(adapter)
            self._answers.pop(adapter, None)
            self._retired.remove(adapter)
            self._active = []

    # --- rows --------------------------------------------------------------------------------------------------------

    def row(self, request: GenerationRequest, deliver: Callable[[TokenChunk | GrokoraError], None]) -> ActiveRow:
        """A row for a request; `submit` it to have it answered. GrokoraError if it cannot be."""
        limit = request.token_limit(self.chat.context_length)
        matcher = self._grammars.matcher(request.grammar) if request.grammar else None
        if request.adapter is not None and request.adapter not in self.adapters:
            raise GrokoraError(f"There is no adapter {request.adapter!r} on this engine.")
        return ActiveRow(request, self.adapters[request.adapter] if request.adapter else None, limit, matcher, deliver)

    def submit(self, row: ActiveRow) -> None:
        """Have a row answered in the steps that follow."""
        if row.adapter and row.adapter not in self.stack.adapters:
            # Retired and freed since the row was made, maybe in another thread; without it the base would answer.
            row.adapter = self.adapters.get(row.adapter.name)
            if row.adapter is None:
                return row.finish(GrokoraError(f"The adapter {row.request.adapter!r} was unloaded; ask again."))
        self.scheduler.waiting.append(row)
        return None

    @property
    def idle(self) -> bool:
        """Whether no row waits or runs."""
        return not (self.scheduler.rows or self.scheduler.waiting)

    @torch.inference_mode()
    def step(self) -> None:
        """Run a share of the prompts that wait, then give every row that is past its prompt one more token."""
        self._release_done()
        self._prefill()
        self._release_done()  # before the next pass: a row that fills the context has no position for another token
        self._decode()
        self._release_done()
        self._free_retired()

    def _prefill(self) -> None:
        scheduler = self.scheduler
        for row in [row for row in scheduler.waiting if self.runner is None or row.limit > self._exact_tokens]:
            scheduler.waiting.remove(row)
            self._generate_alone(row)
        if self.runner is None:
            return
        rows, budget = scheduler.pick(
            lambda row: BLOCK * len(self.prefixes.find(row.adapter, row.tokens[:-1])), self._token_bytes
        )
        if not rows:
            return
        slots = self.runner.slots
        with self._failing(rows):
            for row in rows:
                if row not in scheduler.rows:
                    scheduler.waiting.remove(row)
                    scheduler.rows.append(row)
                    # the last token is run in any case: it yields the first logits
                    slots.open(self.prefixes.find(row.adapter, row.tokens[:-1]))
                    row.computed = row.cached = slots.lengths[-1]
                    self.counts["prompt_tokens"] += len(row.tokens)
                    self.counts["cached_tokens"] += row.cached
            start = scheduler.rows.index(rows[0])
            parts = [row.tokens[row.computed : row.computed + budget] for row in rows]
            began, in_parts = time.perf_counter(), rows[0].computed > rows[0].cached or rows[0].remaining > budget
            logits = self._pass(start, rows, parts)
            self._commit(start, rows, [len(part) for part in parts])
            if scheduler.pace and in_parts:
                if logits.is_cuda:  # a pass is only queued there
                    torch.cuda.synchronize(logits.device)
                scheduler.pace.record_part(len(parts[0]), time.perf_counter() - began)
            whole = [index for index, row in enumerate(rows) if row.remaining == 0]
            for index in whole:
                rows[index].decoding = True
                self.prefixes.add(rows[index].adapter, rows[index].tokens, partial(slots.read, start + index))
            self._take(logits[whole], [rows[index] for index in whole])

    def _decode(self) -> None:
        """One more token for every row past its prompt, and as many of its draft as it would have chosen itself, in one
        pass over the slots from the first to the last of them.

        A row between them whose prompt is still being run takes part with a token that counts for nothing: it is
        written where the next part of its prompt goes, and its logits are not looked at.
        """
        past = [slot for slot, row in enumerate(self.scheduler.rows) if row.decoding and not row.done]
        if self.runner is None or not past:
            return
        start, began = past[0], time.perf_counter()
        rows = self.scheduler.rows[start : past[-1] + 1]
        with self._failing(rows):
            drafts = self._draft(rows)
            parts = [[row.tokens[-1], *tokens] for row, tokens in zip(rows, drafts, strict=True)]
            with self.runner.slots.unchanged([slot for slot, row in enumerate(rows, start) if not row.decoding]):
                logits = self._pass(start, rows, parts, keep=[len(part) for part in parts])
            right = self._check(logits, rows, drafts)
            self._commit(start, rows, [right[index] + row.decoding for index, row in enumerate(rows)])
        if self.scheduler.pace:
            self.scheduler.pace.record_step(time.perf_counter() - began)

    def _draft(self, rows: Sequence[ActiveRow]) -> list[list[int]]:
        """How each row probably goes on, without stop tokens; nothing if that is not worth a longer pass."""
        if not self.scheduler.pads:  # a running state cannot go back to before a wrong token
            return [[] for _ in rows]
        drafts, histories = list[list[int]](), [self._answers[row.adapter] for row in rows]
        for row, history in zip(rows, histories, strict=True):
            count = min(LONGEST, row.limit - len(row.tokens) - 1) if row.decoding and not row.done else 0
            tokens = history.draft(row.text, row.tokens[-max(MATCHED) :], count) if count > 0 else []
            stop = next((index for index, token in enumerate(tokens) if token in self.stop_ids), len(tokens))
            drafts.append(tokens[:stop])
        known = [(len(tokens), history.right) for tokens, history in zip(drafts, histories, strict=True)]
        even = EVEN_TOKENS.get(self.model.device.type, EVEN_TOKENS["cuda"])
        longest = draft_length(known, len(rows), even)
        return [tokens[:longest] for tokens in drafts]

    def _check(self, logits: Tensor, rows: Sequence[ActiveRow], drafts: Sequence[Sequence[int]]) -> list[int]:
        """Take the rows' next tokens from logits [sum of 1 + drafted tokens, vocabulary] for as long as a row's draft
        says what it chooses; gives how many drafted tokens were right, a row."""
        right = [0] * len(rows)
        first = list(accumulate((len(tokens) + 1 for tokens in drafts), initial=0))
        going = [index for index, row in enumerate(rows) if row.decoding and not row.done]
        while going:
            chosen = [first[index] + right[index] for index in going]
            self._take(logits[chosen] if len(chosen) < len(logits) else logits, [rows[index] for index in going])
            going = [
                index
                for index in going
                if not rows[index].done and [rows[index].tokens[-1]] == drafts[index][right[index] : right[index] + 1]
            ]
            for index in going:
                right[index] += 1
        for row, good, tokens in zip(rows, right, drafts, strict=True):
            self._answers[row.adapter].record(good, min(good + 1, len(tokens)))
        return right

    def _pass(
        self, start: int, rows: Sequence[ActiveRow], parts: Sequence[Sequence[int]], keep: Sequence[int] | None = None
    ) -> Tensor:
        """Run the rows' next tokens; gives the logits [sum of keep, vocabulary] at the last `keep` tokens of each row
        (one, if None)."""
        assert self.runner
        began = time.perf_counter()
        self._activate([row.adapter for row in rows], max(map(len, parts)))
        logits = self.runner.run(start, parts, keep)
        self.counts["steps"] += 1
        busy = [row for row in rows if keep is None or row.decoding]
        for row in busy:
            row.seconds += (time.perf_counter() - began) / len(busy)
        return logits

    def _commit(self, start: int, rows: Sequence[ActiveRow], counts: Sequence[int]) -> None:
        """Keep the first tokens of the last pass, so many of each row."""
        assert self.runner
        self.runner.commit(start, counts)
        for row, count in zip(rows, counts, strict=True):
            row.computed += count

    def _take(self, logits: Tensor, rows: Sequence[ActiveRow]) -> None:
        """Choose each row's next token from its logits [rows, vocabulary], and deliver it."""
        if not rows:
            return
        for row, token in zip(rows, choose_tokens(logits, rows, self.stop_ids), strict=True):
            stops = token in self.stop_ids and not row.request.ignore_stop
            # before the chunk is delivered: whoever has the whole answer finds it counted
            self.counts["failed" if isinstance(token, GrokoraError) else "generated_tokens"] += not stops
            row.advance(token, self.stop_ids)

    def _release_done(self) -> None:
        """Take rows that are done out of the slots, and keep what they computed for their session's next turn."""
        self.scheduler.waiting = [row for row in self.scheduler.waiting if not row.done]
        rows = self.scheduler.rows
        for slot in reversed(range(len(rows))):
            row = rows[slot]
            if not row.done:
                continue
            assert self.runner
            if not row.failed:
                answer = row.tokens[max(0, len(row.request.prompt) - max(MATCHED)) :]
                self._answers[row.adapter].text.extend([*answer, *self.stop_ids[:1]], KEPT)
                with suppress(torch.OutOfMemoryError):  # a beginning that finds no room is not kept
                    computed = row.tokens[: self.runner.slots.lengths[slot]]
                    self.prefixes.add(row.adapter, computed, partial(self.runner.slots.read, slot))
            self.runner.slots.close(slot, clean=row.failed)
            rows[slot] = rows[-1]
            rows.pop()

    def _generate_alone(self, row: ActiveRow) -> None:
        began = time.perf_counter()
        self.counts["prompt_tokens"] += len(row.tokens)
        prompt = len(row.tokens)
        self.alone = row
        with self._failing([row]):
            self._activate([row.adapter], 0)
            generate_row(self.model, row, self.stop_ids)
        self.alone = None
        answer_tokens = len(row.tokens) - prompt
        self.counts["steps"] += answer_tokens
        self.counts["generated_tokens"] += answer_tokens
        row.seconds = time.perf_counter() - began

    @contextmanager
    def _failing(self, rows: Sequence[ActiveRow]) -> Iterator[None]:
        """What goes wrong inside is these rows' failure, and nobody else's."""
        rows = list(rows)
        try:
            yield
        except PASS_ERRORS as error:
            reason = f"{type(error).__name__}: {one_line(error, 300)}"
            for row in [row for row in rows if not row.done]:
                self.counts["failed"] += 1
                row.finish(GrokoraError(f"The model failed on this answer ({reason})."))
            self._active = []

    # --- lists of requests -------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[GenerationRequest], progress: Progress | None = None) -> list[Completion]:
        """The answers to requests, in their order. GrokoraError if one cannot be answered."""
        chunks: list[list[TokenChunk | GrokoraError]] = [[] for _ in requests]
        rows = [self.row(request, parts.append) for request, parts in zip(requests, chunks, strict=True)]
        for row in rows:
            self.submit(row)
        done = 0
        while not self.idle:
            share_cores()
            self.step()
            before, done = done, sum(row.done for row in rows)
            if progress and done > before:
                progress(done, len(rows))
        if failure := next((parts[-1] for parts in chunks if isinstance(parts[-1], GrokoraError)), None):
            raise failure
        return [
            Completion(row.tokens[len(row.request.prompt) :], last.finish, row.seconds, row.cached)
            for row, (*_, last) in zip(rows, chunks, strict=True)
            if isinstance(last, TokenChunk) and last.finish
        ]

    @torch.inference_mode()
    def score(
        self, adapter: str | None, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[float]:
        """Each completion's summed negative log-likelihood in nats, given its prompt of at least one token."""
        owner = self.adapters[adapter] if adapter else None
        nlls = [0.0] * len(prompts)
        # the last token is not run: nothing is asked after it
        texts = {
            index: [*prompt, *completion][:-1]
            for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
            if completion
        }
        while texts:
            share_cores()
            batch = self._score_batch(owner, texts, prompts, completions)
            keep = [len(completions[index]) for index in batch]
            logits = self._score_pass(owner, [texts.pop(index) for index in batch], keep)
            for index, part in zip(batch, torch.split(logits, keep), strict=True):
                target = torch.tensor(completions[index], device=part.device)
                nlls[index] = float(torch.nn.functional.cross_entropy(part.float(), target, reduction="sum"))
        return nlls

    def _score_batch(
        self,
        owner: Adapter | None,
        texts: Mapping[int, list[int]],
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
    ) -> list[int]:
        """The next texts that are scored in one pass, the shortest first. What several prompts begin with is run for
        the first of them, and then comes from the prefix cache."""
        if self.runner is None or not self.scheduler.pads:
            return [next(iter(texts))]
        limits = self.scheduler
        logit_bytes = self.model.config.get_text_config().vocab_size * self.model.dtype.itemsize
        batch, begun, width, longest, logits = list[int](), set[tuple[int, ...]](), 0, 0, 0
        for index in sorted(texts, key=lambda index: len(texts[index])):
            cached = BLOCK * len(self.prefixes.find(owner, prompts[index][:-1]))
            beginning = tuple(prompts[index][: cached + BLOCK])
            wide, long = max(width, len(texts[index]) - cached), max(longest, len(texts[index]))
            more = logits + len(completions[index]) * logit_bytes
            rows = len(batch) + 1
            full = rows > limits.max_rows or rows * wide > limits.prefill_tokens or more > SCORE_LOGIT_BYTES
            if batch and (full or rows * long * self._token_bytes > limits.row_bytes):
                break
            if len(beginning) == cached + BLOCK < len(prompts[index]):
                if beginning in begun:
                    continue
                begun.add(beginning)
            batch.append(index)
            width, longest, logits = wide, long, more
        return batch

    def _score_pass(self, owner: Adapter | None, texts: Sequence[list[int]], keep: Sequence[int]) -> Tensor:
        """The logits [sum of keep, vocabulary] at the last `keep` tokens of each text."""
        self.counts["steps"] += 1
        if self.runner is None or max(map(len, texts)) > self._exact_tokens:
            self._activate([owner], 0)
            return torch.cat([score_row(self.model, text, count) for text, count in zip(texts, keep, strict=True)])
        slots = self.runner.slots
        try:
            for text, count in zip(texts, keep, strict=True):
                slots.open(self.prefixes.find(owner, text[: len(text) - count]))
            parts = [text[length:] for text, length in zip(texts, slots.lengths, strict=True)]
            self._activate([owner] * len(texts), max(map(len, parts)))
            logits = self.runner.run(0, parts, keep)
            self.runner.commit(0, [len(part) for part in parts])
            for slot, (text, count) in enumerate(zip(texts, keep, strict=True)):
                self.prefixes.add(owner, text[: len(text) - count], partial(slots.read, slot))
            return logits
        finally:
            slots.clear()
