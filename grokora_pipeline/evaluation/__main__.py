"""`python -m grokora_pipeline.evaluation plan.json`: the ladder from base to adapter on the same held-out rows."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from grokora_pipeline.datasets.example import ExampleLine
from grokora_pipeline.evaluation.canaries import redacted_canaries, scrubbed
from grokora_pipeline.evaluation.gate import WITH_PROMPT, decide
from grokora_pipeline.evaluation.ladder import fresh_look, ladder
from grokora_pipeline.evaluation.metrics import bleu_signature, bounded, get_metric
from grokora_pipeline.evaluation.plan import (
    Canary,
    EvaluationPlan,
    HeldOut,
    choose_rows,
    held_out,
    read_plan,
    token_budget,
    turn_ids,
)
from grokora_pipeline.evaluation.probes import general_perplexity, memorisation, pace
from grokora_pipeline.evaluation.prompts import (
    EXAMPLE_TOKENS,
    SEARCH_ROWS,
    choose_shots,
    instruction_candidates,
    retrieved_prompts,
    search_instruction,
)
from grokora_pipeline.evaluation.report import markdown_table, write_html
from grokora_pipeline.evaluation.scoring import Prediction, all_right, as_answer, main_score, score
from grokora_pipeline.evaluation.significance import pass_hat_k
from grokora_pipeline.evaluation.systems import Decoding, Systems
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.prompt import FixedPrompt, encode_behind, example_turns
from grokora_pipeline.store import content_version
from grokora_pipeline.store.champions import PROMPT_PREFIX
from grokora_pipeline.workers.frame import Plan, Reporter, Result, run

_HEADLINES = ("agent", "main_metric", "rows", "sessions", "systems", "comparisons", "ladder", "decision", "markdown")


@dataclass(frozen=True, slots=True)
class _System:
    """A system of the table: its name, its adapter's name in `Systems`, the prompt in tokens of every row, and the
    fixed prompt in all of them that could be put in service."""

    name: str
    adapter: str | None
    prompts: list[list[int]]
    fixed: FixedPrompt | None = None


@dataclass(slots=True)
class _Job:
    """What one evaluation works with."""

    plan: EvaluationPlan
    chat: ChatFormat
    rows: HeldOut
    systems: Systems
    decoding: Decoding
    reporter: Reporter


def evaluate(plan: Plan, reporter: Reporter) -> Result:
    """Evaluate, write report.json, report.html and predictions.jsonl, and give the headline numbers."""
    checked = read_plan(EvaluationPlan, plan)
    get_metric(checked.main_metric)
    chat = ChatFormat.load(checked.base)
    held_out_rows = held_out(checked, chat)
    reporter.log(f"{checked.agent}: {len(held_out_rows.cases)} held-out rows, loading {checked.base.name}")
    models = Systems(
        checked.base, checked.base_hash, checked.folders, cache=checked.cache, quantisation=checked.quantisation
    )
    decoding = Decoding(token_budget(checked, held_out_rows.cases, chat))
    job = _Job(checked, chat, held_out_rows, models, decoding, reporter)
    shots, systems = _systems(job)
    prompts = {system.name: system.fixed for system in systems if system.fixed}
    answered = [row for system in systems for row in _answers(job, system)]
    rows, fresh = ([row for row in answered if row["fresh"] is part] for part in (False, True))
    canaries = [*checked.canaries]
    if checked.logs:
        canaries += redacted_canaries(checked.logs, job.rows.train, checked.redacted_canaries, checked.seed)
    reporter.log(f"scoring {len(answered)} answers, looking for {len(canaries)} canaries")
    report = {
        "agent": checked.agent,
        "answer_type": checked.answer.type,
        "main_metric": checked.main_metric,
        **score(rows, alpha=checked.alpha, seed=checked.seed),
        **_facts(job, shots),
        "ladder": ladder(rows, checked.main_metric, few_shot=shots, alpha=checked.alpha, seed=checked.seed),
        "fresh": fresh_look(fresh, checked.main_metric, alpha=checked.alpha, seed=checked.seed),
        "prompts": {
            # a prompt before an adapter has that adapter in its version, since both go into service together
            name: PROMPT_PREFIX
            + content_version(prompt.model_dump(), *([checked.folders["adapter"].name] if name == WITH_PROMPT else []))
            for name, prompt in prompts.items()
        },
        **_probes(job, answered, canaries),
        "reliability": {system.name: _reliability(job, system) for system in systems if checked.trials},
    }
    report["markdown"] = markdown_table(report)
    report["decision"] = decide(report, look=checked.look).model_dump()
    stored = scrubbed(answered, canaries)
    if stored != answered:  # a secret came out of the adapter: it must lie neither in the report nor in the cache
        job.systems.forget()
    folder, contents = checked.output, {name: prompt.model_dump() for name, prompt in prompts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in stored))
    for name, document in (("report.json", report), ("prompts.json", contents)):
        (folder / name).write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    write_html(folder / "report.html", report, [row for row in stored if not row["fresh"]])
    reporter.log(report["ladder"]["verdict"])
    reporter.log(report["decision"]["reason"])
    return {name: report[name] for name in _HEADLINES}


def _systems(job: _Job) -> tuple[int, list[_System]]:
    """How many few-shot examples fitted, and the systems of the table, from cheap to dear."""
    plan, cases = job.plan, job.rows.cases
    plain = [case.prompt_ids for case in cases]
    # so that every held-out row and its answer still fit into the context
    longest = max(map(len, plain))
    budget = min(EXAMPLE_TOKENS, job.chat.context_length - longest - job.decoding.max_new_tokens)
    shots = choose_shots(job.rows.train, job.chat, plan.few_shot, budget, plan.seed)
    few_shot = FixedPrompt(messages=example_turns(shots))
    systems = [_System("base", None, plain)]
    if (instruction := _instruction(job)).instruction:
        systems += [_System("instructed", None, _prompts(job, instruction), instruction)]
    if shots:
        systems += [_System("few_shot", None, _prompts(job, few_shot), few_shot)]
    nearest = retrieved_prompts(job.rows.train, cases, job.chat, plan.retrieved, budget) if plan.retrieved else []
    if any(prompt.messages for prompt in nearest):  # none, if the context has no room for a single example
        systems += [_System("retrieved", None, _prompts(job, nearest))]
    systems += [_served(job, "adapter", plan.adapter_prompt)]
    if shots and plan.adapter and plan.adapter_few_shot:
        systems += [_System("adapter_few_shot", "adapter", _prompts(job, few_shot), few_shot)]
    if plan.champion or plan.champion_prompt:
        systems += [_served(job, "champion", plan.champion_prompt)]
    return len(shots), systems


def _served(job: _Job, name: str, prompt: FixedPrompt | None) -> _System:
    """The challenger or the champion as it is in service: an adapter, a fixed prompt, or both."""
    prompts = _prompts(job, prompt) if prompt else [case.prompt_ids for case in job.rows.cases]
    return _System(name, name if name in job.plan.folders else None, prompts)


def _prompts(job: _Job, prompt: FixedPrompt | Sequence[FixedPrompt]) -> list[list[int]]:
    """Every held-out row's prompt in tokens, with one fixed prompt for all or one for each."""
    cases = job.rows.cases
    added = [prompt] * len(cases) if isinstance(prompt, FixedPrompt) else prompt
    return [
        encode_behind(one, case.example["prompt"], case.example.get("tools"), job.chat)
        for case, one in zip(cases, added, strict=True)
    ]


def _instruction(job: _Job) -> FixedPrompt:
    """The instruction that helps the base model most on training rows, within the plan's budget of answers."""
    plan, metric = job.plan, get_metric(job.plan.main_metric)
    by_turn = {example["meta"]["turn_id"]: example for example in job.rows.train}
    rows = [by_turn[turn_id] for turn_id in choose_rows(by_turn, SEARCH_ROWS)]

    def value(prompt: FixedPrompt, examples: Sequence[ExampleLine]) -> float:
        """The mean of the main metric with a prompt before the examples; higher is better."""
        prompts = [encode_behind(prompt, one["prompt"], one.get("tools"), job.chat) for one in examples]
        texts = [job.chat.decode(answer.tokens) for answer, _ in job.systems.answers(None, prompts, job.decoding)]
        scored = [as_answer(_scored(job, one, text)) for one, text in zip(examples, texts, strict=True)]
        return (metric.value(scored) or 0.0) * (1 if metric.higher_is_better else -1)

    if not plan.instructions or not rows:
        return FixedPrompt()
    candidates = instruction_candidates(job.rows.train, plan.agent, plan.description, plan.answer)
    return search_instruction(candidates, rows, plan.instructions, value)


def _answers(job: _Job, system: _System) -> list[Prediction]:
    """One system's answers and likelihoods as rows of predictions.jsonl."""
    progress = partial(job.reporter.progress, system=system.name)
    answers = job.systems.answers(system.adapter, system.prompts, job.decoding, progress)
    completions = [case.completion_ids for case in job.rows.cases]
    # behind the same prompt as the answers, so that perplexity compares what is compared by them
    nlls = job.systems.likelihoods(system.adapter, system.prompts, completions)
    return [
        _scored(job, case.example, job.chat.decode(answer.tokens))
        | {
            "turn_id": case.turn_id,
            "session_id": case.session_id,
            "system": system.name,
            "fresh": case.fresh,
            "question": case.example["prompt"][-1:],
            "nll": bounded(nll, len(case.completion_ids)),  # a broken adapter's NaN would be null, and no number
            "reference_tokens": len(case.completion_ids),
            "prompt_tokens": len(prompt),
            "new_tokens": len(answer.tokens) + (answer.finish == "stop"),  # the stop token was written, too
            "finished": answer.finish == "stop",
            "seconds": answer.seconds,
            "cached": cached,
        }
        for case, prompt, (answer, cached), nll in zip(job.rows.cases, system.prompts, answers, nlls, strict=True)
    ]


def _scored(job: _Job, example: ExampleLine, text: str) -> Prediction:
    """The fields of a prediction that scoring reads, beside those of its case."""
    return {
        "text": text,
        "prediction": job.chat.parse_answer(text),
        "reference": example["completion"][-1],
        "tools": example.get("tools"),
        "schema": job.plan.answer.schema_,
        "answer_type": job.plan.answer.type,
    }


def _facts(job: _Job, shots: int) -> dict[str, Any]:
    """What the figures rest on: data, decoding, training record, leaks, versions."""
    plan, cases = job.plan, job.rows.cases
    return {
        "alpha": plan.alpha,
        "seed": plan.seed,
        "history": plan.history,
        "ranks": plan.ranks,
        "few_shot": shots,
        # a prompt is made of training rows, so none of the judged ones is in it
        "leaked_rows": {"adapter": 0, **{name: _leaked(job, folder) for name, folder in plan.folders.items()}},
        "adapter_megabytes": (plan.adapter / "adapter_model.safetensors").stat().st_size / 1e6 if plan.adapter else 0.0,
        "data": {
            "training_rows": len(job.rows.train_ids),
            "validation_rows": len(cases),
            "prompt_tokens": sum(len(case.prompt_ids) for case in cases),
            "max_new_tokens": job.decoding.max_new_tokens,
            "one_by_one": job.systems.decoder.slow_reason,  # why rows did not share batches, "" if they did
            "dtype": str(job.systems.decoder.model.dtype).removeprefix("torch."),
        },
        "training": _training(plan.adapter) if plan.adapter else {},
        "bleu_signature": bleu_signature(),
        "versions": {
            **plan.versions,
            "base": plan.base_hash,
            "adapter": plan.adapter.name if plan.adapter else plan.versions.get("adapter"),
            "champion": plan.champion.name if plan.champion else plan.versions.get("champion"),
        },
    }


def _training(adapter: Path) -> dict[str, Any]:
    path = adapter / "training.json"
    record: dict[str, Any] = orjson.loads(path.read_bytes()) if path.exists() else {}
    return record


def _leaked(job: _Job, adapter: Path) -> int:
    """How many evaluated rows an adapter was trained on, by turn id: by the split that its record names, else by this
    evaluation's."""
    training = _training(adapter)
    # the adapter may be older than the split of today, whose train side then is not what it was trained on
    named = training.get("versions", {}).get(f"{job.plan.agent}/tokenized_split")
    folder = job.plan.split.with_name(str(named)) if named else job.plan.split
    learnt = training.get("train_turn_ids") or (turn_ids(folder, "train") if folder.is_dir() else job.rows.train_ids)
    return len({case.turn_id for case in job.rows.cases} & set(learnt))


def _probes(job: _Job, rows: Sequence[Prediction], canaries: Sequence[Canary]) -> dict[str, Any]:
    plan, figures = job.plan, dict[str, Any]()
    if plan.probe:
        names = [None, *plan.folders]  # a prompt changes no weight
        figures["probe"] = general_perplexity(job.systems, names, job.chat, plan.alpha)
        figures["pace"] = pace(job.systems, names, [case.prompt_ids for case in job.rows.cases])
    if canaries:
        texts = [row["text"] for row in rows if row["system"] == "adapter"]
        figures["memorisation"] = memorisation(job.systems, canaries, texts, job.chat, plan.seed)
    return figures


def _reliability(job: _Job, system: _System) -> dict[str, float]:
    """pass^k of sampled answers: a try succeeds if the main metric gives its full score."""
    plan, wins = job.plan, [0] * len(system.prompts)
    drawn = Decoding(job.decoding.max_new_tokens, plan.temperature)
    for trial in range(plan.trials):
        seeds = [plan.seed + trial] * len(system.prompts)
        answers = job.systems.answers(system.adapter, system.prompts, drawn, seeds=seeds)
        for index, (case, (answer, _)) in enumerate(zip(job.rows.cases, answers, strict=True)):
            row = _scored(job, case.example, job.chat.decode(answer.tokens))
            wins[index] += all_right(main_score(row, plan.main_metric), plan.main_metric)
    return {f"pass^{k}": pass_hat_k(wins, plan.trials, k) for k in range(1, plan.trials + 1)}


if __name__ == "__main__":
    sys.exit(run(evaluate))
