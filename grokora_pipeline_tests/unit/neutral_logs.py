"""One neutral conversation in every log format that has a reader: a person asks, a tool is called, it is answered."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from grokora_pipeline_tests.unit.neighbour_logs import NEIGHBOURS


@dataclass(frozen=True)
class Talk:
    """What is said; each text may hold anything. The answer follows the tool's result."""

    system: str
    question: str
    thought: str
    command: str  # the tool's argument
    result: str
    answer: str

    @property
    def call(self) -> dict[str, Any]:
        """The assistant's message with the call, as OpenAI writes it."""
        function = {"name": "bash", "arguments": json.dumps({"command": self.command})}
        return {
            "role": "assistant",
            "content": self.thought,
            "tool_calls": [{"id": "call_a", "type": "function", "function": function}],
        }

    @property
    def start(self) -> list[dict[str, Any]]:
        """The first call's prompt."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.question}]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The second call's prompt."""
        return [*self.start, self.call, {"role": "tool", "tool_call_id": "call_a", "content": self.result}]

    @property
    def reply(self) -> dict[str, Any]:
        """The assistant's last message."""
        return {"role": "assistant", "content": self.answer}


def _lines(*values: Any) -> bytes:
    return b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)


def _chat(message: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m-1", "choices": [{"message": message, "finish_reason": "stop"}]}


def _recording(talk: Talk, name: str) -> bytes:
    base = {"session_id": name, "agent": "actor", "started_at": "2026-01-01T00:00:00Z"}
    return _lines(
        {**base, "step": 0, "request": {"model": "m", "messages": talk.start}, "response": _chat(talk.call)},
        {**base, "step": 1, "request": {"model": "m", "messages": talk.messages}, "response": _chat(talk.reply)},
    )


def _anthropic(talk: Talk, name: str) -> bytes:
    use = [
        {"type": "text", "text": talk.thought},
        {"type": "tool_use", "id": "toolu_a", "name": "bash", "input": {"command": talk.command}},
    ]
    result = [{"type": "tool_result", "tool_use_id": "toolu_a", "content": talk.result}]
    start = [{"role": "user", "content": talk.question}]
    later = [*start, {"role": "assistant", "content": use}, {"role": "user", "content": result}]
    line = {"session_id": name, "agent": "actor", "api": "messages", "started_at": "2026-01-01T00:00:00Z"}
    return _lines(
        {**line, "step": 0, "request": {"model": "m", "system": talk.system, "messages": start}}
        | {"response": {"role": "assistant", "type": "message", "content": use}},
        {**line, "step": 1, "request": {"model": "m", "system": talk.system, "messages": later}}
        | {"response": {"role": "assistant", "type": "message", "content": [{"type": "text", "text": talk.answer}]}},
    )


def _responses(talk: Talk, name: str) -> bytes:
    call = {"type": "function_call", "call_id": "a", "name": "bash"}
    call |= {"arguments": json.dumps({"command": talk.command})}
    asked = {"role": "user", "content": [{"type": "input_text", "text": talk.question}]}
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": talk.answer}]}
    thought = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": talk.thought}]}
    later = [asked, thought, call, {"type": "function_call_output", "call_id": "a", "output": talk.result}]
    line = {"session_id": name, "agent": "actor", "api": "responses", "started_at": "2026-01-01T00:00:00Z"}
    request = {"model": "m", "instructions": talk.system}
    return _lines(
        {**line, "step": 0, "request": {**request, "input": [asked]}, "response": {"output": [thought, call]}},
        {**line, "step": 1, "request": {**request, "input": later}, "response": {"output": [said]}},
    )


def _claude_code(talk: Talk, name: str) -> bytes:
    use = {"type": "tool_use", "id": "toolu_a", "name": "Bash", "input": {"command": talk.command}}
    result = {"type": "tool_result", "tool_use_id": "toolu_a", "content": talk.result}
    parts: Sequence[tuple[str, Any, str]] = (
        ("user", talk.question, ""),
        ("assistant", [{"type": "text", "text": talk.thought}], "1"),
        ("assistant", [use], "1"),
        ("user", [result], ""),
        ("assistant", [{"type": "text", "text": talk.answer}], "2"),
    )
    lines = []
    for number, (role, content, key) in enumerate(parts):
        message: dict[str, Any] = {"role": role, "content": content}
        line: dict[str, Any] = {"type": role, "uuid": f"{name}-{number}", "sessionId": name, "isSidechain": False}
        line["parentUuid"] = f"{name}-{number - 1}" if number else None
        if key:
            message |= {"id": f"msg-{key}", "model": "claude-x"}
            line["requestId"] = f"req-{key}"
        if number == 3:
            line["toolUseResult"] = {"stdout": talk.result, "stderr": ""}
        lines.append(
            {**line, "message": message, "cwd": "/home/anna.fake/x", "timestamp": f"2026-01-01T00:00:0{number}Z"}
        )
    return _lines(*lines)


def _codex(talk: Talk, name: str) -> bytes:
    def item(kind: str, **payload: Any) -> dict[str, Any]:
        return {"timestamp": "2026-01-01T00:00:00Z", "type": "response_item", "payload": {"type": kind, **payload}}

    def text(role: str, value: str) -> dict[str, Any]:
        part = "output_text" if role == "assistant" else "input_text"
        return item("message", role=role, content=[{"type": part, "text": value}])

    head = {"id": name, "cwd": "/home/anna.fake/x", "cli_version": "0.47.0", "base_instructions": {"text": talk.system}}
    return _lines(
        {"timestamp": "2026-01-01T00:00:00Z", "type": "session_meta", "payload": head},
        text("user", talk.question),
        text("assistant", talk.thought),
        item("function_call", name="shell", call_id="a", arguments=json.dumps({"command": ["sh", "-c", talk.command]})),
        item(
            "function_call_output",
            call_id="a",
            output=json.dumps({"output": talk.result, "metadata": {"exit_code": 0}}),
        ),
        text("assistant", talk.answer),
    )


def _pi(talk: Talk, name: str) -> bytes:
    def message(role: str, content: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "type": "message",
            "timestamp": "2026-01-01T00:00:00Z",
            "message": {"role": role, "content": content, **more},
        }

    call = {"type": "toolCall", "id": "a", "name": "bash", "arguments": {"command": talk.command}}
    return _lines(
        {"type": "session", "id": name, "timestamp": "2026-01-01T00:00:00Z", "cwd": "/home/anna.fake"},
        message("user", [{"type": "text", "text": talk.question}]),
        message("assistant", [{"type": "text", "text": talk.thought}, call], stopReason="toolUse"),
        message("toolResult", [{"type": "text", "text": talk.result}], toolCallId="a", toolName="bash"),
        message("assistant", [{"type": "text", "text": talk.answer}], stopReason="stop"),
    )


def _sharegpt(talk: Talk, _: str) -> bytes:
    call = json.dumps({"name": "bash", "arguments": {"command": talk.command}})
    turns = [("human", talk.question), ("function_call", call), ("observation", talk.result), ("gpt", talk.answer)]
    return orjson.dumps(
        [{"system": talk.system, "conversations": [{"from": who, "value": text} for who, text in turns]}]
    )


def _otel(name: str, attributes: dict[str, str]) -> bytes:
    pairs = [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]
    span: dict[str, Any] = {
        "traceId": name.encode().hex()[-32:],
        "spanId": name.encode().hex()[:16],
        "name": "chat m-1",
    }
    span |= {"startTimeUnixNano": "1780000001000000000", "attributes": pairs}
    return _lines({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})


def _semconv(talk: Talk, name: str) -> bytes:
    def said(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "parts": [{"type": "text", "content": text}]}

    call = {"type": "tool_call", "id": "a", "name": "bash", "arguments": {"command": talk.command}}
    asked = [
        said("user", talk.question),
        {"role": "assistant", "parts": [{"type": "text", "content": talk.thought}, call]},
    ]
    asked.append({"role": "tool", "parts": [{"type": "tool_call_response", "id": "a", "response": talk.result}]})
    return _otel(
        name,
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.conversation.id": name,
            "gen_ai.request.model": "m-1",
            "gen_ai.system_instructions": json.dumps([{"type": "text", "content": talk.system}]),
            "gen_ai.input.messages": json.dumps(asked),
            "gen_ai.output.messages": json.dumps([said("assistant", talk.answer)]),
        },
    )


def _openinference(talk: Talk, name: str) -> bytes:
    values = {"openinference.span.kind": "LLM", "session.id": name, "llm.model_name": "m-1"}
    for number, message in enumerate(talk.messages):
        start = f"llm.input_messages.{number}.message"
        values |= {f"{start}.role": message["role"], f"{start}.content": message["content"]}
        for call in message.get("tool_calls", ()):
            own = f"{start}.tool_calls.0.tool_call"
            values |= {f"{own}.id": call["id"], f"{own}.function.name": "bash"}
            values[f"{own}.function.arguments"] = call["function"]["arguments"]
    values |= {"llm.output_messages.0.message.role": "assistant", "llm.output_messages.0.message.content": talk.answer}
    return _otel(name, values)


def _openllmetry(talk: Talk, name: str) -> bytes:
    values = {"llm.request.type": "chat", "traceloop.association.properties.session_id": name}
    for number, message in enumerate(talk.messages):
        values |= {
            f"gen_ai.prompt.{number}.role": message["role"],
            f"gen_ai.prompt.{number}.content": message["content"],
        }
        for call in message.get("tool_calls", ()):
            own = f"gen_ai.prompt.{number}.tool_calls.0"
            values |= {
                f"{own}.id": call["id"],
                f"{own}.name": "bash",
                f"{own}.arguments": call["function"]["arguments"],
            }
    values |= {"gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.content": talk.answer}
    return _otel(name, values)


def _langfuse(talk: Talk, name: str) -> bytes:
    generation = {
        "id": name,
        "traceId": name,
        "type": "GENERATION",
        "startTime": "2026-01-01T00:00:00Z",
        "parentObservationId": None,
        "model": "m-1",
        "input": json.dumps(talk.messages),
        "output": json.dumps(talk.reply),
    }
    return orjson.dumps({"trace": {"id": name, "sessionId": name, "scores": []}, "observations": [generation]})


def _litellm(talk: Talk, name: str) -> bytes:
    payload: dict[str, Any] = {
        "id": name,
        "trace_id": name,
        "call_type": "acompletion",
        "status": "success",
        "model": "m-1",
    }
    payload |= {"startTime": 1780000001.0, "endTime": 1780000002.0}
    return _lines(payload | {"messages": talk.messages, "response": _chat(talk.reply), "model_parameters": {}})


def _mlflow(talk: Talk, name: str) -> bytes:
    attributes = {
        "mlflow.spanType": '"CHAT_MODEL"',
        "mlflow.spanInputs": json.dumps({"messages": talk.messages}),
        "mlflow.spanOutputs": json.dumps(_chat(talk.reply)),
    }
    return orjson.dumps({"info": {"trace_id": name}, "data": {"spans": [{"span_id": name, "attributes": attributes}]}})


def _langsmith(talk: Talk, name: str) -> bytes:
    def said(kind: str, text: str, **more: Any) -> dict[str, Any]:
        return {"lc": 1, "id": [kind], "kwargs": {"content": text, **more}}

    calls = [{"id": "a", "name": "bash", "args": {"command": talk.command}}]
    messages = [
        said("SystemMessage", talk.system, type="system"),
        said("HumanMessage", talk.question, type="human"),
        said("AIMessage", talk.thought, type="ai", tool_calls=calls),
        said("ToolMessage", talk.result, type="tool", tool_call_id="a"),
    ]
    generation = {"text": talk.answer, "message": said("AIMessage", talk.answer, tool_calls=[])}
    run = {"id": name, "run_type": "llm", "trace_id": name, "inputs": {"messages": [messages]}}
    return _lines(run | {"outputs": {"generations": [[generation]]}})


def _atif(talk: Talk, name: str) -> bytes:
    call = {"tool_call_id": "a", "function_name": "bash", "arguments": {"command": talk.command}}
    observed = {"results": [{"source_call_id": "a", "content": talk.result}]}
    steps: list[dict[str, Any]] = [
        {"source": "system", "message": talk.system},
        {"source": "user", "message": talk.question},
        {"source": "agent", "message": talk.thought, "tool_calls": [call], "observation": observed},
        {"source": "agent", "message": talk.answer},
    ]
    numbered = [{"step_id": number, **step} for number, step in enumerate(steps, 1)]
    return orjson.dumps({"schema_version": "ATIF-v1.7", "session_id": name, "agent": {"name": "x"}, "steps": numbered})


def _swe_agent(talk: Talk, _: str) -> bytes:
    kinds = ("system_prompt", "observation", "action", "observation", "action")
    messages = [*talk.messages, talk.reply]
    history = [
        {**message, "agent": "main", "message_type": kind} for message, kind in zip(messages, kinds, strict=True)
    ]
    return orjson.dumps({"trajectory": [], "history": history, "info": {"exit_status": "submitted"}})


def _mini(talk: Talk, _: str) -> bytes:
    document = {
        "info": {"exit_status": "Submitted", "submission": talk.answer},
        "messages": [*talk.messages, talk.reply],
    }
    return orjson.dumps({**document, "trajectory_format": "mini-swe-agent-1"})


def _tau(talk: Talk, name: str) -> bytes:
    trial = {"task_id": name, "trial": 0, "reward": 1.0, "info": {"task": {"instruction": talk.question}}}
    return orjson.dumps([{**trial, "traj": [*talk.messages, talk.reply]}])


def _openhands(talk: Talk, _: str) -> bytes:
    def text(value: str) -> list[dict[str, Any]]:
        return [{"type": "text", "text": value}]

    raw = {"id": "a", "name": "terminal", "arguments": json.dumps({"command": talk.command})}
    action = {"thought": text(talk.thought), "tool_name": "terminal", "tool_call_id": "a", "tool_call": raw}
    return _lines(
        {"id": "1", "source": "agent", "kind": "SystemPromptEvent", "system_prompt": text(talk.system)[0], "tools": []},
        {"id": "2", "source": "user", "kind": "MessageEvent"}
        | {"llm_message": {"role": "user", "content": text(talk.question)}},
        {"id": "3", "source": "agent", "kind": "ActionEvent", "llm_response_id": "r1", **action},
        {"id": "4", "source": "environment", "kind": "ObservationEvent", "tool_call_id": "a"}
        | {"observation": {"content": text(talk.result)}},
        {"id": "5", "source": "agent", "kind": "MessageEvent", "llm_response_id": "r2"}
        | {"llm_message": {"role": "assistant", "content": text(talk.answer)}},
    )


def _session_v1(talk: Talk, name: str) -> bytes:
    result = {"status": "success", "command": talk.command, "stdout": talk.result, "returncode": 0}
    iterations = [
        {
            "iteration_number": 1,
            "grok_response": talk.thought,
            "tool_results": [{"function_name": "bash", "result": result}],
        },
        {"iteration_number": 2, "grok_response": talk.answer, "tool_results": []},
    ]
    return orjson.dumps({"session_id": name, "metadata": {"task": talk.question}, "iterations": iterations})


def _global_log(talk: Talk, name: str) -> bytes:
    lines = (
        (f"grokputer.{name}", f"SESSION STARTED: {name}"),
        (f"grokputer.{name}", f"Task: {talk.question}"),
        ("main", "--- Iteration 1/10 ---"),
        ("main", f"Grok response: {talk.thought}"),
        ("main", "Grok requested 1 tool calls"),
        ("src.executor", f"Executing tool: bash with args: { ({'command': talk.command})!r}"),
        ("main", f"Tool result: bash -> { ({'status': 'success', 'stdout': talk.result})!r}"),
        ("main", "--- Iteration 2/10 ---"),
        ("main", f"Grok response: {talk.answer}"),
        ("main", "No tool calls requested"),
    )
    return "".join(
        f"2026-01-01 00:00:0{n},000 - {who} - INFO - {text}\n" for n, (who, text) in enumerate(lines)
    ).encode()


def _swarm(talk: Talk, name: str) -> bytes:
    done = [{"tool": "bash", "params": {"command": talk.command}, "status": "success"}]
    return orjson.dumps({"session_id": name, "task": talk.question, "iterations": 1, "tool_executions": done})


def _plan(talk: Talk, name: str) -> bytes:
    return (
        f"# Collaboration Plan\n\n**Generated**: 2026-01-01 00:00:00\n**Correlation ID**: {name}\n**Rounds**: 1\n\n"
        f"## Task Description\n\n{talk.question}\n\n---\n\n### Claude's Contributions\n\n{talk.answer}\n\n"
        f"### Grok's Contributions\n\n{talk.thought}\n\n---\n\n## Metadata\n"
    ).encode()


_HELD: Sequence[str] = ("system", "question", "thought", "command", "result", "answer")
_NO_SYSTEM = _HELD[1:]
# by name: the reader, the file's name, what the format holds of a conversation, and how it is written
FORMATS: dict[str, tuple[str, str, Sequence[str], Callable[[Talk, str], bytes]]] = {
    "recording": ("recording", "a.jsonl", _HELD, _recording),
    "anthropic": ("recording", "a.jsonl", _HELD, _anthropic),
    "responses": ("recording", "a.jsonl", _HELD, _responses),
    "instructions": (
        "instructions",
        "a.jsonl",
        ("question", "answer"),
        lambda talk, _: _lines({"instruction": talk.question, "response": talk.answer}),
    ),
    "swarm": ("swarm_v2", "session.json", ("question", "command"), _swarm),
    "session_v1": ("session_v1", "session.json", _NO_SYSTEM, _session_v1),
    "global_log": ("grokputer_log", "grokputer.log", _NO_SYSTEM, _global_log),
    "plan": ("collaboration", "plan.md", ("question", "answer", "thought"), _plan),
    "claude_code": ("claude_code", "a.jsonl", _NO_SYSTEM, _claude_code),
    "codex": ("codex", "rollout.jsonl", _HELD, _codex),
    "pi": ("pi", "a.jsonl", _NO_SYSTEM, _pi),
    "semconv": ("otel", "spans.jsonl", _HELD, _semconv),
    "openinference": ("otel", "spans.jsonl", _HELD, _openinference),
    "openllmetry": ("otel", "spans.jsonl", _HELD, _openllmetry),
    "langfuse": ("langfuse", "trace.json", _HELD, _langfuse),
    "litellm": ("litellm", "payloads.jsonl", _HELD, _litellm),
    "mlflow": ("mlflow", "trace.json", _HELD, _mlflow),
    "langsmith": ("langsmith", "runs.jsonl", _HELD, _langsmith),
    "atif": ("atif", "trajectory.json", _HELD, _atif),
    "swe_agent": ("swe_agent", "x.traj", _HELD, _swe_agent),
    "mini": ("mini_swe_agent", "x.traj.json", _HELD, _mini),
    "tau_bench": ("tau_bench", "results.json", _HELD, _tau),
    "openhands": ("openhands", "events.jsonl", _HELD, _openhands),
    "openai": (
        "chat_dataset",
        "train.jsonl",
        _HELD,
        lambda talk, _: _lines({"messages": [*talk.messages, talk.reply]}),
    ),
    "sharegpt": ("chat_dataset", "data.json", ("system", "question", "command", "result", "answer"), _sharegpt),
    "alpaca": (
        "chat_dataset",
        "data.json",
        ("question", "answer"),
        lambda talk, _: orjson.dumps([{"instruction": talk.question, "input": "", "output": talk.answer}]),
    ),
    "preference": (
        "chat_dataset",
        "pairs.jsonl",
        ("question", "answer", "thought"),
        lambda talk, _: _lines({"prompt": talk.question, "chosen": talk.answer, "rejected": talk.thought}),
    ),
} | NEIGHBOURS
