"""Where a text holds secrets and personal data: a function of the text (and of the name it stands under) alone.

Detectors run one after the other over a draft in which what was found already is a token, so that none looks into
another's finding. Numbers are given later, by session.
"""

import ast
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache

import orjson

from grokora_pipeline.sessions.redaction import cuts, detectors, published
from grokora_pipeline.sessions.redaction.detector import (
    EAST,
    FILLER,
    PLACEHOLDER,
    TELLING,
    Detector,
    detector,
    is_generated,
    is_phrase,
    is_random_token,
    looks_random,
)
from grokora_pipeline.sessions.redaction.detectors import is_suspicious
from grokora_pipeline.sessions.redaction.memory import Finding, occurrences
from grokora_pipeline.sessions.redaction.names import Meaning, meaning
from grokora_pipeline.sessions.redaction.passwords import OF_MARKS, is_harmless, is_secret
from grokora_pipeline.sessions.redaction.published import PublishedFinding
from grokora_pipeline.sessions.redaction.readings import DUMP, from_dump, other_readings, without_escapes, without_wraps
from grokora_pipeline.sessions.redaction.structure import MAX_DEPTH, TooDeepError, walk
from grokora_pipeline.sessions.redaction.tokens import (
    BASE64,
    BASE64_KEY,
    PUBLIC,
    from_base64,
    is_high_entropy,
    is_known_id,
    is_publishable,
)

TextOrFinding = str | Finding
_FIRST_TOKEN = 10**15  # of a draft; no session has as many placeholders
_TOKEN = re.compile(r"<(?:SECRET|PII):[a-z_]+:\d{16}>")
_CACHED_CHARS = 64 << 10  # longer texts are not kept in the cache, which thus holds at most some 100 MB
_OFTEN_REPEATED = 200  # characters
_LONGEST_CUT = 64 << 10  # characters of a text in which pieces of a secret are looked for
_UNSURE = {"token", "high_entropy", "jwt"}  # kinds that are told by looks alone: what is public looks the same
_LONGEST_LITERAL = 64 << 10  # characters; Python's parser needs some 100 bytes for each
_KEY_PART = re.compile(
    r"\.(?:[A-Za-z0-9_-]{4,12}\.)?[A-Za-z0-9_-]{16,}|/[A-Za-z0-9]{24,}(?![\w/.-])|:[0-9a-f]{32,}|"
    r"[:|][\w-]{8,}(?![\w/.:@-])|\+[\w/+-]{16,}={0,2}"
)  # of several that marks join
_MORE_PARTS = re.compile(r"(?:-[A-Za-z0-9]{4,})+(?![\w.])|(?:_(?=[A-Za-z]{0,8}\d)[A-Za-z0-9]{4,})+(?![\w.])")
_KEY_REST = re.compile(r"[A-Za-z0-9_-]*={0,2}")
_MARKED_REST = re.compile(  # of a password: marks and what is no word behind them, up to a space or a quote
    rf"(?![)\]}}][,.;:)\]}}]|[;,&][A-Za-z]\w*=)[^\w\s\"'`\\<>{EAST}](?=[^\s\"'`\\<>]{{0,40}}(?:\d|[a-z][A-Z]|[A-Z][a-z]?[A-Z]))"
    rf"[^\s\"'`\\<>{EAST}]{{1,80}}(?<![.,;:)\]}}])"
)
_ADDRESS_BEFORE = re.compile(r"://\S*\Z")
_OF_A_LETTER = re.compile(r"(?i)%(?:3\d|[46][1-9a-f]|[57][0-9a])")  # or a digit: no URL escapes it
_MOST_ESCAPES = 3  # of an address in an address in an address
_OPENING, _CLOSING = "\u201c\u201d\u201e\u00ab\u300c\u300e", "\u201c\u201d\u00bb\u300d\u300f"
_OPENED = frozenset(_OPENING)
_QUOTED = re.compile(rf"[{_OPENING}] ?(?P<value>[^\n{_OPENING}{_CLOSING}]{{3,98}}?)[ \u00a0]?[{_CLOSING}]")
_BEFORE_QUOTE = re.compile(rf"(?i)(?:{TELLING})[^\n{_OPENING}]{{0,40}}\Z")
_LONGEST_BEFORE = 80  # characters: a telling name and what may stand between it and the quote


def scan(text: str, name: str = "") -> tuple[TextOrFinding, ...]:
    """A text cut into pieces: what stays, and what was found. `name` is that of the JSON member whose value it is."""
    return _cached(text, name) if len(text) <= _CACHED_CHARS else _scan(text, name)


@lru_cache(maxsize=512)  # system prompts and the history of a chat come again with every call
def _cached(text: str, name: str) -> tuple[TextOrFinding, ...]:
    return _scan(text, name)


def _scan(text: str, name: str) -> tuple[TextOrFinding, ...]:
    draft = _Draft()
    return tuple(draft.pieces(draft.member(text, name, 0)))


@lru_cache(maxsize=8192)  # names and short values of JSON come again and again
def _is_clean(text: str) -> bool:
    return not detectors.candidates(text) and not published.in_text(text)


class _Draft:
    """One text under way: findings are tokens in it."""

    def __init__(self, within: bool = False) -> None:
        self._findings: dict[str, Finding] = {}
        self._within = within  # another reading of a text, which has none itself

    def pieces(self, text: str) -> Iterator[TextOrFinding]:
        """The finished text with its findings in place of their tokens."""
        end = 0
        for match in _TOKEN.finditer(text):
            if finding := self._findings.get(match.group()):
                yield text[end : match.start()]
                yield finding
                end = match.end()
        yield text[end:]

    def member(self, text: str, name: str, depth: int) -> str:
        """A value under a telling name is a secret whatever it looks like."""
        means = meaning(name)
        if means == "phone":
            return self._token("PII", "phone", text)
        if means and is_generated(text):  # of which another rule may know a part
            return self._token("SECRET", "password", text)
        known = len(self._findings)
        redacted = self._text(text, depth)
        kinds = {finding.kind for finding in list(self._findings.values())[known:]}
        public = PUBLIC.search(f'"{name}": "{text}"') if name and kinds and kinds <= _UNSURE else None
        if public and public.start() <= len(name):  # the name says it, and not something within the text
            self._forget(known)
            return text
        begun = (  # its beginning is told by looks, its end is not
            kinds <= _UNSURE
            and redacted.startswith("<SECRET:")
            and not (redacted.endswith(">") or re.search(r"[\s,;&]|://", text))
        )
        if not name or (redacted != text and not begun):
            return redacted
        if means and _is_secret_member(name, text, means):
            self._forget(known)
            return self._token("SECRET", "password", text)
        if begun:
            return redacted
        return self._replaced(text, published.in_member(name, text)) if looks_random(text) else text

    def _text(self, text: str, depth: int) -> str:
        if len(text) < 4:
            return text
        text = self._uncut(text)
        if text[0] in "{[" and text[-1] in "}]" and depth < MAX_DEPTH:
            whole = self._json(text, depth)
            if whole is not None:
                return self._replaced(whole, published.in_text(whole))
            text = self._literal(text, depth)
        if not _OPENED.isdisjoint(text) and (straight := _QUOTED.sub(_straight, text)) != text:
            text = text if self._detect(straight) == straight else straight
        text = DUMP.sub(lambda match: self._decoded(match[0], from_dump(match[0])), text)
        known = len(self._findings)
        plain = redacted = self._otherwise(self._detect(text))
        # what was found is a value with a piece of an escape; a password in an address has whole ones
        address = any(finding.kind == "basic_auth" for finding in list(self._findings.values())[known:])
        if redacted != text and not address and _is_clean_unescaped(text):
            self._forget(known)
            return text
        for _ in range(_MOST_ESCAPES):
            before_it, plain = plain, without_escapes(plain)
            if plain == before_it:
                break
            if (again := self._otherwise(self._detect(plain))) != plain:
                return again
        return redacted

    def _uncut(self, text: str) -> str:
        """What is cut into pieces is replaced in all of them: the first one becomes the token, the others go."""
        if self._within or len(text) > _LONGEST_CUT:
            return text
        gone: list[cuts.Cut] = []
        known: set[str] | None = None  # what is found in the text as it stands
        telling = detectors.is_telling(text)
        for reading in (*cuts.streams(text), without_wraps(text), *(cuts.readings(text) if telling else ())):
            if not reading.cuts or not (telling or detectors.is_suspicious(reading.text.encode("utf-8", "replace"))):
                continue
            draft, said = _Draft(within=True), reading.text
            for start, end, finding in _placed(said, draft.pieces(draft._text(said, MAX_DEPTH))):
                spans = sorted(reading.spans(start, end))
                taken = any(low < behind and begin < high for low, high in spans for begin, behind, _ in gone)
                shown = finding.kind in _UNSURE and _is_public(text, spans[0][0])
                # the letters of an array in C: 's', 'y', 'm'
                letters = finding.kind == "high_entropy" and all(high - low <= 2 for low, high in spans)
                if finding.family != "SECRET" or taken or shown or letters:
                    continue
                if len(spans) == 1:
                    if known is None:
                        whole = _Draft(within=True)
                        whole._text(text, MAX_DEPTH)
                        known = {one.value for one in whole._findings.values()}
                    if any(finding.value in one for one in known):
                        continue
                token = self._token(finding.family, finding.kind, finding.value)
                gone += [(*span, "" if at else token) for at, span in enumerate(spans)]
        return cuts.Reading(text, sorted(gone)).text if gone else text

    def _otherwise(self, text: str) -> str:
        """What another reading of the text shows to be secret is replaced where it stands."""
        if self._within or not (detectors.is_telling(text) or "\\u" in text):
            return text
        for reading in other_readings(text):
            draft = _Draft(within=True)
            try:
                walk(reading, draft.member)
            except TooDeepError:
                continue
            for finding in sorted(set(draft._findings.values()), key=lambda one: -len(one.value)):
                if finding.family == "SECRET" and (finding.spreads or is_phrase(finding.value)):
                    forms = "|".join(re.escape(form) for form, _ in occurrences(finding.value)[::-1])
                    alone = rf"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))(?:{forms})(?![A-Za-z0-9])"
                    text = self._apply(detector(finding.kind, alone, ""), text)
        return text

    def _json(self, text: str, depth: int) -> str | None:
        """JSON inside a string (a tool's arguments or result) is looked at member by member and stays JSON."""
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return None
        if not is_suspicious(orjson.dumps(value)):
            return text
        redacted = walk(value, self.member, depth + 1)
        whole = text if redacted == value else json.dumps(redacted, ensure_ascii=False)
        for token, finding in self._findings.items():  # what one of its texts shows to be secret leaves the others
            if token not in whole and finding.family == "SECRET" and finding.spreads:
                for form, pattern in occurrences(finding.value):
                    whole = pattern.sub(token, whole) if pattern else whole.replace(form, token)
        return whole

    def _literal(self, text: str, depth: int) -> str:
        """The same for a Python literal, if it is what `repr` gives for its value: lines are lines in its strings."""
        if len(text) > _LONGEST_LITERAL or "'" not in text:
            return text
        try:
            value = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):  # TypeError: a set of sets
            return text
        if repr(value) != text:
            return text
        return repr(walk(value, self.member, depth + 1))

    def _detect(self, text: str) -> str:
        if len(text) <= _OFTEN_REPEATED and _is_clean(text):
            return text
        possible = detectors.candidates(text)
        for one in possible:  # of the address of a hook, of a password of marks the published rules know the beginning
            if one.kind == "webhook" or one is OF_MARKS:
                text = self._apply(one, text)
        text = self._replaced(text, published.in_text(text))
        for one in possible:
            if one is BASE64_KEY:
                text = BASE64.sub(lambda match: self._decoded(match.group(), from_base64(match.group())), text)
            text = self._apply(one, text)
        return text

    def _replaced(self, text: str, findings: Sequence[PublishedFinding]) -> str:
        pieces: list[str] = []
        end = 0
        for finding in findings:
            kind = "encoded" if finding.encoded else finding.kind
            stop = _key_end(text, finding.start, finding.end)
            if text[stop : stop + 1] in text[finding.start : stop] and (more := _MORE_PARTS.match(text, stop)):
                stop = more.end()  # of a key of several parts the rule may know the first ones
            pieces += [text[end : finding.start], self._token("SECRET", kind, text[finding.start : stop])]
            end = stop
        return "".join((*pieces, text[end:]))

    def _decoded(self, text: str, plain: str | None) -> str:
        """Base64 or a dump that holds a secret is one as a whole."""
        if plain is None or _Draft()._detect(plain) == plain:
            return text
        return self._token("SECRET", "encoded", text)

    def _apply(self, detector: Detector, text: str) -> str:
        """The text with the matches of a detector replaced by tokens."""
        pieces: list[str] = []
        end = 0
        for match in detectors.matches(detector, text):
            value, (start, stop) = match.group(detector.group), match.span(detector.group)
            if match.start() < end or value is None or "<SECRET:" in value or "<PII:" in value:
                continue
            if (detector.accept and not detector.accept(match)) or FILLER.fullmatch(value):
                continue
            if detector.kind in _UNSURE and _is_public(text, start):
                continue
            kind = "passphrase" if detector.kind == "password" and is_phrase(value) else detector.kind
            pieces += [text[end:start], self._token(detector.family, kind, value)]
            end = _key_end(text, start, stop) if detector.family == "SECRET" and stop == match.end() else stop
        return "".join((*pieces, text[end:]))

    def _forget(self, known: int) -> None:
        """Take back the findings behind the first `known`, whose tokens stand in no text."""
        for token in list(self._findings)[known:]:
            del self._findings[token]

    def _token(self, family: str, kind: str, value: str) -> str:
        token = f"<{family or 'SECRET'}:{kind}:{_FIRST_TOKEN + len(self._findings)}>"
        self._findings[token] = Finding(family, kind, value if family else "")
        return token


@lru_cache(maxsize=4)  # asked of each match in a text, and of most texts never
def _public_spans(text: str) -> list[tuple[int, int]]:
    return [one.span() for one in PUBLIC.finditer(text)]


def _is_public(text: str, at: int) -> bool:
    """Whether a place of a text lies in something that looks random and is for everybody."""
    spans = _public_spans(text)
    before = bisect_right(spans, (at, len(text))) - 1
    return before >= 0 and at < spans[before][1]


def _placed(text: str, pieces: Iterator[TextOrFinding]) -> Iterator[tuple[int, int, Finding]]:
    """Where in a text each of its findings stands: in their order, if what was searched had other escapes."""
    at = 0
    for piece in pieces:
        if not isinstance(piece, Finding):
            at += len(piece) if text.startswith(piece, at) else 0
        elif (start := text.find(piece.value, at)) >= 0:
            at = start + len(piece.value)
            yield start, at, piece


def _is_clean_unescaped(text: str) -> bool:
    """Whether a text has escapes, and nothing is found in it without them."""
    plain = text
    escapes = [one for one in detectors.ESCAPES.findall(text) if not _OF_A_LETTER.match(one)]
    if not escapes or (len(escapes) == 1 and escapes[0][0] == "%"):  # bob%2Fx1 is a user and a password
        return False
    for _ in range(_MOST_ESCAPES):
        plain = without_escapes(plain)
    return plain != text and _Draft()._text(plain, MAX_DEPTH) == plain


def _is_secret_member(name: str, value: str, means: Meaning) -> bool:
    """Whether the value of a member is a secret: judged as the same text between quotes."""
    if value[:1] == value[-1:] and value[:1] in {"'", '"'}:  # as a program shows it
        value = value[1:-1]
    public = is_known_id(value) or is_publishable(value) or PLACEHOLDER.fullmatch(value) or FILLER.fullmatch(value)
    if is_harmless(name, value) or (name.lower().endswith("signature") and len(value) >= 200):  # of a model's thoughts
        return False
    if name.lower() in {"key", "keys"}:  # of a table, an attribute, a picture in a bucket
        return is_random_token(value) and not public
    return not public and is_secret(means, value, quoted=True)


def _key_end(text: str, start: int, end: int) -> int:
    """Where a key ends that is longer than its rule knows: a rule's end within a word is not the key's.

    Nor is one at a mark of a password that goes on in like manner; in an address marks part it from what follows.
    """
    rest = _KEY_REST.match(text, end)
    end = rest.end() if rest and text[end - 1 : end + 1].isalnum() and len(text) > end else end
    while (part := _KEY_PART.match(text, end)) and (
        (part[0][0] in ":|" and looks_random(part[0][1:])) or is_high_entropy(part[0][1:], 3.0)
    ):
        end = part.end()
    more = _MARKED_REST.match(text, end)
    if more and is_generated(text[start : more.end()]) and not _ADDRESS_BEFORE.search(text, max(0, start - 200), start):
        end = more.end()
    return end


def _straight(match: re.Match[str]) -> str:
    """A value in typographic quotes behind a telling name in straight ones, as the detectors know them."""
    start = match.start()
    name = _BEFORE_QUOTE.search(match.string, max(0, start - _LONGEST_BEFORE), start)
    return f'"{match["value"]}"' if name else match.group()
