"""What the store promises: whole versions or none, nothing in service overwritten, pointers with a history."""

import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store import COMPLETE, Store, content_version, folder_version, remote, write_atomic
from grokora_pipeline.store.champions import Registry
from grokora_pipeline_tests.outside import s3

Machine = Callable[[str], Store]
REMOTE = pytest.mark.parametrize("url", ["memory", "s3"], indirect=True)
__all__ = ["s3"]

WORKER = """
import itertools, sys
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry
registry = Registry(Store(sys.argv[1]))
for number in itertools.count(int(sys.argv[2])):
    with registry.store.stage("a/lora_adapter") as staged:
        (staged / "weights").write_text(f"v{number}" * 10_000)
        registry.store.publish("a/lora_adapter", f"v{number}", staged)
    registry.promote("a", f"v{number}", "better", {})
    print(number, flush=True)
"""


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh store of each kind."""
    if request.param == "folder":
        return str(tmp_path / "store")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"


@pytest.fixture
def on(url: str, tmp_path: Path) -> Machine:
    """The store as a machine of that name sees it: machines share the URL, not their copies."""

    def machine(name: str) -> Store:
        return Store(url, tmp_path / name)

    return machine


@pytest.fixture
def store(on: Machine) -> Store:
    return on("here")


def publish(store: Store, key: str, version: str, text: str) -> Path:
    with store.stage(key) as staged:
        (staged / "file").write_text(text)
        return store.publish(key, version, staged).path


def test_a_published_version_is_found_and_current(store: Store) -> None:
    path = publish(store, "actor/lora_adapter", "v1", "weights")
    current = store.require("actor/lora_adapter")
    assert (current.version, current.path) == ("v1", path)
    assert (path / "file").read_text() == "weights"


def test_publishing_a_version_again_keeps_the_first_bytes(store: Store) -> None:
    publish(store, "k", "v1", "first")
    assert (publish(store, "k", "v1", "second") / "file").read_text() == "first"


def test_a_failed_build_leaves_nothing_behind(store: Store) -> None:
    with pytest.raises(RuntimeError), store.stage("k") as staged:
        (staged / "file").write_text("half")
        raise RuntimeError
    assert store.current("k") is None
    assert list((store.root / ".staging").iterdir()) == []


def test_a_missing_asset_is_named_in_the_error(store: Store) -> None:
    with pytest.raises(GrokoraError, match=r"actor/eval_report .* materialize that asset first"):
        store.require("actor/eval_report")


def test_a_killed_writer_leaves_nothing_that_the_next_writer_does_not_take_away(tmp_path: Path) -> None:
    killed = (
        "import os, signal, sys; from pathlib import Path; from grokora_pipeline.store import write_atomic; "
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL); write_atomic(Path(sys.argv[1]), b'cut short')"
    )
    file = tmp_path / "current.json"
    write_atomic(file, b"old")
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", killed, str(file)], check=False).returncode == -9
    assert file.read_bytes() == b"old"
    write_atomic(file, b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"current.json": b"new"}


@pytest.mark.parametrize("key", ["../out", "a//b", "/etc", "a/..", "a\\b"])
def test_a_key_cannot_leave_the_store(store: Store, key: str) -> None:
    with pytest.raises(GrokoraError):
        store.read(key)


def test_pointing_twice_at_the_same_version_adds_one_line_of_history(store: Store) -> None:
    for _ in range(2):
        store.point("actor/champion", "champion", "v1", reason="better")
    store.point("actor/champion", "champion", "v2", reason="better still")
    assert [record["version"] for record in store.history("actor/champion", "champion")] == ["v1", "v2"]


def test_a_concurrent_reader_always_sees_a_whole_pointer(store: Store) -> None:
    store.point("k", "champion", "0")
    stop, torn = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            record = store.pointer("k", "champion")
            if record is None or not record["version"].isdigit():
                torn.append(record)

    reader = threading.Thread(target=read)
    reader.start()
    for version in range(10 if store.remote else 50):
        store.point("k", "champion", str(version))
    stop.set()
    reader.join()
    assert torn == []


def test_versions_are_listed_oldest_first_and_pointers_are_none_of_them(store: Store) -> None:
    for version in ("b", "a", "c"):
        publish(store, "k", version, version)
    store.point("k", "champion", "a")
    assert [artifact.version for artifact in store.versions("k")] == ["b", "a", "c"]
    assert store.versions("nothing") == []


def test_what_one_machine_publishes_another_reads(on: Machine) -> None:
    with on("one").stage("k") as staged:
        (staged / "deep").mkdir()
        (staged / "deep" / "file").write_text("weights")
        (staged / "empty").touch()
        on("one").publish("k", "v1", staged)
    found = on("two").require("k")
    assert found.read("deep/file") == b"weights"
    assert (found.path / "deep" / "file").read_text() == "weights"
    assert (found.path / "empty").read_bytes() == b""
    assert found.path.name == "v1"


def test_two_machines_that_publish_one_version_agree_on_it(on: Machine) -> None:
    stores = [on("one"), on("two")]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(publish, stores, "kk", "vv", "ab"))
    assert len({(one.require("k").path / "file").read_text() for one in (*stores, on("three"))}) == 1


def test_small_files_of_the_store_are_replaced(store: Store) -> None:
    assert store.read("forgotten.txt") is None
    for text in (b"a", b"b"):
        store.write("forgotten.txt", text)
    assert store.read("forgotten.txt") == b"b"


def test_interrupted_work_goes_on_where_it_was(on: Machine) -> None:
    with pytest.raises(RuntimeError), on("one").work("actor/lora_adapter", "v") as folder:
        (folder / "checkpoint-1").mkdir(parents=True)
        (folder / "checkpoint-1" / "weights").write_text("1")
        raise RuntimeError
    with on("two").work("actor/lora_adapter", "v") as folder:
        assert (folder / "checkpoint-1" / "weights").read_text() == "1"
        (folder / "checkpoint-1" / "weights").unlink()
        (folder / "checkpoint-2").mkdir()
        (folder / "checkpoint-2" / "weights").write_text("2")
    with on("three").work("actor/lora_adapter", "v") as folder:
        assert [path.read_text() for path in folder.rglob("weights")] == ["2"]


@pytest.fixture
def remote_on(on: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(remote, "_SYNC_SECONDS", 0.05)
    return on


@REMOTE
def test_work_reaches_other_machines_while_it_goes_on(remote_on: Machine) -> None:
    with remote_on("one").work("k", "v") as folder:
        (folder / "checkpoint-1").mkdir(parents=True)
        for name in (COMPLETE, "weights"):  # the mark is copied last, though it was written first
            (folder / "checkpoint-1" / name).write_text(name)
        other, deadline = remote_on("two"), time.monotonic() + 10
        while other.read(f".work/k/v/checkpoint-1/{COMPLETE}") is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert other.read(".work/k/v/checkpoint-1/weights") == b"weights"


@REMOTE
def test_an_artifact_is_fetched_once_and_not_before_it_is_needed(remote_on: Machine) -> None:
    publish(remote_on("one"), "k", "v1", "weights")
    there = remote_on("two")
    found = there.require("k")
    assert not (there.root / "k").exists()
    first = (found.path / "file").stat()
    assert (found.path / "file").stat().st_mtime_ns == first.st_mtime_ns
    assert (there.require("k").path / "file").stat().st_ino == first.st_ino


@REMOTE
def test_what_is_not_published_to_its_end_is_not_there(remote_on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    store = remote_on("one")

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(vars(store)["_fs"], "pipe_file", killed)  # which writes the record, when all files are there
        publish(store, "k", "v1", "half")
    assert remote_on("two").find("k", "v1") is None
    assert store.versions("k") == []
    assert (publish(store, "k", "v1", "whole") / "file").read_text() == "whole"


@REMOTE
def test_what_a_bucket_takes_and_loses_is_not_published(remote_on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    store = remote_on("one")
    with monkeypatch.context() as patch, pytest.raises(GrokoraError, match="took k/v1/file and does not have it"):
        patch.setattr(vars(store)["_fs"], "put", lambda files, names: None)
        publish(store, "k", "v1", "weights")
    assert remote_on("two").current("k") is None
    publish(store, "k", "v1", "weights")
    vars(store)["_fs"].rm_file(f"k/v1/{store.require('k').path.parent.name}/file")
    with pytest.raises(GrokoraError, match=r"file is damaged or lost; delete k/v1\.complete"):
        _ = remote_on("two").require("k").path


@REMOTE
def test_work_is_copied_again_after_the_bucket_was_away(
    remote_on: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, tried = remote_on("one"), threading.Event()

    def away(file: str, name: str) -> None:
        tried.set()
        raise ConnectionError("the bucket is away")

    with store.work("k", "v") as folder, monkeypatch.context() as patch:  # which ends first
        patch.setattr(vars(store)["_fs"], "put_file", away)
        folder.mkdir()
        (folder / "weights").write_text("1")
        assert tried.wait(10)
    assert "is behind, another machine would start from less: the bucket is away" in caplog.text
    with remote_on("two").work("k", "v") as folder:
        assert (folder / "weights").read_text() == "1"


def test_a_history_whose_first_line_comes_between_two_questions_is_read(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"{s3}/{uuid.uuid4().hex}", tmp_path)
    folder = {"k/current.history": {"name": "k/current.history", "size": 0, "type": "directory"}}
    monkeypatch.setattr(vars(store)["_fs"], "find", lambda name, detail: folder)
    store.point("k", "current", "v1")
    assert [record["version"] for record in store.history("k", "current")] == ["v1"]


@REMOTE
def test_damaged_bytes_are_not_handed_out(remote_on: Machine) -> None:
    store = remote_on("one")
    publish(store, "k", "v1", "weights")
    content = store.require("k").path.parent.name
    store.write(f"k/v1/{content}/file", b"weighty")
    with pytest.raises(GrokoraError, match="file is damaged or lost"):
        _ = remote_on("two").require("k").path


@pytest.mark.parametrize("bad", ["nosuch://bucket/x", "nonsense://"])
def test_an_unknown_kind_of_store_is_one_sentence(bad: str) -> None:
    with pytest.raises(GrokoraError, match=f"GROKORA_STORE={bad[:7]}.* cannot be opened"):
        Store(bad)


def test_a_bucket_that_is_not_there_is_one_sentence(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("s3://no-such-bucket/store")
    with pytest.raises(GrokoraError, match="check the bucket and your credentials"):
        store.write("forgotten.txt", b"")


@given(st.dictionaries(st.text(), st.integers()))
def test_a_content_version_ignores_the_order_of_keys(parts: dict[str, int]) -> None:
    assert content_version(parts) == content_version(dict(reversed(parts.items())))


def test_a_folder_version_changes_with_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = folder_version(tmp_path)
    (tmp_path / "a").write_text("2")
    second = folder_version(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, folder_version(tmp_path)}) == 3


def test_a_torn_line_of_history_is_left_out_and_said_and_the_next_line_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(str(tmp_path))
    for version in ("v1", "v2"):
        store.point("a/champion", "champion", version)
    history = tmp_path / "a" / "champion" / "champion.history.jsonl"
    history.write_bytes(history.read_bytes()[:-20])  # a full disk cut the line of v2
    assert [record["version"] for record in store.history("a/champion", "champion")] == ["v1", "v2"]
    assert "1 lines are torn" in caplog.text
    store.point("a/champion", "champion", "v3")
    assert [record["version"] for record in store.history("a/champion", "champion")] == ["v1", "v2", "v3"]


def test_a_move_that_did_not_happen_is_in_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    store.point("k", "champion", "v1")

    def full(name: str, payload: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write", full)
    with pytest.raises(OSError, match="No space"):
        store.point("k", "champion", "v2")
    assert [record["version"] for record in store.history("k", "champion")] == ["v1"]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_killed_at_any_moment_versions_are_whole_and_every_move_is_told(tmp_path: Path, seed: int) -> None:
    registry, moments = Registry(Store(str(tmp_path))), random.Random(seed)
    for _ in range(2):
        begun = len(registry.history("a"))
        child = subprocess.Popen([sys.executable, "-c", WORKER, tmp_path, str(begun)], stdout=subprocess.PIPE)
        assert child.stdout and child.stdout.readline() == f"{begun}\n".encode()
        time.sleep(moments.uniform(0, 0.03))
        child.kill()
        child.wait()
        child.stdout.close()
        moves = registry.history("a")
        assert [record["version"] for record in moves] == [f"v{number}" for number in range(len(moves))]
        assert registry.record("a") == moves[-1]
        for artifact in registry.store.versions("a/lora_adapter"):
            assert artifact.read("weights").decode() == artifact.version * 10_000
    registry.store.point("a/champion", "champion", "last")  # and the next process adds to what is there
    assert [record["version"] for record in registry.history("a")] == [*(one["version"] for one in moves), "last"]


def test_what_two_processes_move_at_once_is_told_in_one_order(store: Store, on: Machine) -> None:
    def move(machine: Store, name: str) -> None:
        for number in range(3 if store.remote else 30):
            machine.point("a/champion", "champion", f"{name}{number}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(move, [on("here"), on("here")], "xy"))
    moves = [record["version"] for record in store.history("a/champion", "champion")]
    for name in "xy":
        assert [version for version in moves if version[0] == name] == [f"{name}{n}" for n in range(len(moves) // 2)]
    assert (store.pointer("a/champion", "champion") or {})["version"] == moves[-1]


def test_a_move_whose_line_did_not_reach_the_history_is_told_before_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str, line: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(store, "_append", full)
        store.point("k", "champion", "v1")
    store.point("k", "champion", "v2")
    assert [record["version"] for record in store.history("k", "champion")] == ["v1", "v2"]


def test_moves_are_told_in_their_order_when_the_clock_goes_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards(datetime):
        days = 0

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Backwards":
            cls.days += 1
            return cls.fromtimestamp(0, tz) + timedelta(days=99 - cls.days)

    for module in ("grokora_pipeline.store", "grokora_pipeline.store.remote"):
        monkeypatch.setattr(f"{module}.datetime", Backwards)
    for version in ("v1", "v2", "v3"):
        store.point("k", "champion", version)
    moves = store.history("k", "champion")
    assert [record["version"] for record in moves] == ["v1", "v2", "v3"]
    assert sorted(moves, key=lambda record: str(record["at"])) == moves


def test_who_holds_the_lock_of_a_store_moves_its_pointers_by_any_other_object_of_it(on: Machine) -> None:
    with on("here").lock:
        on("here").point("k", "champion", "v1")
    assert [record["version"] for record in on("here").history("k", "champion")] == ["v1"]


def test_of_a_store_that_was_moved_nothing_is_published(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    with pytest.raises(GrokoraError, match=r"is gone, so actor/k is not published: was the store moved"):  # noqa: SIM117
        with store.stage("actor/k") as staged:
            (tmp_path / "store").rename(tmp_path / "elsewhere")
            store.publish("actor/k", "v1", staged)
    assert not (tmp_path / "store").exists()


def test_a_store_behind_a_link_is_the_store(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    publish(Store(str(tmp_path / "store")), "actor/k", "v1", "weights")
    assert Store(str(tmp_path / "disk")).require("actor/k").read("file") == b"weights"
    assert Store(str(tmp_path / "store")).sweep() == 0


def test_who_only_reads_writes_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    asked = [store.current("k"), store.versions("k"), store.history("k", "current"), Registry(store).version("a")]
    assert (asked, store.root.exists()) == ([None, [], [], "base"], False)
    store.point("k", "current", "v1", inputs="same")
    (store.root / ".lock").unlink()  # as if nobody may write any more
    store.point("k", "current", "v1", inputs="same")
    assert not (store.root / ".lock").exists()


def test_what_a_killed_process_staged_is_swept_and_what_a_living_one_stages_stays(tmp_path: Path) -> None:
    code = (
        f"import os, sys; from grokora_pipeline.store import Store; s = Store({str(tmp_path)!r}).stage('actor/k'); "
        "folder = s.__enter__(); (folder / 'part').write_text(''); "
        "folder.with_name(folder.name + '.plan.json').write_text(''); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    store = Store(str(tmp_path))
    assert len(list((tmp_path / ".staging").iterdir())) == 2
    with store.stage("actor/k") as staged, store.stage("actor/l") as other:
        assert set((tmp_path / ".staging").iterdir()) == {staged, other}


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_text("wei")])
def test_a_version_whose_file_was_deleted_or_cut_is_none_and_is_made_anew(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    store = Store(str(tmp_path))
    damage(publish(store, "actor/lora_adapter", "v1", "weights") / "file")
    assert store.current("actor/lora_adapter") is None
    assert (publish(store, "actor/lora_adapter", "v1", "weights") / "file").read_text() == "weights"
    assert store.require("actor/lora_adapter").version == "v1"
    (tmp_path / "actor" / "lora_adapter" / "v1.sizes.json").unlink()  # as in a store of before
    assert store.require("actor/lora_adapter").version == "v1"


@pytest.mark.parametrize("torn", ["", '{"vers', "[]", "{}"])
def test_of_a_torn_pointer_the_last_move_counts(tmp_path: Path, torn: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(str(tmp_path))
    for version in ("v1", "v2"):
        publish(store, "actor/champion", version, version)
    (tmp_path / "actor" / "champion" / "current.json").write_text(torn)
    assert store.require("actor/champion").version == "v2"
    assert "current.json is torn" in caplog.text
