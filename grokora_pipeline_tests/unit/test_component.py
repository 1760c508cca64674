"""`Swarm` in a `defs.yaml`: a wrong value names file, line and key, and paths start at the file's own folder."""

import re
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox

from grokora_pipeline.component import Swarm
from grokora_pipeline.errors import GrokoraError

HEAD = """type: grokora_pipeline.Swarm
attributes:
  logs: logs
  store: store
"""
AGENTS = "  agents: {actor: {description: Acts.}}\n"
ONE = "  agents:\n    a:\n      description: A.\n"  # lines 5 to 7


def build(text: str) -> tuple[Path, dg.Definitions]:
    """The folder of a component with this `defs.yaml`, gone by now, and its definitions."""
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.defs_folder_path / "mine"
        folder.mkdir()
        (folder / "defs.yaml").write_text(text)
        with sandbox.load_component_and_build_defs(defs_path=Path("mine")) as (_, defs):
            return folder, defs


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (f"{AGENTS}  preset: best\n  preset: plan\n", ": key 'attributes.preset' is there twice, in lines 6 and 7"),
        (f"{ONE}    a: {{description: B.}}\n", ": agent 'a' is there twice, in lines 6 and 8"),
        (f"{ONE}      rank: 8\n      rank: 4\n", ": agent 'a', key 'rank' .*8 and 9"),
        (f"{ONE}      main_metric: rougel\n", ":8: agent 'a', key 'main_metric': .*rougeL"),
        (f"{ONE}      epochz: 8\n", ":6: agent 'a': There is no training knob 'epochz'"),
        (f"{ONE}      retrain:\n        window: 0 0 31 2 *\n", ":9: agent 'a', .*never comes"),
        ("  agents: nowhere.yaml\n", "/mine/nowhere.yaml cannot be read .* correct `agents:` in .*defs.yaml:5"),
        (f"{AGENTS}  automation:\n    retrain: {{new_exmples: 7}}\n", ":7: key 'automation.retrain.new_exmples'"),
        (f"{AGENTS}  automation:\n    settle_seconds: -1\n", ":7: key 'automation.settle_seconds': .*equal to 0"),
        (f"{AGENTS}  automation:\n    timezone: Europe/Berln\n", ":7: key 'automation.timezone': no such zone"),
        (f"{AGENTS}  devices: gpu\n", ":6: key 'devices': give indices"),
        (f"{AGENTS}  name: my swarm\n", ":6: key 'name': 'my swarm' must be"),
        (f"{AGENTS}  name: größe\n", ":6: key 'name': 'größe' must be"),
        (f"{AGENTS}  name: _night\n", ":6: key 'name': '_night' must be .* the first a letter"),
        (f"{AGENTS}  preset: bset\n", ":6: key 'preset': Input should be 'plan', 'best', 'sample' or ''"),
        ("  agents: {}\n", ":5 needs a mapping `agents:`"),
        (f'{AGENTS}  base_model: "{{{{ env.NOT_SET }}}}"\n', ":6: key 'base_model': Input should be a valid string"),
    ],
)  # fmt: skip
def test_a_wrong_value_names_file_line_and_key(lines: str, complaint: str) -> None:
    with pytest.raises(Exception, match="Error while") as raised:
        build(HEAD + lines)
    cause = raised.value.__cause__
    assert isinstance(cause, GrokoraError)
    assert re.search(complaint, str(cause)), cause
    assert "/mine/defs.yaml" in str(cause)


TEMPLATES = """type: grokora_pipeline.Swarm
attributes:
  name: "{{ env.NAME }}"
  logs: "logs/{{ env.NAME }}"
  store: store
  preset: "{{ env.PRESET }}"
  agents: {actor: {description: "{{ env.NAME }} acts.", min_examples: "{{ env.COUNT }}"}}
  automation: {settle_seconds: "{{ env.COUNT }}", retrain: {window: "{{ env.WINDOW }}"}}
"""


@pytest.mark.parametrize("value", ["true", "0.5", "[0, 1]"])
def test_a_device_of_the_wrong_type_is_refused_at_its_line(value: str) -> None:
    with pytest.raises(Exception, match="Error while") as raised:
        build(f"{HEAD}{AGENTS}  devices: {value}\n")
    assert "mine/defs.yaml:6" in str(raised.value.__cause__)


def test_template_variables_stand_for_words_numbers_and_values_within_mappings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NAME": "night", "PRESET": "sample", "COUNT": "7", "WINDOW": "*/5 1-2 * * *"}.items():
        monkeypatch.setenv(name, value)
    _, defs = build(TEMPLATES)
    (schedule,), (sensor,) = defs.schedules or (), defs.sensors or ()
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert (schedule.name, schedule.cron_schedule) == ("night_actor_when_due", "*/5 1-2 * * *")
    assert sensor.minimum_interval_seconds == 7
    dataset = defs.resolve_assets_def(["night", "actor", "task_dataset"])
    assert "night acts." in str(next(iter(dataset.specs)).description)


def test_every_attribute_has_the_description_that_dg_docs_shows() -> None:
    model = Swarm.get_model_cls()  # what dg shows
    assert model is not None
    schema = model.model_json_schema()
    attributes = [schema["properties"], *(one["properties"] for one in schema["$defs"].values())]
    texts = {name: facts.get("description") for properties in attributes for name, facts in properties.items()}
    assert {"name", "automation", "retrain"} <= texts.keys()
    assert [name for name, text in texts.items() if not text] == []


def test_paths_start_at_the_file_and_a_tilde_is_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder, defs = build(HEAD.replace("store: store", "store: ~/store") + AGENTS)
    reader = (defs.resources or {})["grokora_store"]
    assert (reader.url, folder.name) == (str(tmp_path / "store"), "mine")


def test_a_single_device_needs_no_quotes() -> None:
    _, defs = build(f"{HEAD}{AGENTS}  devices: 0\n")
    gpu = (defs.resources or {})["grokora_gpu"]
    assert gpu.environment == {"GROKORA_DEVICES": "0"}


@pytest.mark.parametrize(("folder", "name"), [("night-shift", "night_shift"), ("2.nd", "swarm_2_nd"), ("Day", "Day")])
def test_whatever_its_folder_is_called_a_scaffolded_swarm_has_a_name_that_it_may_have(folder: str, name: str) -> None:
    with create_defs_folder_sandbox() as sandbox:
        made = sandbox.scaffold_component(component_cls=Swarm, defs_path=folder)
        attributes = yaml.safe_load((made / "defs.yaml").read_text())["attributes"]
        assert (attributes["name"], attributes["agents"]) == (name, "agents.yaml")
        with sandbox.load_component_and_build_defs(defs_path=Path(folder)) as (_, defs):
            assert dg.AssetKey([name, "assistant", "champion"]) in defs.resolve_asset_graph().get_all_asset_keys()
