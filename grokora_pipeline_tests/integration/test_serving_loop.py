"""The loop closes: the swarm's calls through the gateway become a dataset and an adapter, which then answers them."""

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from grokora_pipeline.agents import load_agents, recognise
from grokora_pipeline.models.messages import Message
from grokora_pipeline.sandbox.experts import expert_answer
from grokora_pipeline.sandbox.roles import AgentCall
from grokora_pipeline.sandbox.swarm import run_swarm, swarm_tasks
from grokora_pipeline.serving.gateway.protocol import completion, new_reply, usage_of
from grokora_pipeline.store import Store
from grokora_pipeline.store.champions import Registry
from grokora_pipeline_tests.chain import environment, script
from grokora_pipeline_tests.gateway import serving
from grokora_pipeline_tests.processes import served, until
from grokora_pipeline_tests.tiny import tiny_base

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("serving")]
ROLES = ("coordinator", "observer", "actor", "validator")
ALWAYS = '{window: "* * * * *", min_ratings: 1}'
# What the daemon would do: ask sensor and schedule, carry out what they request; here one by one, in one process.
AUTOMATION = """
from datetime import datetime
import dagster as dg
from grokora_pipeline.definitions import defs

AFTER = ("eval_report", "champion", "merged_model")
schedule = defs.get_repository_def().get_schedule_def("validator_when_due")
cursor, requested, rounds = None, [], 0

def carry_out(request, job):
    print("REQUESTED", job, flush=True)
    keys = [key for key in request.asset_selection if key.path[-1] not in AFTER]
    done = defs.resolve_job_def(job).execute_in_process(instance=instance, asset_selection=keys, tags=request.tags)
    assert done.success
    requested.append(job)

with dg.DagsterInstance.get() as instance:
    while "retrain_validator" not in requested:
        rounds += 1
        assert rounds < 12, moment.skip_message
        with dg.build_sensor_context(instance, cursor, definitions=defs) as context:
            tick = defs.resolve_sensor_def("new_logs").evaluate_tick(context)
        cursor = tick.cursor
        for event in tick.asset_events:
            instance.report_runless_asset_event(event)
        for request in tick.run_requests:
            carry_out(request, "ingest")
        now = datetime.now().astimezone()
        with dg.build_schedule_context(instance, scheduled_execution_time=now) as context:
            moment = schedule.evaluate_tick(context)
        for request in moment.run_requests or []:
            carry_out(request, "retrain_validator")
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tiny_base(tmp_path / "base")
    agents = {
        role: f'{{description: {role}, match: {{system: ["^You are the {role} of"]}}, preset: sample, epochs: 1, '
        f"min_examples: {5 if role == 'validator' else 100000}, retrain: {ALWAYS}}}"
        for role in ROLES
    }
    lines = "\n".join(f"  {role}: {fields}" for role, fields in agents.items())
    (tmp_path / "agents.yaml").write_text(f"agents:\n{lines}\n")
    (tmp_path / "logs").mkdir()
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text("nux: {enabled: false}\ntelemetry: {enabled: false}\n")
    return tmp_path


async def _grok(request: Request) -> Response:
    """The API that the swarm used before: the sandbox's scripted experts behind an OpenAI-compatible front."""
    body = await request.json()
    role = next(role for role in ROLES if f"You are the {role} of" in body["messages"][0]["content"])
    message = expert_answer([AgentCall(role, body["messages"])])[0]
    return JSONResponse(completion(new_reply(body["model"]), message, "stop", usage_of(1, 1, 0)))


class Swarm:
    """The sandbox's swarm, which talks to its models over HTTP."""

    def __init__(self, url: str, pool: ThreadPoolExecutor) -> None:
        self._url, self._pool = url, pool
        self.served_by: dict[str, set[str]] = {}

    def answer(self, calls: Sequence[AgentCall]) -> list[Message]:
        return list(self._pool.map(self._ask, calls))

    def _ask(self, call: AgentCall) -> Message:
        body: dict[str, Any] = {"model": "grok-4-fast-reasoning", "messages": call.messages, "max_tokens": 24}
        body |= {"tools": call.tools} if call.tools else {}
        headers = {"x-session-id": f"task-{call.task}", "authorization": "Bearer xai-key"}
        response = httpx.post(f"{self._url}/v1/chat/completions", json=body, headers=headers, timeout=60)
        assert response.status_code == 200, response.text
        self.served_by.setdefault(call.agent, set()).add(response.headers["x-served-by"])
        message: Message = response.json()["choices"][0]["message"]
        return message


def test_what_the_swarm_did_through_the_gateway_trains_the_adapter_that_answers_next(home: Path) -> None:
    api = Starlette(routes=[Route("/v1/chat/completions", _grok, methods=["POST"])])
    serve = [script("grokora"), "serve", "--upstream"]
    with (
        serving(api) as grok,
        served([*serve, f"{grok}/v1"], home / "serve.log", environment(home)) as (url, _),
        ThreadPoolExecutor(4) as pool,
    ):
        before = Swarm(url, pool)
        results = run_swarm(swarm_tasks(3, 16), before.answer)
        assert set().union(*before.served_by.values()) == {"upstream"}
        for number, result in enumerate(results):
            verdict = {
                "session_id": f"task-{number}",
                "status": "success" if result.success else "failure",
                "rating": 5,
            }
            assert httpx.post(f"{url}/v1/feedback", json=verdict).status_code == 200

        command = [sys.executable, "-c", AUTOMATION]
        run = subprocess.run(command, env=environment(home), cwd=home, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
        requested = [line for line in run.stdout.splitlines() if line.startswith("REQUESTED")]
        assert requested[0] == "REQUESTED ingest"
        assert requested[-1] == "REQUESTED retrain_validator"
        store = Store(str(home / "store"))
        adapter = store.require("validator/lora_adapter")
        examples = (store.require("validator/task_dataset").path / "examples.jsonl").read_bytes().splitlines()
        assert all(orjson.loads(line)["meta"]["source_file"].startswith("recordings/") for line in examples)

        Registry(store).promote("validator", adapter.version, "by the test: a random model cannot pass the gate", {})
        until(lambda: httpx.get(f"{url}/health").json()["champions"]["validator"] == adapter.version, "promotion", 60)
        after = Swarm(url, pool)
        run_swarm(swarm_tasks(4, 2), after.answer)
        assert after.served_by["validator"] == {f"validator@{adapter.version}"}
        assert after.served_by["coordinator"] == {"upstream"}

    lines = [orjson.loads(line) for file in home.glob("logs/recordings/*/*") for line in file.read_bytes().splitlines()]
    answered = [line for line in lines if (line.get("response") or {}).get("model") == f"validator@{adapter.version}"]
    agents = load_agents(home / "agents.yaml")
    assert answered
    assert all(recognise(agents, line["request"]["messages"], None) == "validator" for line in answered)
    assert "xai-key" not in (home / "serve.log").read_text() + str(lines)
