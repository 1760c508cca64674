"""What a value's structure says about the texts in it: the name of a member, a flag or a selector before one in a list,
a column's heading, the field that a tool types into, the call above a result.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.sessions.redaction.detector import PHRASE, TELLING, is_mixed, is_phrase, looks_random
from grokora_pipeline.sessions.redaction.names import FOREIGN, Meaning, meaning
from grokora_pipeline.sessions.redaction.notations import NO_FIELD
from grokora_pipeline.sessions.redaction.published import providers

MAX_DEPTH = 100
_LONGEST_VALUE = 2000  # characters of a value that its name says something about; more is a text
# what describes the field that a tool types into, and what holds the text that it types
_FIELD_NAMES = (
    *("element", "selector", "label", "field", "locator", "target", "name", "placeholder", "xpath", "type", "into"),
    *("description", "step", "id", "ref", "test_id", "testid", "key"),
)
_TELLING = re.compile(TELLING, re.IGNORECASE)
_LABEL = re.compile(f"(?-i:P)assword|{FOREIGN}", re.IGNORECASE)
_OPEN_END = re.compile(r"[ \n]\Z")
_LABELS = ("label", "field", "placeholder", "into", "description", "element")
_SELECTORS = ("selector", "locator", "target", "element", "xpath")
_DESCRIBES = re.compile(r"(?i)(?:id|at|time|date|url|uri|host|port|user|name|type|expir\w*|hash|scopes?|email)\Z")
_KEY_OF = re.compile(r"(?i)(?:api|auth|access|secret|private|licen[cs]e|encryption|signing|account|client)\Z")
_REASONS = ("reason", "thought", "purpose", "comment", "why", "explanation", "intent", "action_description")
_CHOSEN = re.compile(r"(?=.*\d)(?=.*[^\W\d])[!-~]{6,40}")  # a word of letters and digits that a person types
_LONGEST_COMMAND = 200  # arguments
_LAST_ASKED = 400  # characters of a call
_PAIR_NAME = re.compile(r"[A-Za-z][\w.-]{2,60}")
_ONE_WORD = re.compile(rf"\s{{0,9}}(?:\S{{6,256}}|{PHRASE})\s{{0,9}}")
_PATHS = ("path", "file_path", "filename", "file")
_TYPED_NAMES = frozenset({"text", "value", "Value", "input", "content", "keys", "ParameterValue"})
_OF_A_RANDOM_PASSWORD = frozenset({"result", "special", "length"})  # in Terraform's state
_OF_A_COOKIE = frozenset({"httpOnly", "sameSite", "hostOnly"})  # beside its name and value
_PASSWORD_FIELD = re.compile(r"(?i)(?<![a-z])(?:password|passwort|passphrase|passwd|pwd?|pass|otp)(?![a-z])")
_SPACES = {"\u0120", "\u2581"}  # as tokenizers write the space before a word


class TooDeepError(GrokoraError):
    """The value is nested deeper than any chat message is."""


def walk(value: Any, visit: Any, depth: int = 0, parent: str = "") -> Any:
    """A copy of a JSON-like value with each string replaced by `visit(string, name of its member or "", depth)`.

    An integer that is a finding becomes a round one with as many digits, so that it still fits its schema.
    Raises TooDeepError if the value is nested deeper than 100 levels.
    """
    if depth > MAX_DEPTH:
        raise TooDeepError(f"a message is nested deeper than {MAX_DEPTH} levels; it cannot be a chat message.")
    if isinstance(value, str):
        return visit(value, "", depth)
    if isinstance(value, dict):
        names = _names(value) or _labels(value)
        table = [one for one in value.values() if isinstance(one, list) and one]
        head: list[str] = next((one for one in table if all(isinstance(name, str) for name in one)), [])
        for rows in table if any(map(meaning, head)) else ():
            for row in rows if all(isinstance(one, list) and len(one) == len(head) for one in rows) else ():
                walk(dict(zip(head, row, strict=True)), visit, depth + 2)  # below the names of its columns
        if "outputs" in value and (source := "".join(_texts([value.get("source")]))):  # a notebook's cell
            for text in _texts(value["outputs"]):
                visit(f"{source.rstrip()}\n{text.strip()}", "", depth)
        vocabulary = any(isinstance(name, str) and name[:1] in _SPACES for name in value)
        return {
            visit(str(name), "", depth): one
            if vocabulary and isinstance(one, int)
            else _walk_member(names.get(name) or _qualified(parent, name), one, visit, depth)
            for name, one in value.items()
        }
    if isinstance(value, list):
        return _walk_list(value, visit, depth)
    if isinstance(value, tuple):  # of a Python literal
        return tuple(_walk_list(list(value), visit, depth))
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**12:
        return _number(value, "", visit, depth)
    return value


def answers(messages: Sequence[Any]) -> Iterator[str]:
    """Results of one word or phrase, each below the call that it answers: only the call tells that it is a secret."""
    called: dict[str, Any] = {}  # the calls of the last answer, by id
    said: Any = ""
    asked: Any = ""  # what was said last to the one who calls
    for message in messages:
        if not isinstance(message, dict) or "role" not in message:
            return
        content, calls = message.get("content"), message.get("tool_calls")
        parts = [one for one in content if isinstance(one, dict)] if isinstance(content, list) else []
        if message["role"] == "assistant":
            entries = [one for one in calls if isinstance(one, dict)] if isinstance(calls, list) else []
            called = {str(one.get("id")): one.get("function") for one in entries}
            called |= {str(one.get("id")): one.get("input") for one in parts if one.get("type") == "tool_use"}
            for typed in filter(None, map(_typed, called.values())):
                if _speaks_of(typed, " ".join(_texts([asked, parts or content]))):
                    yield f'password: "{typed}"'
            said = next(reversed(called.values()), content)  # for a result that names no call
            continue
        asked = (parts or message) if next(_texts(parts or message), "") else asked
        for one in parts or [message]:
            call = str(called.get(str(one.get("tool_use_id") or message.get("tool_call_id")), said))
            last = call[-_LAST_ASKED:].rstrip("`\n ").rpartition("\n")[2]
            yield from (f"{last}\n{text.strip()}" for text in _texts(one) if _ONE_WORD.fullmatch(text))


def _typed(call: Any) -> str:
    """The one word that a call types whose action (`type`) names no field, "" for any other call."""
    arguments = call.get("arguments", call) if isinstance(call, dict) else call
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments) if '"action"' in arguments else None
        except orjson.JSONDecodeError:
            return ""
    if not isinstance(arguments, dict) or "type" not in str(arguments.get("action", "")):
        return ""
    text = arguments.get("text")
    return text.strip() if isinstance(text, str) and _ONE_WORD.fullmatch(text) else ""


def _speaks_of(typed: str, said: str) -> bool:
    """Whether the last sentence before a word was typed says that it is a password, or a key if it looks random."""
    last = re.split(r"[.!?]\s", said[-_LAST_ASKED:].strip())[-1]
    key = _TELLING.search(last) and looks_random(typed)
    return not NO_FIELD.search(last) and bool(_PASSWORD_FIELD.search(last) or key)


def _texts(result: Any) -> Iterator[str]:
    """The texts of a tool's result: of its content, its parts, or the members of the JSON object that it is."""
    if isinstance(result, dict):
        for name in ("content", "text", "stdout", "output", "result", "data", "text/plain"):
            yield from _texts(result.get(name))
    elif isinstance(result, list):
        for one in result:
            yield from _texts(one)
    elif isinstance(result, str):
        yield result
        if result[:1] == "{" and result[-1:] == "}" and len(result) < _LONGEST_VALUE:
            try:
                yield from _texts(orjson.loads(result))
            except orjson.JSONDecodeError:
                return


def _walk_list(value: list[Any], visit: Any, depth: int) -> list[Any]:
    """Messages, pieces of a text, a table with headings and arguments of a command are each read as what they are."""
    for answer in answers(value) if value and isinstance(value[0], dict) else ():
        visit(answer, "", depth)  # what is found in it is known in the message itself, too
    parts: list[Any] = [one.get("text") if isinstance(one, dict) else one for one in value]
    if len(parts) > 1 and all(isinstance(one, str) for one in parts) and any(map(_OPEN_END.search, parts[:-1])):
        visit("".join(parts), "", depth)  # the lines of a text, its pieces with and without a format
    if len(value) > 1 and all(isinstance(row, list) and len(row) == len(value[0]) for row in value):
        headings = [one if isinstance(one, str) and meaning(one.strip()) else None for one in value[0]]
        if any(headings) and not _is_pair(value[0]):
            rows = [zip(headings, row, strict=True) for row in value[1:]]
            head = _walk_arguments(value[0], visit, depth + 1)
            return [head, *([_walk_member(*cell, visit, depth + 2) for cell in row] for row in rows)]
    return _walk_arguments(value, visit, depth)


def _walk_arguments(value: list[Any], visit: Any, depth: int) -> list[Any]:
    """What follows a flag such as `--api-key` or a selector such as `#password` is the secret, whatever it looks like.

    A list with flags is also read as the command that it is, since `-p` says something beside `mysql` only; a pair as
    the name and the value that it is.
    """
    if _is_pair(value):
        return [visit(value[0], "", depth), _walk_member(value[0], value[1], visit, depth)]
    words = [one if isinstance(one, str) and one and not re.search(r"\s", one) else "_" for one in value]
    command = words
    if 1 < len(words) <= _LONGEST_COMMAND and any(one.startswith("-") for one in words):
        read = visit(" ".join(words), "", depth).split(" ")
        command = read if len(read) == len(words) else words  # a finding of several words: each is looked at alone
    walked: list[Any] = []
    named = False  # by what stands before
    for at, (one, word, after) in enumerate(zip(value, words, command, strict=True), 1):
        if after != word:
            walked.append(after)
        elif named and isinstance(one, str) and one[:1] not in {"-", "#", ".", "["}:
            walked.append(visit(one, "password", depth))
        else:
            walked.append(walk(one, visit, depth + 1))
        header = _is_pair(value[at - 1 : at + 1]) and "-" in one and looks_random(value[at])
        named = header or (isinstance(one, str) and _names_the_next(one))
    return walked


def _is_pair(value: list[Any]) -> bool:
    """Whether a list is a telling name and a value of letters and digits, as of a header: no two names of columns."""
    return (
        len(value) == 2
        and all(isinstance(one, str) for one in value)
        and bool(_PAIR_NAME.fullmatch(value[0]) and meaning(value[0]))
        and is_mixed(value[1])
        and len(value[1]) >= 8
        and not re.fullmatch(r"[A-Za-z]+(?:[_-][A-Za-z]*\d*)+", value[1])
    )


def _names_the_next(text: str) -> bool:
    """Whether an element of a list, a flag or a selector, says that a secret follows."""
    if text.startswith("-"):
        return meaning(text) in {"key", "password"}
    return text[:1] in {"#", ".", "["} and bool(_PASSWORD_FIELD.search(text))


def _qualified(parent: str, name: object) -> object:
    """The name of a member of a telling one: `api.key` is an API key, and `tokens` holds a token under any name."""
    if not parent or not isinstance(name, str) or (meaning(name) and name.lower() != "key"):
        return name
    if name.lower() == "value" or (name.lower() == "key" and (_KEY_OF.search(parent) or parent.lower() in providers())):
        return f"{parent}_{name}"
    several = parent[-1:].lower() == "s" and (meaning(parent) or parent.lower().endswith("tokens"))
    plural = several and not _DESCRIBES.search(name)
    return f"{name}_token" if plural else name


def _names(members: dict[Any, Any]) -> dict[Any, Any]:
    """The names by which members are judged that have another one: of an entry of a list, of a field typed into."""
    if "result" in members and members.keys() >= _OF_A_RANDOM_PASSWORD:
        return {"result": "password"}
    typed = _TYPED_NAMES.intersection(members)
    if not typed:
        return {}
    path = next((members[name] for name in _PATHS if isinstance(members.get(name), str)), "")
    stem, written = re.split(r"[/\\]", path)[-1].partition(".")[0], members.get("content")
    if meaning(stem) and isinstance(written, str) and _ONE_WORD.fullmatch(written):
        return {"content": stem}  # of a file that is called as a secret is
    field = " ".join(str(members[name]) for name in _FIELD_NAMES if isinstance(members.get(name), str))
    if _PASSWORD_FIELD.search(field) and not NO_FIELD.search(field):
        texts = {name: one for name in typed if isinstance(one := members[name], str)}
        return {
            name: "password"
            for name, one in texts.items()
            if (" " not in one or is_phrase(one)) and not _PASSWORD_FIELD.search(one)
        }
    for one in _SELECTORS:  # #apiKey, input[name="api_key"]
        end = re.findall(r"[\w-]+", str(members.get(one, "")))[-1:]
        if end and meaning(end[0]) in {"key", "password"}:
            return dict.fromkeys(typed, end[0])
    for one in _LABELS:  # API key
        label = members.get(one)
        if isinstance(label, str) and meaning(label) in {"key", "password"} and not NO_FIELD.search(label):
            return {name: label for name in typed if looks_random(str(members[name]))}
    if _OF_A_COOKIE.intersection(members):
        return {"value": "cookie"}
    entry = next((members[name] for name in ("name", "key", "Name", "Key", "ParameterKey") if name in members), None)
    why = " ".join(str(members[name]) for name in _REASONS if isinstance(members.get(name), str))
    if entry is None and _PASSWORD_FIELD.search(why) and not NO_FIELD.search(why):
        return {name: "password" for name in typed if isinstance(one := members[name], str) and _CHOSEN.fullmatch(one)}
    if entry is None and re.match(r"[$/]", path):  # of a member of JSON
        entry = re.split(r"[/.]", path)[-1]
    return {} if entry is None else {name: entry for name in typed if name.endswith("alue")}


def _labels(members: dict[Any, Any]) -> dict[Any, Any]:
    """No name for members that are labels of a page, among which the word for a password is one: no secret's names."""
    labels = {
        name: "label"
        for name, one in members.items()
        if isinstance(one, str) and one[:1].isupper() and len(one) < 40 and one.replace(" ", "").isalpha()
    }
    telling = any(meaning(str(name)) == "password" and _LABEL.fullmatch(members[name]) for name in labels)
    return labels if telling else {}


def _walk_member(name: object, value: Any, visit: Any, depth: int) -> Any:
    means: Meaning = meaning(name) if isinstance(name, str) else ""
    if means and isinstance(value, list) and depth < MAX_DEPTH:
        return [_walk_member(name, element, visit, depth + 1) for element in value]
    if isinstance(value, int) and not isinstance(value, bool):
        telling = means == "password" or (means == "phone" and value >= 10**6)
        return _number(value, means, visit, depth) if telling else walk(value, visit, depth + 1)
    if isinstance(value, str):
        short = means != "phone" and len(value) <= _LONGEST_VALUE
        return visit(value, name if short and isinstance(name, str) else "", depth)
    return walk(value, visit, depth + 1, name if isinstance(name, str) else "")


def _number(value: int, name: str, visit: Any, depth: int) -> int:
    text = str(abs(value))
    changed = visit(text, name, depth) != text
    return int(f"{'-' if value < 0 else ''}1{'0' * (len(text) - 1)}") if changed else value
