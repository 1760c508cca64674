"""Neighbours of the known formats: other versions, dialects and exports are read rightly; what is cut is not learnt."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grokora_pipeline.sessions import readers
from grokora_pipeline.sessions.readers import documents, source
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Turn, Verdict
from grokora_pipeline_tests.unit import neighbour_logs
from grokora_pipeline_tests.unit.neutral_logs import FORMATS, Talk
from grokora_pipeline_tests.unit.session_logs import run, turns
from grokora_pipeline_tests.unit.test_sessions_foreign_logs import claude, item, meta, read, spoken, turns_of, write

CALL = {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": '{"cmd": "ls"}'}}
ASKED = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
TALK = [
    *ASKED,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "out"},
    {"role": "assistant", "content": "Done"},
]
REPLY = {"choices": [{"message": TALK[-1], "finish_reason": "stop"}], "model": "m"}


def only(items: Sequence[Item]) -> Turn:
    """The one turn among items."""
    (turn,) = turns_of(items)
    return turn


def prompt_of(turn: Turn) -> str:
    """A prompt in short: the first letter of each role and the text, `*` for calls."""
    return " ".join(f"{one['role'][0]}:{one['content'] or ''}{'*' * ('tool_calls' in one)}" for one in turn.prompt)


def document(folder: Path, value: Any, name: str = "log.json") -> list[Item]:
    """The items of a file that is one indented JSON document."""
    (folder / name).write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2))
    return read(folder / name)


# --- what is cut, masked or not understood is never learnt


@pytest.mark.parametrize(
    "text",
    ["__REDACTED__", "redacted-by-litellm", "<truncated due to size exceeding limit>", "x (litellm_truncated 5) y"],
)
def test_a_text_that_a_platform_masked_or_shortened_is_no_whole_prompt(tmp_path: Path, text: str) -> None:
    row = {"messages": [{"role": "user", "content": text}, TALK[-1]]}
    assert only(read(write(tmp_path / "x.jsonl", row))).completeness == "cut"


@pytest.mark.parametrize(
    ("contexts", "known"), [(["Berlin is a city."], "cut"), (["Capital?"], "whole"), ([], "whole")]
)
def test_a_prompt_whose_retrieved_texts_stand_beside_it_is_not_whole(
    tmp_path: Path, contexts: list[str], known: str
) -> None:
    row = {"user_input": "Capital?", "retrieved_contexts": contexts, "response": "Berlin"}
    assert only(read(write(tmp_path / "x.jsonl", row))).completeness == known
    if contexts != ["Capital?"]:
        (tmp_path / "x.csv").write_text(f'{",".join(row)}\nCapital?,"{contexts or ""}",Berlin\n')
        assert only(read(tmp_path / "x.csv")).completeness == known


def test_a_conversation_of_ragas_is_its_messages_and_nobody_said_that_it_went_well(tmp_path: Path) -> None:
    said = {"type": "ai", "content": "I look.", "tool_calls": [{"name": "bash", "args": {"cmd": "ls"}}]}
    result = {"type": "tool", "content": "out"}
    row = {"user_input": [{"type": "human", "content": "Q"}, said, result, {"type": "ai", "content": "Done"}]}
    told = turns_of(read(write(tmp_path / "x.jsonl", {**row, "reference": "Done"})))
    assert [(prompt_of(turn), turn.status) for turn in told] == [
        ("u:Q", "unknown"),
        ("u:Q a:I look.* t:out", "unknown"),
    ]


def test_a_row_without_messages_stops_no_file(tmp_path: Path) -> None:
    empty = {"messages": [{"role": "user", "content": ""}]}
    assert [type(item) for item in read(write(tmp_path / "x.jsonl", empty, {"messages": TALK}))] == [
        Skipped,
        Turn,
        Turn,
    ]


def test_parallel_results_of_semantic_kernel_go_to_their_calls(tmp_path: Path) -> None:
    calls = [{"$type": "FunctionCallContent", "Id": one, "FunctionName": "f", "Arguments": {}} for one in "ab"]
    results = [{"$type": "FunctionResultContent", "CallId": one, "Result": f"of {one}"} for one in "ba"]
    told = [("user", [{"$type": "TextContent", "Text": "Q"}]), ("assistant", calls), ("tool", results)]
    told.append(("assistant", [{"$type": "TextContent", "Text": "A"}]))
    items = document(tmp_path, [{"Role": {"Label": role}, "Items": own} for role, own in told])
    seen = {one["tool_call_id"]: one["content"] for one in turns_of(items)[1].prompt if one["role"] == "tool"}
    assert seen == {"a": "of a", "b": "of b"}


def test_a_call_of_zed_that_was_not_complete_is_no_example(tmp_path: Path) -> None:
    use = {"id": "t1", "name": "bash", "input": {}, "is_input_complete": False}
    cut = {"Agent": {"content": [{"Text": "I"}, {"ToolUse": use}], "tool_results": {}}}
    asked = {"User": {"id": "u", "content": [{"Text": "Q"}]}}
    answer = {"Agent": {"content": [{"RedactedThinking": "x"}, {"Text": "A"}], "tool_results": {}}}
    items = document(tmp_path, {"title": "t", "version": "0.3.0", "messages": [asked, answer, "Resume", cut]})
    assert [item for item in items if isinstance(item, Skipped)] == [Skipped("broken_off")]
    assert (prompt_of(only(items)), only(items).completion["content"]) == ("u:Q", "A")


@pytest.mark.parametrize(("more", "known"), [(True, "delta"), (False, "reconstructed")])
def test_of_items_that_are_listed_backwards_the_oldest_may_be_on_another_page(
    tmp_path: Path, more: bool, known: str
) -> None:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A"}]}
    asked = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Q"}]}
    turn = only(document(tmp_path, {"object": "list", "data": [said, asked], "has_more": more}))
    assert (prompt_of(turn), turn.completion["content"], turn.completeness) == ("u:Q", "A", known)


def test_a_session_of_clines_newer_programs_names_itself_and_its_agent(tmp_path: Path) -> None:
    said = {"role": "assistant", "content": [{"type": "text", "text": "A"}], "modelInfo": {"id": "m"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "Q"}], "ts": 1767225600000}, said]
    turn = only(document(tmp_path, {"version": 1, "agent": "lead", "sessionId": "s", "messages": messages}))
    assert (turn.session_id, turn.agent, turn.model, turn.completeness) == ("s", "cline", "m", "reconstructed")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": ASKED, "object": "chat.completion", **REPLY},
        {"type": "llm", "input": {"messages": ASKED}, "output": {"output": "Done"}},
    ],
)
def test_a_reply_may_stand_in_its_request_or_be_one_text(tmp_path: Path, row: dict[str, Any]) -> None:
    assert only(read(write(tmp_path / "x.jsonl", row))).completion["content"] == "Done"


def test_a_recorded_call_may_name_its_session_and_task_in_metadata_that_is_text(tmp_path: Path) -> None:
    metadata = json.dumps({"sessionId": "s", "task_id": "t", "time": "x"})
    line = {
        "request": {"messages": ASKED},
        "response": REPLY,
        "metadata": metadata,
        "created_at": "2026-01-01T00:00:00Z",
    }
    turn = only(read(write(tmp_path / "x.jsonl", line)))
    assert (turn.session_id, turn.task, turn.started_at) == ("s", "t", "2026-01-01T00:00:00+00:00")


def test_an_odd_record_costs_no_other_its_calls(tmp_path: Path) -> None:
    said = [
        {"messageId": "1", "isCreatedByUser": True, "text": "Q"},
        {"messageId": "2", "parentMessageId": "1", "text": "A"},
    ]
    good = {"conversationId": "c", "endpoint": "x", "messages": said}
    items = read(write(tmp_path / "x.jsonl", good, {**good, "messages": []}, {**good, "conversationId": "d"}))
    assert [turn.session_id for turn in turns_of(items)] == ["c", "d"]
    assert [item.reason for item in items if isinstance(item, Problem)] == ["malformed"]


def test_a_kind_that_is_no_word_hides_no_format(tmp_path: Path) -> None:
    odd = {"type": {"a": 1}, "kind": [1], "content": [{"type": {}}]}
    items = read(write(tmp_path / "x.jsonl", meta(), odd, spoken("user", "Q"), spoken("assistant", "A")))
    assert only(items).source_format == "codex"


@pytest.mark.parametrize(("code", "failed"), [(0, False), (1, True), (-1, True)])
def test_a_step_of_mini_swe_agent_failed_if_its_command_did(tmp_path: Path, code: int, failed: bool) -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": f"<returncode>{code}</returncode>\n<output>\nx</output>"}
    first = turns_of(document(tmp_path, [*TALK[:3], result, TALK[4]]))[0]
    assert first.step_failed is failed


def test_what_is_said_after_a_call_without_its_result_is_another_answer_with_no_whole_prompt(tmp_path: Path) -> None:
    items = read(write(tmp_path / "x.jsonl", {"messages": [*TALK[:3], TALK[4]]}))
    first, second = turns_of(items)
    assert (first.completion["content"], first.completeness, first.result_known) == ("", "whole", False)
    assert (second.completion["content"], second.completeness) == ("Done", "cut")
    assert [item.reason for item in items if isinstance(item, Problem)] == ["result_not_recorded"]
    # one answer if its result comes after all that it says, as OpenAI's items do
    first, last = turns_of(read(write(tmp_path / "y.jsonl", {"messages": [*TALK[:3], TALK[4], TALK[3], TALK[4]]})))
    assert (first.completion["content"], bool(first.completion["tool_calls"]), first.result_known) == (
        "Done",
        True,
        True,
    )
    assert (last.completion["content"], last.completeness) == ("Done", "whole")


def test_words_about_hiding_do_not_make_a_prompt_cut(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "Is this text redacted or truncated?"}, TALK[-1]]}
    assert only(read(write(tmp_path / "x.jsonl", row))).completeness == "whole"


def test_an_input_that_was_json_before_it_was_cut_is_no_question(tmp_path: Path) -> None:
    observation = {"id": "o", "traceId": "t", "type": "GENERATION", "startTime": "2026-01-01", "output": "A"}
    cut = {**observation, "parentObservationId": None, "input": json.dumps(TALK)[:90]}
    assert only(read(write(tmp_path / "x.jsonl", cut))).completeness == "cut"


def test_a_message_without_one_of_its_calls_is_not_learnt(tmp_path: Path) -> None:
    strange = {"role": "assistant", "content": "", "tool_calls": [{"verb": "ls"}]}
    items = read(write(tmp_path / "x.jsonl", {"messages": [*ASKED, strange, *TALK[3:]]}))
    assert items[0] == Skipped("part_of_unknown_kind")
    assert [turn.completeness for turn in turns_of(items)] == ["cut"]


@pytest.mark.parametrize(
    "message",
    [
        {"finish_reason": "length"},
        {"stop_reason": "max_tokens"},
        {"response_metadata": {"finish_reason": "FinishReason.MAX_TOKENS"}},
        {"status": "incomplete"},
    ],
)
def test_an_answer_that_says_that_it_ended_at_its_limit_counts_as_failed(
    tmp_path: Path, message: dict[str, Any]
) -> None:
    row = {"messages": [*ASKED, {"role": "assistant", "content": "half", **message}]}
    assert only(read(write(tmp_path / "x.jsonl", row))).step_failed


def test_an_odd_result_is_what_the_model_saw_and_no_picture(tmp_path: Path) -> None:
    use = {"type": "tool_use", "id": "t1", "name": "find", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "tool_reference", "tool_name": "X"}]}
    lines = [claude("u", None, "Q"), claude("a", "u", [use], "assistant"), claude("r", "a", [result])]
    lines.append(claude("b", "r", [{"type": "text", "text": "A"}], "assistant"))
    assert '"tool_name": "X"' in prompt_of(turns_of(read(write(tmp_path / "x.jsonl", *lines)))[1])


# --- training sets


@pytest.mark.parametrize(
    ("row", "status"),
    [
        ({"resolved": False}, "failure"),
        ({"reward": 0.0}, "failure"),
        ({"reward": 0.5}, "failure"),
        ({"info": {"reward": 0}}, "failure"),
        ({"outcome": "timeout"}, "failure"),
        ({"outcome": "who knows"}, "failure"),
        ({"target": False}, "failure"),
        ({"resolved": "False"}, "failure"),
        ({"reward": "0.0"}, "failure"),
        ({"reward": "1.0", "score": "high", "error": None}, "success"),
        ({"target": "no", "label": "false", "correct": "0"}, "success"),
        ({"error": "Timeout after 600 s"}, "failure"),
        ({"exit_status": "submitted (exit_context)"}, "failure"),
        ({"exit_status": "submitted"}, "success"),
        ({"exit_reason": "max_steps"}, "failure"),
        ({"test_result": {"report": {"resolved": False}}}, "failure"),
        ({"reward": 1.0, "success": True}, "success"),
        ({"score": 9.5, "label": "code", "correct": "B"}, "success"),
    ],
)
def test_a_row_that_says_that_it_failed_is_no_good_example(tmp_path: Path, row: dict[str, Any], status: str) -> None:
    turn = only(read(write(tmp_path / "x.jsonl", {**row, "messages": [*ASKED, TALK[-1]], "instance_id": "task-7"})))
    assert (turn.status, turn.task) == (status, "task-7")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"system": "S", "prompt": "Q", "completion": "A"}, "s:S u:Q -> A"),
        ({"system_prompt": "S", "question": "Q", "response": "A"}, "s:S u:Q -> A"),
        ({"input": ASKED, "output": "A", "reasoning": "off"}, "s:S u:Q -> A"),
        ({"instruction": "Q", "output": "A", "history": [["q", "a"]]}, "u:q a:a u:Q -> A"),
        ({"messages": [ASKED[1], {"role": "assistant", "blocks": [{"block_type": "text", "text": "A"}]}]}, "u:Q -> A"),
    ],
)
def test_rows_of_other_sets_say_all_that_they_hold(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    turn = turns_of(read(write(tmp_path / "x.jsonl", row)))[-1]
    assert f"{prompt_of(turn)} -> {turn.completion['content']}" == said


def test_a_row_of_xlam_is_a_call_and_its_types_are_json_schema(tmp_path: Path) -> None:
    parameters = {"q": {"type": "str", "description": "d"}, "n": {"type": "int, optional", "default": 3}}
    tools = json.dumps([{"name": "find", "description": "D", "parameters": parameters}])
    answers = json.dumps([{"name": "find", "arguments": {"q": "x"}}])
    turn = only(read(write(tmp_path / "x.jsonl", {"id": 0, "query": "Q", "answers": answers, "tools": tools})))
    assert turn.completion["tool_calls"][0]["function"] == {"name": "find", "arguments": '{"q": "x"}'}
    properties = {"q": {"type": "string", "description": "d"}, "n": {"type": "integer", "default": 3}}
    schema = {"type": "object", "properties": properties, "required": ["q"]}
    assert turn.tools == [{"type": "function", "function": {"name": "find", "description": "D", "parameters": schema}}]


@pytest.mark.parametrize(
    "beside",
    [
        {"toolInvocations": [{"state": "result", "toolCallId": "c", "toolName": "bash", "args": {}, "result": "out"}]},
        {
            "tool_uses": [{"id": "c", "name": "bash", "input": {}}],
            "tool_results": [{"tool_use_id": "c", "content": "out"}],
        },
        {"actions": [{"id": "c", "name": "bash", "parameters": {}, "output": "out"}]},
    ],
)
def test_calls_beside_the_content_are_calls_whatever_they_are_called(tmp_path: Path, beside: dict[str, Any]) -> None:
    messages: list[Any] = [ASKED[1], {"role": "assistant", "content": "", **beside}, TALK[-1]]
    first, second = turns_of(read(write(tmp_path / "x.jsonl", {"messages": messages})))
    assert [call["function"]["name"] for call in first.completion["tool_calls"]] == ["bash"]
    assert prompt_of(second) == "u:Q a:* t:out"


def test_a_prompt_with_a_message_of_an_unknown_role_is_not_whole(tmp_path: Path) -> None:
    messages = [*ASKED, {"role": "narrator", "content": "It rains."}, TALK[-1]]
    assert only(read(write(tmp_path / "x.jsonl", {"messages": messages}))).completeness == "cut"


def test_a_part_of_an_unknown_kind_is_noticed_in_every_kind_of_row(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": [{"type": "hologram", "data": "x"}, {"type": "text", "text": "Q"}]}]
    for number, row in enumerate(
        ({"prompt": prompt, "completion": "A", "system": "S"}, {"messages": [*prompt, TALK[-1]]})
    ):
        assert only(read(write(tmp_path / f"{number}.jsonl", row))).completeness == "cut"


def test_the_channels_of_gpt_oss_are_thoughts_calls_and_an_answer(tmp_path: Path) -> None:
    said = [
        {"role": "assistant", "channel": "analysis", "content": "Look."},
        {"role": "assistant", "channel": "commentary", "recipient": "functions.bash", "content": '{"cmd": "ls"}'},
        {"role": "tool", "name": "functions.bash", "content": "out"},
        {"role": "assistant", "channel": "final", "content": "Done"},
    ]
    first, second = turns_of(read(write(tmp_path / "x.jsonl", {"messages": [*ASKED, *said]})))
    assert first.completion["reasoning_content"] == "Look."
    assert first.completion["tool_calls"][0]["function"] == {"name": "bash", "arguments": '{"cmd": "ls"}'}
    assert (prompt_of(second), second.completion["content"]) == ("s:S u:Q a:* t:out", "Done")


@pytest.mark.parametrize("holder", [{"status": "error"}, {"exception": "Timeout"}, {"error": {"code": 500}}])
def test_what_a_failed_call_had_answered_is_not_learnt(tmp_path: Path, holder: dict[str, Any]) -> None:
    span = {"type": "llm", "trace_id": "t", "input": ASKED, "output": TALK[-1], **holder}
    assert read(write(tmp_path / "x.jsonl", span)) == [Skipped("call_failed")]


def test_tools_that_a_message_offers_are_no_calls_of_them(tmp_path: Path) -> None:
    schema = {"name": "bash", "parameters": {"type": "object", "properties": {}}}
    answer = {"role": "assistant", "content": "Done", "tools": [schema], "offered": [schema]}
    assert "tool_calls" not in only(read(write(tmp_path / "x.jsonl", {"messages": [*ASKED, answer]}))).completion


def test_an_answer_without_its_invalid_call_is_not_learnt(tmp_path: Path) -> None:
    answer = {"type": "ai", "content": "I look.", "invalid_tool_calls": [{"name": "bash", "args": "{", "id": "c"}]}
    assert read(write(tmp_path / "x.jsonl", {"type": "human", "content": "Q"}, answer)) == [
        Skipped("part_of_unknown_kind")
    ]


@pytest.mark.parametrize(
    "value",
    [
        {"executionId": "e", "actionId": "act", "chat": [{"role": "human", "content": "Q"}, TALK[-1]]},
        {"sessionId": "s", "workspaceDirectory": "/w", "history": [{"message": TALK[-1], "executionId": "e"}]},
    ],
)
def test_what_kiro_shows_in_the_place_of_an_answer_is_refused(value: dict[str, Any]) -> None:
    head = orjson.dumps(value)
    assert readers.detect(head) is None
    assert "Kiro" in readers.nearest(head)


def test_agents_that_hand_over_to_each_other_have_no_whole_prompt(tmp_path: Path) -> None:
    parts = [("user", "user", "Q"), ("a", "model", "A"), ("b", "model", "B")]
    events = [{"author": who, "content": {"role": role, "parts": [{"text": text}]}} for who, role, text in parts]
    assert {one.completeness for one in turns_of(document(tmp_path, {"id": "s", "events": events}))} == {"cut"}


def test_an_archive_that_is_no_log_of_inspect_stays_one_and_a_sample_that_unpacks_without_end_is_not_read(
    tmp_path: Path,
) -> None:
    (tmp_path / "logs").mkdir()
    with zipfile.ZipFile(tmp_path / "logs" / "x.eval", "w") as archive:
        archive.writestr("samples/1.json", "{}")
    whole = neighbour_logs.NEIGHBOURS["inspect_eval"][3](Talk("s", "q", "t", "c", "r", "a"), "n")
    (tmp_path / "logs" / "cut.eval").write_bytes(whole[:-40])
    with zipfile.ZipFile(tmp_path / "logs" / "bomb.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", '{"eval": {}}')
        archive.writestr("samples/1.json", b" " * (source.MAX_LINE + 1))
    report = run(tmp_path / "logs", tmp_path / "out")
    assert report.left_out == {"archive": 2}
    assert [(row["file"], row["reason"]) for row in report.quarantine] == [("bomb.eval", "gigantic")]


def test_a_row_of_parquet_says_what_the_same_row_of_jsonl_says(tmp_path: Path) -> None:
    rows = [{"messages": TALK, "reward": reward, "picture": b"\x89PNG"} for reward in (1.0, 0.0)]
    for place in ("lines", "rows"):
        (tmp_path / place).mkdir()
    pq.write_table(pa.Table.from_pylist(rows * 40), tmp_path / "rows" / "train.parquet", row_group_size=7)
    write(tmp_path / "lines" / "train.jsonl", *[{**row, "picture": None} for row in rows * 40])
    told = []
    for place in ("lines", "rows"):
        run(tmp_path / place, tmp_path / f"{place}-out")
        told.append([(one["prompt"], one["completion"], one["status"]) for one in turns(tmp_path / f"{place}-out")])
    assert told[0] == told[1]
    assert len(told[0]) > 0


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_arguments_that_a_table_gave_the_members_of_other_calls_lose_them_again(tmp_path: Path, name: str) -> None:
    """Arrow gives each object of a column all members of the others, and `datasets` writes them as null."""
    calls = [{"name": "get", "arguments": {"city": "P"}}, {"name": "look", "arguments": {"deep": True}}]
    said = {"role": "assistant", "tool_calls": [{"function": one} for one in calls]}
    table = pa.Table.from_pylist([{"messages": [{"role": "user", "content": "Q"}, said]}])
    if name.endswith(".parquet"):
        pq.write_table(table, tmp_path / name)
    else:
        write(tmp_path / name, *table.to_pylist())
    made = only(read(tmp_path / name)).completion["tool_calls"]
    assert [json.loads(one["function"]["arguments"]) for one in made] == [one["arguments"] for one in calls]


def test_a_parquet_file_that_is_not_whole_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    pq.write_table(pa.Table.from_pylist([{"messages": TALK}]), tmp_path / "logs" / "x.parquet")
    whole = (tmp_path / "logs" / "x.parquet").read_bytes()
    (tmp_path / "logs" / "x.parquet").write_bytes(whole[:-20])
    report = run(tmp_path / "logs", tmp_path / "out")
    assert [one["reason"] for one in report.quarantine] == ["damaged"]


def test_what_a_pair_is_about_is_a_part_of_its_question(tmp_path: Path) -> None:
    row = {"instruction": "Sum up.", "context": "A long story.", "response": "Short."}
    assert prompt_of(only(read(write(tmp_path / "x.jsonl", row)))) == "u:Sum up.\n\nA long story."


# --- pages of interfaces, and long documents


def test_the_elements_of_a_page_are_records(tmp_path: Path) -> None:
    payload = {"id": "l", "call_type": "acompletion", "startTime": 1, "messages": ASKED, "response": REPLY}
    assert only(document(tmp_path, {"data": [payload], "total": 1})).completion["content"] == "Done"
    rows = {"rows": [{"row_idx": 0, "row": {"messages": [*ASKED, TALK[-1]]}}], "num_rows_total": 1}
    assert only(document(tmp_path, rows)).completion["content"] == "Done"


def test_spans_of_one_long_resource_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = [span(f"{n}", {"gen_ai.operation.name": "chat", **SEMCONV}) for n in range(40)]
    scopes = [{"scope": {"name": "a"}, "spans": spans[:30]}, {"scope": {"name": "b"}, "spans": spans[30:]}]
    resource = {"attributes": pairs({"session.id": "S"})}
    value = {"resourceSpans": [{"resource": resource, "scopeSpans": scopes}]}
    told = document(tmp_path, value)
    monkeypatch.setattr(documents, "STREAMED_FROM", 4_000)
    held = [
        len(scope["spans"])
        for record in documents.records(source.Source(tmp_path / "log.json", "log.json"))
        if isinstance(record, documents.Record)
        for one in record.value["resourceSpans"]
        for scope in one["scopeSpans"]
    ]
    assert max(held) == 1
    assert [turn.session_id for turn in turns_of(told)] == ["S"] * 40
    assert [one.completion for one in turns_of(document(tmp_path, value))] == [one.completion for one in turns_of(told)]


def test_a_resource_behind_its_spans_is_that_of_its_spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def element(name: str, *order: str) -> dict[str, Any]:
        spans = [span(f"{name}{n}", {"gen_ai.operation.name": "chat", **SEMCONV}) for n in range(3)]
        whole = {"resource": {"attributes": pairs({"session.id": name})}, "scopeSpans": [{"spans": spans}]}
        return {key: whole[key] for key in order}

    before, behind = ("resource", "scopeSpans"), ("scopeSpans", "resource")
    orders = {"A": before, "B": behind, "C": ("scopeSpans",), "D": before, "E": behind}
    value = {"resourceSpans": [element(name, *order) for name, order in orders.items()]}
    told = [(turn.session_id, turn.call) for turn in turns_of(document(tmp_path, value))]
    assert sorted({session for session, _ in told}) == ["A", "B", "D", "E", "t"]
    monkeypatch.setattr(documents, "STREAMED_FROM", 4_000)
    assert [(turn.session_id, turn.call) for turn in turns_of(document(tmp_path, value))] == told


def test_a_long_object_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = document(tmp_path, SIMULATIONS)
    monkeypatch.setattr(documents, "STREAMED_FROM", 64)
    assert document(tmp_path, SIMULATIONS) == whole
    assert len(turns_of(whole)) == 4
    log = source.Source(tmp_path / "log.json", "log.json")
    pieces = list(documents._pieces(log, log.path.open("rb")))
    assert [len(piece["simulations"]) for piece in pieces] == [1, 1]
    raw = (tmp_path / "log.json").read_bytes()
    (tmp_path / "log.json").write_bytes(raw[: len(raw) * 3 // 4])
    items = read(tmp_path / "log.json")
    assert len(turns_of(items)) == 2  # the first simulation's
    assert [one.reason for one in items if isinstance(one, Problem)] == ["truncated"]


# --- benchmarks


def _simulation(number: int, reward: float) -> dict[str, Any]:
    messages = [
        {"role": "assistant", "content": "Hi! How can I help?"},
        {"role": "user", "content": "Book it."},
        {"role": "assistant", "tool_calls": [{"id": "c1", "name": "get", "arguments": {"a": 1}}]},
        {"id": "c1", "role": "tool", "content": "{}", "requestor": "assistant"},
        {"role": "user", "tool_calls": [{"id": "u1", "name": "toggle", "arguments": {}, "requestor": "user"}]},
        {"id": "u1", "role": "tool", "content": "on", "requestor": "user"},
        {"role": "user", "content": "It is on."},
        {"role": "assistant", "content": "Done."},
    ]
    return {"id": f"sim-{number}", "task_id": "7", "reward_info": {"reward": reward}, "messages": messages}


SIMULATIONS: dict[str, Any] = {
    "info": {
        "agent_info": {"implementation": "llm_agent", "llm": "gpt-x"},
        "environment_info": {"domain_name": "airline", "policy": "Be polite."},
    },
    "tasks": [{"id": "7"}],
    "simulations": [_simulation(1, 1.0), _simulation(2, 0.0)],
}


def test_an_agent_of_tau2_does_not_see_what_the_simulated_person_calls(tmp_path: Path) -> None:
    items = document(tmp_path, SIMULATIONS)
    first, second, *_ = turns_of(items)
    assert prompt_of(first) == "s:Be polite. a:Hi! How can I help? u:Book it."
    assert prompt_of(second) == f"{prompt_of(first)} a:* t:{{}} u:It is on."
    assert (first.agent, first.model, first.task, first.completeness) == (
        "llm_agent",
        "gpt-x",
        "airline task 7",
        "reconstructed",
    )
    assert [one.status for one in items if isinstance(one, Verdict)] == ["success", "failure"]


@pytest.mark.parametrize(("score", "status"), [("C", "success"), ("I", "failure"), (0.5, "failure"), (1, "success")])
def test_a_score_of_inspect_is_the_verdict_and_its_calls_are_read(tmp_path: Path, score: Any, status: str) -> None:
    call = {"id": "c1", "function": "bash", "arguments": {"cmd": "ls"}, "type": "function"}
    said = [*ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}, *TALK[3:]]
    sample = {"id": 1, "epoch": 1, "input": "Q", "target": "x", "messages": said, "scores": {"match": {"value": score}}}
    for name, value in (("log", {"eval": {"task": "t", "model": "m"}, "samples": [sample]}), ("sample", sample)):
        first, second = turns_of(items := document(tmp_path, value, f"{name}.json"))
        assert first.completion["tool_calls"][0]["function"] == {"name": "bash", "arguments": '{"cmd": "ls"}'}
        assert (first.status, second.status) == (status, status)
        assert [one.status for one in items if isinstance(one, Verdict)] == [status]


def _openhands() -> list[dict[str, Any]]:
    call = {"id": "c1", "name": "terminal", "arguments": "{}"}
    events: list[dict[str, Any]] = [
        {"source": "agent", "kind": "SystemPromptEvent", "system_prompt": {"text": "S"}},
        {"source": "user", "kind": "MessageEvent", "llm_message": {"role": "user", "content": "Q"}},
        {"source": "agent", "kind": "ActionEvent", "tool_name": "terminal", "tool_call_id": "c1", "tool_call": call},
        {"kind": "ObservationEvent", "tool_call_id": "c1", "observation": {"content": [{"text": "out"}]}},
        {"source": "agent", "kind": "MessageEvent", "llm_message": {"role": "assistant", "content": "Done"}},
    ]
    events[0]["tools"] = [{"kind": "TerminalTool", "name": "terminal", "action_type": "TerminalAction"}]
    events[1]["extended_content"] = [{"type": "text", "text": "A skill."}]
    events[2]["llm_response_id"] = "r1"
    return [{"id": f"e{number}", "timestamp": "2026-01-01", **event} for number, event in enumerate(events)]


def test_openhands_events_of_a_file_each_are_one_conversation_that_grows(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "conversation" / "events"
    folder.mkdir(parents=True)
    events = _openhands()
    for number, event in enumerate(events[:4]):
        (folder / f"event-{number:05d}-ab{number}.json").write_bytes(orjson.dumps(event))
    run(tmp_path / "logs", tmp_path / "first")
    (one,) = turns(tmp_path / "first")
    (folder / "event-00004-ab4.json").write_bytes(orjson.dumps(events[4]))
    report = run(tmp_path / "logs", tmp_path / "second", tmp_path / "first")
    told = turns(tmp_path / "second")
    assert [turn["completeness"] for turn in told] == ["whole", "whole"]
    assert one["turn_id"] in {turn["turn_id"] for turn in told}
    assert {turn["tools_known"] for turn in told} == {"inferred"}  # a class of the SDK is no schema
    assert "A skill." in told[0]["prompt"]
    assert report.quarantined == 0


def test_a_row_of_an_openhands_evaluation_is_a_conversation_of_its_task(tmp_path: Path) -> None:
    rows = [{"instance_id": f"task-{n}", "history": _openhands(), "metadata": {}} for n in range(2)]
    told = turns_of(read(write(tmp_path / "output.jsonl", *rows)))
    assert [(turn.session_id, turn.task) for turn in told] == [("task-0", "task-0")] * 2 + [("task-1", "task-1")] * 2


def test_several_trajectories_of_atif_may_stand_in_one_file(tmp_path: Path) -> None:
    steps = [{"step_id": 1, "source": "user", "message": "Q"}, {"step_id": 2, "source": "agent", "message": "A"}]
    runs = [{"schema_version": "ATIF-v1.7", "agent": {"name": "x"}, "session_id": s, "steps": steps} for s in "ab"]
    assert [turn.session_id for turn in turns_of(read(write(tmp_path / "x.jsonl", *runs)))] == ["a", "b"]
    assert [turn.session_id for turn in turns_of(document(tmp_path, runs))] == ["a", "b"]


def test_a_copy_of_a_log_under_another_name_gives_the_same_calls(tmp_path: Path) -> None:
    talk = Talk("You are S.", "Q?", "Thought.", "ls", "out", "Answer.")
    for name, (_, file, _, write_log) in FORMATS.items():
        for place, own in (("own", file), ("other", f"elsewhere/renamed{Path(file).suffix}")):
            for folder in (place, "both"):
                path = tmp_path / folder / name / own
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(write_log(talk, "n1"))
    told = []
    for folder in ("own", "other", "both"):
        run(tmp_path / folder, tmp_path / f"{folder}-out")
        told.append(sorted(one["turn_id"] for one in turns(tmp_path / f"{folder}-out")))
    assert told[0] == told[1] == told[2]


# --- coding agents


def test_a_printed_stream_of_claude_code_has_a_session_and_its_sub_agents_apart(tmp_path: Path) -> None:
    def line(role: str, content: Any, call: str | None = None, key: str = "") -> dict[str, Any]:
        message = {"role": role, "content": content} | ({"id": key, "model": "m"} if key else {})
        return {"type": role, "message": message, "session_id": "s", "parent_tool_use_id": call}

    use = {"type": "tool_use", "id": "t1", "name": "Task", "input": {"prompt": "P", "subagent_type": "Explore"}}
    lines = [
        {"type": "system", "subtype": "init", "session_id": "s"},
        line("user", "Q"),
        line("assistant", [use], key="m1"),
        line("user", "P", "t1"),
        line("assistant", [{"type": "text", "text": "Seen."}], "t1", "m2"),
        line("user", [{"type": "tool_result", "tool_use_id": "t1", "content": "Seen."}]),
        line("assistant", [{"type": "text", "text": "Done."}], key="m3"),
    ]
    told = turns_of(read(write(tmp_path / "x.jsonl", *lines)))
    assert [(one.session_id, one.agent, prompt_of(one)) for one in told] == [
        ("s", "claude-code", "u:Q"),
        ("s:t1", "claude-code/Explore", "u:P"),
        ("s", "claude-code", "u:Q a:* t:Seen."),
    ]
    without_question = turns_of(read(write(tmp_path / "y.jsonl", lines[0], *lines[2:3], *lines[5:])))
    assert [one.completeness for one in without_question] == ["delta", "delta"]


def test_an_answer_for_which_the_provider_ran_a_tool_is_context_only(tmp_path: Path) -> None:
    search = {"type": "server_tool_use", "id": "w", "name": "web_search", "input": {"query": "x"}}
    hits = {
        "type": "web_search_tool_result",
        "tool_use_id": "w",
        "content": [{"type": "web_search_result", "url": "u"}],
    }
    answer = [search, hits, {"type": "text", "text": "Found."}]
    lines = [claude("u", None, "Q"), claude("a", "u", answer, "assistant"), claude("v", "a", "And?")]
    lines.append(claude("b", "v", [{"type": "text", "text": "More."}], "assistant"))
    items = read(write(tmp_path / "x.jsonl", *lines))
    assert items[0] == Skipped("tool_of_the_provider")
    assert [one["role"] for one in only(items).prompt] == ["user", "assistant", "tool", "assistant", "user"]
    codex = [meta(), spoken("user", "Q"), item("web_search_call", action={}), spoken("assistant", "Found.")]
    assert read(write(tmp_path / "y.jsonl", *codex)) == [Skipped("tool_of_the_provider")]


def test_a_small_compaction_takes_results_out_of_later_prompts(tmp_path: Path) -> None:
    use = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}
    compaction: dict[str, Any] = {"type": "system", "uuid": "c", "parentUuid": "r", "sessionId": "s"}
    compaction["microcompactMetadata"] = {"compactedToolIds": ["t1"]}
    lines = [
        claude("u", None, "Q"),
        claude("a", "u", [use], "assistant"),
        claude("r", "a", [{"type": "tool_result", "tool_use_id": "t1", "content": "long"}]),
        claude("b", "r", [{"type": "text", "text": "B"}], "assistant"),
        {**compaction, "parentUuid": "b"},
        claude("v", "c", "And?"),
        claude("d", "v", [{"type": "text", "text": "D"}], "assistant"),
    ]
    _, before, after = turns_of(read(write(tmp_path / "x.jsonl", *lines)))
    assert "t:long" in prompt_of(before)
    assert "t:[Old tool result content cleared]" in prompt_of(after)


def test_after_an_encrypted_compaction_no_prompt_of_codex_is_known(tmp_path: Path) -> None:
    kept = {"type": "compaction", "encrypted_content": "zzz"}
    lines: list[dict[str, Any]] = [meta(), spoken("user", "Q"), spoken("assistant", "A")]
    lines.append({"type": "compacted", "payload": {"message": "", "replacement_history": [kept]}})
    lines += [spoken("user", "Q2"), spoken("assistant", "A2")]
    told = turns_of(read(write(tmp_path / "x.jsonl", *lines)))
    assert [one.completeness for one in told] == ["reconstructed", "delta"]


def test_reasoning_that_codex_keeps_in_the_open_is_kept(tmp_path: Path) -> None:
    thought = item("reasoning", summary=[], content=[{"type": "reasoning_text", "text": "Hm."}])
    lines = [meta(), spoken("user", "Q"), thought, spoken("assistant", "A")]
    assert only(read(write(tmp_path / "x.jsonl", *lines))).completion["reasoning_content"] == "Hm."


def test_what_a_chat_program_took_out_of_the_prompt_is_not_in_it(tmp_path: Path) -> None:
    def text(words: str) -> list[dict[str, str]]:
        return [{"type": "text", "text": words}]

    tool = {"type": "tool", "callID": "c", "tool": "bash", "state": {"status": "completed", "input": {}, "output": "x"}}
    tool["state"]["time"] = {"compacted": 3}  # type: ignore[index]
    opencode = [
        {"info": {"role": "user"}, "parts": text("Q")},
        {"info": {"role": "assistant", "modelID": "m"}, "parts": [tool, {"type": "step-start"}, *text("A")]},
        {"info": {"role": "assistant", "modelID": "m", "summary": True}, "parts": text("Sum.")},
        {"info": {"role": "user"}, "parts": text("Q2")},
        {"info": {"role": "assistant", "modelID": "m"}, "parts": text("A2")},
    ]
    told = turns_of(document(tmp_path, {"info": {"id": "s", "directory": "/w"}, "messages": opencode}))
    assert [prompt_of(one) for one in told][-1] == "a:Sum. u:Q2"
    assert "t:[Old tool result content cleared]" in prompt_of(told[1])
    assert len({one.step for one in told}) == len(told)

    roo: list[dict[str, Any]] = [
        {"role": "user", "content": text("<task>Q</task>")},
        {"role": "assistant", "content": text("A")},
    ]
    roo += [{"role": "user", "content": text("Sum."), "isSummary": True}, {"role": "assistant", "content": text("B")}]
    roo.append({"role": "assistant", "content": text("half\n\n[Response interrupted by user]")})
    assert [prompt_of(one) for one in turns_of(document(tmp_path, roo))] == ["u:<task>Q</task>", "u:Sum."]

    gemini = [
        {"sessionId": "g", "projectHash": "h"},
        {"id": "1", "type": "user", "content": [{"text": "Q"}]},
        {"$set": {"lastUpdated": "x"}},
        {"id": "2", "type": "gemini", "content": "A"},
        {"$rewindTo": "1"},
        {"id": "3", "type": "user", "content": "Q2"},
        {"id": "4", "type": "gemini", "content": "A2"},
    ]
    assert [prompt_of(one) for one in turns_of(read(write(tmp_path / "g.jsonl", *gemini)))] == ["u:Q2"]
    assert [prompt_of(one) for one in turns_of(read(write(tmp_path / "h.jsonl", *gemini[:4])))] == ["u:Q"]


def test_the_text_of_a_file_that_was_attached_is_in_the_prompt(tmp_path: Path) -> None:
    asked = {"uuid": "1", "sender": "human", "text": "Q", "attachments": [{"extracted_content": "The file."}]}
    chat = {"uuid": "c", "chat_messages": [asked, {"uuid": "2", "sender": "assistant", "text": "A"}]}
    assert prompt_of(only(document(tmp_path, [chat]))) == "u:The file.\nQ"


# --- OpenTelemetry

INPUT = [{"role": "user", "parts": [{"type": "text", "content": "Q"}]}]
OUTPUT = [{"role": "assistant", "parts": [{"type": "text", "content": "A"}], "finish_reason": "stop"}]
SEMCONV = {"gen_ai.input.messages": json.dumps(INPUT), "gen_ai.output.messages": json.dumps(OUTPUT)}


def span(own: str, attributes: dict[str, Any], parent: str = "", **more: Any) -> dict[str, Any]:
    """A span of OTLP JSON of the trace t."""
    return {"traceId": "t", "spanId": own, "parentSpanId": parent, "attributes": pairs(attributes), **more}


def pairs(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    """Attributes as OTLP JSON writes them."""
    return [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]


def otlp(folder: Path, *spans: dict[str, Any]) -> list[Item]:
    """The items of an OTLP file with these spans."""
    return read(write(folder / "spans.jsonl", {"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}))


def _event(name: str, **attributes: Any) -> dict[str, Any]:
    return {"name": name, "attributes": pairs(attributes)}


@pytest.mark.parametrize(
    ("attributes", "events"),
    [
        (SEMCONV | {"gen_ai.system_instructions": "S"}, []),
        ({"events": json.dumps([{"event.name": "gen_ai.system.message", "content": "S"},
                                {"event.name": "gen_ai.user.message", "content": "Q"},
                                {"event.name": "gen_ai.choice", "message": {"content": "A"}}])}, []),
        ({}, [_event("gen_ai.system.message", content="S"),
              _event("gen_ai.user.message", content='[{"text": "Q"}]'),
              _event("gen_ai.choice", message='[{"text": "A"}]', finish_reason="end_turn")]),
        ({"openinference.span.kind": "LLM", "input.value": json.dumps({"messages": ASKED}),
          "output.value": json.dumps({"choices": [{"message": {"role": "assistant", "content": "A"}}]})}, []),
        ({"gen_ai.prompt.0.role": "system", "gen_ai.prompt.0.content": "S", "gen_ai.prompt.1.role": "user",
          "gen_ai.prompt.1.content": '[{"type": "text", "text": "Q"}]', "gen_ai.completion.0.role": "assistant",
          "gen_ai.completion.0.content": "A"}, []),
    ],
    ids=["plain instructions", "events as an attribute", "parts in events", "bodies alone", "parts as text"],
)  # fmt: skip
def test_more_ways_in_which_spans_hold_one_call(
    tmp_path: Path, attributes: dict[str, Any], events: list[dict[str, Any]]
) -> None:
    turn = only(otlp(tmp_path, span("a", {"gen_ai.operation.name": "chat"} | attributes, events=events)))
    assert (prompt_of(turn), turn.completion["content"], turn.completeness) == ("s:S u:Q", "A", "whole")


def test_spans_in_other_envelopes_are_the_same_call(tmp_path: Path) -> None:
    own = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"} | SEMCONV
    plain = only(otlp(tmp_path, span("a", own)))
    tempo = only(document(tmp_path, {"batches": [{"scopeSpans": [{"spans": [span("a", own)]}]}]}))
    tags = [{"key": key, "type": "string", "value": value} for key, value in own.items()]
    jaeger = {"traceID": "t", "spans": [{"traceID": "t", "spanID": "a", "startTime": 1, "tags": tags}]}
    logged = {"traceId": "t", "spanId": "a", "eventName": "gen_ai.client.inference.operation.details"}
    logs = {"scopeLogs": [{"logRecords": [{**logged, "attributes": pairs(own)}]}]}
    others = [only(document(tmp_path, {"data": [jaeger]})), only(document(tmp_path, {"resourceLogs": [logs]}))]
    for turn in (tempo, *others):
        assert (prompt_of(turn), turn.completion, turn.model, turn.session_id, turn.call) == (
            "u:Q",
            plain.completion,
            "m",
            "t",
            "t:a",
        )


def test_contents_that_an_sdk_cut_to_one_length_are_no_whole_prompts(tmp_path: Path) -> None:
    def call(own: str, question: str, answer: str) -> dict[str, Any]:
        names = {"gen_ai.prompt.0.content": question, "gen_ai.completion.0.content": answer}
        return span(own, names | {"gen_ai.prompt.0.role": "user", "gen_ai.completion.0.role": "assistant"})

    cut, other = "a" * 128, "b" * 128
    told = turns_of(otlp(tmp_path, call("1", cut, "A"), call("2", other, "B"), call("3", "Short?", "C")))
    assert [one.completeness for one in told] == ["cut", "cut", "whole"]
    told = turns_of(otlp(tmp_path, call("1", cut, "A"), call("2", cut, "B")))  # one text twice says nothing
    assert [one.completeness for one in told] == ["whole", "whole"]


def test_a_document_on_one_line_that_is_longer_than_a_line_may_be_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "STREAMED_FROM", 40_000)
    monkeypatch.setattr(source, "MAX_LINE", 100_000)
    long = {**SIMULATIONS, "simulations": [{**one, "note": "x" * 70_000} for one in SIMULATIONS["simulations"]]}
    (tmp_path / "log.json").write_bytes(orjson.dumps(long))
    assert turns_of(read(tmp_path / "log.json")) == turns_of(document(tmp_path, SIMULATIONS))
