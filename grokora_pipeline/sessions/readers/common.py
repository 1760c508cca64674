"""What the readers share: decoding, times, cut JSON, and tool calls in one shape."""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from grokora_pipeline.models.messages import Message, call_arguments, plain_message
from grokora_pipeline.sessions.readers.source import Line, Source, UnreadableError
from grokora_pipeline.sessions.turns import Problem

__all__ = ["Line", "Source", "UnreadableError"]

UNFORESEEN = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)  # of odd content
_DECODER = json.JSONDecoder()
_BOM = b"\xef\xbb\xbf"
_BLANK = re.compile(r"[\s,]*")
_EPOCH = re.compile(r"[+-]?(?:\d{9,13}|\d{15,19})(?:\.\d+)?")  # 8 and 14 digits are a date: 20260101, 20260101120000
_SLASHES = re.compile(r"(\d{4})[/.-](\d{1,2})[/.-](\d{1,2})(?=[T \t]|$)")
_ZONE = re.compile(r"\s*(?:(?:UTC|GMT)|([+-]\d\d:?\d\d))$")
_INTEGER = re.compile(r"[+-]?\d{1,19}")


def decode(raw: bytes) -> tuple[str, Problem | None]:
    """UTF-8, else Windows-1252 (what Grokputer writes there), with a note on the first byte that is not UTF-8.

    A file that was cut within a character is UTF-8 up to there.
    """
    try:
        return raw.decode("utf-8-sig"), None
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and error.start:
            return raw[: error.start].decode("utf-8-sig"), None
        problem = Problem("not_utf8", error.start, "read as Windows-1252")
        return raw.decode("cp1252", errors="replace"), problem


def to_utc(value: object) -> str:
    """ISO 8601 in UTC; "" for what is no time.

    Read are ISO 8601 (with `/` for `-`, a named UTC, a comma before the fraction), RFC 2822, and epochs in seconds,
    milli-, micro- or nanoseconds, as numbers or as text. A time without a zone is UTC.
    """
    try:
        if isinstance(value, str):
            moment = _parse_time(value.strip())
        elif isinstance(value, int | float) and not isinstance(value, bool):
            moment = _from_epoch(value)
        else:
            return ""
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC).isoformat()
    except (ValueError, OverflowError, OSError, TypeError):
        return ""


def _from_epoch(value: float) -> datetime:
    """The unit is known by the size: seconds reach 1e11 in the year 5138, milliseconds pass it in March 1973."""
    divisor = next((10**power for limit, power in ((1e11, 0), (1e14, 3), (1e17, 6)) if abs(value) < limit), 10**9)
    return datetime.fromtimestamp(value / divisor, UTC)


def _parse_time(text: str) -> datetime:
    """Raises ValueError or TypeError for a text that is no time."""
    if _EPOCH.fullmatch(text):
        return _from_epoch(float(text))
    if date := _SLASHES.match(text):
        year, month, day = date.groups()
        text = f"{year}-{int(month):02d}-{int(day):02d}{text[date.end() :]}"
    try:
        return datetime.fromisoformat(_ZONE.sub(lambda zone: zone.group(1) or "+00:00", text))
    except ValueError:
        return parsedate_to_datetime(text)


def loads(text: str | bytes) -> Any:
    """JSON as orjson reads it, or as Python's json writes it: NaN and infinities become null, half characters U+FFFD.

    Raises orjson.JSONDecodeError if it is neither.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "limit" in str(error):
            raise
        try:
            return _storable(json.loads(text))
        except (ValueError, RecursionError):
            raise error from None


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_storable(key): _storable(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_storable(element) for element in value]
    if isinstance(value, int) and abs(value) >= 1 << 63:
        value = float(value) if abs(value) < 10**300 else math.inf
    return None if isinstance(value, float) and not math.isfinite(value) else value


def whole_number(value: object) -> int | None:
    """A number of a step: an integer of at most 64 bits, as a number or as text; None for anything else."""
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63 else None


def first_of(mapping: Mapping[str, Any], *names: str) -> Any:
    """The first of several members that is there and says something: 0 and False do, None and "" do not."""
    return next((mapping[name] for name in names if mapping.get(name) not in (None, "")), None)


def name_text(value: object) -> str:
    """A name or an id as text; numbers are ids, too; "" for anything else."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) else ""


def sound_answer(message: Message) -> Message | str:
    """An assistant message with its calls in today's shape, or the reason why it may not be learnt.

    Legacy `function_call` becomes a tool call. Arguments are JSON text of one object: an object, or JSON text of JSON
    text, is unwrapped; anything else (cut JSON, two objects, Python literals, lists) is refused, never repaired.
    """
    answer = plain_message(message) if message.get("function_call") else dict(message)
    calls = answer.get("tool_calls")
    if not calls:
        answer.pop("tool_calls", None)
        return answer if answer.get("content") else "no_answer"
    sound = []
    for number, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            return "answer_not_in_schema"
        raw = function.get("arguments")
        arguments = call_arguments(raw)
        if arguments is None:
            return "arguments_not_an_object"
        if not (isinstance(raw, str) and raw.lstrip().startswith("{")):
            function = {**function, "arguments": json_text(arguments)}
        sound.append({"id": f"call_{number}", **call, "type": "function", "function": function})
    return {**answer, "tool_calls": sound}


def leaves_folder(session: str) -> bool:
    """Whether a session id is a path out of its folder."""
    return ".." in session.replace("\\", "/").split("/")


def parse_object(raw: bytes) -> tuple[dict[str, Any], list[Problem]]:
    """A JSON object, whole or cut: of a cut one, the members (and elements of a list) that are complete."""
    try:
        # A large document is parsed from its bytes: their text would be one more copy of it in memory.
        value, problems = orjson.loads(raw.removeprefix(_BOM)), list[Problem]()
    except orjson.JSONDecodeError:
        value, problems = _parse_faulty(raw)
    if not isinstance(value, dict):
        raise UnreadableError("wrong_schema", 0, "not a JSON object")
    return value, problems


def _parse_faulty(raw: bytes) -> tuple[Any, list[Problem]]:
    text, problem = decode(raw)
    problems = [problem] if problem else []
    try:
        value = loads(text)
    except orjson.JSONDecodeError as error:
        value, end = _salvage(text)
        deep = "limit" in str(error)
        if not value:
            raise UnreadableError(
                "too_deep" if deep else "malformed_json",
                0 if deep else error.pos,
                "nested deeper than 1,024 levels" if deep else "no complete member before the fault",
            ) from error
        value = _storable(value)
        # the byte at which the character `end` stands; Windows-1252 and ASCII have a byte a character
        offset = end if len(raw) == len(text) else len(text[:end].encode()) + (3 if raw.startswith(_BOM) else 0)
        problems.append(Problem("too_deep" if deep else "truncated", offset, "what was complete before is kept"))
    return value, problems


def _salvage(text: str) -> tuple[dict[str, Any], int]:
    """The complete members of a cut JSON object, and where (in characters) the fault is."""
    members: dict[str, Any] = {}
    position = text.find("{") + 1
    try:
        while position:
            position = _skip_blank(text, position)
            key, position = _DECODER.raw_decode(text, position)
            position = _skip_blank(text, position) + 1  # the colon
            position = _skip_blank(text, position)
            if text[position : position + 1] == "[":
                members[key], position, whole = _salvage_list(text, position + 1)
                if not whole:
                    break
            else:
                members[key], position = _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError, TypeError):
        pass  # the fault: everything before it is kept
    return members, position


def _salvage_list(text: str, position: int) -> tuple[list[Any], int, bool]:
    elements: list[Any] = []
    while True:
        position = _skip_blank(text, position)
        if text[position : position + 1] == "]":
            return elements, position + 1, True
        try:
            element, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            return elements, position, False
        elements.append(element)


def _skip_blank(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position


def user(text: str) -> Message:
    """A user message."""
    return {"role": "user", "content": text}


def assistant(text: str | None, calls: list[dict[str, Any]] | None = None) -> Message:
    """An assistant message; its content is "" rather than null beside tool calls, as Grokputer's client needs it."""
    message: Message = {"role": "assistant", "content": text or ""}
    if calls:
        message["tool_calls"] = calls
    return message


def tool_call(call_id: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A tool call in OpenAI's shape: the arguments are JSON text."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": json_text(arguments)}}


def tool_result(call_id: str, result: object) -> Message:
    """The message that hands a tool's result back to the model."""
    return {
        "role": "tool",
        "tool_call_id": call_id,
        "content": result if isinstance(result, str) else json_text(result),
    }


def json_text(value: object) -> str:
    """JSON as Python's json module writes it, without ASCII escapes."""
    return json.dumps(value, ensure_ascii=False)


_FAILED = {"error", "failed", "failure", "fail", "cancelled", "canceled", "aborted", "timeout", "timed_out"}
_FAILED |= {"timedout", "denied", "rejected"}
_SAYS_ERROR = re.compile(
    r"\s*(?:\[?error\b|traceback \(most recent|exception\b|fatal\b|<returncode>\s*-?[1-9])", re.IGNORECASE
)


def is_error(result: object) -> bool:
    """Whether a tool result says that the step failed: an error status, or a command that returned non-zero."""
    if isinstance(result, list):  # parts of a message
        result = "\n".join(str(part.get("text") or "") for part in result if isinstance(part, dict))
    if isinstance(result, str):
        text = result
        try:
            result = loads(text)
        except orjson.JSONDecodeError:
            return bool(_SAYS_ERROR.match(text))
    if not isinstance(result, dict):
        return False
    codes = [result.get(name) for name in ("returncode", "return_code", "exit_code", "exitCode")]
    refused = any(result.get(name) is False for name in ("success", "ok")) or result.get("is_error") is True
    failed = str(result.get("status", "")).lower() in _FAILED or bool(result.get("error") or result.get("failure"))
    return failed or refused or any(code not in (None, 0, "0", "") for code in codes)
