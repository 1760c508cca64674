"""How an answer is written and read back: what stands before it, around its reasoning, and after it.

The marks are read off the chat template by rendering one made-up answer, with and without reasoning.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from grokora_pipeline.models.messages import Message

TEXT, THOUGHT = "Zq7text", "Zq7thought"
_ASK: Message = {"role": "user", "content": "Zq7ask"}
_OPEN_TAG = re.compile(r"<([^<>/|\s]+)>\s*\Z")


def begun(text: str, mark: str) -> int:
    """How many characters of a mark, which is not whole yet, a growing text ends with."""
    return next((size for size in range(len(mark) - 1, 0, -1) if text.endswith(mark[:size])), 0)


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """An answer is `head` + text + `tail`, or `opening` + reasoning + `closing` + text + `tail`, then the stop token.

    `closing` is "" if the template writes no reasoning, or ends an answer after it. `opening` is "" if the prompt
    itself opens the reasoning.
    """

    head: str = ""
    opening: str = ""
    closing: str = ""
    tail: str = ""
    strips: bool = False  # the template removes white space around the text

    @classmethod
    def of(cls, render: Callable[..., str], stop_token: str) -> "AnswerForm":
        """The form that a template shows; `render(turns, generation=…)` is the template with all else filled in."""
        prompt = render([_ASK], generation=True)
        answer: Message = {"role": "assistant", "content": f" {TEXT} "}
        plain = render([_ASK, answer], generation=False)
        thoughtful = {**answer, "reasoning_content": THOUGHT, "thinking": THOUGHT}
        reasoned = render([_ASK, thoughtful], generation=False)
        head, opening, closing = "", "", ""
        if reasoned.startswith(prompt) and (rest := reasoned[len(prompt) :]).count(THOUGHT) == 1:
            opening, _, closing = rest.partition(TEXT)[0].removesuffix(" ").partition(THOUGHT)
        elif not plain.startswith(prompt) and (tag := _OPEN_TAG.search(prompt)):
            # As DeepSeek-R1: the prompt opens `<think>`, and an answer in a history is shown without it.
            closing = f"\n</{tag[1]}>\n\n"
        if plain.startswith(prompt):
            head = plain[len(prompt) :].partition(TEXT)[0].removesuffix(" ")
        elif not opening:
            head = closing  # the prompt has opened the reasoning: without any, it is closed at once
        if stop_token in closing:  # Solar-Open: reasoning is a message of its own, after which the model stops
            closing = ""
        after = plain.rpartition(TEXT)[2]
        strips = not after.startswith(" ")
        tail, stop, _ = after.removeprefix(" ").partition(stop_token)
        return cls(head, opening, closing, tail if stop else "", strips)

    def write(self, text: str, reasoning: str = "") -> str:
        """The answer up to its stop token. Reasoning is left out if the template has no place for it."""
        text = text.strip() if self.strips else text
        if reasoning and self.closing:
            return f"{self.opening}{reasoning.strip()}{self.closing}{text}{self.tail}"
        return f"{self.head}{text}{self.tail}"

    def read(self, answer: str) -> tuple[str, str]:
        """(reasoning, text) of an answer up to its stop token; white space around each is removed.

        An answer that ends within its reasoning has no text. `<think>` is understood from every model.
        """
        answer = answer.strip()
        opening, closing = self.opening.strip(), self.closing.strip()
        if not closing or (opening and not answer.startswith(opening)):
            if self.head.strip() and answer.startswith(self.head.strip()):
                return "", self._without_tail(answer.removeprefix(self.head.strip()))
            if opening and answer.startswith(opening):  # an answer of nothing but reasoning
                return answer.removeprefix(opening).strip(), ""
            if not answer.startswith("<think>"):
                return "", self._without_tail(answer)
            opening, closing = "<think>", "</think>"
        reasoning, _, text = answer.removeprefix(opening).partition(closing)
        return reasoning.strip(), self._without_tail(text)

    def visible(self, growing: str) -> str:
        """The text of an answer that still grows, as far as it is certain to be text."""
        start = growing.lstrip()
        marks = [mark.strip() for mark in (self.opening, self.head, "<think>") if mark.strip()]
        if any(mark.startswith(start) for mark in marks):
            return ""
        text = self.read(growing)[1]
        held_back = begun(text, self.tail.strip())
        return text[:-held_back].rstrip() if held_back else text

    def visible_reasoning(self, growing: str) -> str:
        """The reasoning of an answer that still grows, as far as it is certain not to begin its closing mark."""
        reasoning, text = self.read(growing)
        if text:
            return reasoning
        for mark in (self.closing.strip(), "</think>"):
            reasoning = reasoning[: len(reasoning) - begun(reasoning, mark)].rstrip()
        return reasoning

    def _without_tail(self, text: str) -> str:
        return text.strip().removesuffix(self.tail.strip()).strip()
