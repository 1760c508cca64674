"""A fixed prompt: what is put before an agent's own messages in place of, or beside, an adapter.

The evaluation measures it and the gateway serves it by the same function, so that what was proven is what answers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.messages import Message, Tool, message_role, message_text


class FixedPrompt(BaseModel):
    """An instruction for the end of the system message, and example turns that follow it; either may be empty."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    instruction: str = ""
    messages: list[Message] = []

    def applied_to(self, messages: Sequence[Mapping[str, Any]]) -> list[Message]:
        """The messages with the instruction at the end of the system message, and the example turns before the rest.

        There is one system message at most: templates turn a second one into a user's words.
        """
        first = next((index for index, one in enumerate(messages) if message_role(one) != "system"), len(messages))
        system, rest = messages[:first], [dict(message) for message in messages[first:]]
        text = "\n\n".join(filter(None, [*map(message_text, system), self.instruction]))
        opening: list[Message] = [{"role": "system", "content": text}] if text else []
        return [*opening, *self.messages, *rest]


def encode_behind(
    prompt: FixedPrompt | None,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Tool] | None,
    chat: ChatFormat,
    room: int | None = None,
) -> list[int]:
    """The token ids of messages behind a fixed prompt, in a context of `room` tokens (None: the model's).

    The fixed prompt is left out if the context has no room for it: its agent then answers as the base model would.
    """
    room = chat.context_length if room is None else room
    if prompt and len(tokens := chat.encode_prompt(prompt.applied_to(messages), tools)) < room:
        return tokens
    return chat.encode_prompt(messages, tools)


def example_turns(examples: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The turns of finished examples, without their system messages: few-shot examples for a prompt."""
    return [
        message
        for example in examples
        for message in [*(one for one in example["prompt"] if message_role(one) != "system"), *example["completion"]]
    ]
