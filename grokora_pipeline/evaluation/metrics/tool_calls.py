"""Tool calls compared as the AST checker of the Berkeley Function-Calling Leaderboard does it (Patil et al., 2025).

Checks come in its order: number of calls, function name, missing required, unexpected parameter, type, value. Parallel
calls are compared without order. Unlike BFCL the texts of arguments are compared as they are, because a shell command
with another dash is another command.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from grokora_pipeline.models.messages import Call, tool_function

CallError = Literal[
    "wrong_count", "wrong_func_name", "missing_required", "unexpected_param", "type_error", "value_error"
]
ERROR_ORDER: tuple[CallError, ...] = get_args(CallError)
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def check_calls(
    predicted: Sequence[Call],
    expected: Sequence[Call],
    tools: Sequence[dict[str, Any]] | None = None,
) -> CallError | None:
    """The first error that keeps the calls from being the expected ones, in whatever order; None when they are."""
    if len(predicted) != len(expected):
        return "wrong_count"
    left = list(predicted)
    for wanted in expected:
        errors = [check_call(call, wanted, tools) for call in left]
        if None not in errors:
            return max((error for error in errors if error), key=ERROR_ORDER.index)
        del left[errors.index(None)]
    return None


def check_call(call: Call, wanted: Call, tools: Sequence[dict[str, Any]] | None = None) -> CallError | None:
    """The first error of one call against the expected one; None when it is right."""
    if call.name != wanted.name:
        return "wrong_func_name"
    if call.arguments is None:
        return "type_error"
    actual, expected = call.arguments, wanted.arguments or {}
    parameters = _parameters(tools, wanted.name)
    # tools come from logs, where anything may stand
    properties, required = parameters.get("properties"), parameters.get("required")
    known = properties if isinstance(properties, dict) else {}
    if any(name not in actual for name in {*expected, *(required if isinstance(required, list) else ())}):
        return "missing_required"
    if any(name not in known and name not in expected for name in actual):
        return "unexpected_param"
    if any(not _type_fits(value, known.get(name), expected.get(name)) for name, value in actual.items()):
        return "type_error"
    if any(not _value_fits(name, value, known.get(name), expected) for name, value in actual.items()):
        return "value_error"
    return None


def _parameters(tools: Sequence[dict[str, Any]] | None, name: str) -> dict[str, Any]:
    for tool in tools or ():
        if (function := tool_function(tool)).get("name") == name:
            parameters = function.get("parameters")
            return parameters if isinstance(parameters, dict) else {}
    return {}


def _type_fits(value: Any, schema: Any, wanted: Any) -> bool:
    declared = schema.get("type") if isinstance(schema, dict) else None
    names = declared if isinstance(declared, list) else [declared]
    allowed = tuple(kind for name in names if isinstance(name, str) for kind in _TYPES.get(name, ()))
    if not allowed:
        allowed = (int, float) if isinstance(wanted, float) else (type(wanted),)
    if isinstance(value, bool):  # for Python a bool is an int, for JSON Schema it is none
        return bool in allowed
    if isinstance(value, list) and isinstance(wanted, list) and wanted:
        items = schema.get("items") if isinstance(schema, dict) else None
        return list in allowed and all(any(_type_fits(item, items, one) for one in wanted) for item in value)
    return isinstance(value, allowed)


def _value_fits(name: str, value: Any, schema: Any, expected: dict[str, Any]) -> bool:
    if name not in expected:  # an optional parameter that was not expected may say its default, nothing else
        return isinstance(schema, dict) and "default" in schema and bool(schema["default"] == value)
    wanted = expected[name]
    if isinstance(value, str) and isinstance(wanted, str):
        return value.strip() == wanted.strip()
    return bool(value == wanted)
