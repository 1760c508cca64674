"""The evaluation worker end to end on a tiny random model: what it writes, what it remembers, what it refuses."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from grokora_pipeline.evaluation.__main__ import evaluate
from grokora_pipeline.evaluation.scoring import read_rows, score
from grokora_pipeline.workers.frame import Reporter, run
from grokora_pipeline_tests.tiny import tiny_base

HOSTILE = "</pre><script>alert(1)</script>"


def _adapter(base: Path, folder: Path, seed: int) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    history = [{"step": 1, "loss": 2.5}, {"step": 1, "eval_loss": 2.4}, {"step": 9, "loss": 0.5}]
    (folder / "training.json").write_text(json.dumps({"history": history, "tokens_per_second": 123.4}))
    return folder


def _example(index: int) -> dict[str, Any]:
    prompt = [
        {"role": "system", "content": "You are the validator. Answer with one JSON object."},
        {"role": "user", "content": f"Is step {index} done? {HOSTILE}"},
    ]
    answer = {"role": "assistant", "content": json.dumps({"valid": index % 2 == 0, "confidence": index})}
    return {
        "prompt": prompt,
        "completion": [answer],
        "meta": {"turn_id": f"t{index:02}", "session_id": f"s{index // 2}"},
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A plan over 12 validation rows of 6 sessions, with 8 training rows."""
    from datasets import Dataset, DatasetDict

    folder = tmp_path_factory.mktemp("world")
    base = tiny_base(folder / "base")
    examples = [_example(index) for index in range(20)]
    (folder / "examples.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    ids = [example["meta"]["turn_id"] for example in examples]
    sides = {"train": Dataset.from_dict({"turn_id": ids[12:]}), "validation": Dataset.from_dict({"turn_id": ids[:12]})}
    DatasetDict(sides).save_to_disk(str(folder / "split"))
    return {
        "agent": "validator",
        "answer": {"type": "json", "schema": {"type": "object", "required": ["valid"]}},
        "main_metric": "field_accuracy",
        "base": str(base),
        "base_hash": "b1",
        "adapter": str(_adapter(base, folder / "adapter", 1)),
        "champion": str(_adapter(base, folder / "champion", 2)),
        "split": str(folder / "split"),
        "examples": str(folder / "examples.jsonl"),
        "output": str(folder / "report"),
        "cache": str(folder / "cache"),
        "few_shot": 2,
        "trials": 2,
        "history": [{"label": "2026-01-01 <b>a0</b>", "value": 0.25, "rank": 8}],
        "ranks": [{"label": "rank 32, 2 seeds", "value": 0.5, "rank": 32}],
        "canaries": [{"prefix": "key: ", "secret": "Zq7-91xK"}],
    }


@pytest.fixture(scope="module")
def result(world: dict[str, Any]) -> dict[str, Any]:
    """The worker's result for the plan."""
    return evaluate(world, Reporter())


def _report(world: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((Path(world["output"]) / "report.json").read_text())
    return document


def test_all_four_systems_answer_the_same_rows(world: dict[str, Any], result: dict[str, Any]) -> None:
    rows = read_rows(Path(world["output"]))
    assert list(result["systems"]) == ["base", "few_shot", "adapter", "champion"]
    assert len(rows) == 4 * 12
    assert len({row["turn_id"] for row in rows}) == 12


def test_the_report_holds_what_the_gate_and_a_reader_need(world: dict[str, Any], result: dict[str, Any]) -> None:
    report = _report(world)
    assert report["decision"]["promote"] is False
    assert report["leaked_rows"] == {"adapter": 0, "champion": 0}
    assert set(report["comparisons"]) == {"adapter_vs_base", "adapter_vs_few_shot", "adapter_vs_champion"}
    assert {
        "perplexity",
        "bits_per_byte",
        "valid_json",
        "schema_valid",
        "rougeL",
        "sacrebleu",
    } <= set(report["systems"]["base"]["metrics"])
    assert set(report["probe"]) == set(report["pace"]) == {"base", "adapter", "champion"}
    assert list(report["reliability"]) == ["base", "few_shot", "adapter", "champion"]
    assert set(report["reliability"]["adapter"]) == {"pass^1", "pass^2"}
    assert 0 <= report["memorisation"]["max_exposure_bits"] <= 10
    assert "| field_accuracy |" in result["markdown"]


def test_a_third_of_the_sessions_is_kept_for_the_final_look(world: dict[str, Any], tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    examples = [_example(index) for index in range(34)]
    for index, example in enumerate(examples):
        example["meta"]["session_id"] = f"session{index}"
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    ids = [example["meta"]["turn_id"] for example in examples]
    sides = {"train": Dataset.from_dict({"turn_id": ids[30:]}), "validation": Dataset.from_dict({"turn_id": ids[:30]})}
    DatasetDict(sides).save_to_disk(str(tmp_path / "split"))
    places = {"split": str(tmp_path / "split"), "examples": str(tmp_path / "examples.jsonl")}
    plan = {**world, **places, "trials": 0, "probe": False, "canaries": [], "adapter_few_shot": True}
    plan |= {"champion_prompt": {"instruction": "Be brief."}, "max_new_tokens": 4, "cache": None}
    evaluate({**plan, "fresh": "apart", "output": str(tmp_path / "apart")}, Reporter())
    found = json.loads((tmp_path / "apart" / "report.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "apart" / "predictions.jsonl").read_text().splitlines()]
    parts = [{row["turn_id"] for row in lines if row["fresh"] is fresh} for fresh in (False, True)]
    assert not parts[0] & parts[1]
    assert [len(part) for part in parts] == [found["rows"], found["fresh"]["rows"]]
    assert found["rows"] + found["fresh"]["rows"] == 30
    assert set(found["fresh"]["systems"]) == {"base", "few_shot", "adapter", "adapter_few_shot", "champion"}
    assert set(found["prompts"]) == {"few_shot", "adapter_few_shot"}
    assert found["prompts"]["few_shot"] != found["prompts"]["adapter_few_shot"]  # the adapter is part of the version
    prompt_tokens = {row["system"]: row["prompt_tokens"] for row in lines if row["turn_id"] == min(parts[0])}
    assert prompt_tokens["champion"] > prompt_tokens["adapter"]  # an adapter and a prompt together are in service
    assert {row["turn_id"] for row in read_rows(tmp_path / "apart")} == parts[0]
    assert "by which nothing was chosen" in (tmp_path / "apart" / "report.html").read_text()
    evaluate({**plan, "fresh": "unseen", "output": str(tmp_path / "unseen")}, Reporter())
    unseen = [json.loads(line) for line in (tmp_path / "unseen" / "predictions.jsonl").read_text().splitlines()]
    assert {row["turn_id"] for row in unseen} == parts[0]


def test_predictions_can_be_scored_again_without_a_model(world: dict[str, Any], result: dict[str, Any]) -> None:
    again = score(read_rows(Path(world["output"])), seed=7)
    assert json.loads(json.dumps(again["systems"])) == json.loads(json.dumps(result["systems"]))


def test_the_page_is_self_contained_and_log_text_cannot_act_in_it(
    world: dict[str, Any], result: dict[str, Any]
) -> None:
    page = (Path(world["output"]) / "report.html").read_text()
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(page)
    assert "script" not in tags
    assert "link" not in tags
    assert "img" not in tags
    assert not re.search(r"(?:src|href)=|url\(|@import|https?://", page)
    assert "&lt;script&gt;" in page
    assert "2026-01-01 &lt;b&gt;a0&lt;/b&gt;" in page


def test_the_page_says_the_verdict_first_and_then_shows_what_it_rests_on(
    world: dict[str, Any], result: dict[str, Any]
) -> None:
    page = (Path(world["output"]) / "report.html").read_text()
    parts = ["Not promoted", "Worth it?", "tokens,", "Adapter − base with examples", "Adapter − champion"]
    parts += ["What it still gets wrong", "All metrics"]
    parts += ["What the gate looked at", "Reliability", "Over time", "By rank", "rank 8", "rank 32, 2 seeds"]
    parts += ["General text", "Memorised secrets", "Loss while training", "Ten worst answers"]
    parts += ["Ten most changed answers", "versions"]
    places = [page.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)
    assert "prefers-color-scheme:dark" in page
    assert world["canaries"][0]["secret"] not in page


def test_a_second_evaluation_reads_every_answer_from_the_cache(
    world: dict[str, Any], result: dict[str, Any], tmp_path: Path
) -> None:
    again = evaluate({**world, "output": str(tmp_path)}, Reporter())
    assert again["systems"]["adapter"]["cached_rows"] == 12
    for name, system in result["systems"].items():
        assert again["systems"][name]["metrics"] == system["metrics"]


def test_answers_among_which_a_secret_is_are_kept_nowhere(
    world: dict[str, Any], result: dict[str, Any], tmp_path: Path
) -> None:
    said = max((row["text"] for row in read_rows(Path(world["output"])) if row["system"] == "adapter"), key=len)
    told = {"output": str(tmp_path / "report"), "cache": str(tmp_path / "cache"), "trials": 0}
    evaluate({**world, **told, "canaries": [{"secret": said}]}, Reporter())
    assert json.loads((tmp_path / "report" / "report.json").read_text())["memorisation"]["leaked_in_answers"] >= 1
    assert all(row["text"] != said for row in read_rows(tmp_path / "report"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_rows_that_the_adapter_was_trained_on_keep_it_out(world: dict[str, Any], tmp_path: Path) -> None:
    record = json.loads((Path(world["adapter"]) / "training.json").read_text())
    (Path(world["adapter"]) / "training.json").write_text(json.dumps({**record, "train_turn_ids": ["t00", "t13"]}))
    try:
        found = evaluate({**world, "output": str(tmp_path)}, Reporter())
    finally:
        (Path(world["adapter"]) / "training.json").write_text(json.dumps(record))
    assert found["decision"]["reason"] == "Not promoted: 1 validation rows were trained on."


def test_what_an_adapter_was_trained_on_is_told_by_the_split_that_its_record_names(
    world: dict[str, Any], tmp_path: Path
) -> None:
    from datasets import Dataset, DatasetDict

    sides = {
        "train": Dataset.from_dict({"turn_id": ["t03", "t04"]}),
        "validation": Dataset.from_dict({"turn_id": ["t01"]}),
    }
    DatasetDict(sides).save_to_disk(str(Path(world["split"]).with_name("old")))
    record = Path(world["champion"]) / "training.json"
    before = record.read_text()
    record.write_text(json.dumps({**json.loads(before), "versions": {"validator/tokenized_split": "old"}}))
    try:
        evaluate({**world, "output": str(tmp_path)}, Reporter())
    finally:
        record.write_text(before)
    assert json.loads((tmp_path / "report.json").read_text())["leaked_rows"] == {"adapter": 0, "champion": 2}


def test_the_whole_ladder_answers_the_same_rows_and_its_prompts_are_kept(world: dict[str, Any], tmp_path: Path) -> None:
    prompt = {"instruction": "Be brief.", "messages": []}
    changed = {"retrieved": 2, "adapter_few_shot": True, "instructions": 24, "champion": None, "trials": 0}
    plan = {**world, **changed, "champion_prompt": prompt, "canaries": [], "probe": False, "output": str(tmp_path)}
    found = evaluate({**plan, "versions": {"champion": "prompt-1"}}, Reporter())
    names = [name for name in found["systems"] if name != "instructed"]  # a random model may find no instruction good
    assert names == ["base", "few_shot", "retrieved", "adapter", "adapter_few_shot", "champion"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["versions"]["champion"] == "prompt-1"
    assert {rung["system"] for rung in report["ladder"]["rungs"]} == set(found["systems"])
    costs = {rung["system"]: rung["prompt_tokens"] for rung in report["ladder"]["rungs"]}
    assert costs["base"] < costs["champion"] < costs["few_shot"]
    assert costs["adapter_few_shot"] == costs["few_shot"]
    kept = json.loads((tmp_path / "prompts.json").read_text())
    assert len(kept["few_shot"]["messages"]) == 4
    assert set(report["prompts"]) == set(kept)


def test_a_mistake_in_the_plan_is_told_in_one_sentence(
    world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({**world, "main_metric": "vibes"}))
    assert run(evaluate, [str(plan)]) == 2
    assert "there is no metric 'vibes'" in capsys.readouterr().err
