"""Passwords, codes and phrases in what people write to each other and tools write to people."""

import re
from collections.abc import Iterator

from grokora_pipeline.sessions.redaction.detector import (
    PHRASE,
    QUOTE,
    TELLING,
    TELLING_GATE,
    TELLING_HINT,
    VALUE,
    VALUE_OR_PHRASE,
    Context,
    contexts,
    detector,
    hint_starts,
    is_generated,
    is_mixed,
    is_mixed_value,
    is_phrase,
    is_plain_password,
    is_value,
    is_wordlike,
    looks_random,
)
from grokora_pipeline.sessions.redaction.names import FOREIGN, SPOKEN, meaning, word_set
from grokora_pipeline.sessions.redaction.passwords import CHOSEN, CODE, EXPRESSION, FILTERED, is_chosen, is_expression

_PROSE = word_set(  # no passphrase has them, and few sentences have none
    "the and for are must should has have was will can cannot not your you with from this that please enter type use "
    "set its than then when wrong invalid incorrect required missing does did been new old our their via only same "
    "user one"
)
_JOINING = word_set("the and for with from this that via our their")
_CODE_WORD = r"(?:(?=[a-z0-9-]*\d)[a-z0-9]{4,12}(?:[ -][a-z0-9]{4,12}){0,4}|[a-z]{4,6}-[a-z]{4,6})"
_CODE_GROUPS = r"[a-z0-9]{4}(?:[ -][a-z0-9]{4}){3,7}(?![ -]?[a-z0-9])"
_CODES = (  # the words for a PIN and for a code that was sent
    "(?:verification|one[- ]time|otp|2fa|mfa|security|confirmation|log-?in|authentication|sms|pin|puk|access|unlock|"
    "door|gate|alarm|duress|entry|safe|validation|garage|locker|keypad|building|bike|gym)[ -]code|"
    "code (?:for|to) (?:the |my |our )?(?:safe|alarm|door|gate|garage|vault|lock)|"
    "(?:locker|lock|safe|padlock|bike) combo(?:nation)?|"
    "combination (?:to|for|of) the (?:safe|lock|locker|vault)|geheimzahl|alarm panel|t\u00fcrcode|"
    "code (?:de la porte|de l'alarme)|c\u00f3digo (?:de la puerta|da porta)|"
    "2fa\\b|otp|pin|nip|puk|passcode|one[- ]time (?:password|pin)|"
    "(?:best\u00e4tigungs|sicherheits|verifizierungs|anmelde|zugangs|einmal|sms-|pin-)(?:code|(?:pass|kenn)wort)|"
    "code (?:d'acc\u00e8s|de (?:v\u00e9rification|confirmation|s\u00e9curit\u00e9)|pin)|"
    "c\u00f3digo (?:de (?:verificaci\u00f3n|confirmaci\u00f3n|seguridad|verifica\u00e7\u00e3o|confirma\u00e7\u00e3o|"
    "acceso|acesso)|pin)|"
    "codice (?:di (?:verifica|conferma|accesso|sicurezza)|pin)|(?:verificatie|bevestigings|pin)code|"
    "kod (?:weryfikacyjny|potwierdzaj\u0105cy|pin)|pin[ -]?kod[ae]?|do\u011frulama kodu\\w{0,4}|"
    "[\u041a\u043a]\u043e\u0434 (?:\u043f\u043e\u0434\u0442\u0432\u0435\u0440\u0436\u0434\u0435\u043d\u0438\u044f|"
    "\u0434\u043e\u0441\u0442\u0443\u043f\u0430)|"  # Russian
    "[\u041f\u043f][\u0418\u0438][\u041d\u043d](?:-\u043a\u043e\u0434)?|"
    "\u9a8c\u8bc1\u7801|\u9a57\u8b49\u78bc|\u8a8d\u8a3c\u30b3\u30fc\u30c9|\u6697\u8a3c\u756a\u53f7|"
    "\uc778\uc99d ?(?:\ubc88\ud638|\ucf54\ub4dc)"
)
_JOINS = (
    "[ \u00a0:\uff1a=#\"'`\u201c\u300c\u3010\u2014\u2013\\[(*-]|is|was|has been|set to|"
    "for (?:(?:the|my|our|your) )?[a-z]{1,12}|now|lautet|ist|est|es|\u00e9|"
    "\u00e8|je|jest|to|este|er|\u00e4r|on|\u662f|\u4e3a|\u306f|\ub294|\uc740"
)
_YOUR = "your|dein|ihr|votre|ton|tu|su|seu|tuo"
_OF_KEYS = "api|access|auth|bot|deploy|private|secret|signing|encryption"
_SECRET = rf"(?:{SPOKEN}|passwd|pwd?|pass|secret|token|(?:api|access|secret) key)"
_OF_WHAT = "(?:the|my|our|your|vpn|wi-?fi|wlan|db|ssh|root|admin|user|ftp|smtp|e?mail|router|server|login)"
_ACCOUNT = "\uacc4\uc815"  # in Korean
_USER = f"(?:id|user(?:[ _-]?(?:name|id))?|log-?in|account|{_ACCOUNT}|\uc544\uc774\ub514)"
_SCRIPT = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]"  # whose particles follow a Latin word without a space
_LATIN = f"(?:password|passwd|pwd?){_SCRIPT}"
_PASSWORD = f"{SPOKEN}|passwd|pass|pwd?"
_ALL_KINDS = re.compile(r"(?=.*[a-z])(?=.*[A-Z]).*\d")
_DASH = "[\u2014\u2013]"
_LETTERS_BEYOND = "\uac00-\ud7a3"
_STATED = re.compile(  # what sentences state of a password
    r"(?i)(?:ent|ant|ial|[nr]al|ary|ure|own|text|ic|ish|en|red|less|ular|ine|ong|long|short|eak|simple|unique|secret|"
    r"itive|able|ible|everything|something|nothing|different|stale|obsolete|useless|elsewhere|there|here|above|below)\Z"
)
_COMPOUND = re.compile(r"[a-z]+-[a-z]+")  # case-sensitive
_FIELDS = re.compile(r"[A-Za-z]+&\w{1,40}=")  # of a form: its next field follows
_DIGITS = r"(?:\d{4,8}|\d{3}[ -]\d{3})"


_ORDINARY = re.compile(  # an address, a path, a call or another piece of a program, a measure, a file, an algorithm
    r"(?i).*://|[./~$<{(]|[a-z_][\w.]*\([^\s]*\)[\[\w\]:;]*\Z|v?\d[\d:.,-]*[a-z%]{0,3}\Z|[a-z]+(?:_[a-z0-9]+)+_?\*\Z|(?:\d+:)?\d+\.\d[\d.]*[+~-][\w.+~-]*\Z|(?-i:[A-Z]{2,10})(?:-\d{1,7}){1,2}\Z|\d+-?(?-i:[a-z]{3,}"
    r"|[A-Z]{3,5})\Z|.*\.[a-z]\w{0,3}\Z|[\w.-]+@[\w-]+\.[\w.-]+\Z|"
    r"(?:sha|md|aes|rsa|utf|base|argon|bcrypt|pbkdf|oauth|http|ipv|win|wpa|python|node)-?\d"
)


def is_strong(match: re.Match[str]) -> bool:
    """Whether a word of a sentence can only be a password: letters and digits, and neither a name nor a measure."""
    value = match["value"]
    return len(value) >= 7 and is_mixed(value) and is_value(match) and not _ORDINARY.match(value)


_END = re.compile(r"[.,;!)]{0,2}(?:\s*\Z|\s*\n)|[.,;!)]{1,2}\s")


def ends_clause(match: re.Match[str]) -> bool:
    """Whether a word of letters alone ends its clause, and is no word of sentences."""
    plain = is_plain_password(match["value"]) and is_value(match)
    return plain and bool(_END.match(match.string, match.end("value")))


_SAYS = re.compile(  # what may stand before several words of a passphrase, and not before those of a sentence
    "(?:is|was|ist|lautet|es|est|\u00e8|\u00e9|\u00e4r|er|jest|je|(?:set|changed|updated|rotated) to)"
    "(?: now| still)?:? ?\\Z|[:\u662f\u4e3a\u306f\ub294\uc740]\\s?\\Z"
)


def _is_no_sentence(match: re.Match[str]) -> bool:
    """Whether a value is in quotes, or one word, or a passphrase after "is" with no forms of verbs and adverbs."""
    value = match["value"]
    if match["quote"] or " " not in value:
        return True
    said = _SAYS.search(match.string, max(0, match.start("value") - 16), match.start("value"))
    return bool(said) and not re.search(r"(?:ing|ed|ly|ally|tions?|able|ible)\b", value)


_ROWS: tuple[Context, ...] = (
    (  # app password: four groups of four letters, as Google shows them
        rf"(?:\bapp(?:lication)?[ _-]?password\w*(?:{QUOTE})?(?:\s?[:=]| is)\s?(?:{QUOTE})?|(?P<quote>{QUOTE}))"
        rf"(?P<value>(?:[a-z]{{4}} ){{3}}[a-z]{{4}})(?(quote)(?P=quote)|\b)",
        r"(?i:app(?:lication)?[ _-]?password|[\"'`](?:[a-z]{4} ){3}[a-z]{4}\\{0,3}[\"'`])",
        lambda match: not is_wordlike(match.group("value")),
        "",
    ),
    (  # recovery codes, one or a list of them; the key to set up a second factor
        rf"\b(?:(?:recovery|backup|rescue|scratch|emergency|one-time) (?:codes?|keys?)|(?:setup|manual entry|"
        rf"authenticator) (?:key|code)|wiederherstellungs(?:codes?|schl\u00fcssel))\b"
        rf"(?:[^\n:\\]{{0,40}}?(?::|\n|\\{{1,3}}n| is| are)|(?= [\w-]*\d[\w-]*(?:\n|\Z)))(?:\s|\\{{1,3}}n|[+>#|]"
        rf"|\d+\t)*(?:[-*] |\d{{1,2}}[.)] )?"
        rf"(?P<value>(?:{_CODE_WORD}|{_CODE_GROUPS})"
        rf"(?:[\s,;/|]{{1,3}}(?:[-*] |\d{{1,2}}[.)] )?{_CODE_WORD}){{0,19}})",
        r"(?i:(?:recovery|backup|rescue|scratch|emergency|one-time) (?:code|key)|(?:setup|entry|"
        r"authenticator) (?:key|code)|wiederherstellungs)",
        lambda match: is_mixed(match["value"]) or re.sub(r"[\s,;-]", "", match["value"]).isdigit(),
        "",
    ),
    (  # type "x" into the password field, tmux send-keys -t 0 "x" Enter # password
        rf"\b(?:type|typing|typed|tried|try|entered|enter|write|typewrite|keystroke|text|fill|input|paste|use|using|"
        rf"and|with|send-keys|sendline)"
        rf"[sd]?[ (](?:text=|in |(?:--?\w[\w-]*(?: \d+)? ){{1,3}})?(?P<quote>{QUOTE})?"
        rf"(?P<value>(?(quote)[^\"'`\\\n]{{3,60}}|[^\s\"'`\\]{{6,60}}))(?:{QUOTE})?\)?"
        rf"(?:(?: (?:in|as|for)(?:to)?| (?:when|if|once|where|as soon as|and (?:got|it)|but)|"
        rf"[^\n\"'`#]{{0,20}}(?:#|--|//)) {QUOTE}?|, ?(?:into|in|field)(?:=|: ?){QUOTE})"
        rf"[\w /]{{0,24}}(?:{SPOKEN})(?! (?:manager|store|vault|policy))",
        rf"(?i:(?:type|typing|typed|tried|try|entered|enter|write|keystroke|text|fill|input|paste|use|using|and|"
        rf"with|send-keys|sendline)[sd]?[ (][^\n]*(?:{SPOKEN}))",
        lambda match: (
            is_value(match) if match["quote"] else is_mixed_value(match) and not _ORDINARY.match(match["value"])
        ),
        TELLING_GATE,
    ),
    (  # type "x1" into the field "API key", Type[x1] in textbox 'Password'
        rf"\b(?:type|typed|fill|input|enter|paste)s?[ (\[](?P<quote>{QUOTE})?(?P<value>[^\s\"'`\\\[\]]{{6,98}})"
        rf"(?:{QUOTE})?[\])]? (?:in|into) (?:[\w-]{{1,16}} ){{0,3}}{QUOTE}[\w /-]{{0,24}}?"
        rf"(?P<name>(?:{TELLING})\w{{0,16}})",
        rf"(?i:(?:type|typed|fill|input|enter|paste)s?[ (\[][^\n]* (?:in|into) [^\n]*(?:{TELLING_HINT}))",
        lambda match: (
            is_value(match)
            and (looks_random(match["value"]) or (meaning(match["name"]) == "password" and is_strong(match)))
        ),
        TELLING_GATE,
    ),
    (  # Bitte gib als Passwort x1 ein; sign in as anna using x1
        rf"(?:(?:als|comme|como|come|kot|jako) (?:{FOREIGN})|"
        rf"\b(?:sign|log)(?:ged|ging|ned|ning)?[ -]?(?:in|on)(?: to [\w ]{{1,24}})? (?:as|"
        rf"with) [\w.@-]{{1,40}} (?:using|and|with|/)|"
        rf"\b(?:login|user(?:name)?)(?: is|:)? [\w.@-]{{1,40}},?(?: and|\n| /)?(?: the)? pass(?:word)?(?: is|:)?|"
        rf"authenticated as [\w.@-]{{1,40}} (?:using|with)|(?<![\w./-])pwd?|"
        rf"(?:default|keystore|store|temp(?:orary)?|initial|old|new|test|login) pass|"
        rf"\b{_OF_WHAT} pass) (?!manager\b)(?P<value>{VALUE})",
        rf"(?i:(?:als|comme|como|come|kot|jako) (?:{FOREIGN}) |\bpwd? |authenticated as |"
        r"(?:sign|log)\w*[ -]?[io]n\W[^\n]*(?:using|and|with|pass\w*|/) |"
        r"(?:login|user\w*)(?: is|:)? [\w.@-]+,?(?: and|\n| /)?(?: the)? pass|\w pass )",
        lambda match: (  # "the pass manager" is one of a compiler
            is_strong(match)
            or ("pass" in match[0].lower() and not match[0].lower().startswith("the ") and ends_clause(match))
        ),
        rf"(?i:(?:als|comme|como|come|kot|jako) (?:{FOREIGN}) |(?:sign|log)\w*[ -]?[io]n\W|\bpwd? |"
        rf"(?:login|user\w*)(?: is|:)? [\w.@-]+,?(?: and|\n| /)?(?: the)? pass|\w pass |authenticated as )",
    ),
    (  # created bob with app secret x1, try the api key x1, I changed the mail pass to x1
        rf"\b(?:(?:with|using|use|tr(?:y|ied)|mit|avec|con|com|met)(?: [\w'-]{{1,16}}){{0,3}}? {_SECRET}|"
        rf"(?:chang|set|updat|rotat|reset)\w{{0,4}}(?: [\w'-]{{1,16}}){{1,3}}? {_SECRET}(?: from \S{{1,40}})? to) "
        rf"(?P<quote>{QUOTE})?(?P<value>{VALUE})",
        rf"(?i:(?:with|using|use|try|tried|mit|avec|con|com|met|chang|set|updat|rotat|reset)[^\n]* {_SECRET} )",
        is_strong,
        rf"(?i: {_SECRET} )",
    ),
    (  # in any other language the word, at most four more, and what can be no word: geslo za mail x1
        rf"(?<!\w)(?:{FOREIGN}|(?<!/)p/w(?![a-z])|{_LATIN})(?:[^\s!-~]|"
        rf"[a-z]){{0,6}}(?:[ \u00a0][^\s!-/:-@]{{1,16}}){{0,4}}?[ \u00a0:\uff1a\u2014\u2013-]{{0,3}}"
        rf"[\"'`\u201c\u201e\u00ab\u300c]?(?P<open>\()?(?<![\w/.-])(?=[^\s\d]{{0,40}}\d)"
        rf"(?P<value>(?(open)[!-'*-~]{{7,64}}(?=\))|[!-~]{{7,64}}))",
        rf"(?i:(?:{FOREIGN}|p/w|{_LATIN})[^\n]*[0-9])",
        is_strong,
        rf"(?i:{FOREIGN}|p/w|{_LATIN})",
    ),
    (  # ? Root password x1, of a prompt that was answered
        rf"(?<![^\n])\? (?:[\w'-]{{1,16}} ){{0,3}}{_SECRET} (?P<value>{VALUE_OR_PHRASE})(?=[ \t]*(?:\n|\Z))",
        rf"(?i:\? (?:[\w'-]+ )*{_SECRET} )",
        is_mixed_value,
        rf"(?i: {_SECRET} )",
    ),
    (  # with the password "x1"
        rf"(?<!\w)(?:{SPOKEN}|passwd|pwd)(?:en|et|s|a)? (?P<quote>{QUOTE})"
        r"(?P<value>(?:(?!(?P=quote))[^\n]){6,98})(?=(?P=quote))",
        rf"(?i:(?:{SPOKEN}|passwd|pwd)(?:en|et|s|a)? [\\\"'`])",
        lambda match: is_mixed_value(match) or (len(match["value"]) >= 8 and is_plain_password(match["value"])),
        "",
    ),
    (  # the word for it, at most four more, a mark, a passphrase
        rf"(?<!\w)(?:{SPOKEN}|passwd|pwd)(?:[^\s!-~]|[a-z]){{0,6}}(?:[ \u00a0][^\s!-/:-@]{{1,16}}){{0,4}}?"
        rf"(?: ?[:\uff1a\u2014\u2013=]| -)[ \u00a0]?(?P<quote>{QUOTE})?(?P<value>{PHRASE})",
        rf"(?i:(?:{SPOKEN}|passwd|pwd)[^\n]*[:\x{{ff1a}}\x{{2014}}\x{{2013}}=-][ \x{{a0}}]?[\\\"'`]{{0,4}}[a-z]{{3}})",
        is_value,
        "",
    ),
    (  # netrc; a cell of a table; "log in with password x1"
        rf"(?:\b|_)(?:password|passphrase|passcode|passwd|requirepass|masterauth|rootpw|bindpw|kennwort|passwort|"
        rf"contrase\u00f1a|mot de passe|senha|set-password \w{{1,32}})"
        rf"(?: to| (?:was |is )?(?:now|(?:changed|set|reset|updated|rotated) to)| will be| wurde auf| should be|"
        rf" must be| of|"
        rf" for \S{{1,40}}:|\**\s?\|)? "
        rf"(?:{QUOTE})?(?P<value>{VALUE})",
        r"(?i:(?:password|passphrase|passcode|passwd|requirepass|masterauth|rootpw|bindpw|kennwort|passwort|"
        r"contrase\x{f1}a|"
        r"mot de passe|senha)[^\n]* )",
        lambda match: (
            is_mixed_value(match)
            and match["value"][0] != "("
            and not _FIELDS.match(match["value"])
            and not is_expression(match["value"], "")
            and not ("|" in match[0] and FILTERED.search(match.string, max(0, match.start() - 80), match.start()))
        ),
        rf"{TELLING_GATE}|(?i:requirepass|masterauth|rootpw|bindpw)",
    ),
    (  # Spanish: a key as well as a password; la clave del wifi es x1
        rf"\bclave(?: (?:del?|de la|de acceso|para)(?: [\w-]{{1,16}}){{0,3}})?(?:{QUOTE})?(?:\s?:| es)\s?(?:{QUOTE})?"
        rf"(?P<value>{VALUE_OR_PHRASE})",
        r"(?i:\bclave\b[^\n:]*(?::| es))",
        lambda match: len(match["value"]) >= 6 and is_mixed_value(match),
        r"(?i:\bclave)",
    ),
    (  # the login for the shop is anna / x1; using credentials deploy / x1
        rf"\b(?:cred(?:ential)?s|log-?in|wi-?fi|wlan|account|accounts? data|zugangsdaten|identifiants?|credenciales|"
        rf"credenziali)\b"
        rf"(?: [\w'-]{{1,16}}){{0,5}}?(?: ?[:=]| are| is| sind| sont| son| est| es|"
        rf") \(?[\w.@+-]{{2,40}} / (?P<value>{VALUE_OR_PHRASE})",
        r"(?i:(?:cred(?:ential)?s|log-?in|wi-?fi|wlan|account|zugangsdaten|identifiants?|credenciales|"
        r"credenziali)[^\n/]* / )",
        lambda match: len(match["value"]) >= 6 and is_mixed_value(match),
        r"(?i:credentials|creds|log-?in|wi-?fi|wlan|account|zugangsdaten|identifiant|credenciales|credenziali)",
    ),
    (  # the password generated for root@localhost: x1; pw for the zip: x1; use the following password to go on:\n\nx1
        rf"(?<!\w)(?:{SPOKEN}|pass phrase|passwd|pwd?|pin|creds?|(?:{_OF_KEYS}) (?:token|key))"
        rf"(?:\)?,? (?!(?:or|and|if|"
        rf"but)\b)[(\"'`]?[\w\u00e0-\u00fc/~][\w\u00e0-\u00fc'\"`.@/-]{{0,30}}\)?){{1,8}}(?: ?(?::|->|=>|=)| {_DASH}"
        rf"| -)"
        rf"\s{{1,4}}(?P<quote>{QUOTE})?(?P<value>{VALUE_OR_PHRASE})(?={QUOTE}|[.,;)]?[ \t]*(?:\n|\Z|[(#,;]))",
        rf"(?i:(?:{SPOKEN}|pass phrase|passwd|pwd?|pin|creds?|(?:{_OF_KEYS}) (?:token|key)),? [^\n]*(?::|->|=| -"
        rf"|\x{{2013}}|\x{{2014}})\s)",
        lambda match: (
            ends_clause(match)
            or (
                len(match["value"]) >= 8
                and is_mixed_value(match)
                and not EXPRESSION.match(match["value"] + "\0")
                and not re.search(r"://|^[\w.-]+@[\w-]+\.[\w.-]+\Z|^\d[\d:.,-]*\w?\Z|^[./~]", match["value"])
            )
        ),
        "",
    ),
    (
        rf"(?:(?<!\w)(?:{SPOKEN}|passwd|pin|{_OF_WHAT} pass|pwd?)(?: code)?"
        rf"(?: for (?:the )?(?:\w{{2,16}} )?{QUOTE}[^\s\"'`]{{1,40}}{QUOTE})?"
        rf"(?: from \S{{1,64}})? (?:(?:is|was)(?: now| still)?:?|lautet|ist|je|est|es|\u00e8|\u00e9|c'est|\u00e4r|er|"
        rf"(?<=salasana )on|to|jest|\u2014|"
        rf"-)(?=[ :])|"
        rf"(?:\u5bc6[\u7801\u78bc]|\u53e3\u4ee4|\u30d1\u30b9\u30ef\u30fc\u30c9|\ube44\ubc00\ubc88\ud638)"
        rf" ?(?:\u662f|\u4e3a|\u70ba|\u306f|\ub294|\uc740|:|\uff1a)) ?(?P<quote>{QUOTE})?"
        rf"(?P<value>{VALUE_OR_PHRASE})",
        rf"(?i:(?:{SPOKEN}|passwd|pin|{_OF_WHAT} pass|pwd?)(?: code)?(?: for [^\n\"'`]{{0,22}}[\"'`\\\\][^\n]{{1,50}})?"
        rf"(?: from \S{{1,64}})? (?:ist?|was|lautet|je|est?|\x{{e8}}|\x{{e9}}|c'est|\x{{e4}}r|er|on|to|\x{{2014}}|"
        rf"-)[ :])|"
        rf"(?:\x{{5bc6}}[\x{{7801}}\x{{78bc}}]|\x{{53e3}}\x{{4ee4}}|"
        rf"\x{{30d1}}\x{{30b9}}\x{{30ef}}\x{{30fc}}\x{{30c9}}|\x{{be44}}\x{{bc00}}\x{{bc88}}\x{{d638}})"
        rf" ?[\x{{662f}}\x{{4e3a}}\x{{70ba}}\x{{306f}}\x{{b294}}\x{{c740}}:\x{{ff1a}}]",
        lambda match: (
            is_value(match)
            and _is_no_sentence(match)
            and (match["quote"] or not (len(match["value"]) < 3 or CODE.fullmatch(match["value"].replace("-", "_"))))
            and not (_COMPOUND.fullmatch(match["value"]) and _STATED.search(match["value"]))
            and (
                bool(match["quote"])
                or not re.sub(r"\.(?=[A-Z])", "", match["value"].strip("-'")).isalpha()  # without the next sentence
                or is_mixed_value(match)
            )
        ),
        "",
    ),
    (  # what's the pw? <bob> it's x1
        rf"(?<!\w)(?:{_PASSWORD}|pin)(?: [\w'-]{{1,16}}){{0,4}}(?: ?\?+\s{{1,3}}|[.:]\n(?=\w{{1,20}}: ))"
        rf"(?:(?:<[^<>\s]{{1,20}}>|[\w.-]{{1,20}}:|\[[\w: ]{{4,12}}\])\s){{0,3}}(?:(?:it'?s|it is|that'?s|das ist"
        rf"|es ist|c'est|es|try|use|yes|sure|ok(?:ay)?|here)"
        rf"[ ,:]{{1,2}}){{0,3}}(?P<quote>{QUOTE})?(?P<value>{_DIGITS}(?![\w.:])|{VALUE_OR_PHRASE})",
        rf"(?i:(?:{_PASSWORD}|pin)[^\n?]*(?:\?+\s|[.:]\n\w+: ))",
        lambda match: (
            "pin" in match[0].lower() if match["value"].isdigit() else is_strong(match) or is_phrase(match["value"])
        ),
        "",
    ),
    (  # unlock the disk with: x1; passwords are x1 and x2; wifi acme, key x1; u/p bob x1; the two lines of credentials
        rf"\b(?:(?:un)?lock(?:ed|s)?(?:(?: [\w'-]{{1,16}}){{1,4}} with:?| with:) |"
        rf"(?:decrypt|extract|unzip)(?:ed|s)? (?:it|them|the [\w-]{{2,16}}) with |passwords (?:are|were) "
        rf"(?:\S{{4,64}},? (?:and"
        rf"|or) )?|"
        rf"(?:wi-?fi|wlan|ssid)[^\n]{{0,40}}[, ]key |u ?/ ?p(?:w|ass)?:? [\w.@-]{{2,40}}(?: ?/ ?| )"
        rf"|id[ /]pw:? [\w.@-]{{2,40}}[ /]|"
        rf"key (?:for|to|of) (?:the|this|my|our) (?:\w{{1,12}} )?(?:archive|zip|file|pdf|document|attachment|disk"
        rf"|drive|backup)(?: is|:) |"
        rf"(?:credentials|access data|zugangsdaten|log-?in(?: details"
        rf"| data)?)[^\n]{{0,40}}[.:][ \t]*\n\s*[\w.@+-]{{2,40}}[ \t]*\n)"
        rf"(?P<quote>{QUOTE})?(?P<value>{VALUE_OR_PHRASE})",
        r"(?i:(?:lock|decrypt|extract|unzip)(?:ed|s)? [^\n]*with|passwords (?:are|were)|(?:wi-?fi|wlan"
        r"|ssid)[^\n]*key |u ?/ ?p|id[ /]pw|"
        r"key (?:for|to|of) |(?:credentials|access data|zugangsdaten|log-?in)[^\n]*[.:][ \t]*\n)",
        lambda match: is_strong(match) or is_phrase(match["value"]),
        "",
    ),
    (  # 10.0.0.1 bob/x1, ssh bob@example.com (bob/x1)
        rf"(?:(?<![\w.])(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?![\w.])|\bssh |\bID"
        rf"(?:/PW)?[ :])[^\n]{{0,60}}?[\s(:>,{_LETTERS_BEYOND}]"
        rf"(?<!//)[\w.@-]{{2,40}} ?//? ?(?P<value>{VALUE})(?![\w/])",
        r"(?:[0-9]\.[0-9]{1,3}|ssh |ID[ :/])[^\n]*[\w.@-] ?/",
        lambda match: is_strong(match) and bool(_ALL_KINDS.match(match["value"])) and is_chosen(match),
        "",
    ),
    (  # a key or a lock of the emojis, gmail: bob@example.com x1
        rf"(?:[\U0001f510-\U0001f513\U0001f5dd]\ufe0f?:? |(?:\A|\n)"
        rf"(?!contact|e?-?mail|from|to|cc|author|maintainer|reply|phone)"
        rf"(?:[\w .-]{{2,30}}[ :=-] ?)[\w.+-]{{1,40}}@[\w-]{{1,40}}\.[\w.]{{2,20}}[ \t]+(?:[:/][ \t])?)"
        rf"(?P<value>{VALUE})(?=[ \t]*(?:\n|\Z))",
        r"[\x{1f510}-\x{1f513}\x{1f5dd}]|@[\w-]+\.[\w.]+[ \t]+(?:[:/][ \t])?\S{6}",
        lambda match: is_strong(match) and len(match["value"]) >= 8,
        "",
    ),
    (  # the passwords default to `x1`, set to "x1"; users and passwords are bob and x1; "bob" and "x1" credentials
        rf"(?:(?<!\w)(?:{_PASSWORD})s?(?: (?:was|is|has been|have been|are))? (?:set|reset|changed|defaults?|updated|"
        rf"rotated) to |(?:\bcred(?:ential)?s|\buser ?names? and passwords?)(?: for [\w ]{{1,24}})? (?:are|is) "
        rf"(?:{QUOTE})?[\w.@-]{{2,40}}(?:{QUOTE})?(?:,? and |, | / |/)|"
        rf"{QUOTE}[\w.@-]{{2,40}}{QUOTE} and (?={QUOTE}[^\s\"'`]{{4,64}}{QUOTE} (?:cred|log-?in)))"
        rf"(?P<quote>{QUOTE})?(?P<value>{VALUE_OR_PHRASE})",
        rf"(?i:(?:{_PASSWORD})s? [^\n]*(?:set|changed|defaults?|updated|rotated) to |"
        rf"(?:cred(?:ential)?s|passwords?)[^\n]* (?:are|is) |[\"'`] and [\"'`])",
        lambda match: is_strong(match) or (bool(match["quote"]) and is_plain_password(match["value"])),
        rf"{TELLING_GATE}|(?i:cred)",
    ),
    (  # the prod pw (currently x1)
        rf"(?<!\w)(?:{_PASSWORD})\d?(?:(?:\*\*)?: ?{QUOTE}[A-Z_]{{3,40}}{QUOTE})?(?: \(|(?<!assword)\()"
        rf"(?:(?:currently|now|still|is|was|atm|default"
        rf"(?: is)?)[ :]{{1,2}})?(?P<quote>{QUOTE})?(?P<value>[^\s()\"'`]{{6,60}})"
        rf"(?(quote)(?P=quote)|\))",
        rf"(?i:(?:{_PASSWORD})[0-9]?(?:[*:]{{1,3}} ?[\"'`\\]{{1,4}}[A-Z_]+[\"'`\\]{{1,4}})? ?\()",
        lambda match: is_strong(match) or (bool(match["quote"]) and is_plain_password(match["value"])),
        "",
    ),
    (  # pw (work) x1, [password] x1, password(bob)=x1, password|x1
        rf"(?<![\w.$-])(?:{_PASSWORD})\d?(?: ?\([^()\n]{{1,30}}\) ?[:=]{{0,2}} ?|[\])}}>*_]{{1,3}}:? |\]\[| ?"
        rf"(?:[\u2192|~]"
        rf"|\.{{3}}) ?|"
        rf" (?:[\u2013\u2014]|[-=]>) )(?P<quote>{QUOTE})?(?P<value>{VALUE})"
        rf"(?=(?(quote)(?P=quote)|[.,;)\]]?(?:\s|\Z)))",
        rf"(?i:(?:{_PASSWORD})[0-9]?(?: ?\([^()\n]+\)| ?[.=|\x{{2192}}\x{{2013}}\x{{2014}}~\])}}>*_-]))",
        lambda match: is_strong(match) and not re.search(r"[(\[{<]", match["value"]),
        "",
    ),
    (  # log in with `bob` / `x1`, VPN account: bob@example.com / x1
        rf"\b(?:log(?:ged|ging)?[ -]?in(?:to)?|sign(?:ed|ing)?[ -]?in|users?|accounts?|admin\w*|root|cred(?:ential)?s?|"
        rf"access|enter|use|demo|vpn|idrac|ilo|ipmi|kvm|rdp|ssh|s?ftp|router|switch|anmeldung|konto|compte|cuenta)\b"
        rf"(?: [\w'-]{{1,16}}| ?\([^()\n]{{1,30}}\)){{0,4}}?(?: ?[:=]| -)? ?(?:{QUOTE}|\*\*)?[\w.@+-]{{2,40}}"
        rf"(?:{QUOTE}|\*\*)?"
        rf"(?: // | / | - (?=\S{{6,60}}[ \t]*(?:\n|\Z)))(?P<quote>{QUOTE})?(?P<value>{VALUE_OR_PHRASE})"
        rf"(?=(?(quote)(?P=quote)|[.,;)]?(?:\s|\Z)))",
        r"(?i:(?:log\w*[ -]?in|sign\w*[ -]?in|users?|account|admin|root|creds?|credentials?|access|enter|use|demo|vpn|"
        r"idrac|ilo|ipmi|kvm|rdp|ssh|ftp|router|switch|anmeldung|konto|compte|cuenta)[^\n]*(?: //? | - ))",
        lambda match: is_strong(match) or (bool(match["quote"]) and is_plain_password(match["value"])),
        "",
    ),
    (  # their password is sunflowers.
        r"(?<![\w-])(?:the|my|his|her|their|your|our|current|root|admin|login|wi-?fi) (?:password|passphrase"
        r"|passcode|pw|wi-?fi password|"
        r"(?:secret|safe|code|magic) ?word)(?: (?:at|for|of|to|on"
        r"|in) [\w' ]{2,24})? is:? (?P<value>[a-z]{6,24})(?=[.!,;]?[ \t]*(?:\n|\Z)|[.!] [A-Z])",
        r"(?i:(?:password|passphrase|passcode|pw|word)(?: (?:at|for|of|to|on|in) [^\n]*)? is:? [a-z]{6})",
        lambda match: is_value(match) and is_plain_password(match["value"]) and not _STATED.search(match["value"]),
        "",
    ),
    (  # the password field is empty, so I will enter x1; if it asks for a password put in x1
        rf"(?<!\w)(?:{SPOKEN}|pwd?|(?P<key>(?:{_OF_KEYS}) (?:key|token)))(?:{QUOTE})?\)?(?: [\w'-]{{1,16}}){{0,5}}?,?"
        rf"(?: (?:so|and|then|I|we|you|will|let me|just|should|can|to)){{0,4}} "
        rf"(?:enter|type|put in|fill in|use|try) (?P<quote>{QUOTE})?(?P<value>{VALUE})",
        rf"(?i:(?:{SPOKEN}|pwd?|(?:{_OF_KEYS}) (?:key|token))[^\n]* (?:enter|type|put in|fill in|use|try) )",
        lambda match: is_strong(match) and (not match["key"] or looks_random(match["value"])),
        rf"{TELLING_GATE}|(?i:{FOREIGN})",
    ),
    (  # keepass master: correct horse battery
        rf"\b(?:keepass\w{{0,2}}|bitwarden|1password|lastpass|luks|veracrypt)\b[\w ]{{0,24}}?"
        rf"(?: ?[:=]| -) ?"
        rf"(?P<quote>{QUOTE})?(?P<value>{PHRASE})",
        r"(?i:(?:keepass|bitwarden|1password|lastpass|luks|veracrypt|gpg|pgp|borg"
        r"|restic)[^\n]*[:=-] ?[\"'`\\]{0,4}[a-z]{3})",
        is_value,
        "",
    ),
    (  # guest network: acme, passphrase correct horse battery
        rf"\b(?:pass ?phrase|password|passwort) (?P<value>{PHRASE})(?=[.,;]?[ \t]*(?:\n|\Z))",
        r"(?i:(?:pass ?phrase|password|passwort) [a-z]{3,12} [a-z]{3})",
        is_value,
        r"(?i:pass ?phrase|password|passwort)",
    ),
    (  # staging basic auth is bob:x1, admin credentials: **bob** / **x1**
        rf"\b(?:auth|cred(?:ential)?s|log-?in(?: (?:as|with))?)(?: is| are|:|) (?:\*\*|{QUOTE})?[\w.@-]{{2,40}}"
        rf"(?:\*\*|{QUOTE})?"
        rf"(?: ?/ ?|:)(?:\*\*|{QUOTE})?(?P<value>{VALUE})",
        r"(?i:(?:auth|creds|credentials|log-?in(?: (?:as|with))?)(?: is| are|:|) [^\n]*[/:])",
        is_strong,
        r"(?i:\bauth|cred|log-?in)[^\n]*[/:]",
    ),
    (  # the secret is x1, my password's x1
        rf"\b(?:(?:the|my|our|your|shared|client) secret(?: key)? (?:is|was):?|(?:{SPOKEN}|pwd?)'s(?: now| still)?) "
        rf"(?P<quote>{QUOTE})?(?P<value>{VALUE})",
        rf"(?i:secret(?: key)? (?:is|was):? |(?:{SPOKEN}|pwd?)'s )",
        is_strong,
        "",
    ),
    (  # the password for the staging box is x1
        rf"(?<!\w)(?:(?:{SPOKEN}|pwd?)(?! (?:polic|format|hash|type|length|strength|manager))|"
        rf"(?P<key>secret|token|key)(?= (?:you|we|I|for|to|of|in|that) ))"
        rf"(?: [\w'\"@+-]{{1,40}}(?:\.\w[\w.-]{{0,40}})?| \([^()\n]{{1,30}}\)){{1,6}} "
        rf"(?:(?:(?:is|was)(?: now| still| always| currently| actually)?:?|(?:was|is|"
        rf"has been) (?:re)?set to|to|lautet|ist|es|"
        rf"est|c'est|contains|\u00e9|"
        rf"\u00e8)[ \n]|\((?=[^\s()]{{12,200}}\)))"
        rf"(?P<quote>{QUOTE})?(?P<value>{VALUE_OR_PHRASE})",
        rf"(?i:(?:{SPOKEN}|pwd?|secret|token|key)(?: [\w'\"@.+-]{{1,60}}| \([^()\n]+\)){{1,6}} "
        r"(?:(?:is|to|was|lautet|ist|es|est|c'est|contains|\x{e9}|\x{e8}):?[ \n]|\([^\s()]{12}))",
        lambda match: (
            (is_mixed_value(match) or (bool(match["quote"]) and is_plain_password(match["value"])))
            and _is_no_sentence(match)
            and (
                looks_random(match["value"]) or (bool(match["quote"]) and is_strong(match))
                if match["key"]
                else len(match["value"]) >= 8
            )
        ),
        rf"{TELLING_GATE}|(?i:{FOREIGN}|key (?:you|we|I|for|to|of|in|that) )",
    ),
    (  # credentials: bob / x1
        rf"(?<!\w)(?:cred(?:ential)?s?|log-?in|{_ACCOUNT}|user(?:name)? ?/ ?pass(?:word)?)(?:"
        rf"(?: [\w'-]{{1,16}}){{0,3}}? ?[:=]| are| is| -|"
        rf"(?= \w+[/:])) ?(?:[\w.+-]+@[\w.-]+[ ,]{{1,3}}(?![/:])|(?:[\w.@+-]+|<[^>\s]+>)(?: ?[/:] ?| and ))"
        rf"(?P<value>{VALUE_OR_PHRASE})",
        rf"(?i:(?:cred(?:ential)?s?|log-?in|{_ACCOUNT}|user(?:name)? ?/ ?pass(?:word)?)(?:(?: [\w'-]+)* ?[:=]| are"
        rf"| is| -| \w+[/:]))",
        is_mixed_value,
        "",
    ),
    (  # ID/PW: bob/x1, user/password bob (x1)
        rf"{_USER}(?: ?[/&:|] ?(?:{_PASSWORD})(?:/\w{{1,12}})?\)?|\((?:{_PASSWORD})\))(?: for \S{{1,40}})?"
        rf"(?:(?: ?(?::|=|-|->|\() ?| are | is )|(?P<loose> ))[\w.@+-]{{2,40}}(?: ?[/:,(] ?| // )(?P<value>{VALUE})",
        rf"(?i:{_USER} ?[/&:|(] ?(?:{_PASSWORD})[^\n]*[/:,(])",
        lambda match: is_strong(match) and (not match["loose"] or looks_random(match["value"])),
        "",
    ),
    (  # a user and a password with their labels, and any marks between them: id(bob)/pw(x1), user-bob password-x1
        rf"(?<![\w-]){_USER}[)\](:= -]{{1,3}}[\w.@-]{{2,40}}\)?[ ,/]{{1,3}}[-(]?(?:{_PASSWORD})"
        rf"(?:\)| ?(?:-|\(|->) ?)(?P<value>{VALUE})",
        rf"(?i:{_USER}[)\](:= -]{{1,3}}[\w.@-]+\)?[ ,/]{{1,3}}[-(]?(?:{_PASSWORD})[ )(-])",
        lambda match: is_strong(match) and looks_random(match["value"]),
        "",
    ),
    (  # 10.0.0.1 (bob/x1), telnet: bob/x1
        r"(?:(?:(?:\d{1,3}\.){3}\d{1,3}|@[\w-]{1,40}\.[\w.-]{2,40})(?::\d{2,5})?"
        r"(?:/\w{1,32})?(?: \w{1,12})? ?\(|\b(?:telnet|ssh|s?ftp|rdp|vnc) ?[:(] ?)[\w.@-]{2,40}//?"
        r"(?P<value>[^\s\"'`\\<>|,;/()]{7,64})",
        r"(?i:(?:[0-9]\.[0-9]{1,3}|@[\w-]+\.[\w.-]+)(?::[0-9]+)?(?:/\w+)?(?: \w+)? ?\([\w.@-]+/|"
        r"(?:telnet|ssh|ftp|rdp|vnc) ?[:(] ?[\w.@-]+/)",
        lambda match: bool(_ALL_KINDS.match(match["value"])) and is_strong(match) and is_chosen(match),
        "",
    ),
    (  # use admin:x1 to get in, admin/x1!
        rf"\b(?:(?:use|with|as|tried) [\w.-]{{2,32}}(?::(?!:)|(?P<pair> ?/ ?))|"
        rf"(?:admin|administrator|root|sa) ?[:/,] ?)(?P<value>{VALUE})",
        r"(?i:(?:use|with|as|tried) [\w.-]+(?::| ?/ ?)|(?:admin|administrator|root|sa) ?[:/,] ?)[^\s/.]{8}",
        lambda match: (
            (
                bool(CHOSEN.fullmatch(match["value"]))
                or (is_chosen(match) and is_mixed(match["value"]) and not is_wordlike(match["value"]))
            )
            and len(match["value"]) >= (8 if match["pair"] else 6)
            # of a call, a type of media, a version of an action
            and not re.search(r"=[^=]|\A\w+(?:[.+-]\w+){2,}\Z|\w@(?:[0-9a-f]{7,40}|v?[\d.]+)\Z", match["value"])
        ),
        "",
    ),
    (  # a code that was sent, a PIN: the word, words that only join, a number
        rf"(?:(?<!\w)(?:{_CODES})|\b(?:{_YOUR}) (?-i:[A-Z][\w-]{{1,16}} )?code(?= is| lautet| ist| est| es|:))"
        rf"(?: (?:de|del|der|des|da|do|di|du|f\u00fcr|para|pour|for|of)(?: (?:la|le|el|the|my|our|mi|tu|ma|mon))?"
        r" [\w-]{2,16}(?: \d{1,6}(?= is))?| (?:was |has been )?(?:changed|reset|updated) to| just came in"
        r"| just arrived)?"
        rf"(?:{_JOINS}){{0,8}}(?P<value>{_DIGITS})(?!\d|[.:]\d| [a-z]+s\b)",
        rf"(?i:(?:{_CODES}|(?:{_YOUR}) (?:[\w-]+ )?code)[^\n]*[0-9]{{3}})",
        None,
        "",
    ),
    (  # 123456 is your login code, enter code 123456, the SMS says 123456
        rf"(?:(?<![\w.:-])|\bG-)(?P<value>{_DIGITS}) (?:is|as|ist|est|es|\u00e9|\u00e8) "
        rf"(?:the|my|il tuo|{_YOUR})(?: [\w-]{{1,16}}){{0,2}} (?:code|pin|otp|passcode|password|"
        rf"c\u00f3digo|codice)",
        r"(?i:[0-9]{4} (?:is|as|ist|est|es|\x{e9}|\x{e8}) \w+[^\n]* (?:code|pin|otp|passcode|password|c\x{f3}digo"
        r"|codice))",
        None,
        r"(?i:[0-9]{4} (?:is|as|ist|est|es|\x{e9}|\x{e8}) )",
    ),
    (
        rf"\b(?:enter(?:ed|ing)? (?:th(?:e|is) )?(?:code|pin|otp):?|(?:un|dis)\w{{0,3}}(?:lock|"
        rf"arm)\w{{0,4}} with (?:the )?code|"
        rf"authenticator(?: app)? (?:shows|says|displays)|(?:sms|text message) (?:says|shows|"
        rf"reads)(?: the code is)?) (?P<value>{_DIGITS})(?!\d|[.:]\d)",
        r"(?i:(?:code|pin|otp|shows|says|displays|reads|code is):? [0-9]{3}[0-9 -])",
        None,
        "",
    ),
    (  # a card's check number, the numbers of a safe
        r"\b(?:cvv2?|cvc2?|card security code)(?:\W{1,3}|\W{1,3}is\W)(?P<value>\d{3,4})(?!\d)",
        r"(?i:(?:cvv|cvc|security code)[^\n]{1,6}[0-9]{3})",
        None,
        r"(?i:cvv|cvc|card security)",
    ),
    (
        r"\bcombination(?: is|:|=|) ?(?P<value>\d{1,2}-\d{1,2}-\d{1,2})(?![\w-])",
        r"(?i:combination[^\n]{1,5}[0-9]-[0-9])",
        None,
        r"(?i:combination)",
    ),
    (  # passphrase: four or more words
        rf"\b(?:pass[ _]?phrase|password)(?:{QUOTE})?\s?[:=]\s?(?P<quote>{QUOTE})?"
        rf"(?P<value>(?:[a-z]{{3,12}}[ -]){{3,9}}[a-z]{{3,12}})(?={QUOTE}|[,;]?\s*(?:\n|\Z))",
        r"(?i:(?:pass[ _]?phrase|password)[\\\"'`]{0,4}\s?[:=]\s?[\\\"'`]{0,4}(?:[a-z]{3,12}[ -]){3})",
        # between quotes a line of a song has articles, too
        lambda match: (
            match["value"].islower()
            and (_PROSE - _JOINING if "phrase" in match[0].lower() and match["quote"] else _PROSE).isdisjoint(
                re.split("[ -]", match["value"])
            )
        ),
        TELLING_GATE,
    ),
    (  # the words that restore a wallet
        rf"(?:mnemonic|(?:seed|recovery|secret|backup)[ _](?:phrase|words?))(?:{QUOTE})?(?:\s?[:=]| is| are)\s?"
        rf"(?:{QUOTE})?"
        r"(?P<value>(?:[a-z]{3,8} ){11,23}[a-z]{3,8})",
        r"(?i:mnemonic|(?:seed|recovery|secret|backup)[ _](?:phrase|words?))",
        None,
        "",
    ),
)
_TAILS = (  # what says of the word before it that it is a password
    rf"(?: (?:everywhere|again|always|here)| (?:to|in|into)(?: [\w./-]{{1,24}}){{1,3}}?)?"
    rf" (?:as|como|comme|come|als|als het|kot|kao|jako|som|ca)(?: (?:the|your"
    rf"|my|la|le|il|das|het|tvoje))? "
    rf"(?:{SPOKEN}|(?:[\w-]{{1,24}}[ _])?(?:passwd|pwd?|pass|token|secret|key))"
    rf"|(?:,? \(|,| (?:{_DASH}|-)) ?(?:(?:the|my|our|your|its|his|her)(?: [\w-]{{1,16}}){{0,2}} (?:{SPOKEN}|pwd?|pass))"
    rf"|{QUOTE}?,? \((?:[\w-]{{1,16}} ){{0,2}}(?:{SPOKEN}|pwd?)\)"
    rf"|{QUOTE}\)?[,;]? {{0,8}}(?:#|//|--) ?(?:[\w.-]{{1,24}} ){{0,2}}[\w.]{{0,24}}(?:{SPOKEN}|token|secret|key)"
    rf"|[;,.] (?:that|this|it)(?:'s| is| was) (?:the|my|our|your)(?: [\w-]{{1,16}}){{0,3}} (?:{SPOKEN}|pwd?)"
    rf"| (?:is|are) (?:the|my|our|your|a)(?: [\w-]{{1,20}}){{0,3}}"
    rf" (?:{SPOKEN}|pin|(?:token|secret|key)|cred(?:ential)?s)"
)
_TAIL = re.compile(rf"(?:{_TAILS})(?!\w|-\w| [a-z]*(?:ing|er|ed|s)\b)", re.IGNORECASE | re.ASCII)
_WORD_BEFORE = re.compile(
    rf"(?<![^\s\"'`#;/*(])(?P<value>[^\s\"'`#;/*(<][^\s\"'`<>]{{5,98}}[^\s\"'`<>.,;:])(?:{QUOTE})? *\Z"
)


def _words_before(text: str) -> Iterator[re.Match[str]]:
    """x1 as the password; x1, the mail password; of a key what looks random, of credentials what has two parts."""
    for tail in _TAIL.finditer(text):
        match = _WORD_BEFORE.search(text, max(0, tail.start() - 104), tail.start())
        if not match:
            continue
        key = re.search(r"(?i)[\w.-]* ?[\w.-]*(?:token|secret|key)\Z", tail.group())
        random = looks_random(match["value"]) and "#" not in match["value"]  # no colour
        lone = tail.group().lower().endswith(("creds", "credentials")) and not re.search(r"\w[:/]\S{6}", match["value"])
        if not lone and (not key or (random and meaning(key.group()))):
            yield match


_MARKED = r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,40}[!#$*?@^%][A-Za-z0-9!#$*?@^%._+~-]{0,40}"
_MARKED_WORD = re.compile(rf"(?<![^\s\"'`(\[{{:=>|*])(?P<value>{_MARKED})(?![^\s\"'`)\]}}<.,;:|])")
_TOLD = re.compile(rf"(?i)(?<![a-z])(?:{_PASSWORD}|log-?in|cred(?:ential)?s)(?![a-z])")
_AROUND = 80  # characters between a password and the word that tells of it


def _marked_words(text: str) -> Iterator[re.Match[str]]:
    """Near a word for a password, a word of letters, digits and marks that is no address and no piece of a program."""
    for start in hint_starts(_MARKED, text):
        match = _MARKED_WORD.match(text, start)
        if not match:
            continue
        value = match["value"] if match["value"][-1] not in ".-" else match["value"][:-1]
        letters = sum(map(str.isalpha, value))
        if len(value) < 7 or letters < 2 or not re.search(r"\d", value) or not is_strong(match):
            continue
        if re.search(
            r"@[\w-]+\.|%[0-9A-Fa-f]{2}|[%$#*@][a-z_]\w*\Z|\A[a-z][a-z-]*@(?:\d\d?|\d+(?:\.\d+)+)\Z|\?\w|[$*]\d+\Z|\*\*|##|[a-zA-Z]#\d+\Z|\w\.\w+[!?#]",
            value,
        ):
            continue
        if re.match(r"[A-Za-z]\w*!\$?[A-Z]{1,3}\$?\d", value) and (
            text[start - 1 : start] in {"(", "=", ","} or re.match(r":\$?[A-Z]{1,3}\$?\d", text[match.end() :])
        ):
            continue  # a cell of another sheet, a range of cells
        if _TOLD.search(text, max(0, start - _AROUND), start) or _TOLD.search(text, match.end(), match.end() + _AROUND):
            yield match


_LONGEST_RUN = 64
_RUN = re.compile(  # what stands between spaces, quotes, a sign that sets it and the end of a sentence
    rf"(?<![^\s\"'`=:(>|])(?P<value>[^\s\"'`<>]{{10,{_LONGEST_RUN}}}?)(?=[.,;:)]{{0,2}}(?:\\{{0,3}}[\s\"'`<]|\Z))"
)
_OF_CPP = re.compile(r"@@|_Z")  # names as a compiler of C++ writes them


def _generated_words(text: str) -> Iterator[re.Match[str]]:
    """Near a word for a password, what only a generator of passwords makes."""
    at = 0
    for told in _TOLD.finditer(text):
        start, end = max(at, told.start() - _AROUND), told.end() + _AROUND
        for match in _RUN.finditer(text, start, min(len(text), end + _LONGEST_RUN)):
            if match.start() > end:
                break
            at = match.end()
            if is_generated(match["value"]) and not _OF_CPP.search(match["value"]):
                yield match


DETECTORS = (
    detector("password", _RUN.pattern, rf"(?i:{_PASSWORD}|log-?in|cred)", "value", find=_generated_words),
    *contexts(_ROWS),
    detector("password", _WORD_BEFORE.pattern, rf"(?i:{_TAILS})", "value", accept=is_strong, find=_words_before),
    detector("password", _MARKED, _MARKED, "value", find=_marked_words, gate=TELLING_GATE),
)
