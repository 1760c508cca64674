"""What the readers share: decoding, times, cut JSON, and tool calls in one shape."""

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from grokora_pipeline.sessions.turns import Message, Problem

_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[\s,]*")


class UnreadableError(Exception):
    """A file that cannot be read at all; carries the row of the quarantine."""

    def __init__(self, reason: str, offset: int = 0, detail: str = "") -> None:
        super().__init__(reason)
        self.problem = Problem(reason, offset, detail)


@dataclass(frozen=True, slots=True)
class Source:
    """A log file: where it is, and what it is called in everything that is stored."""

    path: Path
    name: str
    sha256: str = ""
    format: str = ""


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
    """ISO 8601 in UTC from ISO text or epoch seconds (or milliseconds); naive text is UTC; "" if it is no time."""
    try:
        if isinstance(value, str) and value:
            moment = datetime.fromisoformat(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            moment = datetime.fromtimestamp(value / 1000 if value > 1e11 else value, UTC)
        else:
            return ""
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return ""


def loads(text: str | bytes) -> Any:
    """JSON as orjson reads it, or as Python's json writes it: NaN and infinities become null, half characters U+FFFD.

    Raises orjson.JSONDecodeError where it is neither.
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
    """A number of a step or a rating: an integer of at most 64 bits; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63 else None


def stars(value: object) -> int | None:
    """A rating from 1 to 5; None for anything else."""
    number = math.floor(value) if isinstance(value, float) and math.isfinite(value) else whole_number(value)
    return number if number is not None and 1 <= number <= 5 else None


def leaves_folder(session: str) -> bool:
    """Whether a session id is a path out of its folder."""
    return ".." in session.replace("\\", "/").split("/")


def parse_object(raw: bytes) -> tuple[dict[str, Any], list[Problem]]:
    """A JSON object, whole or cut: of a cut one, the members (and elements of a list) that are complete."""
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
        problems.append(
            Problem("too_deep" if deep else "truncated", _offset(raw, text, end), "what was complete before is kept")
        )
    if not isinstance(value, dict):
        raise UnreadableError("wrong_schema", 0, "not a JSON object")
    return value, problems


def _offset(raw: bytes, text: str, end: int) -> int:
    """The byte at which a character stands."""
    windows = len(raw) == len(text)  # a byte a character, as ASCII, too
    return end if windows else len(text[:end].encode()) + (3 if raw.startswith(b"\xef\xbb\xbf") else 0)


def _salvage(text: str) -> tuple[dict[str, Any], int]:
    """The complete members of a cut JSON object, and where (in characters) the fault is."""
    found: dict[str, Any] = {}
    position = text.find("{") + 1
    try:
        while position:
            position = _skip_blank(text, position)
            key, position = _DECODER.raw_decode(text, position)
            position = _skip_blank(text, position) + 1  # the colon
            position = _skip_blank(text, position)
            if text[position : position + 1] == "[":
                found[key], position, whole = _salvage_list(text, position + 1)
                if not whole:
                    break
            else:
                found[key], position = _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError, TypeError):
        pass  # the fault: everything before it is kept
    return found, position


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


_FAILED = {"error", "cancelled", "canceled", "failed", "failure", "timeout"}
_SAYS_ERROR = re.compile(r"\s*(?:\[?error\b|traceback \(most recent|exception\b|fatal\b)", re.IGNORECASE)


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
    codes = [result.get(name) for name in ("returncode", "return_code", "exit_code")]
    refused = any(result.get(name) is False for name in ("success", "ok")) or result.get("is_error") is True
    failed = str(result.get("status", "")).lower() in _FAILED or bool(result.get("error"))
    return failed or refused or any(code not in (None, 0, "0", "") for code in codes)
