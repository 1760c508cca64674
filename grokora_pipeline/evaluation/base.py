"""`python -m grokora_pipeline.evaluation.base plan.json`: make the base model ready, and try what will be run on it.

Plan and result are those of `grokora_pipeline.models`, and what was tried on a small random copy of the architecture:
an adapter trained by rows that share their prefixes or by padded rows, the merge, and answers of two adapters in one
batch, each compared with transformers and PEFT. A base that cannot be trained exactly is refused here, in a sentence.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models import __main__ as models
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.template import TEMPLATE_FILE
from grokora_pipeline.workers.frame import Plan, Reporter, Result, run

_LONG, _SHARED, _SHORT = 70, 40, 9  # tokens of the rows that are tried; the copy's sliding window is of 24
NEW_TOKENS = 8
# In fp32 a merge only reorders sums: 1e-6 of the logits' spread, 2e-3 if the same layers run many times (HRM).
MERGE_TOLERANCE = 0.01


def prepare(plan: Plan, reporter: Reporter) -> Result:
    """Resolve and check the model, and say what it can be used for, as `try_out` tells it."""
    result = models.prepare(plan, reporter)
    output = Path(plan["output"])
    folder = output / result["path"]
    output.mkdir(parents=True, exist_ok=True)
    (output / TEMPLATE_FILE).write_text(ChatFormat.load(folder).template, encoding="utf-8")
    reporter.log("Trying training, merging and answering on a small random copy of the architecture")
    return result | try_out(folder, str(result["model_id"]))


def try_out(folder: Path, model_id: str) -> dict[str, str]:
    """What the architecture of a model folder can be used for: `trained`, `merged`, `served`, `templates`.

    GrokoraError if nothing can be trained on it.
    """
    import transformers

    from grokora_pipeline.models.miniature import MODEL_ERRORS, named_line, write_miniature

    # a random copy sets off every warning that there is about untrained weights
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    notes = " ".join(ChatFormat.load(folder).notes) or "The model's own chat template loses nothing."
    try:
        with tempfile.TemporaryDirectory() as folder_name:
            copy = Path(folder_name) / "copy"
            try:
                write_miniature(folder, copy)
                trained = _tried(lambda: _train(copy), "")
                if trained.startswith(_CANNOT):
                    raise GrokoraError(trained.removeprefix(_CANNOT))
            except GrokoraError as error:
                raise GrokoraError(f"GROKORA_BASE_MODEL={model_id} cannot be trained here: {error}") from error
            except MODEL_ERRORS as error:
                untried = f"Not tried, because no small copy of the architecture can be built: {named_line(error)}."
                return {"trained": untried, "merged": untried, "served": untried, "templates": notes}
            merged = _tried(lambda: _merge(copy), "its adapters are used as they are")
            served = _tried(lambda: _serve(copy), "serve the merged model by vLLM or another server that knows it")
            return {"trained": trained, "merged": merged, "served": served, "templates": notes}
    finally:
        transformers.logging.set_verbosity(verbosity)


_CANNOT = "Not possible: "


def _tried(attempt: Callable[[], str], instead: str) -> str:
    from grokora_pipeline.models.miniature import MODEL_ERRORS, named_line

    try:
        return attempt()
    except MODEL_ERRORS as error:
        return f"{_CANNOT}{named_line(error)}{'; ' if instead else ''}{instead}."


def _train(copy: Path) -> str:
    """Write two random adapters, and compare the layouts' loss and gradient with row-by-row training."""
    import torch

    from grokora_pipeline.models.loading import load_base, prompt_marks
    from grokora_pipeline.training.adapter import add_adapter, save_adapter, trainable_parameters
    from grokora_pipeline.training.attention import why_not_tree
    from grokora_pipeline.training.layout import Layout, Row
    from grokora_pipeline.training.plan import TrainingKnobs
    from grokora_pipeline.training.selftest import self_test

    knobs = TrainingKnobs.model_validate({"rank": 4})
    for seed, folder in enumerate(("first", "second")):
        try:
            base = load_base(copy, dtype=torch.float32, device=torch.device("cpu"))
        except GrokoraError as error:  # ShieldGemma2; its sentence would speak of a temporary folder
            raise GrokoraError("transformers cannot read the weights that it writes of this architecture") from error
        model = add_adapter(base, knobs)
        # LoRA's B is 0 at first, and an adapter that changes nothing would prove nothing
        generator = torch.Generator().manual_seed(seed)
        for parameter in trainable_parameters(model).values():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
        (copy.parent / folder).mkdir()
        save_adapter(model, copy.parent / folder, str(copy))
    ids = _tokens(_LONG, 1)
    two = torch.tensor([ids, (*ids[:-1], ids[0])])
    with torch.inference_mode():
        marks = prompt_marks(model.get_base_model(), two, [_SHARED] * 2)
        first, second = model(input_ids=two, use_cache=False, **marks).logits[:, : _LONG - 1]
    if not torch.allclose(first, second, atol=1e-3 * float(first.std())):
        raise GrokoraError(
            "its answer to a text changes with what follows (as an encoder's does), so it cannot learn one token after "
            "the other; give a causal language model"
        )
    reason = why_not_tree(model.get_base_model())
    weights = tuple([0.0] * (_SHARED + 4) + [1.0] * (_LONG - _SHARED - 4))
    rows = [
        Row(ids, weights, "a"),
        Row((*ids[:_SHARED], *_tokens(_LONG - _SHARED, 2)), weights, "a"),
        Row(_tokens(_SHORT, 3), (0.0, *[1.0] * (_SHORT - 1)), "b"),
    ]
    kinds: list[Any] = ["padded"] if reason else ["tree", "padded"]
    attention = model.get_base_model().config._attn_implementation  # transformers' choice: not every model has sdpa
    layouts = [Layout(kind, 512, attention) for kind in kinds]
    proofs = {proof.layout: proof for proof in self_test(copy, rows, knobs, layouts)}
    if not proofs["padded"].exact:
        raise GrokoraError(f"padded rows do not give its own gradient (off by {proofs['padded'].gradient_error:.2g})")
    if not reason and not proofs["tree"].exact:
        reason = f"a shared prefix changes its gradient (by {proofs['tree'].gradient_error:.2g})"
    if reason:
        return f"Trained here by padded rows: {reason}."
    return "Trained here; a prefix that rows share is run once."


def _merge(copy: Path) -> str:
    """Compare logits of the merged model, written and read again in fp32, with those of base + adapter."""
    import torch

    from grokora_pipeline.models.loading import load_adapter, load_base
    from grokora_pipeline.models.merge import compare, write_merged

    adapter, merged = copy.parent / "first", copy.parent / "merged"
    write_merged(copy, adapter, merged, dtype=torch.float32)
    base, alone = (load_base(folder, dtype=torch.float32, device=torch.device("cpu")) for folder in (copy, merged))
    ids = torch.tensor([_tokens(_LONG, 4)])
    with torch.inference_mode():
        logits = [model(input_ids=ids, use_cache=False).logits[0] for model in (load_adapter(base, adapter), alone)]
    difference = compare(logits[:1], logits[1:])["relative_rms_difference"]
    if not difference <= MERGE_TOLERANCE:  # also for nan
        raise GrokoraError(f"the merged model answers differently (logits off by {difference:.2g})")
    return "Merged here."


def _serve(copy: Path) -> str:
    """Compare greedy answers of the base and of two adapters at once with those of PEFT, one by one."""
    import torch
    from transformers import GenerationConfig

    from grokora_pipeline.models.loading import load_adapter, load_base
    from grokora_pipeline.serving.engine.decoder import Decoder
    from grokora_pipeline.serving.engine.request import GenerationRequest

    device = torch.device("cpu")
    decoder = Decoder.load(copy, dtype=torch.float32, device=device)
    for adapter in ("first", "second"):
        decoder.add_adapter(adapter, copy.parent / adapter)
    names = (None, "first", "second")
    # of unequal lengths, so that the batch is padded
    prompts = [_tokens(length, seed) for seed, length in enumerate((_LONG, _SHORT, _SHARED))]
    requests = [GenerationRequest(prompt, name, NEW_TOKENS) for prompt, name in zip(prompts, names, strict=True)]
    answers = [list(answer.tokens) for answer in decoder.generate(requests)]
    slow = decoder.slow_reason
    plain: Any = load_adapter(load_base(copy, dtype=torch.float32, device=device), copy.parent / "first", name="first")
    plain = load_adapter(plain, copy.parent / "second", name="second")
    plain.generation_config = GenerationConfig()  # as the engine has it: a base's own settings (BART) are not asked
    for prompt, name, answer in zip(prompts, names, answers, strict=True):
        if name:
            plain.set_adapter(name)
            expected = _greedy(plain.eval(), prompt, decoder.stop_ids)
        else:
            with plain.disable_adapter():
                expected = _greedy(plain.eval(), prompt, decoder.stop_ids)
        if answer != expected:
            raise GrokoraError("the engine's answers are not those of transformers")
    if slow:
        return f"Served here one answer at a time: {slow}."
    return "Served here; answers of different adapters share a batch."


def _greedy(model: Any, prompt: tuple[int, ...], stop_ids: tuple[int, ...]) -> list[int]:
    """What `generate` answers, without the stop token."""
    import torch
    from transformers import GenerationConfig

    from grokora_pipeline.models.loading import prompt_marks

    ids = torch.tensor([prompt])
    marks = prompt_marks(model.get_base_model(), ids, [len(prompt)])
    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=list(stop_ids), pad_token_id=stop_ids[0]
    )
    with torch.inference_mode():
        answer = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings, **marks)
    tokens: list[int] = answer[0, len(prompt) :].tolist()
    return next((tokens[:index] for index, token in enumerate(tokens) if token in stop_ids), tokens)


def _tokens(count: int, seed: int) -> tuple[int, ...]:
    """Token ids that every vocabulary has."""
    return tuple(3 + (7919 * (position + 1) * (seed + 1) + 31 * seed) % 240 for position in range(count))


if __name__ == "__main__":
    sys.exit(run(prepare))
