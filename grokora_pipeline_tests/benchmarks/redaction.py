"""How much of what is secret redaction finds, and how much it leaves of what is not: prints one JSON line.

    python -m grokora_pipeline_tests.benchmarks.redaction [--misses] [--corpus FILE.jsonl ...]

Every value is generated from a format, none is anybody's. Sources: `formats` (keys with a prefix of their own), `rules`
(strings generated from the patterns of the kingfisher rules; those are also a detector, so this measures what is left
of them in our texts), `named` (values without a form beside a telling name), `contexts` (the ways passwords stand in
shells, files and sentences), `invented` (keys behind names that no service has). Carriers hold the same values as
arguments of a call, in nested JSON, Base64, a URL, and so on. A corpus file adds a source: a line is
`{"source", "kind", "text", "secret"}`. `clean` counts texts of 200 kinds
that hold no secret and come out altered; `stdlib` chunks of 40 lines of Python's own library, but for their e-mails.
"""

import argparse
import base64
import html
import json
import random
import re
import string
import sysconfig
import textwrap
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from grokora_pipeline.sessions.redaction.redactor import Redactor
from grokora_pipeline_tests.benchmarks.redaction_texts import CLEAN, CONTEXTS, FORMATS, NAMED, NAMES, VALUES

ALPHABETS = {
    "A": string.ascii_letters + string.digits,
    "a": string.ascii_lowercase + string.digits,
    "U": string.ascii_uppercase + string.digits,
    "h": "0123456789abcdef",
    "H": "0123456789ABCDEF",
    "d": string.digits,
    "l": string.ascii_lowercase,
    "w": string.ascii_letters + string.digits + "_-",
    "b": string.ascii_letters + string.digits + "+/",
    "p": string.ascii_letters + string.digits + "!#%&*+-.?@^_~",
}
_PLACE = re.compile(r"\{([a-zA-Z])(\d+)\}")


class Case(NamedTuple):
    """A secret of a kind in a text."""

    source: str
    kind: str
    text: str
    secret: str


def filled(template: str, rng: random.Random) -> str:
    """A template such as `ghp_{A36}` with random characters in its places."""

    def run(match: re.Match[str]) -> str:
        alphabet, length = ALPHABETS[match[1]], int(match[2])
        while True:
            text = "".join(rng.choices(alphabet, k=length))
            mixed = any(char.isdigit() for char in text) or match[1] == "l" or length < 8
            if mixed and text[-1].isalnum() and text[0].isalnum():
                return text

    return _PLACE.sub(run, template)


def cases(rng: random.Random, each: int) -> Iterator[Case]:
    """The plain cases of all sources."""
    for _ in range(each):
        for kind, template in FORMATS.items():
            secret = filled(template, rng)
            text = rng.choice(
                ("use {} now", "export THE_THING={}", "curl -H 'x: {}' host", "{}", "found ({}).", 'k("{}")')
            )
            yield Case("formats", kind, text.format(secret), secret)
        for name in NAMES:
            for values, template in VALUES.items():
                secret = filled(template, rng)
                yield Case("named", f"{name} {values}", rng.choice(NAMED).format(name, secret), secret)
        for kind, (context, template) in CONTEXTS.items():
            secret = filled(template, rng)
            yield Case("contexts", kind, context.replace("{}", secret), secret)
        yield from rule_cases(rng)
        for form, secret in invented(rng, 150):
            yield Case("invented", form, f"it shows {secret} there", secret)


_SYLLABLES = (
    "al an ar be bo ca co da de do el en fa fi ga go ha he in jo ka ko la li ma mi na no or pa pe qua ra ri sa so ta "
    "ti to va ve wa xa ze zo"
)
_KINDS = (
    "live prod test stage dev key api token tok secret sec pat sk at rt svc svcacct sa bot admin ci oauth refresh auth "
    "agent deploy rw ro personal ws"
)
_BODIES = (
    *(
        "{a20}",
        "{a32}",
        "{a40}",
        "{A20}",
        "{A24}",
        "{A32}",
        "{A40}",
        "{A64}",
        "{h32}",
        "{h40}",
        "{h64}",
        "{w32}",
        "{w43}",
    ),
    *("{U24}", "{U32}", "{A16}", "{b43}="),
)


def invented(rng: random.Random, count: int) -> Iterator[tuple[str, str]]:
    """(form, key) as services that do not exist might hand them out: a name, kinds, an environment, and a body."""
    for _ in range(count):
        name = "".join(rng.choices(_SYLLABLES.split(), k=rng.choice((1, 2, 2, 3))))
        name += rng.choice(("", "", "x", "io", "base", "2"))
        separator, body = rng.choice("___--."), rng.choice(_BODIES)
        kind, second = rng.choices(_KINDS.split(), k=2)
        form = rng.choice(
            (
                f"{name}{separator}{kind}{separator}{body}",
                f"{name}{separator}{body}",
                f"{name}{separator}{kind}{separator}{second}{separator}{body}",
                f"{kind}_{name}_{body}",
                f"{name}{separator}{kind}{separator}{body}_{{h8}}",
                f"{name.upper()}-{kind.upper()}-{rng.choice(('{U24}', '{U32}'))}",
                f"{name.upper()}_{body}",
                f"{name[:2]}x1.{{w32}}.{{w43}}",
                f"v{rng.choice('123')}.{rng.choice(('{w24}.{w43}', name + '.{w64}'))}",
                f"{name}-{kind}-v1-{body}",
                f"{name}_{{A8}}_{{A32}}",
                f"{name}-{{d10}}-{{A24}}",
                f"{name}_{kind}_{{d8}}_{{h32}}",
                f"{name}_{kind}__{body}",
                f"{name}{separator}{kind}{separator}{{a7}}-{{a7}}-{{a7}}-{{a7}}",
            )
        )
        yield form, filled(form, rng)


def rule_cases(rng: random.Random) -> Iterator[Case]:
    """Strings generated from the patterns of the second scanner's rules, where its own scanner finds one in them."""
    from kingfisher_sdk import Rules, Scanner

    rules = Rules(cache=False, confidence="low")
    scanner = Scanner(rules)
    for rule in rules.metadata():
        pattern = re.sub(r"\\z|\\Z", "", rules._native.detail(rule["id"])["pattern"])
        for _ in range(8):
            try:
                text = f"see {generated(pattern, rng)} there"
            except (re.error, KeyError):
                break
            hit = next((one for one in scanner.scan(text.encode()) if one.rule_id == rule["id"] and one.visible), None)
            if hit:
                yield Case("rules", rule["id"], text, hit.secret)
                break


def generated(pattern: str, rng: random.Random) -> str:
    """A string that a regular expression matches; repeats stay near their minimum, look-arounds are left out."""
    parser = import_module("re._parser")  # the standard library's own parser, which has no public name
    flags = 0
    for match in re.finditer(r"\(\?(-?)i\)", pattern):  # Rust allows a flag in the middle
        flags |= 0 if match[1] else re.IGNORECASE
    return _string(
        parser.parse(re.sub(r"\(\?-?i\)|\(\?-i:", lambda m: "(?:" if m[0][-1] == ":" else "", pattern), flags), rng, {}
    )


def _string(nodes: Any, rng: random.Random, groups: dict[int, str]) -> str:
    out = []
    for kind, value in nodes:
        match str(kind):
            case "LITERAL":
                out.append(chr(value))
            case "IN":
                out.append(_one_of(value, rng))
            case "NOT_LITERAL":
                out.append("q")
            case "ANY":
                out.append(rng.choice(ALPHABETS["A"]))
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                low, high, inner = value
                times = rng.randint(low, min(int(high), low + (2 if low > 1 else 1)))
                out.append("".join(_string(inner, rng, groups) for _ in range(times)))
            case "SUBPATTERN":
                text = _string(value[3], rng, groups)
                groups[value[0]] = text
                out.append(text)
            case "GROUPREF":
                out.append(groups.get(value, ""))
            case "BRANCH":
                out.append(_string(rng.choice(value[1]), rng, groups))
            case "ATOMIC_GROUP":
                out.append(_string(value, rng, groups))
            case _:
                pass  # anchors and look-arounds
    return "".join(out)


def _one_of(items: Any, rng: random.Random) -> str:
    negated = str(items[0][0]) == "NEGATE"
    chars: list[str] = []
    for kind, value in items:
        match str(kind):
            case "LITERAL":
                chars.append(chr(value))
            case "RANGE":
                chars += map(chr, range(value[0], min(value[1], 126) + 1))
            case "CATEGORY":
                name = str(value).removeprefix("CATEGORY_")
                chars += {"DIGIT": string.digits, "WORD": ALPHABETS["A"], "SPACE": " "}.get(name, "-")
    if negated:
        chars = [char for char in ALPHABETS["A"] if char not in chars] or ["_"]
    solid = [char for char in chars if char.isalnum()] or [char for char in chars if char.isprintable()] or chars
    return rng.choice(solid)


def _wrapped(text: str) -> str:
    return "\n".join(
        textwrap.wrap(f"{'some words before it, as a terminal shows them ' * 1}{text}", 80, break_on_hyphens=False)
    )


def _cut(text: str) -> str:
    """A terminal of 80 columns cuts within words."""
    text = f"some words before it, as a terminal shows them {text}"
    return "\n".join(line[at : at + 80] for line in text.split("\n") for at in range(0, max(len(line), 1), 80))


CARRIERS: dict[str, Callable[[str], Any]] = {
    "plain": lambda text: text,
    "arguments": lambda text: {"arguments": json.dumps({"command": f'echo "{text}"', "note": text})},
    "nested json": lambda text: json.dumps({"result": json.dumps({"stdout": text, "code": 0}), "ok": True}),
    "repr": lambda text: repr({"stdout": text}),
    "base64": lambda text: f"echo {base64.b64encode(text.encode()).decode()} | base64 -d",
    "url": lambda text: f"GET https://x.example/login?q={urllib.parse.quote(text, safe='')}&page=2",
    "ansi": lambda text: f"\x1b[1;32m{text}\x1b[0m",
    "html": lambda text: f"<pre>{html.escape(text)}</pre>",
    "wrapped": _wrapped,
    "wrapped in json": lambda text: json.dumps({"stdout": _cut(text)}),
    "wrapped repr": lambda text: repr({"stdout": _cut(text)}),
    "base64 of urls": lambda text: f"x={base64.urlsafe_b64encode(text.encode()).decode().rstrip('=')}",
    "form": lambda text: f"q={urllib.parse.quote_plus(text)}&page=2",
    "json in prose": lambda text: f"Output: {json.dumps({'arguments': json.dumps({'command': text})})} done",
    "yaml": lambda text: f"stdout: |\n{textwrap.indent(text, '  ')}\nrc: 0",
    "toml": lambda text: f"stdout = {json.dumps(text)}",
    "csv": lambda text: f'1,"{text.replace(chr(34), chr(34) * 2)}",x',
    "sql": lambda text: f"INSERT INTO log VALUES (1, '{text.replace(chr(39), chr(39) * 2)}');",
    "shell": lambda text: f"""echo '{text.replace("'", "'" + chr(92) + "''")}' >> notes""",
    "diff": lambda text: "@@ -1,2 +1,2 @@\n" + "\n".join(f"+{line}" for line in text.split("\n")),
    "log": lambda text: f"2025-11-12 18:21:11,910 - app.main - DEBUG - {text}",
    "xml attribute": lambda text: f'<a b="{html.escape(text)}"/>',
    "markdown table": lambda text: f"| n | v |\n|---|---|\n| 1 | {text} |",
    "typed": lambda text: {"action": "type", "text": text},
}


def leaks(secret: str, stored: str) -> bool:
    """Whether a secret, or half of it in one piece, is in what would be stored."""
    plain = stored.replace("\\n", "").replace("\n", "")
    forms = {secret, json.dumps(secret)[1:-1], html.escape(secret), urllib.parse.quote(secret, safe="")}
    forms.add(urllib.parse.quote_plus(secret))
    half = max(6, len(secret) // 2)
    lines = [line for line in secret.split("\n") if not line.startswith("-----")]
    if len(lines) > 1:
        return any(line in stored for line in lines if line)
    return any(form in plain for form in forms) or secret[:half] in plain or secret[-half:] in plain


def stored(value: Any) -> str:
    """What is left of a value, as text: JSON and Base64 inside of it are looked into."""
    redacted, _ = Redactor().redact(value)
    text = orjson.dumps(redacted).decode()
    found = [text]
    for match in re.finditer(r"[A-Za-z0-9+/_-]{16,}={0,2}", text):
        plain = match[0].translate(str.maketrans("-_", "+/"))
        try:
            found.append(base64.b64decode(plain + "=" * (-len(plain) % 4)).decode())
        except ValueError:
            continue
    return "\n".join(found)


def chunks(lines: int = 40) -> Iterator[str]:
    """Python's standard library in pieces, without the tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.glob("*.py")) + sorted(root.glob("[a-km-su-z]*/*.py")):
        if "test" in path.parts or "site-packages" in path.parts:
            continue
        text = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for start in range(0, len(text), lines):
            yield "\n".join(text[start : start + lines])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--each", type=int, default=2, help="values of each kind")
    parser.add_argument("--misses", action="store_true", help="also print what is missed and what is altered")
    parser.add_argument("--corpus", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    rng = random.Random(15)
    everything = list(cases(rng, arguments.each))
    for path in arguments.corpus:
        everything += [Case(**orjson.loads(line)) for line in path.read_bytes().splitlines()]
    total, found = Counter[str](), Counter[str]()
    by_carrier: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for number, case in enumerate(everything):
        for carrier, carry in CARRIERS.items():
            if carrier != "plain" and number % 4:  # every fourth value in every carrier
                continue
            leaked = leaks(case.secret, stored(carry(case.text)))
            by_carrier[carrier][0] += 1
            by_carrier[carrier][1] += not leaked
            if carrier == "plain":
                total[case.source] += 1
                found[case.source] += not leaked
            if leaked and arguments.misses:
                print(f"MISSED {carrier} [{case.source}: {case.kind}] {case.text[:300]!r}")
    altered = [kind for kind, text in CLEAN.items() if Redactor().redact(text)[0] != text]
    pieces = changed = 0
    for chunk in chunks():
        pieces += 1
        redacted, counts = Redactor().redact(chunk)
        if counts and set(counts) - {"email"}:
            changed += 1
            if arguments.misses:
                print(
                    "STDLIB",
                    counts,
                    [line for line in redacted.splitlines() if "<SECRET:" in line or "<PII:" in line][:3],
                )
    if arguments.misses:
        for kind in altered:
            print("ALTERED", kind, repr(Redactor().redact(CLEAN[kind])[0]))
    print(
        json.dumps(
            {
                "values": total.total(),
                "recall": {source: round(100 * found[source] / total[source], 1) for source in total},
                "recall_overall": round(100 * found.total() / total.total(), 1),
                "by_carrier": {name: round(100 * hit / count, 1) for name, (count, hit) in by_carrier.items()},
                "clean_kinds": len(CLEAN),
                "clean_kinds_altered": len(altered),
                "stdlib_chunks": pieces,
                "stdlib_chunks_altered_percent": round(100 * changed / pieces, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
