"""Chat templates that nobody released, each with one habit that loses, changes or refuses what a conversation holds."""

_CALLS = "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
_TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}" + _CALLS + "<|im_end|>\n"
_ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def _template(turn: str = _TURN, *, before: str = "{{ tools | tojson if tools }}", after: str = _ASK) -> str:
    return before + "{% for m in messages %}" + turn + "{% endfor %}" + after


def _refusing(condition: str) -> str:
    return _template("{% if " + condition + " %}{{ raise_exception('refused') }}{% endif %}" + _TURN)


def _content(expression: str) -> str:
    return _template(_TURN.replace("m.content", expression))


def _function(text: str) -> str:
    return _template(_TURN.replace("{{ c.function | tojson }}", text))


def _thinking(condition: str, thought: str) -> str:
    block = "{% if m.role == 'assistant' and (" + condition + ") %}" + thought + "{% endif %}"
    return _template(_TURN.replace("{{ m.content }}", block + "{{ m.content }}"))


HOSTILE = {
    "refuses a system message": _refusing("m.role == 'system'"),
    "refuses a tool message": _refusing("m.role == 'tool'"),
    "refuses two calls": _refusing("m.tool_calls and m.tool_calls | length > 1"),
    "wants nine characters in an id": _refusing("m.role == 'tool' and m.tool_call_id | length != 9"),
    "wants alternating turns": _refusing("(m.role == 'user') != (loop.index0 % 2 == 0)"),
    "wants a name in every message": _template("{{ m.name.upper() }}" + _TURN),
    "strips": _content("m.content | trim"),
    "joins white space": _content("m.content.split() | join(' ')"),
    "uppercases": _content("m.content | upper"),
    "escapes HTML": _content("m.content | e"),
    "cuts": _content("m.content[:40]"),
    "reads parts": _content("m.content[0].text"),
    "reads parts of a user": _content("m.content[0].text if m.role == 'user' else m.content"),
    "adds to a text and reads parts of a user": _content("m.content[0].text if m.role == 'user' else m.content + ''"),
    "refuses to end with an answer": "{% if messages[-1].role == 'assistant' %}{{ raise_exception('refused') }}"
    "{% endif %}" + _template(),
    "knows the date": _template(before="{{ strftime_now('%d %b %Y') }}"),
    "knows a date of its own format": _template(before="{% set f = '%-d %B %Y, %H:%M' %}{{ strftime_now(f) }}"),
    "has a clock of its own": _template(before="\n{%- set now = strftime_now %}{{ now('%Y') if now is defined }}"),
    "is never the same": _template(before="{{ range(1000000) | random }}"),
    "counts messages": _template(before="{{ messages | length }}\n"),
    "shows the last message": "{% set m = messages[-1] %}" + _TURN + _ASK,
    "moves the system message": _template(_TURN.replace("{{ m.content }}", "{{ m.content if m.role != 'system' }}"))
    + "{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}",
    "drops an empty answer": _template("{% if m.content or m.role != 'assistant' %}" + _TURN + "{% endif %}"),
    "begins with BOS": _template(before="{{ bos_token }}{{ tools | tojson if tools }}"),
    "ends its last answer with nothing": _template(
        _TURN.replace("<|im_end|>", "{{ '<|im_end|>' if m.role != 'assistant' or not loop.last }}")
    ),
    "has no generation prompt": _template(after=""),
    "always has a generation prompt": _template(after="<|im_start|>assistant\n"),
    "ignores tools": _template(before=""),
    "shows calls beside tools alone": _template(_TURN.replace("m.tool_calls", "(m.tool_calls if tools)")),
    "escapes JSON": _function("{{ c.function | tojson(ensure_ascii=True) }}"),
    "sorts keys": _function("{{ c.function | tojson(sort_keys=True) }}"),
    "writes Python": _function("{{ c.function }}"),
    "wants arguments as a string": _function(
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments + "" }}}'
    ),
    "has arguments as a string": _function(
        "{{ {'name': c.function.name, 'arguments': c.function.arguments | tojson} | tojson }}"
    ),
    "writes calls first": _template(_TURN.replace("{{ m.content }}" + _CALLS, _CALLS + "{{ m.content }}")),
    "opens the reasoning": _template(after="{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"),
    "always thinks": _thinking("true", "<think>{{ m.reasoning_content }}</think>"),
    "thinks in the last answer": _thinking("loop.last", "<think>\n{{ m.reasoning_content }}\n</think>\n\n"),
    "thinks by two names": _thinking(
        "m.thinking", "<think>{{ m.reasoning_content }}</think><why>{{ m.thinking }}</why>"
    ),
    "thinks by another name": _thinking("m.thinking", "<reasoning>{{ m.thinking }}</reasoning>"),
    "cuts what it thought": _content("m.content.split('</think>')[-1]"),
    "has no stop token": _template(_TURN.replace("<|im_end|>", "")),
    "names a token that is none": _template(_TURN.replace("<|im_end|>", "</s>")),
    "changes the messages": _template("{% set _ = messages.append(m) %}" + _TURN),
    "reaches for Python": _template(before="{{ ''.__class__.__mro__ }}"),
    "never ends": _template(before="{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"),
    "includes a file": _template(before="{% include 'x' %}"),
    "says nothing": "hello",
}
