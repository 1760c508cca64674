"""OpenTelemetry: OTLP JSON spans of GenAI calls, in the dialects that are in use.

- the semantic conventions of today (`gen_ai.input.messages`, …), also uploaded beside the spans (`…_ref`)
- those up to 1.36, where messages are events (`gen_ai.user.message`, `gen_ai.choice`): of the span, or log records
- OpenInference (`llm.input_messages.N.message.…`), as Phoenix and Arize record
- OpenLLMetry (`gen_ai.prompt.N.…`), as Traceloop's packages recorded until 2026
- the Vercel AI SDK (`ai.prompt.messages`, `ai.response.…`)

They arrive as OTLP JSON, as Jaeger, Tempo and Genkit keep it, as Phoenix exports spans, as an SDK prints them, or as
rows of whatever holds traces (ClickHouse, Zipkin, Honeycomb, Elastic, log services), which name their columns anyhow.

Contents are off by default in most of them. Spans come in any order, children first.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePosixPath
from sys import intern
from typing import Any, NamedTuple
from urllib.parse import unquote, urlparse

import orjson

from grokora_pipeline.models.messages import Message
from grokora_pipeline.sessions.readers.bodies import exchange
from grokora_pipeline.sessions.readers.common import Source, UnreadableError, first_of, is_error, name_text, to_utc
from grokora_pipeline.sessions.readers.documents import (
    Json,
    Packer,
    Record,
    as_json,
    as_list,
    as_object,
    digest,
    is_cut_json,
    moment,
    objects_in,
    peek,
    peek_objects,
    records,
    unpack,
)
from grokora_pipeline.sessions.readers.lowering import (
    ended_early,
    lower_all,
    lower_tools,
    results_after,
    starts_midway,
    turn,
    with_system,
)
from grokora_pipeline.sessions.readers.outcomes import scored, scores_in
from grokora_pipeline.sessions.readers.source import DAMAGED
from grokora_pipeline.sessions.turns import Item, Problem, Skipped, Status, Verdict

NO_CONTENT = (
    "the spans hold no contents: content capture was off; switch it on "
    "(OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true, or your SDK's own switch) or record at the gateway"
)
ONLY_AGENTS = "only spans of agents hold contents, none of a model's call does; trace the model's client, too"
_MODEL = "langfuse.observation.model.name"
_LLM = {"chat", "text_completion", "generate_content", "completion", "ai.generateText.doGenerate"}
_LLM |= {"ai.streamText.doStream", "ai.generateObject.doGenerate", "ai.streamObject.doStream"}
_AGENT_NAMES = ("gen_ai.agent.name", "agent.name", "ai.telemetry.functionId", "traceloop.entity.name", "graph.node.id")
_SESSION_NAMES = (
    *("gen_ai.conversation.id", "session.id", "traceloop.association.properties.session_id", "langfuse.session.id"),
    *("gcp.vertex.agent.session_id", "ai.telemetry.metadata.sessionId", "thread.id", "genkit:sessionId"),
)
_RESOURCES = ("resourceSpans", "resource_spans", "batches", "resourceLogs", "resource_logs")
_MESSAGES = ("gen_ai.system_instructions", "gen_ai.input.messages", "gen_ai.output.messages")
# Whole bodies of requests and replies: OpenInference (some instrumentations), Google's ADK, Langfuse's SDK.
_BODIES = (
    ("input.value", "output.value"),
    ("gcp.vertex.agent.llm_request", "gcp.vertex.agent.llm_response"),
    ("langfuse.observation.input", "langfuse.observation.output"),
    ("genkit:input", "genkit:output"),
)
_WHOLE_CALL = "gen_ai.client.inference.operation.details"  # since 1.37, the contents may be attributes of one event
_SCORES = ("gen_ai.evaluation.score.label", "gen_ai.evaluation.score.value")
_REFERRED = (*_MESSAGES, "gen_ai.tool.definitions")
_CONTENT = re.compile(r"content|messages?\b|prompt|completion|input|output|text|arguments")
_SHORTEST_LIMIT = 64  # characters; below that an answer means nothing, and two names are of one length by chance
_EVENT_ROLES = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}


def looks_like(head: bytes) -> bool:
    """Whether the first record is an OTLP export of spans, or a span as Phoenix exports it."""
    return any(
        not (value.keys() | as_object(value.get("trace")).keys()).isdisjoint(_RESOURCES)
        or _is_phoenix(value)
        or _is_jaeger(value)
        or _is_genkit(value)
        or any(True for _ in _rows(value))
        for value in peek_objects(head)[:4]
    )


def _is_phoenix(value: Json) -> bool:
    """Whether it is one span: as Phoenix exports it, as an SDK prints it, or as a row of Logfire's."""
    ids = value.keys() | as_object(value.get("context")).keys()
    return "context.span_id" in value or ("attributes" in value and {"span_id", "trace_id"} <= ids)


def _is_jaeger(value: Json) -> bool:
    return "traceID" in value and isinstance(value.get("spans"), list)


def _is_genkit(value: Json) -> bool:
    return "traceId" in value and isinstance(value.get("spans"), dict)


# Attributes in a row of a table of spans, in whatever member they stand, and those that tell a call of a model.
_ROW = re.compile(
    r"^(?:[^.]+\.){0,2}?((?:gen_ai|llm|ai|openinference|traceloop|langfuse|session|input|output|agent)\..+)"
)
_TELLING = re.compile(
    r"gen_ai\.(?:operation|request|prompt|input)\b|llm\.(?:input_messages|request\.type)|ai\.operationId"
)
_COLUMNS = {
    "trace_id": ("traceId", "trace_id", "TraceId", "trace.trace_id", "trace.id", "operation_Id", "trace"),
    "span_id": ("spanId", "span_id", "SpanId", "trace.span_id", "span.id", "id"),
    "parent_id": (
        "parentSpanId",
        "parent_span_id",
        "ParentSpanId",
        "trace.parent_id",
        "parent.id",
        "operation_ParentId",
    ),
    "name": ("name", "SpanName", "span_name", "span.name"),
    "status_code": ("StatusCode", "status_code"),
}


def _rows(value: Json) -> Iterator[Json]:
    """The spans of a row, or of a trace's rows, as a database of traces, a log service or a platform exports them."""
    for row in objects_in(value.get("spans")) or [value]:
        flat = dict(_flat("", {key: as_object(one) or one for key, one in row.items()}))
        attributes = {match[1]: one for key, one in flat.items() if (match := _ROW.match(key))}
        if any(map(_TELLING.match, attributes)):
            told = {own: first_of(flat, *names) for own, names in _COLUMNS.items()}
            failed = name_text(told["status_code"]).upper().removeprefix("STATUS_CODE_")
            yield {**told, "status_code": failed, "start_time": moment(row), "attributes": attributes}


class Span(NamedTuple):
    """One span: ids, times, attributes and events as plain values."""

    trace: str
    own: str
    parent: str
    name: str
    started: str
    attributes: Json
    events: list[tuple[str, Json]]
    failed: bool
    line: int
    judged: Json | None = None  # what a platform exports beside the attributes: annotations


Key = tuple[str, str]  # a span's trace and its own id


class _Above(NamedTuple):
    """What spans below a span may inherit of it."""

    parent: Key
    session: str
    agent: str
    failed: bool


class _TracedCall(NamedTuple):
    """A model call. Its messages are kept once and packed, however many prompts repeat them; these are their names."""

    key: Key
    started: str
    line: int
    number: int
    problem: str
    has_prompt: bool
    has_answer: bool
    failed: bool
    lengths: frozenset[int]  # of its texts, one of which an SDK may have cut
    prompt: list[bytes]
    rest: bytes


class _Calls:
    """The calls of some spans, which come in any order, children first."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._above: dict[Key, _Above] = {}
        self._calls: list[_TracedCall] = []
        self._judged: list[tuple[str, int, Key, int | None, Status]] = []
        self._results: dict[str, bool] = {}  # of the calls of tools: whether they failed, as the tools' spans say
        self._shown: dict[str, bool] = {}  # and as prompts show it
        self._longest, self._texts = _SHORTEST_LIMIT, set[str]()
        self._agents_speak = False
        self._kept: dict[bytes, bytes] = {}
        self._packer = Packer("a file has too many calls; export it in several, each trace whole in one")

    def unread(self) -> set[Key]:
        """The nearest spans above calls that were not read."""
        chains = (list(self._chain(call.key)) for call in self._calls)
        return {keys[-1] for keys in chains if keys[-1][1] and keys[-1] not in self._above}

    def add_above(self, span: Span, unread: set[Key]) -> set[Key]:
        """Take in what calls inherit of a span; what is still unread then."""
        key = self._inherit(span)
        above = {one for one in [self._above[key].parent] if one[1] and one not in self._above}
        return (unread - {key}) | above if key in unread else unread

    def _chain(self, key: Key) -> Iterator[Key]:
        """A span, and those above it as far as they are known, with the first one that is not."""
        for _ in range(64):  # a chain of parents that leads in a circle ends here
            yield key
            if (above := self._above.get(key)) is None:
                break
            key = above.parent

    def _inherit(self, span: Span) -> Key:
        """Keep what spans below a span may inherit of it; its key."""
        key = (trace := intern(span.trace), intern(span.own))
        session, agent = (name_text(first_of(span.attributes, *names)) for names in (_SESSION_NAMES, _AGENT_NAMES))
        self._above[key] = _Above((trace, intern(span.parent)), intern(session), intern(agent), span.failed)
        return key

    def add(self, span: Span) -> None:
        """Take in a span. Raises UnreadableError if the contents of all calls become too many."""
        key, attributes = self._inherit(span), span.attributes
        self._note_lengths(attributes)
        if call := name_text(first_of(attributes, "gen_ai.tool.call.id", "tool_call.id", "ai.toolCall.id")):
            self._results[call] = span.failed
        judged = [one for event, one in span.events if event == "gen_ai.evaluation.result"]
        named = [(one.get("gen_ai.evaluation.name"), first_of(one, *_SCORES)) for one in judged]
        rating, status = scored([*named, *scores_in(span.judged or {})])
        if status != "unknown" or rating is not None:
            self._judged.append((span.started, span.line, key, rating, status))
        if not _is_call(span):
            self._agents_speak = self._agents_speak or not attributes.keys().isdisjoint(_MESSAGES)
            return
        prompt, answer, tools, problem = _contents(self._source, span)
        for message in prompt:
            if message["role"] == "tool":
                self._shown.setdefault(message["tool_call_id"], is_error(message["content"]))
        lengths = frozenset(len(one) for one in attributes.values() if isinstance(one, str))
        contents = [self._keep(message) for message in prompt], self._keep([answer, tools, _facts(span)])
        flags = (problem, bool(prompt), answer is not None, span.failed)
        self._calls.append(_TracedCall(key, span.started, span.line, len(self._calls), *flags, lengths, *contents))

    def _keep(self, value: Any) -> bytes:
        """Pack a value that was not there before; its name."""
        data = orjson.dumps(value)
        name = hashlib.blake2b(data, digest_size=16).digest()
        if name not in self._kept:
            self._kept[name] = self._packer.pack(data)
        return name

    def _note_lengths(self, attributes: Json) -> None:
        """Remember how long the longest text is, and which texts have that length.

        An SDK that cuts attributes (OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT) says nothing of it. But two different contents
        that are both the longest of a file, and no JSON, have been cut.
        """
        for name, text in attributes.items():
            is_long = isinstance(text, str) and len(text) >= self._longest
            if is_long and _CONTENT.search(name) and as_json(text) is text:
                if len(text) > self._longest:
                    self._longest, self._texts = len(text), set()
                self._texts.add(digest(text))

    def items(self) -> Iterator[Item]:
        """The turns, in order of time. Raises UnreadableError if there are calls, and none has contents."""
        if not self._calls and self._agents_speak:
            raise UnreadableError("no_contents", 0, ONLY_AGENTS)
        if not self._calls:
            yield Skipped("no_model_call")
        limit = self._longest if len(self._texts) > 1 else -1
        steps, read_any = Counter[str](), False
        # two instrumentations of one call nest: a framework's span wraps that of the provider's client
        inner = {self._above[call.key].parent for call in self._calls if call.has_answer}
        self._results = self._shown | self._results
        for call in sorted(self._calls, key=lambda one: (one.started, one.line, one.number)):
            read_any = read_any or call.has_prompt or call.has_answer or bool(call.problem)
            if call.has_answer and call.key in inner:
                yield Skipped("wraps_another_call")
            elif call.problem:
                yield Problem(call.problem, 0, f"line {call.line}: the uploaded contents are not beside the spans")
            elif not call.has_answer:
                yield Skipped("no_contents" if not call.has_prompt else "no_answer")
            else:
                yield from self._turn(call, steps, limit in call.lengths)
        for _, _, key, rating, status in sorted(self._judged, key=lambda one: one[:2]):  # of any span of a session
            yield Verdict(self._inherited(key, "session") or key[0], status=status, rating=rating)
        if self._calls and not read_any:
            raise UnreadableError("no_contents", 0, NO_CONTENT)

    def _turn(self, call: _TracedCall, steps: Counter[str], is_cut: bool) -> Iterator[Item]:
        *prompt, (answer, tools, facts) = (unpack(self._kept[name]) for name in (*call.prompt, call.rest))
        session = self._inherited(call.key, "session") or call.key[0]
        known, failed = results_after(answer, ())
        ids = [one["id"] for one in answer.get("tool_calls") or ()]
        if ids and all(one in self._results for one in ids):
            known, failed = True, any(self._results[one] for one in ids)
        yield from turn(
            self._source,
            prompt,
            answer,
            session_id=session,
            parent_session_id="",
            agent=self._inherited(call.key, "agent"),
            step=steps[session],
            started_at=call.started,
            line=call.line,
            tools=tools,
            completeness="cut" if is_cut or facts["cut"] else "delta" if prompt and starts_midway(prompt) else "whole",
            model=facts["model"],
            call=":".join(call.key),
            trace=call.key[0],
            result_known=known,
            status="failure" if self._inherited(call.key, "failed") else "unknown",
            step_failed=call.failed or failed or facts["ended_early"],
        )
        steps[session] += 1

    def _inherited(self, key: Key, name: str) -> str:
        """What a span, or the nearest span above it that says so, says of its session, its agent or a failure."""
        values = (getattr(self._above.get(one), name, "") for one in self._chain(key))
        return next((str(value) for value in values if value), "")


def read(source: Source) -> Iterator[Item]:
    """A turn a model call of the file, in order of time."""
    calls = _Calls(source)
    for record in records(source):
        if isinstance(record, Problem):
            yield record
        elif isinstance(record.value, dict):
            for span in _spans(record):
                calls.add(span)
    # A span is written when it ends, so a rotated file lacks those that were still open. What is wrong with the file
    # that continues it is told where that is read itself.
    unread = calls.unread()
    if source.newer is not None and unread:
        newer = replace(source, path=source.newer, size=source.newer_size, growing=True, older=(), newer=None)
        with suppress(UnreadableError, *DAMAGED):
            for record in records(replace(newer, data=None)):
                for span in _spans(record) if isinstance(record, Record) and isinstance(record.value, dict) else ():
                    unread = calls.add_above(span, unread)
                if not unread:
                    break
    source.open_ends.extend(name for _, name in sorted(unread))
    yield from calls.items()


def calls(source: Source, spans: Iterable[Span]) -> Iterator[Item]:
    """The turns of some spans. Raises UnreadableError if there are calls, and none has contents."""
    traced = _Calls(source)
    for span in spans:
        traced.add(span)
    yield from traced.items()


def _facts(span: Span) -> Json:
    """What a call's own attributes say of its answer: who gave it, and whether it, or what was recorded, is cut."""
    attributes = span.attributes
    models = ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name", "ai.model.id", _MODEL)
    names = ("gen_ai.response.finish_reasons", "gen_ai.completion.0.finish_reason", "ai.response.finishReason")
    reason = first_of(attributes, *names, "llm.finish_reason")
    reasons = reason if isinstance(reason, list) else as_list(reason) or [reason]
    texts = (attributes.get(name) for name in (*_MESSAGES, "ai.prompt.messages", "input.value"))
    return {
        "model": name_text(first_of(attributes, *models)),
        "ended_early": any(ended_early({"finish_reason": one}) for one in reasons),
        "cut": any(map(is_cut_json, texts)),
    }


def _is_call(span: Span) -> bool:
    attributes = span.attributes
    kind = first_of(attributes, "gen_ai.operation.name", "ai.operationId", "llm.request.type", "operation.name")
    if "langfuse.observation.type" in attributes:
        return bool(attributes["langfuse.observation.type"] == "generation")
    if "genkit:type" in attributes:
        return bool(attributes.get("genkit:metadata:subtype") == "model")
    if "openinference.span.kind" in attributes:
        return bool(attributes["openinference.span.kind"] == "LLM")
    if kind is not None:
        return str(kind).split(" ")[0] in _LLM
    return any(name.startswith(("gen_ai.prompt.", "gen_ai.completion.", "llm.input_messages.")) for name in attributes)


def _contents(source: Source, span: Span) -> tuple[list[Message], Message | None, list[Json] | None, str]:
    """Prompt, answer (None without one), tools, and what is wrong with contents that were uploaded."""
    attributes = dict(span.attributes)
    for event, values in span.events:
        if event == _WHOLE_CALL:
            attributes |= values
    for name in _REFERRED:
        reference = attributes.get(f"{name}_ref")
        if name not in attributes and reference:
            content = _beside(source, name_text(reference))
            if content is None:
                return [], None, None, "contents_missing"
            attributes[name] = content
    tools = lower_tools(as_json(first_of(attributes, "gen_ai.tool.definitions", "ai.prompt.tools", "llm.tools")))
    pydantic = as_object(attributes.get("model_request_parameters"))
    tools = tools or lower_tools(
        [tool for key in ("function_tools", "output_tools") for tool in as_list(pydantic.get(key))]
    )
    if "gen_ai.input.messages" in attributes or "gen_ai.output.messages" in attributes:
        system = as_json(attributes.get("gen_ai.system_instructions"))
        prompt = lower_all([{"role": "system", "parts": system}] if system else [])
        prompt = lower_all([*prompt, *as_list(attributes.get("gen_ai.input.messages"))])
        return prompt, _answer(as_list(attributes.get("gen_ai.output.messages"))), tools, ""
    if "ai.prompt.messages" in attributes:
        text = name_text(first_of(attributes, "ai.response.text", "ai.result.text", "ai.response.object"))
        calls_made = as_list(first_of(attributes, "ai.response.toolCalls", "ai.result.toolCalls"))
        answer = _answer([{"role": "assistant", "content": text, "tool_calls": calls_made}])
        return lower_all(as_list(attributes["ai.prompt.messages"])), answer, tools, ""
    for inputs, outputs in (("llm.input_messages", "llm.output_messages"), ("gen_ai.prompt", "gen_ai.completion")):
        if any(name.startswith(f"{inputs}.") for name in attributes):
            tools = tools or lower_tools(
                _numbered(attributes, "llm.tools") or _numbered(attributes, "llm.request.functions")
            )
            # Anthropic's system prompt is a parameter of the call
            parameters = as_object(attributes.get("llm.invocation_parameters"))
            prompt = with_system(lower_all(map(_with_parts, _numbered(attributes, inputs))), parameters)
            return prompt, _answer([_with_parts(one) for one in _numbered(attributes, outputs)]), tools, ""
    if "gen_ai.prompt" in attributes:  # messages, or (Spring AI) texts alone, whose roles nobody knows
        prompt = lower_all(objects_in(attributes["gen_ai.prompt"]))
        said = as_json(attributes.get("gen_ai.completion"))
        message = next((one for one in objects_in(said) if "role" in one or "content" in one), {"content": said})
        return prompt, _answer([{**message, "role": "assistant"}]), tools, ""
    for asked, said in _BODIES:
        if asked in attributes:
            request = as_json(attributes[asked])
            request = {"messages": request} if isinstance(request, list) else request
            call = exchange(request if isinstance(request, dict) else {}, as_json(attributes.get(said)))
            return call.prompt, call.answer, tools or call.tools, ""
    events = [(name_text(one.get("event.name")), one) for one in as_list(attributes.get("events"))]  # Pydantic AI
    prompt, answer = _events(events or span.events)
    return prompt, answer, tools, ""


def _answer(messages: list[Any]) -> Message | None:
    lowered = [one for one in lower_all(messages[:1]) if one["role"] == "assistant"]
    return lowered[0] if lowered else None


def _events(events: list[tuple[str, Json]]) -> tuple[list[Message], Message | None]:
    """Messages that are events; a body may be one attribute or several, a content may be parts as JSON text."""
    prompt: list[Any] = []
    answer: Message | None = None
    for name, attributes in events:
        bodies = (as_object(attributes.get(key)) for key in ("body", "event_body", "gen_ai.event.content"))
        body = next(filter(None, bodies), attributes)
        body = {key: as_json(value) if key in ("tool_calls", "content") else value for key, value in body.items()}
        if name == "gen_ai.choice":
            message = as_json(body.get("message")) or body
            message = message if isinstance(message, dict) else {"content": message}
            answer = answer or _answer([{"finish_reason": body.get("finish_reason"), **message, "role": "assistant"}])
        elif name in _EVENT_ROLES:
            prompt.append({"tool_call_id": body.get("id"), **body, "role": body.get("role") or _EVENT_ROLES[name]})
        elif name == "gen_ai.content.prompt":
            prompt += as_list(attributes.get("gen_ai.prompt"))
        elif name == "gen_ai.content.completion":
            said = attributes.get("gen_ai.completion")
            answer = _answer(as_list(said) or [{"role": "assistant", "content": said}])
    return lower_all(prompt), answer


def _numbered(attributes: Json, prefix: str) -> list[Any]:
    """The list behind attributes such as `llm.input_messages.0.message.role`, nested as deep as they say."""
    tree: dict[str, Any] = {}
    for name, value in attributes.items():
        if name.startswith(f"{prefix}."):
            node = tree
            *path, last = name[len(prefix) + 1 :].split(".")
            for part in path:
                child = node.get(part)
                node[part] = node = child if isinstance(child, dict) else {}
            node[last] = value
    return _plain(tree) if isinstance(_plain(tree), list) else []


def _with_parts(message: Any) -> Any:
    """A message whose content is parts as JSON text, as OpenLLMetry writes them."""
    parts = as_json(message.get("content")) if isinstance(message, dict) else None
    is_parts = isinstance(parts, list) and parts and all("type" in as_object(part) for part in parts)
    return {**message, "content": parts} if is_parts else message


def _plain(node: Any) -> Any:
    """A tree with numbers as keys as lists; OpenInference's wrappers (`message`, `tool_call`, `tool`) are taken off."""
    if not isinstance(node, dict):
        return node
    if node and all(key.isdigit() for key in node):
        return [_plain(node[key]) for key in sorted(node, key=int)]
    plain = {key: _plain(value) for key, value in node.items()}
    for wrapper in ("message", "tool_call", "message_content"):
        if list(plain) == [wrapper]:
            return plain[wrapper]
    if "json_schema" in (tool := as_object(plain.get("tool"))):
        return as_json(tool["json_schema"])
    if "contents" in plain and "content" not in plain:
        plain["content"] = plain.pop("contents")
    return plain


def _spans(record: Record) -> Iterator[Span]:
    if _is_jaeger(record.value):
        for span in _dicts(record.value, "spans"):
            parent = next((one.get("spanID") for one in _dicts(span, "references")), "")
            names = {"trace_id": span.get("traceID"), "span_id": span.get("spanID"), "parent_id": parent}
            yield span_of({**span, **names, "attributes": span.get("tags")}, record.number)
    elif _is_genkit(record.value):
        for span in map(as_object, record.value["spans"].values()):
            name = name_text(as_object(span.get("attributes")).get("genkit:name"))
            attributes = {"gen_ai.request.model": name.rpartition("/")[2], **as_object(span.get("attributes"))}
            yield span_of({**span, "attributes": attributes}, record.number)
    elif _is_phoenix(span := record.value):
        columns = {key.removeprefix("attributes."): one for key, one in span.items() if key.startswith("attributes.")}
        ids = {key: span.get(f"context.{key}") for key in ("trace_id", "span_id") if f"context.{key}" in span}
        attributes = dict(_flat("", columns or as_object(span.get("attributes"))))
        yield span_of({**span, **ids, "attributes": attributes}, record.number)
    elif (record.value.keys() | as_object(record.value.get("trace")).keys()).isdisjoint(_RESOURCES):
        for number, row in enumerate(_rows(record.value)):
            yield span_of({**row, "span_id": row["span_id"] or f"{record.number}-{number}"}, record.number)
    for resource in _dicts(as_object(record.value.get("trace")) or record.value, *_RESOURCES):
        shared = attributes_of(as_object(resource.get("resource")).get("attributes"))
        for scope in _dicts(resource, "scopeLogs", "scope_logs"):
            yield from _log_spans(_dicts(scope, "logRecords", "log_records"), record.number)
        for scope in _dicts(resource, "scopeSpans", "scope_spans", "instrumentationLibrarySpans"):
            for span in _dicts(scope, "spans"):
                yield span_of(span, record.number, shared)


def _log_spans(logs: list[Json], line: int) -> Iterator[Span]:
    """A call for each span whose messages are log records, which stand in a file of their own.

    A record with a whole call's contents is one by itself, and so is one of no span: its own number tells it apart.
    """
    calls: dict[tuple[str, str], list[Json]] = {}
    for number, one in enumerate(logs):
        name = name_text(first_of(one, "eventName", "event_name"))
        attributes, body = attributes_of(one.get("attributes")), _value(one.get("body"))
        name = name or name_text(attributes.get("event.name"))
        if not name.startswith("gen_ai."):
            continue
        attributes |= {key: value for key, value in as_object(body).items() if key.startswith("gen_ai.")}
        attributes |= {"body": body} if isinstance(body, dict) else {}
        trace, own = name_text(first_of(one, "traceId", "trace_id")), name_text(first_of(one, "spanId", "span_id"))
        own = f"{own}-{line}-{number}" if not own or (name == _WHOLE_CALL and (trace, own) in calls) else own
        calls.setdefault((trace, own), []).append({"name": name, "attributes": attributes, "record": one})
    for (trace, own), parts in calls.items():
        first = {key: one for key, one in parts[0]["attributes"].items() if key.startswith("gen_ai.")}
        at = to_utc(first_of(parts[0]["record"], "timeUnixNano", "observedTimeUnixNano", "time_unix_nano"))
        events = [(one["name"], one["attributes"]) for one in parts]
        yield Span(trace, own, "", "", at, {"gen_ai.operation.name": "chat"} | first, events, False, line)


def span_of(span: Json, line: int, shared: Json | None = None) -> Span:
    """A span of OTLP JSON, or of a platform that stores its attributes as a mapping."""
    context = as_object(span.get("context"))
    events = [(name_text(one.get("name")), attributes_of(one.get("attributes"))) for one in _dicts(span, "events")]
    status = as_object(span.get("status"))
    started = first_of(span, "startTimeUnixNano", "start_time_unix_nano", "start_time", "startTime", "start_timestamp")
    return Span(
        trace=name_text(first_of(span, "traceId", "trace_id") or context.get("trace_id")),
        own=name_text(first_of(span, "spanId", "span_id") or context.get("span_id")),
        parent=name_text(first_of(span, "parentSpanId", "parent_span_id", "parent_id")),
        name=name_text(span.get("name")),
        started=to_utc(started),
        attributes={key: value for key, value in (shared or {}).items() if key in ("session.id",)}
        | attributes_of(span.get("attributes")),
        events=events,
        failed=status.get("code") in (2, "STATUS_CODE_ERROR", "ERROR")
        or "ERROR" in (span.get("status_code"), span.get("otel_status_code")),
        line=line,
        judged={"annotations": span.get("annotations") or span.get("span_annotations")},
    )


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Attributes of OpenInference that an export nested, under dotted names; schemas and plain lists stay."""
    if isinstance(value, dict) and not name.endswith("json_schema"):
        for key, one in value.items():
            yield from _flat(f"{name}.{key}" if name else key, one)
    elif (
        isinstance(value, list)
        and value
        and not name.endswith(_REFERRED)
        and all(isinstance(one, dict) for one in value)
    ):
        for number, one in enumerate(value):
            yield from _flat(f"{name}.{number}", one)
    else:
        yield name, value


def _dicts(value: Json, *names: str) -> list[Json]:
    listed: list[Any] = next((value[name] for name in names if isinstance(value.get(name), list)), [])
    return [one for one in listed if isinstance(one, dict)]


def attributes_of(attributes: Any) -> Json:
    """Attributes as a mapping; OTLP writes them as a list of keys and typed values."""
    if isinstance(attributes, dict):
        return attributes
    pairs = [one for one in attributes if isinstance(one, dict)] if isinstance(attributes, list) else []
    return {name_text(pair.get("key")): _value(pair.get("value")) for pair in pairs}


def _value(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    for name, inner in value.items():
        if name in ("arrayValue", "array_value"):
            return [_value(one) for one in as_object(inner).get("values", [])]
        if name in ("kvlistValue", "kvlist_value"):
            return attributes_of(as_object(inner).get("values"))
        if name in ("intValue", "int_value") and isinstance(inner, str):
            return int(inner) if inner.lstrip("-").isdigit() else inner
        return inner
    return None


def _beside(source: Source, reference: str) -> Any:
    """The uploaded contents that a span refers to: the file of that name beside the spans. None if it is not there.

    Only the name is taken: a reference is untrusted, and must lead nowhere but to the spans' own folder.
    """
    name = PurePosixPath(unquote(urlparse(reference).path).replace("\\", "/")).name
    path = source.path.with_name(name) if name else source.path
    if not name or path == source.path or path.is_symlink() or not path.is_file():
        return None
    try:
        return orjson.loads(Source(path, name).read(64 << 20))
    except (OSError, ValueError, UnreadableError):
        return None


def is_upload(head: bytes) -> bool:
    """Whether a file holds contents that were uploaded beside spans: messages of parts, instructions or tools alone."""
    values = [value for value in peek(head) if isinstance(value, dict)]
    return bool(values) and all(
        ("parts" in value and "role" in value)
        or set(value) <= {"type", "content"}
        or ({"type", "name", "parameters"} <= set(value) and value["type"] == "function")
        for value in values
    )
