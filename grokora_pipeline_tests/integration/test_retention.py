"""Retention: today's champion on the rows that an earlier champion held out, judged by the real evaluation."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from grokora_pipeline.agents import AgentSpec, AnswerSpec
from grokora_pipeline.assets.common import Project
from grokora_pipeline.assets.retention import retention
from grokora_pipeline.datasets.lineage import forget
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.settings import Settings
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry
from grokora_pipeline.training.tokenize import tokenize_split
from grokora_pipeline_tests.tiny import tiny_base

AGENT = AgentSpec(name="actor", description="acts", answer=AnswerSpec(type="json"), main_metric="field_accuracy")


def example(generation: str, number: int) -> dict[str, Any]:
    meta = {"turn_id": f"{generation}{number}", "session_id": f"{generation}-s{number}", "source_file": "a.jsonl"}
    meta |= {"source_sha256": "", "example_id": f"{generation}{number}"}
    prompt = [{"role": "user", "content": f"Is {number} done in {generation}?"}]
    answer = {"role": "assistant", "content": json.dumps({"valid": number % 2 == 0})}
    return {"prompt": prompt, "completion": [answer], "meta": meta}


def publish(store: Store, base: Path, generation: str) -> None:
    """A dataset, its split and the adapter that was trained on it, promoted; earlier generations' logs are gone."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    rows = [example(generation, number) for number in range(8)]
    with store.stage("actor/task_dataset") as staged:
        (staged / "examples.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        store.publish("actor/task_dataset", f"dataset-{generation}", staged)
    with store.stage("actor/tokenized_split") as staged:
        sides = ["train"] * 4 + ["validation"] * 4
        tokenize_split(rows, sides, ChatFormat.load(base), staged, max_length=256, seed=7)
        store.publish("actor/tokenized_split", f"split-{generation}", staged)
    with store.stage("actor/lora_adapter") as staged:
        torch.manual_seed(ord(generation))
        config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(staged)
        record = {"history": [], "versions": {"actor/tokenized_split": f"split-{generation}"}}
        (staged / "training.json").write_bytes(orjson.dumps(record))
        store.publish("actor/lora_adapter", f"adapter-{generation}", staged)
    Registry(store).promote("actor", f"adapter-{generation}", "better", {})


@pytest.mark.slow
def test_every_earlier_champion_is_a_row_and_what_was_forgotten_is_not_asked(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    store = Store(str(tmp_path / "store"))
    with store.stage("base_model") as staged:
        (staged / "base_model.json").write_bytes(orjson.dumps({"model_id": "tiny", "path": str(base)}))
        store.publish("base_model", "base1", staged)
    project = Project(Settings(home=tmp_path, store=str(tmp_path / "store")), (AGENT,))
    with pytest.raises(GrokoraError, match="in service"):
        retention(project, AGENT, 0)
    publish(store, base, "a")
    assert retention(project, AGENT, 0) == []
    publish(store, base, "b")
    forget(store, "a-s7")
    (row,) = retention(project, AGENT, 0)
    assert (row["champion"], row["rows"]) == ("adapter-a", 3)
    assert row["then"] == row["now"]  # neither adapter was trained: both answer as the base does
