"""The receiver of spans: what OpenTelemetry's own exporter sends becomes turns."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.serving.gateway.gateway import Limits
from grokora_pipeline_tests.gateway import Running, Setup
from grokora_pipeline_tests.unit.session_logs import run, turns

pytestmark = pytest.mark.xdist_group("serving")
AGENTS = [AgentSpec(name="actor", description="acts")]
SECRET = "hunter2correct9"
ASKED = [{"role": "user", "parts": [{"type": "text", "content": f"Log in with password={SECRET} and list the files"}]}]
CALL = {"type": "tool_call", "id": "t1", "name": "bash", "arguments": {"command": "ls"}}
ANSWERED = [{"role": "assistant", "parts": [CALL], "finish_reason": "tool_calls"}]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with Setup(tmp_path, AGENTS, limits=Limits(body_bytes=50_000)).running() as found:
        yield found


def work(running: Running, compression: Compression) -> str:
    """An agent's span with a model call and a tool's span in it, exported; the trace's id."""
    exporter = OTLPSpanExporter(f"{running.url}/v1/traces", compression=compression)
    provider = TracerProvider(resource=Resource({"service.name": "swarm"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("an instrumentation")
    with tracer.start_as_current_span("invoke_agent actor") as agent:
        agent.set_attribute("gen_ai.agent.name", "actor")
        with tracer.start_as_current_span("chat grok-4") as model:
            model.set_attribute("gen_ai.operation.name", "chat")
            model.set_attribute("gen_ai.response.model", "grok-4")
            model.set_attribute("gen_ai.input.messages", json.dumps(ASKED))
            model.set_attribute("gen_ai.output.messages", json.dumps(ANSWERED))
        with tracer.start_as_current_span("execute_tool bash") as tool:
            tool.set_attribute("gen_ai.tool.call.id", "t1")
            tool.set_attribute("gen_ai.tool.call.result", "a.txt")
            tool.set_attribute("api_key", "a bare value 1234")
    provider.shutdown()
    return f"{agent.get_span_context().trace_id:032x}"


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_spans_of_the_opentelemetry_sdk_become_turns_without_secrets(
    tmp_path: Path, running: Running, compression: Compression
) -> None:
    trace = work(running, compression)
    files = list((running.recordings / "traces").glob("*/*.jsonl"))
    assert [path.stem for path in files] == [trace]
    stored = files[0].read_text()
    assert SECRET not in stored
    assert "a bare value 1234" not in stored
    report = run(running.recordings, tmp_path / "turns", agents=AGENTS)
    assert report.quarantine == []
    [turn] = turns(tmp_path / "turns")
    assert (turn["agent"], turn["session_id"], turn["model"]) == ("actor", trace, "grok-4")
    assert turn["source_format"].startswith("otel")
    assert turn["result_known"]
    assert '"name":"bash"' in turn["completion"].replace(" ", "")
    assert "list the files" in turn["prompt"]


def send(running: Running, content: bytes, kind: str = "application/json", **headers: str) -> httpx.Response:
    return httpx.post(f"{running.url}/v1/traces", content=content, headers={"content-type": kind, **headers})


def span(trace: str, **more: Any) -> dict[str, Any]:
    own = {"traceId": trace, "spanId": "2" * 16, "name": "chat", "startTimeUnixNano": "1700000000000000000"}
    return {"resourceSpans": [{"scopeSpans": [{"spans": [own | more]}]}]}


def test_json_is_received_too_and_a_trace_id_is_never_a_path(running: Running) -> None:
    reply = send(running, orjson.dumps(span("../../out")))
    assert (reply.status_code, reply.json()) == (200, {})
    [file] = (running.recordings / "traces").glob("*/*.jsonl")
    assert file.parent.parent == running.recordings / "traces"
    assert not list(running.recordings.parent.parent.glob("out*"))


@pytest.mark.parametrize(
    ("content", "kind", "encoding", "status"),
    [
        (b"{", "application/json", "", 400),
        (b'{"resourceSpans": 5}', "application/json", "", 400),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{}]}]}]}', "application/json", "", 400),
        (b"\xff\xff", "application/x-protobuf", "", 400),
        (b"no gzip", "application/json", "gzip", 400),
        (gzip.compress(b"x" * 1_000_000, mtime=0), "application/json", "gzip", 413),
        (b"x" * 60_000, "application/x-protobuf", "", 413),
        (b"{}", "text/plain", "", 415),
    ],
)
def test_what_is_no_export_is_refused_and_leaves_nothing(
    running: Running, content: bytes, kind: str, encoding: str, status: int
) -> None:
    headers = {"content-encoding": encoding} if encoding else {}
    refused = send(running, content, kind, **headers)
    assert (refused.status_code, "error" in refused.json()) == (status, True)
    assert not list(running.recordings.rglob("*.jsonl"))


def test_an_export_of_more_traces_than_a_collector_sends_makes_no_file(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grokora_pipeline.serving.gateway.traces.MOST_TRACES", 2)
    many = {"resourceSpans": [one for trace in "abc" for one in span(trace * 32)["resourceSpans"]]}
    refused = send(running, orjson.dumps(many))
    assert (refused.status_code, "3 traces, more than 2" in refused.text) == (413, True)
    assert not list(running.recordings.rglob("*.jsonl"))
