"""Is an adapter worth it: the rungs, the verdict, and prompts that go into service in an adapter's place."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import orjson
import pytest

from grokora_pipeline.agents import AgentSpec, AnswerSpec
from grokora_pipeline.assets.chain import all_assets
from grokora_pipeline.assets.champion import _at
from grokora_pipeline.assets.common import Project
from grokora_pipeline.assets.eval_report import _metadata
from grokora_pipeline.datasets.example import ExampleLine
from grokora_pipeline.evaluation import report as page
from grokora_pipeline.evaluation.gate import decide
from grokora_pipeline.evaluation.ladder import fresh_look, ladder
from grokora_pipeline.evaluation.metrics import METRICS
from grokora_pipeline.evaluation.plan import Case
from grokora_pipeline.evaluation.prompts import (
    choose_shots,
    instruction_candidates,
    retrieved_prompts,
    search_instruction,
)
from grokora_pipeline.evaluation.report import metric_names, word_diff, wrong_kinds
from grokora_pipeline.evaluation.scoring import score
from grokora_pipeline.evaluation.significance import by_cluster, difference, family_p_values, ratio
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.prompt import FixedPrompt, encode_behind
from grokora_pipeline.settings import Settings
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import BASE, Registry
from grokora_pipeline_tests.stores import publish_files
from grokora_pipeline_tests.tiny import tiny_tokenizer

AGENT = AgentSpec(name="actor", description="Names the opposite.", main_metric="exact_match")
SESSIONS = 16


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_tokenizer(folder)
    return ChatFormat.load(folder)


def example(question: str, answer: str) -> ExampleLine:
    prompt = [{"role": "system", "content": "Say it."}, {"role": "user", "content": question}]
    return {
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": answer}],
        "meta": {"turn_id": question, "session_id": question},
    }


def case(question: str) -> Case:
    return Case(question, question, example(question, "?"), [1], [1])


def rows(**right: Sequence[bool]) -> list[dict[str, Any]]:
    """predictions.jsonl of systems that answer these rows, one a session, right or wrong."""
    return [
        {
            "turn_id": str(place),
            "session_id": str(place),
            "system": name,
            "prediction": {"role": "assistant", "content": "yes" if fine else "no"},
            "reference": {"role": "assistant", "content": "yes"},
            "text": "yes" if fine else "no",
            "question": [],
            "seconds": 0.5,
            "prompt_tokens": 40 if name == "few_shot" else 10,
            "new_tokens": 2,
            "finished": True,
        }
        for name, answers in right.items()
        for place, fine in enumerate(answers)
    ]


def report(predictions: list[dict[str, Any]], champion: str | None = None, **prompts: str) -> dict[str, Any]:
    return {
        "main_metric": "exact_match",
        **score(predictions),
        "ladder": ladder(predictions, "exact_match", few_shot=2),
        "prompts": prompts,
        "leaked_rows": {"adapter": 0},
        "training": {},
        "versions": {"adapter": "v1", "champion": champion},
    }


NEVER, ALWAYS = [False] * SESSIONS, [True] * SESSIONS
HALF = [place % 2 == 0 for place in range(SESSIONS)]
PROMPT_SUFFICES = rows(base=NEVER, few_shot=[*ALWAYS[1:], False], adapter=ALWAYS)
PROMPT_CANNOT = rows(base=NEVER, few_shot=HALF, adapter=ALWAYS)


def test_a_lead_in_perplexity_is_tested_against_hidden_sessions_and_one_in_bleu_is_not() -> None:
    predictions = [
        {**row, "nll": 1.0 if row["system"] == "adapter" else 2.0, "reference_tokens": 1}
        for row in rows(base=HALF, adapter=ALWAYS)
    ]
    perplexity, bleu = (
        ladder(predictions, metric, few_shot=0)["candidates"]["adapter"]["base"]["p_unseen"]
        for metric in ("perplexity", "sacrebleu")
    )
    assert 0 < perplexity < 0.001
    assert bleu is None


def test_the_verdict_names_the_cheapest_rung_that_is_as_good_as_the_best() -> None:
    enough, short = (ladder(found, "exact_match", few_shot=2) for found in (PROMPT_SUFFICES, PROMPT_CANNOT))
    assert (enough["cheapest"], enough["best"]) == ("few_shot", "adapter")
    assert (
        "two examples in the prompt: do not train (exact_match 0.938; the best, adapter, is 0.062" in enough["verdict"]
    )
    assert short["cheapest"] == "adapter"
    assert "training is worth it (exact_match 1.000; everything cheaper is worse beyond noise)" in short["verdict"]
    nothing = ladder(rows(base=HALF, few_shot=HALF, adapter=HALF), "exact_match", few_shot=2)
    assert nothing["cheapest"] == "base"
    assert "as it is: do not train" in nothing["verdict"]


def test_every_rung_says_what_an_answer_costs() -> None:
    found = {rung["system"]: rung for rung in ladder(PROMPT_SUFFICES, "exact_match", few_shot=2)["rungs"]}
    assert list(found) == ["base", "few_shot", "adapter"]
    costs = [(rung["prompt_tokens"], rung["answer_tokens"], rung["seconds"]) for rung in found.values()]
    assert costs == [(10, 2, 0.5), (40, 2, 0.5), (10, 2, 0.5)]
    assert found["adapter"]["behind_best"] is None
    assert found["base"]["behind_best"]["value"] == 1


def test_retrieved_examples_are_reported_and_never_promoted() -> None:
    found = report(rows(base=NEVER, retrieved=ALWAYS, adapter=HALF))
    assert found["ladder"]["cheapest"] == "retrieved"
    assert set(found["ladder"]["candidates"]) == {"adapter"}
    decision = decide(found)
    assert (decision.promote, decision.system) == (True, "adapter")


def test_an_adapter_with_a_prompt_is_promoted_only_if_neither_alone_is_as_good() -> None:
    both = rows(base=NEVER, few_shot=HALF, adapter=HALF, adapter_few_shot=ALWAYS)
    versions = {"few_shot": "prompt-1", "adapter_few_shot": "prompt-2"}
    decision = decide(report(both, **versions))
    assert (decision.promote, decision.system) == (True, "adapter_few_shot")
    assert decision.reason.startswith("Promoted, the adapter with a prompt before it (adapter-few-shot): exact_match")
    alone = rows(base=NEVER, few_shot=HALF, adapter=ALWAYS, adapter_few_shot=ALWAYS)
    assert decide(report(alone, **versions)).system == "adapter"
    enough = rows(base=NEVER, few_shot=ALWAYS, adapter=HALF, adapter_few_shot=ALWAYS)
    assert decide(report(enough, **versions)).system == "few_shot"
    leaky = {**report(both, **versions), "leaked_rows": {"adapter": 1}}
    assert not decide(leaky).promote  # what needs the adapter is kept out with it
    assert decide(report(both, "prompt-2", **versions), champion="prompt-2").system != "adapter_few_shot"


def test_with_few_sessions_the_ladder_gives_no_advice() -> None:
    found = ladder(rows(base=NEVER[:5], adapter=ALWAYS[:5]), "exact_match", few_shot=2)
    assert found["cheapest"] is None
    assert found["verdict"] == "Nothing can be told apart on 5 sessions: it needs 6 with held-out rows."


def test_a_system_that_says_the_same_to_all_rows_is_shown_as_such() -> None:
    """An agent that always says "yes" where three of four expect it: better than nothing, and blind."""
    blind = rows(base=NEVER, adapter=ALWAYS)
    for row in blind:
        row["reference"] = {"role": "assistant", "content": "maybe" if int(row["turn_id"]) % 4 == 0 else "yes"}
    told = "it gives one and the same answer to all 16 rows."
    assert report(blind)["ladder"]["verdict"].endswith(f"Mind that {told}")
    decision = decide(report(blind), adapter="v1")
    assert decision.promote
    assert decision.reason.endswith(f"Mind that {told}")
    # of too few sessions nothing else is said
    assert "Mind that" not in report([row for row in blind if int(row["turn_id"]) < 5])["ladder"]["verdict"]
    # where one answer is all that is expected, it is no fault
    assert "Mind that" not in decide(report(rows(base=NEVER, adapter=ALWAYS)), adapter="v1").reason


def test_a_lead_that_is_not_quite_proven_is_no_advice_against_training() -> None:
    lucky = ladder(rows(base=NEVER, adapter=[place < 4 for place in range(SESSIONS)]), "exact_match", few_shot=2)
    assert lucky["cheapest"] == "base"
    assert (
        "not proven, and more sessions would tell (exact_match 0.000; the best, adapter, is 0.250" in lucky["verdict"]
    )
    nothing = ladder(rows(base=NEVER, adapter=NEVER), "exact_match", few_shot=2)
    assert nothing["verdict"] == "Nothing of it works yet: exact_match is 0 for every rung."


def test_fresh_rows_score_every_system_and_compare_what_can_go_into_service() -> None:
    look = fresh_look(rows(base=NEVER, few_shot=HALF, adapter=ALWAYS, champion=HALF), "exact_match")
    assert look is not None
    assert (look["rows"], look["sessions"], look["systems"]["adapter"]["value"]) == (SESSIONS, SESSIONS, 1)
    assert look["candidates"]["adapter"]["champion"]["value"] == 0.5
    assert fresh_look([], "exact_match") is None
    assert fresh_look(rows(base=NEVER[:5], adapter=ALWAYS[:5]), "exact_match") is None
    assert fresh_look(rows(base=NEVER, adapter=ALWAYS), "code_match") is None


def test_a_prompt_is_promoted_where_it_suffices_and_an_adapter_where_it_does_not() -> None:
    enough, short = decide(report(PROMPT_SUFFICES, few_shot="prompt-1")), decide(report(PROMPT_CANNOT))
    assert (enough.promote, enough.system) == (True, "few_shot")
    assert enough.reason.startswith("Promoted, a prompt instead of an adapter (few-shot): exact_match is 0.938 against")
    assert (short.promote, short.system) == (True, "adapter")


def test_a_prompt_helps_where_the_adapter_failed() -> None:
    failed = report(rows(base=NEVER, few_shot=ALWAYS, adapter=NEVER), few_shot="prompt-1")
    assert decide(failed).system == "few_shot"
    assert not decide(failed, checks={"no_secret_survives": False}).promote
    assert not decide({**failed, "sessions": 5}).promote


def test_a_prompt_takes_a_champions_place_only_if_it_is_better_and_never_its_own() -> None:
    equal = rows(base=NEVER, few_shot=ALWAYS, adapter=ALWAYS, champion=ALWAYS)
    assert not decide(report(equal, "c1", few_shot="prompt-1"), champion="c1", adapter="v1").promote
    worse = rows(base=NEVER, few_shot=ALWAYS, adapter=ALWAYS, champion=NEVER)
    assert decide(report(worse, "c1", few_shot="prompt-1"), champion="c1", adapter="v1").system == "few_shot"
    own = decide(report(worse, "prompt-1", few_shot="prompt-1"), champion="prompt-1", adapter="v1")
    assert (own.promote, own.system) == (True, "adapter")


def test_looking_at_several_systems_costs_no_error_and_the_leader_almost_no_power() -> None:
    draw, rejected = np.random.default_rng(3), 0
    for _ in range(400):
        chance = draw.random(SESSIONS)
        base, *ours = (
            by_cluster(np.stack([draw.random(SESSIONS) < chance, np.ones(SESSIONS)], 1), [*map(str, range(SESSIONS))])
            for _ in range(4)
        )
        rejected += min(family_p_values(ours, base, ratio)) <= 0.05
    assert rejected / 400 <= 0.07  # 0.05 and the noise of 400 draws
    ones, zeros = (np.stack([np.full(SESSIONS, value), np.ones(SESSIONS)], 1) for value in (1.0, 0.0))
    half = np.stack([np.arange(SESSIONS) % 2, np.ones(SESSIONS)], 1).astype(float)
    leader, other = family_p_values([ones, half], zeros, ratio)
    assert leader == difference(ones, zeros, ratio).p_value
    assert other >= difference(half, zeros, ratio).p_value


def test_retrieved_examples_are_the_nearest_training_rows_in_any_script_the_nearest_last(chat: ChatFormat) -> None:
    pool = [
        example("open the vault", "1"),
        example("打开金库", "2"),
        example("close a window now", "3"),
        example("", "4"),
    ]
    prompts = retrieved_prompts(pool, [case("please open the old vault"), case("金库"), case("zzz")], chat, 2, 400)
    said = [[one["content"] for one in prompt.messages] for prompt in prompts]
    assert said[0][-2:] == ["open the vault", "1"]
    assert said[1][-2:] == ["打开金库", "2"]
    assert len(said[2]) == 4  # nothing is near: still two examples, which show the form
    assert not any(one["role"] == "system" for prompt in prompts for one in prompt.messages)
    assert retrieved_prompts([example("", "4")], [case("x")], chat, 2, 400) == []


def test_examples_take_no_more_than_their_budget(chat: ChatFormat) -> None:
    pool = [example("word " * size, "yes") for size in (1, 60, 2)]
    sizes = sorted(sum(map(len, chat.encode_example(one))) for one in pool)
    chosen = choose_shots(pool, chat, 3, sizes[0] + sizes[1], seed=1)
    assert len(chosen) == 2


def test_the_search_keeps_what_helps_on_training_rows_and_stays_within_its_budget() -> None:
    train, asked = [example(str(number), "yes") for number in range(4)], list[str]()

    def value(prompt: FixedPrompt, examples: Sequence[ExampleLine]) -> float:
        assert list(examples) == train
        asked.append(prompt.instruction)
        return ("good" in prompt.instruction) + 0.5 * ("fine" in prompt.instruction)

    found = search_instruction(["bad", "good", "fine"], train, 1000, value)
    assert found.instruction == "good\nfine"
    asked.clear()
    assert search_instruction(["bad", "good", "fine"], train, 12, value).instruction == "good"
    assert len(asked) * len(train) <= 12
    assert search_instruction(["bad"], train, 1000, value).instruction == ""
    assert search_instruction(["good"], train, 7, value).instruction == ""


def test_instructions_say_what_training_rows_show() -> None:
    train = [example("a", '{"valid": true}'), example("b", '{"valid": true}'), example("c", '{"valid": false}')]
    told = "\n".join(instruction_candidates(train, "validator", "Checks.", AnswerSpec(type="json")))
    for part in ("You are the validator. Checks.", "one JSON object", "exactly these fields: valid", '{"valid": true}'):
        assert part in told


def test_a_fixed_prompt_makes_one_system_message_and_leaves_the_request_as_it_was() -> None:
    prompt = FixedPrompt(instruction="Be brief.", messages=[{"role": "user", "content": "2+2"}])
    asked = [{"role": "developer", "content": "You count."}, {"role": "user", "content": "3+3"}]
    first, *others = prompt.applied_to(asked)
    assert (first["role"], first["content"]) == ("system", "You count.\n\nBe brief.")
    assert [one["content"] for one in others] == ["2+2", "3+3"]
    assert prompt.applied_to(asked[1:])[0] == {"role": "system", "content": "Be brief."}
    assert FixedPrompt().applied_to(asked[1:]) == asked[1:]


def test_a_page_shows_the_metrics_that_say_something_for_the_type_of_answer() -> None:
    systems = {"adapter": {"metrics": {name: {"value": 0.5} for name in METRICS}}}
    for kind, main, never in (("json", "field_accuracy", "rougeL"), ("text", "rougeL", "valid_json")):
        shown = metric_names({"answer_type": kind, "main_metric": main, "systems": systems})
        assert shown[0] == main
        assert never not in shown
        assert len(shown) <= 12
    systems["adapter"]["metrics"]["verdict"]["value"] = 0.0  # nobody has any of it
    assert "verdict" not in metric_names({"answer_type": "json", "main_metric": "exact_match", "systems": systems})


def test_mistakes_are_counted_by_kind_and_shown_as_differences() -> None:
    def row(turn: str, given: str, finished: bool = True) -> dict[str, Any]:
        messages = [{"role": "assistant", "content": text} for text in (given, '{"valid": true, "why": "x"}')]
        (found,) = rows(adapter=[True])
        told = {"turn_id": turn, "text": given, "prediction": messages[0], "reference": messages[1]}
        return {**found, **told, "finished": finished}

    answers = ['{"valid": true, "why": "x"}', '{"valid": false, "more": 1}', "no idea", '{"valid": false, "why": "x"}']
    found = [*(row(str(place), text) for place, text in enumerate(answers)), row("9", "and and", finished=False)]
    kinds = dict(wrong_kinds(found, "exact_match"))
    assert kinds == {"another valid": 2, "lacks why": 1, "adds more": 1, "is no JSON object": 1, "never ends": 1}
    assert word_diff("click the red button", "click a red button now") == [
        ("same", "click "),
        ("missing", "the"),
        ("added", "a"),
        ("same", " red button"),
        ("added", " now"),
    ]


def test_the_page_compares_only_the_answers_that_it_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compared = list[str]()

    def count(expected: str, given: str) -> list[tuple[str, str]]:
        compared.append(given)
        return []

    monkeypatch.setattr(page, "word_diff", count)
    wrong = rows(base=[True] * 60, adapter=[False] * 60)
    shown = report(wrong)
    facts = {"agent": "a", "alpha": 0.05, "decision": decide(shown).model_dump(), "data": {}, "adapter_megabytes": 1.0}
    half = {"turn_id": "half", "text": "\ud800", "prediction": {"role": "assistant", "content": "\ud800"}}
    wrong += [{**wrong[0], **half}, {**wrong[60], **half}]
    page.write_html(tmp_path / "report.html", {**shown, **facts}, wrong)
    assert len(compared) == 2 * page.SHOWN
    assert "Ten worst answers" in (tmp_path / "report.html").read_text()


def test_where_less_is_better_the_highest_are_the_worst() -> None:
    found = rows(base=[True] * 3, adapter=[True] * 3)
    for row, tokens in zip(found, (5, 5, 5, 9, 2, 5), strict=True):
        row["new_tokens"] = tokens
    worst, changed = page._pairs(found, "answer_tokens")
    assert [pair["ours"] for pair in worst] == [9, 5, 2]
    assert [(pair["theirs"], pair["ours"]) for pair in changed] == [(5, 9), (5, 2)]


@pytest.mark.parametrize(("expected", "given"), [(". " * 2000, "., " * 1300), ("[1, 2], " * 500, "[2, 1, 1], " * 370)])
def test_texts_that_repeat_themselves_are_compared_too(expected: str, given: str) -> None:
    runs = word_diff(expected, given)
    assert "".join(text for kind, text in runs if kind != "added") == expected[:4000]
    assert "".join(text for kind, text in runs if kind != "missing") == given[:4000]


def test_a_prompt_for_which_the_context_has_no_room_is_left_out_as_the_gateway_does(chat: ChatFormat) -> None:
    asked = [{"role": "user", "content": "3+3"}]
    plain, short = (
        len(chat.encode_prompt(FixedPrompt(instruction=text).applied_to(asked))) for text in ("", "Be brief.")
    )
    for room, length in ((short + 1, short), (short, plain)):
        tokens = encode_behind(FixedPrompt(instruction="Be brief."), asked, None, replace(chat, context_length=room))
        assert len(tokens) == length


def test_an_asset_shows_verdict_and_picture_first_and_a_dozen_numbers_at_most(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    names = ("base", "instructed", "few_shot", "retrieved", "adapter", "adapter_few_shot", "champion")
    found = report(rows(**dict.fromkeys(names, HALF)))
    found |= {"decision": decide(found).model_dump(), "markdown": "| table |"}
    publish_files(store, "actor/eval_report", "r1", {"report.json": found})
    shown = _metadata(store.require("actor/eval_report"))
    assert list(shown)[:3] == ["verdict", "worth_it", "systems"]
    numbers = [name for name, value in shown.items() if isinstance(value, int | float)]
    assert numbers[0] == "adapter/exact_match"
    assert len(numbers) <= 11  # the step adds its GPU seconds
    assert "| table |" in shown["read"].value


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path))
    for key, version in (("actor/tokenized_split", "s1"), ("actor/lora_adapter", "v1")):
        publish_files(made, key, version, {"report.json": {"straddling": 0}})
    return made


def materialize(store: Store, link: str) -> dg.ExecuteInProcessResult:
    project = Project(Settings(store=store.url), (AGENT,))
    keys = [dg.AssetKey(["actor", link])]
    return dg.materialize(all_assets(project), selection=keys, resources=project.resources())


def test_the_champion_can_be_a_prompt_and_then_nothing_is_merged(store: Store) -> None:
    prompt = {"instruction": "", "messages": [{"role": "user", "content": "hot"}]}
    files = {"report.json": report(PROMPT_SUFFICES, few_shot="prompt-1"), "prompts.json": {"few_shot": prompt}}
    publish_files(store, "actor/eval_report", "r1", files)
    (event,) = materialize(store, "champion").get_asset_materialization_events()
    assert event.materialization.metadata["champion"].value == "prompt-1"
    registry = Registry(store)
    served = registry.prompt("actor")
    assert served is not None
    assert served.read_json("prompt.json") == prompt
    assert (registry.in_service("actor"), registry.version("actor")) == (None, "prompt-1")
    assert registry.look("actor", "v2") == 2
    merged = materialize(store, "merged_model")
    assert merged.success
    assert merged.get_asset_materialization_events() == []
    assert registry.rollback("actor") == BASE
    assert registry.prompt("actor") is None
    assert "rolled back before" in registry.refusal("actor", "prompt-1")


def test_the_champion_can_be_an_adapter_with_a_prompt(store: Store) -> None:
    prompt = {"instruction": "", "messages": [{"role": "user", "content": "hot"}]}
    found = report(rows(base=NEVER, adapter=HALF, adapter_few_shot=ALWAYS), adapter_few_shot="prompt-2")
    publish_files(
        store, "actor/eval_report", "r1", {"report.json": found, "prompts.json": {"adapter_few_shot": prompt}}
    )
    (event,) = materialize(store, "champion").get_asset_materialization_events()
    assert event.materialization.metadata["champion"].value == "prompt-2"
    registry = Registry(store)
    adapter, served = registry.in_service("actor"), registry.prompt("actor")
    assert adapter is not None
    assert served is not None
    assert (adapter.version, served.version, registry.version("actor")) == ("v1", "prompt-2", "prompt-2")
    registry.rollback("actor")
    assert registry.rollback("actor", to="prompt-2") == "prompt-2"
    shutil.rmtree(adapter.path)  # a prompt without its adapter is not served in both's place
    assert (registry.version("actor"), registry.in_service("actor")) == (BASE, None)


def test_a_rule_with_another_alpha_is_told_intervals_at_it(store: Store) -> None:
    answers = rows(base=NEVER, adapter=HALF)
    found = {**report(answers), "alpha": 0.05, "seed": 0, "few_shot": 2, "fresh": None}
    lines = b"\n".join(map(orjson.dumps, answers))
    publish_files(store, "actor/eval_report", "r1", {"report.json": found, "predictions.jsonl": lines})
    artifact = store.require("actor/eval_report")
    told, strict = (_at(alpha, artifact)["comparisons"]["adapter_vs_base"]["exact_match"] for alpha in (0.05, 0.001))
    assert told == found["comparisons"]["adapter_vs_base"]["exact_match"]
    assert (strict["value"], strict["p_value"]) == (told["value"], told["p_value"])
    assert strict["low"] < told["low"] < told["high"] < strict["high"]


def test_a_pointer_of_before_there_were_prompts_is_read_as_an_adapter(store: Store) -> None:
    store.write("actor/champion/champion.json", b'{"version":"v1","at":"2026-01-01T00:00:00+00:00","action":"promote"}')
    registry = Registry(store)
    assert (registry.version("actor"), registry.prompt("actor")) == ("v1", None)
    served = registry.in_service("actor")
    assert served is not None
    assert served.version == "v1"
