"""Whether an adapter acts on a server: the same prompts with it on and off, against this project's own greedy answers.

Three kinds of servers are told apart: llama.cpp's (`/lora-adapters`; a request sets the scale of each adapter),
OpenAI-compatible ones on which the adapter and its base are two models (vLLM, Ollama, our gateway), and those that
serve one merged model, whose answers are compared with ours of the adapter and of the base.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from scipy.stats import binomtest

from grokora_pipeline.agents import AnswerSpec
from grokora_pipeline.datasets.example import ExampleLine
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.evaluation.metrics import METRICS, get_metric
from grokora_pipeline.evaluation.metrics.answers import Answer
from grokora_pipeline.evaluation.plan import choose_rows, example_lines, turn_ids, with_room
from grokora_pipeline.evaluation.scoring import cluster_sums
from grokora_pipeline.evaluation.significance import estimate
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.messages import Message, calls_of, message_text
from grokora_pipeline.models.sequences import first_difference
from grokora_pipeline.settings import http_options

ENOUGH = 0.95  # of the answers, so that the server is said to agree
LEAST_ROWS = 10  # with fewer, a metric's interval holds almost everything and explains nothing
UNQUANTISED_BITS = 14.0  # a weight, on average; below, the weights are quantised


@dataclass(frozen=True, slots=True)
class Answers:
    """A held-out example, and what this project's engine answers to it greedily with the adapter on and off.

    `logprob` is the mean log-probability (nats) of a token of `on`, None if there is none; `tokens` their number.
    """

    example: Mapping[str, Any]
    on: str
    off: str
    logprob: float | None = None
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Judge:
    """How an agent's answers are scored: by its main metric, against what its log holds."""

    metric: str
    answer: AnswerSpec

    def compare(
        self, prompts: Sequence[Answers], theirs: Sequence[Message], ours: Sequence[Message]
    ) -> "Scores | None":
        """The metric of both; None if it applies to fewer than LEAST_ROWS rows, or needs more than the answers."""
        if self.metric not in METRICS or not all(entry.example.get("completion") for entry in prompts):
            return None
        metric, spec = get_metric(self.metric), self.answer
        rows = {
            name: [
                Answer(message, one["completion"][-1], one.get("tools"), spec.schema_, spec.type)
                for one, message in zip((entry.example for entry in prompts), messages, strict=True)
            ]
            for name, messages in (("there", theirs), ("here", ours))
        }
        if sum(metric.stats(row) is not None for row in rows["here"]) < LEAST_ROWS:
            return None
        tables = cluster_sums(metric, rows, [entry.example["meta"]["session_id"] for entry in prompts])
        if tables.keys() != rows.keys():
            return None
        there, here = (estimate(tables[name], metric.combine) for name in ("there", "here"))
        return Scores(self.metric, there.value, here.value, here.low, here.high)


@dataclass(frozen=True, slots=True)
class Scores:
    """A metric of the server's answers and of ours to the same prompts, with the 95 % interval of ours."""

    metric: str
    there: float
    here: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether the server's value is in the interval of ours, or better than it: 1.0 lies beyond most intervals."""
        return self.low <= self.there if get_metric(self.metric).higher_is_better else self.there <= self.high

    def __str__(self) -> str:
        return f"{self.metric} is {self.there:.3f} there and {self.here:.3f} here ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a server does with an adapter. `agreement` is the share of answers that are the same as ours."""

    acts: bool
    agrees: bool
    agreement: float
    prompts: int
    sentence: str
    scores: "Scores | None" = None


class ProbedServer:
    """A server that answers chats; GrokoraError if there is none, or if it does not offer the adapter.

    `model` and `base_model` are its names with the adapter on and off; `merged`: it serves one model, with the adapter
    in its weights. `off` is None then, and `bits` a weight's mean bits if the server tells its size.
    """

    def __init__(
        self, url: str, agent: str, *, model: str = "", base_model: str = "", key: str = "", merged: bool = False
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url = url.rstrip("/").removesuffix("/v1")
        # A connection a request: llama.cpp leaves a kept one without an answer, now and then.
        alone = httpx.Limits(max_keepalive_connections=0)
        options = http_options(self.url)
        self.client = httpx.Client(base_url=self.url, timeout=300, headers=headers, limits=alone, **options)
        loaded = self._get("/lora-adapters")
        listed = self._get("/v1/models")
        entries = [one for one in listed.get("data") or [] if isinstance(one, dict)] if isinstance(listed, dict) else []
        names = [str(entry.get("id")) for entry in entries]
        if not names:
            raise GrokoraError(f"The server at {self.url} lists no models at /v1/models; is it OpenAI-compatible?")
        self.llamacpp, self.adapter = isinstance(loaded, list), None
        if self.llamacpp and not merged:
            self.adapter = self._adapter(loaded, model or agent)
        if merged or self.llamacpp:
            self.on = model if model in names else names[0]
            self.off = None if merged else self.on
        else:
            self.on = self._named(names, [model] if model else [agent])
            self.off = self._named(names, [base_model] if base_model else ["base", f"{agent}-base"])
        facts = next((entry.get("meta") or {} for entry in entries if entry.get("id") == self.on), {})
        size, parameters = facts.get("size"), facts.get("n_params")
        self.bits = 8 * size / parameters if size and parameters else None

    def _adapter(self, loaded: list[dict[str, Any]], wanted: str) -> int:
        """The id of the adapter that is meant, of those that a llama.cpp has loaded."""
        if not loaded:
            raise GrokoraError(
                f"The server at {self.url} has no adapter loaded; start it with `--lora adapter.gguf`, or say --merged."
            )
        fitting = [one for one in loaded if len(loaded) == 1 or wanted in Path(str(one.get("path"))).parts[-2:]]
        fitting = fitting or [one for one in loaded if wanted in str(one.get("path"))]
        if len(fitting) != 1:
            paths = ", ".join(str(one.get("path")) for one in loaded[:8])
            raise GrokoraError(f"The server at {self.url} has several adapters ({paths}); name a part by --model.")
        return int(fitting[0]["id"])

    def _named(self, names: list[str], wanted: list[str]) -> str:
        for name in names:
            if name in wanted or name.removesuffix(":latest") in wanted:
                return name
        raise GrokoraError(
            f"The server at {self.url} has no model {' or '.join(wanted)} (it has {', '.join(names[:8])}); "
            "name them with --model and --base-model, or say --merged if it serves no base."
        )

    def _get(self, path: str) -> Any:
        try:
            reply = self.client.get(path)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise GrokoraError(f"No server answers at {self.url} ({type(error).__name__}); start it first.") from error
        return _json(reply) if reply.is_success else None

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        try:
            return self.client.post(path, json=body)
        except httpx.HTTPError as error:
            raise GrokoraError(f"The server at {self.url} broke off ({type(error).__name__}).") from error

    def prompt_ids(self, answers: Answers) -> list[int] | None:
        """The ids that the server reads for a prompt; None if it does not tell them."""
        tools = answers.example.get("tools")
        body: dict[str, Any] = {"messages": answers.example["prompt"]} | ({"tools": tools} if tools else {})
        if self.llamacpp:
            rendered = _json(self._post("/apply-template", body)).get("prompt")
            if not isinstance(rendered, str):
                return None
            body = {"content": rendered, "parse_special": True, "add_special": True}
        else:
            body |= {"model": self.on, "add_generation_prompt": True}
        tokens = _json(self._post("/tokenize", body)).get("tokens")
        return tokens if isinstance(tokens, list) and all(isinstance(token, int) for token in tokens) else None

    def answer(self, answers: Answers, *, on: bool, new_tokens: int) -> tuple[Message, list[float]]:
        """(the server's greedy answer as a message, the log-probabilities of its tokens, [] if it does not tell)."""
        body: dict[str, Any] = {
            **{"model": self.on if on else self.off, "messages": answers.example["prompt"]},
            **{"temperature": 0.0, "max_tokens": new_tokens, "seed": 0, "logprobs": on},
        }
        if tools := answers.example.get("tools"):
            body["tools"] = tools
        if self.llamacpp:
            # Its cache of prompts asks for tokens only: the adapter's keys would be read with the adapter off.
            # A penalty for repeated tokens may be the default of who started it.
            body |= {"cache_prompt": False, "repeat_penalty": 1.0}
        if self.adapter is not None:
            body["lora"] = [{"id": self.adapter, "scale": 1.0 if on else 0.0}]
        reply = self._post("/v1/chat/completions", body)
        choices = _json(reply).get("choices")
        if not reply.is_success or not choices:
            raise GrokoraError(f"The server at {self.url} answers with status {reply.status_code}: {reply.text[:200]}")
        message: Message = choices[0]["message"]
        logprobs = (choices[0].get("logprobs") or {}).get("content") or []
        return message, [float(token["logprob"]) for token in logprobs if isinstance(token.get("logprob"), int | float)]


def _json(reply: httpx.Response) -> Any:
    try:
        document = reply.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return document


def held_out_examples(split: Path, examples: Path, most: int) -> list[ExampleLine]:
    """At most so many held-out examples (0: all) of a split, always the same; GrokoraError if there are none."""
    rows = set(choose_rows(turn_ids(split, "validation"), most))
    chosen = [row for row in example_lines(examples) if row["meta"]["turn_id"] in rows]
    if not chosen:
        raise GrokoraError(f"{split} has no held-out prompts to compare answers on; materialize tokenized_split.")
    return chosen


def own_answers(
    base: Path, adapter: Path, examples: Sequence[Mapping[str, Any]], new_tokens: int, dtype: Any = None
) -> list[Answers]:
    """Our engine's greedy answers with the adapter on and off. `dtype` is a torch dtype, by default the gateway's."""
    from grokora_pipeline.serving.engine.decoder import Decoder
    from grokora_pipeline.serving.engine.request import GenerationRequest

    decoder = Decoder.load(base, dtype=dtype)
    decoder.add_adapter("champion", adapter)
    chat = decoder.chat
    prompts = [tuple(chat.encode_prompt(one["prompt"], one.get("tools"))) for one in examples]
    requests = [GenerationRequest(prompt, name, new_tokens) for prompt in prompts for name in ("champion", None)]
    tokens = [completion.tokens for completion in decoder.generate(requests)]
    answered = [index for index in range(len(prompts)) if tokens[2 * index]]
    scores = decoder.score(
        "champion", [prompts[index] for index in answered], [tokens[2 * index] for index in answered]
    )
    nlls = dict(zip(answered, scores, strict=True))
    texts, sizes = [chat.decode(row) for row in tokens], [len(row) for row in tokens]
    return [
        Answers(one, texts[2 * i], texts[2 * i + 1], -nlls[i] / sizes[2 * i] if i in nlls else None, sizes[2 * i])
        for i, one in enumerate(examples)
    ]


def answer_budget(chat: ChatFormat, examples: Sequence[Mapping[str, Any]]) -> int:
    """How many tokens an answer may have, as evaluation gives them: 1.25 x the longest expected one + 16."""
    lengths = [len(chat.encode_example(one, exact=False)[1]) for one in examples if one.get("completion")]
    return with_room(max(lengths, default=64))


def probe(
    server: ProbedServer,
    chat: ChatFormat,
    prompts: Sequence[Answers],
    new_tokens: int,
    *,
    judge: Judge | None = None,
    quantised: bool | None = None,
) -> ProbeResult:
    """Ask everything and compare. GrokoraError if the adapter changes none of our own answers: nothing is shown.

    Answers are compared as messages, so a server may return a call as text or as a call. If the server's weights are
    `quantised` (None: as it tells), fewer equal answers are explained if the judge's metric stays in its interval.
    """
    changed = [index for index, entry in enumerate(prompts) if entry.on != entry.off]
    if not changed:
        raise GrokoraError(
            f"The adapter changes none of our own answers to {len(prompts)} prompts, so nothing can be seen; give more."
        )
    replies = [server.answer(entry, on=True, new_tokens=new_tokens) for entry in prompts]
    theirs = [_understood(chat, message) for message, _ in replies]
    ours = [chat.parse_answer(entry.on) for entry in prompts]
    same = [_meaning(one) == _meaning(other) for one, other in zip(theirs, ours, strict=True)]
    acts = _acts(server, chat, prompts, changed, theirs, new_tokens=new_tokens)
    total, equal = len(prompts), sum(same)
    interval = binomtest(equal, total).proportion_ci(method="wilson")
    share = f"{equal} of {total} answers are the same as ours ({interval.low:.0%} to {interval.high:.0%})"
    share += _logprob_difference(prompts, [logprobs for _, logprobs in replies], same)
    difference, tells_prompts = _first_difference(server, chat, prompts)
    if quantised is None:
        quantised = server.bits is not None and server.bits < UNQUANTISED_BITS
    scores = judge.compare(prompts, theirs, ours) if judge else None
    identical = equal / total >= ENOUGH
    explained = quantised and tells_prompts and scores is not None and scores.holds
    agrees = acts and not difference and (identical or explained)
    known = "the prompts are the same token for token" if tells_prompts else "the server does not tell its prompts"
    metric = f"; {scores}" if scores and not identical else ""
    if not acts:
        sentence = f"does not act: {len(changed)} answers are as without it, ours differ"
    elif difference:
        sentence = f"acts but the template differs ({difference}); {share}"
    elif identical:
        sentence = f"acts and agrees: {share}; {known}"
    elif explained:
        sentence = f"acts and agrees but for its quantised weights: {share}{metric}, no worse than that; {known}"
    elif tells_prompts:
        sentence = f"acts, and {known}, but only {share}{metric}: its weights may be quantised"
    else:
        sentence = f"acts, but only {share}{metric}; its prompts are unknown: compare its template and quantisation"
    return ProbeResult(acts, agrees, equal / total, total, f"The adapter {sentence}.", scores)


def _acts(
    server: ProbedServer,
    chat: ChatFormat,
    prompts: Sequence[Answers],
    changed: Sequence[int],
    theirs: Sequence[Message],
    *,
    new_tokens: int,
) -> bool:
    """Whether an answer of those that the adapter changes here is another with it off; if off cannot be asked, whether
    more of them are as ours with the adapter than as ours without."""
    if server.off is not None:  # until the first that differs, which mostly is the first
        return any(
            _meaning(_understood(chat, server.answer(prompts[index], on=False, new_tokens=new_tokens)[0]))
            != _meaning(theirs[index])
            for index in changed
        )
    on, off = (
        sum(_meaning(theirs[index]) == _meaning(chat.parse_answer(text)) for index, text in texts)
        for texts in ([(index, getattr(prompts[index], side)) for index in changed] for side in ("on", "off"))
    )
    return on > off


def _logprob_difference(
    prompts: Sequence[Answers], logprobs_there: Sequence[Sequence[float]], same: Sequence[bool]
) -> str:
    """How far the log-probabilities of equal answers are from ours, in nats a token; "" if the server tells none."""
    distances = [
        abs(sum(logprobs[: entry.tokens]) / entry.tokens - entry.logprob)
        for entry, logprobs, equal in zip(prompts, logprobs_there, same, strict=True)
        if equal and entry.logprob is not None and len(logprobs) >= entry.tokens
    ]
    return f", their tokens' log-probabilities within {max(distances):.3f}" if distances else ""


def _first_difference(server: ProbedServer, chat: ChatFormat, prompts: Sequence[Answers]) -> tuple[str, bool]:
    """(where the server's prompts leave ours first, "" if nowhere; whether the server tells them)."""
    tells_prompts = False
    for number, entry in enumerate(prompts, 1):
        theirs, example = server.prompt_ids(entry), entry.example
        ours = chat.encode_prompt(example["prompt"], example.get("tools"))
        tells_prompts |= theirs is not None
        if theirs is not None and theirs != ours:
            at = first_difference(theirs, ours)
            their_text, our_text = (
                chat.tokenizer.decode(ids[at : at + 8], skip_special_tokens=False) for ids in (theirs, ours)
            )
            return f"first difference at token {at} of prompt {number}: {their_text!r} instead of {our_text!r}", True
    return "", tells_prompts


def _understood(chat: ChatFormat, message: Message) -> Message:
    """A server's message with the calls that it left in the text."""
    if message.get("tool_calls"):
        return message
    return chat.parse_answer(message_text(message))


def _meaning(message: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """An answer's text and calls, so that a call in the text and a call of the API compare equal."""
    calls = [(call.name, json.dumps(call.arguments, sort_keys=True)) for call in calls_of(dict(message))]
    return message_text(message).strip(), calls
