"""The scripted experts: each answers from nothing but the messages of its call, so that it can be learnt from."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from grokora_pipeline.models.messages import Message
from grokora_pipeline.sandbox.clauses import read_clause
from grokora_pipeline.sandbox.roles import AgentCall, json_message, tool_message
from grokora_pipeline.sandbox.tasks import CONNECTORS, PREFIXES, SUFFIXES

_QUOTED = re.compile(r"'[^']*'")
_JOINT = re.compile("|".join(re.escape(joint) for joint in sorted(CONNECTORS, key=len, reverse=True)))
_WIDGET = re.compile(r'(\w+) "([^"]+)" \[(\d+), (\d+)\]')
# Grokputer's executor rates commands the same way: reading is LOW, changing MEDIUM, wiping CRITICAL.
SAFETY = {"ls": 10, "wc": 10, "head": 10, "tail": 10, "cat": 20, "grep": 20, "sort": 20, "echo": 30, "mkdir": 25,
          "touch": 25, "cp": 40, "mv": 50, "rm": 60}  # fmt: skip
RISKS = ((30, "LOW"), (60, "MEDIUM"), (89, "HIGH"), (100, "CRITICAL"))


def expert_answer(calls: Sequence[AgentCall]) -> list[Message]:
    """The right answer to every call; the messages are OpenAI-shaped assistant messages."""
    return [_EXPERTS[call.agent](call.messages[-1]["content"]) for call in calls]


def split_task(text: str) -> list[str]:
    """The clauses of a task, without what leads in, joins and ends them; quoted text is left alone."""
    quotes = _QUOTED.findall(text)
    bare = _QUOTED.sub("'\0'", text)
    bare = bare.removeprefix(max((p for p in PREFIXES if bare.startswith(p)), key=len))
    bare = bare.removesuffix(max((s for s in SUFFIXES if bare.endswith(s)), key=len))
    parts, pending = _JOINT.split(bare), iter(quotes)
    return [re.sub("'\0'", lambda _: next(pending), part) for part in parts]


def _coordinator(user: str) -> Message:
    plan = []
    for command in split_task(user.removeprefix("Task: ")):
        clause = read_clause(command)
        agent, action = ("observer", "capture_screen") if clause and clause.target else ("actor", "perform_action")
        # the command first, so that a model that writes from left to right has read it
        plan.append({"params": {"command": command}, "agent": agent, "action": action})
    return json_message(plan)


def widgets(screen: str) -> list[dict[str, Any]]:
    """The observations that a screen's text allows, one a widget."""
    return [
        {"element": label, "coordinates": [int(x), int(y)], "type": kind}
        for kind, label, x, y in _WIDGET.findall(screen)
    ]


def _observer(user: str) -> Message:
    screen, _, command = user.rpartition("\nCommand: ")
    clause = read_clause(command)
    # The name is said first even if nothing bears it: then the model has only to look it up on the screen, which is
    # easier to learn than to know from the start that nothing will be found. The validator's reason is first as well.
    nothing = {"element": clause.target if clause else None, "coordinates": None, "type": None}
    return json_message(
        next((seen for seen in widgets(screen) if clause and seen["element"] == clause.target), nothing)
    )


def _fields(user: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in user.splitlines() if ": " in line)


def _actor(user: str) -> Message:
    fields = _fields(user)
    clause = read_clause(fields["Subtask"])
    observation = json.loads(fields.get("Observation", "{}"))
    if clause is None:
        return {"role": "assistant", "content": f"I do not know how to {fields['Subtask']}."}
    arguments = clause.primitive.arguments(clause.slots, observation.get("coordinates"))
    call_id = "call_" + hashlib.sha256(user.encode()).hexdigest()[:12]
    return tool_message(clause.primitive.tool, arguments, call_id)


def _validator(user: str) -> Message:
    fields = _fields(user)
    if "Safety check" in fields:
        return json_message(safety(fields["Safety check"]))
    clause, before, after = read_clause(fields["Subtask"]), fields["Before"], fields["After"]
    if after == before:
        return json_message({"reason": "nothing changed", "valid": False, "confidence": 90})
    valid = clause is not None and clause.primitive.expects(after, clause.slots)
    return json_message({"reason": after, "valid": valid, "confidence": 95 if valid else 85})


def safety(command: str) -> dict[str, Any]:
    """The program of a bash command, Grokputer's safety score of it, 0 (harmless) to 100, its risk level, and whether
    it may run."""
    words = command.split()
    wipes = words[:1] == ["rm"] and any("r" in word for word in words[1:] if word.startswith("-"))
    score = 95 if wipes else max((SAFETY.get(word, 70) for word in words[:1]), default=100)
    level = next(name for limit, name in RISKS if score <= limit)
    verdict = {"safety_score": score, "risk_level": level, "approved": level != "CRITICAL"}
    return {"program": " ".join(words[:1]), **verdict}


_EXPERTS = {"coordinator": _coordinator, "observer": _observer, "actor": _actor, "validator": _validator}
