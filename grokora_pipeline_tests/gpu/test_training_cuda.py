"""The training contract on a CUDA GPU: NF4 in the memory that was predicted, below the cap, learning."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.training.tokenize import tokenize_split
from grokora_pipeline_tests.benchmarks.gpu import SHAPES, main_row, matmul_tflops, write_base
from grokora_pipeline_tests.benchmarks.training import sample_rows
from grokora_pipeline_tests.tiny import tiny_base

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(autouse=True)
def gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    base = tiny_base(tmp_path / "base", hidden_size=1024, layers=16)
    rows = sample_rows(80, 5)
    sides = ["validation" if index % 5 == 4 else "train" for index in range(80)]
    tokenize_split(rows, sides, ChatFormat.load(base), tmp_path / "split", max_length=2048, seed=7)
    folders = {"base": str(base), "split": str(tmp_path / "split"), "output": str(tmp_path / "adapter")}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**folders, "knobs": {"preset": "best", "learning_rate": 1e-3}}))
    return path


def trained(plan: Path, **knobs: Any) -> dict[str, Any]:
    document = json.loads(plan.read_text())
    document["knobs"] |= {"num_processes": 1, **knobs}
    plan.write_text(json.dumps(document))
    subprocess.run([sys.executable, "-m", "grokora_pipeline.training", str(plan)], check=True)
    result: dict[str, Any] = json.loads(plan.with_suffix(".result.json").read_text())
    return result


@pytest.mark.parametrize("packing", ["tree", "padded"])
def test_nf4_learns_below_the_cap_as_predicted(plan: Path, packing: str) -> None:
    record = trained(plan, packing=packing)
    assert (record["device"], record["quantisation"], record["dtype"]) == ("cuda", "nf4", "bfloat16")
    assert record["self_test"]["exact"]
    assert record["validation_loss"] < record["initial_validation_loss"]
    assert record["peak_memory_mib"] < 8 * 1024
    assert record["out_of_memory_halvings"] == 0


def test_a_small_cap_is_kept_by_smaller_batches(plan: Path) -> None:
    roomy = trained(plan)
    tight = trained(plan, memory_gib=0.6 * roomy["predicted_memory_mib"] / 1024)
    assert tight["peak_memory_mib"] < roomy["peak_memory_mib"]
    assert tight["validation_loss"] == pytest.approx(roomy["validation_loss"], rel=0.05)


def test_a_llama_3_of_8b_trains_below_8_gib_as_predicted(tmp_path: Path) -> None:
    row = main_row(tmp_path, write_base(tmp_path / "base", SHAPES["8b"]), "8b", matmul_tflops(4096))
    assert row["peak_reserved_gib"] < 8
    assert row["peak_reserved_gib"] == pytest.approx(row["predicted_gib"], rel=0.15)
    assert row["hours_for_1000_x_3_x_512"] < 2
