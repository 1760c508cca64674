"""What a name says about its value: the one list of telling names, for assignments in texts and for members of JSON.

A name is cut into its words (`dbPassword`, `DB_PASSWORD`, `db-password`), and the last ones decide: `password_file` and
`max_tokens` say nothing, `password_2` and `api_key_prod` do.
"""

import re
from functools import lru_cache
from typing import Literal


def word_set(words: str) -> frozenset[str]:
    """The words of a text that spaces part."""
    return frozenset(words.split())


def _in_any_case(words: str) -> str:
    """A pattern whose letters beyond ASCII match in both cases: the patterns here fold those of ASCII only."""
    return "".join(one if one.isascii() or one == one.upper() else f"[{one}{one.upper()}]" for one in words)


BEYOND_ASCII = _in_any_case(  # "password" in other languages, as patterns
    "l\u00f6senord|jelsz\u00f3|parol\u0103|m\u1eadt kh\u1ea9u|has\u0142o|\u015fifre|contrase\u00f1a|"
    "slapta\u017eodis|fjal\u00ebkalim|(?:wlan|wi-?fi|netzwerk|sicherheits)[ -]?schl\u00fcssel|"
    "\u043f\u0430\u0440\u043e\u043b\u044c|\u043f\u0430\u0440\u043e\u043b\u0430|"  # Russian, Bulgarian
    "\u043b\u043e\u0437\u0438\u043d\u043a\u0430|\u03ba\u03c9\u03b4\u03b9\u03ba\u03cc\u03c2|"  # Serbian, Greek
    "\u05e1\u05d9\u05e1\u05de\u05d4|"  # Hebrew, Arabic
    "\u0643\u0644\u0645\u0629 (?:\u0627\u0644\u0645\u0631\u0648\u0631|\u0627\u0644\u0633\u0631)|"
    "\u092a\u093e\u0938\u0935\u0930\u094d\u0921|\u0e23\u0e2b\u0e31\u0e2a\u0e1c\u0e48\u0e32\u0e19|"  # Hindi, Thai
    "\u5bc6\u7801|\u5bc6\u78bc|\u53e3\u4ee4|"  # Chinese
    "\u30d1\u30b9\u30ef\u30fc\u30c9|\u5408\u8a00\u8449|"  # Japanese
    "\ube44\ubc00\ubc88\ud638|\uc554\ud638|\ud328\uc2a4\uc6cc\ub4dc|\ube44\ubc88"  # Korean
)
MISSPELT = "pa{1,2}s{1,3}w(?:or|ro)?d|passowrd|pswr?d|p@s{1,2}w[o0]rd|pas{1,2}w0rd"  # and cut short
FOREIGN = (
    "passwort|kennwort|geslo|lozinka|mot de passe|senha|wachtwoord|heslo|palavra-passe|adgangskode|passord|salasana|"
    "parool|contrasenya|pasahitza|kata sandi(?:nya)?|parola(?: d'ordine)?|losungswort|mdp|clave de acceso|"
    "community string|snmp community|(?:secret|safe|code|magic) ?word|phrase (?:secr\u00e8te|de passe)|"
    "frase (?:secreta|segreta|de paso)|cl\u00e9 (?:du )?wi-?fi|" + BEYOND_ASCII
)
SPOKEN = (
    f"password|passphrase|passcode|passkey|psk|{FOREIGN}|(?:wi-?fi|wlan|wpa[23]?)[ -](?:code|key|pass)|"
    "code (?:du )?wi-?fi"
)
Meaning = Literal["", "password", "key", "phone"]

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SUFFIXES = word_set(  # words after the telling one that change nothing
    "value text string str plain plaintext raw b64 base64 hex new old current previous default main primary secondary "
    "prod production stage staging dev test live confirm confirmation again repeat env"
)
# any value of these is secret; the short ones only as whole words
_PASSWORD_END = re.compile(
    rf"(?:(?:{MISSPELT})s?|pass(?:phrase|code|wort)s?|pass|ps?wd|psw|pword|secrets?|credentials?|creds|kennwort|kennung|geslo|motdepasse|"
    r"lozinka|heslo|senha|wachtwoord|contrasen(?:a|ya)|parool|pasahitza|katasandi|parola|adgangskode|passord|salasana|palavrapasse|(?:seed|recovery|secret|backup)(?:phrase|words?)|"
    r"(?:recovery|backup|rescue|scratch|access|unlock|activation|verification|security|login|otp|pin|mfa|totp|auth)codes?|"
    r"securityanswer|secretanswer|connectionstring|connstr|dsn|privkey|(?:private|secret|master|encryption|recovery|preshared)key|"
    r"authtok|losungswort|totpseed|keymaterial|pincode|secretstring|secretkeybase)\Z"
)
_SHORT_PASSWORDS = word_set(
    "pw pwd psk pin puk cvv cvc otp totp mdp rootpw bindpw adminpw userpw dbpw ftppw smtppw mailpw mypw vpnpw wifipw "
    "loginpw sshpw webpw"
)
SHORT = (  # names that say something by themselves or as the last word of one, as a pattern
    "psk|pin|puk|cvv2?|cvc2?|t?otp|seed|salt|sas|pat|sid|sig|[cx]srf|psw|pword|privkey|key_?material|pin_?code|kennung|mot_?de_?passe|"
    "phpsessid|jsessionid|(?:security|secret)_?answer|secret_?string|(?:seed|recovery|secret|backup)_?(?:phrase|words?)|"
    "(?:recovery|backup|rescue|scratch|access|unlock|activation|verification|security|login|otp|pin|mfa|totp|auth)_?codes?"
)
_NOT_PASSWORDS = re.compile(  # they end like the above
    r"(?:by|com|ask|tres|sur|under|over|im|sea|boarding|season|hall|debug|forward|backward|first|second|low|high|band|test|all|num|n|"
    r"max|min|is|one|two|single|multi)pass|existingsecrets?|withcredentials|(?:country|area|zip|status|error|exit)codes?"
)
_KEY_END = re.compile(  # of these, values that look random
    r"(?:key|token|crumb|mnemonic|signature|authorization|cookies?|bearer|jwt|licen[cs]e|hmac|auth)\Z|"
    r"(?:api|access|private|auth|signing|account|app|secret|ssh|encryption|webhook|licen[cs]e|host)keys\Z|secretid\Z|"
    r"(?:api|access|auth|refresh|bearer|session|bot|deploy|personal)tokens\Z|(?:php|asp)sess(?:ion)?id\Z|(?:j|net)sessionid\Z"
)
_SHORT_KEYS = word_set("api sessionid sig sas pat sid salt seed apitoken csrf xsrf webhook private")
_HARMLESS_KEYS = word_set(  # the word before "key" or "token" in the names of what is public
    "public pub publishable cache primary foreign sort idempotency partition row dedup dedupe group index object s3 "
    "map "
    "dict lookup task issue translation i18n locale registry query join site routing message unique candidate "
    "composite natural surrogate hot arrow shortcut modifier answer storage sitekey data column field ssh authorized "
    "pad eos bos unk sep cls mask max min num next page continuation stop special first last prev end start "
    "host crew agent tool step run job workflow flow node graph state thread memory doc document file asset image "
    "logical progress sync resume skip delta citation cite bib "
    "trace event shift ctrl alt enter return escape socket meta tag kms"
)
# the same before "token" and "tokens": of texts and pages; a job's or an agent's token is a secret
_HARMLESS_TOKENS = word_set(
    "public pub publishable cache idempotency dedup dedupe message lookup pad eos bos unk sep cls mask max min num "
    "next page continuation stop special first last prev end start stop escape enter return request lock change "
    "progress sync resume skip delta"
)
# ends that the word before them qualifies; `apitoken` says by itself what it is
_PLAIN_ENDS = _SHORT_KEYS - {"apitoken", "sessionid"} | word_set("key token keys tokens auth signature cookie cookies")
_PHONE_END = re.compile(r"(?:phone|mobile|telephone|tel|fax|gsm)(?:number|no|nr)?\Z")
_BEYOND_ASCII = re.compile(f"(?i:{BEYOND_ASCII})\\Z")


# letters of other scripts that look like Latin ones, within a word that has Latin ones; and wide letters and digits
_LOOKALIKE = {
    **dict(
        zip(
            map(
                ord,
                "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u051b\u03bf\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425",
            ),
            "aeopcyxijsdqoABEKMHOPCTX",
            strict=True,
        )
    ),
    **{code: chr(code - 0xFEE0) for code in range(0xFF10, 0xFF5B)},
}
DISGUISED = re.compile(
    r"[A-Za-z_]*(?:[A-Za-z](?=[\u03bf\u0400-\u052f])|[\u03bf\u0400-\u052f](?=[A-Za-z]))[A-Za-z_\u03bf\u0400-\u052f]*|"
    r"[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]+"
)


def undisguised(text: str) -> str:
    """A text of the same length with Latin letters in place of those among Latin ones that only look so."""
    return text if text.isascii() else DISGUISED.sub(lambda match: match.group().translate(_LOOKALIKE), text)


@lru_cache(maxsize=8192)
def meaning(name: str) -> Meaning:
    """What a name says: "password" (any value is secret), "key" (a random value is), "phone", or "" for nothing."""
    if len(name) > 80 or name == "_key":  # of a document, as `_id` is
        return ""
    if not name.isascii() and _BEYOND_ASCII.search(name):
        return "password"
    words = [word.lower() for word in _WORD.findall(undisguised(name))]
    while len(words) > 1 and (words[-1] in _SUFFIXES or words[-1].isdigit()):
        words.pop()
    if not words:
        return ""
    joined, last = "".join(words), words[-1]
    before = words[-2] if len(words) > 1 else ""
    before = words[-3] + before if before.isdigit() and len(words) > 2 else before  # s3
    harmless = _NOT_PASSWORDS.fullmatch(last) or _NOT_PASSWORDS.fullmatch(before + last)
    if last in _SHORT_PASSWORDS or (_PASSWORD_END.search(joined) and not harmless):
        return "password"
    if "publickey" in joined or "pubkey" in joined or "sitekey" in joined or "signature" in joined[:-9]:
        return ""
    harmless_words = _HARMLESS_TOKENS if last in {"token", "tokens"} else _HARMLESS_KEYS
    if (last in _SHORT_KEYS or _KEY_END.search(joined)) and not (last in _PLAIN_ENDS and before in harmless_words):
        return "key"
    return "phone" if _PHONE_END.search(joined) else ""
