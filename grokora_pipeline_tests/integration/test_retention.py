"""Retention: today's champion on the rows that an earlier champion held out, judged by the real evaluation."""

import json
import math
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
from grokora_pipeline_tests.stores import publish_files
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
    publish_files(
        store,
        "actor/task_dataset",
        f"dataset-{generation}",
        {"examples.jsonl": b"".join(orjson.dumps(row) + b"\n" for row in rows)},
    )
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


def bits(base: Path, rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> float:
    """Bits a byte of the answers behind example turns that stand before the rows' questions, by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM

    model, chat = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), ChatFormat.load(base)
    nll, count = 0.0, 0
    for row in rows:
        prompt, answer = chat.encode_example({**row, "prompt": [*before, *row["prompt"]]})
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        nll += float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum"))
        count += len(row["completion"][0]["content"])
    return nll / math.log(2) / count


def sharp_base(folder: Path) -> Path:
    """A tiny base that is sure of its words, so that what stands before an answer matters."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base(folder), dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)
        for weight in model.model.layers.parameters():
            weight.mul_(8 if weight.dim() > 1 else 1)
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_prompts_in_service_are_judged_with_their_prompt(tmp_path: Path) -> None:
    base, store, agent = sharp_base(tmp_path / "base"), Store(str(tmp_path / "store")), AGENT
    agent = agent.model_copy(update={"main_metric": "bits_per_byte"})
    publish_files(store, "base_model", "base1", {"base_model.json": {"model_id": "tiny", "path": str(base)}})
    project = Project(Settings(home=tmp_path, store=str(tmp_path / "store")), (agent,))
    publish(store, base, "a")
    shots = [example("a", 0)["prompt"][0], example("a", 0)["completion"][0]]
    for version, beside in (("prompt-before", "adapter-a"), ("prompt-alone", "")):
        with store.stage("actor/prompt") as staged:
            (staged / "prompt.json").write_bytes(orjson.dumps({"messages": shots}))
            if beside:
                (staged / "adapter.json").write_bytes(orjson.dumps({"version": beside}))
            store.publish("actor/prompt", version, staged)
        Registry(store).promote("actor", version, "better", {"versions": {"actor/tokenized_split": "split-a"}})
    plain, prompted = (bits(base, [example("a", n) for n in range(4, 8)], turns) for turns in ([], shots))
    assert abs(plain - prompted) > 0.04 * plain
    first, second = retention(project, agent, 0)
    assert [row["champion"] for row in (first, second)] == ["adapter-a", "prompt-before"]
    # the adapter was not trained, so that it answers as the base does
    assert (first["then"], first["now"]) == (pytest.approx(plain, rel=0.02), pytest.approx(prompted, rel=0.02))
    assert (second["then"], second["now"]) == (pytest.approx(prompted, rel=0.02), pytest.approx(prompted, rel=0.02))
    assert first["kept"] == first["then"] / first["now"]  # of bits less is better


@pytest.mark.slow
def test_every_earlier_champion_is_a_row_and_what_was_forgotten_is_not_asked(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    store = Store(str(tmp_path / "store"))
    publish_files(store, "base_model", "base1", {"base_model.json": {"model_id": "tiny", "path": str(base)}})
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
