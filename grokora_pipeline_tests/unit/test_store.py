"""What the store promises: whole versions or none, nothing in service overwritten, pointers with a history."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.store import Store, content_version, folder_version


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


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


@pytest.mark.parametrize("key", ["../out", "a//b", "/etc", "a/..", "a\\b"])
def test_a_key_cannot_leave_the_store(store: Store, key: str) -> None:
    with pytest.raises(GrokoraError):
        store.folder(key)


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
    for version in range(200):
        store.point("k", "champion", str(version))
    stop.set()
    reader.join()
    assert torn == []


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
