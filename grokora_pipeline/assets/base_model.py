"""`base_model`: the model that every adapter is trained on, resolved once and described."""

import shutil
from pathlib import Path

import dagster as dg

from grokora_pipeline.assets.common import (
    AssetResult,
    Project,
    base_folder,
    code_version,
    plain_errors,
    publish_once,
    result,
    write_json,
)
from grokora_pipeline.execution.executor import cost_of_executor
from grokora_pipeline.models.fingerprint import fingerprint, model_files
from grokora_pipeline.store import content_version
from grokora_pipeline.workers.lease import discover_devices

KEY = "base_model"
FACTS = "base_model.json"
_TRIED = 4  # raise it if more is tried on a base, so that it is tried anew


def base_model_asset(project: Project) -> dg.AssetsDefinition:
    """The `base_model` asset of a project."""

    @dg.asset(
        **project.identity(KEY, "sources"),
        kinds={"huggingface"},
        code_version=code_version(project.settings.base_model),
        **project.gpu_step(),  # trying the architecture trains and answers, as the later GPU steps do
        check_specs=[dg.AssetCheckSpec("gpu_steps_are_counted", asset=project.key(KEY))],
    )
    def base_model(context: dg.AssetExecutionContext) -> AssetResult:
        """The base model's folder, content hash, size, context length, chat template and tokenizer, and what was tried
        on its architecture: training, merging and serving, a sentence each."""
        model_id = project.settings.base_model

        def build(staged: Path) -> str:
            """Write `base_model.json`, and the model's files if the store is remote; the version of its content."""
            record = project.run_gpu(context, "grokora_pipeline.evaluation.base", {"model_id": model_id}, staged)
            folder = Path(record["path"])
            if folder.is_absolute() and project.store.remote:  # other machines do not have this folder
                for path in model_files(folder):
                    shutil.copyfile(path, staged / path.name)
                record["path"] = "."
            write_json(staged / FACTS, record)
            version = content_version(record["content_hash"], record["chat_template_sha256"])
            before = project.store.find(KEY, version)
            if before and before.read_json(FACTS)["path"] != record["path"]:
                # the same model in another folder: its version stays, and with it all that was made from it
                shutil.rmtree(before.path)
            return version

        with plain_errors():
            folder = model_id if Path(model_id).is_dir() else ""
            inputs = {"model": fingerprint(model_id), "folder": folder, "code": code_version(_TRIED)}
            if not base_is_here(project):
                shutil.rmtree(project.store.require(KEY).path)  # so that it is published again; it holds FACTS alone
            artifact = publish_once(project, context, KEY, inputs, build)
        return result(project, artifact, artifact.read_json(FACTS), [_gpu_steps_are_counted(project, context)])

    return base_model


def base_is_here(project: Project) -> bool:
    """Whether the published base model's folder is where it was: a checkout may be moved, or the hub's cache emptied.

    True if there is none, and in a remote store, which holds the model itself.
    """
    artifact = project.store.current(KEY)
    return artifact is None or project.store.remote or base_folder(artifact.path).is_dir()


def _gpu_steps_are_counted(project: Project, context: dg.AssetExecutionContext) -> dg.AssetCheckResult:
    """Whether the code location's executor, or the pool, starts no more GPU steps than there are devices."""
    limits = {pool.name: pool.limit for pool in context.instance.event_log_storage.get_pool_limits()}
    devices = len(discover_devices(project.settings.devices))
    executor = context.job_def.executor_def.name
    cost = cost_of_executor(executor, project.pool, limits.get(project.pool), devices)
    return dg.AssetCheckResult(
        check_name="gpu_steps_are_counted",
        passed=not cost,
        severity=dg.AssetCheckSeverity.WARN,
        description=cost or f"The executor {executor} or the pool {project.pool} counts devices.",
    )
