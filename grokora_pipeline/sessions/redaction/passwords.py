"""Passwords by the name that they stand beside: `password = x`, columns named so, a service's name; wallets' words."""

import re
from collections.abc import Callable, Iterator

from grokora_pipeline.sessions.redaction.detector import (
    EAST,
    NOT_A_SECRET,
    PHRASE,
    QUOTE,
    TELLING,
    TELLING_GATE,
    TELLING_HINT,
    VALUE_OR_PHRASE,
    Detector,
    chunk_length,
    detector,
    entropy,
    hint_starts,
    is_generated,
    is_hash,
    is_mixed,
    is_mixed_value,
    is_of_sentences,
    is_phrase,
    is_plain_password,
    is_random,
    is_random_token,
    is_scrambled,
    is_shuffled,
    is_value,
    is_wordlike,
    looks_random,
    wallet_words,
    word_share,
)
from grokora_pipeline.sessions.redaction.names import FOREIGN, Meaning, meaning, word_set
from grokora_pipeline.sessions.redaction.published import providers
from grokora_pipeline.sessions.redaction.tokens import PUBLIC, from_base64, is_address, is_known_id, is_publishable

_PUBLIC_NAME = re.compile(
    r"public|site_?key|site-key|integrity|nonce|fingerprint|hash|sha\d|websocket|cache|idempotency|"
    r"(?:page|next|continuation|pagination|sync|resume|starting)_?token",
    re.IGNORECASE,
)
_SERVICE = re.compile(  # a name, and at most one quoted argument between it and the end
    r"(?<![\w@/.])(?P<name>[A-Za-z][\w.-]{1,40}?(?: (?:api|app|client|account|admin|rest|live|private))?)"
    r"(?P<between>(?:[^\w\n]{1,8}|:?\s?\n[ \t]{0,8})(?:[\w-]{1,40}[\"'`], ?[\"'`])?)\Z",
    re.ASCII,
)
_ID_WORDS = word_set(
    "id ids hash sha md5 commit version rev revision ref url image digest checksum etag uuid guid user account project "
    "org team event request trace span session run job build deployment client tag channel message index address "
    "name title voice track playlist page board zone file model record txt "
    "wallet mint contract block tx"
)
_APP_PASSWORD = re.compile(r"(?:[a-z]{4}[ -]){3}[a-z]{4}")  # of Google and Apple, for programs
_SEED_WORD = re.compile(r"[a-z]+")
_SHORT_NAMES = {"pass", "pw", "pin", "secret"}
_SEPARATOR = re.compile(
    r"[\W_]*(?:(?:is|was|s|to|with|as|str|string|byte|value|token|key|secret|hex|it|has|been|created|generated|now|for|you|provided)[\W_]+){0,3}",
    re.IGNORECASE,
)
_WORD_BEFORE = re.compile(r"[A-Za-z]+ \Z")
_NAME_BEFORE, _VALUE_AFTER = re.compile(r"[\w$\]'\"], ?\Z"), re.compile(r"[\"'`], ?[\"'`]")
_NAME_START = re.compile(r"[\w.-]*\Z", re.ASCII)
_ARN = re.compile(r"(?:\b[au]rn:[\w:/.*-]*[:/]|\bchecksum/)\Z")
_SETS = {"=", ":", "\uff1a"}
# what people choose: all kinds of characters, one of them a mark that no identifier and no path has
CHOSEN = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d)(?=.*[!@#$%^&*?])[\w!@#$%^&*?.+~-]{8,40}", re.ASCII)
_CALLED_KEY = re.compile(  # says of itself that it is a key, or counts on its fingers
    r"(?=.{6})(?=.{10}|.*\d{3})(?=.*\d\d)(?:[A-Za-z0-9]+[_-])*(?i:key|token|secret|auth|bearer)(?![a-z])[\w-]*|"
    r"[A-Za-z]{4,}[_-]?1234567?8?9?0?|(?=.*\d)(?=.*[A-Za-z])(?:[A-Za-z0-9]+[_-])*(?i:abc|def|ghi|xyz|123|456|789){2,}"
)
_LINE_END = re.compile("[\n\r\\\\\"'`<]|;?[ \\t]*(?:\u2502|\\Z)|;[ \t]*\n")  # also within quotes, an element, a box
CODE = re.compile(  # a name or a call in a program, not a value
    r"(?:[a-z_]\w*\.)*[a-z_]*(?:pass|pwd|secret|token|key|cred)[a-z_]*(?:\.\w+)*(?:[\[(].*)?|[a-z_][\w.]*[\[(].*|"
    r"(?:convertto|convertfrom|read|get|new|import)-(?:host|content|random|object|cli\w+|[a-z]*(?:secret|cred|pass|token|"
    r"string)[a-z]*)",
    re.IGNORECASE,
)

_ELSEWHERE = re.compile(  # the password manager or the file that keeps it, a template, a regular expression
    r"(?:op|vault|secret|ref|ssm|awssm|keyring):(?://)?[\w/-]+/|//[\w-]+[./]|[A-Za-z_]\w*(?:::[A-Za-z_]\w*)+\Z|\$\w+[/\\]|"
    r"/[A-Za-z]+=\Z|(?:[\w-]+:)?(?:/(?:[A-Za-z._-]+|v\d)(?:@[\d.]+)?){1,}\Z|"
    r"(?:~|\.{0,2}|[A-Z]:)[/\\][\w./\\-]+\.(?:pem|key|crt|cer|p12|pfx|jks|ppk|json|txt|ya?ml|env|gpg|age)\Z|"
    r"(?:[A-Za-z._-]+|\d+)(?:/(?:[A-Za-z._-]+|\d+)){2,}(?::[A-Za-z_]+)?\Z|[au]rn:[\w:/.*-]+\Z|"
    r"[\w./-]+\.(?:md|rst|html?)(?:#[\w.-]*)?\Z|[\w.+-]+\.(?:whl|tar\.\w{2,3}|tgz|zip|jar|deb|rpm)\Z|"
    r"[a-z]+(?:/[a-z_-]+)*(?:/[a-z_-]+(?::[a-z_]+)?|/\*)\Z|"
    r"(?:[a-z][a-z0-9-]*\.){2,}(?:com|org|net|io|dev|local|internal)(?:[:/-][a-z/-]*)?\Z|"  # a host
    r"(?=.*/\[\d)[A-Za-z_]+(?:/(?:[A-Za-z_-]+|\[\d{1,3}\]))+\Z|[a-z]+_[a-z_]+/\d\Z|(?:!\w[\w-]*:)+!\w[\w-]*\Z|"
    r"[a-z_]+(?:\|[a-z_]+(?::[\w,.]+)?)+\Z|"  # the rules of a validator
    r".*(?:\{[a-z_]{3,24}\}|%\(\w+\)s)|.*\[[^\]\n]+\][+*?{]"
)
_CALLED = re.compile(  # a call that another quote holds, a rule of a validator
    r"[$@]?[A-Za-z_][\w.]*\((?:(?P<quote>[\"'`])?[\w.:-]*(?(quote)(?P=quote)))?\)|[a-z]{2,12}:\d{1,4}(?:,\d{1,4})?|"
    r"[A-Za-z_][\w.]* (?:\|\||&&|\?\?) [A-Za-z_'\"].*"
)
_BETWEEN_QUOTES = re.compile(
    r"(?:\s|\\n)*(?:[.,+;)&:]|\|\|)+(?:\s|\\n)*\$?[A-Za-z_].*[:=+.,(\[{&|]\s*|(?:\s|\\n)+.*(?:\s|-\w)|"
    r"[)\]}]+[,;.:\s].*|[)\]}].*[\[({,]"
)

_MARKS = frozenset("%#$^~`@\\")  # hardly three of them in one call
_LABEL = re.compile(FOREIGN, re.IGNORECASE)  # the word for a password, translated
_CONSTANT = re.compile(r"[A-Z][A-Z\d]*(?:_[A-Z\d]+)+")
_ACTION = re.compile(
    r"(?:change|update|reset|force|require|expire|verify|check|use|show|hide|allow|no|has|is)_", re.IGNORECASE
)
FILTERED = re.compile(r"\{\{[^{}\n]*\Z")  # in a template, {{ .Values.password | b64enc }}
_KEY_BEFORE = re.compile(r"(?i)(?:api|secret|access|private|auth|encryption|master|service|app)[ _-]\Z")
_TEST = re.compile(r"(?:Test|Example|Fuzz)[A-Z]\w*(?:/\S*)?|(?:[\w.+-]+/)+[\w+-]+\.[a-z]{1,4}")  # that passed
_HASH_NAME = re.compile(r"(?i)\b(?:hash|digest|fingerprint|checksum|thumbprint)\W*\Z")
_OF_A_CACHE = re.compile(r"(?i)\bcache[ds]?\b[^\n]*\Z")  # Cache restored from key: Linux-node-0a1b...
_OPERATORS = re.compile(r"\w\|\|\w|\w&&\w|=>\{|\bthis\.\w+[=,]|,\w+:[a-z]")  # of a minified program
_TERNARY = re.compile(r"\? ?[\"'`]\Z")
_SCHEME = re.compile(r"(?:basic|bearer|token) ", re.IGNORECASE)
_LICENCE = re.compile(
    r"\b(?:apache|mit|[al]?gpl|gfdl|bsd|mpl|mozilla|isc|cc|ofl|psf|zlib|licen[cs]ed?)(?:\b|_|v?\d)", re.IGNORECASE
)
# without quotes: what a program gets or names, also as the argument of a call
EXPRESSION = re.compile(
    r"(?:void|new|await|typeof|yield|lambda|async|not)\b|[&*][A-Za-z_]\w*\Z|"
    r"(?P<path>[A-Za-z_]\w*(?:(?:[?!]{0,2}\.|::?|->)[A-Za-z_]\w*)+)\Z|(?P<argument>[A-Za-z_]+\d{0,2})\Z"
)
# the name of a type, of two words or more: Uint8Array, Unbounded_String; the end of a pattern behind it
_TYPE = re.compile(r"[A-Z][a-z]+(?:\d{1,2}(?=[A-Z]))?(?:_?[A-Z][a-z]*)+(?:[!?]|\$?/)?")
_WORDS_AND_NUMBER = re.compile(
    r"[*&]?[A-Z][a-z]{2,}(?:\.[A-Za-z][a-z]{2,})*\d{2,4}"
)  # Spring.Garden24, as people choose


def _is_scribbled(value: str) -> bool:
    """Whether twelve small letters or more, in quotes, are no word."""
    return len(value) >= 12 and value.isalpha() and value.islower() and not is_wordlike(value)


def is_secret(means: Meaning, value: str, *, quoted: bool) -> bool:
    """Whether the value of a name is a secret: any of a password, a random one of a key; never a piece of a program.

    The one judgement about names and values, for assignments in texts and for members of JSON.
    """
    if means and (is_scrambled(value) or is_generated(value)):
        return True
    code = quoted and means == "password" and re.fullmatch(r"\d{3}", value)  # of a card
    if (
        not means
        or (len(value) < 4 and not code)
        or NOT_A_SECRET.fullmatch(value if quoted else value.partition(";")[0])
        or (not quoted and (re.search(r"[(\[{)\]}]", value) or not re.search("[A-Za-z0-9\u00c0-\u04ff]", value)))
    ):
        return False
    if scheme := _SCHEME.match(value):
        key = value[scheme.end() :]
        if NOT_A_SECRET.fullmatch(key):
            return False
        if _is_scribbled(key):
            return True
    if (
        _ELSEWHERE.match(value)
        or _CALLED.fullmatch(value)
        or (value.isupper() and "_" in value and meaning(value))
        or _LABEL.fullmatch(value)
    ):
        return False
    if value[0] in "\"'" or _BETWEEN_QUOTES.fullmatch(value):
        return False  # of two strings: the program between them
    cut = any(value.count(opening) != value.count(closing) for opening, closing in ("()", "[]"))
    if cut and re.match(r"[A-Za-z_][\w.:]*[(\[]", value) and len(_MARKS.intersection(value)) < 3:
        return False  # a call whose end another quote cut off
    words = value.split()
    prose = len(words) > (1 if any(map(is_of_sentences, words)) else 2) and (
        sum(word.strip(".,:;!?'\"()").isalpha() for word in words) >= 0.6 * len(words)
    )
    if means == "key":
        known = is_known_id(value) and is_hash(value.partition("-")[2] or "-")  # subnet-0a1b...
        described = prose and not re.search(r"\d{3}", value)  # a sentence about a key; with a number it may be one
        return not (known or described or (_LICENCE.search(value) and not is_hash(value))) and (
            bool(CHOSEN.fullmatch(value))
            or ((quoted or "-" in value) and bool(_CALLED_KEY.fullmatch(value)))
            or (quoted and _is_scribbled(value))
            or looks_random(value)
            or is_random(value)
            or (quoted and is_random_token(value, 3.2))
        )
    if _APP_PASSWORD.fullmatch(value):
        return not is_wordlike(value)
    if len(words) > 1 and any(meaning(word) == "password" for word in words):
        return False  # Passwort vergessen?
    return not prose or is_phrase(value) or _seed_words(value)


def _as_name(text: str) -> str:
    """A name without case and joints: `#add-password` names the same as `addPassword`."""
    return re.sub(r"\A(?:[#.$@:]|--?)|(?<=\w)[_-](?=\w)", "", text).lower()


def is_harmless(name: str, value: str) -> bool:
    """Whether a telling name says nothing here: a program's licence, a public signing key, a policy's Sid, a source."""
    return bool(
        (re.fullmatch("(?i)licen[cs]es?", name) and (word_share(value) > 0.4 or "/" in value))
        or (re.search(r"(?i)(?:signing|[gp][gp]g)_?key\Z", name) and re.fullmatch("[0-9A-F]{8,40}", value))
        or (name == "PASS" and _TEST.fullmatch(value))
        or (name == "Sid" and value.isalnum() and not is_random_token(value))
        or (name == "sid" and re.fullmatch("[0-9a-f]{8}", value))  # of OpenVPN's packets
        or (name.lower() == "dsn" and value.isalpha())
        # of a chip
        or (
            re.search(r"(?i)(?:\A|_)pin\Z", name)
            and re.fullmatch(r"[A-Z]{1,4}\d{0,2}(?:[._][A-Z]{0,3}\d{1,2})?|[A-Z]+(?:_[A-Z]+)+_?\d{0,3}", value)
        )
    )


def _is_assigned(match: re.Match[str]) -> bool:
    """Whether an assignment to a telling name holds a secret."""
    operator, quote, value = match["operator"], match["quote"] or match["opened"], match["value"]
    name = _whole_name(match)
    if _is_of_a_type(match) and (is_hash(value) or operator in {":", "-"}):
        return False
    start = match.end("name") - len(name)
    if _NAME_BEFORE.search(match.string, max(0, start - 40), start) and _VALUE_AFTER.match(match.string, match.end()):
        return False  # `user, password = "a", "x"`: the second value belongs to the second name
    spaced = match.string[match.end("operator") : match.end("operator") + 1] == " "
    if operator == "->" and not (spaced or quote):
        return False  # a method of what is called so
    psql = not spaced and match.string[match.start("operator") - 1].isspace() and quote  # PASSWORD :'x', a variable
    chosen = _TERNARY.search(match.string, max(0, start - 3), start)  # shown ? "password" : "text"
    if operator == ":" and (psql or chosen or match["opened"] == "q("):
        return False  # the last is a call in a minified program, no quote of Perl
    if is_harmless(name, value):
        return False
    if not quote and _is_name_too(match, name, spaced):
        return False
    dumped = operator == "=" and name.isupper() and not spaced  # of an environment
    if not (quote or dumped) and is_expression(value, match.string[match.end() : match.end() + 1]):
        return False
    if meaning(name) == "key" and name.lower().endswith(value.lower()):
        return False  # the one header or the other
    if _as_name(value) == _as_name(name.rpartition(".")[2]) or (
        not quote and (spaced or operator == "==") and CODE.fullmatch(value) and not _WORDS_AND_NUMBER.fullmatch(value)
    ):
        return False
    means = meaning(name)
    if not is_secret(means, value, quoted=bool(quote)):
        known = not (NOT_A_SECRET.fullmatch(value) or re.search(r"[(\[{]", value) or _PUBLIC_NAME.search(name))
        return known and (
            (means == "key" and dumped and len(value) >= 8)
            or (not means and len(value) >= 20 and is_random_token(value))
        )
    if means == "key":
        return True
    alone = bool(_LINE_END.match(match.string, match.end()))
    long = quote and len(value) >= 8
    is_pw = name.lower() == "pw" and is_plain_password(value)
    if name.lower() in _SHORT_NAMES and not (is_pw and alone) and not (long or re.search(r"[\W\d_]|[a-z][A-Z]", value)):
        return False  # "pass: all", "pin: left"
    # an unquoted word after `$password =` is none of the names that other languages have in its place
    alone = alone or match.string[: match.start("name")].endswith("$")
    return bool(quote) or not value.isalpha() or (operator == "=" and not spaced) or (alone and operator in _SETS)


def is_name_of_secret(value: str) -> bool:
    """Whether a word without quotes is what a secret is called where it is kept: db-password, prod/db-token-x7k2p."""
    named = re.fullmatch(r"[a-z]+(?:-[a-z]+)+|[a-z]+(?:-[a-z]+)*/([a-z]+(?:-[a-z]+)+?)(?:-[a-z0-9]{5})?", value)
    return named is not None and any(map(meaning, (named[1] or value).split("-")))


def _is_name_too(match: re.Match[str], name: str, spaced: bool) -> bool:
    """Whether what follows a name without quotes is one as well: of the next assignment, a variable, a type, an act."""
    value, after = match["value"], match.string[match.end() :]
    below = "\n" in match.string[match.end("operator") : match.start("value")]
    generic = value.isalpha() and value[0].isupper() and after[:1] == "<"  # Option<String>
    annotated = match["operator"] == ":" and spaced
    declared = annotated and (value[-1] in "!?/" or re.match(r";[ \t]*(?:\n|\Z)| ?[)}\]|=]", after))
    if generic or _OPERATORS.search(value) or (declared and _TYPE.fullmatch(value)):
        return True
    if annotated and value[-1] in "!?" and _as_name(value[:-1]) == _as_name(name):
        return True  # password: Password! of GraphQL
    if (
        re.match(r" ?[=:](?:\s|\Z)", after)
        or (below and re.match(r"[ \t]*\|", after))
        or re.match(r"[\w.-]+=" if below else r"\w+\|\w+:", value)
    ):
        return True
    start = match.end("name") - len(name)
    if (
        spaced
        and value.isidentifier()
        and value.islower()
        and _NAME_BEFORE.search(match.string, max(0, start - 40), start)
    ):
        return True  # `user, password = auth`
    constant = (spaced and _CONSTANT.fullmatch(value) and word_share(value) > 0.4) or is_name_of_secret(value)
    if spaced and value.isdigit() and "_" in name and name.isupper() and after[:1] == ",":
        return True  # of an enumeration
    if below and re.match(r"[\w./-]+:\d+:|[+-][A-Za-z]", value):
        return True  # the margin of the next line
    return bool(constant) or bool(_ACTION.match(name) and not (is_mixed(value) and looks_random(value)))


def is_expression(value: str, after: str) -> bool:
    """Whether a value without quotes is a piece of a program: an operator, a path of names, a name of several words."""
    match = EXPRESSION.match(value)
    if _WORDS_AND_NUMBER.fullmatch(value):
        return False
    if not match or match.group("path"):
        return bool(match) and not any(is_random_token(part) for part in re.split(r"\W+", value))
    words = re.search(r"[A-Za-z]_[A-Za-z]|[a-z][A-Z]", value)
    return not match.group("argument") or (after in {",", ")"} and bool(words) and is_wordlike(value))


def _whole_name(match: re.Match[str]) -> str:
    """The name of an assignment, with what stands before the telling part of it."""
    before = _NAME_START.search(match.string, max(0, match.start("name") - 60), match.start("name"))
    return (before.group() if before else "") + match.group("name")


def _is_of_a_type(match: re.Match[str]) -> bool:
    """Whether the name is a type's of several parts, whose hash is no secret: `AWS::KMS::Key`, `arn:...:secret:x`."""
    start = match.end("name") - len(_whole_name(match))
    return match.string[:start].endswith("::") or bool(_ARN.search(match.string, max(0, start - 99), start))


def is_named(match: re.Match[str]) -> bool:
    """The same where name and value are apart: arguments of a call, an XML element, an entry of a list."""
    name, value = _whole_name(match), match["value"]
    # of the field that is called so, or the name of its twin: "password1", "password2"
    plain, label = (re.sub(r"[\W_]", "", one).lower() for one in (name, value))
    label_of_it = (
        label in plain
        or (value.istitle() and (meaning(value) == "password" or is_of_sentences(value)))
        or (label[-1:].isdigit() and label[:-1] == plain.rstrip("0123456789"))
    )
    # "kubernetes_secret", "kubernetes_secret_v1" of a list; the call that a string stands beside
    longer = "_" in name and label.startswith(plain)
    call = not match.groupdict().get("quote") and re.match(r"[A-Za-z_][\w.]*\((?:[^()]*\)\Z|\w+\.\w)|[(\[]", value)
    return not (label_of_it or longer or call) and is_secret(meaning(name), value, quoted=True)


def _are_constants(match: re.Match[str]) -> bool:
    """Whether name and value are both names of constants, as in a list of them."""
    return match["name"].isupper() and match["value"].isupper() and match["value"].isidentifier()


def _beside(between: str, hint: str, accept: Callable[[re.Match[str]], bool]) -> Detector:
    """A detector of what follows a telling name without an operator: `between` parts them, `hint` is its beginning."""
    return detector(
        "password",
        rf"(?P<name>(?:{TELLING})[\w-]{{0,24}}(?: key\b)?)(?:{between})(?P<quote>{QUOTE})?"
        rf"(?P<value>(?(quote)(?:(?!(?P=quote))[^\n]){{1,200}}?(?=(?P=quote))|{VALUE_OR_PHRASE}))",
        rf"(?i:(?:{TELLING_HINT})[\w-]{{0,24}}(?: key)?(?:{hint}))",
        "value",
        accept=accept,
        flags=re.IGNORECASE,
        anchored=True,
        gate=TELLING_GATE,
    )


_PAIRED = (  # what says by itself that a name and a value are a pair
    rf"(?:{QUOTE}[^<>\n]{{0,60}})?>\s{{0,20}}(?:<(?:value|string)>){{0,2}}"
    r"(?=(?:[^<>\s]+|[a-z]{3,12}(?: [a-z]{3,12}){2,9})\s{0,20}</)",  # <a key="password">x</a>
    r"</(?:key|name)>\s{0,20}<(?:string|value)>",
    rf"\s+\w{{1,16}}={QUOTE}[^\"'<>\n]{{0,120}}{QUOTE}>",  # <password type="plain">x
    rf"(?:{QUOTE})?\s+value=(?={QUOTE})",  # <password value="x"
    # {"name": "API_KEY", "value": "x"}, <name="API_KEY"/> <value="x"/>
    rf"{QUOTE}(?:[\s,]{{1,3}}|\s?/?>\s{{0,20}}<)(?:(?:{QUOTE})?value(?:{QUOTE})?\s?[:=]\s?|(?:content|text)=)(?={QUOTE})",
    r"\s{1,20}value: ?",  # - name: API_KEY, and below it its value
    # {"db_password": {"value": "x"}}
    rf"(?:{QUOTE})?\s?[:=]\s?\{{\s{{0,20}}(?:{QUOTE})?(?:[a-z]{{0,9}}value|S)(?:{QUOTE})?\s?[:=]\s?(?={QUOTE})",
    rf"{QUOTE} ?\{{[^}}]{{0,300}}?\bdefault\s{{0,20}}= ?(?={QUOTE})",  # variable "db_token" { default = "x" }
    rf"(?:{QUOTE})?\s{{0,8}}[:=]\s?\S{{1,80}} -> (?={QUOTE})",  # password = "old" -> "x"
    r":[-=](?=[^\s}]{4,80}\})",  # ${API_KEY:-x}
)
_LOOSELY = (  # what stands between other words, too
    # <input id="api-key" type="text" value="x"
    rf"{QUOTE}(?:\s{{1,8}}[\w-]{{1,20}}={QUOTE}[^\"'<>\n]{{0,80}}{QUOTE}){{1,6}}\s{{1,8}}value=(?={QUOTE})",
    # | API_KEY | x |
    r"[ \t`*]{0,24}\|[ \t`*]{0,24}(?=(?:[^\s|`*]{6,}|[a-z]{3,12}(?: [a-z]{3,12}){2,9})[ \t`*]{0,24}\|)",
    rf"(?:{QUOTE}|(?-i:(?<=[A-Z]))),\s?N?(?={QUOTE})",  # ("smtp_password", "x"), setopt(USERPWD, "x")
    # var token string = "x", Dim token As String = "x", declare @token nvarchar(50) = N'x'
    rf" (?:as )?(?:string|&?str|text|\[\]byte|n?varchar2?\(\w+\)) ?= ?N?(?={QUOTE})",
    r"=\{(?=[^\s{}\\]{8,98}\})",  # PWD={x} of ODBC
    # getenv("API_KEY") = "x" of a tracer, password = 0x55e "x" of a debugger, PASSWORD: Literal["x"]
    rf"(?:{QUOTE}\) ?= |\s?= ?0x[0-9a-f]{{1,16}} |(?:{QUOTE})?: (?:\w+\.)?(?:Literal|Final|SecretStr)\[|"
    rf"{QUOTE};s:\d{{1,4}}:| -string )(?={QUOTE})",  # serialized by PHP, defaults write of macOS
    # get_password(): return "x", password: String { "x" }
    r"(?:\([^()\n]{0,40}\))?[^\n\"'=;,]{0,24}[:{]\s{0,24}(?:return )?(?=\\{0,3}(?:\"(?!\"\")|'(?!'')))",
    # storePassword "x", "password"  "x"
    rf"(?:{QUOTE}[ \t]{{0,24}})?[ \t]?(?=(?P<line>[\"'])(?:[^\s\"'`\\]{{6,98}}|[a-z]+(?: [a-z]+){{2,9}})(?P=line)"
    r"[ \t]*(?:;|\n|\Z|\}|\)))",
)
_APART = (  # what a page, a protocol, a prompt, a table or a declaration puts between a name and a value
    r"[ :]{0,3}(?:\s{0,24}</?[a-z][^<>\n]{0,80}>){1,6}\s{0,20}",  # <td>password</td><td>x</td>
    # <label>password</label><input value="x"
    rf"[ :*]{{0,3}}</label>\s{{0,24}}(?:<[a-z][^<>\n]{{0,80}}>\s{{0,8}}){{0,2}}"
    rf"<input\b[^<>\n]{{0,120}}?\bvalue=(?={QUOTE})",
    r">\s{0,20}<!\[CDATA\[",
    r" ?(?:[\[(][^\[\]()\n]{0,24}[\])] ?[:>]|[>\u2026\u203a\u276f]) ",  # password [none]: x
    # a field of a form with its headers
    rf"{QUOTE}(?:; ?\w{{1,20}}={QUOTE}[^\"\n]{{0,80}}{QUOTE})?(?:\r?\n|\\r\\n)"
    r"(?:[\w-]{1,40}: [^\n]{0,80}\n){0,3}?(?:\r?\n|\\r\\n)",
    rf"(?:{QUOTE})?\]? ?=>\s{{1,20}}string\(\d+\) (?={QUOTE})",  # as PHP shows an array
    rf" ?\{{ ?(?:(?:private |protected |internal )?(?:get|set|init); ?){{1,3}}\}} ?= ?(?={QUOTE})",
    rf"{QUOTE}, [^\n]{{0,80}}?\bdefault(?:_value)? ?= ?(?={QUOTE})",
    rf"{QUOTE}(?: (?:with|to|as|is|mit|auf|con|a|avec)|, ?with:) (?={QUOTE})",  # set "password" to "x"
    # "key" => env("X", "x")
    rf"{QUOTE} ?=>? ?(?:\w{{1,16}}\.)?(?:get)?(?:env|config)\({QUOTE}[\w.]{{1,40}}{QUOTE}, ?(?={QUOTE})|"
    rf"(?:[^\n\"'`=;,]{{0,40}}|\s?[:=]?\s?<%= ?ENV(?:\.fetch)?[\[(]{QUOTE}\w{{1,40}}{QUOTE}[\])]? ?)"
    rf"(?:\|\||\?\?|,(?<=[\"'],)|\$\{{[\w:.]{{1,40}},) ?(?={QUOTE})",  # env.PASSWORD || "x"
    rf"[\w\]]{{0,8}}(?:{QUOTE})?[\])]{{0,4}}\.(?:fill|type|send_?keys|set_?value|val)\((?={QUOTE})",
    rf"(?:, ?\w{{1,30}}\] ?= ?(?:React\.)?useState(?:<\w+>)?)?\((?={QUOTE})",  # setDbPassword("x")
    r":[ \t]*\n(?:[ \t]+(?:type|format|description|required): [^\n]{1,80}\n){1,4}?[ \t]+(?:example|default|value): ?",
    r"[ \t]{2,40}(?:REG_[A-Z_]+[ \t]{2,40})?(?=[^\s|:=]{6,98}[ \t]*(?:\n|\Z)|[a-z]+(?: [a-z]+){2,9}[ \t]*(?:\n|\Z))",
    rf"(?:;(?:\w{{1,12}}=\w{{1,8}})?){{1,3}}\](?=[^\s\"'`]{{6}})|{QUOTE} ?\([^()\n]{{0,40}}\) ?value: |"
    rf"{QUOTE}(?: \[[\w =-]{{1,24}}\]){{1,4}}: ",  # - textbox "Password" [ref=e3]: x
    r"\}\{",
    r" \{(?=[^{}\n;:=]{6,98}\}[ \t]*(?:\n|\Z))",  # set password {x} of Tcl
    rf"{QUOTE}\n\d{{1,4}}\) (?={QUOTE})",  # the members of a hash, as Redis shows them
    r"[ \t]{1,24}[|\u2502] (?=(?:[^\s|]{6,98}|[a-z]+(?: [a-z]+){2,9})[ \t]*(?:\n|\Z|\u2502))",  # a record of psql
)


_SETTER = re.compile(
    r"(?i)(?:\A|[._])(?:set|with|use|change|update|reset)\w+\Z|\Apass|\A\.(?!get|is|has|check|verify|hash)\w+\Z"
)


def _is_apart(match: re.Match[str]) -> bool:
    """The same behind what only stands between the two; what a call is handed if the call is to set it."""
    value = match["value"]
    called = match.string[: match.start("value")].rstrip("\"'`\\").endswith(match["name"] + "(")
    if called and not _SETTER.search(_whole_name(match)):
        return False
    mixed = len(value) >= 6 and (is_mixed(value) or is_phrase(value))
    return mixed and not _are_constants(match) and is_named(match)


_NOT_ALONE = _SHORT_NAMES | {"key", "token", "auth", "signature"}  # too short to say something before a space


def _is_directive(match: re.Match[str]) -> bool:
    """Whether a line is a name and a value: LDAPBindPassword x1, enable secret level 15 x1."""
    name, value = _whole_name(match), match["value"]
    start = match.string.rfind("\n", 0, match.start("name")) + 1
    before = match.string[start : match.end("name") - len(name)].strip().lower()
    alone = before in {"enable", "set"} or (not before and name.lower() not in _NOT_ALONE)
    code = value[0] == "*" or "(" in value or value.endswith("_" + name)
    return alone and is_named(match) and is_mixed_value(match) and len(value) >= 6 and not code


_BESIDE = (
    _beside(
        r"[ \t]{1,16}(?:level \d{1,2} )?(?=(?:[^\s\"'`<>|=:]{6,98}|[a-z]{3,12}(?: [a-z]{3,12}){2,9})[ \t]*(?:\n|\Z))",
        r"[ \t]{1,16}(?:level [0-9]{1,2} )?(?:[^\s\"'`<>|=:]{6}|[a-z]{3,12} [a-z]{3})",
        _is_directive,
    ),
    _beside(
        "|".join(_PAIRED),
        r"[\\\"'`]{0,4}(?:[\s,/]{0,20}(?:[\\\"'`<]{0,4}value|content=|text=|>)|</(?:key|name)>|\s+\w+=|\s?[:=]?\s?\{|:[-=]|"
        r"\s{0,8}[:=]\s?\S+ ->|[^<>\n]{1,60}>)",
        is_named,
    ),
    _beside(
        "|".join(_LOOSELY),
        r"[\\\"'`]{0,4},|[\\\"'`]{1,4}(?:[^\s\"'`\\]{3}|\s{1,8}[\w-]{1,20}=)|[ \t`*]{0,24}\||"
        r"[\\\"'`]{0,4}[ \t]{1,24}[\"']|"
        r" (?:as )?(?:string|&?str|text|\[\]byte|n?varchar)|=\{|"
        r"[\\\"'`]{1,4}\) ?= |\s?= ?0x|[\\\"'`]{0,4}: (?:\w+\.)?(?:Literal|Final|SecretStr)\[|"
        r"[\\\"'`]{1,4};s:| -string |"
        r"(?:\([^()\n]*\))?[^\n\"'=;,]{0,24}[:{]\s{0,24}(?:return )?[\\\"'`]",
        lambda match: (
            is_named(match)
            and is_mixed_value(match)
            and not _are_constants(match)
            and not FILTERED.search(match.string, max(0, match.start() - 80), match.start())
            # of a string in quotes the name is all
            and not (
                match.string[match.start() - len(_whole_name(match)) + len(match["name"]) - 1 :][:1] == " "
                and match.string[match.end("name")] in "\"'"
            )
            and not (match["name"].lower() == "pass" and match.string[match.end("name")] in " :")  # pass :data:`x2`
        ),
    ),
    _beside(
        "|".join(_APART),
        r"[ :]{0,3}\s{0,24}<|>\s{0,20}<!|(?: ?[\[(][^\[\]()\n]{0,24}[\])])? ?[:>\x{2026}\x{203a}\x{276f}] |"
        r"[\\\"'`]{1,4}(?:;[^\n]{1,110})?(?:\r?\n|\\r\\n)|[\\\"'`]{0,4}\]? ?=>\s{1,20}string\(|"
        r" ?\{ ?(?:get|set|init|private|protected|internal)|[\\\"'`]{1,4}, [^\n]{0,80}default|"
        r"[\\\"'`]{1,4}(?: (?:with|to|as|is|mit|auf|con|a|avec)|, ?with:) [\\\"'`]|"
        r"(?:[^\n\"'`=;,]{0,40}|[^\n]{0,4}<%=[^\n]+)(?:\|\||\?\?|[\"'],|\$\{[\w:.]+,) ?[\\\"'`]|"
        r"[\w\]]{0,8}[\\\"'`]{0,4}[\])]{0,4}\.\w+\([\\\"'`]|(?:, ?\w+\] ?= ?[\w.<>]+)?\([\\\"'`]|"
        r":[ \t]*\n[ \t]+(?:type|format|description|required):|[ \t]{2,40}[^\s|:=]|"
        r";[\w=;]*\][^\s\"'`]|[\\\"'`]{1,4} ?\([^()\n]*\) ?value: |"
        r"[\\\"'`]{1,4} \[[\w =\]\[-]+\]: |\}\{| \{[^{}\n;:=]{6}|"
        r"[\\\"'`]{1,4} ?=>? ?(?:\w+\.)?(?:get)?(?:env|config)\(|[\\\"'`]{1,4}\n[0-9]{1,4}\) |"
        r"[ \t]{1,24}[|\x{2502}] [^\s|]",
        _is_apart,
    ),
)


def _is_random_match(match: re.Match[str]) -> bool:
    """A random string near a telling word; a plain hash and a short one need the word right before them."""
    value, near = match.group("value"), _SEPARATOR.fullmatch(match.group("between"))
    if is_hash(value) and _is_of_a_type(match):
        return False
    licence = _LICENCE.search(value) and not is_hash(value)  # cc3a
    # the hash of a key or a cookie; that of a password lets guesses be tried
    hashed = match["name"][0] not in "pP" and _HASH_NAME.search(match["between"])
    public = is_known_id(value) or is_publishable(value) or is_address(value)
    if NOT_A_SECRET.fullmatch(value) or public or licence or hashed:
        return False
    if value.lower().endswith("_" + match["name"].lower()):
        return False  # the function for it
    if re.fullmatch(r"(?:\w+\.)*[A-Z]\w*(?:Key|Token|Secret|Password)", value):
        return False  # the type of it: x448.X448PrivateKey
    if match["name"].lower() == "salt" and not re.search("[:=]|is ", match["between"]):
        return False  # the command
    if re.match(r"[\"']\s?:(?!\w)| = ", match.string[match.end() :]) or re.fullmatch(r"[a-z-]+/[0-9a-f-]{36}", value):
        return False  # the next name of a mapping or a module, what a cloud calls a key: key/1234abcd-...
    fingerprint = re.fullmatch(r"[0-9A-F]{40}", value) and match["between"] == " "  # the release key 0A1B...
    if fingerprint and not _KEY_BEFORE.search(match.string, max(0, match.start() - 12), match.start()):
        return False
    if is_hash(value.rpartition("-")[2]) and _OF_A_CACHE.search(
        match.string, max(0, match.start() - 60), match.start()
    ):
        return False
    after = match.string[match.end() : match.end() + 2]
    if (
        (near and after[:1] in {"(", "["})
        or value.startswith("//")
        or (after in {" *", "\n*"} and _CONSTANT.fullmatch(value))
    ):
        return False  # a call, a comment, a type of C
    if near:
        start = match.start("name")
        before = _WORD_BEFORE.search(match.string, max(0, start - 40), start)
        means = meaning((before[0] if before else "") + _whole_name(match))  # of a cache key, the primary key
        if means or match.group("name").lower() == "key":
            quoted = match["between"][-1:] in {'"', "'"}
            random = looks_random(value) and (len(value) >= 10 or is_mixed(value))
            return bool(means) and (random or (quoted and _is_scribbled(value)))
        return len(value) >= 24 and not is_hash(value) and is_random_token(value)
    if is_hash(value) or len(value) < 24:
        return is_random_token(value, 2.2) and entropy(value) >= 3.0
    return entropy(value) >= 3.5 and is_mixed(value) and not is_wordlike(value) and looks_random(value)


def _is_beside_a_provider(match: re.Match[str]) -> bool:
    """Whether the word right before a random string names a service; a UUID needs an assignment or quotes, too."""
    value = match.group("value")
    named = _SERVICE.search(match.string, max(0, match.start() - 80), match.start())
    if not named or not looks_random(value) or is_known_id(value) or is_publishable(value) or is_address(value):
        return False
    if (is_hash(value) and match.string[: named.start("name")].endswith("::")) or (
        len(value) > 130 and is_hash(value.removeprefix("0x"))
    ):
        return False  # the code of a contract
    if (from_base64(value) or "").startswith("{"):
        return False  # JSON, which is read itself
    if "-" in value and is_hash(value) and not re.search("[=:\"'`(]", named.group("between")):
        return False
    parts = re.split("[-_.]", value)
    if len(parts[0]) < 16 and not is_hash(value):  # of several short parts; a pod's name follows a colon
        joined = "".join(parts)
        if (
            len(joined) < 16
            or (":" in named["between"] and value.islower())
            or not (is_shuffled(joined) or is_random_token(joined))
        ):
            return False
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])\d{0,2}|[A-Z]?[a-z]+\d{0,2}", named.group("name"))]
    ends = {"client", "api"} if named.group("name")[0].isupper() else {"client"}
    if not ends.isdisjoint(words[-1:]) and named.group("between")[0] == "(":  # new AcmeClient("x")
        return True
    if not _ID_WORDS.isdisjoint(words) or words[-1:] == ["import"]:
        return False
    known, joined = providers(), re.sub(r"\A(?:get|new|use|with)", "", "".join(words))
    if not known.isdisjoint(words) or any(joined[:length] in known for length in range(5, len(joined) + 1)):
        return True
    # any other name: what is passed in quotes or assigned to a variable; no hash, no id that begins with a time
    variable = named.group("between") == "=" and named.group("name").isupper()
    quoted = variable or named.group("between")[-1] in "\"'`"
    one_case = is_shuffled(value) and not is_hash(value) and len(value) >= 20 and len(set(value)) >= 11
    timed = re.fullmatch(r"c[a-z0-9]{24}|01[0-9A-Z]{24}", value)
    return quoted and not timed and (one_case or is_random_token(value, 2.4))


def _seed_words(text: str) -> bool:
    """Whether a text is the list of words that restores a wallet (BIP-39): 12, 15, 18, 21 or 24 of its 2,048."""
    words = _SEED_WORD.findall(text.lower())
    return len(words) in {12, 15, 18, 21, 24} and len(set(words)) >= 7 and wallet_words().issuperset(words)


def is_chosen(match: re.Match[str]) -> bool:
    """Whether a string with all kinds of characters is a password: no identifier, no address."""
    value = match.group("value")
    argument = re.fullmatch(r"[A-Za-z_]\w*", value) and match.string[match.start("value") - 1] == "("
    if (argument and match.string[match.end("value") :][:1] == ")") or re.search(
        r"\A\*+[A-Za-z_]\w*\Z|[:=]\Z|\A(?i:ctrl|alt|shift|cmd)\+", value
    ):
        return False
    if re.match(r"=[^=\s]", match.string[match.end("value") :]):
        return False  # the next name
    if re.fullmatch(r"[A-Za-z-]+#\d{1,6}", value):
        return False  # PKCS#12, an issue
    if re.fullmatch(r"[*&]?[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+!?", value) and word_share(value) > 0.6:
        return _WORDS_AND_NUMBER.fullmatch(value) is not None  # process.env.PASSWORD!, *oauth2.Token
    if CHOSEN.fullmatch(value) and not re.search(r"@[\w-]+\.|[%#]\w?\d", value):
        return True
    random = chunk_length(value) <= 2.4 or (chunk_length(value) <= 3 and not is_wordlike(value))
    hashed = is_hash(re.sub(r"\b[a-z]\.|\.", "", value))
    public = hashed or "/" in value or is_publishable(value) or is_known_id(value) or PUBLIC.fullmatch(value)
    return random and not public and is_value(match) and word_share(value) <= 0.5


def _is_all_marks(match: re.Match[str]) -> bool:
    """Whether a value is a password of marks; without quotes, where a comma may end it, of others than that one."""
    name, value = _whole_name(match), match["value"]
    if not meaning(name) and name.lower() != "key":
        return False
    whole = match["quote"] or re.search(r"[\[\](){}|;]", value) or len(set(re.findall(r"[%#^~@$!&*?]", value))) > 2
    return is_scrambled(value) or (bool(whole) and is_generated(value))


OF_MARKS = detector(  # a password that no other pattern reads to its end
    "password",
    rf"(?P<name>(?:{TELLING}|\bkey\b)[\w-]{{0,24}})(?:{QUOTE}|\]|\[\]){{0,2}}"
    rf"(?:\s{{0,12}}[.?+]?[:=>]{{1,3}}\s{{0,6}}@?| (?:is|was) |(?={QUOTE}))(?P<quote>{QUOTE})?"
    rf"(?P<value>(?(quote)(?:(?!(?P=quote))[^\s\\]){{10,98}}(?=(?P=quote))|"
    # up to the next field of a form, of a connection string
    r"[^\s\"'`\\<>]{9,97}?[^\s\"'`\\<>.,;:)\]}](?=[;&][A-Za-z]\w*=|[.,;:)\]}]{0,9}(?:[\s\"'`\\<>]|\Z))))",
    rf"(?i:(?:{TELLING_HINT}|\bkey\b)[\w-]{{0,24}}[^\w\n][^\n]{{0,20}}?[^\s\\]{{0,98}}[\[\](){{}}|,;%#^~@$!&*?])",
    "value",
    accept=_is_all_marks,
    flags=re.IGNORECASE,
    anchored=True,
    gate=rf"{TELLING_GATE}|(?i:\bkey\b)",
)
_ASSIGNED = detector(
    "password",
    rf"(?P<name>(?:{TELLING})[\w-]{{0,24}}(?: id\b)?)(?:\\{{0,3}}[\"'`\]}}]|\[\d{{0,3}}\]|\*\*){{0,3}}"
    r"\s{0,40}(?P<operator>=>|<?->?|[:.?+|]{1,3}=|={1,3}|!={1,2}(?=\s?[\"'])|"
    # a type: its value stands apart or in quotes, or it has no digit before a letter, as a password with a sign has
    r":(?![:?+])(?: ?&?(?:[\w<>\[\]]{2,12} ?=(?=\\{0,3}[\s\"'`])|(?:[A-Za-z_<>\[\]]|\d(?![A-Za-z_])){2,12}=))?|"
    "[\uff1a\uff1d\u2192]"
    # a block of YAML, a conversion of a literal
    r")(?:\*{2})?(?:[ \t]*(?:[>|][+-]?\d?[ \t]*\n[ \t]{1,16}|<<[~-]?\w{1,12}[ \t]*\n[ \t]{0,16})|[ \t]{0,24}(?:\s|"
    r"\\n){0,6})(?:[bfrunN@$]{1,2}(?=[\"'])|(?:!!?|&)[A-Za-z]\w* |"
    r"(?:(?:new )?(?:Secret|Protected)?String(?:::(?:from|new)|\.valueOf)?|Secret(?:Str)?(?:::new)?|"
    r"SecretValue\.\w{0,12}[Pp]lainText|Some|bytes|MD5|"
    r"SHA\d*|crypt|"
    r"b64decode|"
    r"base64\.b64decode|atob|Buffer\.from|\[\]byte|Ok|Pointer|aws\.String)\((?=[\"'])|"
    # quotes of Perl and Ruby, Lua, C++
    r"(?P<opened>q[qwx]?\s?[{(\[<|/!]|%[qw]?[{(\[<|](?![{%(])|\[=*\[(?=[^\]\n]{4,98}\]=*\])|R\"\w{0,8}\())?"
    r"(?:(?P<quote>(?:\"{2,3}|'{2,3}|'\\'')(?=[^\s\"'`+,;:)\]}.<>&|])"
    r"|(?P<escaped>\\{1,3})?[\"'`])(?=[^\n]*?(?P=quote))|"
    r"\\{0,3}[\"'](?=[^\s\"'`]{8,400}[ \t]*(?:\n|\Z)))?"  # the end of the text, and with it of the quote, was cut off
    r"(?P<value>(?(opened)[^\n]{4,200}?(?=[\]})>|/!]{1,2}[\"']?[ \t]*(?:[;,)\]}\n<]|\\n|\Z))|"
    r"(?(escaped)[^\"'`\\\n]+|(?(quote)(?:(?!(?P=quote))[^\\\n]|\\[^\n])+"
    # of `token: secret_id: x` the value is the last word, not the second name
    rf"|(?:(?:[a-z]{{4}} ){{3}}[a-z]{{4}}(?![\w ])|{PHRASE}|(?!(?:{TELLING})\w{{0,24}}\s?[:=]\s)"
    rf"[^\s\"'`\\<>{EAST}]*[^\s\"'`\\<>.,;:)\]}}{EAST}])))))",
    rf"(?i:(?:{TELLING_HINT})[\w-]{{0,24}}(?: id)?"
    r"(?:[\\\"'`\[\]}*]|\[[0-9]+\]){0,6}\s{0,40}(?:[=:\x{ff1a}\x{ff1d}\x{2192}]|[.?+|!]{1,2}=|->|<-))",
    "value",
    accept=_is_assigned,
    flags=re.IGNORECASE,
    anchored=True,
    gate=TELLING_GATE,
)
_NEAR = "key|token|secret|credentials?|cookie|pass(?:w[a-z]+)?|pwd|auth|signature|licen[cs]e|salt|hmac|jwt"
_NEAR_A_WORD = detector(
    "high_entropy",
    # of two such words, as in `secret/acme key=x`, the second one; the hint takes both for one place
    rf"(?:[^\n]{{0,24}}\b(?=(?:{_NEAR})[=: ]{{1,3}}[\w+/]))?(?P<name>{_NEAR})"
    r"(?P<between>[^\w\n][^\n]{0,24}?(?<=[\s:=\"'(`>|,])|\W{0,3}\n[ \t]{0,16})"
    r"(?P<value>[A-Za-z0-9+/_-][A-Za-z0-9+/_!#%&*.@^~$?-]{8,}[A-Za-z0-9+/_!#-]={0,2})",
    rf"(?i:(?:{_NEAR})"
    r"(?:[^\w\n][^\n]{0,25}?|\W{0,3}\n[ \t]{0,16})[A-Za-z0-9+/_-][A-Za-z0-9+/_!#%&*.@^~$?-]{9})",
    "value",
    accept=_is_random_match,
    flags=re.IGNORECASE,
    anchored=True,
    gate=rf"(?i:(?:{_NEAR})\W)",
)
_NEAR_PASSWORD = detector(
    "password",
    r"(?:passw[a-z]{1,6}|passphrase|passcode|(?<![$\"'])pwd|geslo|community string)[^\w]"
    r"[^\n]{0,60}?(?:\n[^\n]{0,40}?){0,2}?"
    r"(?<=[\s:=\"'(`,|;>])(?=[^\s\"'`]{0,30}?(?-i:[a-z]))(?=[^\s\"'`]{0,30}?(?-i:[A-Z]))(?=[^\s\"'`]{0,30}?[\d!@#$%^*?])"
    r"(?P<value>[^\s\"'`\\<>|,;()\[\]{}=&]{7,64})",
    r"(?i:(?:passw[a-z]{1,6}|passphrase|passcode|pwd|geslo|community string)\W)",
    "value",
    accept=is_chosen,
    flags=re.IGNORECASE,
    anchored=True,
    gate=rf"{TELLING_GATE}|(?i:community string)",
)
BESIDE_A_PROVIDER = detector(  # twilio: x, algoliasearch("id", "x"); hashes and UUIDs, too
    "token",
    r"(?<![\w/+.-])(?P<value>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|"
    r"[A-Za-z0-9]{16,}(?:[-_.][A-Za-z0-9]{8,})*=?|[A-Za-z0-9]{3,}(?:[-_.][A-Za-z0-9]{3,}){1,5})(?![\w/+.-])",
    # of 16 letters and digits, seven stand before or after a place where the one follows the other
    r"(?:[0-9a-f]{4,8}-){3}|(?:[0-9A-Z]{3,8}-){3}|(?:[A-Za-z][0-9]|[0-9][A-Za-z])[A-Za-z0-9]{7}|"
    r"[A-Za-z0-9]{7}(?:[A-Za-z][0-9]|[0-9][A-Za-z])",
    "value",
    accept=_is_beside_a_provider,
)
_LONGEST_LIST = 4000  # characters
_LIST = re.compile(
    rf"(?P<name>(?:{TELLING})\w{{0,24}})(?:{QUOTE}|\])?(?:\[\])?\s{{0,8}}(?::=|=>|[:=])\s{{0,8}}"
    r"(?:new (?:\w+)?\[\]|(?:\[\]|vec!|array|listOf|Arrays\.asList|List\.of|Set\.of|[@%])(?:string)?\s?)?\s?"
    rf"(?:(?P<open>[\[({{])(?P<items>(?:[^\]\[(){{}}\n]|\n(?!\n)){{1,{_LONGEST_LIST}}})|"
    r"\n(?P<lines>(?:[ \t]*- [^\n]*(?:\n|\Z)){1,200}))",
    re.IGNORECASE | re.ASCII,
)
_ITEM = re.compile(
    rf"(?P<quote>{QUOTE})(?P<value>(?:(?!(?P=quote))[^\n]){{4,98}})(?=(?P=quote))(?!(?P=quote)\s?(?:=>|:))"
)
_LINE = re.compile(
    r"^[ \t]*- (?P<quote>[\"']?)(?P<value>[^\s\"'#:{}\[\]](?:[^\n\"':#]|:(?! )){3,97}?)(?P=quote)[ \t]*$", re.MULTILINE
)
_RULE = re.compile(r"[a-z_]+:[\w,.|-]+|[a-z_]+\|[a-z_:|0-9]+")  # of a validator: min:8
_LISTED_HINT = (
    rf"(?i:(?:{TELLING_HINT})\w{{0,24}}[\\\"'`]{{0,4}}\]?(?:\[\])?\s{{0,8}}(?::=|=>|[:=])"
    r"(?:[^\n\"'`]{0,40}[\[({]|\s{0,8}\n[ \t]*- ))"
)


def _listed(text: str) -> Iterator[re.Match[str]]:
    """The entries of a list named so: passwords = ["x", "y"], and below each other in YAML."""
    for entries in filter(None, (_LIST.match(text, start) for start in hint_starts(_LISTED_HINT, text))):
        # "tokens" alone mostly counts them (max_tokens); of a list it names them
        means = meaning(re.sub(r"(?i)tokens\Z", "token", _whole_name(entries)))
        several = bool(re.search(r"(?i)(?:pass(?:word|wd|phrase|code)|pwd|pin)s\Z", entries["name"]))
        items = (
            _ITEM.finditer(text, *entries.span("items"))
            if entries["items"]
            else _LINE.finditer(text, *entries.span("lines"))
        )
        for item in items if means else ():
            value = item["value"]
            of_it = value.partition("@")[0] == _whole_name(entries)  # "acme-token": ["acme-token@1.2.3"
            if (
                of_it
                or meaning(value)
                or is_name_of_secret(value)
                or _RULE.fullmatch(value)
                or not is_secret(means, value, quoted=True)
            ):
                continue
            if several or (entries["open"] != "{" and (means == "key" or (len(value) >= 8 and is_mixed_value(item)))):
                yield item


_LISTED = detector("password", _ITEM.pattern, _LISTED_HINT, "value", find=_listed, gate=TELLING_GATE)
_NAMES_AND_VALUES = re.compile(  # user, password := "a", "x"
    r"(?P<names>[\w.$]{1,60}(?:, ?[\w.$]{1,60}){1,5}) ?(?:string|\[\]byte)? ?:?= ?"
    r"(?P<values>[\"'`][^\"'`\n]{0,200}[\"'`](?:, ?[\"'`][^\"'`\n]{0,200}[\"'`]){1,5})",
    re.ASCII,
)


def _values_in_turn(text: str) -> Iterator[re.Match[str]]:
    """The values of several names that are assigned in one go, of which some are telling."""
    for match in _NAMES_AND_VALUES.finditer(text):
        names = re.split(", ?", match["names"])
        values = list(re.finditer(r"(?P<quote>[\"'`])(?P<value>[^\"'`\n]{0,200})(?P=quote)", match.group()))
        for name, value in zip(names, values, strict=False):
            offset = match.start()
            item = _ITEM.match(text, offset + value.start())
            if item and is_secret(meaning(name), item["value"], quoted=True):
                yield item


_VALUES_IN_TURN = detector(
    "password",
    _NAMES_AND_VALUES.pattern,
    r"[\w$], ?[\w.$]+ ?(?:string|\[\]byte)? ?:?= ?[\"'`][^\"'`\n]*[\"'`], ?[\"'`]",
    "value",
    find=_values_in_turn,
    gate=TELLING_GATE,
)
SEED_PHRASE = detector(  # without a label; tried only where the prefilter saw the words
    "seed_phrase",
    r"(?<![\w-])(?:(?:\d{1,2}[.):] ?)?[a-z]{3,8}[\s,]{1,3}){11,23}(?:\d{1,2}[.):] ?)?[a-z]{3,8}(?![\w-])",
    r"(?:[a-z]{3,8}[\s,]{1,3}(?:[0-9]{1,2}[.):] ?)?){11}[a-z]{3,8}",
    accept=lambda match: _seed_words(match.group()),
)
DETECTORS = (OF_MARKS, _LISTED, _VALUES_IN_TURN, *_BESIDE, _ASSIGNED, _NEAR_A_WORD, _NEAR_PASSWORD)
