"""`POST /v1/traces`: spans of instrumented agents (OTLP over HTTP, JSON or protobuf) become logs that ingest reads.

A file a trace, below `traces` in the folder of recordings, a line an export; written and redacted as recordings are. A
span keeps its place in OTLP's JSON, but its attributes are a mapping: redaction knows by its name what `api_key` holds.
"""

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

import orjson
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.requests import Request
from starlette.responses import Response

from grokora_pipeline.serving.gateway.gateway import Gateway, content_type
from grokora_pipeline.serving.gateway.protocol import ApiError, Json, read_object
from grokora_pipeline.serving.gateway.sessions import session_name
from grokora_pipeline.sessions.readers.otel import attributes_of

_JSON, _PROTOBUF = "application/json", "application/x-protobuf"
_IDS = ("traceId", "spanId", "parentSpanId")
MOST_TRACES = 8192  # of an export, a file each: as many spans as an OpenTelemetry collector sends at once


async def receive(gateway: Gateway, request: Request) -> Response:
    """The endpoint; answers when all spans are on the disk, so that an exporter that gets an error sends them again."""
    raw = await gateway.read_body(request, gateway.limits.body_bytes, kinds=(_JSON, _PROTOBUF))
    kind = content_type(request)
    export = await asyncio.to_thread(_from_protobuf if kind == _PROTOBUF else read_object, raw)
    try:
        traces = await asyncio.to_thread(by_trace, export)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ApiError(400, "The body is no OTLP export of spans.", code="invalid_value") from error
    if len(traces) > MOST_TRACES:
        text = f"The body holds spans of {len(traces)} traces, more than {MOST_TRACES}; export fewer at once."
        raise ApiError(413, text, code="request_too_large")
    written = [gateway.traces.append(session_name(trace), line) for trace, line in traces.items()]
    try:
        await asyncio.gather(*map(asyncio.wrap_future, written))
    except OSError as error:  # 503 is what exporters try again
        raise ApiError(503, "The spans could not be written; the log says why.", code="not_recorded") from error
    return Response(b"{}" if kind == _JSON else b"", media_type=kind)


def by_trace(export: Json) -> dict[str, Json]:
    """The export cut by trace id, each part an export of its own. Raises TypeError or its kin for another shape."""
    traces: dict[str, Json] = {}
    for resource in export.get("resourceSpans") or ():
        shared = {"attributes": attributes_of((resource.get("resource") or {}).get("attributes"))}
        for scope in resource.get("scopeSpans") or ():
            spans: dict[str, list[Json]] = {}
            for span in scope.get("spans") or ():
                spans.setdefault(str(span["traceId"]), []).append(_plain(span))
            for trace, own in spans.items():
                part = {"resource": shared, "scopeSpans": [{"scope": scope.get("scope"), "spans": own}]}
                traces.setdefault(trace, {"resourceSpans": []})["resourceSpans"].append(part)
    return traces


def _plain(span: Mapping[str, Any]) -> Json:
    """The span with mappings as attributes, also of its events."""
    plain = {**span, "attributes": attributes_of(span.get("attributes"))}
    if events := span.get("events"):
        plain["events"] = [{**event, "attributes": attributes_of(event.get("attributes"))} for event in events]
    return plain


def _from_protobuf(raw: bytes) -> Json:
    """OTLP's JSON of its protobuf form: protobuf's own JSON writes ids in base64, OTLP's in hexadecimal."""
    try:
        export: Json = MessageToDict(ExportTraceServiceRequest.FromString(raw), use_integers_for_enums=True)
    except DecodeError as error:
        raise ApiError(400, "The body is no protobuf of an OTLP export of spans.", code="invalid_value") from error
    scopes = (scope for resource in export.get("resourceSpans", ()) for scope in resource.get("scopeSpans", ()))
    for span in (span for scope in scopes for span in scope.get("spans", ())):
        span |= {name: base64.b64decode(span[name]).hex() for name in _IDS if name in span}
    return read_object(orjson.dumps(export))
