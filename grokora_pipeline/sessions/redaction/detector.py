"""What a detector is, and what the detectors share: how a random string looks, and what only stands in for a secret."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import re2
from mnemonic import Mnemonic

from grokora_pipeline.sessions.redaction.names import BEYOND_ASCII, FOREIGN, MISSPELT, SHORT, word_set

PLACEHOLDER = re.compile(r"<(?:SECRET|PII):[a-z_]+:\d+>")
TELLING = (
    rf"{MISSPELT}|pass[ _-]?phrase|passcode|pwd|secret(?!ar)|credential|token|"
    r"(?:api|access|auth|private)[._ -]?key|[a-z0-9][_-]key|[a-z0-9]key\b|"
    r"[a-z0-9][_-]auth\b|[\"']auth\b|"
    r"pass\b|\bpw\d?\b|_pw\b|(?:root|bind|admin|user|db|ftp|smtp|mail|my|vpn|wifi|login|ssh|web|master|app|smb|sql|ldap|host|sys|zip)pw\b|\bmdp\b|"
    r"dsn\b|authorization|mnemonic|connstr|connection_?string|licen[cs]e|signature|hmac|\bcreds\b|jwt\b|bearer\b|"
    r"crumb\b|[_-]private\b|[a-z_]api\b|\bapi\b|"
    rf"subscription-key|appid|(?:wpa[23]?|wi-?fi|wlan) (?:key|code)|(?:\b|_)(?:{SHORT})\b|app(?:lication)?-key|"
    rf"authtok|losungswort|passwort|kennwort|geslo\b|mot de passe|senha\b|wachtwoord|lozinka|heslo\b|"
    rf"parola(?: d'ordine)?|parool\b|contrasenya|pasahitza|"
    rf"palavra-passe|adgangskode|passord\b|salasana\b|kata sandi|{BEYOND_ASCII}"
)
TELLING_HINT = TELLING.replace("(?!ar)", "")  # RE2 knows no look-ahead
TELLING_GATE = f"(?i:{TELLING_HINT})"
NOT_A_SECRET = re.compile(
    r"(?:none|null(?:ptr|opt)?|undef|true|false|undefined|values?|my[-_](?:key|value)s?\d?(?:[,=].*)?|u?int(?:8|16|32|64)(?:_t)?|(?:list|dict|tuple|set|optional|union)\[.*|(?:string|str|bytes|int|bool(?:ean)?|id)[!?]?|(?-i:PASS|USER|PASSWORD|SECRET|TOKEN|TODO|TBD|FIXME)|[\w-]{0,12}(?:\.{3}|[*\u2022\u25cf]{3,})\w{0,6}|\d{1,3}[/\u2013]\d{1,3}|(?-i:[A-Za-z]\w*!\$?[A-Z]{1,3}\$?\d{1,7}:\$?[A-Z]{1,3}\$?\d{1,7})|(?-i:[A-Za-z][a-z]+(?:_?[A-Z]|_)[A-Za-z_]*[a-z]=(?:\d{1,6}|[a-z]+))|(?:input|button|form|div|span|label|textarea)[#.\[].*|your[_-].*|your[a-z]{3,}|<.*|%.*|\{.*|[*\u2022\u25cf\u00b7]+(?:[A-Z]+[*]+)?|x{3,}|\.{3,}|"
    r"\$\{.*|\$\(.*|\$[a-z_:]+-?|\$(?:\w+::)+\w+.*|(?:\$\d)+|0x[0-9a-f]{1,8}|0x[0-9a-f]{1,16}u?l{1,2}|(?-i:\$[A-Z_][A-Z0-9_]*)|os\.environ.*|process\.env.*|getenv.*|getpass.*|input\(.*|env\..*|"
    r"self\..*|args\..*|config\..*|settings\..*|\(?(?:required|optional|changed|incorrect|invalid|missing|expired|wrong)\)?|include|omit|enabled|disabled|unset|empty|hidden|masked|n?(?:var)?char2?\(?\d*\)?|"
    r"http/\d[.\d]*|[~^]?v?\d{1,3}(?:\.\d{1,4}){2}(?:-[a-z]+[.\d]*)?|(?:change|replace|fill|insert)[-_](?:me|this|it)(?:[-_]\w+)*|(?:(?:ctrl|control|alt|shift|cmd|super|meta|win)\+)+\w+|\d{4}-\d\d-\d\d(?:[T\x20][\d:.,Z+-]+)?|aws4-hmac-.*|s-1-\d+(?:-\d+)+|"
    r"same-origin|same-site|cross-origin|anonymous|\[[A-Za-z_ ]+\]|"
    r"(?:(?:hmac|with|scram|pbkdf|sha|md|aes|rsa|ecdsa|des|[rhep]s|ed|x)[-_/]?\d{0,5}[-_/]?)+(?:[a-z]{2,4}\d{0,3})?|"
    r"redacted|filtered|censored|sensitive|inherit|\d{1,2}[a-z]{1,2}(?:,\d{1,2}[a-z]{0,2})?|"
    # only how long it is, its digest, a prefix whose rest a log leaves out
    r"[\w*+-]{0,24} ?\#? ?\(\d+ bytes\)|\(?(?:hmac-)?(?:sha-?\d*|md5|blake\w{1,3}):[0-9a-f]{32,128}\)?|"
    r"gl[a-z]{2,5}-\w{0,2}|"
    r"(?-i:ME[QUY]CI)[\w+/]{86,92}={0,2}|"  # a signature in DER
    r"unspecified|files|compat|--[a-z][\w-]*|\d{1,5}/(?:tcp|udp)|[\w-]+/\d+(?:\.\d+)+|[-=~_#+.|:]+|"
    r"=?3D|&(?:#|quot|apos|amp|lt|gt).*|\x1b\[.*|https?:.*)",  # also what an escaped sign or a colour begins with
    flags=re.IGNORECASE,
)
IN_MANUALS = frozenset({"password", "passwd", "pass", "pwd", "username"})  # where a manual shows how to hand one over
QUOTE = r"(?:\\{0,3}[\"'`]|\"\"|''|'\\'')"  # doubled in CSV, SQL and YAML, interrupted in a shell
EAST = "\u3000-\u9fff\uac00-\ud7a3\uff00-\uffef"  # no password has them, and no space stands before them
# up to a space, a quote, or the end of a sentence
VALUE = rf"[^\s\"'`\\<>|{EAST}]*[^\s\"'`\\<>|.,;:)\]}}{EAST}]"
QUOTED = rf"(?P<quote>{QUOTE})(?P<value>(?:(?!(?P=quote))[^\n]){{1,200}})(?=(?P=quote))"
_OF_SENTENCES = word_set(  # no passphrase has them; few sentences, messages and labels of programs have none
    "the and for are was were been being has have had does did not nor but you your yours our their its his her him "
    "she they them who whom what when where which while why how with without from into onto over under than then that "
    "this these those there here must may might should shall will would can cannot could please only same such some "
    "any all each every both other another more most very too also just still never always already again yet until "
    "unless via about above after before below between because since per out off set sets get gets use uses used using "
    "let make made enter enters entered type typed choose chosen change changed reset show shown hide forgot forgotten "
    "confirm confirmed repeat new old current wrong right invalid incorrect required optional missing expired empty "
    "blank default value values string strings text word words length minimum maximum least letters letter digits "
    "digit number numbers characters character upper lower case strong weak policy hash hashed plain encrypted "
    "encryption decrypted stored login logout log logs logged sign signed user users username name names account "
    "accounts admin email mail address field fields form input label button dialog page screen file files path folder "
    "directory key keys token tokens secret secrets password passwords passphrase credential credentials auth "
    "authentication authorization access api client server service session error errors failed fails failure success "
    "successful denied allowed found matches match create created delete deleted remove removed update updated send "
    "sent read reads write written return returns need needs see true false null none void int bool boolean str byte "
    "bytes char object array list dict map types func function class public private static final const var self prod "
    "production staging test tests testing dev config configuration settings setting option options env environment "
    "variable variables example sample one two three una uno los las del por para con que como est les des une pour "
    "dans sur der die das und ist ein eine nicht mit von bitte deine ihre nova nuevo nueva nouveau neues het een van "
    "voor deve pelo menos muito mais almeno debe deben doit muss musi sua seu suas tua tuo "
    "wird werden wurde wurden auch kein keine sind oder wenn zum zur sich darf kann nur yang untuk dengan atau tidak "
    "akan wordt niet zijn moet naar ook dit dat che sono della delle nel gli que pero esta este och att det som inte "
    "ett ska ikke skal til jest przez oraz dla nebo jako bir ile sunt pentru vous avec qui pas sera "
    "minimaal minimal mindestens tekens karakter zeichen caracteres caratteri tecken tegn "
    "vsaj najmanje barem gutxienez znakov znakova karaktere"
)
_SENTENCE = rf"(?:[a-z]{{1,12}}[ -]){{0,9}}(?:{'|'.join(sorted(_OF_SENTENCES))}|{FOREIGN})(?![a-z])"
_WORD = "(?-i:[a-z]{3,12})"
# a passphrase of three words or more
PHRASE = (
    rf"(?!{_SENTENCE})(?:{_WORD}(?: {_WORD}){{2,9}}(?! ?[\w{{%(]| [$<])|{_WORD}(?:-{_WORD}){{2,9}}(?![\w-]))"
    r"(?![^\x00-\x7f]\w)"
)
_PHRASE = re.compile(PHRASE)
VALUE_OR_PHRASE = rf"(?:{PHRASE}|{VALUE})"
EXAMPLE = re.compile(r"EXAMPLE")  # within the ids of manuals
FILLER = re.compile(r".{0,20}?([xX*0.#\u2022])\1{7,}.{0,6}")  # sk-xxxxxxxxxxxx, of a manual
_CHUNK = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_ALL_KINDS = re.compile(r"(?=.*[0-9])(?=.*[a-z]).*[A-Z]")
_HEX = re.compile(r"[0-9a-fA-F-]+")
_LETTERS = re.compile(r"[a-z]{2,}")
_NAMED_PART = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}(?![a-z])")
_RUNS = re.compile(r"[A-Za-z]+|[0-9]+")
_UUID_OF_DIGITS = re.compile(r"\d{8}(?:-\d{4}){3}-\d{12}")


class Detector(NamedTuple):
    """One kind of finding. `group` is the part to replace; `accept` has the last word on that part.

    `hint` is a cheap RE2 pattern that matches wherever the detector could. An anchored pattern starts where its hint
    starts: it is tried there only, which is what makes slow ones fast. `gate` is a simpler pattern that matches
    wherever the hint could, without gaps, so that all gates together make a small automaton; empty: the hint itself.
    `find` gives the matches where they are not simply all of the pattern's.
    """

    family: str
    kind: str
    pattern: re.Pattern[str]
    hint: str
    group: int | str = 0
    accept: Callable[[re.Match[str]], bool] | None = None
    anchored: bool = False
    gate: str = ""
    find: Callable[[str], Iterator[re.Match[str]]] | None = None


def detector(
    kind: str,
    pattern: str,
    hint: str,
    group: int | str = 0,
    *,
    accept: Callable[[re.Match[str]], bool] | None = None,
    flags: int = 0,
    anchored: bool = False,
    family: str = "SECRET",
    gate: str = "",
    find: Callable[[str], Iterator[re.Match[str]]] | None = None,
) -> Detector:
    """A detector that steps over placeholders: what is redacted already is never looked into again.

    Classes such as `\\w` mean ASCII, as they do in the hints.
    """
    whole = pattern if anchored else f"{PLACEHOLDER.pattern}|{pattern}"
    return Detector(family, kind, re.compile(whole, flags | re.ASCII), hint, group, accept, anchored, gate, find)


Context = tuple[str, str, Callable[[re.Match[str]], bool] | None, str]  # pattern, hint, who has the last word, gate


def contexts(rows: Iterable[Context]) -> tuple[Detector, ...]:
    """Detectors of passwords by what stands around them: the group `value` of a pattern."""
    return tuple(
        detector("password", pattern, hint, "value", accept=accept, flags=re.IGNORECASE, gate=gate)
        for pattern, hint, accept, gate in rows
    )


@cache
def re2_pattern(pattern: str | bytes) -> Any:
    """A pattern with room for its automaton: what does not fit is built again and again."""
    return re2.compile(pattern, re2_options())


def re2_options() -> Any:
    """Those of all patterns."""
    options = re2.Options()
    options.max_mem = 256 << 20
    return options


def hint_starts(hint: str, text: str) -> Iterator[int]:
    """Where a hint stands in a text, in characters."""
    whole = text if text.isascii() else text.encode("utf-8", "replace").decode()  # RE2 refuses lone surrogates
    return (match.start() for match in re2_pattern(hint).finditer(whole))


def is_phrase(text: str) -> bool:
    """Whether a text is three words or more as in a passphrase: small letters, parted alike, no word of sentences."""
    return bool(_PHRASE.fullmatch(text))


def is_of_sentences(word: str) -> bool:
    """Whether a word is one that sentences about secrets have and no passphrase has."""
    return word.lower() in _OF_SENTENCES


_INFLECTED = re.compile(r"(?:ing|ed|ly|ory|tions?|able|ible|ional|ment|ness|ity|less|ive|ous|ful|lich|keit|ung)\Z")


def is_plain_password(text: str) -> bool:
    """Whether letters alone may be a password where one stands: no word of sentences about them, and no form of one."""
    word = text.lower()
    return is_phrase(text) or (
        len(text) >= 6 and text.isalpha() and word not in _OF_SENTENCES and not _INFLECTED.search(word)
    )


def is_value(match: re.Match[str]) -> bool:
    """Whether the value of a match stands in for none; what a generator made may begin as a template does."""
    return not NOT_A_SECRET.fullmatch(match["value"]) or is_generated(match["value"])


def is_mixed_value(match: re.Match[str]) -> bool:
    """The same for a value that is no plain word: a phrase, or letters and digits, or marks between short parts."""
    value = match["value"]
    mixed = is_mixed(value) or (len(value) >= 8 and chunk_length(value) <= 3) or is_phrase(value)
    constant = re.fullmatch(r"[A-Z][A-Z\d]*(?:_[A-Z\d]*[A-Z]){2,}", value) and word_share(value) > 0.6
    return mixed and is_value(match) and not constant and not value.endswith("/")  # a folder


def entropy(text: str) -> float:
    """Shannon entropy in bits a character: -sum(p log2 p) over the characters' shares."""
    length = len(text)
    return -sum(n / length * math.log2(n / length) for n in Counter(text).values()) if text else 0.0


def is_hash(text: str) -> bool:
    """Whether a string could be a hash or a UUID: nothing but hexadecimal digits and dashes."""
    return bool(_HEX.fullmatch(text))


def is_mixed(text: str) -> bool:
    """Whether a string has letters and digits."""
    return any(char.isdigit() for char in text) and any(char.isalpha() for char in text)


def chunk_length(text: str) -> float:
    """How long the words of a string are: runs of letters (in camel case, parts of them) and of digits.

    A random string of letters of both cases and digits has a mean of about 2, an identifier more than 3.
    """
    chunks = _CHUNK.findall(text)
    return sum(map(len, chunks)) / len(chunks) if chunks else len(text)


@cache
def _common_pairs() -> frozenset[str]:
    """Pairs of letters that are frequent in English, from the 2,048 words of BIP-39."""
    pairs = Counter(word[at : at + 2] for word in Mnemonic("english").wordlist for at in range(len(word) - 1))
    return frozenset(pair for pair, count in pairs.items() if count >= 8)


@cache
def wallet_words() -> frozenset[str]:
    """The 2,048 English words of BIP-39."""
    return frozenset(Mnemonic("english").wordlist)


def is_wordlike(text: str) -> bool:
    """Whether the letters of a string follow each other as in words; of random ones, 3 in 100 do.

    Of 4,000 identifiers of Python's library 5 in 100 do not (measured with the pairs above and a share of 0.7).
    """
    runs = _LETTERS.findall(text.lower())
    pairs = [run[at : at + 2] for run in runs for at in range(len(run) - 1)]
    return bool(pairs) and sum(pair in _common_pairs() for pair in pairs) >= 0.7 * len(pairs)


def word_share(text: str) -> float:
    """Which share of the letters and digits of a string stands in words of three letters or more, as in identifiers.

    Of 1,000 random strings of 24 characters 4 have more than 0.4 (measured).
    """
    words = (part for part in _NAMED_PART.findall(text) if len(part) >= 3 and is_wordlike(part))
    return sum(map(len, words)) / max(1, sum(map(str.isalnum, text)))


def is_shuffled(text: str) -> bool:
    """Whether letters and digits take turns as in no name: of random ones of one case, 10 runs in 24 characters."""
    return text.isalnum() and len(_RUNS.findall(text)) >= max(5, 0.26 * len(text))


_MINIFIED = re.compile(
    r"return|function|=>|\w\(\w{0,2}\)\{|&&|\|\||;|\.\.\.|,\w|\w\.\w+[()]|\)[.?][a-z]{3}|\A[a-z_]{4,}[)\]]|(?:\\[()\[\]{}|].*){3}"
)


def is_scrambled(text: str) -> bool:
    """Whether brackets are crossed or closed unopened, as in no program: three times, or once in a random string."""
    if _MINIFIED.search(text) or re.fullmatch(r"[\w:/.-]+[)\]}]+", text):
        return False
    opened: list[str] = []
    crossed = 0
    for mark in text if len(text) >= 12 and " " not in text else "":
        if mark in "([{":
            opened.append(mark)
        elif mark in ")]}":
            crossed += not opened or opened.pop() + mark not in {"()", "[]", "{}"}
    return crossed >= 3 or (crossed > 0 and len(text) >= 20 and is_random_token(re.sub(r"[()\[\]{}]", "", text), 2.4))


_OF_CODE = re.compile(  # the head of a class, a call, a named hash, the next name, a range, a template, a link
    r"_[A-Z\d]+\(|\A[A-Za-z_]\w*\([A-Za-z_][\w.]*\)?:?\Z|\A\(?[A-Za-z]{2,10}[:=][0-9a-f]{7,64}\)?\Z|"
    r"[;,&?](?:[A-Za-z_]{3,}\w*[=:]|[a-z]\w?=)|[aA]-[zZ]|0-9|=>|"
    r"\.\w+[(\[]|\(\w*\)|\$?\{\w*\}|\{\{|\]\(|\.\.\.|\*{4}|://"
)
_RARE_MARKS = re.compile(r"[\[\](){}|,;%#^~@$!&*?]")
_PAIR_OF_ONE_CASE = re.compile(r"(?=[a-z]{2}|[A-Z]{2}|\d\d)")
_PAIR = re.compile(r"(?=[A-Za-z0-9]{2})")


def is_generated(text: str) -> bool:
    """Whether only a generator of passwords makes a string: marks, and between them no words, names or numbers.

    Of random strings of 20 characters, a sixth of them marks, 93 in 100 are; of 3,700 pages of programs and manuals
    none holds one behind a telling name (measured).
    """
    marks = set(_RARE_MARKS.findall(text))
    kinds = bool(_ALL_KINDS.match(text)) or len(marks.intersection("%#^~@$!&*?")) > 1
    if len(text) < 10 or text.islower() or text.isupper() or not (marks and kinds) or _OF_CODE.search(text):
        return False
    pairs = len(_PAIR.findall(text))
    mixed = len(marks) > 3 or (pairs >= 4 and pairs - len(_PAIR_OF_ONE_CASE.findall(text)) >= 0.3 * pairs)
    return mixed and chunk_length(text) <= 3 and word_share(text) <= 0.35


def _counts(text: str) -> bool:
    """Whether the bytes of a hexadecimal string count in equal steps, as those of tests do: 00010203, 00112233."""
    whole = bytes.fromhex(text) if len(text) % 2 == 0 and text.isalnum() else b""
    return len({(after - before) % 256 for before, after in pairwise(whole)}) == 1


def looks_random(text: str) -> bool:
    """Whether a value beside a telling name is no word, number, version, path or piece of a program."""
    if _UUID_OF_DIGITS.fullmatch(text):
        return len(set(text)) >= 6
    if (
        len(text) < 8
        or re.search(r"[\s(\[{<>]|://|^[~./$]|^[\w./\\-]*\.(?:\w{1,3}|[A-Za-z]\w{3}|\d{4})\Z|^\d{4}-\d\d-\d\dT", text)
        or not any(map(str.isalpha, text))
    ):
        return False
    if len(text) >= 20 and is_hash(text):
        return is_mixed(text) and len(set(text)) >= 6 and not _counts(text)
    parts = re.split(r"[^A-Za-z0-9]+", text)
    if len(parts) > 2 and all(len(part) <= 3 or part.isdigit() or is_wordlike(part) for part in parts):
        return False  # a dotted path, a name in kebab case
    if text.isalpha():
        if len(text) < 16:  # of 78,000 names in libraries next to none has as short parts (measured)
            return len(text) >= 12 and not is_wordlike(text) and chunk_length(text) <= 2.4
        return not is_wordlike(text) and entropy(text) >= 3.0 and word_share(text) <= 0.4
    if not any(map(str.isdigit, text)):
        constant = text.isupper() and "_" in text
        return not is_wordlike(text) and chunk_length(text) <= 3 and len(text) >= 10 and not constant
    if word_share(text) > 0.6:
        return False
    shuffled = is_shuffled("".join(parts))
    return (not is_wordlike(text) or chunk_length(text) <= 2.4 or shuffled) and entropy(text) >= 2.5


def is_random(text: str) -> bool:
    """Whether a value of 16 characters or more is no word and no number."""
    return len(text) >= 16 and entropy(text) >= 3.0 and is_mixed(text)


def is_random_short(text: str) -> bool:
    """Whether twelve characters or more behind a key's own beginning are random: both cases and digits, no words."""
    return bool(_ALL_KINDS.match(text)) and chunk_length(text) <= 2.75


def is_random_token(text: str, limit: float = 2.75) -> bool:
    """Whether a string that stands alone can only be a token: both cases and digits, without order.

    File names, identifiers, hashes, UUIDs and the paths of SVG pictures are none.
    """
    if not _ALL_KINDS.match(text.removeprefix("0x")):
        return False
    chars = Counter(text)  # counted in C: a picture in base64 has millions
    upper = sum(count for char, count in chars.items() if char.isupper())
    padding = len(text) - len(text.rstrip("="))
    marks = sum(count for char, count in chars.items() if not char.isalnum()) - padding
    return (
        sum(map(str.isalpha, set(text.lower()))) >= 8
        and marks <= 0.12 * len(text)
        and ("/" not in text or upper >= 0.2 * len(text))
        and chunk_length(text) <= limit
        and word_share(text) <= 0.4
    )
