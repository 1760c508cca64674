"""Passwords as programs, files and protocols note them."""

import re

from grokora_pipeline.sessions.redaction.detector import (
    IN_MANUALS,
    PHRASE,
    QUOTE,
    QUOTED,
    TELLING,
    TELLING_GATE,
    TELLING_HINT,
    VALUE,
    VALUE_OR_PHRASE,
    Context,
    contexts,
    is_generated,
    is_hash,
    is_mixed,
    is_mixed_value,
    is_value,
    is_wordlike,
    looks_random,
)
from grokora_pipeline.sessions.redaction.names import SPOKEN, meaning
from grokora_pipeline.sessions.redaction.passwords import CHOSEN, CODE, is_chosen, is_named
from grokora_pipeline.sessions.redaction.tokens import from_base64, is_known_id

NO_FIELD = re.compile(
    "forgot|reset|show|hide|link|button|remember|save|hint", re.IGNORECASE
)  # beside a field for a password
_FIELD = rf"(?:{SPOKEN}|passwd|pwd|pass|pin|otp|(?<![a-z])pw(?![a-z]))"
_TYPES = (
    "send_keys|sendkeys|fill|type|keystroke|input text|press_sequentially|typewrite|write|set_value|setvalue|"
    "set_text|input_text|enter_text|"
    "type_text"
)
_TYPERS = (  # with what stands before the text
    r"(?:x?doo?tool|vncdo|wtype|keystroke|sendinput|sendkeys|send|typewrite|write|type)(?: [a-z-]{1,12}){0,3}?"
    r"(?: --?\w{1,12}(?: \d{1,4})?| type){0,4}(?: |\(|\{raw\}){1,2}"
)
_CONNECTING = (  # with three arguments or more
    r"Minio|MapNetworkDrive|connect(?:ion)?|PDO|FTP|ftp_login|linkedsrvlogin|sp_addlinkedsrvlogin|SSHClient"
    r"|createDriver|dial\w*|"
    r"Sequelize|start_?session"
)
_CALLS = (  # whose last argument in quotes is a password or a key
    r"WiFi\w*\.(?:begin|softAP)|PasswordAuthentication|BasicAuth(?:entication)?|basic_auth|UserPass\w*|"
    r"UsernamePassword\w*|simple_bind\w*|\.bind(?:_s)?|\.basic|set_?password|add_?user|sign_?in\w*|create_?user\w*|"
    r"NetworkCredential(?:\]::new)?|PSCredential(?:\]::new)?|Credentials::new|jwt\.(?:sign|verify|encode|decode)|"
    r"createHmac|pgp_sym_\w+|AES\.(?:en|de)crypt|db\.auth"
)
_ELEMENTS = "type|element|selector|label|field|locator|target|placeholder"
_IN_FIELD = (
    rf"(?:{QUOTE}|\b)(?:{_ELEMENTS})(?:{QUOTE}\s?:|=)\s?{QUOTE}[^\"'`\n]{{0,80}}"
    rf"(?:{SPOKEN}|passwd|pwd|pass)[^\"'`\n]{{0,60}}{QUOTE}"
)
_TYPED = rf"(?:{QUOTE}|\b)(?:text|value|input|content)(?:{QUOTE}\s?:|=)\s?{QUOTE}(?P<value>[^\"'`\\\s]{{4,80}}){QUOTE}"
_FROM_HEX = r"(?:Buffer\.from|\w{0,9}\.?fromhex|\w{0,8}\.?unhexlify|hex\.decode\w{0,6})"
_BYTES = r"bytes|bytearray|(?:new )?byte ?\[\]|\[\w{0,4}\](?:byte|uint8|u8)|(?:new )?Uint8Array(?:\.\w+)?|Buffer\.from"
_COOKIE = re.compile(  # one that has a value
    r"(?i)(?:\A|; ?)(?!(?:max-age|expires|path|domain|samesite)=)"
    # words tell how a page is to look; what a session is known by may be one
    r"(?:[\w.-]*(?:sess|auth|tok|id|user|login|jwt|key)[\w.-]*=|[\w.-]+=(?![a-z]+(?:[/_-][a-z]+)*(?:[;\s]|\Z)))"
    r"(?!deleted)[^;\s{<$%]{4}"
)
_KIND, _LINES = rf"kind: ?(?:{QUOTE})?secret\b(?:{QUOTE})?", r"(?:(?!---)[^\n]*\n){0,12}?"
_ALGORITHM = re.compile(r"(?i)(?:sha|md|blake|argon|bcrypt|pbkdf|scrypt)[\w-]*\Z")
_OF_USERS = re.compile(r"(?i)\b(?:user|grant|role|connect)\b")  # what is identified by a password
_ROWS: tuple[Context, ...] = (
    (  # os.environ.setdefault('API_KEY', 'x'), put(Context.API_KEY, "x"), {:password, "x"}
        rf"(?:\b(?:set\w*|getenv|get|define|put\w*)\(\s?(?:{QUOTE})?|"
        rf"(?<![\w:]):)(?P<name>[\w.-]*(?:{TELLING})\w*)(?:{QUOTE})?\s?,\s{{0,12}}[bru]?{QUOTED}",
        rf"(?i:(?:(?:set\w*|getenv|get|define|put\w*)\(\s?[\\\"'`]{{0,4}}|:)[\w.-]*(?:{TELLING_HINT}))",
        # an identifier before one more argument is a name, too: config.set("credentials", "access_key_id", x)
        lambda match: (
            is_named(match)
            and not (
                re.fullmatch(r"_?[a-z]+\d?(?:_[a-z]+)+", match["value"])
                and re.match(r"[\"'`]\s?,", match.string[match.end() :])
            )
        ),
        TELLING_GATE,
    ),
    (  # <input type="password" value="x">
        rf"type={QUOTE}password{QUOTE}[^<>\n]{{0,120}}?\bvalue={QUOTE}(?P<value>{VALUE_OR_PHRASE})",
        r"(?i:type=[\\\"'`]{1,4}password)",
        is_value,
        TELLING_GATE,
    ),
    (  # <input value="x" name="api_key">
        rf"\bvalue={QUOTE}(?P<value>[^\s\"'`\\<>]{{6,200}}){QUOTE}"
        rf"(?:\s{{1,8}}[\w-]{{1,20}}={QUOTE}[^\"'<>\n]{{0,80}}{QUOTE}){{0,5}}"
        rf"\s{{1,8}}(?:name|id|key|placeholder|title|aria-label)={QUOTE}"
        rf"(?P<name>[\w .-]{{0,24}}(?:{TELLING})[\w-]{{0,24}}){QUOTE}",
        rf"(?i:\bvalue=[\\\"'`]{{1,4}}[^\s\"'`\\<>]{{6}}[^<>\n]*(?:{TELLING_HINT}))",
        lambda match: is_named(match) and is_mixed(match["value"]),
        r"(?i:value=[\"'\\])",
    ),
    (  # ENV DB_PASSWORD x, setx DB_PASSWORD x; #define PASSWORD "x", (setq password "x"), ALTER USER y PASSWORD 'x'
        rf"\b(?:(?P<bare>ENV|ARG|setx|set -g?x|setenv|set-environment(?: -g)?)|setq?|def\w*|with|user \S{{1,40}}"
        rf"|alter \S{{1,40}} \S{{1,40}})"
        rf" (?P<name>\w*(?:{TELLING})\w*) (?(bare)(?:{QUOTE})?|{QUOTE})(?P<value>{VALUE_OR_PHRASE})",
        rf"(?i:(?:ENV|ARG|setx|set -g?x|setenv|set-environment(?: -g)?) \w*(?:{TELLING_HINT})|"
        rf"(?:setq?|def\w*|with|user \S+|alter \S+ \S+) \w*(?:{TELLING_HINT})\w* [\\\"'`])",
        is_named,
        TELLING_GATE,
    ),
    (  # password_field.send_keys("x"), page.get_by_label("Password").fill("x")
        rf"{_FIELD}[^\n;]{{0,60}}?\.(?:(?:{_TYPES})\(|value ?= ?)"
        rf"\s?{QUOTE}(?P<value>[^\"'`\\\n]{{4,80}}){QUOTE}(?:\s?[,;)<&|}}\"'\\]|\Z|\n)",
        rf"(?i:\.(?:(?:{_TYPES})\(|value ?= ?[\\\"'`]))",
        is_value,
        "",
    ),
    *(  # what a command or a call types, where the line above it or a comment behind it says so
        (
            rf"{before}(?P<value>{VALUE_OR_PHRASE}){behind}",
            rf"(?i:{hint})",
            lambda match: is_mixed_value(match) and (match["field"] is not None or looks_random(match["value"])),
            TELLING_GATE,
        )
        for named in (rf"(?:(?P<field>{_FIELD})|{TELLING})",)
        for before, behind, hint in (
            (
                rf"(?:#|//|;|--|\brem)[^\n]{{0,60}}?{named}[^\n]{{0,40}}\n[^\n]{{0,40}}?\b(?:{_TYPERS})(?:{QUOTE})?",
                "",
                rf"(?:#|//|;|--|\brem)[^\n]{{0,60}}(?:{TELLING_HINT})[^\n]*\n[^\n]*\b(?:{_TYPERS})",
            ),
            (  # I enter the password. type(content='x')
                rf"{named}[^\n\"'`=:]{{0,40}}\n[^\n\"'`(]{{0,24}}\b(?:{_TYPES})\((?:[^()\n]{{0,40}}[,=] ?)?{QUOTE}",
                rf"(?:\\n)?{QUOTE}",
                rf"(?:{TELLING_HINT})[^\n\"'`=:]{{0,40}}\n[^\n\"'`(]{{0,24}}\b(?:{_TYPES})\(",
            ),
            (
                rf"\b(?:{_TYPERS})(?:{QUOTE})?",
                rf"[^\n]{{0,40}}\s(?:#|//|;|--)[^\n]{{0,40}}?{named}",
                rf"\b(?:{_TYPERS})[^\n]*\s(?:#|//|;|--)[^\n]*(?:{TELLING_HINT})",
            ),
        )
    ),
    *(  # {"element": "Password field", "text": "x"} within a text, in either order
        (
            rf"{first}[^{{}}\n]{{0,80}}?{second}",
            rf"(?i:(?:{_ELEMENTS})(?:[\\\"'`]{{1,4}}\s?:|=)[^\n]*(?:{SPOKEN}|passwd|pwd|pass))",
            lambda match: is_value(match) and not NO_FIELD.search(match.group()),
            TELLING_GATE,
        )
        for first, second in ((_IN_FIELD, _TYPED), (_TYPED, _IN_FIELD))
    ),
    (  # by what says how it is kept, or that it is not shown: {noop}x of Spring, ##vso[...] of Azure's pipelines
        rf"(?:\{{(?:noop|cipher|clear|plain)(?:text)?\}}|\bissecret=true\])(?P<value>{VALUE})",
        r"(?i:\{(?:noop|cipher|clear|plain)(?:text)?\}|issecret=true\])",
        is_mixed_value,
        "",
    ),
    (  # UPDATE settings SET value = 'x' WHERE name = 'api_key'
        rf"\bset \w{{0,16}}(?:value|data|content)\w{{0,8}} ?= ?N?{QUOTED}{QUOTE}[^\n;]{{0,80}}?"
        rf"\bwhere [\w.]{{1,40}} ?= ?N?{QUOTE}(?P<name>[\w.-]*(?:{TELLING})\w*)",
        rf"(?i:set \w*(?:value|data|content)\w* ?= ?[^\n]* where [\w.]+ ?= ?[^\n]{{1,48}}(?:{TELLING_HINT}))",
        is_named,
        TELLING_GATE,
    ),
    (  # what a job masks
        rf"::add-mask::(?P<value>{VALUE})",
        r"::add-mask::",
        is_value,
        "",
    ),
    (  # as crackers of passwords print them, and Windows the keys of its networks
        r"(?:^Password for the \[\w+\] user[^\n]{0,40}\nNew value: |\bNTLM\s{1,12}: |KEY FOUND! \[ "
        r"|\bKey Content\s{1,16}: |(?:\A|\n)[0-9a-f]{32,128}:)"
        rf"(?P<value>{PHRASE}|[^\s:]{{6,64}})",
        r"(?i:user[^\n]*\nNew value: |NTLM\s+: |KEY FOUND!|Key Content\s+: )|[0-9a-f]{32}:(?:[^\s:]{6}"
        r"|[a-z]{3,} [a-z])",
        is_mixed_value,
        "",
    ),
    (  # as john prints them
        r"(?:password hash|guesses|\bjohn\b)[^\n]{0,80}\n(?:[^\n]{0,120}\n){0,8}?"
        r"(?P<value>\S{4,64}|[a-z]+(?: [a-z]+){2,9})[ \t]{2,}\([\w.@$-]{1,40}\)[ \t]*(?=\n|\Z)",
        r"(?i:password hash|guesses|\bjohn\b)[^\n]*\n(?:[^\n]*\n){0,8}?[^\n]*[ \t]{2}\([\w.@$-]+\)[ \t]*(?:\n|$)",
        is_value,
        r"(?i:password hash|guesses|john)",
    ),
    (  # bob:x:1000:1000::/home/bob:/bin/sh, where a file of users has no "x" or a hash
        r"(?:\A|\n)[\w.$-]{1,32}:(?P<value>[^\s:*!$][^\n:]{3,63}):\d+:\d+:[^:\n]{0,80}:[/\w]",
        r"(?:^|\n)[\w.$-]+:[^:\n]{4,}:[0-9]+:[0-9]+:[^:\n]*:",
        is_value,
        r":[0-9]+:[0-9]+:[^:\n]*:",
    ),
    (  # of Terraform's state
        rf"\brandom_password\b[^}}]{{0,600}}?\bresult(?:{QUOTE})?\s{{0,12}}[:=]\s?{QUOTED}",
        r"random_password[^}]*result",
        None,
        r"random_password",
    ),
    (  # page.fill("#password", "x")
        rf"\b(?:{_TYPES})\(\s?(?P<open>{QUOTE})(?:(?!(?P=open))[^\n]){{0,60}}{_FIELD}(?:(?!(?P=open))[^\n]){{0,40}}"
        rf"(?P=open)\s?,\s?{QUOTE}(?P<value>{VALUE_OR_PHRASE})",
        rf"(?i:(?:{_TYPES})\()",
        is_value,
        "",
    ),
    (  # db.example:5432:name:user:x
        r"(?<![\w.:])[\w.*-]+:(?:\d{4,5}|\*):[\w*-]+:[\w*.-]+:(?P<value>[^\s\"'`\\:]{6,})",
        r":(?:[0-9]{4,5}|\*):[\w*-]+:[\w*.-]+:[^\s:]",
        is_mixed_value,
        r":(?:[0-9]{4,5}|\*):[\w*-]",
    ),
    (  # IDENTIFIED BY 'x'
        r"\bidentified (?:with \S+ )?by (?:password )?\\{0,3}[\"'](?P<value>[^\"'`\\\n]+)",
        r"(?i:identified )",
        lambda match: (
            is_value(match) and bool(_OF_USERS.search(match.string, max(0, match.start() - 160), match.start()))
        ),
        "",
    ),
    (  # auth=('bob', 'x'), basic_auth = ["bob", "x"], login('bob', 'x')
        rf"(?:\b(?:(?:basic_?)?auth|cred(?:ential)?s)\s?[=:]\s?[(\[]|(?:BasicAuth|\blog_?in|sign_?in|\.auth"
        rf"(?:enticate)?|\w{{3}}Credentials?|"
        rf"(?P<directory>DirectoryEntry))\()"
        rf"\s?{QUOTE}[^\"'`\n]{{0,80}}{QUOTE},\s{{0,30}}"
        rf"(?(directory){QUOTE}[^\"'`\n]{{0,80}}{QUOTE},\s{{0,30}}){QUOTE}(?P<value>{VALUE_OR_PHRASE})",
        r"(?i:(?:auth|cred(?:ential)?s)\s?[=:]\s?[(\[]|(?:BasicAuth|log_?in|sign_?in|\.auth(?:enticate)?|credentials?"
        r"|DirectoryEntry)\()",
        lambda match: is_value(match) and len(match["value"]) > 1 and match["value"].lower() not in IN_MANUALS,
        "",
    ),
    (  # HTTPBasicAuth("x", ""), auth: { username: "x", password: "" }: a key in the place of the user
        rf"(?:\b\w{{0,12}}auth\w{{0,12}}(?: ?[=:] ?)?[(\[]|\buser(?:_?name)?(?:{QUOTE})?\s?[:=]\s?)\s?{QUOTE}"
        rf"(?P<value>[^\s\"'`\\]{{16,200}}){QUOTE},\s{{0,30}}(?:(?:{QUOTE})?pass(?:word)?(?:{QUOTE})?\s?[:=]\s?)?"
        r"\\{0,3}(?P<mark>[\"'])x?\\{0,3}(?P=mark)",
        r"(?i:[^\s\"'`\\]{16}\\{0,3}[\"'`],\s{0,30}(?:[\\\"'`]{0,4}pass(?:word)?[\\\"'`]{0,4}\s?[:=]\s?)?"
        r"\\{0,3}[\"']x?\\{0,3}[\"'])",
        lambda match: looks_random(match["value"]),
        r"(?i:auth|user)",
    ),
    (  # ConvertTo-SecureString -AsPlainText "x", set_password("x")
        r"(?:ConvertTo-SecureString (?:-(?:String|AsPlainText|Force) ){0,3}(?!-)|"
        rf"(?:\b|set_?|with)password\((?={QUOTE}))(?P<quote>{QUOTE})?(?:\{{\w{{2,12}}\}})?"
        rf"(?P<value>(?(quote)(?:{PHRASE}|(?:(?!(?P=quote))\S){{4,120}})(?=(?P=quote))|{VALUE_OR_PHRASE}))(?! ?\w|"
        rf"{QUOTE}, ?{QUOTE})",
        r"(?i:ConvertTo-SecureString|password\([\\\"'`])",
        lambda match: is_value(match) and (is_generated(match["value"]) or not CODE.fullmatch(match["value"])),
        "",
    ),
    (  # new ethers.Wallet("0x..."), Account.from_key("...")
        rf"(?:wallet|from_?key|private_?key\w*|toaccount|signingkey)\(\s?{QUOTE}(?P<value>(?:0x)?[0-9a-f]{{64}})\b",
        r"(?i:(?:wallet|key\w*|toaccount)\([^0-9a-f]{0,5}(?:0x)?[0-9a-f]{64})",
        None,
        r"\([\\\"']{0,4}(?:0x)?[0-9A-Fa-f]{64}",
    ),
    (  # https://eth-mainnet.example/v2/x: what follows a version as a name does not; a hash only at the end
        r"://(?:[^\s\"'<>@]{3,120}/(?:v\d(?:\.\d)?|rpc|ws)|(?P<node>[\w.-]*(?:rpc|node|mainnet|testnet)[\w.-]*))/"
        r"(?P<value>[\w-]{20,})(?![\w.?-])(?P<more>/?)",
        r"://[^\s\"'<>@]+/(?:v[0-9](?:\.[0-9])?|rpc|ws)/[\w-]{20}|://[\w.-]*(?:rpc|node|mainnet"
        r"|testnet)[\w.-]*/[\w-]{20}",
        lambda match: (
            is_mixed(match["value"])
            and (
                not match["more"] or match["node"] is not None
                if is_hash(match["value"])
                else looks_random(match["value"])
            )
        ),
        r"/(?:v[0-9](?:\.[0-9])?|rpc|ws)/[\w-]{20}|(?:rpc|node|mainnet|testnet)[\w.-]*/[\w-]{20}",
    ),
    (  # https://maker.example/trigger/x/with/key/x
        r"://[^\s\"'<>@]{1,120}/[\w-]{0,20}(?:key|token|secret|magic-?link|invite|reset|confirm|verify)[\w-]{0,12}/"
        r"(?P<value>[\w-]{16,})(?![\w-])",
        r"(?i:(?:key|token|secret|magic-?link|invite|reset|confirm|verify)[\w-]*/[\w-]{16})",
        lambda match: is_mixed(match.group("value")) and looks_random(match.group("value")),
        "",
    ),
    (  # a1 LOGIN bob@example.com "x"; OpenVPN's user and password in two lines
        rf"(?:(?:\bLOGIN \S+@\S+|(?-i:\b[A-Za-z]{{0,3}}\d+ LOGIN \S+|\b[a-z]\d{{2,4}} login [^\s;,]+)) (?:{QUOTE})?"
        rf"|\"U:[^\"\n]{{1,60}}\" \"P:"
        rf"|\b334 UGFzc3dvcmQ6\s{{1,4}}|"
        rf"(?<![^\n])user \S+ (?=\S{{8,}}[ \t]*(?:\n|\Z))|"
        rf"\bauth-user-pass\b[^\n]{{0,20}}\n[^\s<>]{{1,60}}\n)(?P<value>{VALUE_OR_PHRASE})",
        r"LOGIN \S+@|[0-9] (?:LOGIN|login) |\"U:[^\"\n]+\" \"P:|334 UGFz|auth-user-pass|(?i:user \S+ \S{8,}[ \t]*"
        r"(?:\n|$))",
        is_mixed_value,
        "",
    ),
    (  # connect("host", 22, "bob", "x1"), new PDO(dsn, 'app', 'x1'), WiFi.begin("net", "x1"), jwt.sign(data, "x1")
        rf"(?:(?:{_CONNECTING})[( ](?=[^;\n]{{0,160}},[^;\n]{{0,160}},)|(?:{_CALLS})\()"
        rf"[^;\n]{{0,160}}?,\s?N?(?:Some\()?{QUOTE}(?![\w.+-]{{1,40}}@[\w-]+\.)(?=[^\"'`]{{0,60}}\d)(?!\w+\.\w)"
        rf"(?P<value>[^\s\"'`\\<>|,;:/(){{}}]{{6,64}}){QUOTE}",
        rf"(?i:(?:{_CONNECTING}|(?:{_CALLS})\())",
        lambda match: (
            is_mixed_value(match)
            and not (re.search(r"\.[a-z]{2,}\Z|^[\d.]+\Z", match["value"]) or is_known_id(match["value"]))
        ),
        rf"(?i:(?:{_CONNECTING}|{_CALLS})[( ][^\n]*,)",
    ),
    (  # mysqli_connect("host", "bob", "x", "shop"), DBI->connect($dsn, "bob", "x")
        rf"(?:mysqli?(?:_p?connect)?|DBI(?:->|\.)connect|getConnection|PDO|PlainAuth|FTP|\bdatabase|create_super_?user|"
        rf"ssh2_auth_password|login_user)\(\s?(?:[^,()\n]{{1,120}},\s?){{2}}{QUOTED}",
        r"(?i:(?:mysqli?(?:_p?connect)?|DBI(?:->|\.)connect|getConnection|PDO|PlainAuth|FTP|database"
        r"|create_super_?user|ssh2_auth_password|login_user)\()",
        lambda match: is_value(match) and (match[0][:1] not in "dF" or is_mixed_value(match)),
        "",
    ),
    (  # bcrypt.hashpw(b"x", salt), password_hash("x", ...), pbkdf2_hmac("sha256", b"x", salt)
        rf"(?:hashpw|bcrypt\.\w{{4,24}}|hash_?sync|compare_?sync|password_(?:hash|verify)|check_?pw|"
        rf"(?:generate|check)_password(?:_hash)?|(?:make|hash|verify)_?password|pbkdf2\w*|scrypt(?:_?sync)?|"
        rf"argon2\.\w{{4,12}}|derive_?key|(?:encrypt|set)_?password|aes_?cipher)\(\s?"
        rf"(?:{QUOTE}sha-?\d+{QUOTE},\s?)?b?{QUOTED}",
        r"(?i:(?:hashpw|bcrypt\.\w+|hash_?sync|compare_?sync|password_(?:hash|verify)|check_?pw|password\w*|pbkdf2\w*|"
        r"scrypt\w*|argon2\.\w+|derive_?key|aes_?cipher)\(\s?b?[\"'`\\])",
        lambda match: (
            is_value(match)
            and len(match["value"]) >= 4
            and match["value"].lower() not in IN_MANUALS
            and not _ALGORITHM.match(match["value"])
        ),
        "",
    ),
    (  # AES.new(b"x", mode), new SecretKeySpec("x".getBytes(), "AES"), key = bytes.fromhex("x"), "x".toCharArray()
        rf"\b(?:AES\.new|SecretKeySpec|Fernet|hmac\.new|[HT]OTP|"
        rf"\w{{0,12}}(?:key|seed|secret|box|aesgcm)(?: ?:?= ?|\()(?:{_FROM_HEX}))\("
        rf"\s?b?{QUOTE}(?P<value>{VALUE})",
        rf"(?i:(?:AES\.new|SecretKeySpec|Fernet|hmac\.new|[HT]OTP|{_FROM_HEX})\()",
        is_mixed_value,
        "",
    ),
    (  # uint8_t aes_key[16] = {0x2b, ...}, secret = bytes([223, ...]), Secret: []byte{33, ...}
        rf"(?<!\w)(?P<name>\w{{0,40}}?(?:{TELLING})\w{{0,24}})(?:{QUOTE})?(?:\[\w*\])?"
        rf"(?: ?: ?[\[\];\w ]{{2,16}})? ?(?::=|[:=])\s{{0,12}}"
        rf"(?:(?:{_BYTES})\s?\(?[\[{{(]|[\[{{](?=\s{{0,12}}0x))\s{{0,12}}"
        r"(?P<value>(?:(?:0x[0-9a-f]{1,2}|\d{1,3})\s?,\s{0,12}){11,}(?:0x[0-9a-f]{1,2}|\d{1,3}))",
        rf"(?i:(?:{TELLING_HINT})[^\n=]{{0,48}}[:=]\s{{0,12}}"
        rf"[^\n]{{0,24}}[\[{{(]\s{{0,12}}(?:0x)?[0-9a-f]{{1,3}}\s?,"
        r"\s{0,12}(?:0x)?[0-9a-f]{1,3}\s?,)",
        lambda match: bool(meaning(match["name"])) and len(set(re.findall(r"\w+", match["value"]))) >= 8,
        r"[0-9A-Fa-f]\s?,\s{0,12}(?:0x)?[0-9A-Fa-f]{1,3}\s?,",
    ),
    (
        rf"{QUOTE}(?P<value>{VALUE}){QUOTE}\.toCharArray\(",
        r"[\"'`]\.toCharArray\(",
        is_mixed_value,
        "",
    ),
    (  # corp/bob:x1@host, bob:x1@host
        r"(?<![\w/.:@-])(?P<domain>[\w.-]{2,40}[/\\]{1,2})?[\w.$-]{2,40}:(?P<value>[^\s:/@\"'<>\\]{8,64})"
        r"@(?!sha\d|(?:media|supports|keyframes|font-face|container|layer)\b)(?=[A-Za-z\d])[\w.-]{3,80}",
        r"[\w$]:[^\s:/@]{8,64}@[\w]",
        lambda match: (
            is_mixed_value(match)
            and not re.match(r"(?:\d{4}-\d\d-\d\d|UID):", match[0])  # the id of a message behind its day, of a date
            and (bool(match["domain"] or CHOSEN.fullmatch(match["value"])) or is_chosen(match))
        ),
        "",
    ),
    (  # CORP\\bob:x1, bob@corp.example:x1, [smtp.example.org]:587 bob:x1
        rf"(?:(?<!\w)[\w.-]{{2,20}}\\{{1,2}}[\w.$-]{{2,32}}|\b[\w.+-]{{1,40}}@[\w-]{{1,40}}(?:\.[\w-]{{2,20}}){{1,3}}|"
        rf"\bstatic:\w{{1,32}}|\]:\d{{2,5}} \w{{1,32}}):(?P<value>{VALUE})",
        r"(?:\\[\w.$-]{2,32}|@[\w-]+\.[\w.-]+|static:\w+|\]:[0-9]+ \w+):[^\s/]{8}",
        lambda match: (
            len(match["value"]) >= 8
            and is_mixed_value(match)
            and not re.search(r"/|\.\w{1,4}\Z|\A(?:\d\d|mm):|\][+*?{]", match["value"])  # a time
            and (bool(CHOSEN.fullmatch(match["value"])) or is_chosen(match))
        ),
        "",
    ),
    (
        rf"(?:\bu: \S+\s+p: |\b(?:create|alter) user \S+(?: [a-z]+){{0,5}} identified by )(?P<value>{VALUE})",
        r"(?i:\bu: \S+\s+p: |user \S+(?: [a-z]+){0,5} identified by )",
        is_mixed_value,
        "",
    ),
    (  # USER bob\nPASS x, of FTP and POP; Redis: user default on >x; activation code x
        r"(?:(?:\A|\n|[>:] |\bquote )(?:PASS|(?-i:AUTH(?: \w+)?)) (?=[^\n/]+(?<!\.[jt]s)[ \t\r]*(?:\n|\Z))|"
        r"\buser \w{1,32} on [^\n>]{0,40}>|"
        r"\b(?:activation|licen[cs]e|product|serial|unlock) (?:code|key)(?: is| ?:)? "
        r"(?P<groups>(?=(?-i:[A-Z0-9]{4,6}(?:-[A-Z0-9]{4,6}){1,7}\b))))"
        rf"(?P<value>{PHRASE}|[^\s\"'`\\<>|]{{4,64}}(?! \w))",
        r"(?:PASS [^\n]|AUTH [^\n]|user \w+ on [^\n]*>|(?i:(?:activation|licen[cs]e|product|serial|unlock) (?:code|"
        r"key)))",
        lambda match: (
            is_mixed_value(match)
            or (match["groups"] is not None and len(set(match["value"])) >= 8 and not is_wordlike(match["value"]))
        ),
        "",
    ),
    (  # option key 'x' of OpenWrt, AT+CPIN="1234", creds then ('bob', 'x1'), security question: ...? answer: x
        rf"(?:\boption key |\bpragma key ?= ?|\bCPIN=|\b(?:cred\w*|auth|log-?in)\b[^\n(]{{0,24}}"
        rf"(?:\n[^\n(]{{0,12}})?[(\[]{QUOTE}[\w.@-]{{2,40}}{QUOTE}, ?|"
        rf"\bsecurity question[^\n]{{0,80}}?answer(?:{QUOTE})?(?: is|:) ?)(?:{QUOTE})?(?P<value>\d{{4,8}}(?!\d)"
        rf"|{VALUE})",
        r"(?i:option key |pragma key|CPIN=|(?:cred\w*|auth"
        r"|log-?in)\W[^(]{0,40}[(\[][\"'`\\]{1,4}[\w.@-]+[\"'`\\]{1,4}, ?[\"'`\\]|security question)",
        lambda match: is_mixed_value(match) or match["value"].isdigit(),
        "",
    ),
    (  # bob : EAP "x", "bob" * "x" *
        r"(?:\b(?:PSK|EAP|XAUTH|NTLM) \"|(?:\A|"
        r"\n)\"?[\w.@-]{1,40}\"?[ \t]+(?:\*|\"?[\w.-]{2,20}\"?(?=[ \t]+\S+[ \t]+\*[ \t]*(?:\n"
        r"|\Z)))[ \t]+\"?)(?P<value>(?!/\w)[^\s\"]{5,63}[^\s\";,(){}])"
        r"\"?(?:[ \t]*(?:\n|\Z)|[ \t]+(?:\*(?!\w)|\d))",
        r"(?:(?:PSK|EAP|XAUTH|NTLM) \"|[ \t]\*[ \t]|[ \t]\*(?:\n|$))",
        is_mixed_value,
        "",
    ),
    (
        rf"\b(?:login |passwd/)\S+ password (?P<value>{VALUE})",
        r"(?i:(?:login |passwd/)\S+ password )",
        is_value,
        r"(?i:login |passwd/)",
    ),
    (  # if ("x1" == api_key)
        rf"(?P<quote>[\"'])(?P<value>[^\s\"'`\\]{{6,98}})(?P=quote) ?(?:===?|!==?) ?"
        rf"[$\w.]{{0,40}}?(?P<name>[a-z]{{0,20}}_?(?:{TELLING})\w{{0,24}})",
        rf"(?i:[\"'] ?(?:===?|!==?) ?[$\w.]*(?:{TELLING_HINT}))",
        lambda match: is_named(match) and is_mixed(match["value"]),
        TELLING_GATE,
    ),
    (  # Authorization: Basic x, also in JSON
        rf"\bauthorization(?:{QUOTE})?(?:\s?[:=]\s?(?:{QUOTE})?|[\s,]{{1,3}}{QUOTE}(?=(?:basic|bearer|token|apikey) ))"
        r"(?:(?P<scheme>(?:basic|token|bearer|ssws|apikey|negotiate|key) )|digest [^\n]{0,200}?\bresponse=[\\\"']{0,4}|"
        r"[a-z][\w-]{2,20} (?=[\w.~+/=-]*\d))?"
        # behind a scheme any marks between its parts; and no call
        r"(?P<value>(?(scheme)(?=[\w.~+/=|:!$%*^@#;-]{6})[\w.~+/=-]+(?:[|:!$%*^@#;]+[\w.~+/=-]+)*|[\w.~+/=-]{6,}))"
        r"(?![\w.~+/=(\[-])",
        r"(?i:authorization[\\\"'`]{0,4}[\s:=,])",
        lambda match: (
            is_value(match)
            and (len(match["value"]) >= 8 or (bool(match["scheme"]) and is_mixed(match["value"])))
            and (
                "=" in match["value"]
                or not match["value"].islower()
                or is_mixed(match["value"])
                or looks_random(match["value"])
            )
            and not match["value"].lower().endswith("authorization")  # another header
        ),
        r"(?i:authorization)",
    ),
    (  # Basic, and a user and a password in Base64
        r"\bbasic\s+(?P<value>[A-Za-z0-9+/]{8,}={0,2})(?![\w+/=])",
        r"(?i:basic\s+[A-Za-z0-9+/]{8})",
        lambda match: ":" in (from_base64(match["value"]) or ""),
        r"(?i:basic\s)",
    ),
    (r"\bbearer\s+(?P<value>[\w.~+/=-]{8,})", r"(?i:bearer\s+[\w.~+/=-]{8})", is_mixed_value, r"(?i:bearer\s)"),
    (  # Cookie: a=b; c=d
        rf"\b(?:set-)?cookies?(?:{QUOTE})?\s?[:=]\s?(?:{QUOTE})?(?P<value>[\w.-]+=[^\n\"'`]{{6,}})",
        r"(?i:cookies?[\\\"'`]{0,4}\s?[:=])",
        lambda match: bool(_COOKIE.search(match["value"])),
        r"(?i:cookies?[^a-z])",
    ),
    (  # any name in the query of a URL, before the next one
        rf"[?&](?P<name>[\w.-]{{0,40}}(?:{TELLING})\w{{0,24}})=(?P<value>[^\s&\"'`<>\\#{{}}]{{6,200}})(?=&)",
        rf"(?i:[?&][\w.-]*(?:{TELLING_HINT})\w*=)",
        lambda match: is_named(match) and is_mixed_value(match),
        TELLING_GATE,
    ),
    (  # the query of a URL
        r"[?&;](?:pass|pw|sig|signature|key|code|auth|appid|X-Amz-(?:Signature|Credential|"
        r"Security-Token))=(?P<value>[\w.~%+/-]{6,}={0,2})",
        r"(?i:[?&;](?:pass|pw|sig|signature|key|code|auth|appid|X-Amz-(?:Signature|Credential|Security-Token))=)",
        is_mixed_value,
        "",
    ),
    (  # the values of a Secret of Kubernetes, whose kind stands before or after them
        rf"(?P<kind>\b{_KIND}[ \t]*\n{_LINES})?(?<![^\n])(?P<indent>[ \t]*)(?:stringdata|data):[ \t]*\n"
        rf"(?P<value>(?:(?P=indent)[ \t]+[^\n]+(?:\n|\Z))+)(?(kind)|(?={_LINES}[ \t]*{_KIND}))",
        r"(?i:kind: ?[\\\"'`]{0,4}secret\b)",
        lambda match: "{{" not in match["value"] and bool(re.search(r"[\w+/]{8}", match["value"])),
        "",
    ),
)
DETECTORS = contexts(_ROWS)
