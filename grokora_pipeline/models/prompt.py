"""A fixed prompt: what is put before an agent's own messages in place of, or beside, an adapter.

The evaluation measures it and the gateway serves it by the same function, so that what was proven is what answers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from grokora_pipeline.models.messages import Message, message_role, message_text


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


def example_turns(examples: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The turns of finished examples, without their system messages: few-shot examples for a prompt."""
    return [
        message
        for example in examples
        for message in [*(one for one in example["prompt"] if message_role(one) != "system"), *example["completion"]]
    ]
