"""What a secret and what personal data look like: detect-secrets' patterns, and what they leave out.

Each detector has a hint, a cheap RE2 pattern that matches wherever the detector could. The hints together are the
prefilter: text without any hint is clean, and most text is.
"""

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import re2

_PLUGINS = {  # detect-secrets plugin: (module, kind, hint)
    "AWSKeyDetector": ("aws", "aws_key", r"A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA|(?i:aws.{0,20}(?:key|pw|pass|token))"),
    "AzureStorageKeyDetector": ("azure_storage_key", "azure_key", r"AccountKey="),
    "DiscordBotTokenDetector": ("discord", "discord_token", r"\.[\w-]{6}\.[\w-]{27}"),
    "GitHubTokenDetector": ("github_token", "github_token", r"gh[pousr]_"),
    "GitLabTokenDetector": ("gitlab_token", "gitlab_token", r"gl[a-z]{2,5}-|GR1348941"),
    "JwtTokenDetector": ("jwt", "jwt", r"eyJ[A-Za-z0-9]"),
    "MailchimpDetector": ("mailchimp", "mailchimp_key", r"[0-9a-z]{32}-us[0-9]"),
    "NpmDetector": ("npm", "npm_token", r"_authToken"),
    "OpenAIDetector": ("openai", "openai_key", r"T3BlbkFJ"),
    "PypiTokenDetector": ("pypi_token", "pypi_token", r"pypi-A"),
    "SendGridDetector": ("sendgrid", "sendgrid_key", r"SG\.[\w-]{16}"),
    "SlackDetector": ("slack", "slack_token", r"(?i:xox[a-z]-|hooks\.slack\.com)"),
    "SquareOAuthDetector": ("square_oauth", "square_secret", r"sq0csp-"),
    "StripeDetector": ("stripe", "stripe_key", r"[rs]k_live_"),
    "TelegramBotTokenDetector": ("telegram_token", "telegram_token", r"[0-9]{8}:[\w-]{35}"),
    "TwilioKeyDetector": ("twilio", "twilio_key", r"(?:AC|SK)[a-z0-9]{32}"),
}
PLACEHOLDER = re.compile(r"<(?:SECRET|PII):[a-z_]+:\d+>")
_TELLING = (
    r"passw(?:or)?d|passphrase|passcode|passwd|pwd|secret|credential|token|"
    r"api[_ -]?key|access[_ -]?key|auth[_ -]?key|private[_ -]?key|[a-z0-9]_key|_pass\b|_pw\b|dsn\b"
)
_PASSWORD = re.compile(r"pass|pwd|_pw$|secret|credential|dsn", re.IGNORECASE)
GENERIC_USERS: frozenset[str] = frozenset(
    {"user", "users", "username", "ubuntu", "runner", "public", "default", "shared", "root", "guest", "all"}
)
_QUOTE = r"\\{0,3}[\"'`]"
NOT_A_SECRET = re.compile(
    r"(?:none|null|true|false|undefined|string|str|bytes|int|your[_-].*|<.*|\$.*|%.*|\{.*|\*+|x{3,}|\.{3,}|os\.environ.*|"
    r"process\.env.*|getenv.*|getpass.*|input\(.*|env\..*|self\..*|args\..*|config\..*|settings\..*|required|optional|changed|"
    r"incorrect|invalid|missing|expired|wrong|https?:.*)",
    flags=re.IGNORECASE,
)


class Detector(NamedTuple):
    """One kind of finding. `group` is the part to replace; `accept` has the last word on that part.

    An anchored pattern starts where its hint starts: it is tried there only, which is what makes slow ones fast.
    """

    family: str
    kind: str
    pattern: re.Pattern[str]
    hint: str
    group: int | str = 0
    accept: Callable[[re.Match[str]], bool] | None = None
    anchored: bool = False


def entropy(text: str) -> float:
    """Shannon entropy in bits a character: -sum(p log2 p) over the characters' shares."""
    length = len(text)
    return -sum(n / length * math.log2(n / length) for n in Counter(text).values()) if text else 0.0


def luhn(digits: str) -> bool:
    """The check digit of ISO/IEC 7812 (Luhn)."""
    odd = sum(int(digit) for digit in digits[-1::-2])
    even = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (odd + even) % 10 == 0


def iban(text: str) -> bool:
    """The check digits of ISO 13616: the rearranged number, letters as 10..35, leaves 1 modulo 97."""
    plain = re.sub(r"[ -]", "", text).upper()
    moved = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and moved.isalnum() and int("".join(str(int(char, 36)) for char in moved)) % 97 == 1


def _is_card(match: re.Match[str]) -> bool:
    digits = re.sub(r"[ -]", "", match.group())
    return 13 <= len(digits) <= 19 and luhn(digits) and len(set(digits)) > 2


def _is_ip(match: re.Match[str]) -> bool:
    try:
        address = ipaddress.ip_address(match.group())
    except ValueError:
        return False
    netmask = match.group().startswith("255.")
    return not (address.is_loopback or address.is_unspecified or address.is_multicast or netmask)


def _is_ipv6(match: re.Match[str]) -> bool:
    text = match.group()
    long_enough = text.count(":") >= 3 and any(len(part) >= 3 for part in text.split(":"))
    return long_enough and any(char.isdigit() for char in text) and _is_ip(match)


def _is_phone(match: re.Match[str]) -> bool:
    return 8 <= sum(char.isdigit() for char in match.group()) <= 15


def _is_random(text: str) -> bool:
    return (
        len(text) >= 16 and entropy(text) >= 3.0 and any(c.isdigit() for c in text) and any(c.isalpha() for c in text)
    )


_HASH = re.compile(r"[0-9a-fA-F-]+")
_SEPARATOR = re.compile(r"[\W_]*(?:(?:is|was|value)[\W_]+)?", re.IGNORECASE)
_NAME_START = re.compile(r"[\w.-]*\Z", re.ASCII)


def _is_assigned(match: re.Match[str]) -> bool:
    """Whether an assignment to a telling name holds a secret: any value of a password, a random one of a key."""
    operator, quote, value = match.group("operator", "quote", "value")
    before = _NAME_START.search(match.string, max(0, match.start() - 60), match.start())
    name = (before.group() if before else "") + match.group("name")
    if NOT_A_SECRET.fullmatch(value) or len(value) < 4:
        return False
    if not _PASSWORD.search(name):
        return _is_random(value) or (
            operator == "=" and name.isupper() and len(value) >= 8 and value.isalnum() is not None
        )
    telling = any(not char.isalpha() for char in value)
    alone = match.string[match.end() : match.end() + 1] in {"", "\n", "\r", "\\"}
    return bool(quote) or telling or operator == "=" or (alone and operator == ":")


def _is_random_match(match: re.Match[str]) -> bool:
    """A random string near a telling word; a plain hash needs the word right before it."""
    value = match.group("value")
    if _HASH.fullmatch(value) and not _SEPARATOR.fullmatch(match.group("between")):
        return False
    limit = 3.0 if _HASH.fullmatch(value) else 3.5  # sixteen letters hold less
    return entropy(value) >= limit and any(c.isdigit() for c in value) and any(c.isalpha() for c in value)


def _is_not_placeholder(match: re.Match[str]) -> bool:
    return not NOT_A_SECRET.fullmatch(match.group("value"))


def _d(
    kind: str,
    pattern: str,
    hint: str,
    group: int | str = 0,
    *,
    accept: Callable[[re.Match[str]], bool] | None = None,
    flags: int = 0,
    anchored: bool = False,
    family: str = "SECRET",
) -> Detector:
    """A detector that steps over placeholders: what is redacted already is never looked into again.

    Classes such as `\\w` mean ASCII, as they do in the hints.
    """
    whole = pattern if anchored else f"{PLACEHOLDER.pattern}|{pattern}"
    return Detector(family, kind, re.compile(whole, flags | re.ASCII), hint, group, accept, anchored)


_OWN_SECRETS = (
    _d(
        "private_key",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?"
        r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)|"
        r"PuTTY-User-Key-File-\d.*",
        r"-----BEGIN [A-Z0-9 ]*PRIVATE|PuTTY-User-Key",
        flags=re.DOTALL,
    ),
    _d("anthropic_key", r"sk-ant-[\w-]{12,}", r"sk-ant-"),
    _d("stripe_key", r"\b(?:[rsp]k_(?:live|test)|whsec)_[0-9a-zA-Z]{12,}", r"[rsp]k_(?:live|test)_|whsec_"),
    _d("openai_key", r"(?<![\w-])sk-(?:[a-z]+-)?[\w-]{16,}", r"sk-[\w-]{16}"),
    _d("xai_key", r"(?<![\w-])xai-[\w-]{12,}", r"xai-[\w-]{12}"),
    _d("pinecone_key", r"\bpc(?:sk|local)_[\w-]{12,}", r"pc(?:sk|local)_"),
    _d("hf_token", r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}", r"(?:hf|api_org)_[A-Za-z0-9]{16}"),
    _d("github_token", r"\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{20,})", r"gh[pousr]_[A-Za-z0-9]|github_pat_"),
    _d("gitlab_token", r"\bgl(?:pat|dt|ft|soat|rt|cbt|ptt|imt|agent|ffct)-[\w.-]{16,}", r"gl[a-z]{2,5}-[\w-]{16}"),
    _d("google_key", r"\bAIza[\w-]{30,}|\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{20,}", r"AIza|ya29\.|GOCSPX-"),
    _d("slack_token", r"\bxox[a-z](?:\.xox[a-z])?-[\w-]{10,}|\bxapp-\d-[\w-]{10,}", r"xox[a-z]|xapp-"),
    _d("npm_token", r"\bnpm_[A-Za-z0-9]{20,}", r"npm_[A-Za-z0-9]{20}"),
    _d("sendgrid_key", r"\bSG\.[\w-]{16,}\.[\w-]{16,}", r"SG\.[\w-]{16}"),
    _d(
        "provider_key",
        r"\b(?:gsk_|r8_|pplx-|nvapi-|do[op]_v1_|lin_api_|shp(?:at|ca|pa|ss)_|tvly-|ntn_|fw_|figd_|dckr_pat_|PMAK-|NRAK-|sbp_|"
        r"key-|LTAI|vercel_|dapi|pul-|sgp_|sntrys_|hvs\.|tfp_|rubygems_|EAACEdEose0cBA)[A-Za-z0-9_-]{18,}",
        r"(?:gsk_|r8_|pplx-|nvapi-|do[op]_v1_|lin_api_|shp(?:at|ca|pa|ss)_|tvly-|ntn_|fw_|figd_|dckr_pat_|PMAK-|NRAK-|sbp_|"
        r"key-|LTAI|vercel_|dapi|pul-|sgp_|sntrys_|hvs\.|tfp_|rubygems_|EAACEdEose0cBA)[A-Za-z0-9_-]{18}",
    ),
    _d(
        "basic_auth",
        r"://[^\s:/@\"'<>]{0,80}:(?P<value>[^\s/@\"'<>]{1,200})@",
        r"://[^\s:/@\"'<>]{0,80}:[^\s/@\"'<>]{1,200}@",
        "value",
        accept=_is_not_placeholder,
    ),
    _d(
        "bearer_token",
        r"\b(?:bearer|authorization: ?(?:basic|token)|(?:-u|--user) [\w.-]+:)\s*(?P<value>[\w.~+/=-]{8,})",
        r"(?i:bearer\s+[\w.~+/=-]{8}|authorization: ?(?:basic|token)|(?:-u|--user) [\w.-]+:)",
        "value",
        accept=lambda match: any(char.isdigit() for char in match.group("value")),
        flags=re.IGNORECASE,
    ),
)
_ASSIGNMENT = _d(
    "password",
    rf"(?P<name>(?:{_TELLING})\w{{0,24}})(?:\\{{0,3}}[\"'`\]]){{0,2}}"
    rf"\s{{0,3}}(?P<operator>=>|:=|==?|:)\s{{0,3}}(?:(?P<quote>{_QUOTE})(?=[^\n]*?{_QUOTE}))?"
    r"(?P<value>(?(quote)[^\"'`\\\n]+|[^\s\"'`\\<>]*[^\s\"'`\\<>.,;:)\]}]))",
    rf"(?i:(?:{_TELLING})\w{{0,24}}[\\\"'`\]]{{0,6}}\s{{0,3}}[=:])",
    "value",
    accept=_is_assigned,
    flags=re.IGNORECASE,
    anchored=True,
)
_NEAR_A_WORD = _d(
    "high_entropy",
    r"(?:key|token|secret|credential|passw[a-z]+|auth|signature)(?P<between>[^\w\n][^\n]{0,24}?(?<=[\s:=\"'(`]))"
    r"(?P<value>[A-Za-z0-9+/_-]{24,}={0,2})",
    r"(?i:(?:key|token|secret|credential|passw[a-z]+|auth|signature)[^\w\n][^\n]{0,25}?[A-Za-z0-9+/_-]{24})",
    "value",
    accept=_is_random_match,
    flags=re.IGNORECASE,
    anchored=True,
)
_SPOKEN = _d(
    "password",
    r"\b(?:password|passphrase|passcode|pin)(?: code)? (?:is|was|=) ?(?P<quote>[\"'`])?"
    r"(?P<value>[^\s\"'`<>]{3,}[^\s\"'`<>.,;:!?)])",
    r"(?i:(?:password|passphrase|passcode|pin)(?: code)? (?:is|was|=))",
    "value",
    accept=lambda match: (
        bool(match.group("quote")) or any(not char.isalpha() for char in match.group("value").strip("-'"))
    ),
    flags=re.IGNORECASE,
)
PERSONAL = tuple(
    detector._replace(family="PII")
    for detector in (
        _d(
            "email",
            r"[^\s@\"'`<>()\[\]{},;:\\/=|]{1,64}@(?:[\w-]{1,63}\.){1,9}[A-Za-z]{2,24}(?![A-Za-z])",
            r"[^\s@]@[\w-]+\.[\w.-]*[A-Za-z]",
        ),
        _d(
            "iban",
            r"\b[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,4})?\b",
            r"[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{4}){2}",
            accept=lambda match: iban(match.group()),
        ),
        _d(
            "credit_card",
            r"(?<![\w.-])[2-6]\d{3}(?:[ -]?\d){9,15}(?![\w-])(?!\.\d)",
            r"[2-6][0-9]{3}(?:[ -]?[0-9]){9}",
            accept=_is_card,
        ),
        _d(
            "ip",
            r"(?<![\w.-])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w-])(?!\.\d)",
            r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
            accept=_is_ip,
        ),
        _d(
            "ip",
            r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{6,39}(?![\w:])",
            r"[0-9A-Fa-f]:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]",
            accept=_is_ipv6,
        ),
        _d(
            "phone",
            r"(?<![\w+.])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){5,12}(?![\w])|"
            r"(?<![\w.+-])(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4}(?![\w-])(?!\.\d)|"
            r"(?i:(?:phone|telephone|tel|mobile|cell|fax|gsm)\b[^\n\d+(]{0,12})(?P<n>\(?0\d[\d ()./-]{5,14}\d)(?!\w)",
            r"\+[0-9]{1,3}[ .(-]{0,2}[0-9]|[0-9]{3}(?:\) ?|[.-])[0-9]{3}[.-][0-9]{4}|"
            r"(?i:phone|tel|mobile|cell|fax|gsm)[^\n0-9]{0,14}0[0-9]",
            accept=_is_phone,
        ),
        _d(
            "user",
            r"(?:/home/|/users/|\\{1,4}users\\{1,4})(?P<value>[^\s/\\\"'`:<>|*?,;()\[\]{}$~]{2,64})",
            r"(?i:/home/|/users/|\\users\\)",
            "value",
            accept=lambda match: match.group("value").lower() not in GENERIC_USERS,
            flags=re.IGNORECASE,
        ),
    )
)
SCREENSHOT = _d(
    "screenshot",
    r"(?:data:image/[\w.+-]+;base64,)[A-Za-z0-9+/=\s]*|(?:iVBORw0KGgo|/9j/4|R0lGOD[dl]h|UklGR)[A-Za-z0-9+/]{60,}={0,2}",
    r"data:image/|iVBORw0KGgo|/9j/4|R0lGOD|UklGR",
    family="",
)


@cache
def detectors() -> tuple[Detector, ...]:
    """All detectors: pictures, secrets with the most telling first, personal data."""
    published = []
    for plugin, (module, kind, hint) in _PLUGINS.items():
        detector = getattr(import_module(f"detect_secrets.plugins.{module}"), plugin)
        published += [Detector("SECRET", kind, pattern, hint, _value_group(pattern)) for pattern in detector.denylist]
    return (SCREENSHOT, _OWN_SECRETS[0], *published, *_OWN_SECRETS[1:], _ASSIGNMENT, _SPOKEN, _NEAR_A_WORD, *PERSONAL)


def _value_group(pattern: re.Pattern[str]) -> int:
    """detect-secrets puts the value of an assignment into a group; other groups are parts of the token."""
    return 1 if pattern.groups and any(mark in pattern.pattern for mark in ("authToken", "aws")) else 0


@cache
def _compiled() -> tuple[Any, Any]:
    """The hints as one RE2 pattern (is there anything?) and as an RE2 set (what could it be?)."""
    options = re2.Options()
    options.max_mem = 256 << 20
    hints = re2.Set.SearchSet(options)
    for detector in detectors():
        hints.Add(detector.hint.encode())
    hints.Compile()
    return re2.compile("|".join(dict.fromkeys(one.hint for one in detectors())).encode(), options), hints


def is_suspicious(text: bytes) -> bool:
    """Whether some detector could find something, by a scan at memory speed. False is certain."""
    return _compiled()[0].search(text) is not None


def candidates(text: str) -> list[Detector]:
    """The detectors that could find something in a text, in their order."""
    every = detectors()
    found = _compiled()[1].Match(text.encode("utf-8", "surrogatepass"))
    return [every[place] for place in sorted(found or ())]


def matches(detector: Detector, text: str) -> Iterator[re.Match[str]]:
    """Where a detector's pattern matches; an anchored one is tried only where its hint is found."""
    if not detector.anchored:
        yield from detector.pattern.finditer(text)
        return
    end = 0
    done = {place for placeholder in PLACEHOLDER.finditer(text) for place in range(*placeholder.span())}
    for hint in re2.finditer(detector.hint, text):
        if hint.start() < end or hint.start() in done:
            continue
        if match := detector.pattern.match(text, hint.start()):
            yield match
            end = match.end()
