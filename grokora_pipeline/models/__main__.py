"""`python -m grokora_pipeline.models plan.json`: make the base model ready and say what it is.

Plan: {model_id, output}. Result: `base.facts`; `path` is relative to `output` (".") for the bundled model and for one
whose quantisation is undone, which are written there, and absolute for another folder or hub model, which stays.
"""

import sys
from pathlib import Path

from grokora_pipeline.models import base, fingerprint
from grokora_pipeline.workers.frame import Plan, Reporter, Result, run


def prepare(plan: Plan, reporter: Reporter) -> Result:
    """Resolve the model id to a checked folder of safetensors."""
    model_id = str(plan.get("model_id") or "")
    output = Path(plan["output"])
    folder, revision = _resolve(model_id, output, reporter)
    quantised = base.check_folder(folder, model_id)
    from grokora_pipeline.models.export import check_architecture, export_unquantised

    check_architecture(folder, model_id or fingerprint.BUNDLED_ID)
    if quantised:
        reporter.log(f"Writing {model_id}, whose weights are {quantised}, in bf16")
        export_unquantised(folder, output, model_id)
        folder = output
    result = base.facts(folder, model_id, revision)
    result["path"] = "." if folder == output else str(folder)
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
