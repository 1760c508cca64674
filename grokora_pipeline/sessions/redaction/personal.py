"""What personal data look like: addresses, numbers of people and accounts, names in the paths of home folders."""

import ipaddress
import re
from functools import cache
from importlib import import_module
from typing import Any

import phonenumbers

from grokora_pipeline.sessions.redaction.detector import Detector, detector
from grokora_pipeline.sessions.redaction.names import word_set

GENERIC_USERS = word_set(  # of manuals, systems, images and services
    "user users username someuser youruser your-user all you me myself guest root admin public default shared test app "
    "node ubuntu debian runner vagrant jovyan ec2-user pi vscode codespace coder sandbox git docker builder circleci "
    "linuxbrew daemon bin sys sync mail man news nobody nogroup www-data nginx apache httpd postgres mysql redis "
    "mongodb systemd-network systemd-resolve systemd-timesync messagebus syslog _apt sshd staff wheel adm utmp tty "
    "disk shadow crontab dialout sudo video audio kvm input render lxd"
)
_CARD = re.compile(  # the issuers' ranges and lengths; 12 and 13 digits are EANs rather than old cards
    r"4(?:\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|"
    r"3(?:0[0-5]|[689]\d)\d{11}|35\d{14}|6(?:011|5\d\d|4[4-9]\d|2\d\d)\d{12,15}|(?:5[0678]|6\d)\d{14,17}"
)
_VERSION = re.compile(  # what stands before four numbers that are a version or a chapter, not an address
    r"(?:\b[A-Z]\w+/|\bv|[=<>~]=|"
    r"\b(?i:version|ver\.?|release|build|sections?|chapter|revision|update|upgrade|driver|firmware|extension|oid|kernel)"
    r"(?:__)?:? ?(?:is |to |from |= ?)?(?:[\d.]+(?:,| or| and| to|, OID) ?)?[\"']?)\Z"
)
_ROUND = re.compile(r"\d+\.\d+\.0\.0")  # a version of an assembly, or a network
_FILE_ENDING = re.compile(
    r"\.(?:png|jpe?g|gif|svg|webp|ico|bmp|css|s?css|less|js|mjs|ts|tsx|jsx|py|md|json|html?|txt|pdf|zip|service|mount|socket|target|"
    r"gz|xz|bz2|tgz|whl|deb|rpm|jar|ya?ml|toml|cfg|ini|log|csv|woff2?|wasm|dll|exe|dmg)\Z",
    re.IGNORECASE,
)


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
    return bool(_CARD.fullmatch(digits)) and luhn(digits) and len(set(digits)) > 1


def _is_ip(match: re.Match[str]) -> bool:
    text = match.group().lower()
    if ":" in text:  # no time of the day, no parts of a name
        known = text.startswith(("fe80:", "fd", "2001:", "2a0"))
        long_enough = text.count(":") >= 3 and any(len(part) >= 3 for part in text.split(":"))
        if not (known or long_enough) or not any(char.isdigit() for char in text):
            return False
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    netmask = text.startswith("255.")
    before = match.string[max(0, match.start() - 40) : match.start()]
    parts = [int(part) for part in text.split(".")] if ":" not in text else []
    chapter = parts and parts[3] < 40 and ((max(parts) < 40 and parts[0] != 10) or max(parts[:2]) < 10)
    number = _VERSION.search(before) or _ROUND.fullmatch(text) or chapter
    return not bool(
        address.is_loopback
        or address.is_unspecified
        or address.is_link_local
        or address.is_multicast
        or netmask
        or number
    )


# numbers of people by their own form, with python-stdnum's module for their check digits (Britain's has none)
_FORMS = {
    "it.codicefiscale": r"[A-Z]{6}\d\d[A-EHLMPR-T]\d\d[A-Z]\d{3}[A-Z]",
    "": r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]",
    "mx.curp": r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d",
    "cn.ric": r"\d{6}(?:19|20)\d{2}(?:0[1-9]|1[0-2])\d{2}\d{3}[\dX]",
    "br.cpf": r"\d{3}\.\d{3}\.\d{3}-\d\d",
    "ch.ssn": r"756\.\d{4}\.\d{4}\.\d\d",
    "cl.rut": r"\d{1,2}\.\d{3}\.\d{3}-[\dkK]",
    "fi.hetu": r"\d{6}[-+A-F]\d{3}[0-9A-Y]",
    "be.nn": r"\d\d\.\d\d\.\d\d-\d{3}\.\d\d",
    "es.dni": r"\d{8}[A-HJ-NP-TV-Z]",
    "es.nie": r"[XYZ]-?\d{7}-?[A-HJ-NP-TV-Z]",
    "fr.nir": r"[12] ?\d\d ?(?:0[1-9]|1[0-2]) ?\d[\dAB] ?\d{3} ?\d{3} ?\d\d",
    "kr.rrn": r"\d{6}-[1-4]\d{6}",
    "se.personnummer": r"(?:19|20)?\d\d(?:0[1-9]|1[0-2])[0-3]\d[-+]\d{4}",
    "cz.rc": r"\d\d[0156]\d[0-3]\d/\d{3,4}",
}
# those that are plain digits, by the word before them
_LABELLED = {
    "si.emso": r"em[s\u0160\u0161]o",
    "hr.oib": "oib", "pl.pesel": "pesel", "ro.cnp": "cnp", "bg.egn": "egn", "nl.bsn": "bsn",
    "de.idnr": r"steuer-?id\w*|idnr", "at.vnr": "svnr|sozialversicherungsnummer", "dk.cpr": "cpr", "br.cpf": "cpf",
    "no.fodselsnummer": r"f\w{1,2}dselsnummer", "in_.aadhaar": r"aadhaa?r", "in_.pan": r"pan", "za.idnr": "sa id",
    "tr.tckimlik": r"tc kimlik|kimlik no", "ie.pps": r"ppsn?", "gb.nhs": "nhs", "ca.sin": r"sin|social insurance",
    "au.tfn": r"tfn|tax file", "us.ssn": r"ssn|social security", "pt.nif": "nif",
    "es.dni": "dni", "us.itin": "itin",
}  # fmt: skip


@cache
def _check(name: str) -> Any:
    """A module of python-stdnum, imported once it is needed: it has some 200."""
    return import_module(f"stdnum.{name}")


def _is_phone(match: re.Match[str]) -> bool:
    text: str = match.group(match.lastgroup or 0)
    if text.startswith("+"):
        if re.match(r"\+\d{4}-[01]\d-[0-3]\d", text):
            return False  # a date in a line that a diff adds
        try:
            return phonenumbers.is_possible_number(phonenumbers.parse(text, None))
        except phonenumbers.NumberParseException:
            return False
    if re.fullmatch(r"\d{4,}\.\d+", text) or re.match(r"(?:19|20)\d\d([-./])[01]?\d\1[0-3]?\d\b", text):
        return False  # a decimal, WhatsApp-Image-2025-02-10
    return 8 <= sum(char.isdigit() for char in text) <= 15


def _is_email(match: re.Match[str]) -> bool:
    """Whether it is no address of a repository, no name of Kerberos, no picture and no file."""
    text, before = match.group(), match.string[max(0, match.start() - 3) : match.start()]
    if not re.search(r"\w.*@", text):
        return False  # the decorator of a line that a diff adds: +@app.get
    repository = text.startswith("git@") and (match.string[match.end() : match.end() + 1] == ":" or before == "://")
    principal = before[-1:] == "/" and text.rpartition("@")[2].isupper()  # host/web1.example.org@EXAMPLE.ORG
    return not (repository or principal or re.search(r"@\dx\.", text) or _FILE_ENDING.search(text))


def _is_name(match: re.Match[str]) -> bool:
    value, after = match.group("value"), match.string[match.end() : match.end() + 1]
    return value.lower() not in GENERIC_USERS and not (_FILE_ENDING.search(value) and after not in {"/", "\\"})


_IBAN_LENGTHS = (  # ISO 13616's registry
    "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29BY28CH21CR22CY28CZ24DE22DK18DO28EE20EG29ES24FI18FO18FR27GB22GE22GI23GL18"
    "GR27GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MR27MT31MU30NL18NO15"
    "PK24PL28PS29PT25QA29RO24RS22SA24SC31SE24SI19SK24SM27ST25SV28TL23TN24TR26UA29VA22VG24XK20"
)
_IBAN = "|".join(
    rf"{country}\d\d(?:[ -]?[A-Z0-9]){{{int(length) - 4}}}"
    for country, length in re.findall(r"([A-Z]{2})(\d\d)", _IBAN_LENGTHS)
)
_PART = r"[^\s@\"'`<>()\[\]{},;:\\/=|.?!&#*%]"
_NAME = r"[^\s/\\\"'`:<>|*?,;()\[\]{}$~%]"
_PHONE_WORD = r"(?:phone|telephone|tel|mobile|cell|fax|gsm|whatsapp|call me at|call|text me at|sms to)"
_PHONE_NUMBER = (
    r"\+[0-9]{1,3}[ .(-]{0,2}[0-9]|[0-9]{3}(?:\) ?|[.-])[0-9]{3}[.-][0-9]{4}|0[1-9](?:[ .][0-9]{2}){4}|"
    r"0[1-9][0-9]{0,3}[ /-][0-9]{3}|00[1-9][0-9] ?[0-9]|\([0-9]{2,4}\) ?[0-9]{3}"
)
DETECTORS: tuple[Detector, ...] = tuple(
    one._replace(family="PII")
    for one in (
        detector(
            "email",
            r"(?<!%)(?<!%[0-9A-Fa-f])[^\s@\"'`<>()\[\]{},;:\\/=|&%]{1,64}(?:@|%40| ?[\[(]at[\])] ?)"
            rf"(?:{_PART}{{1,63}}\.){{1,9}}(?:xn--[\w-]{{2,59}}|[A-Za-z\u00a1-\uffff]{{2,24}})(?![A-Za-z])",
            r"[^\s@](?:@|%40| ?[\[(]at[\])] ?)[^\s@]+\.",
            accept=_is_email,
            gate=r"[^\s@](?:@|%40| ?[\[(]at[\])])",
        ),
        detector(
            "iban",
            rf"\b(?:{_IBAN})\b",
            r"(?i:[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{4}){2})",
            accept=lambda match: (
                iban(match.group())
                and (
                    match.group().isupper()  # a hash is in lower case
                    or "iban" in match.string[max(0, match.start() - 8) : match.start()].lower()
                )
            ),
            flags=re.IGNORECASE,
        ),
        detector(
            "credit_card",
            r"(?<![\w./-])[2-6]\d{3}(?:[ -]?\d){8,15}(?![\w-])(?!\.\d)",
            r"[2-6][0-9]{3}(?:[ -]?[0-9]){8}",
            accept=_is_card,
        ),
        detector(
            "national_id",
            r"(?<![\w.-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w.-])",
            r"[0-9]{3}-[0-9]{2}-[0-9]{4}",
        ),
        detector(
            "national_id",
            rf"(?<![\w.-])(?:{'|'.join(_FORMS.values())})(?![\w-])(?!\.\d)",
            r"[A-Z]{6}[0-9]{2}[A-Z][0-9]{2}[A-Z]|[A-Z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]|[A-Z]{4}[0-9]{6}[HM]|"
            r"[0-9]{17}[0-9X]|[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]|756\.[0-9]{4}\.|[0-9]\.[0-9]{3}\.[0-9]{3}-[0-9kK]|"
            r"[0-9]{6}[+A-F-][0-9]{3}|[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}|[0-9]{8}[A-Z]|[XYZ]-?[0-9]{7}|"
            r"[12] ?[0-9]{2} ?[01][0-9] ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3}|[0-9]{6}/[0-9]{3}",
            accept=lambda match: any(
                re.fullmatch(form, match.group()) and (not name or _check(name).is_valid(match.group()))
                for name, form in _FORMS.items()
            ),
        ),
        detector(
            "national_id",
            rf"\b(?P<label>{'|'.join(dict.fromkeys(_LABELLED.values()))})\b(?:[ _]?(?:number|nummer|no|nr|id|code))?\.?"
            r"(?: is|:|=|\W){1,4}(?P<value>[0-9A-Z](?:[ ./-]?[0-9A-Z]){7,15})(?![\w-])",
            rf"(?i:\b(?:{'|'.join(dict.fromkeys(_LABELLED.values()))})\b[^0-9\n]{{0,16}}[0-9A-Z])".replace(
                r"\u0160\u0161", r"\x{160}\x{161}"
            ),
            "value",
            accept=lambda match: any(
                re.fullmatch(word, match["label"], re.IGNORECASE) and _check(name).is_valid(match["value"])
                for name, word in _LABELLED.items()
            ),
            flags=re.IGNORECASE,
        ),
        detector(  # no check digits: only with its name
            "national_id",
            r"\b(?:passport|driving licen[cs]e|driver'?s? licen[cs]e|identity card)(?: (?:no|nr|number|num|id))?\.?"
            r"(?: is)?[:#= ]{1,3}"
            r"(?P<value>(?=[A-Z0-9]{0,8}\d{3})[A-Z0-9]{6,12})(?![\w-])",
            r"(?i:(?:passport|licen[cs]e|identity card)[^\n]{1,16}[0-9]{3})",
            "value",
            flags=re.IGNORECASE,
        ),
        detector(
            "ip",
            r"(?<![A-Za-z0-9.-])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![A-Za-z0-9-])(?!\.\d)",
            r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
            accept=_is_ip,
        ),
        detector(
            "ip",
            r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{6,39}(?![\w:])",
            r"[0-9A-Fa-f]:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]|(?i:fe80|fd[0-9a-f]{2}|2001|2a0[0-9a-f])::",
            accept=_is_ip,
        ),
        detector(
            "phone",
            r"(?<![\w+.])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){5,12}(?![\w])|"
            r"(?<![\w.+-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}(?:\.(?=\d{3}\.)|-(?=\d{3}-)))\d{3}[.-]\d{4}(?![\w-])(?!\.\d)|"
            r"(?<![\w.+-])(?<!\d )0[1-9](?:[ .]\d\d){4}(?![\w-])(?! ?\d)|"
            r"(?<![\w.,+/-])(?<!\d )00[1-9]\d{9,11}(?![\w.-])|"
            r"(?<![\w.,+/-])(?<!\d )(?:00[1-9]\d ?\d{1,4}|0[1-9]\d{0,3})[ /-]\d{3,4}[ -]?\d{3,4}(?![\w-])(?!\.\d)|"
            r"(?<![\w.,+/-])\(\d{2,4}\) ?\d{3,5}[ -]?\d{2}[ -]?\d{2}(?![\w-])",
            _PHONE_NUMBER,
            accept=_is_phone,
        ),
        detector(
            "phone",
            rf"\b{_PHONE_WORD}(?:[_ ](?:number|no|nr))?\b[^\n\d+(]{{0,12}}(?P<n>[+(]?\d[\d ()./-]{{6,18}}\d)(?!\w)",
            rf"(?i:{_PHONE_WORD}[^\n0-9]{{0,14}}[0-9])",
            "n",
            accept=_is_phone,
            flags=re.IGNORECASE,
            gate=r"(?i:phone|\btel|mobile|\bcell|\bfax|\bgsm|whatsapp|\bcall|text me at|sms to)",
        ),
        detector(
            "user",
            r"(?:(?-i:(?:(?<![\w.-])|(?<=\\[nrt])|(?<=-[A-Z])|(?<=/var)|(?<=/export)|(?<=/mnt)|(?<=/usr))/(?:home|Users)/)|"
            r"(?<=[A-Za-z]:)/users/|(?P<w>\\{1,4}users\\{1,4}|"
            r"[\\/]documents and settings[\\/]{1,4}))"
            rf"(?P<value>{_NAME}{{2,64}}(?(w)(?: {_NAME}{{1,30}}){{0,3}}(?=[\\/\"'\n]|\Z)|))",
            r"(?i:/home/|/users/|\\users\\|documents and settings)",
            "value",
            accept=_is_name,
            flags=re.IGNORECASE,
        ),
        detector(
            "user",
            rf"\b(?:USER|USERNAME|LOGNAME)=(?P<value>{_NAME}{{2,64}})",
            r"(?:USER|USERNAME|LOGNAME)=",
            "value",
            accept=_is_name,
        ),
        *(
            detector(  # the owner and the group that `ls -l` shows
                "user",
                rf"(?<![\w-])[dlcbps-][rwxsStT-]{{9}}[.+@]?\s+\d+\s+{before}(?P<value>[\w.-]{{2,32}})(?= )",
                r"[rwxsStT-]{9}[.+@]?\s+[0-9]+\s+",
                "value",
                accept=_is_name,
                gate=r"[r-][w-][xsS-][r-][w-][xsS-][r-][w-][xtT-][.+@]?\s",
            )
            for before in ("", r"\S+\s+")
        ),
        detector(
            "user",
            r"(?<![\w.-])[ug]id=\d{1,10}\((?P<value>[\w.-]{2,64})",
            r"[ug]id=[0-9]+\(",
            "value",
            accept=_is_name,
        ),
        detector(
            "user",
            r"(?<![\w.-])(?P<value>[\w.-]{2,32})@[\w.-]{1,64}:[~/][^\s$#]{0,80}[$#]",
            r"[\w.-]@[\w.-]+:[~/][^\s$#]*[$#]",
            "value",
            accept=_is_name,
            gate=r"[^\s@]@",
        ),
    )
)
