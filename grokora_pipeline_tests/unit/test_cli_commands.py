"""The command line: what a person sees and which status a script gets."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from grokora_pipeline.cli.commands import main
from grokora_pipeline.settings import get_settings
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry
from grokora_pipeline_tests.stores import publish_files
from grokora_pipeline_tests.unit.session_logs import call, write_lines

Grokora = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project whose actor has had two champions."""
    (tmp_path / "agents.yaml").write_text("agents: {actor: {description: Acts.}}")
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (tmp_path / ".env").write_text("GROKORA_STORE=my store\nGROKORA_DEVICES=cpu\n")
    environment = {"GROKORA_HOME": str(tmp_path), "DAGSTER_HOME": str(tmp_path), "PATH": ""}
    monkeypatch.setattr("os.environ", environment)
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    registry = Registry(Store(str(tmp_path / "my store")))
    for version in ("first", "second"):
        publish_files(registry.store, "actor/lora_adapter", version)
        registry.promote("actor", version, "better", {})
    yield tmp_path
    get_settings.cache_clear()


@pytest.fixture
def grokora(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Grokora:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["grokora", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


def test_the_command_line_starts_without_dagster_pyarrow_and_torch() -> None:
    probe = "import sys, grokora_pipeline.cli.commands; print({'dagster', 'pyarrow', 'torch'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_setting_that_nothing_reads_is_named_before_any_command(grokora: Grokora, home: Path) -> None:
    (home / ".env").write_text("GROKORA_STORE=my store\nGROKORA_BASEMODEL=org/name\n")
    status, out, err = grokora("champion", "show", "actor")
    assert (status, json.loads(out)["version"]) == (0, "second")
    assert err == "warning: nothing reads GROKORA_BASEMODEL; `grokora doctor` says what was meant.\n"


def test_the_ui_says_at_once_that_its_port_is_taken(grokora: Grokora) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, _, err = grokora("ui", "--port", str(taken.getsockname()[1]))
    assert status == 2
    assert "cannot be listened on (Address already in use" in err


def test_a_mistake_is_one_sentence_on_stderr_and_status_2(grokora: Grokora) -> None:
    status, out, err = grokora("champion", "show", "actro")
    assert (status, out) == (2, "")
    assert err == "error: There is no agent 'actro'; agents.yaml has actor.\n"


def test_show_says_who_is_in_service_and_why(grokora: Grokora) -> None:
    record = json.loads(grokora("champion", "show", "actor")[1])
    assert (record["version"], record["action"], record["reason"]) == ("second", "promote", "better")


def test_history_is_told_oldest_first_and_over_a_torn_line(grokora: Grokora, home: Path) -> None:
    def versions() -> list[str]:
        status, out, _ = grokora("champion", "history", "actor")
        assert status == 0
        return [json.loads(line)["version"] for line in out.splitlines()]

    assert versions() == ["first", "second"]
    history = home / "my store" / "actor" / "champion" / "champion.history.jsonl"
    history.write_bytes(history.read_bytes()[30:])
    assert versions() == ["second"]


def test_a_rollback_puts_the_one_before_back_and_shows_it_in_dagster(grokora: Grokora, home: Path) -> None:
    assert grokora("champion", "rollback", "actor")[:2] == (0, "actor is served by first now.\n")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["actor", "champion"]))
    assert event
    assert event.asset_materialization
    assert event.asset_materialization.metadata["champion"].value == "first"
    assert grokora("champion", "rollback", "actor", "--to", "base")[1] == "actor is served by base now.\n"
    assert grokora("champion", "rollback", "actor", "--to", "third")[0] == 2


def test_a_pinned_champion_stays_until_it_is_unpinned(grokora: Grokora, home: Path) -> None:
    registry = Registry(Store(str(home / "my store")))
    assert grokora("champion", "pin", "actor")[0] == 0
    assert "is pinned" in registry.refusal("actor", "third")
    assert grokora("champion", "unpin", "actor")[0] == 0
    assert registry.refusal("actor", "third") == ""


def test_doctor_says_which_env_file_and_which_store_count_and_fails_while_something_is_missing(
    grokora: Grokora, home: Path
) -> None:
    status, out, _ = grokora("doctor")
    lines = {line[8:22].strip(): line for line in out.splitlines()}
    assert f"{home}, settings from {home / '.env'}" in lines["project"]
    assert str(home / "my store") in lines["disk"]
    assert lines["session logs"].startswith("missing")
    assert lines["agents"].endswith("actor")
    assert status == 1
    (home / "agents.yaml").write_text("agents: {actor: {description: Acts., main_metric: best}}")
    (home / ".env").write_text("GROKORA_LOG=mine\n")
    out = grokora("doctor")[1]
    assert "agent 'actor', key 'main_metric'" in out
    assert "nothing reads GROKORA_LOG  → did you mean GROKORA_LOGS?" in out
    (home / "agents.yaml").write_text("agents: {actor: {description: Acts., rnak: 8}}")
    (home / ".env").write_text("GROKORA_STORE=agents.yaml/store\n")  # below a file
    get_settings.cache_clear()
    out = grokora("doctor")[1]
    assert "agent 'actor': There is no training knob 'rnak'; did you mean 'rank'?" in out
    assert f"missing disk          nothing can be written below {home / 'agents.yaml'}" in out


def test_brackets_in_the_name_of_a_log_are_shown_as_they_are(grokora: Grokora, home: Path) -> None:
    (home / "logs").mkdir()
    write_lines(home / "logs" / "a[bold]b.jsonl", [call("s1", 0, "Do it.", "Done.", "actor")])
    status, out, _ = grokora("import", str(home / "logs"))
    assert (status, "a[bold]b.jsonl" in out, "of 1 call is learnt" in out) == (0, True, True)


def test_logs_are_looked_into_without_a_project(
    grokora: Grokora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(tmp_path / "logs" / "a.jsonl", [call("s1", 0, "Do it.", "Done.", "writer")])
    monkeypatch.setattr("grokora_pipeline.cli.imports.find_home", lambda cwd, environ: None)
    status, out, _ = grokora("import", str(tmp_path / "logs"))
    assert (status, "0 of 1 call is learnt. There is no agents.yaml here" in out) == (0, True)
    status, out, _ = grokora("agents", "suggest", str(tmp_path / "logs"))
    assert (status, list(yaml.safe_load(out)["agents"])) == (0, ["writer"])


def test_a_command_ends_well_without_any_standard_stream(tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m grokora_pipeline.cli init swarm <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "swarm" / "agents.yaml").read_text().startswith("# Who the agents")


def test_what_cannot_be_used_is_one_sentence(grokora: Grokora, home: Path) -> None:
    (home / "dagster.yaml").write_text("telemetry: {enabled: false")
    status, out, err = grokora("champion", "rollback", "actor")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"{home / 'dagster.yaml'} is not usable: while parsing" in err
    (home / "dagster.yaml").write_text("telemetry: {enabled: maybe}")
    assert "dagster.yaml is not usable: Errors whilst loading dagster instance config" in grokora("ui")[2]
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}")
    (home / "history").mkdir(exist_ok=True)
    (home / "history" / "runs.db").write_bytes(b"no database" * 100)
    (home / "history" / "runs.db-wal").unlink(missing_ok=True)
    status, out, err = grokora("ui")
    assert (status, err.count("\n")) == (2, 1)
    assert "Dagster's history" in err
    store = home / "my store"
    store.rename(home / "elsewhere")
    store.write_text("a file")
    status, out, err = grokora("trace", "session-1")
    assert (status, err.count("\n"), str(store) in err) == (2, 1, True)
