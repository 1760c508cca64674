"""`python -m grokora_pipeline.training.shrink plan.json`: a trained adapter at a lower rank and in int8, loss measured.

Plan: {base, adapter, split, output, rank}. The product BA of each pair is truncated to its largest singular values (the
best approximation of that rank, Eckart-Young), which needs QR of the thin factors only; PEFT's `add_weighted_adapter`
with `combination_type="svd"` decomposes the whole product, a matrix of the base's size for every layer. `output` gets
the truncated adapter, and beside it `adapter_model.int8.safetensors` for storage: rows scaled to int8, expanded by
`unpack_int8`.
"""

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.workers.frame import Plan, Reporter, Result, run

INT8_FILE = "adapter_model.int8.safetensors"
WEIGHTS_FILE = "adapter_model.safetensors"


def truncate(a: Any, b: Any, rank: int) -> tuple[Any, Any, float]:
    """(A [k, in], B [out, k], share of the squared singular values kept) of A [r, in] and B [out, r]."""
    import torch

    outer, left = torch.linalg.qr(b.double())
    inner, right = torch.linalg.qr(a.double().T)
    u, values, v = torch.linalg.svd(left @ right.T)
    root = values[:rank].sqrt()
    kept = float(values[:rank].pow(2).sum() / values.pow(2).sum().clamp(min=1e-30))
    new_a = root[:, None] * (v[:rank] @ inner.T)
    return new_a.float().contiguous(), (outer @ u[:, :rank] * root).float().contiguous(), kept


def truncate_folder(adapter: Path, output: Path, rank: int) -> dict[str, Any]:
    """Write the adapter at a lower rank, with the same scale; returns the ranks and the least and mean share kept."""
    from safetensors.torch import load_file, save_file

    config = json.loads((adapter / "adapter_config.json").read_text())
    before = int(config["r"])
    if not 1 <= rank <= before:
        raise GrokoraError(f"The adapter has rank {before}; it can be truncated to 1 to {before}, not to {rank}.")
    if config.get("use_dora"):
        raise GrokoraError("A DoRA adapter cannot be truncated: its magnitudes belong to its directions.")
    weights = load_file(adapter / WEIGHTS_FILE)
    kept: list[float] = []
    for name in [name for name in weights if ".lora_A." in name]:
        other = name.replace(".lora_A.", ".lora_B.")
        weights[name], weights[other], share = truncate(weights[name], weights[other], rank)
        kept.append(share)
    # rsLoRA divides by sqrt(r), so that the same alpha would be another scale at another rank: the plain one is stated.
    scale = config["lora_alpha"] / (math.sqrt(before) if config.get("use_rslora") else before)
    config |= {"r": rank, "lora_alpha": scale * rank, "use_rslora": False}
    output.mkdir(parents=True, exist_ok=True)
    save_file(weights, output / WEIGHTS_FILE, metadata={"format": "pt"})
    (output / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return {"rank_before": before, "rank": rank, "least_kept": min(kept), "mean_kept": sum(kept) / len(kept)}


def pack_int8(folder: Path) -> None:
    """Write the adapter's weights as int8 with a scale for each row: a quarter of fp32's size."""
    import torch
    from safetensors.torch import load_file, save_file

    packed: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / WEIGHTS_FILE).items():
        scale = tensor.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
        packed[name] = (tensor / scale).round().to(torch.int8)
        packed[f"{name}.scale"] = scale
    save_file(packed, folder / INT8_FILE)


def unpack_int8(folder: Path, output: Path) -> None:
    """Write the int8 weights of a folder as an adapter folder that PEFT loads."""
    from safetensors.torch import load_file, save_file

    packed = load_file(folder / INT8_FILE)
    names = [name for name in packed if not name.endswith(".scale")]
    output.mkdir(parents=True, exist_ok=True)
    save_file({name: packed[name].float() * packed[f"{name}.scale"] for name in names}, output / WEIGHTS_FILE)
    shutil.copyfile(folder / "adapter_config.json", output / "adapter_config.json")


def validation_loss(base: Path, adapter: Path, split: Path) -> float:
    """Nats a weighted label token of the split's validation rows."""
    from grokora_pipeline.models.loading import load_adapter, load_base
    from grokora_pipeline.training.adapter import keep_fp32
    from grokora_pipeline.training.gradients import TreeLoss
    from grokora_pipeline.training.layout import Layout
    from grokora_pipeline.training.tokenize import load_split

    rows = [row for row in load_split(split)[1] if row.judged != "worse" and not row.pair]
    model = load_adapter(load_base(base), adapter)
    keep_fp32(model)
    layout = Layout("tree", 1024)
    total = float(TreeLoss(model.get_base_model(), layout).run(layout.of(rows)))
    return total / sum(sum(row.weights) for row in rows)


def shrink(plan: Plan, reporter: Reporter) -> Result:
    """Truncate, pack, and measure the validation loss of the adapter before, after, and from int8."""
    base, adapter, split, output = (Path(plan[name]) for name in ("base", "adapter", "split", "output"))
    result = truncate_folder(adapter, output, int(plan["rank"]))
    pack_int8(output)
    unpack_int8(output, output / "unpacked")
    for name, folder in (("before", adapter), ("after", output), ("int8", output / "unpacked")):
        result[f"validation_loss_{name}"] = validation_loss(base, folder, split)
        reporter.log(f"validation loss {name}: {result[f'validation_loss_{name}']:.4f}")
    for path in (output / "unpacked").iterdir():
        path.unlink()
    (output / "unpacked").rmdir()
    files = {"bytes_before": adapter / WEIGHTS_FILE, "bytes": output / WEIGHTS_FILE, "bytes_int8": output / INT8_FILE}
    return {**result, **{name: path.stat().st_size for name, path in files.items()}}


if __name__ == "__main__":
    sys.exit(run(shrink))
