"""`python -m grokora_pipeline.models plan.json`: make the base model ready and say what it is.

Plan: {model_id, output}. Result: `base.facts`; `path` is relative to `output` (".") for the bundled model,
which is written there, and absolute for a folder or a hub model, which stay where they are.
"""

import sys
from pathlib import Path

from grokora_pipeline.models import base, fingerprint
from grokora_pipeline.workers.frame import Plan, Reporter, Result, run


def prepare(plan: Plan, reporter: Reporter) -> Result:
    """Resolve the model id to a checked folder of safetensors."""
    model_id = str(plan.get("model_id") or "")
    folder, revision = _resolve(model_id, Path(plan["output"]), reporter)
    base.check_folder(folder, model_id)
    from grokora_pipeline.models.export import check_architecture

    check_architecture(folder, model_id or fingerprint.BUNDLED_ID)
    result = base.facts(folder, model_id, revision)
    result["path"] = str(folder) if model_id else "."
    reporter.log(f"{result['model_id']}: {result['parameters'] / 1e6:.1f} M parameters, {result['architecture']}")
    return result


def _resolve(model_id: str, output: Path, reporter: Reporter) -> tuple[Path, str]:
    if not model_id:
        from grokora_pipeline.models.export import export_bundled

        reporter.log("Writing the bundled SmolLM2-135M-Instruct as bf16 safetensors (10-25 s)")
        export_bundled(output)
        return output, f"{fingerprint.BUNDLED_PACKAGE} {fingerprint.bundled_version()}"
    folder = Path(model_id).expanduser()
    if folder.is_dir():
        return folder.absolute(), "local"
    reporter.log(f"Fetching {model_id} from the Hugging Face hub, or from its cache")
    return fingerprint.fetch(model_id)


if __name__ == "__main__":
    sys.exit(run(prepare))
