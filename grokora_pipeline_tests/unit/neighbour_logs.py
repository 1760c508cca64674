"""The neutral conversation as other chat and coding programs, gateways and platforms write it."""

import base64
import csv
import io
import json
import math
import zipfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from grokora_pipeline_tests.unit.neutral_logs import Talk

AT = "2026-01-01T00:00:00Z"
Writer = Callable[["Talk", str], bytes]


def _lines(*values: Any) -> bytes:
    return b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)


def _document(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2)


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _use(talk: "Talk", **more: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "t1", "name": "bash", "input": {"command": talk.command}, **more}


def _contents(talk: "Talk") -> list[dict[str, Any]]:
    """The conversation as contents of Gemini's API."""
    call = {"functionCall": {"name": "bash", "args": {"command": talk.command}}}
    response = {"functionResponse": {"name": "bash", "response": {"output": talk.result}}}
    return [
        {"role": "user", "parts": [{"text": talk.question}]},
        {"role": "model", "parts": [{"text": talk.thought}, call]},
        {"role": "user", "parts": [response]},
        {"role": "model", "parts": [{"text": talk.answer}]},
    ]


def _gemini_cli(talk: "Talk", name: str) -> bytes:
    result = [{"functionResponse": {"id": "t1", "name": "bash", "response": {"output": talk.result}}}]
    call = {"id": "t1", "name": "bash", "args": {"command": talk.command}, "result": result, "status": "success"}
    messages = [
        {"id": "1", "timestamp": AT, "type": "user", "content": talk.question},
        {"id": "2", "type": "gemini", "content": talk.thought, "thoughts": [], "toolCalls": [call], "model": "g"},
        {"id": "3", "type": "info", "content": "Request cancelled."},
        {"id": "4", "type": "gemini", "content": talk.answer, "model": "g"},
    ]
    return _document({"sessionId": name, "projectHash": "ab", "startTime": AT, "messages": messages})


def _qwen(talk: "Talk", name: str) -> bytes:
    kinds = ("user", "assistant", "tool_result", "assistant")
    line = {"sessionId": name, "timestamp": AT, "cwd": "/w", "version": "0.4.0"}
    own = zip(kinds, _contents(talk), strict=True)
    return _lines(
        *(
            {**line, "uuid": f"u{n}", "parentUuid": f"u{n - 1}" if n else None, "type": kind, "message": message}
            for n, (kind, message) in enumerate(own)
        )
    )


def _opencode(talk: "Talk", name: str) -> bytes:
    state = {"status": "completed", "input": {"command": talk.command}, "output": talk.result, "time": {}}
    tool = {"type": "tool", "callID": "t1", "tool": "bash", "state": state}
    own: list[tuple[str, list[dict[str, Any]]]] = [
        ("user", [_text(talk.question)]),
        ("assistant", [{"type": "step-start"}, _text(talk.thought), tool, {"type": "step-finish", "reason": "x"}]),
        ("assistant", [{"type": "step-start"}, _text(talk.answer), {"type": "step-finish", "reason": "stop"}]),
    ]
    messages = [
        {"info": {"id": f"msg_{n}", "role": role, "modelID": "m"}, "parts": p} for n, (role, p) in enumerate(own)
    ]
    return _document(
        {"info": {"id": name, "directory": "/w", "time": {"created": 1767225600000}}, "messages": messages}
    )


def _continue(talk: "Talk", name: str) -> bytes:
    function = {"name": "bash", "arguments": json.dumps({"command": talk.command})}
    call = {"id": "t1", "type": "function", "function": function}
    state = {"toolCallId": "t1", "toolCall": call, "status": "done", "output": [{"name": "x", "content": talk.result}]}
    said = {"role": "assistant", "content": talk.thought, "toolCalls": [call]}
    history = [
        {"message": {"role": "user", "content": talk.question}, "contextItems": []},
        {"message": said, "contextItems": [], "toolCallStates": [state]},
        {"message": {"role": "assistant", "content": talk.answer}, "contextItems": []},
    ]
    return _document({"sessionId": name, "title": "New", "workspaceDirectory": "/w", "history": history})


def _goose(talk: "Talk", _: str) -> bytes:
    value = {"name": "bash", "arguments": {"command": talk.command}}
    request = {"type": "toolRequest", "id": "t1", "toolCall": {"status": "success", "value": value}}
    result = {"status": "success", "value": [_text(talk.result)]}
    return _lines(
        {"working_dir": "/w", "description": "x", "message_count": 4},
        {"role": "user", "created": 1767225600, "content": [_text(talk.question)]},
        {"role": "assistant", "content": [_text(talk.thought), request]},
        {"role": "user", "content": [{"type": "toolResponse", "id": "t1", "toolResult": result}]},
        {"role": "assistant", "content": [_text(talk.answer)]},
    )


def _amp(talk: "Talk", name: str) -> bytes:
    run = {"status": "done", "result": {"output": talk.result, "exitCode": 0}}
    messages = [
        {"role": "user", "content": [_text(talk.question)]},
        {"role": "assistant", "content": [_text(talk.thought), _use(talk)], "state": {"type": "complete"}},
        {"role": "user", "content": [{"type": "tool_result", "toolUseID": "t1", "run": run}]},
        {"role": "assistant", "content": [_text(talk.answer)], "state": {"type": "complete"}},
        {"role": "assistant", "content": [_text("half an answ")], "state": {"type": "cancelled"}},
    ]
    return _document({"v": 42, "id": f"T-{name}", "created": 1767225600000, "messages": messages})


def _copilot_chat(talk: "Talk", name: str) -> bytes:
    call = {"id": "t1", "name": "bash", "arguments": json.dumps({"command": talk.command})}
    rounds = [{"response": talk.thought, "toolCalls": [call]}, {"response": talk.answer, "toolCalls": []}]
    metadata = {"toolCallRounds": rounds, "toolCallResults": {"t1": {"content": [{"value": talk.result}]}}}
    shown = [{"value": talk.thought}, {"kind": "toolInvocationSerialized", "toolCallId": "t1"}, {"value": talk.answer}]
    request = {"message": {"text": talk.question}, "response": shown, "result": {"metadata": metadata}}
    document = {"responderUsername": "GitHub Copilot", "sessionId": name, "requests": [{**request, "timestamp": 0}]}
    return _document(document)


def _copilot_cli(talk: "Talk", name: str) -> bytes:
    call = {"toolCallId": "t1", "name": "bash", "arguments": {"command": talk.command}, "type": "function"}
    done = {"toolCallId": "t1", "success": True, "result": {"content": talk.result}}
    return _lines(
        {"type": "session.start", "data": {"sessionId": name, "startTime": AT, "selectedModel": "m"}},
        {"type": "user.message", "data": {"content": talk.question}},
        {"type": "assistant.message", "data": {"content": talk.thought, "toolRequests": [call]}},
        {"type": "tool.execution_complete", "data": done},
        {"type": "assistant.message", "data": {"content": talk.answer, "toolRequests": []}},
    )


def _copilot_journal(talk: "Talk", name: str) -> bytes:
    whole = orjson.loads(_copilot_chat(talk, name))
    (request,) = whole["requests"]
    empty = {**whole, "requests": []}
    return _lines(
        {"kind": 0, "v": empty},
        {"kind": 2, "k": ["requests"], "v": [{**request, "result": {}}]},
        {"kind": 1, "k": ["requests", 0, "result"], "v": request["result"]},
    )


def _librechat(talk: "Talk", name: str) -> bytes:
    question = {"messageId": "1", "text": talk.question, "isCreatedByUser": True, "createdAt": AT}
    answer = {"messageId": "2", "parentMessageId": "1", "text": talk.answer, "model": "m", "createdAt": AT}
    again = {**answer, "messageId": "3", "text": "abandoned", "createdAt": "2025-01-01T00:00:00Z"}
    facts = {"conversationId": name, "endpoint": "openAI", "options": {"promptPrefix": talk.system}}
    return _document({**facts, "recursive": True, "messages": [{**question, "children": [again, answer]}]})


def _grok(talk: "Talk", name: str) -> bytes:
    own = [
        {"response": {"_id": str(number), "sender": sender, "message": text, "model": "grok-4"}}
        for number, (sender, text) in enumerate((("human", talk.question), ("ASSISTANT", talk.answer)))
    ]
    own[1]["response"]["parent_response_id"] = "0"
    facts = {"id": name, "create_time": AT}
    return _document({"conversations": [{"conversation": facts, "responses": own}], "projects": []})


def _lm_studio(talk: "Talk", name: str) -> bytes:
    said = [{"versions": [{"role": "user", "content": [_text(talk.question)]}], "currentlySelected": 0}]
    step = {"type": "contentBlock", "content": [_text(talk.answer)]}
    answer = {"role": "assistant", "senderInfo": {"senderName": "m"}, "steps": [step]}
    said.append({"versions": [{"role": "assistant", "steps": []}, answer], "currentlySelected": 1})
    return _document({"name": name, "systemPrompt": talk.system, "messages": said})


def _anthropic_messages(talk: "Talk") -> list[dict[str, Any]]:
    result = {"type": "tool_result", "tool_use_id": "t1", "content": talk.result}
    return [
        {"role": "user", "content": [_text(talk.question)]},
        {"role": "assistant", "content": [_text(talk.thought), _use(talk)]},
        {"role": "user", "content": [result]},
        {"role": "assistant", "content": [_text(talk.answer)]},
    ]


def _droid(talk: "Talk", name: str) -> bytes:
    messages = [{"type": "message", "timestamp": AT, "message": one} for one in _anthropic_messages(talk)]
    return _lines({"type": "session_start", "id": name, "cwd": "/w"}, *messages)


def _cursor(talk: "Talk", _: str) -> bytes:
    return _lines(*({"role": one["role"], "message": {"content": one["content"]}} for one in _anthropic_messages(talk)))


def _kimi(talk: "Talk", _: str) -> bytes:
    return _lines(
        {"role": "_checkpoint", "id": 0}, *talk.messages[1:], {"role": "_usage", "token_count": 1}, talk.reply
    )


def _cline(talk: "Talk", _: str) -> bytes:
    return _document([{**one, "ts": 1767225600000 + n} for n, one in enumerate(_anthropic_messages(talk))])


def _chatgpt(talk: "Talk", name: str) -> bytes:
    """A call to the tool `python`, and beside the last answer one that was asked again."""

    def node(key: str, parent: str | None, role: str, said: Any, recipient: str = "all") -> dict[str, Any]:
        content = said if isinstance(said, dict) else {"content_type": "text", "parts": [said]}
        message = {"id": key, "author": {"role": role}, "content": content, "recipient": recipient}
        return {"id": key, "parent": parent, "message": {**message, "status": "finished_successfully", "metadata": {}}}

    code = {"content_type": "code", "text": talk.command}
    nodes = [
        {"id": "root", "parent": None, "message": None},
        node("s", "root", "system", ""),
        node("u", "s", "user", talk.question),
        node("t", "u", "assistant", talk.thought),
        node("c", "t", "assistant", code, "python"),
        node("r", "c", "tool", {"content_type": "execution_output", "text": talk.result}),
        node("b", "r", "assistant", "an abandoned answer"),
        node("a", "r", "assistant", talk.answer),
    ]
    mapping = {one["id"]: one for one in nodes}
    return _document([{"title": "x", "create_time": 1767225600.5, "mapping": mapping, "current_node": "a", "id": name}])


def _claude_ai(talk: "Talk", name: str) -> bytes:
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [_text(talk.result)]}
    messages = [
        {"uuid": "1", "sender": "human", "text": talk.question, "content": [_text(talk.question)]},
        {"uuid": "2", "sender": "assistant"}
        | {"content": [_text(talk.thought), _use(talk), result, _text(talk.answer)]},
    ]
    return _document([{"uuid": name, "name": "x", "created_at": AT, "account": {}, "chat_messages": messages}])


def _open_webui(talk: "Talk", name: str) -> bytes:
    nodes = {
        "1": {"id": "1", "parentId": None, "role": "user", "content": talk.question},
        "2": {"id": "2", "parentId": "1", "role": "assistant", "content": talk.answer, "model": "m"},
    }
    return _document([{"id": name, "chat": {"history": {"messages": nodes, "currentId": "2"}}}])


def _autogen(talk: "Talk", _: str) -> bytes:
    call = {"id": "t1", "name": "bash", "arguments": json.dumps({"command": talk.command})}
    messages = [
        {"type": "UserMessage", "content": talk.question, "source": "user"},
        {"type": "AssistantMessage", "content": [call], "thought": "x", "source": "a"},
        {
            "type": "FunctionExecutionResultMessage",
            "content": [{"content": talk.result, "call_id": "t1", "name": "bash"}],
        },
        {"type": "AssistantMessage", "content": talk.answer, "source": "a"},
    ]
    state = {"agent_state": {"type": "AssistantAgentState", "llm_context": {"messages": messages}}}
    return _document({"type": "TeamState", "agent_states": {"a": state}})


def _letta(talk: "Talk", name: str) -> bytes:
    messages = [*talk.messages, talk.reply]
    return _document({"agents": [{"id": name, "name": "sam", "llm_config": {"model": "m"}, "messages": messages}]})


def _smolagents(talk: "Talk", _: str) -> bytes:
    step = {"model_input_messages": talk.messages, "model_output_message": talk.reply}
    return _document([{"system_prompt": talk.system}, {"task": talk.question}, {"step_number": 1, **step}])


def _pydantic_ai(talk: "Talk", _: str) -> bytes:
    asked = [
        {"part_kind": "system-prompt", "content": talk.system},
        {"part_kind": "user-prompt", "content": talk.question},
    ]
    call = {"part_kind": "tool-call", "tool_name": "bash", "args": json.dumps({"command": talk.command})}
    back = {"part_kind": "tool-return", "tool_name": "bash", "content": talk.result, "tool_call_id": "t1"}
    said = [{"part_kind": "text", "content": talk.thought}, {**call, "tool_call_id": "t1"}]
    return _document(
        [
            {"kind": "request", "parts": asked},
            {"kind": "response", "parts": said, "model_name": "m"},
            {"kind": "request", "parts": [back]},
            {"kind": "response", "parts": [{"part_kind": "text", "content": talk.answer}], "model_name": "m"},
        ]
    )


def _ui_messages(talk: "Talk", name: str) -> bytes:
    tool = {"type": "tool-bash", "toolCallId": "t1", "state": "output-available", "input": {"command": talk.command}}
    parts = [{"type": "step-start"}, _text(talk.thought), {**tool, "output": talk.result}]
    messages = [
        {"id": "1", "role": "user", "parts": [_text(talk.question)]},
        {"id": "2", "role": "assistant", "parts": [*parts, {"type": "step-start"}, _text(talk.answer)]},
    ]
    return _document({"id": name, "messages": messages})


def _langchain(talk: "Talk", _: str) -> bytes:
    call = {"name": "bash", "args": {"command": talk.command}, "id": "t1", "type": "tool_call"}
    own = (
        ("system", {"content": talk.system}),
        ("human", {"content": talk.question}),
        ("ai", {"content": talk.thought, "tool_calls": [call]}),
        ("tool", {"content": talk.result, "tool_call_id": "t1"}),
        ("ai", {"content": talk.answer}),
    )
    return _document([{"type": kind, "data": {**data, "type": kind}} for kind, data in own])


def _langgraph(talk: "Talk", name: str) -> bytes:
    own = orjson.loads(_langchain(talk, name))
    messages = [one["data"] for one in own[1:]]
    return _document({"values": {"messages": messages}, "config": {"configurable": {"thread_id": name}}})


def _thread(talk: "Talk", name: str) -> bytes:
    def message(at: int, role: str, text: str) -> dict[str, Any]:
        content = [{"type": "text", "text": {"value": text, "annotations": []}}]
        return {"object": "thread.message", "created_at": at, "thread_id": name, "role": role, "content": content}

    return _document(
        {"object": "list", "data": [message(2, "assistant", talk.answer), message(1, "user", talk.question)]}
    )


def _inspect(talk: "Talk", name: str) -> bytes:
    sample = {"id": 1, "epoch": 1, "messages": [*talk.messages, talk.reply]}
    return _document({"version": 2, "eval": {"task": name, "model": "m"}, "samples": [sample]})


def _chat(talk: "Talk") -> tuple[dict[str, Any], dict[str, Any]]:
    return {"model": "m", "messages": talk.messages}, {"choices": [{"message": talk.reply, "finish_reason": "stop"}]}


def _helicone(talk: "Talk", name: str) -> bytes:
    request, response = _chat(talk)
    named = {"Helicone-Session-Id": name}
    return _lines({"request_id": "r", "request_body": request, "response_body": response, "request_properties": named})


def _bedrock(talk: "Talk", name: str) -> bytes:
    use = {"toolUse": {"toolUseId": "t1", "name": "bash", "input": {"command": talk.command}}}
    messages = [
        {"role": "user", "content": [{"text": talk.question}]},
        {"role": "assistant", "content": [{"text": talk.thought}, use]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "t1", "content": [{"text": talk.result}]}}]},
    ]
    spec = {"name": "bash", "inputSchema": {"json": {"type": "object", "properties": {"command": {}}}}}
    body = {"system": [{"text": talk.system}], "messages": messages, "toolConfig": {"tools": [{"toolSpec": spec}]}}
    reply = {"output": {"message": {"role": "assistant", "content": [{"text": talk.answer}]}}, "stopReason": "end_turn"}
    log = {"schemaType": "ModelInvocationLog", "requestId": name, "modelId": "m", "timestamp": AT}
    return _lines({**log, "input": {"inputBodyJson": body}, "output": {"outputBodyJson": reply}})


def _weave(talk: "Talk", name: str) -> bytes:
    request, response = _chat(talk)
    call = {"id": "c", "op_name": "weave:///e/p/op/openai.chat.completions.create:x", "trace_id": name}
    return _lines({**call, "started_at": AT, "inputs": request, "output": response})


def _braintrust(talk: "Talk", name: str) -> bytes:
    span = {
        "id": "b",
        "root_span_id": name,
        "created": AT,
        "span_attributes": {"type": "llm"},
        "metadata": {"model": "m"},
    }
    return _lines({**span, "input": talk.messages, "output": _chat(talk)[1]["choices"]})


def _openai_agents(talk: "Talk", name: str) -> bytes:
    data = {"type": "generation", "input": talk.messages, "output": [talk.reply], "model": "m"}
    return _lines(
        {"object": "trace", "id": name, "workflow_name": "w"},
        {"object": "trace.span", "id": "s", "trace_id": name, "started_at": AT, "span_data": data},
    )


def _har(talk: "Talk", _: str) -> bytes:
    request, response = (json.dumps(body) for body in _chat(talk))
    entry = {
        "startedDateTime": AT,
        "request": {"postData": {"text": request}},
        "response": {"content": {"text": response}},
    }
    page = {"request": {"method": "GET"}, "response": {"content": {"text": "<html>"}}}
    return orjson.dumps({"log": {"version": "1.2", "entries": [page, entry]}})


def _portkey(talk: "Talk", _: str) -> bytes:
    request, response = _chat(talk)
    return _lines(
        {"id": "p", "request": {"method": "POST", "body": request}, "response": {"status": 200, "body": response}}
    )


def _phoenix(talk: "Talk", name: str) -> bytes:
    own = [
        {"message.role": one["role"], "message.content": one["content"]}
        | {
            f"message.tool_calls.{n}.tool_call.function.{key}": call["function"][key]
            for n, call in enumerate(one.get("tool_calls", ()))
            for key in ("name", "arguments")
        }
        for one in (*talk.messages, talk.reply)
    ]
    columns = {"attributes.llm.input_messages": own[:-1], "attributes.llm.output_messages": own[-1:]}
    ids = {"context.span_id": "s", "context.trace_id": name, "attributes.openinference.span.kind": "LLM"}
    return _lines({"name": "x", "start_time": AT, "status_code": "OK", **ids, **columns})


def _ollama(talk: "Talk", name: str) -> bytes:
    response = {"model": "m", "message": talk.reply, "done": True, "done_reason": "stop"}
    return _lines({"session_id": name, "request": _chat(talk)[0], "response": response})


def _converse(talk: "Talk", name: str) -> bytes:
    log = orjson.loads(_bedrock(talk, name))
    bodies = {"request": log["input"]["inputBodyJson"], "response": log["output"]["outputBodyJson"]}
    return _lines({"session_id": name, "step": 0, **bodies})


def _bedrock_batch(talk: "Talk", name: str) -> bytes:
    body = {"system": talk.system, "messages": _anthropic_messages(talk)[:3]}
    reply = {"role": "assistant", "content": [_text(talk.answer)], "model": "m", "stop_reason": "end_turn"}
    return _lines({"recordId": name, "modelInput": body, "modelOutput": reply})


def _call_log(talk: "Talk", name: str) -> bytes:
    request, response = _chat(talk)
    return _lines({**request, "session_id": name, "timestamp": AT, "response": response})


def _wrapped_calls(talk: "Talk", name: str) -> bytes:
    """As a gateway of Azure's keeps a call: the messages of both sides among what is known of the connection."""
    request, response = _chat(talk)
    facts = {
        "modelName": "m",
        "session_id": name,
        "requestMessages": request["messages"],
        "tools": request.get("tools"),
    }
    said = [response["choices"][0]["message"]]
    return _lines({"time": AT, "category": "GatewayLlmLogs", "properties": {**facts, "responseMessages": said}})


def _agent_traces(talk: "Talk", name: str) -> bytes:
    lines = [orjson.loads(line) for line in _droid(talk, name).splitlines()]
    return _lines({"harness": "droid", "session_id": name, "traces": lines})


def _tuning(talk: "Talk", _: str) -> bytes:
    return _lines({"systemInstruction": {"parts": [{"text": talk.system}]}, "contents": _contents(talk)})


def _checkpoint(talk: "Talk", _: str) -> bytes:
    return _document(_contents(talk))


def _amazon_q(talk: "Talk", name: str) -> bytes:
    use = {"id": "t1", "name": "bash", "orig_name": "bash", "args": {"command": talk.command}}
    result = {"tool_use_id": "t1", "content": [{"Text": talk.result}], "status": "Success"}
    history = [
        [
            {"content": {"Prompt": {"prompt": talk.question}}},
            {"ToolUse": {"content": talk.thought, "tool_uses": [use]}},
        ],
        {
            "user": {"content": {"ToolUseResults": {"tool_use_results": [result]}}},
            "assistant": {"Response": {"content": talk.answer}},
        },
    ]
    return _document({"conversation_id": name, "history": history, "transcript": [], "model": "m"})


def _llm(talk: "Talk", name: str) -> bytes:
    row = {"conversation_id": name, "model": "m", "system": talk.system}
    call = {"name": "bash", "arguments": {"command": talk.command}, "tool_call_id": "t1"}
    first = {**row, "prompt": talk.question, "response": talk.thought, "tool_calls": [call]}
    result = {"name": "bash", "output": talk.result, "tool_call_id": "t1"}
    second = {**row, "prompt": "", "response": talk.answer, "tool_results": [result]}
    # the latest response comes first
    return _document(
        [{**second, "datetime_utc": "2026-01-01T00:00:02"}, {**first, "datetime_utc": "2026-01-01T00:00:01"}]
    )


def _adk(talk: "Talk", name: str) -> bytes:
    authors = ("user", "helper", "helper", "helper")
    own = [{"author": author, "content": one} for author, one in zip(authors, _contents(talk), strict=True)]
    return _document({"id": name, "app_name": "a", "events": own})


def _zed(talk: "Talk", _: str) -> bytes:
    use = {"id": "t1", "name": "bash", "input": {"command": talk.command}}
    result = {"tool_use_id": "t1", "is_error": False, "content": talk.result}
    messages = [
        {"id": 0, "role": "user", "segments": [_text(talk.question)], "tool_uses": [], "tool_results": []},
        {"id": 1, "role": "assistant", "segments": [_text(talk.thought)], "tool_uses": [use], "tool_results": [result]},
        {"id": 2, "role": "assistant", "segments": [_text(talk.answer)], "tool_uses": [], "tool_results": []},
    ]
    return _document({"version": "0.2.0", "summary": "s", "updated_at": AT, "messages": messages})


def _zed_thread(talk: "Talk", name: str) -> bytes:
    use = {"id": "t1", "name": "bash", "input": {"command": talk.command}, "is_input_complete": True}
    result = {"tool_use_id": "t1", "is_error": False, "content": [{"Text": talk.result}]}
    first = {"content": [{"Text": talk.thought}, {"ToolUse": use}], "tool_results": {"t1": result}}
    messages = [
        {"User": {"id": name, "content": [{"Text": talk.question}]}},
        {"Agent": first},
        {"Agent": {"content": [{"Text": talk.answer}], "tool_results": {}}},
    ]
    return _document({"title": "s", "updated_at": AT, "messages": messages, "version": "0.3.0"})


def _big_agi(talk: "Talk", name: str) -> bytes:
    call = {"type": "function_call", "name": "bash", "args": json.dumps({"command": talk.command})}
    reply = {"type": "function_call", "name": "bash", "result": talk.result}
    said = [
        {"pt": "text", "text": talk.thought},
        {"pt": "tool_invocation", "id": "t1", "invocation": call},
        {"pt": "tool_response", "id": "t1", "error": False, "response": reply},
        {"pt": "text", "text": talk.answer},
    ]
    messages = [
        {"role": role, "fragments": [{"ft": "content", "part": part} for part in parts]}
        for role, parts in (("user", [{"pt": "text", "text": talk.question}]), ("assistant", said))
    ]
    chat = {"id": name, "systemPurposeId": "Generic", "created": 1767225600000, "messages": messages}
    return _document({"conversations": [chat], "models": {"sources": []}})


def _items(talk: "Talk") -> list[dict[str, Any]]:
    """What is answered, as items of the Responses API."""
    said = {"type": "message", "role": "assistant"}
    call = {"type": "function_call", "call_id": "t1", "name": "bash"}
    return [
        {**said, "content": [{"type": "output_text", "text": talk.thought}]},
        {**call, "arguments": json.dumps({"command": talk.command})},
        {"type": "function_call_output", "call_id": "t1", "output": talk.result},
        {**said, "content": [{"type": "output_text", "text": talk.answer}]},
    ]


def _nemo_gym(talk: "Talk", name: str) -> bytes:
    request = {"input": talk.messages[:2]}
    return _lines({"responses_create_params": request, "response": {"id": name, "output": _items(talk)}, "reward": 1})


def _openai_items(talk: "Talk", _: str) -> bytes:
    asked = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": talk.question}]}
    return _document({"object": "list", "data": [asked, *_items(talk)][::-1], "has_more": False})


def _semantic_kernel(talk: "Talk", _: str) -> bytes:
    call = {"$type": "FunctionCallContent", "Id": "t1", "PluginName": "sh", "FunctionName": "bash"}
    result = {"$type": "FunctionResultContent", "CallId": "t1", "FunctionName": "bash", "Result": talk.result}
    told = [
        ("system", [{"$type": "TextContent", "Text": talk.system}]),
        ("user", [{"$type": "TextContent", "Text": talk.question}]),
        ("assistant", [{"$type": "TextContent", "Text": talk.thought}, {**call, "Arguments": {"c": talk.command}}]),
        ("tool", [result]),
        ("assistant", [{"$type": "TextContent", "Text": talk.answer}]),
    ]
    return _document([{"Role": {"Label": role}, "Items": items} for role, items in told])


def _vertex(talk: "Talk", name: str) -> bytes:
    *asked, said = _contents(talk)
    request = {"systemInstruction": {"parts": [{"text": talk.system}]}, "contents": asked}
    reply = {"candidates": [{"content": said, "finishReason": "STOP"}]}
    return _lines({"request_id": name, "logging_time": AT, "full_request": request, "full_response": reply})


def _openai_batch(talk: "Talk", name: str) -> bytes:
    request, response = _chat(talk)
    return _lines({"custom_id": name, "body": request, "response": {"status_code": 200, "body": response}})


def _batch_halves(talk: "Talk", name: str) -> bytes:
    """A call of each of OpenAI's APIs, all requests before the replies."""
    request, response = _chat(talk)
    asked = {"model": "m", "instructions": talk.system, "input": talk.question}
    output = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": talk.answer}]}]
    calls = [(request, response), (asked, {"object": "response", "status": "completed", "output": output})]
    halves = [{"custom_id": f"{name}-{n}", "method": "POST", "body": body} for n, (body, _) in enumerate(calls)]
    replies = [{"status_code": 200, "body": body} for _, body in calls]
    return _lines(*halves, *({"custom_id": f"{name}-{n}", "response": one} for n, one in enumerate(replies)))


def _recorded_halves(talk: "Talk", name: str) -> bytes:
    """A call of each of two APIs, as a proxy logs them: the second is sent before the first is answered."""
    request, response = _chat(talk)
    asked = {"model": "m", "system": talk.system, "messages": [{"role": "user", "content": talk.question}]}
    said = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": talk.answer}]}
    return _lines(
        {"event": "llm_request", "request_id": f"{name}-1", "timestamp": AT, "payload": request},
        {"event": "llm_request", "request_id": f"{name}-2", "timestamp": AT, "payload": asked},
        {"event": "llm_response", "request_id": f"{name}-1", "status": 200, "payload": response},
        {"event": "llm_response", "request_id": f"{name}-2", "status": 200, "payload": json.dumps(said)},
    )


def _promptlayer(talk: "Talk", name: str) -> bytes:
    template = {"type": "chat", "messages": [*talk.messages, talk.reply], "tools": None}
    model = {"provider": "openai", "name": "m", "parameters": {}}
    return _document(
        {"request_id": name, "prompt_blueprint": {"prompt_template": template, "metadata": {"model": model}}}
    )


def _ai_sdk_steps(talk: "Talk", _: str) -> bytes:
    """Steps of two providers: the first request is of chat completions, the second of the Responses API."""

    def step(body: dict[str, Any], reason: str, *said: dict[str, Any]) -> dict[str, Any]:
        reply = {"id": "r", "timestamp": AT, "modelId": "m", "messages": []}
        return {"content": said, "finishReason": reason, "request": {"body": json.dumps(body)}, "response": reply}

    call = {"type": "tool-call", "toolCallId": "call_a", "toolName": "bash", "input": {"command": talk.command}}
    result = {"type": "tool-result", "toolCallId": "call_a", "toolName": "bash", "output": talk.result}
    first = step({"messages": talk.start}, "tool-calls", _text(talk.thought), call, result)
    calls = [{"type": "function_call", "call_id": "call_a", "name": "bash", "arguments": call["input"]}]
    items = [*talk.start, *calls, {"type": "function_call_output", "call_id": "call_a", "output": talk.result}]
    return _document({"steps": [first, step({"input": items}, "stop", _text(talk.answer))]})


def _letta_messages(talk: "Talk", _: str) -> bytes:
    def said(number: int, kind: str, **more: Any) -> dict[str, Any]:
        return {"id": f"message-{number}", "date": f"2026-01-01T00:00:0{number}Z", "message_type": kind, **more}

    call = {"name": "bash", "arguments": json.dumps({"command": talk.command}), "tool_call_id": "c"}
    messages = [
        said(0, "system_message", content=talk.system),
        said(1, "user_message", content=talk.question),
        said(2, "reasoning_message", reasoning=talk.thought),
        said(2, "tool_call_message", tool_call=call),
        said(3, "tool_return_message", tool_return=talk.result, status="success", tool_call_id="c"),
        said(4, "assistant_message", content=talk.answer),
    ]
    return _document(messages[::-1])


def _claude_trace(talk: "Talk", _: str) -> bytes:
    body = {"model": "m", "system": talk.system, "messages": [{"role": "user", "content": talk.question}]}
    call = {"type": "tool_use", "id": "t1", "name": "bash", "input": {}}
    pieces = [(_text(""), {"text": talk.thought}), (call, {"partial_json": json.dumps({"command": talk.command})})]
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {"role": "assistant", "content": []}}]
    for index, (block, delta) in enumerate(pieces):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events.append({"type": "content_block_delta", "index": index, "delta": delta})
    events += [{"type": "message_delta", "delta": {"stop_reason": "tool_use"}}, {"type": "message_stop"}]
    stream = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events)
    asked = {"method": "POST", "url": "/v1/messages", "body": body}
    whole = {"type": "message", "role": "assistant", "content": [_text(talk.answer)], "stop_reason": "end_turn"}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": talk.result}
    told = [_text(talk.thought), {**call, "input": {"command": talk.command}}]
    more = [{"role": "assistant", "content": told}, {"role": "user", "content": [result]}]
    again = {**asked, "body": {**body, "messages": [*body["messages"], *more]}}
    return _lines(
        {"request": asked, "response": {"status_code": 200, "body_raw": stream}, "logged_at": AT},
        {"request": again, "response": {"status_code": 200, "body": whole}, "logged_at": AT},
    )


def _asked_and_said(talk: "Talk", name: str) -> bytes:
    return _lines({"session_id": name, "input": talk.messages, "output": [talk.reply]})


def _llama_cpp(talk: "Talk", name: str) -> bytes:
    call = [
        {
            "id": "c",
            "type": "function",
            "function": {"name": "bash", "arguments": json.dumps({"command": talk.command})},
        }
    ]
    said: list[dict[str, Any]] = [
        {"role": "system", "content": "", "type": "root"},
        {"role": "user", "content": talk.question},
        {"role": "assistant", "content": "Never shown again."},
        {"role": "assistant", "content": talk.thought, "toolCalls": json.dumps(call)},
        {"role": "tool", "content": talk.result, "toolCallId": "c"},
        {"role": "assistant", "content": talk.answer, "toolCalls": "", "model": "m"},
    ]
    parents = ("-1", "0", "1", "1", "3", "4")
    own = [
        {"id": f"{n}", "convId": name, "parent": parent, **one}
        for n, (one, parent) in enumerate(zip(said, parents, strict=True))
    ]
    return _document({"conv": {"id": name, "currNode": "5"}, "messages": own})


def _literal_ai(talk: "Talk", _: str) -> bytes:
    return _lines({"type": "CHAT", "messages": talk.messages, "messageCompletion": talk.reply, "model": "m"})


def _flowise(talk: "Talk", name: str) -> bytes:
    said = (("userMessage", talk.question), ("apiMessage", talk.answer))
    return _document([{"role": role, "content": words, "chatId": name, "createdDate": AT} for role, words in said])


def _mastra(talk: "Talk", name: str) -> bytes:
    call = {"toolCallId": "c", "toolName": "bash", "args": {"command": talk.command}, "result": talk.result}
    invocation = {"type": "tool-invocation", "toolInvocation": {"state": "result", **call}}
    start = {"type": "step-start"}
    said = [("user", [_text(talk.question)])]
    said += [("assistant", [start, _text(talk.thought), invocation, start, _text(talk.answer)])]
    messages = [{"role": role, "threadId": name, "content": {"format": 2, "parts": parts}} for role, parts in said]
    return _document({"messages": messages})


def _recorded_list(talk: "Talk", name: str) -> bytes:
    request, response = _chat(talk)
    first = {"session_id": name, "request": {**request, "messages": talk.start}, "response": {"choices": []}}
    return _document([first, {"session_id": name, "request": request, "response": response}])


def _kong(talk: "Talk", _: str) -> bytes:
    request, response = (json.dumps(body) for body in _chat(talk))
    own = {"meta": {"request_model": "m"}, "payload": {"request": request, "response": response}}
    http = {"request": {"uri": "/chat", "method": "POST"}, "response": {"status": 200}}
    return _lines(http | {"ai": {"ai-proxy": own}})


def _docker(talk: "Talk", name: str) -> bytes:
    request, response = _chat(talk)
    call = json.dumps({"session_id": name, "step": 0, "request": request, "response": response})
    pieces = ["Listening on :8080\n", call[:100], call[100:200], f"{call[200:]}\n"]  # it cuts long lines
    return _lines(*({"log": piece, "stream": "stdout", "time": AT} for piece in pieces))


def _har_streams(talk: "Talk", _: str) -> bytes:
    """Gemini's stream, in the browser's Base64, and Ollama's."""
    config = {"systemInstruction": {"parts": [{"text": talk.system}]}}
    half = len(talk.answer) // 2
    call = {"functionCall": {"name": "bash", "args": {"command": talk.command}}}
    replies: list[list[Any]] = [[{"text": talk.thought}, call], [{"text": talk.answer[:half]}]]
    ends: tuple[dict[str, str], ...] = ({}, {}, {"finishReason": "STOP"}, {"finishReason": "STOP"})
    replies += [[{"text": talk.answer[half:]}], [{"text": ""}]]
    chunks = [{"candidates": [{"content": {"parts": own}, **end}]} for own, end in zip(replies, ends, strict=True)]
    events = [f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks]
    packed = base64.b64encode("".join([events[0], events[-1]]).encode()).decode()
    pieces = [{"message": {"content": talk.answer[:half]}, "done": False}]
    pieces.append({"message": {"content": talk.answer[half:]}, "done": True, "done_reason": "stop"})
    told = [
        ({"contents": _contents(talk)[:1], **config}, {"text": packed, "encoding": "base64"}),
        ({"request": {"contents": _contents(talk)[:3], **config}}, {"text": "".join(events[1:3])}),
        ({"messages": talk.messages}, {"text": "\n".join(map(json.dumps, pieces))}),
    ]
    entries = [
        {"request": {"postData": {"text": json.dumps(asked)}}, "response": {"content": content}}
        for asked, content in told
    ]
    return _document({"log": {"version": "1.2", "entries": entries}})


def _llm_span(talk: "Talk", name: str) -> bytes:
    return _lines({"type": "llm", "trace_id": name, "model": "m", "input": talk.messages, "output": talk.reply})


def _inspect_eval(talk: "Talk", name: str) -> bytes:
    """The log as Inspect writes it: a zip of a header and a file a sample, long texts beside the messages."""
    sample = orjson.loads(_inspect(talk, name))["samples"][0]
    sample["messages"][0]["content"] = "attachment://abc"
    sample["attachments"] = {"abc": talk.system}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            zipfile.ZipInfo("header.json"), json.dumps({"eval": {"task": name, "model": "m", "x": math.nan}})
        )
        archive.writestr(zipfile.ZipInfo("samples/1_epoch_1.json"), json.dumps(sample, indent=2))
    return packed.getvalue()


def _message_parts(talk: "Talk", _: str) -> bytes:
    """Messages of Microsoft.Extensions.AI, one a line: parts under another name, of kinds under another name."""
    call = {"$type": "functionCall", "callId": "t1", "name": "bash", "arguments": {"command": talk.command}}
    return _lines(
        {"role": "user", "contents": [{"$type": "text", "text": talk.question}]},
        {"role": "assistant", "contents": [{"$type": "text", "text": talk.thought}, call]},
        {"role": "tool", "contents": [{"$type": "functionResult", "callId": "t1", "result": talk.result}]},
        {"role": "assistant", "contents": [{"$type": "text", "text": talk.answer}]},
    )


def _cursor_stream(talk: "Talk", name: str) -> bytes:
    def said(role: str, text: str) -> dict[str, Any]:
        return {"type": role, "session_id": name, "message": {"role": role, "content": [_text(text)]}}

    call: dict[str, Any] = {"args": {"command": talk.command}}
    line = {"type": "tool_call", "call_id": "t1", "session_id": name}
    return _lines(
        {"type": "system", "subtype": "init", "model": "m", "session_id": name},
        said("user", talk.question),
        said("assistant", talk.thought),
        {**line, "subtype": "started", "tool_call": {"shellToolCall": call}},
        {**line, "subtype": "completed", "tool_call": {"shellToolCall": {**call, "result": {"success": talk.result}}}},
        said("assistant", talk.answer),
        {"type": "result", "subtype": "success", "is_error": False, "session_id": name},
    )


def _deepseek(talk: "Talk", name: str) -> bytes:
    """The newest answer, and beside it one that was asked again; parents are told by their children alone."""

    def node(children: list[str], at: str = "", *fragments: tuple[str, str]) -> dict[str, Any]:
        parts = [{"type": kind, "content": text} for kind, text in fragments]
        message = {"model": "deepseek-reasoner", "inserted_at": at, "fragments": parts} if parts else None
        return {"children": children, "message": message}

    nodes = {"root": node(["1"]), "1": node(["2", "3"], AT, ("REQUEST", talk.question))}
    nodes |= {"2": node([], AT, ("RESPONSE", "abandoned"))}
    nodes |= {"3": node([], "2026-01-02T00:00:00Z", ("THINK", "hm"), ("RESPONSE", talk.answer))}
    return _document([{"id": name, "inserted_at": AT, "mapping": nodes}])


def _mistral(talk: "Talk", name: str) -> bytes:
    call = {"type": "function.call", "tool_call_id": "t1", "name": "bash"}
    entries = [
        {"type": "message.input", "role": "user", "content": talk.question, "created_at": AT},
        {"type": "message.output", "role": "assistant", "content": talk.thought, "model": "m"},
        {**call, "arguments": json.dumps({"command": talk.command})},
        {"type": "function.result", "tool_call_id": "t1", "result": talk.result},
        {"type": "message.output", "role": "assistant", "content": talk.answer, "model": "m"},
    ]
    return _document({"object": "conversation.history", "conversation_id": name, "entries": entries})


def _posthog(talk: "Talk", name: str) -> bytes:
    facts = {"$ai_session_id": name, "$ai_model": "m"}
    calls = ((talk.start, talk.call), (talk.messages, talk.reply))
    return _lines(
        *(
            {"event": "$ai_generation", "timestamp": AT}
            | {"properties": {**facts, "$ai_input": prompt, "$ai_output_choices": [answer]}}
            for prompt, answer in calls
        )
    )


def _datadog(talk: "Talk", name: str) -> bytes:
    calls = ((talk.start, talk.call), (talk.messages, talk.reply))
    return _lines(
        *(
            {"session_id": name, "start_ns": 1767225600000000000, "status": "ok"}
            | {"meta": {"span.kind": "llm", "input": {"messages": asked}, "output": {"messages": [answer]}}}
            for asked, answer in calls
        )
    )


def _response(talk: "Talk", name: str) -> bytes:
    """Stored responses with their inputs; the answer with the call has three items."""
    call = {"type": "function_call", "call_id": "t1", "name": "bash"}
    call |= {"arguments": json.dumps({"command": talk.command})}
    said = [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
        for text in (talk.thought, talk.answer)
    ]
    asked = {"role": "user", "content": talk.question}
    result = {"type": "function_call_output", "call_id": "t1", "output": talk.result}
    facts = {"object": "response", "model": "m", "instructions": talk.system, "metadata": {"session_id": name}}
    return _lines(
        {**facts, "id": "r1", "input": [asked], "output": [{"type": "reasoning", "summary": []}, said[0], call]},
        {**facts, "id": "r2", "input": [asked, said[0], call, result], "output": said[1:]},
    )


def _eval(talk: "Talk", name: str) -> bytes:
    item = {"object": "eval.run.output_item", "eval_id": name, "status": "pass", "results": [{"name": "g"}]}
    calls = ((talk.start, talk.call), (talk.messages, talk.reply))
    return _lines(
        *(
            {**item, "id": f"{name}-{number}", "sample": {"input": prompt, "output": [answer], "model": "m"}}
            for number, (prompt, answer) in enumerate(calls)
        )
    )


def _table(talk: "Talk", name: str) -> bytes:
    """Observations as Langfuse's table writes them: CSV, with each content as JSON text."""
    file = io.StringIO()
    names = ("id", "traceId", "type", "parentObservationId", "startTime", "sessionId", "model", "input", "output")
    writer = csv.DictWriter(file, names)
    writer.writeheader()
    for number, (prompt, answer) in enumerate(((talk.start, talk.call), (talk.messages, talk.reply))):
        own = {"id": f"o{number}", "traceId": f"t{number}", "type": "GENERATION", "startTime": AT, "sessionId": name}
        writer.writerow({**own, "input": json.dumps(prompt), "output": json.dumps(answer), "model": "m"})
    return file.getvalue().encode()


def _spoken_calls(talk: "Talk", _: str) -> bytes:
    """A row of Hermes' set: calls and results are texts with tags."""
    call = json.dumps({"name": "bash", "arguments": {"command": talk.command}})
    said = [
        ("system", f"{talk.system} <tools>[]</tools>"),
        ("human", talk.question),
        ("gpt", f"{talk.thought}\n<tool_call>\n{call}\n</tool_call>"),
        ("tool", f"<tool_response>\n{talk.result}\n</tool_response>"),
        ("gpt", talk.answer),
    ]
    return _lines({"conversations": [{"from": who, "value": text} for who, text in said]})


_HELD: Sequence[str] = ("system", "question", "thought", "command", "result", "answer")
_NO_SYSTEM = _HELD[1:]


# as in `neutral_logs`; by the reader's name, which is the format's where nothing else is said
def _kimi_code(talk: "Talk", _: str) -> bytes:
    def event(kind: str, **more: Any) -> dict[str, Any]:
        return {"type": "context.append_loop_event", "time": 1767225600000, "event": {"type": kind, **more}}

    call = {"toolCallId": "Bash_0", "name": "bash", "args": {"command": talk.command}}
    asked = {"role": "user", "content": [_text(talk.question)], "origin": {"kind": "user"}}
    return _lines(
        {"type": "metadata", "protocol_version": "1.5", "created_at": 1767225600000},
        {"type": "config.update", "systemPrompt": talk.system, "modelAlias": "k"},
        {"type": "context.append_message", "message": asked},
        event("step.begin", uuid="1"),
        event("content.part", part=_text(talk.thought)),
        event("tool.call", **call),
        event("tool.result", toolCallId="Bash_0", result={"output": talk.result}),
        event("step.end", uuid="1", finishReason="tool_calls"),
        event("step.begin", uuid="2"),
        event("content.part", part=_text(talk.answer)),
        event("step.end", uuid="2", finishReason="end_turn"),
    )


def _grok_cli(talk: "Talk", _: str) -> bytes:
    call = {"id": "t1", "name": "bash", "arguments": json.dumps({"command": talk.command})}
    return _lines(
        {"type": "system", "content": talk.system},
        {"type": "user", "content": [_text(talk.question)]},
        {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"},
        {"type": "assistant", "content": talk.thought, "tool_calls": [call], "model_id": "grok"},
        {"type": "tool_result", "tool_call_id": "t1", "content": talk.result},
        {"type": "assistant", "content": talk.answer, "model_id": "grok"},
    )


def _augment(talk: "Talk", name: str) -> bytes:
    use = {"tool_use_id": "t1", "tool_name": "bash", "input_json": json.dumps({"command": talk.command})}
    result = {"tool_use_id": "t1", "content": talk.result, "is_error": False}
    first = {"request_message": talk.question, "response_text": talk.thought, "response_nodes": [{"tool_use": use}]}
    second = {"request_nodes": [{"tool_result_node": result}], "response_text": talk.answer}
    history = [{"exchange": one, "completed": True} for one in (first, second)]
    return _document({"sessionId": name, "created": AT, "chatHistory": history})


def _dify(talk: "Talk", name: str) -> bytes:
    row = {"id": "1", "conversation_id": name, "query": talk.question, "answer": talk.answer, "created_at": 1767225600}
    return _document({"data": [{**row, "agent_thoughts": []}], "has_more": False, "limit": 20})


def _held_chats(talk: "Talk", name: str) -> bytes:
    """TypingMind's export: conversations in a member of a member."""
    messages = [*talk.messages, {**talk.reply, "model": "m"}]
    return _document({"data": {"chats": [{"chatID": name, "createdAt": AT, "messages": messages}]}, "checksum": "x"})


def _lobechat(talk: "Talk", name: str) -> bytes:
    """LobeChat's export: the messages of all sessions in one list, calls under the name of tools."""
    call = {"id": "t1", "identifier": "shell", "apiName": "bash", "arguments": json.dumps({"command": talk.command})}
    said: list[dict[str, Any]] = [
        {"role": "user", "content": talk.question},
        {"role": "assistant", "content": talk.thought, "tools": [{**call, "type": "builtin"}]},
        {"role": "tool", "content": talk.result, "tool_call_id": "t1"},
        {"role": "assistant", "content": talk.answer, "extra": {"fromModel": "m"}},
    ]
    facts: dict[str, Any] = {"sessionId": name, "topicId": "topic", "createdAt": 1767225600000}
    messages = [{**one, **facts, "id": str(number)} for number, one in enumerate(said)]
    return _document({"exportType": "all", "state": {"sessions": [], "messages": messages}, "version": 7})


def _genkit(talk: "Talk", name: str) -> bytes:
    request: dict[str, Any] = {"toolRequest": {"name": "bash", "ref": "t1", "input": {"command": talk.command}}}
    result = {"toolResponse": {"name": "bash", "ref": "t1", "output": {"out": talk.result}}}
    start: list[tuple[str, list[Any]]] = [("system", [{"text": talk.system}]), ("user", [{"text": talk.question}])]
    first: tuple[str, list[Any]] = ("model", [{"text": talk.thought}, request])
    asked = (start, [*start, first, ("tool", [result])])
    spans = {}
    for number, (prompt, said) in enumerate(zip(asked, (first, ("model", [{"text": talk.answer}])), strict=True)):
        messages = [{"role": role, "content": content} for role, content in (*prompt, said)]
        attributes = {
            "genkit:type": "action",
            "genkit:metadata:subtype": "model",
            "genkit:name": "googleai/gemini",
            "genkit:input": json.dumps({"messages": messages[:-1]}),
            "genkit:output": json.dumps({"message": messages[-1], "finishReason": "stop"}),
        }
        own = {"spanId": str(number), "traceId": name, "startTime": 1767225600000 + number, "attributes": attributes}
        spans[str(number)] = own
    return _document({"traceId": name, "displayName": "flow", "spans": spans})


def _langchain4j(talk: "Talk", _: str) -> bytes:
    call = {"id": "t1", "name": "bash", "arguments": json.dumps({"command": talk.command})}
    return _document(
        [
            {"text": talk.system, "type": "SYSTEM"},
            {"contents": [{"text": talk.question, "type": "TEXT"}], "type": "USER"},
            {"text": talk.thought, "toolExecutionRequests": [call], "type": "AI"},
            {"id": "t1", "toolName": "bash", "text": talk.result, "type": "TOOL_EXECUTION_RESULT"},
            {"text": talk.answer, "type": "AI"},
        ]
    )


def _crush(talk: "Talk", name: str) -> bytes:
    """Parts whose members stand in their `data`."""

    def said(role: str, **parts: Any) -> dict[str, Any]:
        return {"id": role, "role": role, "parts": [{"type": kind, "data": data} for kind, data in parts.items()]}

    call = {"id": "t1", "name": "bash", "input": json.dumps({"command": talk.command}), "finished": True}
    result = {"tool_call_id": "t1", "content": talk.result, "is_error": False}
    messages = [
        said("user", text={"text": talk.question}),
        said("assistant", text={"text": talk.thought}, tool_call=call, finish={"reason": "tool_use"}),
        said("tool", tool_result=result),
        said("assistant", text={"text": talk.answer}, finish={"reason": "end_turn"}),
    ]
    return _document({"id": name, "title": "x", "messages": messages})


def _gemini_stream(talk: "Talk", name: str) -> bytes:
    """What Gemini CLI prints: texts come in pieces."""

    def said(words: str) -> list[dict[str, Any]]:
        half = len(words) // 2
        pieces = (words[:half], words[half:])
        return [{"type": "message", "role": "assistant", "content": one, "delta": True} for one in pieces]

    return _lines(
        {"type": "init", "session_id": name, "model": "g", "timestamp": AT},
        {"type": "message", "role": "user", "content": talk.question},
        *said(talk.thought),
        {"type": "tool_use", "tool_name": "bash", "tool_id": "t1", "parameters": {"command": talk.command}},
        {"type": "tool_result", "tool_id": "t1", "status": "success", "output": talk.result},
        *said(talk.answer),
        {"type": "result", "status": "success"},
    )


def _open_interpreter(talk: "Talk", _: str) -> bytes:
    said = {"role": "assistant", "type": "message"}
    return _document(
        [
            {"role": "user", "type": "message", "content": talk.question},
            {**said, "content": talk.thought},
            {"role": "assistant", "type": "code", "format": "shell", "content": talk.command},
            {"role": "computer", "type": "console", "format": "output", "content": talk.result},
            {**said, "content": talk.answer},
        ]
    )


def _trae(talk: "Talk", _: str) -> bytes:
    """What is new before each call; a result stands in an empty message of the user's."""
    call = {"call_id": "t1", "name": "bash", "arguments": {"command": talk.command}}
    result = {"role": "user", "content": "", "tool_result": {"call_id": "t1", "success": True, "result": talk.result}}
    said = {"content": talk.thought, "finish_reason": "tool_use", "tool_calls": [call]}
    calls = [
        {"timestamp": AT, "input_messages": talk.start, "response": said},
        {"timestamp": AT, "input_messages": [result], "response": {"content": talk.answer, "tool_calls": None}},
    ]
    return _document({"task": "x", "start_time": AT, "model": "m", "llm_interactions": calls, "success": True})


def _browser_use(talk: "Talk", name: str) -> bytes:
    def step(number: int, shown: str, done: bool, **output: Any) -> dict[str, Any]:
        metadata = {"step_start_time": 1767225600.0 + number, "step_number": number}
        result = [{"is_done": done, "success": done or None, "extracted_content": "x"}]
        held = {"model_output": output, "result": result, "state": {"url": name, "tabs": []}, "metadata": metadata}
        return {**held, "state_message": shown}

    click = [{"click": {"index": 1, "text": talk.command}}]
    first = step(1, f"<user_request>{talk.question}</user_request>", False, memory=talk.thought, action=click)
    last = step(2, f"<agent_history>{talk.result}</agent_history>", True, action=[{"done": {"text": talk.answer}}])
    return _document({"history": [first, last]})


def _langwatch(talk: "Talk", name: str) -> bytes:
    """A trace whose values name their types, and whose spans name the one above them."""

    def typed(*messages: dict[str, Any]) -> dict[str, Any]:
        return {"type": "chat_messages", "value": list(messages)}

    span = {"type": "llm", "parent_id": "a", "model": "m", "timestamps": {"started_at": 1767225600000}}
    agent = {"type": "agent", "span_id": "a", "name": "Planner", "input": {"type": "text", "value": "x"}}
    spans = [
        {**span, "span_id": "s1", "input": typed(*talk.start), "output": typed(talk.call)},
        {
            **span,
            "span_id": "s2",
            "input": typed(*talk.messages),
            "output": {"type": "list", "value": [typed(talk.reply)]},
        },
    ]
    trace = {"trace_id": name, "metadata": {"thread_id": name}, "input": {"value": "x"}, "output": {"value": "x"}}
    return _document({**trace, "spans": [agent, *spans]})


def _camel(talk: "Talk", name: str) -> bytes:
    """The memory of one of CAMEL's agents, whose calls and results are alike."""

    def record(role: str, **message: Any) -> dict[str, Any]:
        return {"message": {"__class__": "x", "role_name": "A", **message}, "role_at_backend": role, "agent_id": name}

    call = {"content": talk.thought, "func_name": "bash", "args": {"command": talk.command}, "tool_call_id": "c"}
    return _document(
        [
            record("system", content=talk.system),
            record("user", content=talk.question),
            record("assistant", **call),
            record("function", content="", func_name="bash", result=talk.result, tool_call_id="c"),
            record("assistant", content=talk.answer),
        ]
    )


_OWN_READER: tuple[tuple[str, str, Sequence[str], Writer], ...] = (
    ("gemini_cli", "session.json", _NO_SYSTEM, _gemini_cli),
    ("qwen", "chat.jsonl", _NO_SYSTEM, _qwen),
    ("opencode", "session.json", _NO_SYSTEM, _opencode),
    ("continue", "session.json", _NO_SYSTEM, _continue),
    ("goose", "session.jsonl", _NO_SYSTEM, _goose),
    ("amp", "T-1.json", _NO_SYSTEM, _amp),
    ("copilot_chat", "chat.json", _NO_SYSTEM, _copilot_chat),
    ("copilot_journal", "chat.jsonl", _NO_SYSTEM, _copilot_journal),
    ("librechat", "x.json", ("system", "question", "answer"), _librechat),
    ("grok", "prod-grok-backend.json", ("question", "answer"), _grok),
    ("lm_studio", "x.conversation.json", ("system", "question", "answer"), _lm_studio),
    ("bedrock_batch", "out.jsonl", _HELD, _bedrock_batch),
    ("call_log", "calls.jsonl", _HELD, _call_log),
    ("wrapped_calls", "gateway.jsonl", _HELD, _wrapped_calls),
    ("agent_traces", "rows.jsonl", _NO_SYSTEM, _agent_traces),
    ("copilot_cli", "events.jsonl", _NO_SYSTEM, _copilot_cli),
    ("droid", "s.jsonl", _NO_SYSTEM, _droid),
    ("cursor", "agent.jsonl", _NO_SYSTEM, _cursor),
    ("kimi", "context.jsonl", _NO_SYSTEM, _kimi),
    ("cline", "api_conversation_history.json", _NO_SYSTEM, _cline),
    ("chatgpt", "conversations.json", _NO_SYSTEM, _chatgpt),
    ("claude_ai", "conversations.json", _NO_SYSTEM, _claude_ai),
    ("open_webui", "chats.json", ("question", "answer"), _open_webui),
    ("autogen", "state.json", ("question", "command", "result", "answer"), _autogen),
    ("letta", "agent.af", _HELD, _letta),
    ("smolagents", "memory.json", _HELD, _smolagents),
    ("pydantic_ai", "messages.json", _HELD, _pydantic_ai),
    ("ui_messages", "chat.json", _NO_SYSTEM, _ui_messages),
    ("gemini_contents", "checkpoint.json", _NO_SYSTEM, _checkpoint),
    ("langchain", "messages.json", _HELD, _langchain),
    ("langgraph", "state.json", _NO_SYSTEM, _langgraph),
    ("openai_thread", "messages.json", ("question", "answer"), _thread),
    ("inspect_ai", "log.json", _HELD, _inspect),
    ("amazon_q", "saved.json", _NO_SYSTEM, _amazon_q),
    ("llm", "logs.json", _HELD, _llm),
    ("adk", "session.json", _NO_SYSTEM, _adk),
    ("zed", "thread.json", _NO_SYSTEM, _zed),
    ("big_agi", "chats.json", _NO_SYSTEM, _big_agi),
    ("nemo_gym", "rollouts.jsonl", _HELD, _nemo_gym),
    ("openai_items", "items.json", _NO_SYSTEM, _openai_items),
    ("semantic_kernel", "history.json", _HELD, _semantic_kernel),
    ("vertex_log", "rows.jsonl", _HELD, _vertex),
    ("openai_batch", "joined.jsonl", _HELD, _openai_batch),
    ("llm_span", "spans.jsonl", _HELD, _llm_span),
    ("helicone", "requests.jsonl", _HELD, _helicone),
    ("bedrock_log", "log.json", _HELD, _bedrock),
    ("weave", "calls.jsonl", _HELD, _weave),
    ("braintrust", "spans.jsonl", _HELD, _braintrust),
    ("openai_agents", "traces.jsonl", _HELD, _openai_agents),
    ("cursor_stream", "out.jsonl", _NO_SYSTEM, _cursor_stream),
    ("deepseek", "conversations.json", ("question", "answer"), _deepseek),
    ("mistral", "history.json", _NO_SYSTEM, _mistral),
    ("posthog", "events.jsonl", _HELD, _posthog),
    ("datadog", "spans.jsonl", _HELD, _datadog),
    ("openai_response", "responses.jsonl", _HELD, _response),
    ("openai_eval", "items.jsonl", _HELD, _eval),
    ("har", "x.har", _HELD, _har),
    ("kimi_code", "wire.jsonl", _HELD, _kimi_code),
    ("grok_cli", "chat_history.jsonl", _HELD, _grok_cli),
    ("augment", "session.json", _NO_SYSTEM, _augment),
    ("gemini_stream", "out.jsonl", _NO_SYSTEM, _gemini_stream),
    ("dify", "messages.json", ("question", "answer"), _dify),
    ("held_chats", "typingmind.json", _HELD, _held_chats),
    ("promptlayer", "request.json", _HELD, _promptlayer),
    ("ai_sdk_steps", "result.json", _HELD, _ai_sdk_steps),
    ("llama_cpp", "conversation.json", _NO_SYSTEM, _llama_cpp),
    ("letta_messages", "messages.json", _HELD, _letta_messages),
    ("trae", "trajectory.json", _HELD, _trae),
    ("browser_use", "history.json", _NO_SYSTEM, _browser_use),
)
NEIGHBOURS: dict[str, tuple[str, str, Sequence[str], Writer]] = {one[0]: one for one in _OWN_READER} | {
    "inspect_eval": ("inspect_ai", "x.eval", _HELD, _inspect_eval),
    "message_parts": ("mini_swe_agent", "messages.jsonl", _NO_SYSTEM, _message_parts),
    "table": ("langfuse", "observations.csv", _HELD, _table),
    "spoken_calls": ("chat_dataset", "hermes.jsonl", _HELD, _spoken_calls),
    "portkey": ("recording", "logs.jsonl", _HELD, _portkey),
    "ollama": ("recording", "calls.jsonl", _HELD, _ollama),
    "converse": ("recording", "calls.jsonl", _HELD, _converse),
    "zed_thread": ("zed", "thread.json", _NO_SYSTEM, _zed_thread),
    "phoenix": ("otel", "spans.jsonl", _HELD, _phoenix),
    "lobechat": ("held_chats", "lobechat.json", _NO_SYSTEM, _lobechat),
    "genkit": ("otel", "trace.json", _HELD, _genkit),
    "langchain4j": ("langchain", "memory.json", _HELD, _langchain4j),
    "crush": ("ui_messages", "session.json", _NO_SYSTEM, _crush),
    "open_interpreter": ("mini_swe_agent", "messages.json", _NO_SYSTEM, _open_interpreter),
    "batch_halves": ("openai_batch", "both.jsonl", _HELD, _batch_halves),
    "recorded_halves": ("recorded_halves", "proxy.jsonl", _HELD, _recorded_halves),
    "kong": ("wrapped_calls", "http.log", _HELD, _kong),
    "claude_trace": ("recording", "log.jsonl", _HELD, _claude_trace),
    "asked_and_said": ("chat_dataset", "rows.jsonl", _HELD, _asked_and_said),
    "literal_ai": ("wrapped_calls", "generations.jsonl", _HELD, _literal_ai),
    "flowise": ("mini_swe_agent", "messages.json", ("question", "answer"), _flowise),
    "mastra": ("chat_dataset", "thread.json", _NO_SYSTEM, _mastra),
    "recorded_list": ("recording", "calls.json", _HELD, _recorded_list),
    "docker": ("recording", "x-json.log", _HELD, _docker),
    "har_streams": ("har", "x.har", _HELD, _har_streams),
    "langwatch": ("wrapped_calls", "trace.json", _HELD, _langwatch),
    "camel": ("mini_swe_agent", "memory.json", _HELD, _camel),
    "gemini_tuning": ("chat_dataset", "train.jsonl", _HELD, _tuning),
}
