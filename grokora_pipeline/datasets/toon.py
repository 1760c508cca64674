"""TOON for structured payloads in prompts: the same data in fewer tokens, by the official `toon-format` package.

A payload is re-encoded only if decoding gives the original back and the text gets shorter; else it is left alone.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grokora_pipeline.models.messages import Message, refuse_constant

_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)
_LINE = re.compile(r"^(?P<lead>[^\n{\[]{0,60}?)(?P<json>[{\[].*[}\]])[ \t]*$", re.MULTILINE)
MIN_CHARACTERS = 40


@dataclass(slots=True)
class Savings:
    """What re-encoding saved; tokens are counted if a counter is given."""

    payloads: int = 0
    characters_before: int = 0
    characters_after: int = 0
    tokens_before: int = 0
    tokens_after: int = 0
    count_tokens: Callable[[str], int] | None = None

    def add(self, before: str, after: str) -> str:
        """Count one payload; returns what it became."""
        self.payloads += 1
        self.characters_before += len(before)
        self.characters_after += len(after)
        if self.count_tokens:
            self.tokens_before += self.count_tokens(before)
            self.tokens_after += self.count_tokens(after)
        return after

    def as_dict(self) -> dict[str, int]:
        """The figures alone."""
        names = ["payloads", "characters_before", "characters_after"]
        names += ["tokens_before", "tokens_after"] if self.count_tokens else []
        return {name: getattr(self, name) for name in names}


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def encode_payload(text: str) -> str | None:
    """A JSON object or list as TOON; None if that would lose something or save nothing."""
    from toon_format import ToonDecodeError, decode, encode

    if len(text) < MIN_CHARACTERS:
        return None
    try:
        value = json.loads(
            text, object_pairs_hook=_members, parse_constant=refuse_constant
        )  # orjson rounds long integers
        encoded: str = encode(value)
        lossless = json.dumps(decode(encoded)) == json.dumps(value)
    except (ToonDecodeError, ValueError, RecursionError):
        return None
    return encoded if lossless and len(encoded) < len(text) else None


def encode_text(text: str, savings: Savings | None = None) -> str:
    """The text with its JSON payloads as TOON: the whole text, fenced blocks, or JSON that ends a line of its own."""
    if "{" not in text:
        return text
    savings = savings or Savings()
    whole = encode_payload(text.strip())
    if whole is not None:
        return savings.add(text, whole)

    def fenced(match: re.Match[str]) -> str:
        """The TOON of a JSON block between fences, or the block as it is."""
        encoded = encode_payload(match.group(1))
        return match.group() if encoded is None else savings.add(match.group(), f"```toon\n{encoded}\n```")

    def inline(match: re.Match[str]) -> str:
        """The TOON of JSON that ends a line of text, or the text as it is."""
        encoded = encode_payload(match.group("json"))
        lead = match.group("lead").rstrip()
        return match.group() if encoded is None else savings.add(match.group(), f"{lead}\n{encoded}".lstrip("\n"))

    return _LINE.sub(inline, _FENCE.sub(fenced, text))


def encode_message(message: Message, savings: Savings | None = None) -> Message:
    """A chat message of a prompt with its payloads as TOON. System prompts and what the model said stay as they are."""
    content = message.get("content")
    if message.get("role") not in {"user", "tool"} or not isinstance(content, str):
        return message
    return {**message, "content": encode_text(content, savings)}
