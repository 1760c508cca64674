"""The published rules of a secret scanner, MongoDB's Kingfisher (betterleaks' and veles' rules), as a detector.

Several hundred rules name the provider of a credential and its exact form. The scanner runs offline, in Rust, at some
350 MB/s; credentials are never tried out.
"""

import re
from bisect import bisect_left
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from grokora_pipeline.sessions.redaction.detector import FILLER, IN_MANUALS, NOT_A_SECRET, PLACEHOLDER
from grokora_pipeline.sessions.redaction.names import word_set
from grokora_pipeline.sessions.redaction.tokens import is_publishable

_PUBLIC_RULE = re.compile(
    r"(?:-id|public-key)(?:\.\d+)?\Z"
)  # names of what is no secret: DISCORD_CLIENT_ID and its kind
# in the place of a password: where the key is the user, and in a manual
_NO_PASSWORDS = IN_MANUALS - {"username"} | {"x-oauth-basic"}
_KINDS = {  # by the first word of a rule's name
    "anthropic": "anthropic_key", "aws": "aws_key", "discord": "discord_token", "gcp": "google_key",
    "github": "github_token", "gitlab": "gitlab_token", "google": "google_key", "huggingface": "hf_token", "jwt": "jwt",
    "npm": "npm_token", "openai": "openai_key", "pinecone": "pinecone_key", "private": "private_key",
    "pypi": "pypi_token", "sendgrid": "sendgrid_key", "slack": "slack_token", "square": "square_secret",
    "stripe": "stripe_key", "telegram": "telegram_token", "twilio": "twilio_key", "xai": "xai_key",
}  # fmt: skip
_KIND = re.compile(r"[^a-z]+")
# rules' names that are words, or services whose hashes and ids everybody shows: commits, images, packages, snapshots
_WITH_HASHES = word_set(
    "age aws azure bitbucket box brave canadian checkout crates curl cursor defined docker dockerhub gcp generic gitea "
    "github gitlab google hunter huggingface ibm instantly jwt kubernetes linear microsoft monday mongodb new "
    "npm nuget ollama openshift paddle polar private proof pypi ramp readme redirect render rubygems segment square "
    "stability telegram temporal val vault weights"
)
# Rules end a value at a space or a quote. In a repr and in JSON these stand behind backslashes: blanks of equal length
# in place of what is escaped keep all offsets.
_ESCAPED = re.compile(rb"(?<!\\)\\++(?:[nrt]|(?=[\"'`]))")


_REPLACED = re.compile(PLACEHOLDER.pattern.encode())


class PublishedFinding(NamedTuple):
    """A secret in a text, from character `start` to `end`. `encoded`: it stands there in Base64."""

    start: int
    end: int
    rule: str
    encoded: bool

    @property
    def kind(self) -> str:
        """The kind of its placeholder: our own name where a detector of ours finds the same, else the rule's name."""
        provider = re.split(r"[.-]", self.rule.partition(".")[2])[0]
        return (
            _KINDS.get(provider)
            or _KIND.sub("_", self.rule.rpartition(".")[2].rpartition("/")[2] or self.rule).strip("_")[:40]
        )


@cache
def _rules() -> Any:
    """The compiled rules; compiling takes 4 s, and 0.4 s from the scanner's own cache in the user's cache folder."""
    from kingfisher_sdk import Rules

    return Rules(confidence="low")


@cache
def _scanner() -> Any:
    from kingfisher_sdk import Scanner

    return Scanner(_rules())


@cache
def providers() -> frozenset[str]:
    """Names of services that hand out keys: of the rules and of `services.txt`, but for those that stand by hashes.

    No name in `services.txt` begins with another one: five letters or more of a name say enough.
    """
    named = {re.split(r"[.-]", rule["id"].partition(".")[2])[0] for rule in _rules().metadata()}
    return frozenset(one for one in named if one.isalnum()) - _WITH_HASHES | word_set(
        files(__package__).joinpath("services.txt").read_text(encoding="utf-8")
    )


def published_findings(raw: bytes) -> list[tuple[int, int, str, bool]]:
    """(start, end, rule, whether in Base64) in bytes, in their order, none inside another; public ids are left out."""
    hits = sorted(
        (
            one.location["start_offset"],
            -one.location["end_offset"],
            re.sub(r"\.\d+\Z", "", one.rule_id),
            one.is_base64_encoded,
        )
        for one in _scanner().scan(_ESCAPED.sub(lambda match: b" " * len(match[0]), raw) if b"\\" in raw else raw)
        if one.visible and not _PUBLIC_RULE.search(one.rule_id)
    )
    findings: list[tuple[int, int, str, bool]] = []
    known = [match.span() for match in _REPLACED.finditer(raw)] if hits else []
    for start, negative_end, rule, encoded in hits:
        before = bisect_left(known, (-negative_end, 0)) - 1  # the last placeholder that begins within it, or earlier
        if before >= 0 and known[before][1] > start:
            continue
        value = raw[start:-negative_end].decode("utf-8", "replace")
        overlaps = findings and start < findings[-1][1]
        password = value.rpartition(":")[2].lower()  # of a user
        stands_in = NOT_A_SECRET.fullmatch(value) or FILLER.fullmatch(value) or password in _NO_PASSWORDS
        if not (overlaps or PLACEHOLDER.search(value) or stands_in or is_publishable(value)):
            findings.append((start, -negative_end, rule, encoded))
    return findings


def in_text(text: str) -> list[PublishedFinding]:
    """The same in a text, by characters; in a text that is JSON itself, only what lies within one string of it."""
    raw = text.encode("utf-8", "replace")  # a lone surrogate becomes one "?", so that offsets can be told in characters
    spans = published_findings(raw)
    if text[:1] in ("{", "[") and text[-1:] in ("}", "]"):
        spans = [one for one in spans if b'"' not in raw[one[0] : one[1]]]
    findings: list[PublishedFinding] = []
    offset = chars = 0  # the end of the last one, in bytes and in characters
    for start, end, rule, encoded in spans:
        first = chars + len(raw[offset:start].decode("utf-8", "replace"))
        offset, chars = end, first + len(raw[start:end].decode("utf-8", "replace"))
        findings.append(PublishedFinding(first, chars, rule, encoded))
    return findings


def in_member(name: str, value: str) -> list[PublishedFinding]:
    """What the value of a JSON member holds if it is read as `name="value"`: rules that want the provider's name."""
    before = len(name) + 2
    findings = in_text(f'{name}="{value}"')
    return [
        one._replace(start=one.start - before, end=one.end - before)
        for one in findings
        if before <= one.start and one.end - before <= len(value)
    ]
