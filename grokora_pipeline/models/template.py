"""Chat templates in the sandbox that `transformers` renders them in, and the default ones for models without."""

import json
import re
from datetime import date
from functools import lru_cache
from typing import Any

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
FIXED_DATE = date(2024, 7, 26)  # Llama 3's own fallback: a prompt must not change from one day to the next
_DATE_CALL = re.compile(r"""\bstrftime_now\(\s*(["'])([^"']*)\1\s*\)""")


class _Generation(Extension):
    """`{% generation %}` marks what an assistant wrote; here it renders as its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=1)
def environment() -> ImmutableSandboxedEnvironment:
    """The sandbox: no attribute access to Python's internals, no mutation, `tojson` without HTML escapes."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension]
    )
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = FIXED_DATE.strftime
    return made


def with_fixed_date(template: str) -> str:
    """The template with today's date written in as FIXED_DATE, so that every server renders what was trained."""
    return _DATE_CALL.sub(lambda match: repr(FIXED_DATE.strftime(match[2])), template)


@lru_cache(maxsize=16)
def compile_template(text: str) -> Template:
    """The compiled template; jinja2.TemplateError where its syntax is wrong."""
    return environment().from_string(text)


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
