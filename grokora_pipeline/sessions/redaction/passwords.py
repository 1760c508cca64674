"""What is secret by what stands beside it: a telling name, a flag, a header, the word "password"."""

import re
from collections.abc import Callable, Iterator

from grokora_pipeline.sessions.redaction.detector import (
    NOT_A_SECRET,
    TELLING,
    TELLING_GATE,
    TELLING_HINT,
    chunk_length,
    detector,
    entropy,
    is_hash,
    is_mixed,
    is_random,
    is_random_token,
    is_scrambled,
    is_shuffled,
    is_wordlike,
    looks_random,
    wallet_words,
)
from grokora_pipeline.sessions.redaction.names import Meaning, meaning, word_set
from grokora_pipeline.sessions.redaction.published import providers
from grokora_pipeline.sessions.redaction.tokens import is_known_id, is_publishable

_PUBLIC_NAME = re.compile(
    r"public|site_?key|site-key|integrity|nonce|fingerprint|hash|cache|idempotency", re.IGNORECASE
)
_SERVICE = re.compile(  # a name, and at most one quoted argument between it and the end
    r"(?<![\w@/.])(?P<name>[A-Za-z][\w.-]{1,40}?(?: (?:api|app|client|account|admin|rest|live|private))?)"
    r"(?P<between>[^\w\n]{1,8}(?:[\w-]{1,40}[\"'`], ?[\"'`])?)\Z",
    re.ASCII,
)
_ID_WORDS = word_set(
    "id ids hash sha md5 commit version rev revision ref url image digest checksum etag uuid guid user account project "
    "org team event request trace span session run job build deployment client tag channel message index address "
    "name title voice track playlist page board zone file model record "
    "wallet mint contract block tx"
)
_PROSE = word_set(  # no passphrase has them, and few sentences have none
    "the and for are must should has have was will can cannot not your you with from this that please enter type use "
    "set its than then when wrong invalid incorrect required missing does did been new old our their via only same "
    "user one"
)
_APP_PASSWORD = re.compile(r"(?:[a-z]{4} ){3}[a-z]{4}")  # of Google, for programs
_SEED_WORD = re.compile(r"[a-z]+")
_SHORT_NAMES = {"pass", "pw", "pin", "secret"}
_QUOTE = r"(?:\\{0,3}[\"'`]|\"\"|''|'\\'')"  # doubled in CSV, SQL and YAML, interrupted in a shell
_SEPARATOR = re.compile(r"[\W_]*(?:(?:is|was|value|token|key|secret|hex)[\W_]+){0,3}", re.IGNORECASE)
_NAME_START = re.compile(r"[\w.-]*\Z", re.ASCII)
_SETS = {"=", ":", "\uff1a"}
# what people choose: all kinds of characters, one of them a mark that no identifier and no path has
_CHOSEN = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d)(?=.*[!@#$%^&*?])[\w!@#$%^&*?.+~-]{8,40}", re.ASCII)
_LINE_END = re.compile("[\n\r\\\\\"'`<]|[ \\t]*(?:\u2502|\\Z)")  # also within quotes, an element, a box
_CODE = re.compile(  # a name or a call in a program, not a value
    r"(?:[a-z_]\w*\.)*[a-z_]*(?:pass|pwd|secret|token|key|cred)[a-z_]*(?:\.\w+)*(?:[\[(].*)?|[a-z_][\w.]*[\[(].*|"
    r"convertto-\w+",
    re.IGNORECASE,
)

_ELSEWHERE = re.compile(  # the password manager or the file that keeps it, a template, a regular expression
    r"(?:op|vault|secret|ref|ssm|awssm|keyring):(?://)?[\w/-]+/|(?:[\w-]+:)?(?:/[A-Za-z._-]+){1,}\Z|"
    r"(?:~|\.{0,2}|[A-Z]:)[/\\][\w./\\-]+\.(?:pem|key|crt|cer|p12|pfx|jks|ppk|json|txt|ya?ml|env|gpg|age)\Z|"
    r"(?:[A-Za-z._-]+|\d+)(?:/(?:[A-Za-z._-]+|\d+)){2,}\Z|"
    r".*(?:\{[a-z_]{3,24}\}|%\(\w+\)s)|.*\[[^\]\n]+\][+*?{]"
)
_LICENCE = re.compile(r"\b(?:apache|mit|[al]?gpl|bsd|mpl|isc|cc0|licen[cs]ed?)\b", re.IGNORECASE)
# without quotes: what a program gets or names, also as the argument of a call
_EXPRESSION = re.compile(
    r"(?:void|new|await|typeof|yield|lambda|async|not)\b|[&*][A-Za-z_]\w*\Z|"
    r"(?P<path>[A-Za-z_]\w*(?:(?:\.|::?|->)[A-Za-z_]\w*)+)\Z|(?P<argument>[A-Za-z_]+\d{0,2})\Z"
)
_WORDS_AND_NUMBER = re.compile(r"[*&]?[A-Z][a-z]{2,}(?:\.[A-Z][a-z]{2,})*\d{2,4}")  # Spring.Garden24, as people choose


def is_secret(means: Meaning, value: str, *, quoted: bool) -> bool:
    """Whether the value of a name is a secret: any of a password, a random one of a key; never a piece of a program.

    The one judgement about names and values, for assignments in texts and for members of JSON.
    """
    if means and is_scrambled(value):
        return True
    if not means or len(value) < 4 or NOT_A_SECRET.fullmatch(value) or (not quoted and re.search(r"[(\[{)\]}]", value)):
        return False
    if _ELSEWHERE.match(value) or (value.isupper() and "_" in value and meaning(value)):
        return False
    if re.match(r"[A-Za-z_][\w.:]*[(\[]", value) and any(value.count(a) != value.count(b) for a, b in ("()", "[]")):
        return False  # a call whose end another quote cut off
    if means == "key":
        known = is_known_id(value) and is_hash(value.partition("-")[2] or "-")  # subnet-0a1b...
        return not (known or _LICENCE.search(value)) and (
            bool(_CHOSEN.fullmatch(value))
            or looks_random(value)
            or is_random(value)
            or (quoted and is_random_token(value, 3.2))
        )
    words = value.split()
    if _APP_PASSWORD.fullmatch(value):
        return not is_wordlike(value)
    prose = len(words) > 2 and sum(word.strip(".,:;!?'\"").isalpha() for word in words) >= 0.6 * len(words)
    return not prose or _seed_words(value)


def _is_assigned(match: re.Match[str]) -> bool:
    """Whether an assignment to a telling name holds a secret."""
    operator, quote, value = match.group("operator", "quote", "value")
    name = _whole_name(match)
    if is_hash(value) and _is_of_a_type(match):
        return False
    spaced = match.string[match.end("operator") : match.end("operator") + 1] == " "
    if "\n" in match.string[match.end("operator") : match.start("value")] and re.match(r"[\w.-]+ ?[=:]", value):
        return False  # the next of several assignments
    if not quote and _is_expression(value, match.string[match.end() : match.end() + 1]):
        return False
    if value.lower() == name.lower() or (
        not quote and (spaced or operator == "==") and _CODE.fullmatch(value) and not _WORDS_AND_NUMBER.fullmatch(value)
    ):
        return False
    means = meaning(name)
    if not is_secret(means, value, quoted=bool(quote)):
        dumped = operator == "=" and name.isupper() and len(value) >= 8 and not spaced
        known = not (NOT_A_SECRET.fullmatch(value) or re.search(r"[(\[{]", value) or _PUBLIC_NAME.search(name))
        return known and ((means == "key" and dumped) or (not means and len(value) >= 20 and is_random_token(value)))
    if means == "key":
        return True
    alone = bool(_LINE_END.match(match.string, match.end()))
    if name.lower() in _SHORT_NAMES and not re.search(r"[\W\d_]|[a-z][A-Z]", value):
        return False  # "pass: all", "pin: left"
    # an unquoted word after `$password =` is none of the names that other languages have in its place
    alone = alone or match.string[: match.start("name")].endswith("$")
    return bool(quote) or not value.isalpha() or (operator == "=" and not spaced) or (alone and operator in _SETS)


def _is_expression(value: str, after: str) -> bool:
    """Whether a value without quotes is a piece of a program: an operator, a path of names, a name of several words."""
    match = _EXPRESSION.match(value)
    if _WORDS_AND_NUMBER.fullmatch(value):
        return False
    if not match or match.group("path"):
        return bool(match) and not any(is_random_token(part) for part in re.split(r"\W+", value))
    words = re.search(r"[A-Za-z]_[A-Za-z]|[a-z][A-Z]", value)
    return not match.group("argument") or (after in {",", ")"} and bool(words) and is_wordlike(value))


def _whole_name(match: re.Match[str]) -> str:
    """The name of an assignment, with what stands before the telling part of it."""
    before = _NAME_START.search(match.string, max(0, match.start() - 60), match.start())
    return (before.group() if before else "") + match.group("name")


def _is_of_a_type(match: re.Match[str]) -> bool:
    """Whether the name is a type's of several parts, whose hash is no secret: `AWS::KMS::Key`."""
    start = match.start() - len(_whole_name(match)) + len(match["name"])
    return match.string[:start].endswith("::")


def _is_named(match: re.Match[str]) -> bool:
    """The same where name and value are apart: arguments of a call, an XML element, an entry of a list."""
    return is_secret(meaning(match.group("name")), match.group("value"), quoted=True)


def _is_random_match(match: re.Match[str]) -> bool:
    """A random string near a telling word; a plain hash and a short one need the word right before them."""
    value, near = match.group("value"), _SEPARATOR.fullmatch(match.group("between"))
    if is_hash(value) and _is_of_a_type(match):
        return False
    if NOT_A_SECRET.fullmatch(value) or is_known_id(value) or is_publishable(value):
        return False
    if (near and match.string[match.end() : match.end() + 1] in {"(", "["}) or value.startswith("//"):
        return False
    if near:
        means = meaning(_whole_name(match))
        if means or match.group("name").lower() == "key":
            return looks_random(value) and (len(value) >= 10 or is_mixed(value)) and bool(means)
        return len(value) >= 24 and not is_hash(value) and is_random_token(value)
    if is_hash(value) or len(value) < 24:
        return is_random_token(value, 2.2) and entropy(value) >= 3.0
    return entropy(value) >= 3.5 and is_mixed(value) and not is_wordlike(value)


def _is_beside_a_provider(match: re.Match[str]) -> bool:
    """Whether the word right before a random string names a service; a UUID needs an assignment or quotes, too."""
    value = match.group("value")
    named = _SERVICE.search(match.string, max(0, match.start() - 80), match.start())
    if not named or not looks_random(value) or is_known_id(value) or is_publishable(value):
        return False
    if is_hash(value) and match.string[: named.start("name")].endswith("::"):
        return False
    if "-" in value and is_hash(value) and not re.search("[=:\"'`(]", named.group("between")):
        return False
    parts = re.split("[-_.]", value)
    if len(parts[0]) < 16 and not is_hash(value):  # of several short parts; a pod's name follows a colon
        joined = "".join(parts)
        if len(joined) < 16 or ":" in named.group("between") or not (is_shuffled(joined) or is_random_token(joined)):
            return False
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+\d?", named.group("name"))]
    if not _ID_WORDS.isdisjoint(words):
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


def _is_value(match: re.Match[str]) -> bool:
    return not NOT_A_SECRET.fullmatch(match.group("value"))


def _is_flag_value(match: re.Match[str]) -> bool:
    """What follows a flag: no other flag, no file, and no word of a sentence."""
    value = match.group("value")
    if re.search(r"^[~./]|\.\w{1,4}\Z", value):
        return False
    end = re.match(r"[\"'`\\]*\s*(?:\Z|[\n\"'|;&]|-|\\n)", match.string[match.end() :])
    return not NOT_A_SECRET.fullmatch(value) and not value.isdigit() and (_is_mixed_value(match) or bool(end))


def _is_mixed_value(match: re.Match[str]) -> bool:
    value = match.group("value")
    mixed = is_mixed(value) or (len(value) >= 8 and chunk_length(value) <= 3)
    return mixed and _is_value(match) and not value.endswith("/")  # a folder


def _seed_words(text: str) -> bool:
    """Whether a text is the list of words that restores a wallet (BIP-39): 12, 15, 18, 21 or 24 of its 2,048."""
    words = _SEED_WORD.findall(text.lower())
    return len(words) in {12, 15, 18, 21, 24} and len(set(words)) >= 7 and wallet_words().issuperset(words)


def _is_chosen(match: re.Match[str]) -> bool:
    """Whether a string with all kinds of characters is a password: no identifier, no address."""
    value = match.group("value")
    random = chunk_length(value) <= 2.4 or (chunk_length(value) <= 3 and not is_wordlike(value))
    return random and not is_hash(value) and "/" not in value


_SPOKEN = (
    "password|passphrase|passcode|passwort|kennwort|geslo|mot de passe|contrase\u00f1a|senha|wachtwoord|lozinka|heslo|"
    "palavra-passe|adgangskode|passord|l\u00f6senord|salasana|jelsz\u00f3|has\u0142o|\u015fifre|"
    "\u043f\u0430\u0440\u043e\u043b\u044c|"
    "(?:wi-?fi|wlan)[ -](?:code|key|pass|schl\u00fcssel)|code (?:du )?wi-?fi"
)
_VALUE = r"[^\s\"'`\\<>|]*[^\s\"'`\\<>|.,;:)\]}]"
_LOGINS = r"sshpass|docker login|podman login|mongo\w*|mysql\w*|mariadb\w*|redis-cli"
_ASSIGNED = detector(
    "password",
    rf"(?P<name>(?:{TELLING})\w{{0,24}})(?:\\{{0,3}}[\"'`\]]|\[\]){{0,2}}"
    r"\s{0,12}(?P<operator>=>|<?->?|[:.?+|]{1,3}=|={1,3}|:(?: ?&?[\w<>\[\]]{2,12} ?=)?|"
    "[\uff1a\uff1d]"
    # a block of YAML, a conversion of a literal
    r")(?:[ \t]*[>|][+-]?\d?[ \t]*\n[ \t]{1,16}|(?:\s|\\n){0,6})(?:[bfrunN@]{1,2}(?=[\"'])|[!&][A-Za-z]\w* |"
    r"(?:(?:new )?(?:Secret|Protected)?String(?:::(?:from|new)|\.valueOf)?|Secret(?:Str)?(?:::new)?|Some|bytes|"
    r"b64decode|"
    r"base64\.b64decode|atob|Buffer\.from|\[\]byte|Ok|Pointer|aws\.String)\((?=[\"']))?"
    r"(?:(?P<quote>(?:\"\"|''|'\\'')(?=[^\s\"'`+,;:)\]}.<>&|])|(?P<escaped>\\{1,3})?[\"'`])(?=[^\n]*?(?P=quote)))?"
    r"(?P<value>(?(escaped)[^\"'`\\\n]+|(?(quote)(?:(?!(?P=quote))[^\\\n]|\\[^\n])+"
    # of `token: secret_id: x` the value is the last word, not the second name
    rf"|(?!(?:{TELLING})\w{{0,24}}\s?[:=]\s)"
    r"[^\s\"'`\\<>]*[^\s\"'`\\<>.,;:)\]}])))",
    rf"(?i:(?:{TELLING_HINT})\w{{0,24}}[\\\"'`\[\]]{{0,6}}\s{{0,12}}(?:[=:\x{{ff1a}}\x{{ff1d}}]|[.?+|]{{1,2}}=|->|<-))",
    "value",
    accept=_is_assigned,
    flags=re.IGNORECASE,
    anchored=True,
    gate=TELLING_GATE,
)
_NEAR_A_WORD = detector(
    "high_entropy",
    r"(?P<name>key|token|secret|credential|pass(?:w[a-z]+)?|pwd|auth|signature|licen[cs]e|salt|hmac|jwt)"
    r"(?P<between>[^\w\n][^\n]{0,24}?(?<=[\s:=\"'(`>|,])|\W{0,3}\n[ \t]{0,16})"
    r"(?P<value>[A-Za-z0-9+/_-][A-Za-z0-9+/_!#%&*.@^~$?-]{8,}[A-Za-z0-9+/_!#-]={0,2})",
    r"(?i:(?:key|token|secret|credential|pass(?:w[a-z]+)?|pwd|auth|signature|licen[cs]e|salt|hmac|jwt)"
    r"(?:[^\w\n][^\n]{0,25}?|\W{0,3}\n[ \t]{0,16})[A-Za-z0-9+/_-][A-Za-z0-9+/_!#%&*.@^~$?-]{9})",
    "value",
    accept=_is_random_match,
    flags=re.IGNORECASE,
    anchored=True,
    gate=r"(?i:(?:key|token|secret|credential|pass(?:w[a-z]+)?|pwd|auth|signature|licen[cs]e|salt|hmac|jwt)\W)",
)
_NEAR_PASSWORD = detector(
    "password",
    r"(?:passw[a-z]{1,6}|passphrase|passcode|pwd|geslo|community string)[^\w][^\n]{0,60}?(?:\n[^\n]{0,40}?){0,2}?"
    r"(?<=[\s:=\"'(`,|;>])(?=[^\s\"'`]{0,30}?(?-i:[a-z]))(?=[^\s\"'`]{0,30}?(?-i:[A-Z]))(?=[^\s\"'`]{0,30}?[\d!@#$%^*?])"
    r"(?P<value>[^\s\"'`\\<>|,;()\[\]{}=&]{7,64})",
    r"(?i:(?:passw[a-z]{1,6}|passphrase|passcode|pwd|geslo|community string)\W)",
    "value",
    accept=_is_chosen,
    flags=re.IGNORECASE,
    anchored=True,
    gate=rf"{TELLING_GATE}|(?i:community string)",
)
BESIDE_A_PROVIDER = detector(  # twilio: x, algoliasearch("id", "x"); hashes and UUIDs, too
    "token",
    r"(?<![\w/+.-])(?P<value>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|"
    r"[A-Za-z0-9]{16,}(?:[-_.][A-Za-z0-9]{8,})*=?|[A-Za-z0-9]{3,}(?:[-_.][A-Za-z0-9]{3,}){1,5})(?![\w/+.-])",
    # of 16 letters and digits, seven stand before or after a place where the one follows the other
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-|(?:[A-Za-z][0-9]|[0-9][A-Za-z])[A-Za-z0-9]{7}|"
    r"[A-Za-z0-9]{7}(?:[A-Za-z][0-9]|[0-9][A-Za-z])",
    "value",
    accept=_is_beside_a_provider,
)
NO_FIELD = re.compile("forgot|reset|show|hide|link|button", re.IGNORECASE)  # beside a field for a password
_FIELD = rf"(?:{_SPOKEN}|passwd|pwd|pass|pin|otp|(?<![a-z])pw(?![a-z]))"
_TYPES = (
    "send_keys|sendkeys|fill|type|keystroke|input text|press_sequentially|typewrite|write|set_value|setvalue|"
    "set_text|input_text|enter_text|"
    "type_text"
)
_CODE_WORD = r"(?=[a-z0-9-]*\d)[a-z0-9]{4,12}(?:[ -][a-z0-9]{4,12}){0,4}"
_KIND, _LINES = rf"kind: ?(?:{_QUOTE})?secret\b(?:{_QUOTE})?", r"(?:(?!---)[^\n]*\n){0,12}?"
_CONTEXTS: tuple[tuple[str, str, Callable[[re.Match[str]], bool] | None, str], ...] = (
    # (pattern, hint, who has the last word, gate)
    (  # os.environ.setdefault('API_KEY', 'x'), define('API_KEY', 'x'), {:password, "x"}
        rf"(?:\b(?:set\w*|getenv|get|define|put\w*)\(\s?{_QUOTE}|"
        rf"\{{:)(?P<name>[\w.-]*(?:{TELLING})\w*)(?:{_QUOTE})?\s?,\s?"
        rf"{_QUOTE}(?P<value>{_VALUE})",
        rf"(?i:(?:(?:set\w*|getenv|get|define|put\w*)\(\s?[\\\"'`]{{1,4}}|\{{:)[\w.-]*(?:{TELLING_HINT}))",
        _is_named,
        TELLING_GATE,
    ),
    (  # {"name": "DB_PASSWORD", "value": "x"}, <add key="Password" value="x"/>
        rf"\b(?:name|key)(?:{_QUOTE})?\s?[:=]\s?{_QUOTE}(?P<name>[\w.-]*(?:{TELLING})\w*){_QUOTE}"
        rf"(?:[\s,]{{1,3}}|\s?/?>\s{{0,20}}<)(?:{_QUOTE})?value(?:{_QUOTE})?\s?[:=]\s?{_QUOTE}(?P<value>{_VALUE})",
        rf"(?i:(?:name|key)[\\\"'`]{{0,4}}\s?[:=]\s?[\\\"'`]{{1,4}}[\w.-]*(?:{TELLING_HINT}))",
        _is_named,
        TELLING_GATE,
    ),
    (  # - name: DB_PASSWORD\n  value: x
        rf"\bname: ?(?P<name>[\w.-]*(?:{TELLING})\w*)\s{{1,20}}value: ?(?:{_QUOTE})?(?P<value>{_VALUE})",
        rf"(?i:name: ?[\w.-]*(?:{TELLING_HINT}))",
        _is_named,
        TELLING_GATE,
    ),
    (  # | DB_PASSWORD | x |
        rf"\|[ \t`*]{{0,4}}(?P<name>[\w.-]{{0,40}}(?:{TELLING})\w{{0,24}})[ \t`*]{{0,24}}\|"
        r"[ \t`*]{0,24}(?P<value>[^\s|`*]{6,})[ \t`*]{0,24}\|",
        rf"(?i:(?:{TELLING_HINT})\w{{0,24}}[ \t`*]{{0,24}}\|)",
        lambda match: _is_named(match) and _is_mixed_value(match),
        TELLING_GATE,
    ),
    (  # <input type="password" value="x">
        rf"type={_QUOTE}password{_QUOTE}[^<>\n]{{0,120}}?\bvalue={_QUOTE}(?P<value>{_VALUE})",
        r"(?i:type=[\\\"'`]{1,4}password)",
        _is_value,
        TELLING_GATE,
    ),
    (  # <password>x</password>, <entry key="db.password">x</, <key>password</key><string>x</, <Password Value="x"
        rf"(?:<|<\w{{1,20}} (?:name|key|id)={_QUOTE}|<key>)(?P<name>[\w:.-]*(?:{TELLING})[\w-]*)"
        rf"(?:(?:{_QUOTE}[^<>\n]{{0,60}}|{_QUOTE})?>(?:\s{{0,20}}<value>)?|"
        rf"\s+\w{{1,16}}={_QUOTE}[^\"'<>\n]{{0,120}}{_QUOTE}>|"
        rf"</key>\s{{0,20}}<string>|\s+value={_QUOTE})(?P<value>{_VALUE})(?:</|{_QUOTE}\s?/?>)",
        rf"(?i:[<>\"'][\w:.-]*(?:{TELLING_HINT})[\w-]*(?:[\\\"'`]{{0,4}}(?:[^<>\n]*)>|</key>|\s+\w+=))",
        _is_named,
        TELLING_GATE,
    ),
    (  # ENV DB_PASSWORD x, setx DB_PASSWORD x; #define PASSWORD "x", (setq password "x"), ALTER USER y PASSWORD 'x'
        rf"\b(?:(?P<bare>ENV|ARG|setx|set -g?x)|setq?|def\w*|with|user \S{{1,40}}|alter \S{{1,40}} \S{{1,40}})"
        rf" (?P<name>\w*(?:{TELLING})\w*) (?(bare)(?:{_QUOTE})?|{_QUOTE})(?P<value>{_VALUE})",
        rf"(?i:(?:ENV|ARG|setx|set -g?x) \w*(?:{TELLING_HINT})|"
        rf"(?:setq?|def\w*|with|user \S+|alter \S+ \S+) \w*(?:{TELLING_HINT})\w* [\\\"'`])",
        _is_named,
        TELLING_GATE,
    ),
    (  # tool --password x
        rf"--?(?P<name>[\w-]*(?:password|passwd|pass|passphrase|pw|token|secret|key))(?:-string|-value|-text|-plain)?"
        rf"(?:{_QUOTE},)?[ =]+(?:{_QUOTE})?"
        rf"(?P<value>(?![-(]){_VALUE})",
        r"(?i:-[\w-]*(?:pass|passwd|password|passphrase|pw|token|secret|key)[\w-]{0,8}[\\\"'`]{0,4},?[ =])",
        # of one dash only those of a password: keytool -keypass x
        lambda match: (
            (meaning(match["name"]) == "password" if match[0][1] != "-" else bool(meaning(match["name"])))
            and _is_flag_value(match)
        ),
        TELLING_GATE,
    ),
    (  # mysql -px, sshpass -p x
        rf"\b(?:{_LOGINS})\b[^\n|;]{{0,200}}?\s-[pa](?:(?<=l -p)|(?<=\w -p)|"
        rf" +)(?:{_QUOTE})?(?P<value>(?![-(]){_VALUE})",
        rf"(?i:(?:{_LOGINS})\b[^\n|;]* -[pa])",
        # mysql's -p with a space before the next word asks for the password, and the word is a database
        lambda match: _is_flag_value(match) and (match[0][:2].lower() not in {"my", "ma"} or _is_mixed_value(match)),
        r"(?i:sshpass|docker login|podman login|mongo|mysql|mariadb|redis-cli)",
    ),
    (  # unzip -P x, ldapsearch -w x, htpasswd -b f bob x, net user bob x, smbclient -U bob%x, xfreerdp /p:x
        rf"(?:\b(?:unzip|zip)\b[^\n|;]{{0,80}}?\s-P ?|\bldap\w+\b[^\n|;]{{0,200}}?\s-w ?|\bhtpasswd -\w*b\w* \S+ \S+ |"
        rf"\bnet (?:user|use(?: \w:)?) \S+ (?!/)|\s/user:\S+ |\s-[uUlx] \S+ -[pPA] ?|"
        rf"\b(?:plink|pscp|psftp)\b[^\n|;]{{0,80}}?\s-pw |"
        rf"\s/rp |\s-(?:u|U|a|auth|-user|-(?:src-|dest-)?creds)[ =](?:{_QUOTE})?[\w.@\\]+[:,%]|\b(?:7z\w?|"
        rf"(?:un)?rar) [^\n|;]{{0,80}}?-h?p|"
        rf"\s-[uo]pw |\bsnmp-server community |"
        rf"\b(?:password|secret|key(?:-string)?) (?:[05-9]|ascii(?:-text)?|clear-?text|plain-?text|encrypted) |"
        rf"\bconfig \S+ \w+:|"
        rf"\bWIFI:[^\s]{{0,60}}?P:|\bsecretsdump\S* \S+/\S+:|\b(?:jdbc:oracle:thin:|(?:sqlplus|impdp|expdp|sqlldr|"
        rf"rman target) )\w+/|"
        rf"\s-U [\w\\.]+%|\s[\"']?/p:|\bpass(?:in|out)? pass:|\bopenssl\b[^\n|;]{{0,120}}?\s-k |"
        rf"\bx11vnc\b[^\n|;]{{0,80}}?-passwd )(?:{_QUOTE})?(?P<value>{_VALUE})",
        r"zip\b[^\n|;]* -P|ldap\w+\b[^\n|;]* -w|htpasswd -|net use|/user:| -[uUlx] \S+ -[pPA]|"
        r" -(?:u|U|a|auth|-user|-(?:src-|dest-)?creds)[ =][\"'`\\]{0,4}[\w.@\\]+[:,%]|7z|rar | -[uo]pw |community |"
        r"(?i:password|secret|key(?:-string)?) (?:[05-9]|ascii|clear|plain|encrypted)|config \S+ \w+:|"
        r" -pw | /rp |WIFI:|secretsdump|oracle:thin:|sqlplus |impdp |expdp |sqlldr |rman target |"
        r"\s[\"']?/p:|pass(?:in|out)? pass:|openssl\b[^\n|;]* -k |x11vnc\b[^\n|;]* -passwd",
        _is_mixed_value,
        r"openssl|x11vnc|zip -|zip [^ -]|ldap|htpasswd -|net use|/user:| -[uUlx] \S+ -[pPA]|\s[\"']?/p:|pass(?:in|"
        r"out)? pass:|7z|rar | -[uo]pw |community |(?i:password|secret|key(?:-string)?) (?:[05-9]|ascii|clear|plain|"
        r"encrypted)|config \S+ \w+:|"
        r" -(?:u|U|a|auth|-user|-(?:src-|dest-)?creds)[ =][\"'`\\]{0,4}[\w.@\\]+[:,%]|"
        r" -pw | /rp |WIFI:|secretsdump|oracle:thin:|sqlplus |impdp |expdp |sqlldr |rman target ",
    ),
    (  # password_field.send_keys("x"), page.get_by_label("Password").fill("x")
        rf"{_FIELD}[^\n;]{{0,60}}?\.(?:(?:{_TYPES})\(|value ?= ?)"
        rf"\s?{_QUOTE}(?P<value>[^\"'`\\\n]{{4,80}}){_QUOTE}(?:\s?[,;)]|\Z|\n)",
        rf"(?i:\.(?:(?:{_TYPES})\(|value ?= ?[\\\"'`]))",
        _is_value,
        "",
    ),
    (  # {"element": "Password field", "text": "x"} within a text
        rf"(?:{_QUOTE}|\b)(?:element|selector|label|field|locator|target|placeholder)(?:{_QUOTE}\s?:|"
        rf"=)\s?{_QUOTE}[^\"'`\n]{{0,80}}"
        rf"(?:{_SPOKEN}|passwd|pwd|pass)[^\"'`\n]{{0,60}}{_QUOTE}[^{{}}\n]{{0,80}}?(?:{_QUOTE}|\b)(?:text|value|"
        rf"input|content)"
        rf"(?:{_QUOTE}\s?:|=)\s?{_QUOTE}"
        rf"(?P<value>[^\"'`\\\s]{{4,80}}){_QUOTE}",
        r"(?i:(?:element|selector|label|field|locator|target|placeholder)(?:[\\\"'`]{1,4}\s?:|=))",
        lambda match: _is_value(match) and not NO_FIELD.search(match.group()),
        TELLING_GATE,
    ),
    (  # page.fill("#password", "x")
        rf"\b(?:{_TYPES})\(\s?(?P<open>{_QUOTE})(?:(?!(?P=open))[^\n]){{0,60}}{_FIELD}(?:(?!(?P=open))[^\n]){{0,40}}"
        rf"(?P=open)\s?,\s?{_QUOTE}(?P<value>{_VALUE})",
        rf"(?i:(?:{_TYPES})\()",
        _is_value,
        "",
    ),
    (  # app password: four groups of four letters, as Google shows them
        rf"\bapp(?:lication)?[ _-]?password\w*(?:{_QUOTE})?(?:\s?[:=]| is)"
        rf"\s?(?:{_QUOTE})?(?P<value>(?:[a-z]{{4}} ){{3}}[a-z]{{4}})\b",
        r"(?i:app(?:lication)?[ _-]?password)",
        lambda match: not is_wordlike(match.group("value")),
        TELLING_GATE,
    ),
    (  # recovery codes, one or a list of them
        rf"\b(?:recovery|backup|rescue|scratch|one-time) (?:codes?|keys?)\b[^\n:\\]{{0,40}}(?::|\n|\\{{1,3}}n|"
        rf" is| are)(?:\s|\\{{1,3}}n|[+>#|]|\d+\t)*"
        rf"(?:[-*] |\d{{1,2}}[.)] )?(?P<value>{_CODE_WORD}"
        rf"(?:[\s,;]{{1,3}}(?:[-*] |\d{{1,2}}[.)] )?{_CODE_WORD}){{0,19}})",
        r"(?i:(?:recovery|backup|rescue|scratch|one-time) (?:code|key))",
        lambda match: is_mixed(match.group("value")) or re.sub("[ -]", "", match.group("value")).isdigit(),
        "",
    ),
    (  # db.example:5432:name:user:x
        r"(?<![\w.:])[\w.*-]+:(?:\d{4,5}|\*):[\w*-]+:[\w*.-]+:(?P<value>[^\s\"'`\\:]{6,})",
        r":(?:[0-9]{4,5}|\*):[\w*-]+:[\w*.-]+:[^\s:]",
        _is_mixed_value,
        r":(?:[0-9]{4,5}|\*):[\w*-]",
    ),
    (  # IDENTIFIED BY 'x'
        r"\bidentified (?:with \S+ )?by (?:password )?\\{0,3}[\"'](?P<value>[^\"'`\\\n]+)",
        r"(?i:identified )",
        _is_value,
        "",
    ),
    (  # type "x" into the password field
        rf"\b(?:type|typing|typed|tried|try|entered|enter|write|typewrite|keystroke|text|fill|input|paste|use|using|"
        rf"and|with)"
        rf"[sd]?[ (](?:in |(?:--?\w[\w-]*(?: \d+)? ){{1,3}})?(?P<quote>{_QUOTE})?"
        rf"(?P<value>(?(quote)[^\"'`\\\n]{{3,60}}|[^\s\"'`\\]{{6,60}}))(?:{_QUOTE})?\)?"
        rf"(?: (?:in|as|for)(?:to)?|[^\n\"'`#]{{0,20}}(?:#|--|//)) [\w ]{{0,24}}(?:{_SPOKEN})",
        r"(?i:(?:type|typing|typed|tried|try|entered|enter|write|keystroke|text|fill|input|paste|use|using|and|"
        r"with)[sd]?[ (])",
        lambda match: _is_value(match) if match.group("quote") else _is_mixed_value(match),
        TELLING_GATE,
    ),
    (  # smtp: {pass: "x"}, user: bob / pass: x
        rf"(?:(?<![\w.-])(?:ssh|smtp|mail|root|user)?pass{_QUOTE}?|(?<=/ )pw)\s?[:=]\s?(?P<quote>{_QUOTE})?"
        rf"(?P<value>{_VALUE})",
        r"(?i:\b(?:ssh|smtp|mail|root|user)?pass[\\\"'`]{0,4}\s?[:=]|/ pw\s?[:=])",
        lambda match: (
            _is_mixed_value(match)
            and len(match["value"]) >= 6
            and (bool(match["quote"]) or chunk_length(match["value"]) <= 3.2)
        ),
        "",
    ),
    (  # echo x | sudo -S
        rf"\b(?:echo (?:-n )?|"
        rf"printf (?:{_QUOTE}[^\"'\n]{{1,12}}{_QUOTE} )?)"
        rf"(?:{_QUOTE})?(?:[\w-]+:)?(?P<value>{_VALUE})(?:{_QUOTE})?\s*\|\s*"
        r"(?:sudo -S|chpasswd|passwd|su\b|[^\n|;]{1,80}--password-stdin)",
        r"\| ?(?:sudo -S|chpasswd|passwd|su\b|[^\n|;]{1,80}--password-stdin)",
        _is_value,
        r"\| ?(?:sudo -S|passwd|su\b)|chpasswd|--password-stdin",
    ),
    (  # auth=('bob', 'x'), login('bob', 'x'), ConvertTo-SecureString "x"
        rf"(?:\bauth=\(|(?:BasicAuth|\blog_?in|sign_?in|authenticate|\w{{3}}Credentials?|"
        rf"(?P<directory>DirectoryEntry))\()"
        rf"\s?{_QUOTE}[^\"'`\n]{{0,80}}{_QUOTE},\s{{0,30}}"
        rf"(?(directory){_QUOTE}[^\"'`\n]{{0,80}}{_QUOTE},\s{{0,30}}){_QUOTE}(?P<value>{_VALUE})",
        r"(?i:auth=\(|(?:BasicAuth|log_?in|sign_?in|authenticate|credentials?|DirectoryEntry)\()",
        _is_value,
        "",
    ),
    (
        rf"(?:ConvertTo-SecureString (?:-String )?{_QUOTE}|\bpsexec\b[^\n]{{1,100}}? -p |(?:\b|set_?|"
        rf"with)password\({_QUOTE})"
        rf"(?P<value>{_VALUE})",
        r"(?i:ConvertTo-SecureString|psexec|password\([\\\"'`])",
        lambda match: _is_value(match) and not _CODE.fullmatch(match["value"]),
        "",
    ),
    (  # netrc; a cell of a table; "log in with password x1"
        rf"(?:\b|_)(?:password|passphrase|passcode|passwd|requirepass|masterauth|rootpw|bindpw|kennwort|passwort|"
        rf"contrase\u00f1a|mot de passe|senha|set-password \w{{1,32}})"
        rf"(?: to| (?:was |is )?(?:now|(?:changed|set|reset|updated|rotated) to)| will be| wurde auf| should be|"
        rf" must be| of|"
        rf" for \S{{1,40}}:|\**\s?\|)? "
        rf"(?:{_QUOTE})?(?P<value>{_VALUE})",
        r"(?i:(?:password|passphrase|passcode|passwd|requirepass|masterauth|rootpw|bindpw|kennwort|passwort|"
        r"contrase\x{f1}a|"
        r"mot de passe|senha)[^\n]* )",
        _is_mixed_value,
        rf"{TELLING_GATE}|(?i:requirepass|masterauth|rootpw|bindpw)",
    ),
    (  # variable "db_token" { default = "x" }
        rf"\bvariable {_QUOTE}(?P<name>\w+){_QUOTE} ?\{{[^}}]{{0,300}}?\bdefault\s*= ?{_QUOTE}(?P<value>{_VALUE})",
        r"variable [\\\"']{1,4}\w+",
        _is_named,
        r"variable [\\\"']",
    ),
    (  # new ethers.Wallet("0x..."), Account.from_key("...")
        rf"(?:wallet|from_?key|private_?key\w*|toaccount|signingkey)\(\s?{_QUOTE}(?P<value>(?:0x)?[0-9a-f]{{64}})\b",
        r"(?i:(?:wallet|key\w*|toaccount)\([^0-9a-f]{0,5}(?:0x)?[0-9a-f]{64})",
        None,
        r"\([\\\"']{0,4}(?:0x)?[0-9A-Fa-f]{64}",
    ),
    (  # https://eth-mainnet.example/v2/x: what follows a version as a name does not; a hash only at the end
        r"://[^\s\"'<>@]{3,120}/(?:v\d(?:\.\d)?|rpc|ws)/(?P<value>[\w-]{20,})(?![\w.?-])(?P<more>/?)",
        r"://[^\s\"'<>@]+/(?:v[0-9](?:\.[0-9])?|rpc|ws)/[\w-]{20}",
        lambda match: (
            is_mixed(match["value"])
            and (not match["more"] if is_hash(match["value"]) else looks_random(match["value"]))
        ),
        r"/(?:v[0-9](?:\.[0-9])?|rpc|ws)/[\w-]{20}",
    ),
    (  # https://maker.example/trigger/x/with/key/x
        r"://[^\s\"'<>@]{3,120}/(?:api_?)?(?:key|token|secret)s?/(?P<value>[\w-]{16,})(?![\w-])",
        r"/(?:key|token|secret)s?/[\w-]{16}",
        lambda match: is_mixed(match.group("value")) and looks_random(match.group("value")),
        "",
    ),
    (  # Spanish: a key as well as a password; la clave del wifi es x1
        rf"\bclave(?: (?:del?|de la|de acceso|para)(?: [\w-]{{1,16}}){{0,3}})?(?:{_QUOTE})?(?:\s?:| es)\s?(?:{_QUOTE})?"
        rf"(?P<value>{_VALUE})",
        r"(?i:\bclave\b[^\n:]*(?::| es))",
        lambda match: len(match["value"]) >= 6 and _is_mixed_value(match),
        r"(?i:\bclave)",
    ),
    (  # rclone obscure x, bw unlock x, openssl passwd -6 x; kinit bob <<< x; Key Content : x
        rf"(?:\b(?:rclone obscure|bw unlock|unlock-keychain -p|add-\w{{5,8}}-password [^\n]{{1,120}} -w|"
        rf"setairportnetwork \S+ \S+|wpa_passphrase \S+|(?:add_user|change_password) \w{{1,40}}|http-basic\.\S+ \S+|"
        rf"auth_pass|op signin|openssl passwd(?: -\w+){{0,3}}|"
        rf"rclone config [^\n]{{1,120}} pass) |"
        rf"\b(?:kinit|passwd|pass|sudo|su|secrets?|env|unlock|obscure|cryptsetup|gpg|login|"
        rf"vault)\b[^\n|;]{{0,80}}<<< ?|"
        rf"\bKey Content\s*: )(?:{_QUOTE})?(?P<value>{_VALUE})",
        r"(?i:unlock-keychain|-password [^\n]*-w|setairportnetwork|wpa_passphrase|add_user |change_password |"
        r"http-basic\.|auth_pass |"
        r"rclone obscure|bw unlock|op signin|openssl passwd|rclone config |<<<|Key Content)",
        _is_mixed_value,
        "",
    ),
    (  # a1 LOGIN bob@example.com "x"; OpenVPN's user and password in two lines
        rf"(?:\bLOGIN \S+@\S+ (?:{_QUOTE})?|\bauth-user-pass\b[^\n]{{0,20}}\n[^\s<>]{{1,60}}\n)(?P<value>{_VALUE})",
        r"LOGIN \S+@|auth-user-pass",
        _is_mixed_value,
        "",
    ),
    (  # the login for the shop is anna / x1; using credentials deploy / x1
        rf"\b(?:cred(?:ential)?s|log-?in|account|accounts? data|zugangsdaten|identifiants?|credenciales|credenziali)\b"
        rf"(?: [\w'-]{{1,16}}){{0,5}}?(?: ?[:=]| are| is| sind| sont| son| est| es|"
        rf") [\w.@+-]{{2,40}} / (?P<value>{_VALUE})",
        r"(?i:(?:cred(?:ential)?s|log-?in|account|zugangsdaten|identifiants?|credenciales|credenziali)[^\n/]* / )",
        lambda match: len(match["value"]) >= 6 and _is_mixed_value(match),
        r"(?i:credentials|creds|log-?in|account|zugangsdaten|identifiant|credenciales|credenziali)",
    ),
    (  # connect("host", 22, "bob", "x1"), new PDO(dsn, 'app', 'x1'), WiFi.begin("net", "x1")
        rf"\b(?:(?:\w{{0,20}}connect(?:ion)?|PDO|FTP|ftp_login|linkedsrvlogin|sp_addlinkedsrvlogin|SSHClient|"
        rf"createDriver|"
        rf"dial\w{{0,8}})\b\(?(?=[^;\n]{{0,160}},[^;\n]{{0,160}},)|(?:WiFi\w{{0,8}}\.begin|"
        rf"\w{{0,24}}PasswordAuthentication|"
        rf"\w{{0,12}}BasicAuth(?:entication)?|basic_auth|UserPass\w{{0,12}}|UsernamePassword\w{{0,24}}|auth\.basic|"
        rf"\w{{0,20}}set_?password|signIn\w{{0,30}}|sign_?in\w{{0,20}}|createUser\w{{0,30}})\()"
        rf"[^;\n]{{0,160}}?,\s?N?{_QUOTE}(?![\w.+-]{{1,40}}@[\w-]+\.)(?P<value>[^\s\"'`\\<>|,;:/(){{}}]{{6,64}}){_QUOTE}",
        r"(?i:connect|PDO\(|FTP\(|ftp_login|linkedsrvlogin|SSHClient\(|createDriver|dial|\.begin\(|PasswordAuth|"
        r"BasicAuth|"
        r"basic_auth|UserPass|UsernamePass|auth\.basic|set_?password\(|sign_?in\w*\(|createUser\w*\()",
        lambda match: _is_mixed_value(match) and not re.search(r"\.[a-z]{2,}\Z|^[\d.]+\Z", match["value"]),
        r"(?i:(?:connect\w*|PDO|FTP|ftp_login|linkedsrvlogin|SSHClient|createDriver|dial\w*|\.begin|PasswordAuth\w*|"
        r"BasicAuth\w*|"
        r"basic_auth|UserPass\w*|UsernamePass\w*|auth\.basic|set_?password|sign_?in\w*|createUser\w*)[( ][^\n]*,)",
    ),
    (  # the password generated for root@localhost: x1; pw for the zip: x1; use the following password to go on:\n\nx1
        rf"\b(?:{_SPOKEN}|pass phrase|passwd|pwd?|pin|creds?|(?:api|access|auth|bot|deploy) (?:token|key))"
        rf"(?:\)?,? (?!(?:or|and|if|"
        rf"but)\b)[(\"'`]?[\w\u00e0-\u00fc][\w\u00e0-\u00fc'\"`.@/-]{{0,30}}\)?){{1,8}} ?(?::|->|=>|=)"
        rf"\s{{1,4}}(?P<quote>{_QUOTE})?(?P<value>{_VALUE})(?={_QUOTE}|[.,;)]?[ \t]*(?:\n|\Z|[(#,;]))",
        rf"(?i:(?:{_SPOKEN}|pass phrase|passwd|pwd?|pin|creds?|(?:api|access|auth|bot|deploy) (?:token|"
        rf"key)) [^\n]*(?::|->|=)\s)",
        lambda match: (
            len(match["value"]) >= 8
            and _is_mixed_value(match)
            and not _EXPRESSION.match(match["value"] + "\0")
            and not re.search(r"://|^[\w.-]+@[\w.-]+\Z|^\d[\d:.,-]*\w?\Z|^[./~]", match["value"])
        ),
        "",
    ),
    (  # USER bob\nPASS x, of FTP and POP; Redis: user default on >x; activation code x
        r"(?:(?:\A|\n|[>:] )PASS (?=\S+[ \t\r]*(?:\n|\Z))|\buser \w{1,32} on [^\n>]{0,40}>|"
        r"\b(?:activation|licen[cs]e|product|serial|unlock) (?:code|key)(?: is|"
        r":)? (?=[A-Z0-9]{4,6}(?:-[A-Z0-9]{4,6}){2,7}\b))"
        r"(?P<value>[^\s\"'`\\<>|]{4,64})",
        r"(?:PASS [^\n]|user \w+ on [^\n]*>|(?i:(?:activation|licen[cs]e|product|serial|unlock) (?:code|key)))",
        _is_mixed_value,
        "",
    ),
    (  # bob : EAP "x", "bob" * "x" *
        r"(?:\b(?:PSK|EAP|XAUTH|NTLM) \"|(?:\A|"
        r"\n)\"?[\w.@-]{1,40}\"?[ \t]+\*[ \t]+\"?)(?P<value>[^\s\"]{6,64})\"?(?:[ \t]|\n|\Z)",
        r"(?:(?:PSK|EAP|XAUTH|NTLM) \"|[ \t]\*[ \t])",
        _is_mixed_value,
        "",
    ),
    (  # VALUES ('smtp_password', 'x')
        rf"\(\s?{_QUOTE}(?P<name>[\w.-]{{0,40}}(?:{TELLING})\w{{0,16}}){_QUOTE},\s?N?{_QUOTE}(?P<value>{_VALUE}){_QUOTE}\s?[,)]",
        rf"(?i:\(\s?[\\\"'`]{{1,4}}[\w.-]*(?:{TELLING_HINT})\w*[\\\"'`]{{1,4}},)",
        lambda match: _is_named(match) and _is_mixed_value(match),
        TELLING_GATE,
    ),
    (  # keyvault secret set --name db --value x
        rf"\bsecrets? (?:set|create|put|add)\b[^\n|;]{{0,160}}? --(?:value|body|"
        rf"data)[ =](?:{_QUOTE})?(?P<value>(?!-|@){_VALUE})",
        r"(?i:secrets? (?:set|create|put|add)[^\n]* --(?:value|body|data))",
        _is_flag_value,
        TELLING_GATE,
    ),
    (rf"\blogin \S+ password (?P<value>{_VALUE})", r"(?i:login \S+ password )", _is_value, r"(?i:login )"),
    (
        rf"(?:\b(?:{_SPOKEN}|pin|the pass|pwd?)(?: code)?"
        rf"(?: for (?:the )?(?:\w{{2,16}} )?{_QUOTE}[^\s\"'`]{{1,40}}{_QUOTE})?"
        rf" (?:(?:is|was)(?: now| still)?:?|lautet|ist|je|est|es|\u00e8|\u00e9|c'est|\u00e4r|er|on|to|jest|\u2014|"
        rf"-)(?=[ :])|"
        rf"(?:\u5bc6[\u7801\u78bc]|\u53e3\u4ee4|\u30d1\u30b9\u30ef\u30fc\u30c9|\ube44\ubc00\ubc88\ud638)"
        rf" ?(?:\u662f|\u4e3a|\u70ba|\u306f|\ub294|\uc740|:|\uff1a)) ?(?P<quote>{_QUOTE})?"
        rf"(?P<value>{_VALUE})",
        rf"(?i:(?:{_SPOKEN}|pin|the pass|pwd?)(?: code)?(?: for [^\n\"'`]{{0,22}}[\"'`\\\\][^\n]{{1,50}})?"
        rf" (?:ist?|was|lautet|je|est?|\x{{e8}}|\x{{e9}}|c'est|\x{{e4}}r|er|on|to|\x{{2014}}|-)[ :])|"
        rf"(?:\x{{5bc6}}[\x{{7801}}\x{{78bc}}]|\x{{53e3}}\x{{4ee4}}|"
        rf"\x{{30d1}}\x{{30b9}}\x{{30ef}}\x{{30fc}}\x{{30c9}}|\x{{be44}}\x{{bc00}}\x{{bc88}}\x{{d638}})"
        rf" ?[\x{{662f}}\x{{4e3a}}\x{{70ba}}\x{{306f}}\x{{b294}}\x{{c740}}:\x{{ff1a}}]",
        lambda match: (
            _is_value(match)
            and not _CODE.fullmatch(match["value"])
            and (bool(match["quote"]) or not match["value"].strip("-'").isalpha() or _is_mixed_value(match))
        ),
        "",
    ),
    (  # the password for the staging box is x1
        rf"\b(?:{_SPOKEN})(?: [\w'\"-]{{1,16}}){{1,6}} (?:is|(?:was|is|has been) (?:re)?set to|was|lautet|ist|es|"
        rf"est|c'est|\u00e9|"
        rf"\u00e8) (?P<quote>{_QUOTE})?(?P<value>{_VALUE})",
        rf"(?i:(?:{_SPOKEN})(?: [\w'\"-]{{1,16}}){{1,6}} (?:is|to|was|lautet|ist|es|est|c'est|\x{{e9}}|\x{{e8}}) )",
        lambda match: len(match["value"]) >= 8 and _is_mixed_value(match),
        "",
    ),
    (  # ssh-keygen -t ed25519 -N "x"
        rf"\bssh-keygen\b[^\n|;&]{{0,80}}? -[NP] ?(?P<quote>{_QUOTE})(?P<value>{_VALUE})(?P=quote)",
        r"(?i:ssh-keygen)",
        _is_value,
        r"(?i:ssh-keygen)",
    ),
    (  # x1 is the password, // x1 is the API key
        rf"(?<![^\s\"'`#;/*(])(?P<value>[^\s\"'`#;/*(<][^\s\"'`<>]{{8,98}}[^\s\"'`<>.,;:])"
        rf" is (?:the|my|our|your|a)(?: [\w-]{{1,20}}){{0,3}} "
        rf"(?:{_SPOKEN}|pin|token|secret|key)(?=\s*(?:[.,;:!)\n*\\\"'`]|\Z|(?:for|of|to|and)\b))",
        rf"(?i: is (?:the|my|our|your|a)[ \w-]* (?:{_SPOKEN}|pin|token|secret|key))",
        lambda match: is_mixed(match["value"]) and looks_random(match["value"]),
        TELLING_GATE,
    ),
    (  # if ("x1" == api_key)
        rf"(?P<quote>[\"'])(?P<value>[^\s\"'`\\]{{6,98}})(?P=quote) ?(?:===?|!==?) ?"
        rf"[$\w.]{{0,40}}?(?P<name>[a-z]{{0,20}}_?(?:{TELLING})\w{{0,24}})",
        rf"(?i:[\"'] ?(?:===?|!==?) ?[$\w.]*(?:{TELLING_HINT}))",
        lambda match: _is_named(match) and is_mixed(match["value"]),
        TELLING_GATE,
    ),
    (  # a password of marks, which no other pattern reads to its end
        rf"(?:{TELLING})\w{{0,24}}(?:{_QUOTE}|\]|"
        rf"\[\]){{0,2}}\s{{0,12}}(?:[.?+]?[:=>]{{1,3}}\s{{0,6}}@?(?:{_QUOTE})?|{_QUOTE})"
        rf"(?P<value>[^\s\"'`\\]{{12,98}})",
        rf"(?i:(?:{TELLING_HINT})\w{{0,24}}[^\w\n][^\n]{{0,20}}?(?:[^\s\"'`\\]*[)\]}}]){{3}})",
        lambda match: is_scrambled(match["value"]),
        TELLING_GATE,
    ),
    (  # storePassword "x"; api_key 'x'
        rf"(?<![\w.-])(?P<name>[\w.-]{{0,40}}(?:{TELLING})\w{{0,24}})[ \t]?"
        rf"(?P<quote>[\"'])(?P<value>[^\s\"'`\\]{{6,98}})(?P=quote)[ \t]*(?=;|\n|\Z|\}})",
        rf"(?i:(?:{TELLING_HINT})\w{{0,24}}[ \t]?[\"'][^\s\"'`]{{6}})",
        lambda match: _is_named(match) and is_mixed(match["value"]),
        TELLING_GATE,
    ),
    (  # credentials: bob / x1
        rf"\b(?:cred(?:ential)?s?|log-?in|user(?:name)?/pass(?:word)?)(?: ?[:=]| are| is) ?(?:[\w.@+-]+|<[^>\s]+>)"
        rf"(?: ?[/:] ?| and )(?P<value>{_VALUE})",
        r"(?i:(?:cred(?:ential)?s?|log-?in|user(?:name)?/pass(?:word)?)(?: ?[:=]| are| is))",
        _is_mixed_value,
        "",
    ),
    (  # use admin:x1 to get in, admin/x1!
        rf"\b(?:(?:use|with|as) [\w.-]{{2,32}}:|(?:admin|administrator|root|sa)[:/])(?P<value>{_VALUE})",
        r"(?i:(?:use|with|as) [\w.-]+:|(?:admin|administrator|root|sa)[:/])[^\s/.]{8}",
        lambda match: _is_chosen(match) and is_mixed(match.group("value")) and not is_wordlike(match.group("value")),
        "",
    ),
    (  # a code that was sent, a PIN
        r"(?:(?:\b(?:verification|one-time|otp|2fa|security|confirmation|log-?in|authentication|sms|pin|your)"
        r" code|\bOTP|\bPIN)"
        r"(?: is|:| =){1,2} ?|\bpasscode:? |\bpin code (?=\d{4,8}\b(?! [A-Z]))|\bG-(?=\d{6} is your)|"
        r"\benter (?=\d{4,8} as (?:the|your) [\w -]{0,20}(?:code|pin)))"
        r"(?P<value>\d{4,8})(?!\d)",
        r"(?i:(?:(?:code|otp|pin)(?: is|:| =){1,2} ?|passcode:? |pin code |\bG-|enter )[0-9]{4})",
        None,
        "",
    ),
    (  # Authorization: Basic x, also in JSON
        rf"\bauthorization(?:{_QUOTE})?\s?[:=]\s?(?:{_QUOTE})?"
        r"(?:(?:basic|token|bearer|ssws|apikey|negotiate|key) |digest [^\n]{0,200}?\bresponse=[\\\"']{0,4}|"
        r"[a-z][\w-]{2,20} (?=[\w.~+/=-]*\d))?"
        r"(?P<value>[\w.~+/=-]{8,})(?![\w.~+/=(\[-])",  # and no call
        r"(?i:authorization[\\\"'`]{0,4}\s?[:=])",
        lambda match: (
            _is_value(match) and ("=" in match["value"] or not match["value"].islower() or is_mixed(match["value"]))
        ),
        r"(?i:authorization)",
    ),
    (r"\bbearer\s+(?P<value>[\w.~+/=-]{8,})", r"(?i:bearer\s+[\w.~+/=-]{8})", _is_mixed_value, r"(?i:bearer\s)"),
    (  # Cookie: a=b; c=d
        rf"\b(?:set-)?cookies?(?:{_QUOTE})?\s?[:=]\s?(?:{_QUOTE})?(?P<value>[\w.-]+=[^\n\"'`]{{6,}})",
        r"(?i:cookies?[\\\"'`]{0,4}\s?[:=])",
        _is_value,
        r"(?i:cookies?[^a-z])",
    ),
    (
        rf"\bcurl\b[^\n|]{{0,300}}?\s(?:-b|--cookie)[ =](?:{_QUOTE})?(?P<value>[\w.-]+=[^\n\"'`]{{6,}})",
        r"curl[^\n|]* (?:-b|--cookie)",
        _is_value,
        r"curl[^\n]",
    ),
    (  # the query of a URL
        r"[?&;](?:pass|pw|sig|signature|key|code|auth|appid|X-Amz-(?:Signature|Credential|"
        r"Security-Token))=(?P<value>[\w.~%+/-]{6,}={0,2})",
        r"(?i:[?&;](?:pass|pw|sig|signature|key|code|auth|appid|X-Amz-(?:Signature|Credential|Security-Token))=)",
        _is_mixed_value,
        "",
    ),
    (
        r"\b(?:login|authtoken|auth:token)(?: --?\w+)* (?P<value>[\w.-]{20,})",
        r"(?:login|authtoken|auth:token) ",
        _is_mixed_value,
        "",
    ),
    (  # passphrase: four or more words
        rf"\b(?:pass[ _]?phrase|password)(?:{_QUOTE})?\s?[:=]\s?(?:{_QUOTE})?"
        rf"(?P<value>(?:[a-z]{{3,12}}[ -]){{3,9}}[a-z]{{3,12}})(?={_QUOTE}|[,;]?\s*(?:\n|\Z))",
        r"(?i:(?:pass[ _]?phrase|password)[\\\"'`]{0,4}\s?[:=]\s?[\\\"'`]{0,4}(?:[a-z]{3,12}[ -]){3})",
        lambda match: match["value"].islower() and _PROSE.isdisjoint(re.split("[ -]", match["value"])),
        TELLING_GATE,
    ),
    (  # the values of a Secret of Kubernetes, whose kind stands before or after them
        rf"(?P<kind>\b{_KIND}[ \t]*\n{_LINES})?(?<![^\n])(?P<indent>[ \t]*)(?:stringdata|data):[ \t]*\n"
        rf"(?P<value>(?:(?P=indent)[ \t]+[^\n]+(?:\n|\Z))+)(?(kind)|(?={_LINES}[ \t]*{_KIND}))",
        r"(?i:kind: ?[\\\"'`]{0,4}secret\b)",
        lambda match: "{{" not in match["value"] and bool(re.search(r"[\w+/]{8}", match["value"])),
        "",
    ),
    (  # the words that restore a wallet
        rf"(?:mnemonic|(?:seed|recovery|secret|backup)[ _](?:phrase|words?))(?:{_QUOTE})?\s?[:=]\s?(?:{_QUOTE})?"
        r"(?P<value>(?:[a-z]{3,8} ){11,23}[a-z]{3,8})",
        r"(?i:mnemonic|(?:seed|recovery|secret|backup)[ _](?:phrase|words?))",
        None,
        "",
    ),
)
_COLUMN = (
    r"(?:\b|_)(?:passw(?:or)?d|passwort|kennwort|mot de passe|senha|pwd|pw|secret|token|api_?key|"
    "contrase\u00f1a)"
    r"(?:\b|_)"
)
_HEADER = re.compile(  # a line whose cells name what stands below them, or the columns of an INSERT
    rf"(?:^|(?<=\())(?P<names>[^\n()]*{_COLUMN}[^\n()]*)(?:$|\) ?values\b)",
    re.IGNORECASE | re.MULTILINE,
)
_CELL = re.compile(r"(?P<value>[^\s|,;\t\"'`]{6,98})")
_MOST_ROWS = 200


def _column_cells(text: str) -> Iterator[re.Match[str]]:
    """The cells below a column named password, in CSV, Markdown, the output of a database, the rows of an INSERT."""
    for header in _HEADER.finditer(text):
        names = header["names"]
        separator = next((one for one in "|\t;," if names.strip("|").count(one)), "")
        columns = [meaning(name.strip("\"'`* ")) for name in names.split(separator)] if separator else []
        if not any(columns) or any(len(name.split()) > 3 or set(":={") & set(name) for name in names.split(separator)):
            continue  # a sentence with commas
        insert = header.end() > header.end("names")
        rows = re.compile(r"\((?P<row>[^()\n]*)\)" if insert else r"^(?P<row>[^\n]*)$", re.MULTILINE)
        for number, row in enumerate(rows.finditer(text, header.end() + 1)):
            cells = row["row"].split(separator)
            if len(cells) != len(columns) or number >= _MOST_ROWS:
                break
            at = row.start("row")
            for means, cell in zip(columns, cells, strict=True):
                value = _CELL.search(text, at, at + len(cell))
                at += len(cell) + 1
                alone = value and value["value"] in {cell.strip("\"'` \r"), cell.strip("\"'`* \r")}
                if value and alone and is_secret(means, value["value"], quoted=True) and _is_mixed_value(value):
                    yield value


_BELOW_A_NAME = detector(
    "password",
    _CELL.pattern,
    rf"(?i:{_COLUMN}[^\n]*[|,;\t]|[|,;\t][^\n]*{_COLUMN})",
    "value",
    gate=TELLING_GATE,
)._replace(find=_column_cells)
SEED_PHRASE = detector(  # without a label; tried only where the prefilter saw the words
    "seed_phrase",
    r"(?<![\w-])(?:(?:\d{1,2}[.):] ?)?[a-z]{3,8}[\s,]{1,3}){11,23}(?:\d{1,2}[.):] ?)?[a-z]{3,8}(?![\w-])",
    r"(?:[a-z]{3,8}[\s,]{1,3}(?:[0-9]{1,2}[.):] ?)?){11}[a-z]{3,8}",
    accept=lambda match: _seed_words(match.group()),
)
DETECTORS = (
    *(
        detector("password", pattern, hint, "value", accept=accept, flags=re.IGNORECASE, gate=gate)
        for pattern, hint, accept, gate in _CONTEXTS
    ),
    _BELOW_A_NAME,
    _ASSIGNED,
    _NEAR_A_WORD,
    _NEAR_PASSWORD,
)
