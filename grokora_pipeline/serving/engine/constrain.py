"""Grammars that an answer must follow: tool calls in the base model's own format, JSON by a schema (no torch).

How the model writes a call is read off its chat template, by rendering two made-up ones; so the grammar asks for what
the adapters were trained to write, and what `ChatFormat.parse_answer` reads back.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, lru_cache
from math import lcm
from typing import Any, cast

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.messages import Tool, tool_function

Json = dict[str, Any]
_NAME, _ID = "zq7name", "zq7id0007"  # an id of nine letters and figures, which is what Mistral's templates want
_ARGUMENTS = re.compile(r'\{"zq7a"(\s*:\s*)1(\s*,\s*)"zq7b"\s*:\s*2\}')
_TEXT = r"(.|\n)*"
_CACHED_CHARS = 1 << 16  # of a grammar that is checked once for all calls
_MOST_SCHEMA_CHARS = 1 << 18  # OpenAI takes half of that
# An automaton that counts remainders has a state for each: 999,983 of them took 7 seconds and 370 MB, which are kept.
_MOST_REMAINDERS = 10_000
# A repetition of repetitions is written out if one text alone fits it: the million letters of ((a{100}){100}){100}
# hold up the engine for a second. A single repetition is never written out.
_MOST_COPIES = 50_000
_PATTERN_PART = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\{(?P<least>\d+)(?:,\d*)?\}|.", re.DOTALL)
_BYTES = LLTokenizer("byte")  # knows no model: enough to see whether a schema has any first token
# llguidance's own limit of 2,000 ends an answer in its middle if a schema has 500 optional properties. What it adds to
# an error when it is verbose is the answer's text, which must not reach a log.
_LIMITS = LLParserLimits(max_items_in_row=20_000, verbose_errors=False)


@dataclass(frozen=True, slots=True)
class CallFormat:
    """A call as text: `before`, then `head` + arguments + `tail` for each call with `between`, then `after`."""

    before: str
    head: str  # it or `tail` holds _NAME and, if the family's calls have ids, _ID
    tail: str
    between: str | None  # None: one call at most
    after: str
    separators: tuple[str, str]

    @classmethod
    def of(cls, chat: ChatFormat) -> "CallFormat | None":
        """How this model writes calls; None if its template shows nothing that can be read back."""
        one = _rendered(chat, 1)
        arguments = _ARGUMENTS.search(one)
        if arguments is None:
            return None
        start = one.rfind("{", 0, max(0, min(one.find(_NAME), arguments.start())))
        if start < 0:
            return None
        try:
            call, end = json.JSONDecoder().raw_decode(one, start)
        except json.JSONDecodeError:
            return None
        if call.get("name") != _NAME or not call.keys() & {"arguments", "parameters"} or end < arguments.end():
            return None
        body, rest = one[start:end], _rendered(chat, 2).removeprefix(one[:end])
        between = rest[: rest.index(body)] if body in rest and not rest.startswith(one) else None
        head, tail = one[start : arguments.start()], one[arguments.end() : end]
        key, item = arguments.groups()
        return cls(one[:start], head, tail, between, one[end:], (item, key))


def _rendered(chat: ChatFormat, count: int) -> str:
    """The template's text for so many made-up calls, "" if it refuses."""
    function = {"name": _NAME, "arguments": {"zq7a": 1, "zq7b": 2}}
    calls = [{"id": _ID, "type": "function", "function": function}] * count
    tool = {"type": "function", "function": {"name": _NAME, "description": "", "parameters": {"type": "object"}}}
    answer = {"role": "assistant", "content": "", "tool_calls": calls}
    try:
        return chat.render_completion([{"role": "user", "content": "u"}], [answer], [tool]).removesuffix(
            chat.stop_token
        )
    except GrokoraError:
        return ""


def grammar_for(
    tools: Sequence[Tool] | None, tool_choice: Any, response_format: Mapping[str, Any] | None, chat: ChatFormat
) -> str | None:
    """The Lark grammar of an OpenAI request's answer; None: free text.

    None also if the format of calls cannot be read off the template (arguments as text within the JSON, say), or if
    control tokens stand around a free answer: the caller then parses and repairs, and counts.
    A tool whose schema is refused (look-ahead in a pattern, remote references, nothing that satisfies it) may take any
    object, and all else stays enforced; for an answer's own schema that is a GrokoraError.
    `tool_choice` is auto, none, required, or names one function.
    """
    schema = _wanted_schema(response_format)
    named = str(tool_function(tool_choice).get("name")) if isinstance(tool_choice, Mapping) else None
    offered = [dict(tool_function(tool)) for tool in tools or () if tool_choice != "none"]
    offered = [function for function in offered if named in (None, function.get("name"))]
    form = CallFormat.of(chat) if offered else None
    if form is None and (schema is None or offered):
        return None
    if schema is not None and (reason := refused_schema(schema)):
        raise GrokoraError(f"The schema of response_format cannot be enforced: {reason}. Change it or leave it out.")
    only_calls = tool_choice == "required" or named is not None
    marks = chat.form.head + chat.form.opening + chat.form.closing
    if offered and schema is None and not only_calls and any(token in marks for token in _special(chat)):
        return None  # free text has no control tokens in a grammar, but the model's own answers have (gpt-oss)

    def grammar_of(functions: Sequence[Json]) -> str:
        """The Lark grammar of an answer that may call these functions."""
        head, tail = _literal(chat.form.head, chat), _literal(chat.form.tail, chat)
        rules = [] if schema is None else [f"document: {head} %json {_json_rule(schema)} {tail}"]
        if form is None:
            rules.insert(0, "start: document")
        else:
            free = None if only_calls else "TEXT" if schema is None else "document"
            rules = [*_call_rules(form, functions, free, named is None, chat), *rules]
        return "\n".join(["%llguidance {}", *rules])

    any_object = {"parameters": {"type": "object"}}
    grammar = grammar_of([each | any_object if refused_schema(_parameters(each)) else each for each in offered])
    if reason := _checked(grammar)[0]:
        raise GrokoraError(f"The tools cannot be offered as they are: {reason}.")
    return grammar


def unenforced(
    grammar: str | None, tools: Sequence[Tool] | None, tool_choice: Any, response_format: Mapping[str, Any] | None
) -> list[str]:
    """What an answer to an OpenAI request, whose grammar this is, need not follow.

    `schema.<keyword>`, `tools.<name>` if that schema was refused, and what was asked for if there is no grammar.
    """
    if grammar is None:
        demands = {
            "tool_choice": tools and tool_choice not in (None, "auto"),
            "response_format": _wanted_schema(response_format),
        }
        return [name for name, value in demands.items() if value]
    refused = [str(each.get("name")) for each in map(tool_function, tools or ()) if refused_schema(_parameters(each))]
    return [f"schema.{keyword}" for keyword in _checked(grammar)[1]] + [f"tools.{name}" for name in refused]


def _checked(grammar: str, *, begins: bool = False) -> tuple[str, tuple[str, ...]]:
    """(why a grammar is refused, "" if it is not; the keywords of JSON Schema that llguidance passes over).

    `begins`: a grammar that allows no first token is refused as well; it must hold no control tokens.
    """
    # A caller's schema may have megabytes: 128 of those would stay in memory.
    return (_check if len(grammar) <= _CACHED_CHARS else _check.__wrapped__)(grammar, begins)


@lru_cache(maxsize=128)  # an agent offers the same tools in each of its calls
def _check(grammar: str, begins: bool) -> tuple[str, tuple[str, ...]]:
    is_refused, notes = LLMatcher.validate_grammar_with_warnings(grammar, None)
    if is_refused:
        # what follows repeats the grammar; a regex error has its text in later lines
        lines = [line.strip() for line in "\n".join(notes).split("\n   1 |", maxsplit=1)[0].splitlines()]
        return " ".join(line for line in lines if line).partition("schema: ")[2] or lines[0], ()
    if begins:
        matcher = LLMatcher(_BYTES, grammar, limits=_LIMITS)
        matcher.compute_bitmask()
        if matcher.is_error():  # a reference to itself passes validation
            return "nothing satisfies it", ()
    # as of 1.9: `Unimplemented keys: ["if", "then"]`, `Unknown format: x`, `oneOf not fully supported, falling back …`
    named = [re.findall(r'"([\w$]+)"', note) or re.findall(r"\b(format|oneOf)\b", note)[:1] for note in notes]
    return "", tuple(dict.fromkeys(keyword for keywords in named for keyword in keywords))


def refused_schema(schema: Json) -> str:
    """Why no answer can be held to a JSON Schema here, "" if one can."""
    remainders, waiting, pointers = 1, list[Any]([schema]), list[str]()
    while waiting:
        one = waiting.pop()
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        if isinstance(one, dict) and isinstance(pointer := one.get("$ref"), str):
            pointers.append(pointer)
        if isinstance(one, dict) and type(one.get("multipleOf")) in (int, float):
            _, digits, exponent = Decimal(str(one["multipleOf"])).as_tuple()
            remainders = lcm(remainders, int("".join(map(str, digits))) * 10 ** max(0, int(exponent)))
        if isinstance(one, dict) and isinstance(pattern := one.get("pattern"), str) and _copies(pattern) > _MOST_COPIES:
            return f"its pattern {pattern[:40]!r} repeats what is repeated, more than {_MOST_COPIES:,} parts in all"
    if remainders > _MOST_REMAINDERS:
        return f"its 'multipleOf' have more than {_MOST_REMAINDERS:,} remainders to tell apart"
    rule = _json_rule(schema)
    if len(rule) > _MOST_SCHEMA_CHARS:
        return f"it has {len(rule):,} characters, more than {_MOST_SCHEMA_CHARS:,}"
    if circle := _circle(schema, pointers):
        return f"nothing satisfies its reference {circle[:40]!r}, which leads back to itself"
    return _checked(f"%llguidance {{}}\nstart: %json {rule}", begins=True)[0]


def _circle(schema: Json, pointers: Sequence[str]) -> str:
    """One of a schema's references that leads, by references alone, back to itself; "" if none does.

    llguidance would find out in the middle of an answer: its validation follows no reference below the root.
    """
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    ended = set[str]()  # references behind which something else comes
    for start in pointers:
        passed, one = set[str](), cast("Any", {"$ref": start})
        while isinstance(one, dict):
            for name in ("allOf", "anyOf", "oneOf"):
                if isinstance(parts := one.get(name), list) and len(parts) == 1 and isinstance(parts[0], dict):
                    one = {**one, **parts[0]}
            if not isinstance(pointer := one.get("$ref"), str) or pointer in ended:
                break
            if pointer in passed:
                return pointer
            passed.add(pointer)
            try:
                one = resolver.lookup(pointer).contents
            except Unresolvable:  # llguidance says so, too
                break
        ended |= passed
    return ""


def _copies(pattern: str) -> int:
    """How many letters, classes and the like a regular expression has if its largest repetition of repetitions is
    written out; 0 if it has none."""
    most, last = 0, (0, False)  # the part before: its size, and whether it holds a repetition
    groups = [last]
    for part in _PATTERN_PART.finditer(pattern):
        (size, repeats), text = groups[-1], part[0]
        if text == "(":
            groups.append((0, False))
        elif text == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] = groups[-1][0] + last[0], groups[-1][1] or last[1]
        elif part["least"]:
            count = max(1, int(part["least"]))
            most = max(most, last[0] * count) if last[1] else most
            groups[-1] = size + last[0] * (count - 1), True
            last = last[0] * count, True
        elif text not in "*+?|^$":
            last = 1, False
            groups[-1] = size + 1, repeats
    return most


def _call_rules(
    form: CallFormat, functions: Sequence[Json], free: str | None, several: bool, chat: ChatFormat
) -> list[str]:
    """`start`: one or more calls or, if `free` names a rule, that instead, or text before the calls."""
    options = {"item_separator": form.separators[0], "key_separator": form.separators[1], "whitespace_flexible": False}
    bodies = " | ".join(f"call_{index}" for index in range(len(functions)))
    more = f"({_literal(form.between, chat)} body)*" if several and form.between else ""
    trigger = form.before.rstrip()
    rest = f"{_literal(form.before[len(trigger) :], chat)} body {more} {_literal(form.after, chat)}"
    rules = [f"body: {bodies}", f"calls: {rest}"]
    for index, function in enumerate(functions):
        name = json.dumps(str(function.get("name")), ensure_ascii=False)[1:-1]
        head, tail = (_literal(text.replace(_NAME, name), chat) for text in (form.head, form.tail))
        rules.append(f"call_{index}: {head} %json {_json_rule(_parameters(function), options)} {tail}")
    if _ID in form.head + form.tail:
        rules.append("ID: /[A-Za-z0-9_-]{1,64}/")
    if free is None:
        return [f"start: {_literal(trigger, chat)} calls", *rules]
    opening, text = _opening(trigger, chat, said_first=free == "TEXT")
    return [f"start: {free} | {opening}", *text, *rules]


def _opening(trigger: str, chat: ChatFormat, *, said_first: bool) -> tuple[str, list[str]]:
    """(what leads into the calls, the rules for it): text up to the trigger, and plain text that never holds it."""
    if trigger in _special(chat):
        return f"{'TEXT ' if said_first else ''}{_literal(trigger, chat)} calls", [f"TEXT: /{_TEXT}/"]
    if not trigger:  # the call is bare JSON: an answer that begins with a brace is one
        return "calls", [f"TEXT: /([^{{]{_TEXT})?/"]
    if not said_first:
        return f"{_literal(trigger, chat)} calls", []
    # By their codes: re.escape puts a backslash before a line break (Qwen3 begins with an empty thought), which Lark
    # refuses, as it does a bare slash.
    quoted = "".join(char if char.isalnum() else f"\\x{{{ord(char):x}}}" for char in trigger)
    return "opening calls", [
        f"TEXT: /{_TEXT}/ & ~/{_TEXT}{quoted}{_TEXT}/",
        f"opening[lazy]: TEXT {_literal(trigger, chat)}",
    ]


def _literal(text: str, chat: ChatFormat) -> str:
    """Text as Lark: control tokens by their ids, a call's id as any id, the rest quoted."""
    rules = {token: f"<[{number}]>" for token, number in _special(chat).items()} | {_ID: "ID"}
    pattern = "|".join(re.escape(token) for token in sorted(rules, key=len, reverse=True))
    parts = filter(None, re.split(f"({pattern})", text))
    return " ".join(rules.get(part) or json.dumps(part, ensure_ascii=False) for part in parts)


def _special(chat: ChatFormat) -> dict[str, int]:
    added = chat.tokenizer.get_added_tokens_decoder().items()
    return {token.content: number for number, token in added if token.special}


def _parameters(function: Mapping[str, Any]) -> Json:
    """A tool's schema; if it lists properties, even none, and does not say otherwise, there are no others."""
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(schema, Mapping):
        return {"type": "object"}
    # a branch of these may have properties of its own, which `additionalProperties` would forbid
    is_open = "properties" not in schema or schema.keys() & {"additionalProperties", "allOf", "anyOf", "oneOf", "$ref"}
    return {**schema, "type": schema.get("type", "object")} | ({} if is_open else {"additionalProperties": False})


def _json_rule(schema: Json, options: Json | None = None) -> str:
    """A schema with our options: keywords that llguidance does not know are let pass, white space is bounded."""
    spaced = {"whitespace_pattern": r"[ \n]{0,24}"} if options is None else options
    return json.dumps({**schema, "x-guidance": {"lenient": True, **spaced}})


def _wanted_schema(response_format: Mapping[str, Any] | None) -> Json | None:
    kind = (response_format or {}).get("type")
    if kind == "json_object":  # Together's, Fireworks' and llama-cpp-python's callers put a schema beside it
        beside = (response_format or {}).get("schema")
        return {"type": "object"} | (dict(beside) if isinstance(beside, Mapping) else {})
    wrapper = (response_format or {}).get("json_schema")
    schema = wrapper.get("schema") if kind == "json_schema" and isinstance(wrapper, Mapping) else None
    return dict(schema) if isinstance(schema, Mapping) else None


class Grammars:
    """Compiled grammars, the latest 64, for models whose logits have `vocabulary` entries."""

    def __init__(self, chat: ChatFormat, vocabulary: int) -> None:
        self._chat, self._vocabulary = chat, vocabulary
        self._compiled = lru_cache(maxsize=64)(lambda grammar: LLMatcher(self._tokenizer, grammar, limits=_LIMITS))

    @cached_property
    def _tokenizer(self) -> LLTokenizer:  # built at the first grammar: evaluation never has one
        stops = list(self._chat.stop_ids)
        return LLTokenizer(self._chat.tokenizer.to_str(), n_vocab=self._vocabulary, eos_token=stops)

    def matcher(self, grammar: str) -> LLMatcher:
        """A matcher at the beginning of an answer; GrokoraError if the grammar cannot be used."""
        matcher: LLMatcher = self._compiled(grammar).deep_copy()
        if matcher.is_error():
            raise GrokoraError(f"The grammar cannot be used: {matcher.get_error()}")
        return matcher
