"""Metrics against hand-computed values, against reference implementations, and as offline `evaluate` modules."""

import json
import math
import socket
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grokora_pipeline.agents import DEFAULT_MAIN_METRIC
from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.evaluation.metrics import METRICS, get_metric, load
from grokora_pipeline.evaluation.metrics.answers import Answer
from grokora_pipeline.evaluation.metrics.rouge import rouge
from grokora_pipeline.evaluation.metrics.tool_calls import check_call, check_calls
from grokora_pipeline.evaluation.scoring import all_right
from grokora_pipeline.models.messages import MOST_NESTED, Call, calls_of, parse_calls, strict_json

TOOL = {
    "type": "function",
    "function": {
        "name": "computer",
        "parameters": {
            "type": "object",
            "properties": {
                "action": {"type": "string"},
                "coordinate": {"type": "array"},
                "amount": {"type": "number", "default": 3},
            },
            "required": ["action"],
        },
    },
}


def _text(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def _calling(*calls: tuple[str, Any]) -> dict[str, Any]:
    entries = [{"type": "function", "function": {"name": name, "arguments": args}} for name, args in calls]
    return {"role": "assistant", "content": "", "tool_calls": entries}


def _value(name: str, prediction: str, reference: str, **more: Any) -> float | None:
    return METRICS[name].value([Answer(_text(prediction), _text(reference), **more)])


def test_every_answer_type_has_its_main_metric_in_the_registry() -> None:
    assert set(DEFAULT_MAIN_METRIC.values()) <= set(METRICS)


def test_an_unknown_metric_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(GrokoraError, match="field_accuracy"):
        get_metric("vibes")


def test_perplexity_weights_rows_by_their_tokens() -> None:
    rows = [
        Answer(_text(""), _text("ab"), nll=2.0, reference_tokens=1),
        Answer(_text(""), _text("cd"), nll=0.0, reference_tokens=3),
    ]
    assert METRICS["perplexity"].value(rows) == pytest.approx(math.exp(0.5))  # a mean of rows would give 4.19
    assert METRICS["bits_per_byte"].value(rows) == pytest.approx(2 / math.log(2) / 4)


@pytest.mark.parametrize(
    ("prediction", "valid"),
    [('{"a": 1}', 1), ("[]", 1), ('Sure: {"a": 1}', 0), ('{"a": NaN}', 0), ("3", 0), ("", 0), ("```json\n{}\n```", 0)],
)
def test_valid_json_is_an_object_or_array_and_nothing_else(prediction: str, valid: int) -> None:
    assert _value("valid_json", prediction, '{"a": 1}') == valid


def test_schema_valid_asks_the_agents_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert _value("schema_valid", '{"a": 1}', "{}", schema=schema) == 1
    assert _value("schema_valid", '{"a": "1"}', "{}", schema=schema) == 0
    assert _value("schema_valid", "no", "{}", schema=schema) == 0
    assert _value("schema_valid", '{"a": 1.0}', "{}", schema=schema) == 1  # by value: 1.0 is an integer in JSON
    assert [
        _value("schema_valid", text, "{}", schema={"type": ["null", "integer"]}) for text in ("null", "3", "x")
    ] == [*(1, 1, 0)]
    assert _value("schema_valid", '{"a": 1}', "{}") is None


def test_field_accuracy_is_the_f1_of_leaf_fields() -> None:
    expected, given_ = '{"a": 1, "b": {"c": "x", "d": [1, 2]}}', '{"a": 1.0, "b": {"c": "y", "d": [1, 2, 3]}, "e": 0}'
    # right: a, d0, d1; given: a, c, d0, d1, d2, e; expected: a, c, d0, d1
    assert _value("field_precision", given_, expected) == pytest.approx(3 / 6)
    assert _value("field_recall", given_, expected) == pytest.approx(3 / 4)
    assert _value("field_accuracy", given_, expected) == pytest.approx(2 * 3 / (6 + 4))
    assert _value("field_accuracy", "no JSON", expected) == 0
    assert _value("field_accuracy", f"Here:\n```json\n{expected}\n```", expected) == 1


def test_the_parts_of_an_action_are_scored_apart_from_its_coordinates() -> None:
    expected = '[{"action_type": "click", "at": {"x": 10, "y": 20}}, {"action_type": "text", "typed": "hello"}]'
    given_ = '[{"action_type": "click", "at": {"x": 10, "y": 99}}, {"action_type": "press", "typed": "hello"}]'
    assert _value("action_type", given_, expected) == 0.5
    assert _value("argument_keys", given_, expected) == 1
    assert _value("typed_text", given_, expected) == 1
    assert _value("coordinates", given_, expected) == 0.5
    assert _value("coordinates", given_, '{"action_type": "click"}') is None
    other = '{"mouse_button": "left", "keyboard_action_type": "press", "wait_time": 3}'
    assert _value("typed_text", other, other) is None
    assert _value("coordinates", other, other) is None
    assert _value("coordinates", '{"coordinate": [1, 2]}', '{"coordinate": [1, 3]}') == 0.5


def test_a_fence_may_stand_on_one_line() -> None:
    fenced = '\n```json  {"situation": "need_retry"} ```\nPlease try again.'
    assert _value("verdict", fenced, '```json\n{"situation": "need_retry"}\n```') == 1
    assert _value("verdict", fenced, '{"situation": "sub_task_success"}') == 0


def test_a_verdict_counts_wherever_it_stands() -> None:
    assert _value("verdict", '[{"situation": "need_retry", "advice": "again"}]', '{"situation": "need_retry"}') == 1
    assert _value("verdict", '{"approved": false}', '{"valid": false}') == 0


def test_where_the_expected_json_is_fenced_the_answers_may_be() -> None:
    fenced = 'I will click.```json \n[{"a": 1}]\n```Done.'
    assert _value("valid_json", fenced, fenced) == 1
    assert _value("field_accuracy", '[{"a": 1}]', fenced) == 1
    assert _value("valid_json", fenced, '[{"a": 1}]') == 0


def test_json_metrics_do_not_apply_to_prose() -> None:
    assert _value("field_accuracy", "{}", "just words") is None
    assert _value("valid_json", "{}", "just words") is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=8,
)


@given(ours=st.dictionaries(st.text(max_size=3), json_values, min_size=1), theirs=json_values)
def test_field_scores_are_bounded_and_one_exactly_for_equal_values(ours: Any, theirs: Any) -> None:
    reference, prediction = json.dumps(ours), json.dumps(theirs)
    score = _value("field_accuracy", prediction, reference)
    assert score is not None
    assert 0 <= score <= 1
    assert _value("field_accuracy", reference, reference) == 1
    assert (score == 1) == (theirs == ours and json.dumps(theirs, sort_keys=True) == json.dumps(ours, sort_keys=True))


@given(st.text())
def test_reading_json_never_raises(text: str) -> None:
    strict_json(text)


CLICK = ("computer", {"action": "left_click", "coordinate": [120, 45]})


@pytest.mark.parametrize(
    ("calls", "error"),
    [
        ([CLICK], None),
        ([("computer", json.dumps(CLICK[1]))], None),
        ([], "wrong_count"),
        ([CLICK, CLICK], "wrong_count"),
        ([("bash", {"command": "ls"})], "wrong_func_name"),
        ([("computer", {"action": "left_click"})], "missing_required"),
        ([("computer", {**CLICK[1], "speed": 2})], "unexpected_param"),
        ([("computer", {"action": "left_click", "coordinate": "120,45"})], "type_error"),
        ([("computer", "{broken")], "type_error"),
        ([("computer", {"action": "left_click", "coordinate": [120, "45"]})], "type_error"),
        ([("computer", {"action": "left_click", "coordinate": [121, 45]})], "value_error"),
        ([("computer", {**CLICK[1], "amount": 5})], "value_error"),
        ([("computer", {**CLICK[1], "amount": 3})], None),
    ],
)
def test_each_kind_of_call_error_is_told_apart(calls: list[tuple[str, Any]], error: str | None) -> None:
    assert check_calls(calls_of(_calling(*calls)), calls_of(_calling(CLICK)), [TOOL]) == error


def test_parallel_calls_match_in_any_order() -> None:
    first, second = Call("a", {"x": 1}), Call("b", {"x": 2})
    assert check_calls([second, first], [first, second]) is None
    assert check_calls([first, first], [first, second]) == "wrong_func_name"


def test_an_integer_may_stand_for_a_float_but_not_a_bool_for_an_integer() -> None:
    assert check_call(Call("f", {"x": 2}), Call("f", {"x": 2.0})) is None
    assert check_call(Call("f", {"x": True}), Call("f", {"x": 1})) == "type_error"
    assert check_call(Call("f", {"x": 1.5}), Call("f", {"x": 1})) == "type_error"


def test_what_stands_in_logged_tools_breaks_no_score() -> None:
    wrong = [None, {"parameters": None}, {"name": "f", "parameters": {"properties": None, "required": None}}]
    for function in wrong:
        assert (
            check_call(Call("f", {"x": 1}), Call("f", {"x": 1}), [{"type": "function", "function": function}]) is None
        )
    no_tools: list[Any] = [5, None, "f", ["f"]]  # what a log may say instead of tools
    assert check_call(Call("f", {"x": 1}), Call("f", {"x": 1}), no_tools) is None
    unreadable = _calling(("f", "not json"))
    assert METRICS["tool_call_match"].value([Answer(unreadable, unreadable)]) is None


def test_json_is_equal_by_value_and_other_text_by_its_letters() -> None:
    assert _value("exact_match", '{"b": [1, 2.0], "a": null}', ' {"a":null,"b":[1.0,2]}') == 1
    assert _value("exact_match", '{"b": [2, 1], "a": null}', '{"a": null, "b": [1, 2]}') == 0
    assert _value("exact_match", '{"a": true}', '{"a": 1}') == 0
    assert _value("exact_match", "1.0", "1") == 0
    assert _value("exact_match", '{"a": 1} indeed', '{"a": 1}') == 0


def test_calls_are_equal_by_value_too_and_text_that_looks_like_one_is_none() -> None:
    ours, theirs = (_calling(("f", arguments)) for arguments in ('{"b": 2.0, "a": 1}', '{"a": 1, "b": 2}'))
    assert METRICS["exact_match"].value([Answer(ours, theirs)]) == 1
    assert METRICS["exact_match"].value([Answer(_calling(("f", {"a": 1, "b": 3})), theirs)]) == 0
    assert METRICS["exact_match"].value([Answer(_text('{"arguments": {"a": 1, "b": 2}, "name": "f"}'), theirs)]) == 0


def test_one_item_too_many_makes_only_itself_wrong() -> None:
    steps = [{"do": "open", "what": "door"}, {"do": "go", "what": "in"}, {"do": "close", "what": "door"}]
    more, fewer = [{"do": "look", "what": "up"}, *steps], steps[1:]
    assert _value("field_accuracy", json.dumps(more), json.dumps(steps)) == pytest.approx(2 * 6 / (8 + 6))
    assert _value("field_accuracy", json.dumps(fewer), json.dumps(steps)) == pytest.approx(2 * 4 / (4 + 6))
    assert _value("argument_keys", '[{"a": 2}]', '[{"a": 1}]') == 1
    assert _value("coordinates", '{"at": {"point": [20, 10]}}', '{"at": {"point": [10, 20]}}') == 0.5
    assert _value("field_accuracy", json.dumps([0] * 2000), json.dumps([0] * 2000 + [1])) == pytest.approx(4000 / 4001)


def test_a_broken_models_likelihood_is_the_worst_there_is_and_no_nan() -> None:
    for nll in (math.nan, math.inf, 1e300):
        answers = [Answer(_text("a"), _text("a"), nll=one, reference_tokens=2) for one in (2.0, nll)]
        assert METRICS["perplexity"].value(answers) == pytest.approx(math.exp((2 + 40) / 4))
        assert math.isfinite(METRICS["bits_per_byte"].value(answers) or math.nan)


NESTED = MOST_NESTED - 10
HALF = "\\ud800"  # as JSON escapes half of a surrogate pair
ODD_ANSWERS = [
    "\0",
    '{"a": NaN}',
    f'{{"{HALF}": "{HALF}"}}',
    "[" * NESTED + "]" * NESTED,
    '{"a":' * NESTED + "1" + "}" * NESTED,
    "[" * 900 + "]" * 900,
    f'<tool_call>{{"name": "f", "arguments": {{"x": "{HALF}"}}}}</tool_call>',
    f'<tool_call>{{"name": "{HALF}", "arguments": {{}}}}</tool_call>',
    *('<tool_call>{"name": "f", "arguments": {"x": %s}}</tool_call>' % ("[" * n + "]" * n) for n in (90, 300)),
    '{"a": 1e999}',
    '{"a": %s}' % ("9" * 4000),
]
TREE = {"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [{"items": {"$ref": "#/$defs/n"}}, {"type": "object"}]}}}
TREE["properties"] = {"a": {"multipleOf": 0.01}}  # a number beyond all floats is a multiple of nothing


@pytest.mark.parametrize("text", ODD_ANSWERS, ids=range(len(ODD_ANSWERS)))
def test_whatever_a_model_answers_is_scored_and_can_be_written_down(text: str) -> None:
    message = parse_calls(text)
    stored = json.loads(orjson.dumps(message))
    assert stored == message  # so that a report scored again gives the same figures
    for answer_type in ("json", "tool_call", "code", "text"):
        answer = Answer(message, stored, [TOOL], TREE, answer_type, nll=1.0, reference_tokens=1, new_tokens=1)
        for metric in METRICS.values():
            value = metric.value([answer])
            assert value is None or math.isfinite(value), metric.name
        assert METRICS["exact_match"].value([answer]) == 1


def test_what_a_call_says_with_half_a_surrogate_pair_is_kept() -> None:
    (call,) = calls_of(parse_calls(ODD_ANSWERS[6]))
    assert call.arguments == {"x": "\ud800"}


def test_rows_of_any_metric_are_all_right_by_its_own_scale() -> None:
    right = {name: [all_right(value, name) for value in (0.5, 1.0, 100.0)] for name in ("rougeL", "sacrebleu")}
    assert right == {"rougeL": [False, True, True], "sacrebleu": [False, False, True]}
    assert not any(all_right(value, name) for value in (0.0, 1.0, 9.0) for name in ("perplexity", "answer_tokens"))


@pytest.mark.parametrize("text", ["", "✓", "=="])
def test_equal_texts_without_a_word_are_equal_for_rouge_too(text: str) -> None:
    assert _value("rougeL", text, text) == 1


def test_holding_back_is_right_where_no_call_is_due() -> None:
    silent = Answer(_text("Done."), _text("All done."), tools=[TOOL])
    eager = Answer(_calling(CLICK), _text("All done."), tools=[TOOL])
    assert METRICS["tool_call_match"].value([silent, eager]) == 0.5
    assert METRICS["no_call"].value([silent, eager]) == 0.5
    assert METRICS["no_call"].value([Answer(_calling(CLICK), _calling(CLICK), tools=[TOOL])]) is None


def test_code_matches_by_its_syntax_tree() -> None:
    expected = "def f(x):\n    return x + 1"
    same = "```python\ndef f(x):  # adds one\n        return (x+1)\n```"
    assert _value("code_match", same, expected, answer_type="code") == 1
    assert _value("code_match", "def f(x): return 1 + x", expected, answer_type="code") == 0
    assert _value("code_parses", "def f(x) return", expected, answer_type="code") == 0
    assert _value("code_parses", " ", expected, answer_type="code") == 0
    assert _value("code_parses", "ls", "cp notes.txt docs", answer_type="code") is None  # a shell's, no Python
    assert _value("code_match", same, expected) is None


SENTENCES = [
    ("the cat sat on the mat", "the cat sat on a mat"),
    ("open the vault and find the newest file", "open the vault then find the newest pdf"),
    ("yes", "no"),
    ("", "something was expected here"),
    ("a much longer answer than anybody wanted\nwith two lines", "short\ntwo lines"),
]
words = st.lists(st.sampled_from(["click", "the", "save", "button", "now", "."]), max_size=12).map(" ".join)


@settings(max_examples=50)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_bleu_from_summed_statistics_is_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    from sacrebleu import corpus_bleu

    expected = corpus_bleu([ours for ours, _ in pairs], [[reference for _, reference in pairs]]).score
    found = METRICS["sacrebleu"].value([Answer(_text(ours), _text(reference)) for ours, reference in pairs])
    assert found == pytest.approx(expected, abs=1e-9)


@settings(max_examples=100)
@given(words, words)
def test_rouge_of_any_two_texts_is_the_reference_implementations(ours: str, reference: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    expected = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(reference, ours)
    assert rouge(ours, reference) == pytest.approx({name: score.fmeasure for name, score in expected.items()})


def test_an_empty_json_answer_is_scored_too() -> None:
    assert _value("verdict", "{}", '{"valid": true}') == 0
    assert _value("action_type", "[]", "[]") is None


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_the_reference_implementations(name: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([name])
    expected = np.mean([scorer.score(reference, ours)[name].fmeasure for ours, reference in SENTENCES])
    found = METRICS[name].value([Answer(_text(ours), _text(reference)) for ours, reference in SENTENCES])
    assert found == pytest.approx(float(expected))


SCRIPTS = {
    "Chinese": ("请打开浏览器并搜索明天的天气", "请关闭窗口"),
    "Japanese": ("ブラウザを開いて天気を調べてください", "窓を閉じる"),
    "Thai": ("เปิดเบราว์เซอร์แล้วค้นหาสภาพอากาศ", "ปิดหน้าต่าง"),
    "Russian": ("Открой браузер и найди погоду на завтра", "Закрой окно"),
    "Arabic": ("افتح المتصفح وابحث عن حالة الطقس غدا", "أغلق النافذة"),
    "Hindi": ("ब्राउज़र खोलें और कल का मौसम खोजें", "खिड़की बंद करें"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_rouge_of_equal_answers_is_one_in_any_script(script: str) -> None:
    answer, other = SCRIPTS[script]
    assert rouge(answer, answer) == pytest.approx({"rouge1": 1, "rouge2": 1, "rougeL": 1})
    assert rouge(answer, other)["rougeL"] < 0.5


def test_rouge_l_by_hand() -> None:
    # longest common subsequence: "the cat sat on mat", 5 of 6 words on both sides
    assert _value("rougeL", *SENTENCES[0]) == pytest.approx(5 / 6)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of this test may open a connection."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.usefixtures("offline")
def test_every_metric_loads_as_an_evaluate_module_without_a_network(name: str) -> None:
    assert load(name).name


@pytest.mark.usefixtures("offline")
def test_the_evaluate_modules_give_the_registrys_figures() -> None:
    click = json.dumps(_calling(CLICK))
    found = load("tool_call_match").compute(predictions=[click, "no call"], references=[click, click])
    assert found == {"tool_call_match": 0.5}
    assert load("field_accuracy").compute(predictions=['{"a": 1}'], references=['{"a": 1, "b": 2}']) == {
        "field_accuracy": pytest.approx(2 / 3)
    }
    assert load("perplexity").compute(predictions=["[2.0, 4]"], references=["abcd"])["perplexity"] == pytest.approx(
        math.exp(0.5)
    )
    assert "version:" in load("sacrebleu").compute(predictions=["a b"], references=["a b"])["signature"]
