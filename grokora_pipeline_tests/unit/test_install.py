"""What a newcomer installs: pins that everybody's index has, an environment that knows its folder, a container."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from grokora_pipeline.settings import PROJECT_ROOT

PINS = (PROJECT_ROOT / "constraints.txt").read_text().splitlines()


def make(folder: Path, *arguments: str) -> str:
    """What a person's `make` prints: not one that `make test` started, which would announce its folder."""
    inherited = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A used checkout: the Makefile, what it depends on, and an environment that it made."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(PROJECT_ROOT / name, folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=folder, check=True)
    (folder / ".venv" / ".installed").touch()
    return folder


def test_no_pin_is_a_local_build() -> None:
    assert [pin for pin in PINS if "+" in pin] == []


def test_every_pin_is_exact() -> None:
    assert [pin for pin in PINS if pin and not pin.startswith("#") and not re.fullmatch(r"[\w.-]+==[\w.!]+", pin)] == []


@cache
def requirements(name: str) -> list[Requirement]:
    """What an installed package needs, with all of its extras."""
    return list(map(Requirement, metadata.distribution(name).requires or []))


@pytest.mark.parametrize("extra", ["", "ray", "k8s", "llamacpp", "test"])
def test_everything_that_an_install_brings_is_pinned_and_fits(extra: str) -> None:
    """What is not pinned, such as `setuptools` once, is another release on every machine and on every day."""
    pins = dict(pin.split("==") for pin in PINS if pin and not pin.startswith("#"))
    present = {canonicalize_name(name): version for name, version in pins.items()}
    todo, seen = [Requirement(f"grokora_pipeline[{extra}]" if extra else "grokora_pipeline")], set[str]()
    while todo:
        needed = todo.pop()
        name = canonicalize_name(needed.name)
        if name != "grokora-pipeline":
            assert needed.specifier.contains(present[name], prereleases=True), needed
        if (brought := f"{name}[{','.join(sorted(needed.extras))}]") in seen:
            continue
        seen.add(brought)
        chosen = [{"extra": each} for each in ("", *needed.extras)]
        todo += [one for one in requirements(name) if not one.marker or any(map(one.marker.evaluate, chosen))]
    assert len(seen) > 100  # the plain install's are among them


@pytest.mark.exhaustive
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_pin_exists_for_every_python(python: str, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    if subprocess.run([*pip, "index", "versions", "pip"], capture_output=True, check=False).returncode:
        pytest.skip("no package index is reachable")
    asked = [*pip, "install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--target", str(tmp_path)]
    pins = ["--requirement", str(PROJECT_ROOT / "constraints.txt")]
    done = subprocess.run([*asked, "--python-version", python, *pins], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_environment_in_its_own_folder_is_used(checkout: Path) -> None:
    assert make(checkout, "-n", "demo").strip() == ".venv/bin/grokora demo"


@pytest.mark.parametrize("move", [shutil.move, lambda old, new: subprocess.run(["cp", "-a", old, new], check=True)])
def test_an_environment_that_was_moved_or_copied_is_made_anew(checkout: Path, tmp_path: Path, move: object) -> None:
    assert callable(move)
    move(str(checkout), str(tmp_path / "elsewhere"))
    assert "python3 -m venv .venv" in make(tmp_path / "elsewhere", "-n", "demo")


def test_an_environment_that_the_makefile_did_not_make_is_never_removed(checkout: Path) -> None:
    (checkout / ".venv" / ".installed").unlink()  # a person made it, to choose their own build of PyTorch
    (checkout / ".venv" / "pyvenv.cfg").write_text("")
    make(checkout, "-n", "demo")
    assert (checkout / ".venv" / "bin" / "python").exists()


def test_the_container_copies_what_is_there_and_runs_as_nobody_special() -> None:
    lines = (PROJECT_ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[2:-1]]
    assert copied
    assert [name for name in copied if not (PROJECT_ROOT / name).exists()] == []
    user = next(number for number, line in enumerate(lines) if line.startswith("USER "))
    assert lines[user] == "USER grokora"
    assert any(line.startswith("RUN make .venv/.installed ") for line in lines[user:])
    assert lines[-1] == 'CMD ["make", "demo"]'


def test_the_compose_file_starts_dagsters_four_services_from_files_that_are_there() -> None:
    deploy = PROJECT_ROOT / "deploy"
    services = yaml.safe_load((deploy / "docker-compose.yml").read_text())["services"]
    assert set(services) == {"postgres", "code", "webserver", "daemon"}
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])]
    assert [name for name in mounted if name.startswith("./") and not (deploy / name).is_file()] == []
    (server,) = (entry["grpc_server"] for entry in yaml.safe_load((deploy / "workspace.yaml").read_text())["load_from"])
    assert server["host"] in services
    assert str(server["port"]) in services["code"]["command"]
    home = Path("/home/grokora")
    owned = {
        str(home / "dagster"),
        str(home / "app" / "data" / "store"),
    }  # made for our user before they are mounted on
    assert f"RUN mkdir -p data/store {home / 'dagster'}" in (deploy / "Dockerfile").read_text()
    targets = [volume.split(":")[1] for volume in services["code"]["volumes"] + services["daemon"]["volumes"]]
    assert owned == {
        str(Path(path).parent if path.endswith("yaml") else path) for path in targets if "logs" not in path
    }
    assert services["webserver"]["ports"] == ["127.0.0.1:3000:3000"]  # no login: not for others


def test_the_composed_instance_differs_from_the_local_one_only_in_where_things_are_kept() -> None:
    local, composed = (
        yaml.safe_load(path.read_text())
        for path in (PROJECT_ROOT / "dagster.yaml", PROJECT_ROOT / "deploy/dagster.yaml")
    )
    kept = {"storage", "local_artifact_storage", "compute_logs"}
    assert {name: value for name, value in local.items() if name not in kept} == {
        name: value for name, value in composed.items() if name not in kept
    }
    assert composed["storage"] == {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}


def test_the_helm_values_give_gpu_pods_the_gpu_nodes_and_load_the_definitions() -> None:
    values = yaml.safe_load((PROJECT_ROOT / "deploy" / "helm-values.yaml").read_text())
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    assert deployment["dagsterApiGrpcArgs"] == ["--module-name", "grokora_pipeline.definitions"]
    assert {"name": "GROKORA_EXECUTOR", "value": "k8s"} in deployment["env"]
    run = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]["podSpecConfig"]
    assert run["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
