"""OpenHands: event logs of its SDK (V1: `kind`) and of the older runtime (V0: `action` and `observation`)."""

from collections.abc import Iterator
from typing import Any

from grokora_pipeline.models.messages import Message
from grokora_pipeline.sessions.readers.common import Source, first_of, is_error, name_text, to_utc, user
from grokora_pipeline.sessions.readers.documents import (
    Json,
    Record,
    as_list,
    as_object,
    digest,
    in_files,
    peek_objects,
    records,
)
from grokora_pipeline.sessions.readers.lowering import (
    MAX_PROMPT_CHARS,
    calls_in,
    chars,
    infer_tools,
    lower,
    lower_call,
    lower_tools,
    result_text,
    results_after,
    turn,
)
from grokora_pipeline.sessions.readers.outcomes import outcome_status, stated_in
from grokora_pipeline.sessions.readers.source import event_number
from grokora_pipeline.sessions.turns import Completeness, Item, Problem, Skipped, Verdict

AGENT = "openhands"
_KINDS = {"SystemPromptEvent", "MessageEvent", "ActionEvent", "ObservationEvent", "AgentErrorEvent", "Condensation"}
_KINDS |= {"ConversationStateUpdateEvent", "UserRejectObservation", "PauseEvent", "CondensationRequest"}
_RESULTS = {"ObservationEvent", "AgentErrorEvent", "UserRejectObservation"}


def looks_like(head: bytes) -> bool:
    """Whether the first events are OpenHands'."""
    return any(
        _is_event(value)
        or ("instance_id" in value and any(_is_event(as_object(one)) for one in as_list(value.get("history"))[:8]))
        for value in peek_objects(head)[:8]
    )


def _is_event(value: Json) -> bool:
    older = {"id", "source", "timestamp"} <= value.keys() and ("action" in value or "observation" in value)
    return name_text(value.get("kind")) in _KINDS or older


def read(source: Source) -> Iterator[Item]:
    """A turn an answer of the agent. Parallel calls share a response id; a condensation changes the prompt."""
    events: list[Record] = []
    own = event_number(source.path.name)
    if own is not None and len(peek_objects(source.head(64 << 10))) == 1:
        if own:
            yield Skipped("event_of_another_file")
            return
        yield from _Log(source).turns([Record(one, number, 0) for number, one in enumerate(in_files(source), 1)])
        return
    for record in records(source):
        if isinstance(record, Problem):
            yield record
        elif isinstance(record.value, dict):
            # an evaluation's rows hold a conversation each
            inner = first_of(record.value, "events", "history") if "kind" not in record.value else None
            if isinstance(inner, list) and "instance_id" in record.value:
                yield from _Log(source, record.value).turns([Record(one, at, 0) for at, one in enumerate(inner, 1)])
                continue
            if events and _begins(record.value):  # several conversations in one file
                yield from _Log(source).turns(events)
                events = []
            events += (
                [Record(one, index, 0) for index, one in enumerate(inner, 1)] if isinstance(inner, list) else [record]
            )
    if events:
        yield from _Log(source).turns(events)


def _begins(value: Json) -> bool:
    """Whether an event, or a list of events, is the first of a conversation: they are numbered, or it is a prompt."""
    first = as_object(next(iter(as_list(first_of(value, "events", "history"))), value))
    return first.get("kind") == "SystemPromptEvent" or (first.get("id") == 0 and "kind" not in first)


class _Log:
    """The prompt as it grows along the events."""

    def __init__(self, source: Source, row: Json | None = None) -> None:
        self._source = source
        self._row = row or {}  # of an evaluation
        self._session = name_text(self._row.get("instance_id"))
        self._context: list[tuple[str, Message]] = []  # the event that each message comes of
        self._system: list[Message] = []
        self._tools: list[Json] | None = None
        self._step = 0
        self._changed = False  # something of the prompt had to be rebuilt
        self._skip: set[str] = set()

    def turns(self, events: list[Record]) -> Iterator[Item]:
        """The turns in the order of the events; a repeated event is left out."""
        values = [as_object(record.value) for record in events]
        # the first events name the conversation, under whatever name it is kept
        self._session = (
            self._session or f"openhands-{digest([[one.get('id'), one.get('timestamp')] for one in values[:2]])}"
        )
        results = {
            name_text(_call_id(one)): _result(one)
            for one in values
            if name_text(one.get("kind")) in _RESULTS or ("observation" in one and "kind" not in one and _call_id(one))
        }
        answers = [message for one in values for message in _answer([one])]
        # tools that name an action instead of a schema are classes of the SDK: their parameters are not in the log
        offered = (
            [tool for tool in as_list(one.get("tools")) if "action_type" not in as_object(tool)] for one in values
        )
        self._tools = next((tools for own in offered if (tools := lower_tools(own))), None)
        inferred = None if self._tools else infer_tools(calls_in(answers))
        metrics = next((one for one in values if one.get("key") == "stats"), {})
        usage = as_object(as_object(metrics.get("value")).get("usage_to_metrics"))
        model = name_text(as_object(usage.get("default") or usage.get("agent")).get("model_name"))
        done: set[str] = set()
        for record, value in zip(events, values, strict=True):
            own = name_text(value.get("id")) or f"event-{record.number}"
            if own in done:
                continue
            done.add(own)
            if own in self._skip:
                continue
            response, group = value.get("llm_response_id"), [value]
            if response:  # parallel calls are events of their own
                group = [x for x in values if x.get("llm_response_id") == response and x.get("source") == "agent"]
            if answer := _answer(group):
                self._skip |= {name_text(one.get("id")) for one in group}
                own_results = [results[call["id"]] for call in calls_in(answer) if call["id"] in results]
                yield from self._turn(record, answer[0], own_results, inferred=inferred, model=model)
                self._context += [(own, answer[0]), *((own, result) for result in own_results)]
                self._step += 1
            else:
                self._take(value, own)
        if not self._step:
            yield Skipped("no_model_call")
        states = [outcome_status(state) for one in values if (state := _state(one))]
        if "failure" in (stated_in(self._row), *states[-1:]):
            yield Verdict(self._session, status="failure", inferred=True)
        elif stated_in(self._row) == "success":
            yield Verdict(self._session, status="success", inferred=True)

    def _take(self, value: Json, own: str) -> None:
        kind = value.get("kind")
        if kind == "SystemPromptEvent":
            self._system = lower({"role": "system", "content": value.get("system_prompt")})
        elif kind in ("Condensation", "CondensationSummaryEvent") or value.get("action") == "condensation":
            self._condense(value)
        elif value.get("action") == "system":
            self._system = lower({"role": "system", "content": as_object(value.get("args")).get("content")})
            self._tools = self._tools or lower_tools(as_object(value.get("args")).get("tools"))
        elif kind == "MessageEvent":
            added = as_list(value.get("extended_content"))  # what skills add to a message
            said = as_object(value.get("llm_message"))
            content = [*(as_list(said.get("content")) or [name_text(said.get("content"))]), *added]
            self._context += [(own, one) for one in lower({**said, "content": content})]
        elif value.get("action") == "message" and value.get("source") == "user":
            self._context.append((own, user(name_text(as_object(value.get("args")).get("content")))))

    def _condense(self, value: Json) -> None:
        """What was forgotten leaves the prompt, and the summary stands in its place."""
        args = as_object(value.get("args")) | value
        gone = {name_text(one) for one in as_list(first_of(args, "forgotten_event_ids", "forgotten_events_ids"))}
        start, end = args.get("forgotten_events_start_id"), args.get("forgotten_events_end_id")
        if isinstance(start, int) and isinstance(end, int):
            gone |= {str(number) for number in range(start, min(end, start + 100_000) + 1)}
        position = next((index for index, (own, _) in enumerate(self._context) if own in gone), len(self._context))
        kept = [entry for entry in self._context if entry[0] not in gone]
        if summary := name_text(args.get("summary")):
            offset = args.get("summary_offset")
            if isinstance(offset, int):  # counts the events before it: the system prompt, and each of parallel calls
                events = [1 if self._system else 0, *(len(one.get("tool_calls") or ()) or 1 for _, one in kept)]
                position = next((at for at in range(len(kept)) if sum(events[: at + 1]) >= offset), len(kept))
            kept.insert(min(position, len(kept)), ("", user(summary)))
        self._context, self._changed = kept, True

    def _turn(
        self, record: Record, answer: Message, results: list[Message], *, inferred: list[Json] | None, model: str
    ) -> Iterator[Item]:
        value = as_object(record.value)
        prompt = [*self._system, *(message for _, message in self._context)]
        if sum(map(chars, prompt)) > MAX_PROMPT_CHARS:
            yield Skipped("prompt_too_long")
            return
        known, failed = results_after(answer, results)
        whole = bool(self._system) and not self._changed
        begins = any(message["role"] == "user" for message in prompt)
        completeness: Completeness = "whole" if whole else "reconstructed" if begins else "lost"
        metadata, _path = as_object(value.get("tool_call_metadata")), self._source.path
        yield from turn(
            self._source,
            prompt,
            answer,
            session_id=self._session,
            task=name_text(self._row.get("instance_id")),
            agent=AGENT,
            step=self._step,
            started_at=to_utc(value.get("timestamp")),
            line=record.number,
            tools=self._tools,
            inferred=inferred,
            completeness=completeness,
            model=name_text(as_object(metadata.get("model_response")).get("model")) or model,
            call=name_text(value.get("llm_response_id") or value.get("id")),
            result_known=known,
            step_failed=failed,
        )


def _state(value: Json) -> str:
    """The state of the conversation that an event tells, "" for other events; that an agent finished is no success."""
    state = value.get("value") if value.get("key") in ("execution_status", "agent_status") else None
    held = as_object(value.get("extras") if value.get("observation") == "agent_state_changed" else value.get("value"))
    return name_text(first_of(held, "agent_state", "execution_status") or state)


def _call_id(value: Json) -> Any:
    return value.get("tool_call_id") or as_object(value.get("tool_call_metadata")).get("tool_call_id")


def _result(value: Json) -> Message:
    observation = value.get("observation")
    inner = as_object(observation)
    text = result_text(
        first_of(inner, "content", "output", "error") or first_of(value, "error", "content", "rejection_reason")
    )
    metadata = as_object(inner.get("metadata") or as_object(value.get("extras")).get("metadata"))
    failed = inner.get("is_error") is True or value.get("kind") == "AgentErrorEvent" or observation == "error"
    code = metadata.get("exit_code", inner.get("exit_code"))
    failed = failed or (isinstance(code, int) and code > 0) or is_error(text)
    message: Message = {"role": "tool", "tool_call_id": name_text(_call_id(value)), "content": text}
    return message | ({"is_error": True} if failed else {})


def _answer(group: list[Json]) -> list[Message]:
    """The assistant message that some events of one response are; [] if they are none."""
    calls = []
    texts: list[str] = []
    thoughts: list[str] = []
    for value in group:
        if value.get("source") != "agent":
            return []
        metadata = as_object(value.get("tool_call_metadata"))
        if value.get("kind") == "ActionEvent":
            call = lower_call({"name": value.get("tool_name"), "arguments": {}, **as_object(value.get("tool_call"))})
            calls += [{**call, "id": name_text(_call_id(value)) or call["id"]}] if call else []
            texts.append(result_text(value.get("thought") or ""))
        elif value.get("kind") == "MessageEvent":
            texts += [one["content"] for one in lower(value.get("llm_message")) if one["role"] == "assistant"]
        elif metadata and "action" in value:
            # the older runtime keeps the provider's own reply beside each action
            choices = as_list(as_object(metadata.get("model_response")).get("choices"))
            choice = as_object(choices[0]) if choices else {}
            reply = lower({"finish_reason": choice.get("finish_reason"), **as_object(choice.get("message"))})
            return [one for one in reply if one["role"] == "assistant"][:1]
        elif value.get("action") == "message":
            texts.append(name_text(as_object(value.get("args")).get("content") or value.get("message")))
        thoughts += [value["reasoning_content"]] if isinstance(value.get("reasoning_content"), str) else []
    texts = [text for text in dict.fromkeys(texts) if text]
    if not texts and not calls:
        return []
    message: Message = {"role": "assistant", "content": "\n".join(texts)}
    if thoughts:
        message["reasoning_content"] = "\n".join(dict.fromkeys(thoughts))
    return [message | ({"tool_calls": calls} if calls else {})]
