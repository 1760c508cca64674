"""Passwords in commands: tables of the flags and words behind which well-known tools read one."""

import re
from collections.abc import Iterator

from grokora_pipeline.sessions.redaction.detector import (
    EAST,
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
    is_generated,
    is_hash,
    is_mixed_value,
    is_phrase,
    is_random_token,
    is_value,
    looks_random,
)
from grokora_pipeline.sessions.redaction.names import SPOKEN, meaning
from grokora_pipeline.sessions.redaction.passwords import EXPRESSION, is_name_of_secret
from grokora_pipeline.sessions.redaction.sentences import is_strong

_FLAGS = (  # flags, and the tools that read a password behind them
    (
        r"-p[ =]?",
        r"sshpass|(?:docker|podman|buildah|nerdctl|oras|crane auth|regctl registry|helm registry|az|cf|oc|ibmcloud|"
        r"argocd) login|mongo\w*|psexec|evil-winrm|crackmapexec|netexec|nxc|smbmap|hydra|rdesktop|cqlsh|snowsql|"
        r"beeline|hdbsql|cypher-shell|rabbitmqadmin|racadm|ncftp\w+|certutil|veracrypt|steghide|elasticsearch-users|"
        r"airflow users|twine|poetry publish|mutool|add-user\.sh|ipa-client-install|winexe|x11vnc|useradd|usermod",
    ),
    # with a space behind it, mysql's -p asks for the password
    (r"-h?p", r"mysql\w*|mariadb\w*|mycli|7z\w*|(?:un)?rar"),
    (r"-P ?", r"gpg-preset-passphrase|sqlcmd|bcp|[it]sql|ipmitool|mosquitto_\w+|(?:un)?zip|ssh-keygen|security import"),
    (r"-N ?", r"ssh-keygen"),
    (r"-w ?", r"ldap\w+|vsql|security [\w-]+-password|ipa-client-install"),
    (r"-s ?", r"ldappasswd"),
    (r"-[AXc] ?", r"snmp\w+"),
    (r"-[kK] ", r"openssl"),
    (r"-a ?", r"redis-cli"),
    (r"-b ?", r"gh secret set|oathtool"),
    (r"-t ", r"influx|doctl auth"),
    (r"-a ", r"(?:https?|xhs?) [^\n|;]{0,60}?-A bearer"),
    (r"-(?:ap|xp) ", r"swaks|sendemail"),
    (r"/p[ :]", r"signtool(?:\.exe)?|\w+freerdp"),
    (r"-[uo]?pw |(?:input|user|owner)_pw ", r"pdf\w+|plink|pscp|psftp"),
    (r"-passwd ", r"x11vnc|vncviewer"),
    (r"key=", r"netsh wlan"),
)
_WORDS = (  # the words of a command right before a password; \S+ is a user, a file or a name
    r"rclone obscure",
    r"rclone config [^\n]{1,120} pass",
    r"bw unlock",
    r"bw login \S+",
    r"op signin(?: \S+){0,3}",
    r"vault (?:login|operator unseal|token lookup)",
    r"unlock-keychain -p",
    r"openssl passwd(?: -\w+){0,3}",
    r"mkpasswd(?: -\w+ [\w-]+)?",
    r"htpasswd -\w*n\w* \S+",
    r"htpasswd -\w*b\w* \S+ \S+",
    r"mosquitto_passwd -b \S+ \S+",
    r"net user \S+",
    r"net use(?: \w:)? \S+",
    r"/user:\S+",
    r"/rp",
    r"add_user \w{1,40}",
    r"change_password \w{1,40}",
    r"authenticate_user \w{1,40}",
    r"samba-tool user \w+ \S+",
    r"set-user-password \S+ \S+",
    r"steamcmd \+login \S+",
    r"user:password \S+",
    r"glab variable set \S+",
    r"user-secrets set \S+",
    r"wpa_passphrase \S+",
    r"networksetup -setairportnetwork \S+ \S+",
    r"http-basic.\S+ \S+",
    r"github-oauth.\S+",
    r"auth_pass",
    r"set-initial-password",
    r"reset-admin-password",
    r"cf auth \S+",
    r"isql \S+ \S+",
    r"db2 connect to \S+ user \S+ using",
    r"ansible-vault encrypt_string",
    r"mvn --encrypt-(?:master-)?password",
    r"authtoken",
    r"pypi-token.\S+",
    r"snmp-server community",
    r"isakmp key",
    r"rootpw --plaintext",
    r"username \S+ (?:privilege \d+ )?(?:secret|password)",
    r"message-digest-key \d+ md5",
    r"md5 key-string",
    r"auth (?:sha|md5)[\w-]*",
    r"priv (?:3?des|aes)(?: \d+)?",
    r"radius-server [^\n]{0,40}key",
    r"tacacs-server [^\n]{0,40}key",
    r"qpdf --encrypt",
    r"wifi-sec.psk",
    r"config set --secret \w+",
    r"configure set \w{0,40}secret\w{0,20}",
    r"login \S+ password",
    r"hash-password --plaintext",
    r"mc alias set \S+ \S+ \S+",
    r"sp_addlogin \S+",
    r"poll \S+ user \S+ password",
    r"redis-cli [^\n|;]{0,60}auth(?: \w+)?",
    r"-createCredential \S+ \S+",
    r"NickServ :?IDENTIFY \S+",
    r"NickServ :?IDENTIFY",
    r"ftp> user \S+",
    r"dscl \S+ -passwd \S+",
)
_PRINTING = (  # what prints a secret and says so in no word of the names of secrets
    r"openssl rand|/dev/u?random|randombytes|securerandom|generatepassword|generate_?key|wg gen\w+|\bpwgen|\bpass show|"
    r"\bop read|\bgopass|\bbw get|keyring get|vault (?:read|kv get)|--with-decryption|config[: ]get\b"
)
_INPUT = (  # what is handed a password by <<<
    r"(?:kinit|read -\w*s|"
    r"passwd|smbpasswd|pdbedit|pass(?:word[-_]stdin)?|sudo|su|secrets?|env|unlock|obscure|cryptsetup|keepassxc-cli|gpg|login|"
    r"realm|ipa|adcli|configure|\w+_config_editor|zfs|context|vault)\b[^\n|;]{0,80}<<<"
)
_PAIRS = (  # a user and a mark right before a password
    r"(?:^|[^\w.-])--?(?:[a-zA-Z]{0,3}u|U|a|auth|user|proxy-user|auth-cred|(?:src-|dest-)?creds|credentials)"
    r"[\"'`\\, =]{1,6}[\w.@\\/]+[:,%]",
    r"\s-[uUlx] \S+ -[pPA] ?",
    r"\blftp [^\n|;]{0,80}-u [\"']?\w+,",
    r"\bsecretsdump\S* \S+/\S+:|\b(?:impacket-\w+|\w+\.py) [\w.-]+/[\w.$-]+:",
    r"\b(?:jdbc:oracle:thin:|(?:sqlplus|impdp|expdp|sqlldr|rman target) [\"']?)[\w.$#-]+/[\"']?",
    r"\.logon \w+/\w+,",
    r"\b(?:aaa-server|radius server|tacacs server) [^\n]{1,60}\n(?: [^\n]{1,60}\n){0,3}? key(?: \d)? ",
    r"\bstats auth \S+:",
    r"\bACL SETUSER \S+ [^\n]{0,60}?>",
    r"\bconfig \S+ \w+:",
    r"\bWIFI:[^\s]{0,60}P:",
    r"\b(?:password|secret|psk|key(?:-string)?)"
    r"(?: (?:[05-9]|ascii(?:-text)?|hex|clear-?text|plain-?text|encrypted)){1,2} ",
    r"\bpass(?:in|out)?[ =][\"']?pass:",
)
_EXAMPLES = frozenset(
    {"password", "passwd", "pass", "pwd", "secret", "mypassword", "yourpassword", "option", "options", "flag", "flags"}
)  # of manuals
_DOTTED = re.compile(r"[A-Za-z]{4,}(?:\.[A-Za-z]{4,})+\.\d{2,4}")  # words and a number, as people choose
_VALUE = (
    rf"(?P<quote>{QUOTE})?"
    rf"(?P<value>(?(quote)(?:(?!(?P=quote))[^\n]){{4,120}}(?=(?P=quote))|(?![-(/~.]){VALUE}))"
)
# up to the next command; a quoted argument may hold any mark
_REST = r"(?:(?<=[\s=])(?:'[^'\n]{0,120}'|\"[^\"\n]{0,120}\")|[^\n|;]){0,300}"
_TOOLS = "|".join(tools for _, tools in _FLAGS)
_OF_TOOLS = tuple(
    (
        re.compile(rf"(?<![\w.-])(?:{tools})(?![\w-]){_REST}", re.IGNORECASE | re.ASCII),
        re.compile(rf"(?<=[\s\"',])(?:{flags}){_VALUE}", re.ASCII),
    )
    for flags, tools in _FLAGS
)
_ANY_FLAG = "|".join(rf"(?:{tools})[^\n|;]*[\s\"',](?:{flags})" for flags, tools in _FLAGS)
_ANY_WORDS, _ANY_PAIR = "|".join(_WORDS), "|".join(_PAIRS)
# no word begins with a group: the gate would let every text in
_ANY_FIRST_WORD = "|".join(re.split(r"[\\(\[]", words)[0] for words in _WORDS)


def _flag_values(text: str) -> Iterator[re.Match[str]]:
    """What stands behind the flags of the table, in the order of the text."""
    matches = [
        match
        for tools, flags in _OF_TOOLS
        for command in tools.finditer(text)
        for match in flags.finditer(text, *command.span())
    ]
    yield from sorted(matches, key=re.Match.start)


def _is_argument(match: re.Match[str]) -> bool:
    """Whether a quoted text, or a word that has more than letters, is a password: no file, and no example's."""
    value = match["value"]
    file = re.search(r"^[~./]|\.(?:[A-Za-z]\w{0,3}|\d\d+)\Z", value) and not _DOTTED.fullmatch(value)
    if not is_value(match) or (file and not is_generated(value)) or value.lower() in _EXAMPLES:
        return False
    return bool(match["quote"]) or is_mixed_value(match)


def _is_flag_value(match: re.Match[str]) -> bool:
    """The same behind a flag, where a plain word is a password, too: at the end of a command, or behind other flags."""
    if not match["quote"] and is_name_of_secret(match["value"]):
        return False
    if _is_argument(match):
        return True
    before = match.string[max(0, match.start() - 80) : match.start()]
    end = re.match(r"[\"'`\\]*\s*(?:\Z|[\n\"'|;&]|-|\\n)", match.string[match.end() :])
    word = re.sub("[-_]", "", match["value"]).isalpha() and match["value"].lower() not in _EXAMPLES
    return word and is_value(match) and bool(end or re.search(r"\s--?\w+[ =]\S+\s*\Z", before))


def _is_metavariable(match: re.Match[str]) -> bool:
    """Whether a help text names the value of a flag: `--key KEYFILE`, `--token token`, `--sign-keyid=key-id`."""
    value, name = (re.sub(r"[\W_]", "", one) for one in (match["value"], match["name"]))
    return not match["quote"] and ((value.isalpha() and value.isupper()) or name.lower().endswith(value.lower()))


_ROWS: tuple[Context, ...] = (
    (
        rf"(?:(?<![\w.-])(?:{_ANY_WORDS})[ =]|{_INPUT} ?(?:\$(?=[\"'\\]))?){_VALUE}",
        rf"(?i:(?:{_ANY_WORDS})[ =]|<<<)",
        _is_argument,
        rf"(?i:{_ANY_FIRST_WORD}|<<<)",
    ),
    (
        rf"(?:{_ANY_PAIR}){_VALUE}",
        rf"(?i:{_ANY_PAIR})",
        _is_argument,
        r"(?i:-(?:\w{0,3}u|l|x|a|auth|user|proxy-user|auth-cred|(?:src-|dest-)?creds|credentials)[\"'`\\, =]|lftp |"
        r"secretsdump|ACL SETUSER|stats auth|aaa-server|radius server|tacacs server|impacket-|\.py \w|oracle:thin"
        r"|sqlplus|impdp|expdp|sqlldr|rman target"
        r"|\.logon |config \S+ \w+:|"
        r"WIFI:|pass:|(?:password|secret|psk|key(?:-string)?) (?:[05-9]|ascii|hex|clear|plain|encrypted))",
    ),
    (  # curl -u x:, --user "x:X", a key in the place of the user
        r"(?:^|[^\w.-])--?(?:[a-zA-Z]{0,3}u|a|auth|user)[\"'`\\, =]{1,6}(?P<value>[\w.~+/=-]{16,200}):x?"
        r"(?=[\"'`\\\s]|\Z)",
        r"(?i:-(?:\w{0,3}u|a|auth|user)[\"'`\\, =]{1,6}[\w.~+/=-]{16,}:x?(?:[\"'`\\\s]|$))",
        lambda match: looks_random(match["value"]),
        r"(?i:-(?:\w{0,3}u|a|auth|user)[\"'`\\, =])",
    ),
    (  # tool --password x
        rf"(?<!\w)--?(?P<name>[\w-]*(?:password|passwd|pass|passphrase|pw|token|secret|key))\d?(?:-string|-value|-text|"
        rf"-plain)?"
        rf"(?:{QUOTE},)?[ =]+{_VALUE}",
        r"(?i:-[\w-]*(?:pass|passwd|password|passphrase|pw|token|secret|key)[\w-]{0,8}[\\\"'`]{0,4},?[ =])",
        # of one dash only those of a password: keytool -keypass x
        lambda match: (
            (meaning(match["name"]) == "password" if match[0][1] != "-" else bool(meaning(match["name"])))
            and not _is_metavariable(match)
            and _is_flag_value(match)
        ),
        TELLING_GATE,
    ),
    (  # echo x | sudo -S, echo -e "x\nx" | passwd bob, --passwordeval "echo x"
        rf"\b(?:echo (?:-\w+ )?|printf (?:{QUOTE}[^\"'\n]{{1,12}}{QUOTE} )?)"
        rf"(?:{QUOTE})?(?:[\w-]+:)?(?P<value>{VALUE_OR_PHRASE})(?:(?:\\n|\n|; ?echo |[\"'] [\"'])[^\n|]{{0,98}}?)?"
        rf"(?:{QUOTE})?\)?\s*\|\s*"
        r"(?:sudo )?(?:sudo -S|chpasswd|passwd|smbpasswd|pdbedit|kinit|su\b|cryptsetup|pw user\w+|x11vnc|vncpasswd|"
        rf"(?:\w{{2,12}} ){{0,3}}(?:secrets? (?:create|set|put|add)\b|env add \w*(?:{TELLING}))|"
        r"[^\n|;]{1,80}(?:--passw(?:or)?d-(?:on-)?stdin"
        r"|--passphrase-fd))",
        r"\| ?(?:sudo |chpasswd|passwd|smbpasswd|pdbedit|kinit|su\b|cryptsetup|pw user|x11vnc|vncpasswd|"
        r"(?:\w+ ){0,3}(?:secrets? (?:create|set|put|add)|env add )|"
        r"[^\n|;]{1,80}(?:-stdin|--passphrase-fd))",
        is_value,
        r"\| ?(?:sudo |passwd|su\b|pw user|x11vnc|vncpasswd|(?:\w+ ){0,3}(?:secrets? |env add )|smbpasswd|pdbedit|"
        r"kinit|cryptsetup)|chpasswd|-stdin|--passphrase-fd",
    ),
    (  # reg add HKLM\... /v DefaultPassword /t REG_SZ /d x
        rf"/v [\"']?\w*(?:{TELLING})\w*[\"']? (?:/t \w{{4,16}} )?/d {_VALUE}",
        rf"(?i:/v \S*(?:{TELLING_HINT})\S* [^\n]*/d )",
        _is_flag_value,
        r"/v \S+ [^\n]*/d ",
    ),
    (  # echo x > ~/.vault_pass, printf '%s' 'x' > token.txt
        rf"\b(?:echo (?:-n )?|printf (?:{QUOTE}%s(?:\\n)?{QUOTE} )?){_VALUE}(?:{QUOTE})? ?>{{1,2}} ?"
        r"[^\s|;&]{0,80}(?:pass|pwd?|token|secret|api_?key)[\w.-]{0,16}",
        r"(?i:>{1,2} ?[^\s|;&]*(?:pass|pwd?|token|secret|api_?key))",
        _is_argument,
        r"> ?[^\s|;&]*(?i:pass|pw|token|secret|key)",
    ),
    (  # cat > api.key <<EOF, and below it only the value
        r"(?:>{1,2}|\btee) ?[^\s|;&<]{0,80}(?:pass|pwd?|(?P<key>token|secret|key))[\w.-]{0,16} ?"
        r"<<-?[\"']?(?P<end>\w{2,16})[\"']?\n\s{0,8}(?P<value>[^\s\"'`<>]{6,256})\s{0,8}\n\s{0,8}(?P=end)\b",
        r"(?i:(?:>|tee) ?[^\s|;&<]*(?:pass|pwd?|token|secret|key)[\w.-]{0,16} ?<<)",
        lambda match: looks_random(match["value"]) if match["key"] else is_mixed_value(match),
        r"<<-?[\"']?[A-Z]",
    ),
    (  # sed 's/YOUR_API_KEY/x/' .env
        rf"\bsed\b[^\n]{{0,60}}?[\"' ]s(?P<by>[/|#,@])[^\n]{{0,80}}?(?P<name>{TELLING})[^\n/]{{0,24}}?(?P=by)"
        r"(?P<value>(?:(?!(?P=by))[^\s\"'`\\<>]){8,200})(?P=by)",
        rf"(?i:\bsed\b[^\n]*[\"' ]s[/|#,@][^\n]*(?:{TELLING_HINT}))",
        lambda match: (
            not re.fullmatch("[a-z0-9]{1,12}(?:_[a-z0-9]{1,12})+", value := match["value"])
            and (
                looks_random(value)
                or (meaning(match["name"]) == "password" and is_mixed_value(match) and not meaning(value))
            )
        ),
        r"\bsed\b",
    ),
    (
        rf"passw(?:or)?d[-_]?(?:eval|cmd|command)[ =]+[\"']+echo (?:-n )?(?P<value>{VALUE})",
        r"(?i:passw(?:or)?d[-_]?(?:eval|cmd|command)[ =])",
        is_value,
        TELLING_GATE,
    ),
    (  # expect "assword:" and then send "x\r"
        rf"ass(?:word|phrase)[^\n]{{0,60}}(?:\n[^\n]{{0,40}}){{0,2}}?\bsend(?P<line>line)?(?: --)? ?\\{{0,3}}"
        rf"[\"{{(]{{1,2}}'?(?P<value>{VALUE_OR_PHRASE})(?(line)|\\+[rn])",
        r"(?i:send(?:line)?(?: --)? ?\\{0,3}[\"{(])",
        is_value,
        r"(?i:send(?:line)? ?(?:--|\\|[\"{(]))",
    ),
    (  # keyvault secret set --name db --value x
        rf"(?:\bsecrets? (?:set|create|put|add)\b|\bput-parameter\b(?=[^\n|;]{{0,300}}SecureString))[^\n|"
        rf";]{{0,160}}? --(?:value|body|"
        rf"data)[ =](?!@){_VALUE}",
        r"(?i:(?:secrets? (?:set|create|put|add)|put-parameter)[^\n]* --(?:value|body|data))",
        _is_flag_value,
        rf"{TELLING_GATE}|put-parameter",
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
# between a line and what it prints: a rule or a fence; what an interpreter or a debugger shows before a value
_BREAK = r"(?:\n|\\{1,3}n)"  # also in JSON
_RULE = r"(?:\s{0,4}[=`~-]{3,}\w{0,8}(?:\n|\\{1,3}n))?"
_PROMPT = (
    r"(?:Out\[\d+\]: |(?:Observation|Output|Result|Answer|A|stdout): |\w+: String = |=> |\$\d+ = (?:0x\w+ )?|\[\d+\] |"
    # the next element of an accessibility tree
    r"(?P<shown>- (?:code|text|generic|strong|cell|definition|paragraph|StaticText)(?: \[[\w=-]{1,24}\]){0,4}: ))?"
)
_ABOUT_HASHES = re.compile(
    r"\bgit\b(?! config)|docker (?!exec)|sha\d|md5|hash|commit|public|fingerprint|checksum|digest|\bids?\b|[-_]id\b",
    re.IGNORECASE,
)
_OF_THE_EAST = re.compile(f"[{EAST}]")  # a sentence, whose words no spaces part
_PRINTED_PASSWORD = re.compile(rf"{_PRINTING}|pass|pwd|\bpw\b|secret|geslo", re.IGNORECASE)
_LABEL = re.compile(rf"(?i)\s*(?:[\w'-]{{1,16}} ){{0,2}}(?:{SPOKEN}):?\s*")  # of a field, alone in its line
_CONSTANT = re.compile(
    r"(?-i:[A-Z][A-Z\d]*_(?:[A-Z\d]+_)*(?:[A-Z\d]*[A-Z]{4}|[A-Z]{2,})(?:_\d)*)"
)  # OSSL_DEPRECATEDIN_3_0
_NEXT_STRING = re.compile(r"[\"'`],?\s*\n\s*[\"'`]\Z")  # of a list, one a line
_LABELS = re.compile(rf"(?:{TELLING})\w{{0,8}}[:*]?\s*\Z", re.IGNORECASE)  # what follows: the line ends in its name
_COMMAND = re.compile(  # a prompt, a question, a call in JSON, or a program that shows something
    r"\A\s*(?:\S{0,40}[>$#%)\]:]|PS|In|irb\S*)(?:\s|\Z)|[\"}?]\Z|\b(?:cat|echo|print\w*|jq|yq|get|show|read|type|awk"
    r"|cut|lookup)\b"
)


def _is_printed(match: re.Match[str]) -> bool:
    """Whether what stands alone in the line below a command or an announcement is the secret that it prints."""
    start, value = match.string.rfind("\n", 0, match.start()) + 1, match["value"]
    asked = match.string[start : match.start("value")]
    code = EXPRESSION.match(value) or _CONSTANT.fullmatch(value) or re.search(r"\.[a-z]{2,4}\.?\Z", value)
    code = code or re.search(r"\A@?[\w.:-]*[(\[{,<]|:\Z|\A[A-Za-z_][\w.-]*[=:](?:[^=]|\Z)", value)
    code = code or re.match(r"\s?[\"'`]\s?[:=([.]", match.string[match.end() :])  # the key of a mapping
    unnamed = match["shown"] and not _LABELS.search(re.split(r"\n|\\n", asked)[0])
    row = any(mark in value and mark in asked for mark in ";|")  # of a table
    if (
        code
        or row
        or unnamed
        or not is_value(match)
        or _ABOUT_HASHES.search(asked)
        or re.search(r"[A-Z]-----\s*\Z", asked)  # of a signature or a certificate
        or _NEXT_STRING.search(asked)
        or "\x1b" in value
        or _OF_THE_EAST.search(value)
        or (value.isalpha() and not value.isascii())
        or re.fullmatch(r"\w+\)+;?", value)  # the end of a call
    ):
        return False
    if "/" in value:
        return len(value) >= 20 and is_random_token(value, 3.2)
    if is_hash(value):
        return len(value) >= 20 and looks_random(value)
    if is_phrase(value) and not (_COMMAND.search(asked.rstrip()) or _LABEL.fullmatch(asked.rstrip("`~=- \n"))):
        return False
    return looks_random(value) or bool(_PRINTED_PASSWORD.search(asked) and (is_strong(match) or is_phrase(value)))


DETECTORS = (
    *contexts(_ROWS),
    detector(  # $ openssl rand -hex 32, $ cat password.txt, >>> api_key, Token created. and below it only the value
        "password",
        rf"(?:{TELLING}|{_PRINTING})[^\n]{{0,160}}?{_BREAK}{_RULE}\s{{0,8}}{_PROMPT}(?:b?{QUOTE})?"
        rf"(?P<value>{PHRASE}|[^\s\"'`\\]{{6,256}})(?:{QUOTE})?[ \t\r]*(?={_BREAK}|\\{{0,3}}[\"']|\Z)",
        rf"(?i:(?:{TELLING_HINT}|{_PRINTING})[^\n]*{_BREAK}{_RULE}\s{{0,8}}{_PROMPT}"
        rf"b?[\\\"'`]{{0,4}}(?:[^\s\"'`\\]{{6}}[^\s\"'`\\]*|[a-z]{{3,12}}(?: [a-z]{{3,12}}){{2,9}})"
        rf"[\\\"'`]{{0,4}}[ \t\r]*(?:{_BREAK}|[\\\"'n]|$))",
        "value",
        accept=_is_printed,
        flags=re.IGNORECASE,
        anchored=True,
        gate=rf"(?i:{TELLING_HINT}|{_PRINTING})",
    ),
    detector(
        "password",
        _VALUE,
        rf"(?i:{_ANY_FLAG})",
        "value",
        accept=_is_flag_value,
        find=_flag_values,
        gate=rf"(?i:{_TOOLS})",
    ),
)
