"""The one registry of log formats. A format is known by its content, never by a folder's or a file's name."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from grokora_pipeline.sessions.readers import (
    atif,
    batches,
    chat_datasets,
    claude_code,
    codex,
    collaboration,
    conversations,
    global_log,
    halves,
    instructions,
    langfuse,
    langsmith,
    litellm,
    mlflow,
    openhands,
    otel,
    pi,
    recordings,
    session_json,
    strands,
    swarm,
    trajectories,
)
from grokora_pipeline.sessions.readers.common import UNFORESEEN, json_text
from grokora_pipeline.sessions.readers.documents import as_list, as_object, peek_objects, plain, records
from grokora_pipeline.sessions.readers.source import Source, UnreadableError, is_archive
from grokora_pipeline.sessions.turns import Item, Problem

__all__ = [
    "FORMATS",
    "HEAD_BYTES",
    "Format",
    "Source",
    "UnreadableError",
    "detect",
    "detect_by_line",
    "is_archive",
    "is_companion",
    "nearest",
    "refused",
]

HEAD_BYTES = 64 << 10
_COMPANION_STARTS = (b"Session: ", b"=====")  # v2 session.log, summary.txt
_PROGRAM_LOG = re.compile(rb"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d")  # alerts_*, monitoring_*, automation_*
_COMPANION_KEYS = (
    (b'"api_success_rate"', b'"total_tool_calls"'),  # v1 metrics.json
    (b'"tool_executions"', b'"swarm_mode"'),  # v2 metrics.json
    (b'"agentType"',),  # the file beside a sub-agent's log of Claude Code
    (b'"recommendations"', b'"strengths"'),  # improvement_analysis.json
    (b'"ts"', b'"type"', b'"say"'),  # ui_messages.json of Cline, which says again what its calls say
    (b'"files_in_context"', b'"model_usage"'),  # task_metadata.json of Cline
    (b'"projectID"', b'"directory"', b'"time"'),  # a session of opencode's storage: its messages lie elsewhere
    (b'"messageId"', b'"sessionId"', b'"message"'),  # logs.json of Gemini CLI: the questions alone
    (b'"display"', b'"pastedContents"'),  # history.jsonl of Claude Code, its index and its lists of things to do
    (b'"firstPrompt"', b'"messageCount"'),
    (b'"content"', b'"status"', b'"activeForm"'),
    (b'{"session_id"', b'"ts":', b'"text":'),  # history.jsonl of Codex
    (b'"total_messages"', b'"tools_available"'),  # meta.json of Mistral's Vibe, beside messages.jsonl
    (b'"protocol_version"', b'"TurnBegin"'),  # wire.jsonl of Kimi's CLI, beside context.jsonl
)
# The members that tell them where the bytes alone might be those of a log.
_COMPANION_MEMBERS = (
    {"trial_name", "agent_info"},  # result.json of Harbor, beside the trajectory
    {"agent_id", "conversation_manager_state"},  # agent.json and session.json of Strands, above its messages
    {"session_id", "session_type"},
)
# Known content that holds no calls, or not in a way that can be read: the members that tell it, and what to do.
_REFUSED = (
    ({"sessionID", "messageID"}, "a piece of opencode's storage; `opencode export` writes a session as one file"),
    ({"sessionID", "role"}, "a piece of opencode's storage; `opencode export` writes a session as one file"),
    ({"sessionID", "part"}, "what `opencode run --format json` prints, without the question; use `opencode export`"),
    ({"type", "thread_id"}, "what `codex exec --json` prints; give the rollout file in ~/.codex/sessions"),
    ({"choices", "object"}, "replies without their requests"),
    (
        {"result", "num_turns"},
        "an answer without its question, as `--output-format json` prints it; give its session file",
    ),
    (
        {"response", "stats"},
        "an answer without its question, as `--output-format json` prints it; give its session file",
    ),
    ({"trajectory_steps", "problem_statement"}, "R2E-Gym's steps, without the prompts; give its rows of `messages`"),
    ({"finished", "mode", "startedAt"}, "an execution of n8n, whose prompts are flat text; record at the gateway"),
    (
        {"task_name", "agent"},
        "CrewAI's log, which leaves the prompts out; trace it with OpenTelemetry, or use the gateway",
    ),
    (
        {"source", "models_usage"},
        "what AutoGen's agents said, without their prompts; save the team's state (save_state)",
    ),
    ({"executionId", "chat"}, "what Kiro's window shows, where answers are \"On it.\"; save Kiro's CLI with /save"),
    ({"sessionId", "workspaceDirectory"}, "Kiro's list of a session's questions, without the answers"),
    (
        {"trial_name", "is_resolved"},
        "Terminal-Bench's results; give its agents' trajectories (ATIF, `trajectory.json`)",
    ),
    ({"n_steps", "cum_reward"}, "AgentLab's summary of a run, whose steps are pickles; record at the gateway"),
    ({"object", "output", "model"}, "responses without what they answer; keep the request, or record at the gateway"),
    (
        {"event_id", "type"},
        "events of OpenAI's Realtime API, whose words are sound; record text sessions at the gateway",
    ),
    ({"message_tree_id", "role"}, "a tree of OpenAssistant's; give its rows as conversations (`messages`)"),
    ({"message_tree_id", "prompt"}, "a tree of OpenAssistant's; give its rows as conversations (`messages`)"),
    ({"conversation_a", "conversation_b"}, "an arena's battle; give the winner as `chosen`, the loser as `rejected`"),
    (
        {"method", "params"},
        "what an agent shows over the Agent Client Protocol, without its prompts; give its own session files",
    ),
    ({"rid", "obj"}, "SGLang's dump of requests, whose prompts are flat text or ids; record at the gateway"),
    ({"step_num", "screenshot_file"}, "OSWorld's steps, without the prompts; record its model's calls at the gateway"),
    ({"traj", "instruction"}, "AgentNet's recordings of people; give the conversations that were made of them"),
    (
        {"annotation_id", "action_reprs"},
        "Mind2Web's recordings of people; give the conversations that were made of them",
    ),
    ({"content", "details"}, "a trajectory of no agent's (ADP); give the rows that were made of it (`conversations`)"),
    ({"answer_id", "question_id"}, "answers of a benchmark, without their questions"),
    ({"env", "investment"}, "MetaGPT's state, which leaves the prompts out; record at the gateway"),
    ({"eventSource", "eventVersion"}, "CloudTrail, without the contents; switch on Bedrock's model invocation logging"),
    ({"agentId", "agentAliasId"}, "a trace of a Bedrock agent; switch on Bedrock's model invocation logging"),
    ({"modelTitle", "prompt"}, "Continue's development data, whose prompts are flat text; give its sessions folder"),
)
# Field 1, a ResourceSpans of some length, that begins with a resource (1) or with spans of a scope (2).
_OTLP_PROTOBUF = re.compile(
    rb"\n[\x80-\xff]{0,4}[\0-\x7f][\n\x12][\x80-\xff]{0,4}[\0-\x7f][\n\x12].*(?:gen_ai|llm)\.", re.DOTALL
)
_REFUSED_TEXT = (
    (b"TO LLM 20", "Aider's log of its calls (`--llm-history-file`), in which words and roles cannot be told apart"),
    (b"# aider chat started at", "Aider's history, which leaves out the files and the prompt that the model saw"),
    (b"Generated by SpecStory", "a conversation that SpecStory exported as Markdown, without its calls"),
    (b"from Cursor (", "a conversation that Cursor exported as Markdown, without its calls"),
    (
        b"This is purely the output of the chat",
        "a chat of Windsurf or Antigravity as Markdown, without calls and files",
    ),
)


_NO_TRACES = "no reader knows its `traces`; give the session files that they were made from"


class Format(NamedTuple):
    """A log format: how its first bytes look, how it is read, and what else that looks at.

    `beside` tells the files beside a log, or in the folder above, that say more of it, as `format/name`: a log is read
    again when one of them comes, changes or goes.
    """

    name: str
    looks_like: Callable[[bytes], bool]
    read: Callable[[Source], Iterator[Item]]
    beside: re.Pattern[str] | None = None


def _conversation(shape: conversations.Shape) -> Format:
    return Format(shape.name, conversations.detector(shape), conversations.reader(shape))


def _read_traces(source: Source) -> Iterator[Item]:
    """Rows of the hub's agent traces: a session file each, its lines in a list; read as its own format."""
    for record in records(source):
        if isinstance(record, Problem):
            yield record
            continue
        lines = [
            one if isinstance(one, str) else json_text(one) for one in as_list(as_object(record.value).get("traces"))
        ]
        data = "\n".join(lines).encode("utf-8", "replace")
        known = next((one for one in FORMATS[:-1] if one.looks_like(data[:HEAD_BYTES])), None)
        if known is None:
            yield Problem("wrong_schema", record.offset, f"row {record.number}: {_NO_TRACES}")
        else:
            yield from known.read(replace(source, data=data, size=-1, growing=False))


FORMATS: tuple[Format, ...] = (
    *map(_conversation, conversations.SHAPES),
    Format("openai_batch", batches.looks_like, batches.read, re.compile(r"openai_batch/.*")),
    Format("recording", recordings.looks_like, recordings.read),
    Format("instructions", instructions.looks_like, instructions.read),
    Format("swarm_v2", swarm.looks_like, swarm.read),
    Format("session_v1", session_json.looks_like, session_json.read),
    Format("session_log", session_json.looks_like_log, session_json.read_log),
    Format("grokputer_log", global_log.looks_like, global_log.read),
    Format("collaboration", collaboration.looks_like, collaboration.read),
    Format("claude_code", claude_code.looks_like, claude_code.read, re.compile(r"companion/.*\.meta\.json")),
    Format("codex", codex.looks_like, codex.read),
    Format("pi", pi.looks_like, pi.read),
    Format("strands", strands.looks_like, strands.read, re.compile(r"companion/agent\.json")),
    Format("otel", otel.looks_like, otel.read, re.compile(r"companion/.*\.jsonl?")),
    Format("langfuse", langfuse.looks_like, langfuse.read),
    Format("litellm", litellm.looks_like, litellm.read),
    Format("mlflow", mlflow.looks_like, mlflow.read),
    Format("langsmith", langsmith.looks_like, langsmith.read),
    Format("atif", atif.looks_like, atif.read, re.compile(r".*/(?:result\.json|reward\.(?:txt|json))")),
    Format("swe_agent", trajectories.looks_like_swe_agent, trajectories.read_swe_agent),
    _conversation(conversations.TAU),
    Format("openhands", openhands.looks_like, openhands.read),
    Format("mini_swe_agent", trajectories.looks_like_mini, trajectories.read_mini, re.compile(r"companion/meta\.json")),
    Format("recorded_halves", halves.looks_like, recordings.read),
    Format("chat_dataset", chat_datasets.looks_like, chat_datasets.read),
    _conversation(conversations.ITEMS),
    _conversation(conversations.WRAPPED),
    Format(
        conversations.HELD.name,
        lambda head: not (refused(head) or is_companion(head)) and conversations.detector(conversations.HELD)(head),
        conversations.reader(conversations.HELD),
    ),
    Format(
        "agent_traces",
        lambda head: any({"harness", "traces"} <= one.keys() for one in peek_objects(head)[:1]),
        _read_traces,
    ),
)


def detect(head: bytes) -> Format | None:
    """The format of a file from its first bytes; None if no reader knows it."""
    start = plain(head)
    for known in FORMATS:
        with suppress(*UNFORESEEN):  # of odd content, which is some other format's
            if known.looks_like(start):
                return known
    return None


def detect_by_line(head: bytes) -> Format | None:
    """The format of JSONL whose first line is damaged, from the lines after it: rotation may cut within a line."""
    rest = [line for line in head.split(b"\n")[1:] if line.startswith(b"{")]
    texts = (b"\n".join(rest), *rest[:64])
    return next((known for text in texts if text and (known := detect(text + b"\n"))), None)


def refused(head: bytes) -> str:
    """What known content without readable calls is, and what would do instead; "" for anything else."""
    members = [value.keys() for value in peek_objects(head)[:2]]
    for names, sentence in _REFUSED:
        if any(names <= own for own in members):
            return sentence
    if head.lstrip().startswith((b"{'", b"[{'")):
        return "objects as Python prints them, which are no JSON; write them with json.dumps"
    if _OTLP_PROTOBUF.match(head):
        return "OTLP in protobuf; let the collector's file exporter write `format: json`"
    return next((f"{sentence}; record at the gateway" for mark, sentence in _REFUSED_TEXT if mark in head), "")


def nearest(head: bytes) -> str:
    """A sentence on content that no reader knows: what it comes closest to, and which formats would do."""
    values = peek_objects(head)
    if sentence := refused(head):
        return f"it is {sentence}"
    close = chat_datasets.nearest(values[0]) if values else ""
    close = f"it {close}; " if close.startswith("looks like") else ""
    names = (
        "recordings, session files of Claude Code, Codex and Pi, chat datasets (OpenAI, ShareGPT, Alpaca), OTLP spans"
    )
    return f"{close}formats that would do: {names}, Langfuse, LiteLLM and ATIF exports (docs/logs.md)"


def is_companion(head: bytes) -> bool:
    """Whether a file only goes with a session that is told elsewhere: a session.log, metrics, a summary, an index."""
    start = plain(head)
    if start.startswith(_COMPANION_STARTS) or _PROGRAM_LOG.match(start):
        return True
    known = any(all(key in head for key in keys) for keys in _COMPANION_KEYS)
    known = known or any(keys <= one.keys() for keys in _COMPANION_MEMBERS for one in peek_objects(head)[:1])
    # session_index.json names no session: a session.json that was cut early does
    known = known or (b'"debug_mode"' in head and b'"start_time"' in head and b'"session_id"' not in head)
    if otel.is_upload(head):  # contents that spans refer to
        return True
    return start[:1] in (b"{", b"[") and (start.strip() == b"{}" or known)
