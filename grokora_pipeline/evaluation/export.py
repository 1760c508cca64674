"""`python -m grokora_pipeline.evaluation.export plan.json`: a champion for another engine, proven if it is at hand.

Plan: that of `models.handover`, and {split, examples, answer, main_metric, prompts}: so many held-out prompts are asked
of llama.cpp (0: none), if its wheel `xllamacpp` is installed and GGUF files are written.
"""

import importlib.util
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grokora_pipeline.agents import AnswerSpec
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.evaluation.acts import (
    Judge,
    ProbedServer,
    ProbeResult,
    answer_budget,
    held_out_examples,
    own_answers,
    probe,
)
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.handover import hand_over, write_card
from grokora_pipeline.serving.backends.llama_server import serve
from grokora_pipeline.workers.frame import Plan, Reporter, Result, run

QUANTISED = ("q8_0", "q4_0")


def export(plan: Plan, reporter: Reporter) -> Result:
    """Write the folder and its card; returns what the card says. GrokoraError if what was written does not act."""
    split, examples = Path(plan["split"]), Path(plan["examples"])
    reporter.log(f"Writing the champion of {plan['agent']} for {plan['target']}")
    handed = hand_over(plan, held_out_examples(split, examples, 0))
    output, most, proof = Path(plan["output"]), int(plan.get("prompts") or 0), ""
    if most and plan["target"] in ("gguf", "ollama"):
        if importlib.util.find_spec("xllamacpp"):
            verdict = prove(plan, held_out_examples(split, examples, most), reporter)
            proof = f"{most} held-out prompts in llama.cpp: {verdict.sentence}"
            reporter.log(proof)
        else:
            reporter.log("llama.cpp is not at hand to prove the files; `pip install grokora-pipeline[llamacpp]`")
    return write_card(output, handed, proof)


def prove(plan: Plan, examples: Sequence[Mapping[str, Any]], reporter: Reporter) -> ProbeResult:
    """Ask the written GGUF files in a llama.cpp of this process. GrokoraError if the adapter does nothing there, or is
    prompted otherwise than it was trained."""
    base, output, kind = Path(plan["base"]), Path(plan["output"]), str(plan.get("kind") or "bf16")
    chat = ChatFormat.load(base)
    new_tokens = answer_budget(chat, examples)
    reporter.log(f"Asking our own engine {len(examples)} prompts, adapter on and off")
    answers = own_answers(base, Path(plan["adapter"]), examples, new_tokens)
    if all(one.on == one.off for one in answers):  # no fault of the files: the base answers these prompts alike
        sentence = f"The adapter changes none of our own answers to {len(answers)} prompts, so nothing can be seen."
        return ProbeResult(acts=False, agrees=False, agreement=1.0, prompts=len(answers), sentence=sentence)
    longest = max(len(chat.encode_prompt(one.example["prompt"], one.example.get("tools"))) for one in answers)
    reporter.log("Asking llama.cpp the same")
    model = next(path for path in output.glob("*.gguf") if path.name != "adapter.gguf")
    adapters, key = [str(path) for path in output.glob("adapter.gguf")], secrets.token_hex()
    settings = {"slots": 1, "gpu": True, "exact": False, "key": key}
    try:
        url = serve({"base": str(model), "adapters": adapters, "cells": longest + new_tokens + 8, **settings})
    except RuntimeError as error:
        raise GrokoraError(f"llama.cpp cannot load what was written ({error}); nothing was kept.") from error
    judge = Judge(str(plan["main_metric"]), AnswerSpec.model_validate(plan["answer"]))
    server = ProbedServer(url, str(plan["agent"]), key=key, merged=not adapters)
    verdict = probe(server, chat, answers, new_tokens, judge=judge, quantised=kind in QUANTISED)
    if not verdict.acts or "template differs" in verdict.sentence:
        raise GrokoraError(f"{verdict.sentence} (in llama.cpp, from the files that were written; nothing was kept.)")
    return verdict


if __name__ == "__main__":
    sys.exit(run(export))
