"""Which template a model is used with: its own if nothing is lost in it, else its own behind the text form.

A made-up conversation of every shape is rendered and read back. A template that loses a text, drops a call, or writes
an answer that `read_message` does not read back exactly is tried with the tools as text, then with the system message
in the user's, then with lists of parts; at last this project's default stands in its place.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

from jinja2 import TemplateError

from grokora_pipeline.errors import GrokoraError, one_line
from grokora_pipeline.models.answers import TEXT, AnswerForm
from grokora_pipeline.models.messages import Message, Tool, answer_text, calls_of, normalise, parse_calls
from grokora_pipeline.models.template import compile_template, text_form, with_fixed_date

_TOOL: Message = {
    "type": "function",
    "function": {
        "name": "zq7tool",
        "description": "zq7description",
        "parameters": {"type": "object", "properties": {"zq7key": {"type": "string"}}, "required": ["zq7key"]},
    },
}
_ARGUMENTS: tuple[dict[str, Any], ...] = (
    {"zq7key": "zq7value"},
    {"zq7key": 'a "b"\nc', "n": 7, "s": "7", "x": [1.5, None, True], "o": {"k": "é"}},
    {},
)
_ASK: Message = {"role": "user", "content": "zq7ask"}
_SYSTEM: Message = {"role": "system", "content": "zq7system"}
_NEXT: Message = {"role": "user", "content": "zq7next"}


def _calls(*arguments: dict[str, Any], content: str = "") -> Message:
    calls = [
        {"id": f"zq7call{index}", "type": "function", "function": {"name": "zq7tool", "arguments": value}}
        for index, value in enumerate(arguments)
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _result(index: int) -> Message:
    return {"role": "tool", "tool_call_id": f"zq7call{index}", "content": f"zq7result{index}"}


ANSWERS: dict[str, Message] = {
    "text": {"role": "assistant", "content": "zq7answer"},
    "lines": {"role": "assistant", "content": "def f():\n\n    return 1  # <b>\n\n\nf()"},
    "JSON": {"role": "assistant", "content": '{"a": [1, "x"], "b": null}'},
    "a call": _calls(_ARGUMENTS[0]),
    "a call with typed arguments": _calls(_ARGUMENTS[1]),
    "a call without arguments": _calls(_ARGUMENTS[2]),
    "two calls": _calls(*_ARGUMENTS[:2]),
    "text and a call": _calls(_ARGUMENTS[0], content="zq7answer"),
}
_LOOP = [_SYSTEM, _ASK, _calls(_ARGUMENTS[0], content="zq7said"), _result(0)]
_WIDE_LOOP = [_SYSTEM, _ASK, _calls(*_ARGUMENTS[:2]), _result(0), _result(1)]
_LINES = "zq7text  of lines\n\n    with <b>\"indents\"</b>, 'quotes' & é\\n"
HISTORIES: dict[str, list[Message]] = {
    "a question": [_ASK],
    "a system message": [_SYSTEM, _ASK],
    "lines of text": [{"role": "system", "content": f"rules: {_LINES}"}, {"role": "user", "content": _LINES}],
    "an earlier answer": [_SYSTEM, _ASK, ANSWERS["text"], _NEXT],
    "a tool loop": _LOOP,
    "a finished tool loop": [*_LOOP, ANSWERS["text"], _NEXT],
    "two calls at once": _WIDE_LOOP,
}


@dataclass(frozen=True, slots=True)
class TemplateFit:
    """A template that loses nothing, and how answers look in it."""

    template: str
    stop_token: str
    native_tools: bool
    replaced: bool  # it is not the model's own
    form: AnswerForm
    notes: tuple[str, ...]


def render(
    template: str,
    special: Mapping[str, str],
    turns: Sequence[Message],
    tools: Sequence[Tool] | None = None,
    *,
    generation: bool,
) -> str:
    """The turns as text. GrokoraError whatever the template raises: it is a program of the model's author."""
    try:
        return compile_template(template).render(
            messages=list(turns), tools=list(tools) if tools else None, add_generation_prompt=generation, **special
        )
    except Exception as error:  # a TypeError or an UndefinedError as well as a TemplateError
        raise GrokoraError(f"The model's chat template cannot render this conversation: {one_line(error)}.") from error


def read_message(text: str, form: AnswerForm, stop_token: str) -> Message:
    """The assistant message that generated text means: content, calls, and reasoning in `reasoning_content`."""
    reasoning, rest = form.read(text.split(stop_token, 1)[0])
    message = parse_calls(rest)
    return message | ({"reasoning_content": reasoning} if reasoning else {})


@lru_cache(maxsize=32)
def fit_template(
    own: str | None, default: str, special_tokens: tuple[tuple[str, str], ...], controls: frozenset[str]
) -> TemplateFit:
    """The effective template of a model whose own is `own`; `controls` are the tokenizer's special tokens.

    GrokoraError if even the default loses something, which is a fault of this project.
    """
    special, notes = dict(special_tokens), list[str]()
    try:
        compile_template(own or default)
    except TemplateError as error:  # no template at all, rather than one that loses something
        raise GrokoraError(f"The model's chat template cannot be used: {str(error).rstrip('.')}.") from error
    for template, native, replaced, note in _candidates(own and with_fixed_date(own), default):
        try:
            stop_token, form, loss = _best_stop(template, special, controls, native=native)
        except GrokoraError as error:
            loss = str(error).rstrip(".")
        if loss is None:
            reasons = [note.format(reason=notes[0] if notes else "")] if note else []
            if not form.closing:
                reasons.append("Reasoning is not learnt: the template has no place for it.")
            return TemplateFit(template, stop_token, native, replaced, form, tuple(reasons))
        notes.append(loss)
    raise GrokoraError(f"The model's chat template cannot be used: {notes[0]}.")


def _best_stop(
    template: str, special: Mapping[str, str], controls: frozenset[str], *, native: bool
) -> tuple[str, AnswerForm, str | None]:
    """(stop token, how answers look, what is lost first, None for nothing).

    The stop token is the first special one that the template writes after an assistant's content; one that loses
    something gives way to a later one that loses nothing (Kimi-K3 closes parts of an answer by special tokens, too).
    """
    shown, answer = partial(_render_answer, template, special), [_ASK, {"role": "assistant", "content": TEXT}]
    after = shown(answer).rpartition(TEXT)[2]
    stops = sorted((token for token in controls if token in after), key=after.index)
    if not stops:
        stops = [token] if (token := special.get("eos_token", "")) else []
    if not stops:
        raise GrokoraError("The model names no end-of-sequence token; set eos_token in its tokenizer_config.json.")
    tried = list[tuple[str, AnswerForm, str | None]]()
    # tokens of the turn that follows end no answer
    for stop_token in stops if _NEXT["content"] not in after else stops[:1]:
        form = AnswerForm.of(shown, stop_token)
        tried.append((stop_token, form, _first_loss(template, special, stop_token, form, native=native)))
    return next((best for best in tried if best[2] is None), tried[-1])


def _candidates(own: str | None, default: str) -> Iterator[tuple[str, bool, bool, str]]:
    """(template, whether calls are native, whether it replaces the model's own, a sentence) in order of preference."""
    if own is not None:
        yield own, True, False, ""
        as_text = "Tools and calls are written as text, because the model's own template does not do it: {reason}."
        shapes: tuple[Literal["", "all", "user"], ...] = ("", "all", "user")
        for parts, fold in itertools.product(shapes, (False, True)):
            yield text_form(own, fold=fold, parts=parts), False, False, as_text
    sentence = "This project's default template stands in place of the model's own: {reason}." if own else ""
    yield text_form(default), False, True, sentence or "The model brings no chat template; the default one is used."


def _render_answer(
    template: str, special: Mapping[str, str], turns: Sequence[Message], *, generation: bool = False
) -> str:
    """The turns as text; if the template refuses to end with an answer, a user's turn follows it."""
    try:
        return render(template, special, turns, generation=generation)
    except GrokoraError:
        return render(template, special, [*turns, _NEXT], generation=generation)


def _first_loss(
    template: str, special: Mapping[str, str], stop_token: str, form: AnswerForm, *, native: bool
) -> str | None:
    """What the template loses first, in words; None if it loses nothing."""
    looks = {render(template, special, normalise(HISTORIES["a tool loop"]), generation=True) for _ in range(2)}
    if len(looks) > 1:
        return "it renders the same conversation in more than one way"
    # Calls may stand in a request that offers no tools (`tool_choice: none`).
    for (name, history), tools in itertools.product(HISTORIES.items(), ([_TOOL], None)):
        turns = normalise(history)
        prompt = render(template, special, turns, tools, generation=True)
        if lost := next((word for word in _words(history, tools) if word not in prompt), None):
            return f"in {name} it loses {lost[:40].removeprefix('zq7')!r}"
        if "[{'type': 'text'," in prompt:  # a list of parts, while the template expects a string
            return f"in {name} it shows a message as Python writes a list"
        for kind, answer in ANSWERS.items():
            completion = form.write(answer_text(normalise([answer], opening=False)[0]))
            if native and answer.get("tool_calls"):
                whole = render(
                    template, special, [*turns, *normalise([answer], opening=False)], [_TOOL], generation=False
                )
                start = render(template, special, turns, [_TOOL], generation=True)
                if not whole.startswith(start):
                    return f"after {name} it writes {kind} as nothing that follows the prompt"
                completion = whole[len(start) :]
            message = read_message(completion, form, stop_token)
            if (message["content"], calls_of(message)) != (answer["content"], calls_of(answer)):
                return f"it writes {kind} as something that is not read back"
    return None


def _words(history: Sequence[Message], tools: Sequence[Message] | None) -> Iterator[str]:
    """The words that must stand in a prompt of this history."""
    for message in history:
        if message["content"]:
            yield message["content"]
        for call in message.get("tool_calls") or ():
            arguments = call["function"]["arguments"]
            yield from (call["function"]["name"], *arguments)
            yield from (str(value) for value in arguments.values() if str(value).startswith("zq7"))
    if tools:
        yield from ("zq7tool", "zq7description", "zq7key")
