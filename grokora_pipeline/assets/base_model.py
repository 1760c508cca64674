"""`base_model`: the model that every adapter is trained on, resolved once and described."""

import shutil
from pathlib import Path

import dagster as dg

from grokora_pipeline.assets.common import (
    OWNERS,
    Made,
    code_version,
    get_store,
    plain_errors,
    publish_once,
    read_json,
    result,
    write_json,
)
from grokora_pipeline.execution.process import CUDA_POOL, DEVICE_RETRIES, GpuProcess, cuda_tags
from grokora_pipeline.models.fingerprint import fingerprint, model_files
from grokora_pipeline.settings import get_settings

KEY = "base_model"


@dg.asset(
    group_name="sources",
    kinds={"huggingface"},
    owners=OWNERS,
    code_version=code_version(get_settings().base_model),
    op_tags=cuda_tags(),
    pool=CUDA_POOL,
    retry_policy=DEVICE_RETRIES,
)
def base_model(context: dg.AssetExecutionContext, gpu: GpuProcess) -> Made:
    """The base model's folder, content hash, size, context length, chat template and tokenizer."""
    model_id = get_settings().base_model

    def build(staged: Path) -> str:
        plan = {"model_id": model_id, "output": str(staged)}
        record = gpu.run(context, "grokora_pipeline.models", plan, staged)
        folder = Path(record["path"])
        if folder.is_absolute() and get_store().remote:  # other machines do not have this folder
            for path in model_files(folder):
                shutil.copyfile(path, staged / path.name)
            record["path"] = "."
        write_json(staged / "base_model.json", record)
        return str(record["content_hash"])[:16]

    with plain_errors():
        artifact = publish_once(context, KEY, {"model": fingerprint(model_id), "code": code_version()}, build)
    return result(artifact, read_json(artifact.path / "base_model.json"))
