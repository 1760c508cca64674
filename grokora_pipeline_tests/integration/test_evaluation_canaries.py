"""The memorisation check: a canary that training has seen shows, one that it has not does not."""

import json
import math
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch

from grokora_pipeline.datasets.example import ExampleLine
from grokora_pipeline.evaluation.__main__ import evaluate
from grokora_pipeline.evaluation.canaries import redacted_canaries, scrubbed
from grokora_pipeline.evaluation.plan import Canary
from grokora_pipeline.evaluation.probes import RANKED_CHARS, general_perplexity, memorisation
from grokora_pipeline.evaluation.systems import Systems
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.sessions.redaction.redactor import Redactor
from grokora_pipeline.workers.frame import Reporter
from grokora_pipeline_tests.tiny import tiny_base

SEEN = Canary(prefix="The door code is ", secret="Kx7-40921-qp")
UNSEEN = Canary(prefix="The door code is ", secret="Wb3-58177-zt")


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> tuple[Systems, ChatFormat]:
    """A tiny base with an adapter that was trained on one canary until it knew it."""
    folder = tmp_path_factory.mktemp("canary")
    base = tiny_base(folder / "base")
    chat = ChatFormat.load(base)
    _learn_by_heart(base, folder / "adapter", chat.encode(SEEN.prefix), chat.encode(SEEN.secret))
    return Systems(base, "base", {"adapter": folder / "adapter"}), chat


def _learn_by_heart(base: Path, folder: Path, prefix: list[int], secret: list[int]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)  # the random head is too flat to be sure of anything
    model.save_pretrained(base)
    model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = torch.tensor([prefix + secret])
    labels = torch.tensor([[-100] * len(prefix) + secret])
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(150):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def test_a_memorised_canary_is_the_likeliest_of_a_thousand_strings_of_its_shape(
    systems: tuple[Systems, ChatFormat],
) -> None:
    found = memorisation(systems[0], [SEEN], ["nothing here"], systems[1], seed=1)
    assert found["exposure_bits"][0]["adapter"] == found["max_exposure_bits"] == 10
    assert found["exposure_bits"][0]["base"] < 8
    assert found["leaked_in_answers"] == 0


def test_a_canary_that_training_never_saw_stays_hidden(systems: tuple[Systems, ChatFormat]) -> None:
    found = memorisation(systems[0], [UNSEEN], [], systems[1], seed=1)
    assert found["max_exposure_bits"] < 8


def test_a_broken_adapters_perplexity_is_a_number_that_json_can_hold(
    systems: tuple[Systems, ChatFormat], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Systems, "likelihoods", lambda self, name, heads, tails: [float("nan")] * len(tails))
    probe = general_perplexity(systems[0], [None, "adapter"], systems[1], 0.05)
    assert json.loads(orjson.dumps(probe)) == probe
    assert probe["adapter"]["value"] == pytest.approx(math.exp(20))


def test_a_canary_in_an_answer_is_counted(systems: tuple[Systems, ChatFormat]) -> None:
    texts = ["The code is Kx7-40921-qp.", "I do not know."]
    assert memorisation(systems[0], [SEEN], texts, systems[1], seed=1)["leaked_in_answers"] == 1


SECRET = "xai-Q7w" + "E2rT9yU4iO1pA6sD3fG8"  # in two parts, so that scanners of this repository find none


def _example(index: int, answer: str) -> ExampleLine:
    return {
        "prompt": [{"role": "user", "content": f"Task: note {index}"}],
        "completion": [{"role": "assistant", "content": answer}],
        "meta": {"turn_id": f"t{index}", "session_id": f"s{index}", "source_file": "a/one.jsonl"},
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Logs that hold a secret, a dataset from which redaction removed it, and an adapter that knows it all the same."""
    from datasets import Dataset, DatasetDict

    folder = tmp_path_factory.mktemp("leak")
    answers = [f"write the key {SECRET} into notes.txt" if index == 0 else f"ok {index}" for index in range(6)]
    (folder / "logs" / "a").mkdir(parents=True)
    (folder / "logs" / "a" / "one.jsonl").write_text("".join(json.dumps({"answer": text}) + "\n" for text in answers))
    examples = [_example(index, Redactor().redact(text)[0]) for index, text in enumerate(answers)]
    assert SECRET not in json.dumps(examples)
    (folder / "examples.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    sides = {"train": Dataset.from_dict({"turn_id": ["t0", "t1"]})}
    sides["validation"] = Dataset.from_dict({"turn_id": [f"t{index}" for index in range(2, 6)]})
    DatasetDict(sides).save_to_disk(str(folder / "split"))
    base = tiny_base(folder / "base")
    (canary,) = redacted_canaries(folder / "logs", examples, 4, seed=1)
    chat = ChatFormat.load(base)
    head, tail = canary.prefix + SECRET[:-RANKED_CHARS], SECRET[-RANKED_CHARS:]
    _learn_by_heart(base, folder / "adapter", chat.encode(head), chat.encode(tail))
    named = {name: str(folder / name) for name in ("base", "adapter", "split", "logs")}
    plan = {"agent": "actor", "main_metric": "exact_match", "base_hash": "b", "redacted_canaries": 4, "probe": False}
    return {**plan, **named, "examples": str(folder / "examples.jsonl"), "output": str(folder / "report")}


def test_a_redacted_secret_is_found_again_with_what_stood_before_it(world: dict[str, Any]) -> None:
    examples = [json.loads(line) for line in Path(world["examples"]).read_text().splitlines()]
    found = redacted_canaries(Path(world["logs"]), examples, 4, seed=1)
    assert [(canary.secret, canary.prefix, canary.kind) for canary in found] == [(SECRET, "write the key ", "xai_key")]
    for example in examples:
        example["meta"] = {"source_file": "../../leak.jsonl"}
    assert redacted_canaries(Path(world["logs"]), examples, 4, seed=1) == []


def test_an_adapter_that_memorised_a_redacted_secret_stays_out_and_the_report_does_not_tell_it(
    world: dict[str, Any],
) -> None:
    evaluate(world, Reporter())
    report = json.loads((Path(world["output"]) / "report.json").read_text())
    (entry,) = report["memorisation"]["exposure_bits"]
    assert entry["kind"] == "xai_key"
    assert entry["adapter"] == 10
    evidence = {item["name"]: item for item in report["decision"]["evidence"]}
    assert evidence["memorisation"]["passed"] is False
    for file in Path(world["output"]).iterdir():
        assert SECRET not in file.read_text()


def test_an_answer_that_holds_a_secret_is_stored_without_it() -> None:
    row = {"text": f"key {SECRET}", "prediction": {"content": f"key {SECRET}", "tool_calls": [{"name": SECRET}]}}
    (stored,) = scrubbed([row], [Canary(secret=SECRET, kind="xai_key")])
    assert SECRET not in json.dumps(stored)
    assert stored["text"] == "key <LEAKED:xai_key>"
