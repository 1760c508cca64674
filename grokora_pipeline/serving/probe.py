"""Whether an adapter acts on a server: the same prompts with it on and off, against this project's own greedy answers.

Two kinds of servers are told apart by what they answer: llama.cpp's (`/lora-adapters`; a request sets the scale of
each adapter) and OpenAI-compatible ones, where the adapter and its base are two models (vLLM, Ollama, our gateway).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from scipy.stats import binomtest

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.messages import calls_of

ENOUGH = 0.95  # of the answers, so that the server is said to agree


@dataclass(frozen=True, slots=True)
class Answers:
    """A prompt, and what this project's engine answers to it greedily with the adapter on and off."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    on: str
    off: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a server does with an adapter. `agreement` is the share of answers that are the same as ours."""

    acts: bool
    agrees: bool
    agreement: float
    prompts: int
    sentence: str


class Server:
    """A server that answers chats; GrokoraError if there is none, or if it does not offer the adapter."""

    def __init__(self, url: str, agent: str, *, model: str = "", base_model: str = "", key: str = "") -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url = url.rstrip("/").removesuffix("/v1")
        self.client = httpx.Client(base_url=self.url, timeout=300, headers=headers)
        loaded = self._get("/lora-adapters")
        self.scales = isinstance(loaded, list)
        if self.scales and not loaded:
            raise GrokoraError(f"The server at {self.url} has no adapter loaded; start it with `--lora adapter.gguf`.")
        listed = self._get("/v1/models")
        entries = listed.get("data") or [] if isinstance(listed, dict) else []
        names = [str(entry.get("id")) for entry in entries if isinstance(entry, dict)]
        if not names:
            raise GrokoraError(f"The server at {self.url} lists no models at /v1/models; is it OpenAI-compatible?")
        self.on = names[0] if self.scales else self._named(names, [model] if model else [agent])
        self.off = (
            self.on if self.scales else self._named(names, [base_model] if base_model else ["base", f"{agent}-base"])
        )

    def _named(self, names: list[str], wanted: list[str]) -> str:
        for name in names:
            if name in wanted or name.removesuffix(":latest") in wanted:
                return name
        raise GrokoraError(
            f"The server at {self.url} has no model {' or '.join(wanted)} (it has {', '.join(names[:8])}); "
            "name them with --model and --base-model."
        )

    def _get(self, path: str) -> Any:
        try:
            reply = self.client.get(path)
        except httpx.HTTPError as error:
            raise GrokoraError(f"No server answers at {self.url} ({type(error).__name__}); start it first.") from error
        return _json(reply) if reply.is_success else None

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        try:
            return self.client.post(path, json=body)
        except httpx.HTTPError as error:
            raise GrokoraError(f"The server at {self.url} broke off ({type(error).__name__}).") from error

    def prompt_ids(self, answers: Answers) -> list[int] | None:
        """The ids that the server reads for a prompt; None if it does not tell them."""
        body: dict[str, Any] = {"messages": answers.messages} | ({"tools": answers.tools} if answers.tools else {})
        if self.scales:
            rendered = _json(self._post("/apply-template", body)).get("prompt")
            if not isinstance(rendered, str):
                return None
            body = {"content": rendered, "parse_special": True, "add_special": True}
            tokens = _json(self._post("/tokenize", body)).get("tokens")
        else:
            tokens = _json(self._post("/tokenize", {**body, "model": self.on, "add_generation_prompt": True})).get(
                "tokens"
            )
        return tokens if isinstance(tokens, list) and all(isinstance(token, int) for token in tokens) else None

    def answer(self, answers: Answers, *, on: bool, new_tokens: int) -> dict[str, Any]:
        """The server's greedy answer as a message."""
        body: dict[str, Any] = {
            **{"model": self.on if on else self.off, "messages": answers.messages},
            **{"temperature": 0.0, "max_tokens": new_tokens, "seed": 0},
        }
        if answers.tools:
            body["tools"] = answers.tools
        if self.scales:
            body |= {"lora": [{"id": 0, "scale": 1.0 if on else 0.0}], "cache_prompt": False, "repeat_penalty": 1.0}
        reply = self._post("/v1/chat/completions", body)
        choices = _json(reply).get("choices")
        if not reply.is_success or not choices:
            raise GrokoraError(f"The server at {self.url} answers with status {reply.status_code}: {reply.text[:200]}")
        message: dict[str, Any] = choices[0]["message"]
        return message


def _json(reply: httpx.Response) -> Any:
    try:
        return reply.json()
    except json.JSONDecodeError:
        return {}


def probe(server: Server, chat: ChatFormat, prompts: Sequence[Answers], new_tokens: int) -> Verdict:
    """Ask everything twice and compare. GrokoraError if the adapter changes none of our own answers: nothing is shown.

    Answers are compared as messages, so a server may return a call as text or as a call.
    """
    changed = [entry for entry in prompts if entry.on != entry.off]
    if not changed:
        raise GrokoraError(
            f"The adapter changes none of our own answers to {len(prompts)} prompts, so nothing can be seen; give more."
        )
    on = [_meaning(chat, server.answer(entry, on=True, new_tokens=new_tokens)) for entry in prompts]
    off = [_meaning(chat, server.answer(entry, on=False, new_tokens=new_tokens)) for entry in changed]
    acts = any(one != on[prompts.index(entry)] for one, entry in zip(off, changed, strict=True))
    same = sum(one == _meaning(chat, chat.parse_answer(entry.on)) for one, entry in zip(on, prompts, strict=True))
    total = len(prompts)
    interval = binomtest(same, total).proportion_ci(method="wilson")
    share = f"{same} of {total} answers are the same as ours ({interval.low:.0%} to {interval.high:.0%})"
    difference, told = _first_difference(server, chat, prompts)
    agrees = acts and not difference and same / total >= ENOUGH
    if not acts:
        sentence = f"does not act: with it on and off the server gives the same {len(changed)} answers, ours differ"
    elif difference:
        sentence = f"acts but the template differs ({difference}); {share}"
    elif agrees:
        known = "the prompts are the same token for token" if told else "the server does not tell its prompts"
        sentence = f"acts and agrees: {share}; {known}"
    elif told:
        sentence = f"acts, and its prompts are the same token for token, but only {share}; is it quantised?"
    else:
        sentence = f"acts, but only {share}; its prompts are unknown: compare its template and quantisation"
    return Verdict(acts, agrees, same / total, total, f"The adapter {sentence}.")


def _first_difference(server: Server, chat: ChatFormat, prompts: Sequence[Answers]) -> tuple[str, bool]:
    """(where the server's prompts leave ours first, "" if nowhere; whether the server tells them)."""
    told = False
    for number, entry in enumerate(prompts, 1):
        theirs, ours = server.prompt_ids(entry), chat.encode_prompt(entry.messages, entry.tools)
        told |= theirs is not None
        if theirs is not None and theirs != ours:
            shorter = min(len(theirs), len(ours))
            at = next((index for index in range(shorter) if theirs[index] != ours[index]), shorter)
            their_text, our_text = (
                chat.tokenizer.decode(ids[at : at + 8], skip_special_tokens=False) for ids in (theirs, ours)
            )
            return f"first difference at token {at} of prompt {number}: {their_text!r} instead of {our_text!r}", True
    return "", told


def _meaning(chat: ChatFormat, message: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """An answer's text and calls, so that a call in the text and a call of the API compare equal."""
    if not message.get("tool_calls"):
        message = chat.parse_answer(str(message.get("content") or ""))
    calls = [(call.name, json.dumps(call.arguments, sort_keys=True)) for call in calls_of(dict(message))]
    return str(message.get("content") or "").strip(), calls
