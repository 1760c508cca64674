"""Settings: one rule where the project is, which `.env` counts, and what its values mean elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.settings import (
    PROJECT_ROOT,
    Settings,
    find_env_file,
    http_options,
    local_timezone,
    read_settings,
)

ZONES = Path("/usr/share/zoneinfo")


def project(folder: Path, env: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "agents.yaml").write_text("agents: {actor: {description: Acts.}}")
    (folder / "dagster.yaml").write_text("")
    if env:
        (folder / ".env").write_text(env)
    return folder


def test_the_project_is_the_nearest_folder_upward_with_agents_and_an_instance(tmp_path: Path) -> None:
    home = project(tmp_path / "swarm")
    (home / "data" / "deep").mkdir(parents=True)
    for cwd in (home, home / "data" / "deep"):
        settings = read_settings({}, cwd)
        assert (settings.home, settings.store) == (home, str(home / "data" / "store"))
        assert settings.agents == home / "agents.yaml"


def test_outside_a_project_the_checkout_is_the_project(tmp_path: Path) -> None:
    assert read_settings({}, tmp_path).home == PROJECT_ROOT


def test_a_package_without_a_checkout_says_how_to_get_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grokora_pipeline.settings.PROJECT_ROOT", tmp_path / "site-packages")
    with pytest.raises(GrokoraError, match=r"no grokora project at .*`grokora init FOLDER` makes one"):
        read_settings({}, tmp_path)
    given = {f"GROKORA_{name}": str(tmp_path / name) for name in ("LOGS", "STORE", "AGENTS")}
    assert read_settings(given, tmp_path).logs == tmp_path / "LOGS"


def test_the_env_file_of_the_project_counts_in_every_folder_and_its_paths_start_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = project(tmp_path / "swarm", "GROKORA_STORE=elsewhere\nUNRELATED=1\n")
    monkeypatch.setattr("grokora_pipeline.settings.PROJECT_ROOT", home)
    (home / "pyproject.toml").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".env").write_text("DATABASE_URL=not ours\n")
    for cwd in (home, tmp_path, tmp_path / "other"):
        assert read_settings({}, cwd).store == str(home / "elsewhere")
    assert read_settings({"GROKORA_STORE": "mine"}, tmp_path).store == str(tmp_path / "mine")


def test_a_child_process_in_another_folder_with_another_env_file_has_the_same_settings(tmp_path: Path) -> None:
    settings = read_settings({}, project(tmp_path / "one", "GROKORA_PRESET=plan\nGROKORA_API_KEY=shown-to-nobody\n"))
    other = project(tmp_path / "two", "GROKORA_PRESET=best\nGROKORA_DEVICES=7\n")
    assert read_settings(settings.environment(), other) == settings
    assert find_env_file(other, other, settings.environment()) is None


def test_a_wrong_value_is_one_sentence_that_names_variable_and_file(tmp_path: Path) -> None:
    home = project(tmp_path, "GROKORA_PRESET=fast\n")
    with pytest.raises(GrokoraError, match=r"GROKORA_PRESET='fast' is not usable: .*\.env\.$"):
        read_settings({}, home)


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("GROKORA_TIMEZONE", "Europe/Berln", "no such zone"),
        ("GROKORA_DEVICES", "cuda:0", "indices"),
        ("GROKORA_SETTLE_SECONDS", "inf", "finite"),
        ("GROKORA_LOGS", "~nobody_of_this_name/logs", "no home folder for ~nobody_of_this_name"),
        ("GROKORA_ENV_FILE", "/nowhere/.env", "/nowhere/.env cannot be read"),
    ],
)
def test_a_value_that_would_silently_mean_another_thing_is_refused(
    tmp_path: Path, variable: str, value: str, complaint: str
) -> None:
    with pytest.raises(GrokoraError, match=complaint) as raised:
        read_settings({variable: value}, project(tmp_path))
    assert "\n" not in str(raised.value)


def test_an_env_file_of_any_editor_and_shell_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    home, model = project(tmp_path), tmp_path / "base"
    model.mkdir()
    written = "\ufeffexport GROKORA_LOGS = 'my logs' # the logs\r\nGROKORA_BASE_MODEL=~/base\r\nno line of ours\r\n"
    (home / ".env").write_bytes(written.encode())
    settings = read_settings({"GROKORA_DEVICES": " CPU ", "GROKORA_STORE": " größe/st "}, home)
    assert (settings.logs, settings.devices, settings.store) == (home / "my logs", "cpu", str(home / "größe" / "st"))
    assert settings.base_model == str(model)
    (home / ".env").write_text("A=1\nGROKORA_LOGS='my logs\n")
    with pytest.raises(GrokoraError, match=r"\.env, line 2: .* is a quote never closed"):
        read_settings({}, home)


def test_settings_that_are_given_read_no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GROKORA_PRESET", "plan")
    assert Settings(home=tmp_path).preset == ""
    assert Settings(home=tmp_path).logs == tmp_path / "data" / "session_logs"


@pytest.mark.skipif(not (ZONES / "Europe" / "Berlin").is_file(), reason="the system has no zone files")
def test_this_machine_is_asked_without_the_proxy_and_others_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert http_options("https://api.x.ai/v1") == {}
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:9")
    for url in ("http://127.0.0.1:8080", "http://localhost:1/v1", "http://[::1]:1"):
        assert http_options(url) == {"trust_env": False}
    with pytest.raises(GrokoraError, match=r"The proxy that .* names cannot be used .*; correct or unset it"):
        http_options("https://api.x.ai/v1")


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "localhost:8080", "ftp://host/x", "http://", "http://host:port", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(GrokoraError, match=r"is no .*address.*; give one such as http://127.0.0.1:8080"):
        http_options(url)


def test_every_form_of_a_time_zone_is_understood(tmp_path: Path) -> None:
    mounted, linked, none = tmp_path / "mounted", tmp_path / "linked", tmp_path / "none"
    mounted.write_bytes((ZONES / "Europe" / "Berlin").read_bytes())
    linked.symlink_to(ZONES / "Asia" / "Tokyo")
    for form in ("Europe/Berlin", ":Europe/Berlin", f":{ZONES}/Europe/Berlin", str(ZONES / "Europe/Berlin")):
        assert local_timezone({"TZ": form}, none) == "Europe/Berlin"
    assert local_timezone({}, linked) == "Asia/Tokyo"
    berlin = ZONES / "Europe" / "Berlin"
    found = local_timezone({}, mounted)  # several names share these bytes
    assert (ZONES / found).read_bytes() == berlin.read_bytes()
    assert local_timezone({}, none) == local_timezone({"TZ": "CET-1CEST"}, none) == "UTC"


def test_the_command_line_shows_the_same_settings_from_the_root_folder(tmp_path: Path) -> None:
    home = project(tmp_path / "swarm", "GROKORA_STORE=elsewhere\n")
    code = "from grokora_pipeline.settings import get_settings; print(get_settings().store)"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GROKORA_")}
    shown = {
        subprocess.run([sys.executable, "-c", code], cwd=cwd, env=clean | extra, check=True, capture_output=True).stdout
        for cwd, extra in ((home, {}), (Path("/"), {"GROKORA_HOME": str(home)}))
    }
    assert shown == {f"{home / 'elsewhere'}\n".encode()}
