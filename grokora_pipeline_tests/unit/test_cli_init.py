"""`grokora init`: what it writes is what the checkout has."""

from pathlib import Path

import pytest

from grokora_pipeline import execution, sandbox
from grokora_pipeline.agents import load_agents
from grokora_pipeline.cli import init
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.settings import PROJECT_ROOT, read_settings


def test_the_packaged_files_are_those_of_the_checkout() -> None:
    pairs = {
        Path(execution.__path__[0]) / "dagster.yaml": PROJECT_ROOT / "dagster.yaml",
        Path(sandbox.__path__[0]) / "agents.yaml": PROJECT_ROOT / "data" / "agents.yaml",
    }
    assert [copy for copy, original in pairs.items() if copy.read_bytes() != original.read_bytes()] == []


def test_a_new_project_is_found_from_any_folder_in_it_and_its_agents_load(tmp_path: Path) -> None:
    init.make_project(tmp_path / "swarm", sample=False)
    settings = read_settings({}, tmp_path / "swarm" / "defs")
    assert settings.home == tmp_path / "swarm"
    assert [agent.name for agent in load_agents(settings.agents)] == ["assistant"]


def test_a_sample_project_has_the_samples_logs_and_the_model_in_its_own_folder_also_after_a_try_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(output: Path) -> None:
        output.mkdir(parents=True)
        raise GrokoraError("no index")

    monkeypatch.setattr(init, "fetch_bundled", unreachable)
    with pytest.raises(GrokoraError, match="no index"):
        init.make_project(tmp_path, sample=True)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    monkeypatch.setattr(init, "fetch_bundled", lambda output: output.mkdir(parents=True))
    init.make_project(tmp_path, sample=True)
    settings = read_settings({}, tmp_path)
    assert settings.base_model == str(tmp_path / "data" / "models" / "SmolLM2-135M-Instruct")
    original = PROJECT_ROOT / "data" / "session_logs"
    files = {path.relative_to(original): path.read_bytes() for path in original.rglob("*") if path.is_file()}
    assert files == {
        path.relative_to(settings.logs): path.read_bytes() for path in settings.logs.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", ["agents.yaml", "dagster.yaml", ".env.example"])
def test_nothing_that_is_there_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(GrokoraError, match="is there already"):
        init.make_project(tmp_path, sample=False)
    assert [path.name for path in tmp_path.iterdir()] == [name]
