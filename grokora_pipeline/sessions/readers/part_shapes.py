"""Parts of messages as platforms wrap them, in the names that the lowering reads: text, thoughts, calls, results.

A part is never guessed at. What no entry here knows is no text and no picture either; the lowering marks its message.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

Part = Mapping[str, Any]
# Parts that hold something other than text, which is replaced by a placeholder. `Image`, `image_url`, `input_audio`,
# Gemini's `inlineData`, OTel's `blob` and `uri` …
MEDIA = re.compile(
    r"image|picture|photo|screenshot|audio|sound|video|file|document|pdf|binary|blob|uri|media|inline_?data"
)
# Book-keeping of a chat program that the model never saw as a part of the message.
_SILENT = {
    "step-finish",
    "finish",
    "snapshot",
    "patch",
    "compaction",
    "agent",
    "retry",
    "subtask",
    "citation",
    "cache_point",
}
_SILENT |= {"source-url", "source-document", "cachepoint", "token_count", "inlinereference", "undostop"}
_SILENT |= {"usage"}
# How Rust's programs (Zed, Amazon Q) write a part: as the one member of an object, whose name is its kind.
_TAGS = {"Text": "text", "Mention": "text", "Image": "image", "Thinking": "thinking", "ToolUse": "tool_use"}
_TAGS |= {"ToolResult": "tool_result", "RedactedThinking": "redacted_thinking"}


def is_media(part: Part) -> bool:
    """Whether a part that is no text holds a picture, a sound or a file."""
    kind = part.get("type")
    names = [str(kind)] if kind else list(part)
    return any(MEDIA.search(str(name).lower()) for name in names)


def lower_names(value: Part) -> dict[str, Any]:
    """An object whose members have names as .NET writes them (`FunctionName`), as others do (`functionName`)."""
    return {name[:1].lower() + name[1:]: one for name, one in value.items()}


def known_parts(part: Part) -> Sequence[Part]:
    """The parts that a part stands for, in known names; itself if it is none of the shapes below.

    A call and its result in one part (opencode, the Vercel AI SDK's UI messages) become two; the call says `paired`.
    """
    part = _untagged(part)
    kind = next(
        (
            str(part[key])
            for key in ("type", "part_kind", "block_type", "$type", "kind", "content_type")
            if part.get(key)
        ),
        "",
    )
    if kind.lower() in _SILENT or kind.startswith("data-"):
        return ()
    if part.keys() == {"type", "data"} and isinstance(part["data"], Mapping):  # Crush
        return known_parts({"type": kind, **part["data"]})
    if part.get("state") in ("streaming", "input-streaming"):  # it was saved before its end
        return ({"type": "unfinished"},)
    told = _mapping(part.get("tool_call"))
    if kind == "tool_call" and told.get("output") is not None:  # LibreChat
        return _call_and_result({**told, "toolCallId": told.get("id")}, told.get("name"))
    if kind == "tool-invocation" and isinstance(part.get("toolInvocation"), Mapping):
        return _call_and_result(part["toolInvocation"], part["toolInvocation"].get("toolName"))
    if kind == "dynamic-tool" or (kind.startswith("tool-") and "state" in part):
        return _call_and_result(part, part.get("toolName") or kind.removeprefix("tool-"))
    if kind == "tool" and isinstance(part.get("state"), Mapping):  # opencode
        state = {**part["state"], "toolCallId": part.get("callID")}
        return _call_and_result({**state, "state": state.get("status")}, part.get("tool"))
    wrapped = next((key for key in ("toolUse", "toolRequest", "tool_call") if isinstance(part.get(key), Mapping)), "")
    if wrapped and kind in ("", "toolUse"):  # Bedrock, Haystack
        return ({"type": "tool_use", **part[wrapped]},)
    if kind == "toolRequest":  # Goose, which keeps an error in the place of what it could not make a call of
        call = _mapping(part.get("toolCall"))
        named = {"type": "tool_use", "id": part.get("id"), **_mapping(call.get("value"))}
        return ({"type": "lost_call"} if "error" in call else named,)
    result = _result(part, kind)
    if result is not None:
        return (result,)
    if isinstance(part.get("reasoningContent"), Mapping):  # Bedrock
        return ({"type": "reasoning", **_mapping(part["reasoningContent"].get("reasoningText"))},)
    if not kind and isinstance(part.get("name"), str) and isinstance(part.get("arguments"), str | Mapping):  # AutoGen
        return ({"type": "tool_use", **part},)
    return ({**part, "type": kind},) if kind and "type" not in part else (part,)  # Pydantic AI's `part_kind` …


def _untagged(part: Part) -> Part:
    """A part as Rust's and .NET's programs write it, with its kind in `type`; any other part as it is."""
    tag = str(next(iter(part))) if len(part) == 1 else ""
    if tag in _TAGS:
        member = "data" if tag == "RedactedThinking" else "text"
        return {**(body if isinstance(body := part[tag], Mapping) else {member: body}), "type": _TAGS[tag]}
    if tag == "Json":
        return {"json": part[tag]}
    if "$type" not in part:
        return part
    own = lower_names(part)  # Semantic Kernel's `FunctionCallContent`, `functionCall` of the newer libraries
    name = "-".join(str(own[key]) for key in ("pluginName", "functionName") if own.get(key)) or own.get("name")
    kind = str(part["$type"]).removesuffix("Content")
    return {**own, "name": name, "type": kind[:1].lower() + kind[1:]}


def _result(part: Part, kind: str) -> Part | None:
    """A tool's result in one of the shapes that wrap it; None for anything else."""
    for key in ("toolResult", "tool_call_result", "toolResponse"):
        body = _mapping(part.get(key))
        if not body or kind not in ("", "toolResponse"):
            continue
        value = body.get("value", body.get("content", body.get("result", body.get("output", body.get("error")))))
        content = value.get("content", value) if isinstance(value, Mapping) else value
        failed = body.get("status") == "error" or body.get("error") is True or _mapping(value).get("isError") is True
        call = body.get("toolUseId") or body.get("ref") or part.get("id") or _mapping(body.get("origin")).get("id")
        return {"type": "tool_result", "tool_use_id": call, "content": content, "is_error": failed}
    run = part.get("run")
    if kind == "tool_result" and isinstance(run, Mapping):  # Amp
        failed = run.get("status") != "done"
        value = next((run[key] for key in ("result", "error", "reason") if run.get(key) is not None), "")
        value = value.get("message", value) if failed and isinstance(value, Mapping) else value
        return {"type": "tool_result", "tool_use_id": part.get("toolUseID"), "content": value, "is_error": failed}
    if not kind and "call_id" in part and "content" in part:  # AutoGen
        return {"type": "tool_result", **part}
    if kind.endswith("_tool_result") and "tool_use_id" in part:  # tools that the provider itself runs
        return {**part, "type": "tool_result"}
    return None


def _call_and_result(part: Part, name: object) -> Sequence[Part]:
    arguments: Any = next((part[key] for key in ("input", "args", "rawInput") if part.get(key) is not None), {})
    call = {"type": "tool_use", "id": part.get("toolCallId"), "name": name, "input": arguments, "paired": True}
    failed = next((part[key] for key in ("errorText", "error") if part.get(key)), None)
    outcome = failed or next((part[key] for key in ("output", "result") if part.get(key) is not None), None)
    if outcome is None:
        return (call,)
    result = {"type": "tool_result", "tool_use_id": part.get("toolCallId"), "content": outcome}
    return (call, {**result, "is_error": bool(failed)})


def _mapping(value: object) -> Part:
    return value if isinstance(value, Mapping) else {}
