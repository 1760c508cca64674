"""Passwords in commands: behind the flags and the words that mean one to a tool."""

import re

from grokora_pipeline.sessions.redaction.detector import (
    NOT_A_SECRET,
    QUOTE,
    TELLING_GATE,
    VALUE,
    Context,
    contexts,
    is_mixed_value,
    is_value,
)
from grokora_pipeline.sessions.redaction.names import meaning

_LOGINS = r"sshpass|docker login|podman login|mongo\w*|mysql\w*|mariadb\w*|redis-cli"


def _is_flag_value(match: re.Match[str]) -> bool:
    """What follows a flag: no other flag, no file, and no word of a sentence."""
    value = match.group("value")
    if re.search(r"^[~./]|\.\w{1,4}\Z", value):
        return False
    end = re.match(r"[\"'`\\]*\s*(?:\Z|[\n\"'|;&]|-|\\n)", match.string[match.end() :])
    return not NOT_A_SECRET.fullmatch(value) and not value.isdigit() and (is_mixed_value(match) or bool(end))


_ROWS: tuple[Context, ...] = (
    (  # tool --password x
        rf"--?(?P<name>[\w-]*(?:password|passwd|pass|passphrase|pw|token|secret|key))(?:-string|-value|-text|-plain)?"
        rf"(?:{QUOTE},)?[ =]+(?:{QUOTE})?"
        rf"(?P<value>(?![-(]){VALUE})",
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
        rf" +)(?:{QUOTE})?(?P<value>(?![-(]){VALUE})",
        rf"(?i:(?:{_LOGINS})\b[^\n|;]* -[pa])",
        # mysql's -p with a space before the next word asks for the password, and the word is a database
        lambda match: _is_flag_value(match) and (match[0][:2].lower() not in {"my", "ma"} or is_mixed_value(match)),
        r"(?i:sshpass|docker login|podman login|mongo|mysql|mariadb|redis-cli)",
    ),
    (  # unzip -P x, ldapsearch -w x, htpasswd -b f bob x, net user bob x, smbclient -U bob%x, xfreerdp /p:x
        rf"(?:\b(?:unzip|zip)\b[^\n|;]{{0,80}}?\s-P ?|\bldap\w+\b[^\n|;]{{0,200}}?\s-w ?|\bhtpasswd -\w*b\w* \S+ \S+ |"
        rf"\bnet (?:user|use(?: \w:)?) \S+ (?!/)|\s/user:\S+ |\s-[uUlx] \S+ -[pPA] ?|"
        rf"\b(?:plink|pscp|psftp)\b[^\n|;]{{0,80}}?\s-pw |"
        rf"\s/rp |\s-(?:u|U|a|auth|-user|-(?:src-|dest-)?creds)[ =](?:{QUOTE})?[\w.@\\]+[:,%]|\b(?:7z\w?|"
        rf"(?:un)?rar) [^\n|;]{{0,80}}?-h?p|"
        rf"\s-[uo]pw |\bsnmp-server community |"
        rf"\b(?:password|secret|key(?:-string)?) (?:[05-9]|ascii(?:-text)?|clear-?text|plain-?text|encrypted) |"
        rf"\bconfig \S+ \w+:|"
        rf"\bWIFI:[^\s]{{0,60}}?P:|\bsecretsdump\S* \S+/\S+:|\b(?:jdbc:oracle:thin:|(?:sqlplus|impdp|expdp|sqlldr|"
        rf"rman target) )\w+/|"
        rf"\s-U [\w\\.]+%|\s[\"']?/p:|\bpass(?:in|out)? pass:|\bopenssl\b[^\n|;]{{0,120}}?\s-k |"
        rf"\bx11vnc\b[^\n|;]{{0,80}}?-passwd )(?:{QUOTE})?(?P<value>{VALUE})",
        r"zip\b[^\n|;]* -P|ldap\w+\b[^\n|;]* -w|htpasswd -|net use|/user:| -[uUlx] \S+ -[pPA]|"
        r" -(?:u|U|a|auth|-user|-(?:src-|dest-)?creds)[ =][\"'`\\]{0,4}[\w.@\\]+[:,%]|7z|rar | -[uo]pw |community |"
        r"(?i:password|secret|key(?:-string)?) (?:[05-9]|ascii|clear|plain|encrypted)|config \S+ \w+:|"
        r" -pw | /rp |WIFI:|secretsdump|oracle:thin:|sqlplus |impdp |expdp |sqlldr |rman target |"
        r"\s[\"']?/p:|pass(?:in|out)? pass:|openssl\b[^\n|;]* -k |x11vnc\b[^\n|;]* -passwd",
        is_mixed_value,
        r"openssl|x11vnc|zip -|zip [^ -]|ldap|htpasswd -|net use|/user:| -[uUlx] \S+ -[pPA]|\s[\"']?/p:|pass(?:in|"
        r"out)? pass:|7z|rar | -[uo]pw |community |(?i:password|secret|key(?:-string)?) (?:[05-9]|ascii|clear|plain|"
        r"encrypted)|config \S+ \w+:|"
        r" -(?:u|U|a|auth|-user|-(?:src-|dest-)?creds)[ =][\"'`\\]{0,4}[\w.@\\]+[:,%]|"
        r" -pw | /rp |WIFI:|secretsdump|oracle:thin:|sqlplus |impdp |expdp |sqlldr |rman target ",
    ),
    (  # echo x | sudo -S
        rf"\b(?:echo (?:-n )?|"
        rf"printf (?:{QUOTE}[^\"'\n]{{1,12}}{QUOTE} )?)"
        rf"(?:{QUOTE})?(?:[\w-]+:)?(?P<value>{VALUE})(?:{QUOTE})?\s*\|\s*"
        r"(?:sudo -S|chpasswd|passwd|su\b|[^\n|;]{1,80}--password-stdin)",
        r"\| ?(?:sudo -S|chpasswd|passwd|su\b|[^\n|;]{1,80}--password-stdin)",
        is_value,
        r"\| ?(?:sudo -S|passwd|su\b)|chpasswd|--password-stdin",
    ),
    (  # rclone obscure x, bw unlock x, openssl passwd -6 x; kinit bob <<< x; Key Content : x
        rf"(?:\b(?:rclone obscure|bw unlock|unlock-keychain -p|add-\w{{5,8}}-password [^\n]{{1,120}} -w|"
        rf"setairportnetwork \S+ \S+|wpa_passphrase \S+|(?:add_user|change_password) \w{{1,40}}|http-basic\.\S+ \S+|"
        rf"auth_pass|op signin|openssl passwd(?: -\w+){{0,3}}|"
        rf"rclone config [^\n]{{1,120}} pass) |"
        rf"\b(?:kinit|passwd|pass|sudo|su|secrets?|env|unlock|obscure|cryptsetup|gpg|login|"
        rf"vault)\b[^\n|;]{{0,80}}<<< ?|"
        rf"\bKey Content\s*: )(?:{QUOTE})?(?P<value>{VALUE})",
        r"(?i:unlock-keychain|-password [^\n]*-w|setairportnetwork|wpa_passphrase|add_user |change_password |"
        r"http-basic\.|auth_pass |"
        r"rclone obscure|bw unlock|op signin|openssl passwd|rclone config |<<<|Key Content)",
        is_mixed_value,
        "",
    ),
    (  # keyvault secret set --name db --value x
        rf"\bsecrets? (?:set|create|put|add)\b[^\n|;]{{0,160}}? --(?:value|body|"
        rf"data)[ =](?:{QUOTE})?(?P<value>(?!-|@){VALUE})",
        r"(?i:secrets? (?:set|create|put|add)[^\n]* --(?:value|body|data))",
        _is_flag_value,
        TELLING_GATE,
    ),
    (  # ssh-keygen -t ed25519 -N "x"
        rf"\bssh-keygen\b[^\n|;&]{{0,80}}? -[NP] ?(?P<quote>{QUOTE})(?P<value>{VALUE})(?P=quote)",
        r"(?i:ssh-keygen)",
        is_value,
        r"(?i:ssh-keygen)",
    ),
    (
        rf"\bcurl\b[^\n|]{{0,300}}?\s(?:-b|--cookie)[ =](?:{QUOTE})?(?P<value>[\w.-]+=[^\n\"'`]{{6,}})",
        r"curl[^\n|]* (?:-b|--cookie)",
        is_value,
        r"curl[^\n]",
    ),
    (
        r"\b(?:login|authtoken|auth:token)(?: --?\w+)* (?P<value>[\w.-]{20,})",
        r"(?:login|authtoken|auth:token) ",
        is_mixed_value,
        "",
    ),
)
DETECTORS = contexts(_ROWS)
