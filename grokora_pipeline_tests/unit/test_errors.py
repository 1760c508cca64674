"""What a disk that takes no more says through each library becomes one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from grokora_pipeline.errors import disk_refusal

FULL = Path("/dev/full")  # every write to it fails as on a full disk


def write_plainly() -> None:
    with FULL.open("wb", buffering=0) as stream:
        stream.write(b"1")


WRITERS: dict[str, Callable[[], object]] = {
    "python": write_plainly,
    "torch": lambda: torch.save(torch.zeros(4), FULL),
    "a folder in a file": (Path(__file__) / "folder").mkdir,
}


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_folder_that_is_copied_to_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "file").write_text("1")
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "file").symlink_to(FULL)
    with pytest.raises(shutil.Error) as failure:
        shutil.copytree(tmp_path / "from", tmp_path / "to", dirs_exist_ok=True, copy_function=shutil.copyfile)
    assert "cannot be used (No space left on device)" in disk_refusal(failure.value)


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_takes_no_more_is_told_apart(writer: str) -> None:
    with pytest.raises((OSError, RuntimeError)) as failure:
        WRITERS[writer]()
    assert "cannot be used (" in disk_refusal(failure.value)


def test_safetensors_keeps_the_number_in_its_text(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(Exception, match="os error") as failure:
        safetensors.torch.save_file({"a": torch.zeros(4)}, tmp_path / "folder")
    assert "cannot be used (Is a directory)" in disk_refusal(failure.value)


def test_other_errors_are_left_alone() -> None:
    for error in (
        ValueError("no such thing"),
        FileNotFoundError(2, "No such file", "x"),
        json.JSONDecodeError("", "", 0),
    ):
        assert disk_refusal(error) == ""
