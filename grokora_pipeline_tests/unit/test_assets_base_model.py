"""`base_model`: the published record names the folder where the model is now, and the same model has one version."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from grokora_pipeline.assets.base_model import base_is_here, base_model_asset
from grokora_pipeline.assets.common import Project, base_folder
from grokora_pipeline.automation.staleness import stored_version
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.settings import Settings
from grokora_pipeline_tests.workers import materialize


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout" / "base"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def make(tmp_path: Path, base: Path) -> tuple[Project, str]:
    """The project and the version of the base, by a worker that counts in a file how often it is asked."""

    def work(module: str, plan: dict[str, Any], output: Path) -> dict[str, Any]:
        model = plan["model_id"]
        with (tmp_path / "calls").open("a") as stream:
            stream.write(f"{model}\n")
        return {"path": model, "model_id": model, "content_hash": "c", "chat_template_sha256": "t"}

    project = Project(Settings(store=str(tmp_path / "store"), base_model=str(base)), ())
    assert materialize(project, [base_model_asset(project)], work).success
    return project, project.store.require("base_model").version


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_a_base_that_was_moved_or_copied_keeps_its_version_and_is_read_from_its_new_folder(
    base: Path, tmp_path: Path, move: Any
) -> None:
    _, version = make(tmp_path, base)
    (tmp_path / "store" / "base_model" / f"{version}.sizes.json").unlink()  # there is none in older stores
    move(str(base.parent), str(tmp_path / "elsewhere"))
    project, again = make(tmp_path, tmp_path / "elsewhere" / "base")
    assert again == version
    assert base_folder(project.store.require("base_model").path) == tmp_path / "elsewhere" / "base"
    make(tmp_path, tmp_path / "elsewhere" / "base")
    assert (tmp_path / "calls").read_text().count("\n") == 2  # what is published is not tried again


def test_a_base_whose_folder_is_gone_is_not_here_until_it_is_made_again(base: Path, tmp_path: Path) -> None:
    project, version = make(tmp_path, base)
    assert base_is_here(project)
    stored = partial(
        stored_version, project
    )  # by which the demo, the sensor and the schedules tell what is out of date
    assert stored(project.key("base_model")) == version
    shutil.move(base, tmp_path / "aside")
    assert not base_is_here(project)
    assert stored(project.key("base_model")) is None
    with pytest.raises(GrokoraError, match=r"base is not there any more; materialize base_model again"):
        ChatFormat.load(base)
    shutil.move(tmp_path / "aside", base)
    assert make(tmp_path, base)[1] == version
    assert base_is_here(project)
