"""What the readers share: decoding, times, cut JSON, and tool calls in one shape."""

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson
from dateutil import parser

from grokora_pipeline.models.messages import Message, call_arguments, plain_message
from grokora_pipeline.sessions.readers.source import Line, Source, UnreadableError
from grokora_pipeline.sessions.turns import Problem

__all__ = ["Line", "Source", "UnreadableError"]

UNFORESEEN = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)  # of odd content
_DECODER = json.JSONDecoder()
_BOM = b"\xef\xbb\xbf"
_BLANK = re.compile(r"[\s,]*")
_NUMBER = re.compile(r"\d{9,19}(?:\.\d*)?|\d\.\d+[eE]\+?\d{1,2}")  # of fewer digits a text is no time
_DATE = re.compile(r"(\d{4})[/.年-](\d{1,2})[/.月-](\d{1,2})日?(?:[T _@]+(?=\d)|$)", re.IGNORECASE)
_CLOCK = re.compile(r"T(\d{1,2})([:-])(\d\d)(?:\2(\d\d)(?:-(\d{3})(?!\d))?)?")  # as names of files write it, too
# What stands at a time's end: UTC by name, Go's name of a zone behind its offset, Java's in brackets.
_ZONE = re.compile(r"\s*(?:(?:UTC|GMT)?([+-]\d\d:?\d\d)(?: [A-Z]{3,4})?(?: M=\S+)?|UTC|GMT|Z)(?:\[[\w/+-]+\])?$")
_DOTNET = re.compile(r"/Date\((\d+)(?:[+-]\d{4})?\)/")
_NAMED_UTC, _REMARK = re.compile(r"\b(?:UTC|GMT)(?=[+-]\d)"), re.compile(r"\s*\([^)]*\)$|(?<= )at (?=\d)")
# Hours of zones whose name is that of no other; CST, IST and BST are several.
_HOURS = {0: "UTC GMT UT Z WET", 1: "CET", 2: "CEST EET", 3: "EEST MSK", 9: "JST KST"}
_HOURS |= {-4: "EDT", -5: "EST CDT", -6: "MDT", -7: "MST PDT", -8: "PST"}
_ZONES = {name: hours for hours, names in _HOURS.items() for name in names.split()}
_YEARS = datetime(2000, 1, 1, tzinfo=UTC).timestamp(), datetime(2100, 1, 1, tzinfo=UTC).timestamp()
# How many units a second has, and the seconds from 1970 to the start: Unix times, Chrome's, Windows', .NET's. In none
# of the years above a number is a time of two of them.
_EPOCHS = ((1, 0), (1e3, 0), (1e6, 0), (1e9, 0), (1e6, -11644473600), (1e7, -11644473600), (1e7, -62135596800))
_COUNTER = 1e8  # a smaller number is no time of a log, but may say what came first: that order is kept
_DEFAULTS = datetime(2000, 1, 1), datetime(2001, 2, 2)  # what a text does not say differs in them
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
    """ISO 8601 in UTC; "" for what is no time, or could be several.

    Read are ISO 8601 and its kin (`2026/01/01`, a comma before the fraction), RFC 2822, dates in English words or with
    the day or the month first if only one reading is a date, numbers (as text, too) that are a time from 2000 to 2100
    in a usual unit, and the objects that MongoDB, protocol buffers and Java write. Without a zone it is UTC.
    """
    for _ in range(2):  # {"$date": {"$numberLong": …}}
        value = first_of(value, "$date", "$numberLong", "seconds", "_seconds") if isinstance(value, Mapping) else value
    try:
        if isinstance(value, list) and len(value) > 4 and all(type(one) is int for one in value):
            moment = datetime(*value[:6])  # Java's; behind the seconds stand nanoseconds
        elif isinstance(value, int | float) and not isinstance(value, bool):
            is_date = re.fullmatch(r"20\d{6}(?:\d{6})?", str(value))
            moment = _parse_time(str(value)) if is_date else _from_epoch(value)
        elif isinstance(value, str):
            moment = _parse_time(value.strip())
        else:
            return ""
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC).isoformat()
    except (*UNFORESEEN, OSError):
        return ""


def _from_epoch(value: float) -> datetime:
    times = (value / units + start for units, start in _EPOCHS)
    (seconds,) = [value] if abs(value) < _COUNTER else (one for one in times if _YEARS[0] <= one < _YEARS[1])
    return datetime.fromtimestamp(seconds, UTC)


def _parse_time(text: str) -> datetime:
    """Raises an error of UNFORESEEN, or OSError, for a text that is no time or could be several."""
    with suppress(ValueError):  # most are
        return datetime.fromisoformat(text)
    if match := _DOTNET.fullmatch(text):
        text = match[1]
    if _NUMBER.fullmatch(text):
        if len(text) == 14 and text.startswith("20"):
            text = f"{text[:8]}T{text[8:]}"
        else:
            return _from_epoch(float(text))
    plain = _DATE.sub(lambda date: f"{date[1]}-{int(date[2]):02d}-{int(date[3]):02d}T", text.replace("\u2212", "-"), 1)
    plain = _CLOCK.sub(_with_colons, plain.upper(), 1).removesuffix("T")
    with suppress(ValueError):
        return datetime.fromisoformat(_ZONE.sub(lambda zone: zone[1] or "+00:00", plain, 1))
    return _in_words(text)


def _with_colons(clock: re.Match[str]) -> str:
    hours, _, minutes, seconds, fraction = clock.groups()
    return f"T{int(hours):02d}:{minutes}:{seconds or '00'}{f'.{fraction}' if fraction else ''}"


def _in_words(text: str) -> datetime:
    """A date that people and `Date` of JavaScript write. Raises ValueError if it can be read in no way, or in two."""

    def offset(name: str | None, seconds: int | None) -> int | None:
        return seconds if name is None or seconds is not None else _ZONES[name] * 3600

    plain = _REMARK.sub("", _NAMED_UTC.sub("", text[:80]))  # dateutil takes GMT+1 for an hour behind
    plain = re.sub(r"(?<=/\d{4}):", " ", plain)  # of web servers: 01/Jan/2026:12:00:00
    ways = [(default, first) for default in _DEFAULTS for first in (False, True)]
    if not re.search(r"(?<!\d)20\d\d(?!\d)", plain):  # of two digits each may be the year
        raise ValueError
    readings: set[datetime] = {parser.parse(plain, default=one, dayfirst=first, tzinfos=offset) for one, first in ways}
    (moment,) = readings
    return moment


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
