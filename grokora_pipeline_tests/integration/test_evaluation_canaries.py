"""The memorisation check: a canary that training has seen shows, one that it has not does not."""

from pathlib import Path

import pytest
import torch

from grokora_pipeline.evaluation.plan import Canary
from grokora_pipeline.evaluation.probes import memorisation
from grokora_pipeline.evaluation.systems import Systems
from grokora_pipeline.models.chat import ChatFormat
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


def test_a_canary_in_an_answer_is_counted(systems: tuple[Systems, ChatFormat]) -> None:
    texts = ["The code is Kx7-40921-qp.", "I do not know."]
    assert memorisation(systems[0], [SEEN], texts, systems[1], seed=1)["leaked_in_answers"] == 1
