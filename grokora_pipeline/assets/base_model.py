"""`base_model`: the model that every adapter is trained on, resolved once and described."""

import shutil
from pathlib import Path

import dagster as dg

from grokora_pipeline.assets.common import (
    OWNERS,
    Made,
    Project,
    code_version,
    plain_errors,
    publish_once,
    read_json,
    result,
    write_json,
)
from grokora_pipeline.execution.process import DEVICE_RETRIES, cuda_tags
from grokora_pipeline.models.fingerprint import fingerprint, model_files

KEY = "base_model"


def base_model_asset(project: Project) -> dg.AssetsDefinition:
    """The `base_model` asset of a project."""

    @dg.asset(
        key=project.key(KEY),
        group_name=project.label("sources"),
        kinds={"huggingface"},
        owners=OWNERS,
        code_version=code_version(project.settings.base_model),
        op_tags=cuda_tags(),
        pool=project.pool,
        required_resource_keys={project.gpu_resource},
        retry_policy=DEVICE_RETRIES,
    )
    def base_model(context: dg.AssetExecutionContext) -> Made:
        """The base model's folder, content hash, size, context length, chat template and tokenizer."""
        model_id = project.settings.base_model

        def build(staged: Path) -> str:
            plan = {"model_id": model_id, "output": str(staged)}
            record = project.gpu(context).run(context, "grokora_pipeline.models", plan, staged)
            folder = Path(record["path"])
            if folder.is_absolute() and project.store.remote:  # other machines do not have this folder
                for path in model_files(folder):
                    shutil.copyfile(path, staged / path.name)
                record["path"] = "."
            write_json(staged / "base_model.json", record)
            return str(record["content_hash"])[:16]

        with plain_errors():
            artifact = publish_once(
                project, context, KEY, {"model": fingerprint(model_id), "code": code_version()}, build
            )
        return result(project, artifact, read_json(artifact.path / "base_model.json"))

    return base_model
