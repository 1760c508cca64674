"""What every link of the chain does alike: find its inputs, reuse what is published, report errors as one sentence."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import dagster as dg
import orjson

from grokora_pipeline.agents import AgentSpec, load_agents
from grokora_pipeline.assets.io_manager import StoreReader
from grokora_pipeline.errors import GrokoraError, disk_refusal
from grokora_pipeline.execution.process import CUDA_POOL, DEVICE_RETRIES, GpuProcess, cuda_tags
from grokora_pipeline.settings import Settings, get_settings
from grokora_pipeline.store import Artifact, Store, content_version
from grokora_pipeline.store.champions import Registry

if TYPE_CHECKING:
    AssetResult = dg.MaterializeResult[Any]
else:
    AssetResult = dg.MaterializeResult  # Dagster does not recognise the parametrised class as an asset's return type

OWNERS = ["team:grokora"]
_CODE = 1  # raise it when an asset would make something else from the same inputs


class Identity(TypedDict):
    """Arguments of `dg.asset`."""

    key: dg.AssetKey
    group_name: str
    owners: list[str]
    io_manager_key: str


class GpuStep(TypedDict):
    """Arguments of `dg.asset`."""

    op_tags: dict[str, str]
    pool: str
    required_resource_keys: set[str]
    retry_policy: dg.RetryPolicy


@dataclass(frozen=True)
class Project:
    """One swarm in a code location: its settings, its agents, and the name that keeps it apart from other swarms.

    Every asset factory takes a project and reads nothing else, so that two projects stand side by side. Store keys
    (`actor/lora_adapter`) are the same in every project, since each has a store of its own; Dagster's keys and names
    begin with the project's name.
    """

    settings: Settings
    agents: tuple[AgentSpec, ...]
    name: str = ""

    @cached_property
    def store(self) -> Store:
        """The artifact store, opened when it is first asked for."""
        return Store.of(self.settings)

    @property
    def registry(self) -> Registry:
        """Who is in service."""
        return Registry(self.store)

    def key(self, *parts: str) -> dg.AssetKey:
        """The Dagster key of a store key, given whole (`actor/champion`) or in parts (`actor`, `champion`)."""
        return dg.AssetKey([*filter(None, [self.name]), *"/".join(parts).split("/")])

    def links_and_base(self, agent: str, *links: str) -> list[dg.AssetKey]:
        """The Dagster keys of some links of an agent's chain, and of the base model."""
        return [*(self.key(agent, link) for link in links), self.key("base_model")]

    def store_key(self, key: dg.AssetKey) -> str:
        """The store key of a Dagster key of this project."""
        return "/".join(key.path[1:] if self.name else key.path)

    def label(self, word: str) -> str:
        """The name of a job, schedule, sensor, pool, group, resource or concurrency key."""
        return f"{self.name}_{word}" if self.name else word

    @property
    def pool(self) -> str:
        """The pool of the steps that need a GPU."""
        return self.label(CUDA_POOL)

    @property
    def gpu_resource(self) -> str:
        """The key of the resource that runs GPU work."""
        return self.label("grokora_gpu")

    @property
    def io_manager(self) -> str:
        """The key of the I/O manager that gives a person's own assets what is in the store."""
        return self.label("grokora_store")

    def resources(self) -> dict[str, Any]:
        """The resources that the project's assets name."""
        environment = {"GROKORA_DEVICES": self.settings.devices} if self.settings.devices else {}
        reader = StoreReader(url=self.settings.store, cache=str(self.settings.cache), name=self.name)
        return {self.gpu_resource: GpuProcess(environment=environment), self.io_manager: reader}

    def identity(self, key: str, group: str) -> Identity:
        """The arguments of `dg.asset` that say which asset it is, by its store key, and which group shows it."""
        return {
            "key": self.key(key),
            "group_name": self.label(group),
            "owners": OWNERS,
            "io_manager_key": self.io_manager,
        }

    def check_specs(self, key: str, checks: Mapping[str, str], blocking: str = "") -> list[dg.AssetCheckSpec]:
        """The checks of an asset, by name with what each says; one may be blocking: it stops what follows."""
        return [
            dg.AssetCheckSpec(name, asset=self.key(key), description=says, blocking=name == blocking)
            for name, says in checks.items()
        ]

    def gpu_step(self, gpus: int = 1, tags: Mapping[str, str] | None = None) -> GpuStep:
        """The arguments of `dg.asset` by which a step asks for so many devices, and may use `run_gpu`."""
        return {
            "op_tags": {**cuda_tags(gpus), **(tags or {})},
            "pool": self.pool,
            "required_resource_keys": {self.gpu_resource},
            "retry_policy": DEVICE_RETRIES,
        }

    def run_gpu(
        self, context: dg.AssetExecutionContext, module: str, plan: dict[str, Any], output: Path
    ) -> dict[str, Any]:
        """Run a worker, which writes into `output`, on the devices of a `gpu_step`; gives its result."""
        process: GpuProcess = getattr(context.resources, self.gpu_resource)
        return process.run(context, module, {**plan, "output": str(output)}, output)


def load_project() -> Project:
    """The project of this process's settings, for commands and the front door of the definitions."""
    settings = get_settings()
    return Project(settings, load_agents(settings.agents))


def code_version(*settings: object) -> str:
    """The code version of an asset: the release's asset code, and the settings that shape what it makes.

    A change of either marks the asset as out of date in the UI, and makes it anew.
    """
    return content_version(_CODE, *settings)


class RefusedError(GrokoraError):
    """A check refuses what was built: the staged folder is dropped, `current` stays where it was."""

    def __init__(self, check: dg.AssetCheckResult) -> None:
        super().__init__(f"{check.description} Nothing was published.")
        self.check = check


@contextmanager
def plain_errors() -> Iterator[None]:
    """A person's mistake, or a disk that takes no more, ends the step with its sentence, and is not retried."""
    try:
        yield
    except GrokoraError as error:
        raise dg.Failure(str(error), allow_retries=False) from None  # else Dagster shows the trace above the sentence
    except OSError as error:
        if sentence := disk_refusal(error):
            raise dg.Failure(sentence, allow_retries=False) from None
        raise


def publish_once(
    project: Project,
    context: dg.AssetExecutionContext,
    key: str,
    inputs: dict[str, Any],
    build: Callable[[Path], str | None],
) -> Artifact:
    """The artifact of these inputs: the published one if there is one, else a new one from `build`.

    `build` writes into a staging folder and returns a content version, or None if the content is not bit-stable
    (adapters, generated text): then the version is the hash of the inputs.
    """
    store, fingerprint = project.store, content_version(key, inputs)
    record = store.pointer(key, "current")
    known = record["version"] if record and record.get("inputs") == fingerprint else fingerprint
    if artifact := store.find(key, known):
        context.log.info(f"{key} is up to date (version {artifact.version}).")
        store.point(key, "current", artifact.version, inputs=fingerprint)
        return artifact
    with store.stage(key) as staged:
        version = build(staged) or fingerprint
        return store.publish(key, version, staged, inputs=fingerprint)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the store."""
    document: dict[str, Any] = orjson.loads(path.read_bytes())
    return document


def write_json(path: Path, document: object) -> None:
    """Write a JSON file, indented and with sorted keys, so that equal content is equal bytes."""
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))


def base_folder(artifact: Path) -> Path:
    """The folder that the base model is loaded from: inside the artifact, or the person's own folder."""
    return artifact / str(read_json(artifact / "base_model.json")["path"])


def champions_plan(project: Project, agents: Iterable[str]) -> dict[str, Any]:
    """Who is in service for each agent, for the plan of a worker: adapters' folders (None: the base), fixed prompts."""
    adapters = {name: project.registry.in_service(name) for name in agents}
    prompts = {name: project.registry.prompt(name) for name in agents}
    return {
        "adapters": {name: str(adapter.path) if adapter else None for name, adapter in adapters.items()},
        "prompts": {name: prompt.read_json("prompt.json") for name, prompt in prompts.items() if prompt},
    }


def result(
    project: Project,
    artifact: Artifact,
    metadata: dict[str, Any],
    checks: list[dg.AssetCheckResult] | None = None,
    **tags: str,
) -> AssetResult:
    """A materialization whose data version is the artifact's version and whose metadata links to its folder."""
    return dg.MaterializeResult(
        asset_key=project.key(artifact.key),
        metadata={**metadata, "folder": dg.MetadataValue.path(artifact.link())},  # the UI keeps this order
        data_version=dg.DataVersion(artifact.version),
        check_results=checks or [],
        tags=tags or None,
    )


def selected(
    context: dg.AssetExecutionContext, materialization: AssetResult
) -> Iterator[AssetResult | dg.AssetCheckResult]:
    """What a run asks of an asset with `can_subset`: the asset with those checks that are selected, or checks alone."""
    names = {check.name for check in context.selected_asset_check_keys}
    checks = [check for check in materialization.check_results or () if check.check_name in names]
    if context.selected_asset_keys:
        yield materialization._replace(check_results=checks)
    else:
        yield from checks


def scalars(report: dict[str, Any]) -> dict[str, Any]:
    """The numbers and small mappings of a report, ready to be metadata."""
    return {
        name: value for name, value in report.items() if isinstance(value, int | float | str | dict) and name != "rows"
    }


def warning(name: str, passed: bool, description: str, /, **metadata: Any) -> dg.AssetCheckResult:
    """The result of a check that warns and blocks nothing."""
    severity = dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(
        check_name=name, passed=passed, severity=severity, metadata=metadata, description=description
    )


def columns(**meanings: str) -> dict[str, dg.MetadataValue[Any]]:
    """The column schema of a table asset: each column's name and what it holds, as `type: meaning`."""
    parts = [(name, *meaning.partition(": ")) for name, meaning in meanings.items()]
    schema = [dg.TableColumn(name, type=kind, description=text or None) for name, kind, _, text in parts]
    return {"dagster/column_schema": dg.MetadataValue.table_schema(dg.TableSchema(schema))}


def table(rows: list[dict[str, Any]]) -> dg.MetadataValue[Any]:
    """A metadata table of up to a hundred rows; values become text or numbers."""
    records = [
        dg.TableRecord(
            {name: value if isinstance(value, int | float | str) else str(value) for name, value in row.items()}
        )
        for row in rows[:100]  # the UI loads all metadata of an asset at once
    ]
    columns = [dg.TableColumn(name) for name in (rows[0] if rows else {})]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))
