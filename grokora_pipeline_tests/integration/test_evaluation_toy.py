"""Two toy tasks with a real, tiny model that copies the last answer it was shown: in one of them a prompt suffices."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from grokora_pipeline.evaluation.__main__ import evaluate
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.prompt import FixedPrompt, example_turns
from grokora_pipeline.workers.frame import Reporter
from grokora_pipeline_tests.tiny import tiny_base

SECRETS = {"red": "vault", "blue": "title", "green": "notes", "open": "swarm", "door": "file", "find": "true"}
WORDS = list(SECRETS)
pytestmark = pytest.mark.slow


def example(number: int, answer: str) -> dict[str, Any]:
    prompt = [{"role": "user", "content": f"{number} {WORDS[number % len(WORDS)]}"}]
    meta = {"turn_id": f"t{number:03}", "session_id": f"s{number}"}
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": answer}], "meta": meta}


def shown(question: dict[str, Any], examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A question behind examples, as few-shot prompts put them."""
    return {**question, "prompt": FixedPrompt(messages=example_turns(examples)).applied_to(question["prompt"])}


def fit(model: Any, chat: ChatFormat, rows: Sequence[dict[str, Any]], steps: int, rate: float) -> None:
    """Minimise the loss of the answers on batches of 24 rows, cycling."""
    import torch

    encoded = [chat.encode_example(row) for row in rows]
    optimiser = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=rate)
    model.train()
    for step in range(steps):
        batch = [encoded[(24 * step + offset) % len(encoded)] for offset in range(24)]
        width = max(len(prompt) + len(completion) for prompt, completion in batch)
        ids, labels = torch.zeros(24, width, dtype=torch.long), torch.full((24, width), -100)
        for place, (prompt, completion) in enumerate(batch):
            whole = [*prompt, *completion]
            ids[place, : len(whole)] = torch.tensor(whole)
            labels[place, len(prompt) : len(whole)] = torch.tensor(completion)
        model(input_ids=ids, labels=labels).loss.backward()  # what stands behind a row's end is behind its loss, too
        optimiser.step()
        optimiser.zero_grad()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that repeats the last answer of its prompt, and says `no` if there is none."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    folder = tiny_base(tmp_path_factory.mktemp("toy") / "base", dtype="float32")
    draw, rows = random.Random(1), list[dict[str, Any]]()
    for number in range(1200):
        answers = [draw.choice([*SECRETS.values(), "yes"]) for _ in range(2)]
        examples = [example(draw.randrange(100), answer) for answer in answers]
        asked = example(draw.randrange(100), answers[-1] if number % 4 else "no")
        rows.append(shown(asked, examples) if number % 4 else asked)
    model = AutoModelForCausalLM.from_pretrained(folder)
    fit(model, ChatFormat.load(folder), rows, 130, 3e-3)
    model.save_pretrained(folder)
    return folder


def judged(base: Path, folder: Path, answer: Callable[[int], str]) -> dict[str, Any]:
    """The report on a task of which an adapter learnt 40 rows; 24 others of its kind are held out."""
    from datasets import Dataset, DatasetDict
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    examples = [example(number, answer(number)) for number in range(64)]
    ids = [one["meta"]["turn_id"] for one in examples]
    (folder / "examples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in examples))
    sides = {"train": Dataset.from_dict({"turn_id": ids[:40]}), "validation": Dataset.from_dict({"turn_id": ids[40:]})}
    DatasetDict(sides).save_to_disk(str(folder / "split"))
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    fit(model, ChatFormat.load(base), examples[:40], 60, 3e-3)
    model.save_pretrained(folder / "adapter")
    plan = {"agent": "toy", "main_metric": "exact_match", "base": str(base), "base_hash": "b", "few_shot": 2}
    plan |= {"adapter": str(folder / "adapter"), "split": str(folder / "split"), "probe": False}
    plan |= {"examples": str(folder / "examples.jsonl"), "output": str(folder / "report"), "max_new_tokens": 8}
    evaluate(plan, Reporter())
    report: dict[str, Any] = json.loads((folder / "report" / "report.json").read_text())
    return report


def test_where_two_examples_say_it_all_nobody_needs_to_train(base: Path, tmp_path: Path) -> None:
    report = judged(base, tmp_path, lambda number: "yes")
    assert report["ladder"]["cheapest"] == "few_shot"
    assert "two examples in the prompt: do not train" in report["ladder"]["verdict"]
    assert (report["decision"]["promote"], report["decision"]["system"]) == (True, "few_shot")


def test_what_no_two_examples_can_say_is_worth_a_training(base: Path, tmp_path: Path) -> None:
    report = judged(base, tmp_path, lambda number: SECRETS[WORDS[number % len(WORDS)]])
    assert report["ladder"]["cheapest"] == "adapter"
    assert "the adapter: training is worth it" in report["ladder"]["verdict"]
    assert (report["decision"]["promote"], report["decision"]["system"]) == (True, "adapter")
