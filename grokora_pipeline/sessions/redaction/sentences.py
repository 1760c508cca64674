"""Passwords, codes and phrases in what people write to each other and tools write to people."""

import re

from grokora_pipeline.sessions.redaction.detector import (
    QUOTE,
    TELLING_GATE,
    VALUE,
    Context,
    contexts,
    is_mixed,
    is_mixed_value,
    is_value,
    is_wordlike,
    looks_random,
)
from grokora_pipeline.sessions.redaction.names import SPOKEN, word_set
from grokora_pipeline.sessions.redaction.passwords import CODE, EXPRESSION, is_chosen

_PROSE = word_set(  # no passphrase has them, and few sentences have none
    "the and for are must should has have was will can cannot not your you with from this that please enter type use "
    "set its than then when wrong invalid incorrect required missing does did been new old our their via only same "
    "user one"
)
_CODE_WORD = r"(?=[a-z0-9-]*\d)[a-z0-9]{4,12}(?:[ -][a-z0-9]{4,12}){0,4}"
_ROWS: tuple[Context, ...] = (
    (  # app password: four groups of four letters, as Google shows them
        rf"\bapp(?:lication)?[ _-]?password\w*(?:{QUOTE})?(?:\s?[:=]| is)"
        rf"\s?(?:{QUOTE})?(?P<value>(?:[a-z]{{4}} ){{3}}[a-z]{{4}})\b",
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
    (  # type "x" into the password field
        rf"\b(?:type|typing|typed|tried|try|entered|enter|write|typewrite|keystroke|text|fill|input|paste|use|using|"
        rf"and|with)"
        rf"[sd]?[ (](?:in |(?:--?\w[\w-]*(?: \d+)? ){{1,3}})?(?P<quote>{QUOTE})?"
        rf"(?P<value>(?(quote)[^\"'`\\\n]{{3,60}}|[^\s\"'`\\]{{6,60}}))(?:{QUOTE})?\)?"
        rf"(?: (?:in|as|for)(?:to)?|[^\n\"'`#]{{0,20}}(?:#|--|//)) [\w ]{{0,24}}(?:{SPOKEN})",
        r"(?i:(?:type|typing|typed|tried|try|entered|enter|write|keystroke|text|fill|input|paste|use|using|and|"
        r"with)[sd]?[ (])",
        lambda match: is_value(match) if match.group("quote") else is_mixed_value(match),
        TELLING_GATE,
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
        is_mixed_value,
        rf"{TELLING_GATE}|(?i:requirepass|masterauth|rootpw|bindpw)",
    ),
    (  # Spanish: a key as well as a password; la clave del wifi es x1
        rf"\bclave(?: (?:del?|de la|de acceso|para)(?: [\w-]{{1,16}}){{0,3}})?(?:{QUOTE})?(?:\s?:| es)\s?(?:{QUOTE})?"
        rf"(?P<value>{VALUE})",
        r"(?i:\bclave\b[^\n:]*(?::| es))",
        lambda match: len(match["value"]) >= 6 and is_mixed_value(match),
        r"(?i:\bclave)",
    ),
    (  # the login for the shop is anna / x1; using credentials deploy / x1
        rf"\b(?:cred(?:ential)?s|log-?in|account|accounts? data|zugangsdaten|identifiants?|credenciales|credenziali)\b"
        rf"(?: [\w'-]{{1,16}}){{0,5}}?(?: ?[:=]| are| is| sind| sont| son| est| es|"
        rf") [\w.@+-]{{2,40}} / (?P<value>{VALUE})",
        r"(?i:(?:cred(?:ential)?s|log-?in|account|zugangsdaten|identifiants?|credenciales|credenziali)[^\n/]* / )",
        lambda match: len(match["value"]) >= 6 and is_mixed_value(match),
        r"(?i:credentials|creds|log-?in|account|zugangsdaten|identifiant|credenciales|credenziali)",
    ),
    (  # the password generated for root@localhost: x1; pw for the zip: x1; use the following password to go on:\n\nx1
        rf"\b(?:{SPOKEN}|pass phrase|passwd|pwd?|pin|creds?|(?:api|access|auth|bot|deploy) (?:token|key))"
        rf"(?:\)?,? (?!(?:or|and|if|"
        rf"but)\b)[(\"'`]?[\w\u00e0-\u00fc][\w\u00e0-\u00fc'\"`.@/-]{{0,30}}\)?){{1,8}} ?(?::|->|=>|=)"
        rf"\s{{1,4}}(?P<quote>{QUOTE})?(?P<value>{VALUE})(?={QUOTE}|[.,;)]?[ \t]*(?:\n|\Z|[(#,;]))",
        rf"(?i:(?:{SPOKEN}|pass phrase|passwd|pwd?|pin|creds?|(?:api|access|auth|bot|deploy) (?:token|"
        rf"key)) [^\n]*(?::|->|=)\s)",
        lambda match: (
            len(match["value"]) >= 8
            and is_mixed_value(match)
            and not EXPRESSION.match(match["value"] + "\0")
            and not re.search(r"://|^[\w.-]+@[\w.-]+\Z|^\d[\d:.,-]*\w?\Z|^[./~]", match["value"])
        ),
        "",
    ),
    (
        rf"(?:\b(?:{SPOKEN}|pin|the pass|pwd?)(?: code)?"
        rf"(?: for (?:the )?(?:\w{{2,16}} )?{QUOTE}[^\s\"'`]{{1,40}}{QUOTE})?"
        rf" (?:(?:is|was)(?: now| still)?:?|lautet|ist|je|est|es|\u00e8|\u00e9|c'est|\u00e4r|er|on|to|jest|\u2014|"
        rf"-)(?=[ :])|"
        rf"(?:\u5bc6[\u7801\u78bc]|\u53e3\u4ee4|\u30d1\u30b9\u30ef\u30fc\u30c9|\ube44\ubc00\ubc88\ud638)"
        rf" ?(?:\u662f|\u4e3a|\u70ba|\u306f|\ub294|\uc740|:|\uff1a)) ?(?P<quote>{QUOTE})?"
        rf"(?P<value>{VALUE})",
        rf"(?i:(?:{SPOKEN}|pin|the pass|pwd?)(?: code)?(?: for [^\n\"'`]{{0,22}}[\"'`\\\\][^\n]{{1,50}})?"
        rf" (?:ist?|was|lautet|je|est?|\x{{e8}}|\x{{e9}}|c'est|\x{{e4}}r|er|on|to|\x{{2014}}|-)[ :])|"
        rf"(?:\x{{5bc6}}[\x{{7801}}\x{{78bc}}]|\x{{53e3}}\x{{4ee4}}|"
        rf"\x{{30d1}}\x{{30b9}}\x{{30ef}}\x{{30fc}}\x{{30c9}}|\x{{be44}}\x{{bc00}}\x{{bc88}}\x{{d638}})"
        rf" ?[\x{{662f}}\x{{4e3a}}\x{{70ba}}\x{{306f}}\x{{b294}}\x{{c740}}:\x{{ff1a}}]",
        lambda match: (
            is_value(match)
            and not CODE.fullmatch(match["value"])
            and (bool(match["quote"]) or not match["value"].strip("-'").isalpha() or is_mixed_value(match))
        ),
        "",
    ),
    (  # the password for the staging box is x1
        rf"\b(?:{SPOKEN})(?: [\w'\"-]{{1,16}}){{1,6}} (?:is|(?:was|is|has been) (?:re)?set to|was|lautet|ist|es|"
        rf"est|c'est|\u00e9|"
        rf"\u00e8) (?P<quote>{QUOTE})?(?P<value>{VALUE})",
        rf"(?i:(?:{SPOKEN})(?: [\w'\"-]{{1,16}}){{1,6}} (?:is|to|was|lautet|ist|es|est|c'est|\x{{e9}}|\x{{e8}}) )",
        lambda match: len(match["value"]) >= 8 and is_mixed_value(match),
        "",
    ),
    (  # x1 is the password, // x1 is the API key
        rf"(?<![^\s\"'`#;/*(])(?P<value>[^\s\"'`#;/*(<][^\s\"'`<>]{{8,98}}[^\s\"'`<>.,;:])"
        rf" is (?:the|my|our|your|a)(?: [\w-]{{1,20}}){{0,3}} "
        rf"(?:{SPOKEN}|pin|token|secret|key)(?=\s*(?:[.,;:!)\n*\\\"'`]|\Z|(?:for|of|to|and)\b))",
        rf"(?i: is (?:the|my|our|your|a)[ \w-]* (?:{SPOKEN}|pin|token|secret|key))",
        lambda match: is_mixed(match["value"]) and looks_random(match["value"]),
        TELLING_GATE,
    ),
    (  # credentials: bob / x1
        rf"\b(?:cred(?:ential)?s?|log-?in|user(?:name)?/pass(?:word)?)(?: ?[:=]| are| is) ?(?:[\w.@+-]+|<[^>\s]+>)"
        rf"(?: ?[/:] ?| and )(?P<value>{VALUE})",
        r"(?i:(?:cred(?:ential)?s?|log-?in|user(?:name)?/pass(?:word)?)(?: ?[:=]| are| is))",
        is_mixed_value,
        "",
    ),
    (  # use admin:x1 to get in, admin/x1!
        rf"\b(?:(?:use|with|as) [\w.-]{{2,32}}:|(?:admin|administrator|root|sa)[:/])(?P<value>{VALUE})",
        r"(?i:(?:use|with|as) [\w.-]+:|(?:admin|administrator|root|sa)[:/])[^\s/.]{8}",
        lambda match: is_chosen(match) and is_mixed(match.group("value")) and not is_wordlike(match.group("value")),
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
    (  # passphrase: four or more words
        rf"\b(?:pass[ _]?phrase|password)(?:{QUOTE})?\s?[:=]\s?(?:{QUOTE})?"
        rf"(?P<value>(?:[a-z]{{3,12}}[ -]){{3,9}}[a-z]{{3,12}})(?={QUOTE}|[,;]?\s*(?:\n|\Z))",
        r"(?i:(?:pass[ _]?phrase|password)[\\\"'`]{0,4}\s?[:=]\s?[\\\"'`]{0,4}(?:[a-z]{3,12}[ -]){3})",
        lambda match: match["value"].islower() and _PROSE.isdisjoint(re.split("[ -]", match["value"])),
        TELLING_GATE,
    ),
    (  # the words that restore a wallet
        rf"(?:mnemonic|(?:seed|recovery|secret|backup)[ _](?:phrase|words?))(?:{QUOTE})?\s?[:=]\s?(?:{QUOTE})?"
        r"(?P<value>(?:[a-z]{3,8} ){11,23}[a-z]{3,8})",
        r"(?i:mnemonic|(?:seed|recovery|secret|backup)[ _](?:phrase|words?))",
        None,
        "",
    ),
)
DETECTORS = contexts(_ROWS)
