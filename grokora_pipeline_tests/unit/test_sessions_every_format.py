"""One conversation in every format: everything that it says arrives, and no secret that is planted in it does."""

import copy
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from grokora_pipeline.sandbox import secrets
from grokora_pipeline.sessions import readers
from grokora_pipeline.sessions.readers.source import Source, UnreadableError
from grokora_pipeline.sessions.turns import Turn
from grokora_pipeline_tests.unit.neutral_logs import FORMATS, Talk
from grokora_pipeline_tests.unit.session_logs import run, turns

# What is left of a planted secret if it is not replaced: every key says FAKE, in the JSON web token in Base64.
TRACES = ("FAKE", "RkFLR", "@example.org", "202 555 01", "203.0.113.", "anna.fake")


def talk(seed: int) -> Talk:
    """Six texts with a word of their own each, and two planted secrets in each, of all twelve kinds."""
    planted = secrets.plant(random.Random(seed))
    names = [field.name for field in fields(Talk)]
    texts = {}
    for number, name in enumerate(names):
        first, second = planted[(number + seed) % 12], planted[(number + seed + 6) % 12]
        texts[name] = f"The {name}word is here. {first}\nThen note {second}"
    return Talk(**texts)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ingested logs: each format twelve times, so that each kind of secret stands in each place of it."""
    root = tmp_path_factory.mktemp("formats")
    for place, (name, (_, file, _, write)) in enumerate(FORMATS.items()):
        for number in range(6):
            path = root / "logs" / name / str(number) / file
            path.parent.mkdir(parents=True)
            path.write_bytes(write(talk(100 * place + number), f"{name}-{number}"))
    run(root / "logs", root / "out")
    return root / "out"


def test_every_reader_has_its_format_here() -> None:
    held = {reader for reader, *_ in FORMATS.values()}
    alone = {"session_log", "strands"}  # session.log holds no turns, and a file of Strands' a message of several
    assert held | alone == {known.name for known in readers.FORMATS}


def test_all_that_a_format_holds_of_the_conversation_arrives(stored: Path) -> None:
    texts: defaultdict[str, str] = defaultdict(str)
    formats: dict[str, str] = {}
    for row in turns(stored):
        folder = row["source_file"].split("/")[0]
        formats[folder] = row["source_format"]
        texts[folder] += row["prompt"] + row["completion"]
        assert row["completeness"] in ("whole", "reconstructed"), folder
    assert formats == {name: reader for name, (reader, *_) in FORMATS.items()}
    missing = {
        name: [part for part in held if texts[name].count(f"The {part}word is here.") < 6]
        for name, (_, _, held, _) in FORMATS.items()
    }
    assert {name: parts for name, parts in missing.items() if parts} == {}


@pytest.mark.slow
def test_a_log_that_grows_and_is_renamed_says_in_every_format_what_it_says_whole(tmp_path: Path) -> None:
    def rows(folder: Path) -> list[str]:
        own = ({name: one for name, one in row.items() if not name.startswith("source")} for row in turns(folder))
        return sorted(str({**one, "copies": []}) for one in own)

    bodies = {
        f"{name}/{file}": write(talk(number), name)
        for number, (name, (_, file, _, write)) in enumerate(FORMATS.items())
    }
    for place, (folder, end) in enumerate((("whole", None), ("logs", 0.6), ("logs", None), ("renamed", None))):
        for name, body in bodies.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body[: int(len(body) * (end or 1))])
        previous = tmp_path / f"out{place - 1}" if place > 1 else None
        run(tmp_path / folder, tmp_path / f"out{place}", previous)
    whole = rows(tmp_path / "out0")
    assert rows(tmp_path / "out2") == whole
    assert rows(tmp_path / "out3") == whole


# Lines of these name no session, or the writer here gives both sessions the ids of one.
NAMELESS = {"claude_code", "cursor", "grok_cli", "kimi", "message_parts", "openai_items", "responses"}


def test_sessions_one_behind_the_other_in_a_file_stay_apart(tmp_path: Path) -> None:
    mixed = set()
    for name, (reader, file, _, write) in FORMATS.items():
        lines = []
        for word in ("alpha", "omega"):
            data = write(Talk(*(f"{word} {field.name}" for field in fields(Talk))), f"{name}-{word}")
            with suppress(orjson.JSONDecodeError):  # of a document, a line; not of one that holds all there is
                data = orjson.dumps(orjson.loads(data)) + b"\n"
            lines.append(data)
        if all(one.startswith(b"{") for one in lines) and reader not in ("swarm_v2", "session_v1", "atif", "swe_agent"):
            (tmp_path / file).write_bytes(b"".join(lines))
            known = next(one for one in readers.FORMATS if one.name == reader)
            told = [one for one in known.read(Source(tmp_path / file, file)) if isinstance(one, Turn)]
            said = [{word for word in ("alpha", "omega") if word in str((one.prompt, one.completion))} for one in told]
            alone = [len(words) == 1 for words in said]
            if not all(alone) or said.count({"alpha"}) != said.count({"omega"}):
                mixed.add(name)
    assert mixed == NAMELESS


ODD: tuple[Any, ...] = (None, "", -1, 1.5, True, [], {}, "x", [None], {"a": 1}, [[{}]], '["x"]')


def test_a_member_of_an_unforeseen_kind_stops_no_reader(tmp_path: Path) -> None:
    """In each format a member, or two, of another kind than its writer gives it: at worst the file is refused."""
    draw = random.Random(7)

    def places(value: Any) -> Iterator[tuple[Any, Any]]:
        for key, member in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            if isinstance(member, dict | list):
                yield from places(member)

    for name, (reader, file, _, write) in FORMATS.items():
        data = write(talk(0), name)
        known = next(one for one in readers.FORMATS if one.name == reader)
        for _ in range(4 if data.lstrip()[:1] in (b"{", b"[") else 0):
            try:
                values = [orjson.loads(data)]
            except orjson.JSONDecodeError:
                values = [orjson.loads(line) for line in data.splitlines()]
            for holder, key in draw.sample([*places(values)][1:], 2):
                holder[key] = copy.deepcopy(draw.choice(ODD))
            (tmp_path / file).write_bytes(b"\n".join(orjson.dumps(value) for value in values) + b"\n")
            source = Source(tmp_path / file, file, "sha", reader)
            readers.detect(source.head(readers.HEAD_BYTES))
            with suppress(UnreadableError):
                assert list(known.read(source)) is not None, name


def test_no_planted_secret_survives_in_any_format(stored: Path) -> None:
    leaks = []
    for path in stored.rglob("*"):
        if path.suffix == ".parquet":
            for row in pq.read_table(path).to_pylist():
                text = str(row)
                leaks += [(row.get("source_file", path.name), trace) for trace in TRACES if trace in text]
        elif path.is_file():
            text = path.read_text(encoding="utf-8")
            leaks += [(path.name, trace) for trace in TRACES if trace in text]
    assert leaks == []
