"""What `deploy/docker-compose.yml` starts, as plain processes: PostgreSQL, gRPC code server, webserver and daemon."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import httpx
import pytest
import yaml
from dagster_graphql import DagsterGraphQLClient, ReloadRepositoryLocationStatus

from grokora_pipeline.automation.jobs import INGEST_JOB
from grokora_pipeline.settings import PROJECT_ROOT
from grokora_pipeline.store import Store
from grokora_pipeline_tests.chain import environment, make_home, script
from grokora_pipeline_tests.outside import postgres
from grokora_pipeline_tests.processes import free_port, started

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.xdist_group("deploy")]
__all__ = ["postgres"]

COMPOSED = yaml.safe_load((PROJECT_ROOT / "deploy" / "docker-compose.yml").read_text())["services"]


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where the services are."""

    home: Path
    url: str
    client: DagsterGraphQLClient

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 240
        while not holds():
            logs = "\n".join(path.read_text()[-2000:] for path in self.home.glob("*.log"))
            assert time.monotonic() < deadline, f"{what} took too long\n{logs}"
            time.sleep(0.3)

    def loaded(self) -> bool:
        """Whether the webserver has the code server's definitions."""
        # an entry of a code server that was not up yet counts as loaded, with an error; it is loaded anew when it is up
        query = "{ repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name } } } } }"
        try:
            answer = httpx.post(f"{self.url}/graphql", json={"query": query}, timeout=30).json()
        except httpx.TransportError:
            return False
        nodes = answer["data"]["repositoriesOrError"].get("nodes", [])
        return any(job["name"] == INGEST_JOB for node in nodes for job in node["jobs"])


@contextmanager
def service(name: str, home: Path, ports: dict[str, str]) -> Iterator[None]:
    """One of the composed services, on ports of this machine, with its own words in `<name>.log`."""
    command = [script(Path(COMPOSED[name]["command"][0]).name), *COMPOSED[name]["command"][1:]]
    command = [ports.get(word, word) for word in command]
    with started(command, home / f"{name}.log", os.environ, signal.SIGKILL):
        yield


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[Deployment]:
    home = make_home(tmp_path_factory.mktemp("deploy"))
    instance = yaml.safe_load((PROJECT_ROOT / "deploy" / "dagster.yaml").read_text())
    instance["run_monitoring"]["poll_interval_seconds"] = 1  # as often as it can, to catch a mistake about the reload
    (home / "dagster" / "dagster.yaml").write_text(yaml.safe_dump(instance))
    workspace = (PROJECT_ROOT / "deploy" / "workspace.yaml").read_text()
    code, web = str(free_port()), str(free_port())
    (home / "workspace.yaml").write_text(workspace.replace("host: code", "host: 127.0.0.1").replace("4000", code))
    ports = {"4000": code, "3000": web, "0.0.0.0": "127.0.0.1"}
    ports["/home/grokora/dagster/workspace.yaml"] = str(home / "workspace.yaml")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as services:
        variables = {**environment(home), "DAGSTER_POSTGRES_URL": postgres}
        variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for name, value in variables.items():
            patch.setenv(name, value)
        for name in ("code", "webserver", "daemon"):
            services.enter_context(service(name, home, ports))
        url = f"http://127.0.0.1:{web}"
        waiting = Deployment(home, url, None)  # type: ignore[arg-type]  # the client asks the server when it is made
        waiting.until(waiting.loaded, "loading the definitions")
        yield Deployment(home, url, DagsterGraphQLClient("127.0.0.1", port_number=int(web)))


def test_a_run_launched_through_graphql_ends_well_though_the_code_server_is_reloaded(deployment: Deployment) -> None:
    client = deployment.client
    run = client.submit_job_execution(INGEST_JOB)
    with dg.DagsterInstance.get() as instance:
        deployment.until(lambda: bool(instance.get_latest_materialization_event(dg.AssetKey("session_logs"))), "a step")
        assert client.get_run_status(run) == dg.DagsterRunStatus.STARTED
        reloaded = client.reload_repository_location("grokora_pipeline")
        assert reloaded.status == ReloadRepositoryLocationStatus.SUCCESS, reloaded.message
        deployment.until(lambda: client.get_run_status(run) not in (dg.DagsterRunStatus.STARTED,), "the run")
        (record,) = instance.get_runs()
        said = [entry.message for entry in instance.all_logs(run) if int(entry.level) >= 40]
        assert record.status == dg.DagsterRunStatus.SUCCESS, "\n".join(said)
    made = Store(str(deployment.home / "store"))
    assert made.current("actor/tokenized_split") is not None
    assert record.tags.get(".dagster/grpc_info"), "the code server ran it"
