"""DPO and KTO as token weights: loss and gradient are TRL's."""

import random
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.evaluation.plan import turn_ids
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.loading import load_base
from grokora_pipeline.training.gradients import TreeLoss
from grokora_pipeline.training.layout import Layout, Row, flat, step_batches
from grokora_pipeline.training.plan import resolve_knobs
from grokora_pipeline.training.preferences import Preferences, complete_pairs, dpo, kto
from grokora_pipeline.training.run import train
from grokora_pipeline.training.tokenize import tokenize_split
from grokora_pipeline.workers.frame import Reporter
from grokora_pipeline_tests.row_by_row import gradient, wake_adapter
from grokora_pipeline_tests.tiny import tiny_base

PROMPTS = [list(range(10, 50)), list(range(10, 45))]  # they begin alike, so the tree has something to share
CHOOSER = random.Random(5)
ANSWERS = [[CHOOSER.randrange(60, 500) for _ in range(length)] for length in (6, 4, 5, 7)]


def answered(prompt: list[int], answer: list[int], judged: str, pair: str = "", weight: float = 1.0) -> Row:
    return Row((*prompt, *answer), (0.0,) * len(prompt) + (weight,) * len(answer), "s", judged, pair)


def trl_trainer(kind: str, folder: Path, output: Path) -> Any:
    """TRL's own trainer around the tiny base with a fresh adapter that is made to differ from the base."""
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    options = {"output_dir": str(output), "beta": 0.3, "use_cpu": True, "report_to": [], "bf16": False}
    options |= {"per_device_train_batch_size": 4, "gradient_checkpointing": False}
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    base = load_base(folder, dtype=torch.float32, device=torch.device("cpu"))
    if kind == "dpo":
        pairs = Dataset.from_dict({"prompt": ["a", "b"], "chosen": ["c", "d"], "rejected": ["e", "f"]})
        trainer: Any = DPOTrainer(
            base, None, DPOConfig(**options), train_dataset=pairs, processing_class=tokenizer, peft_config=lora
        )
    else:
        rated = Dataset.from_dict({"prompt": ["a"] * 4, "completion": list("cdef"), "label": [True, False] * 2})
        trainer = KTOTrainer(
            base, None, KTOConfig(**options), train_dataset=rated, processing_class=tokenizer, peft_config=lora
        )
    wake_adapter(trainer.model)
    return trainer


def tensors(rows: list[Row], prefix: str = "") -> dict[str, torch.Tensor]:
    width = max(len(row.ids) for row in rows)
    columns = {"input_ids": [], "attention_mask": [], "completion_mask": []}  # type: dict[str, list[list[int]]]
    for row in rows:
        rest = [0] * (width - len(row.ids))
        columns["input_ids"].append([*row.ids, *rest])
        columns["attention_mask"].append([1] * len(row.ids) + rest)
        columns["completion_mask"].append([int(weight > 0) for weight in row.weights] + rest)
    return {prefix + name: torch.tensor(values) for name, values in columns.items()}


@pytest.mark.parametrize("layout", ["tree", "padded"])
@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_loss_and_gradient_are_trls(kind: str, layout: Literal["tree", "padded"], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    trainer = trl_trainer(kind, tiny_base(tmp_path / "base"), tmp_path / "trl")
    model = trainer.model
    if kind == "dpo":
        rows = [
            answered(PROMPTS[index % 2], answer, judged, pair)
            for index, (answer, judged, pair) in enumerate(
                zip(ANSWERS, ["better", "better", "worse", "worse"], ["p", "q", "p", "q"], strict=True)
            )
        ]
        inputs = tensors(rows)
    else:
        judged = ["better", "better", "worse", "worse"]
        rows = [answered(PROMPTS[n % 2], answer, judged[n]) for n, answer in enumerate(ANSWERS)]
        following = [*rows[1:], rows[0]]
        mismatched = [
            answered(PROMPTS[n % 2], list(other.ids[len(PROMPTS[(n + 1) % 2]) :]), "")
            for n, other in enumerate(following)
        ]
        inputs = {**tensors(rows), **tensors(mismatched, "KL_"), "label": torch.tensor([True, True, False, False])}
    expected = trainer._compute_loss(model, inputs, return_outputs=False)
    expected.backward()
    wanted = gradient(model)
    knobs = resolve_knobs("sample", {"beta": 0.3, "answer_weight": 0.0})
    losses = TreeLoss(model.get_base_model(), Layout(layout, 64, loss_chunk=3))
    weighted, constant = Preferences(model, losses, knobs).weigh(rows)
    loss = losses.run(losses.layout.of(weighted), backward=True) + constant
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert float((gradient(model) - wanted).norm() / wanted.norm()) < 1e-4


def test_the_nll_of_each_answer_is_that_of_the_row_alone_whatever_rows_share(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model = load_base(tiny_base(tmp_path / "base"), dtype=torch.float32, device=torch.device("cpu"))
    rows = [answered(PROMPTS[n % 2], answer, "worse", weight=0.5) for n, answer in enumerate(ANSWERS)]
    rows.append(answered([*rows[0].ids], ANSWERS[2], "better"))  # a later step of the first row's session
    plain = TreeLoss(model, Layout("padded", 64, loss_chunk=3))
    alone = [float(plain.run(flat([row]))) / max(row.weights) for row in rows]
    assert plain.nlls(rows) == pytest.approx(alone, rel=1e-4)
    assert TreeLoss(model, Layout("tree", 64, least_saving=1)).nlls(rows) == pytest.approx(alone, rel=1e-4)


def test_the_losses_start_where_the_adapter_is_the_base_and_fall_towards_the_better_answers() -> None:
    assert dpo([0.0], [0.0], 0.1)[0] == pytest.approx(0.6931, abs=1e-4)
    assert kto([0.0], [0.0], 0.0, 0.1)[0] == 0.5
    for kind in ("dpo", "kto"):

        def loss(better: float, worse: float, kind: str = kind) -> tuple[float, list[float], list[float]]:
            return dpo([better], [worse], 0.1) if kind == "dpo" else kto([better], [worse], 0.2, 0.1)

        step = 1e-4
        _, (up,), (down,) = loss(1.0, 2.0)  # slopes are of the nll, the negative of a log ratio
        assert up == pytest.approx(-(loss(1 + step, 2.0)[0] - loss(1 - step, 2.0)[0]) / (2 * step), rel=1e-4)
        assert down == pytest.approx(-(loss(1.0, 2 + step)[0] - loss(1.0, 2 - step)[0]) / (2 * step), rel=1e-4)
    assert dpo([-1e6], [1e6], 0.1)[0] == pytest.approx(2e5)


def test_a_pair_is_never_parted_and_half_a_pair_is_left_out() -> None:
    whole = [answered([1, 2], [3], judged, f"p{n}") for n in range(5) for judged in ("better", "worse")]
    rows = [answered([1, 2], [4], ""), *whole, answered([1, 2], [5], "better", "alone")]
    rows = complete_pairs(rows)
    assert len(rows) == 11
    for size in (1, 2, 3, 4):
        batches = step_batches(rows, size, 7, 0)
        assert sorted(index for batch in batches for index in batch) == list(range(11))
        for batch in batches:
            names = [rows[index].pair for index in batch if rows[index].pair]
            assert all(names.count(name) == 2 for name in names)
            assert len(batch) <= max(size, 2)


def test_knobs_of_preferences_leave_older_adapters_as_they_are() -> None:
    assert not {"beta", "answer_weight", "preference_weight"} & resolve_knobs("best").model_dump().keys()
    assert resolve_knobs("best", {"beta": 0.2}).model_dump()["beta"] == 0.2
    knobs = resolve_knobs("plan", {"answer_weight": 0.5})
    dumped = knobs.model_dump()
    assert resolve_knobs(dumped.pop("preset"), dumped) == knobs


@pytest.mark.parametrize("kind", ["ratings", "preferences"])
def test_training_on_judged_answers_begins_at_the_bases_loss_and_prefers_the_better_ones(
    kind: str, tmp_path: Path
) -> None:
    base, rows, sides = tiny_base(tmp_path / "base"), list[dict[str, Any]](), list[str]()
    for number in range(10):
        for judged, answer in (("better", "yes"), ("worse", "no")):
            meta = {"turn_id": f"{number}{judged}", "session_id": f"s{number}", "judged": judged}
            meta |= {"pair": f"p{number}"} if kind == "preferences" else {}
            prompt = [{"role": "user", "content": f"Is {number} a number?"}]
            rows.append({"prompt": prompt, "completion": [{"role": "assistant", "content": answer}], "meta": meta})
            sides.append("train" if number < 8 else "validation")
    tokenize_split(rows, sides, ChatFormat.load(base), tmp_path / "split", max_length=256, seed=7)
    assert turn_ids(tmp_path / "split", "validation") == {"8better", "9better"}  # nothing is measured against the worse
    knobs = {"preset": "sample", "learning_rate": 0.01, "answer_weight": 0.0, "beta": 0.5, "max_steps": 6}
    folders = {"base": str(base), "split": str(tmp_path / "split"), "output": str(tmp_path / "adapter")}
    record = train({**folders, "knobs": {**knobs, "self_test": False}}, Reporter())
    at_the_base = 0.5 if kind == "ratings" else 0.6931
    assert record["initial_validation_loss"] == pytest.approx(at_the_base, abs=1e-3)
    assert record["validation_loss"] < 0.9 * at_the_base
    with pytest.raises(GrokoraError, match="dropout"):
        train({**folders, "knobs": {**knobs, "dropout": 0.1}}, Reporter())
