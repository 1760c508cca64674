"""Chat templates: the sandbox that `transformers` renders them in, the defaults, and the tool calls of those without.

The effective template is the one that training, evaluation and serving use and that a merged model is shipped with. It
is the model's own if that can write and read everything a conversation holds; else a prelude is put in front, which
turns tools, calls and results into text before the model's own template sees the messages.
"""

import json
import re
from datetime import date
from functools import lru_cache
from typing import Any, Literal

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = (
    "{{ bos_token }}{% for message in messages %}{{ '### ' + message['role']|capitalize + ':\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)
TEMPLATE_FILE = "effective_template.jinja"  # beside base_model.json, for other servers
FIXED_DATE = date(2024, 7, 26)  # Llama 3's own fallback: a prompt must not change from one day to the next
_DATE_CALL = re.compile(r"""\bstrftime_now\(\s*(["'])([^"']*)\1\s*\)""")

# A call is `<tool_call>{…}</tool_call>` in the assistant's text (what vLLM's parser `hermes` reads), a result is user
# text in `<tool_response>`, and each tool is one line of the system message, `name(argument: type, optional?: type)`:
# a tenth of the tokens of its JSON Schema.
TEXT_TOOLS = """
{%- macro grokora_tool(tool) -%}
  {%- set function = tool.function or tool -%}
  {%- set schema = function.parameters or {} -%}
  {{- function.name }}(
  {%- for name, spec in (schema.properties or {}).items() -%}
    {%- set kind = spec.type or 'any' -%}
    {{- ', ' if not loop.first }}{{ name }}{{ '' if name in (schema.required or []) else '?' }}: {# -#}
    {{- kind if kind is string else kind | join('|') -}}
  {%- endfor -%}
  ){{ ' – ' + (function.description.split() | join(' ')) if function.description }}
{%- endmacro -%}
{%- macro grokora_call(call) -%}
  {%- set function = call.function or call -%}
  {%- set body = {'name': function.name, 'arguments': function.arguments} -%}
  <tool_call>
  {%- if function.arguments is string -%}
    {"name":{{ function.name | tojson }},"arguments":{{ function.arguments }}}
  {%- else -%}
    {{- body | tojson(ensure_ascii=False, separators=(',', ':')) -}}
  {%- endif -%}
  </tool_call>
{%- endmacro -%}
{%- macro grokora_text(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- else -%}
    {%- for part in content or [] -%}{{- '\\n' if not loop.first -}}{{- part.text -}}{%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- set grokora = namespace(turns=[]) -%}
{%- for message in messages -%}
  {%- set role = 'user' if message.role == 'tool' else message.role -%}
  {%- set lines = namespace(all=[grokora_text(message.content)] if message.content else []) -%}
  {%- for call in message.tool_calls or [] -%}
    {%- set lines.all = lines.all + [grokora_call(call)] -%}
  {%- endfor -%}
  {%- set text = lines.all | join('\\n') -%}
  {%- set text = '<tool_response>\\n' + text + '\\n</tool_response>' if message.role == 'tool' else text -%}
  {%- set last = grokora.turns[-1] if grokora.turns else {} -%}
  {%- if last.role == role -%}
    {%- set both = [last.content, text] | select | join('\\n\\n') -%}
    {%- set grokora.turns = grokora.turns[:-1] + [dict(last, content=both)] -%}
  {%- else -%}
    {%- set turn = {'role': role, 'content': text} -%}
    {%- if message.reasoning_content -%}
      {%- set thought = message.reasoning_content -%}
      {%- set turn = dict(turn, reasoning_content=thought, thinking=thought) -%}
    {%- endif -%}
    {%- set grokora.turns = grokora.turns + [turn] -%}
  {%- endif -%}
{%- endfor -%}
{%- if tools -%}
  {%- set lines = namespace(all=[]) -%}
  {%- for tool in tools -%}{%- set lines.all = lines.all + [grokora_tool(tool)] -%}{%- endfor -%}
  {%- set form = '<tool_call>{"name":"tool","arguments":{}}</tool_call>' -%}
  {%- set text = (['Tools, called as ' + form + ':'] + lines.all) | join('\\n') -%}
  {%- if grokora.turns and grokora.turns[0].role == 'system' -%}
    {%- set text = [grokora.turns[0].content, text] | select | join('\\n\\n') -%}
    {%- set grokora.turns = grokora.turns[1:] -%}
  {%- endif -%}
  {%- set grokora.turns = [{'role': 'system', 'content': text}] + grokora.turns -%}
{%- endif -%}
"""
# For templates that refuse a system message, or lose it: the first user message begins with it.
FOLD_SYSTEM = """
{%- if grokora.turns | length > 1 and grokora.turns[0].role == 'system' -%}
  {%- set text = [grokora.turns[0].content, grokora.turns[1].content] | select | join('\\n\\n') -%}
  {%- set grokora.turns = [dict(grokora.turns[1], content=text)] + grokora.turns[2:] -%}
{%- endif -%}
"""
# For templates of vision models, which read lists of parts and lose a string: of every turn, or of the user's alone.
AS_PARTS = """
{%- set parts = namespace(turns=[]) -%}
{%- for turn in grokora.turns -%}
  {%- set parts.turns = parts.turns + [dict(turn, content=[{'type': 'text', 'text': turn.content}])] -%}
{%- endfor -%}
{%- set grokora.turns = parts.turns -%}
"""
_HAND_OVER = "{%- set messages = grokora.turns -%}{%- set tools = none %}"


def text_form(template: str, *, fold: bool = False, parts: Literal["", "all", "user"] = "") -> str:
    """The template behind the prelude that writes tools and calls as text; see FOLD_SYSTEM and AS_PARTS."""
    as_parts = AS_PARTS if parts else ""
    if parts == "user":
        as_parts = re.sub(r"(dict\(turn, .*\))\]", r"\1 if turn.role == 'user' else turn]", as_parts)
    prelude = TEXT_TOOLS + FOLD_SYSTEM * fold + as_parts + _HAND_OVER
    # `trim_blocks` removes one line break after the prelude's last tag: the template's own stays.
    return prelude.lstrip("\n") + ("\n" if template.startswith("\n") else "") + template


class _Generation(Extension):
    """`{% generation %}` marks what an assistant wrote; here it renders as its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements between `generation` and `endgeneration`; a name that they set is their own."""
        line = next(parser.stream).lineno
        return [nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)]


@lru_cache(maxsize=1)
def environment() -> ImmutableSandboxedEnvironment:
    """The sandbox: no attribute access to Python's internals, no mutation, `tojson` without HTML escapes."""
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension]
    )
    sandbox.filters["tojson"] = _tojson
    sandbox.globals["raise_exception"] = _raise
    sandbox.globals["strftime_now"] = FIXED_DATE.strftime
    return sandbox


def with_fixed_date(template: str) -> str:
    """The template with today's date written in as FIXED_DATE, so that every server renders what was trained.

    If the format is no literal, a macro takes the clock's place: another server's own clock is never asked.
    """
    template = _DATE_CALL.sub(lambda match: repr(FIXED_DATE.strftime(match[2])), template)
    if "strftime_now" not in template:
        return template
    marks = [f"%{mark}" for mark in "YymdjHIMSpBbAaUwFT"]
    replaced = "".join(f" | replace({mark!r}, {FIXED_DATE.strftime(mark)!r})" for mark in marks)
    clock = "{%- macro strftime_now(format) -%}{{ format | replace('%-', '%')" + replaced + " }}{%- endmacro %}"
    return clock + ("\n" if template.startswith("\n") else "") + template


@lru_cache(maxsize=64)
def compile_template(text: str) -> Template:
    """The compiled template; jinja2.TemplateError if its syntax is wrong."""
    try:
        return environment().from_string(text)
    except (RecursionError, SyntaxError, ValueError) as error:  # of Python's compiler: too deeply nested, …
        raise TemplateError(str(error)) from error


def _raise(message: str) -> None:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
