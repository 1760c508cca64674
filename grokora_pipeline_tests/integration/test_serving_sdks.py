"""Agents' SDKs against the gateway: text, streaming, parallel tools, structured output, long conversations.

The SDKs are the extra `sdks` (`pip install -e .[sdks]`, best in an environment of its own); those that are missing are
skipped by name. npm's packages are installed into a temporary folder, if Node and a registry are there.
"""

import asyncio
import importlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import openai
import orjson
import pytest
from pydantic import BaseModel

from grokora_pipeline.agents import AgentSpec
from grokora_pipeline.serving.engine.request import GenerationRequest
from grokora_pipeline_tests.gateway import Running, Setup

pytestmark = [pytest.mark.xdist_group("serving"), pytest.mark.exhaustive]
AGENTS = [AgentSpec(name="actor", description="acts")]
KEY = "a-key-of-nobody-1"
ASK = "How warm is it in Rome and in Oslo?"
CALLS = "\n".join(
    f'<tool_call>{{"name": "temperature", "arguments": {{"city": "{city}"}}}}</tool_call>' for city in ("Rome", "Oslo")
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "temperature", "description": "The temperature in a city.", "parameters": SCHEMA}


class Report(BaseModel):
    """The structured answer."""

    city: str
    degrees: int


class Script:
    """Answers by what the prompt holds, as a model that does everything right."""

    def __init__(self) -> None:
        self.running: Running | None = None

    def __call__(self, request: GenerationRequest) -> str:
        assert self.running is not None
        prompt = self.running.engine.chat.tokenizer.decode(list(request.prompt), skip_special_tokens=False)
        asked = prompt.rpartition("<|im_start|>user")[2]
        for name in ("final_result", "Report"):  # structured output as a tool: how pydantic-ai and LangChain ask for it
            if f"{name}(" in prompt:
                return f'<tool_call>{{"name": "{name}", "arguments": {{"city": "Rome", "degrees": 21}}}}</tool_call>'
        if "temperature(" in prompt:
            warm = "Rome: 21" in asked and "Oslo: 3" in asked
            return "21 in Rome, 3 in Oslo." if warm else CALLS
        if request.grammar:
            return '{"city": "Rome", "degrees": 21}'
        return f"Hello, this is answer {prompt.count('<|im_start|>user')}."


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    script = Script()
    with Setup(tmp_path, AGENTS, script).running() as gateway:
        script.running = gateway
        gateway.engine.context_length = 1 << 14
        yield gateway


@dataclass(frozen=True)
class Client:
    """What an SDK does with a gateway; each takes the gateway's address."""

    text: Callable[[str, list[Any]], str]  # the last answer of a conversation of texts, the user's first
    stream: Callable[[str], list[str]]
    tools: Callable[[str, list[str]], str]  # notes the cities that the tool was called with
    structured: Callable[[str], Report]


def turns(texts: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def measure(city: str) -> str:
    return f"{city}: {({'Rome': 21, 'Oslo': 3})[city]}"


def openai_chat() -> Client:
    def client(url: str) -> Any:
        return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0).chat.completions

    def tools(url: str, cities: list[str]) -> str:
        messages: list[Any] = turns([ASK])
        offered = [{"type": "function", "function": FUNCTION}]
        while True:
            message = client(url).create(model="auto", messages=messages, tools=offered).choices[0].message
            if not message.tool_calls:
                return str(message.content)
            messages.append(message)
            for call in message.tool_calls:
                cities.append(orjson.loads(call.function.arguments)["city"])
                messages.append({"role": "tool", "tool_call_id": call.id, "content": measure(cities[-1])})

    def stream(url: str) -> list[str]:
        chunks = client(url).create(model="auto", messages=turns([ASK]), stream=True)
        return [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]

    return Client(
        lambda url, texts: client(url).create(model="auto", messages=turns(texts)).choices[0].message.content,
        stream,
        tools,
        lambda url: (
            client(url).parse(model="auto", messages=turns([ASK]), response_format=Report).choices[0].message.parsed
        ),
    )


def openai_responses() -> Client:
    def client(url: str) -> Any:
        return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0).responses

    def tools(url: str, cities: list[str]) -> str:
        offered = [{"type": "function", "strict": False, **FUNCTION}]
        reply = client(url).create(model="auto", input=ASK, tools=offered)
        while calls := [item for item in reply.output if item.type == "function_call"]:
            results = []
            for call in calls:
                cities.append(orjson.loads(call.arguments)["city"])
                results.append({"type": "function_call_output", "call_id": call.call_id, "output": measure(cities[-1])})
            reply = client(url).create(model="auto", input=results, tools=offered, previous_response_id=reply.id)
        return str(reply.output_text)

    def stream(url: str) -> list[str]:
        events = client(url).create(model="auto", input=ASK, stream=True)
        return [event.delta for event in events if event.type == "response.output_text.delta"]

    return Client(
        lambda url, texts: client(url).create(model="auto", input=turns(texts)).output_text,
        stream,
        tools,
        lambda url: client(url).parse(model="auto", input=ASK, text_format=Report).output_parsed,
    )


def anthropic_messages() -> Client:
    def client(url: str) -> Any:
        return anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0).messages

    def tools(url: str, cities: list[str]) -> str:
        messages: list[Any] = turns([ASK])
        offered = [{"name": "temperature", "description": FUNCTION["description"], "input_schema": SCHEMA}]
        while True:
            reply = client(url).create(model="auto", max_tokens=200, messages=messages, tools=offered)
            if reply.stop_reason != "tool_use":
                return str(reply.content[0].text)
            messages.append({"role": "assistant", "content": reply.content})
            results = []
            for block in (one for one in reply.content if one.type == "tool_use"):
                cities.append(block.input["city"])
                results.append({"type": "tool_result", "tool_use_id": block.id, "content": measure(cities[-1])})
            messages.append({"role": "user", "content": results})

    def stream(url: str) -> list[str]:
        with client(url).stream(model="auto", max_tokens=200, messages=turns([ASK])) as events:
            return list(events.text_stream)

    return Client(
        lambda url, texts: client(url).create(model="auto", max_tokens=200, messages=turns(texts)).content[0].text,
        stream,
        tools,
        lambda url: (
            client(url).parse(model="auto", max_tokens=200, messages=turns([ASK]), output_format=Report).parsed_output
        ),
    )


def openai_agents(model: str) -> Client:
    sdk = pytest.importorskip("agents")
    sdk.set_tracing_disabled(True)

    def agent(url: str, **more: Any) -> Any:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        return sdk.Agent(name="actor", model=getattr(sdk, model)("auto", openai_client=client), **more)

    def tools(url: str, cities: list[str]) -> str:
        def temperature(city: str) -> str:
            """The temperature in a city."""
            cities.append(city)
            return measure(city)

        return str(sdk.Runner.run_sync(agent(url, tools=[sdk.function_tool(temperature)]), ASK).final_output)

    async def stream(url: str) -> list[str]:
        events = sdk.Runner.run_streamed(agent(url), ASK).stream_events()
        raw = [event.data async for event in events if event.type == "raw_response_event"]
        return [one.delta for one in raw if one.type == "response.output_text.delta"]

    return Client(
        lambda url, texts: sdk.Runner.run_sync(agent(url), turns(texts)).final_output,
        lambda url: asyncio.run(stream(url)),
        tools,
        lambda url: sdk.Runner.run_sync(agent(url, output_type=Report), ASK).final_output,
    )


def pydantic_ai(module: str, model: str, provider: str) -> Client:
    sdk = pytest.importorskip("pydantic_ai")
    messages = importlib.import_module("pydantic_ai.messages")
    models = pytest.importorskip(f"pydantic_ai.models.{module}")
    providers = importlib.import_module(f"pydantic_ai.providers.{module}")

    def agent(url: str, **more: Any) -> Any:
        base = url if module == "anthropic" else f"{url}/v1"
        return sdk.Agent(
            getattr(models, model)("auto", provider=getattr(providers, provider)(base_url=base, api_key=KEY)), **more
        )

    def text(url: str, texts: list[Any]) -> str:
        history = [
            messages.ModelResponse(parts=[messages.TextPart(text)])
            if index % 2
            else messages.ModelRequest(parts=[messages.UserPromptPart(text)])
            for index, text in enumerate(texts[:-1])
        ]
        return str(agent(url).run_sync(texts[-1], message_history=history).output)

    def tools(url: str, cities: list[str]) -> str:
        def temperature(city: str) -> str:
            """The temperature in a city."""
            cities.append(city)
            return measure(city)

        return str(agent(url, tools=[temperature]).run_sync(ASK).output)

    async def stream(url: str) -> list[str]:
        async with agent(url).run_stream(ASK) as result:
            return [piece async for piece in result.stream_text(delta=True, debounce_by=None)]

    return Client(
        text,
        lambda url: asyncio.run(stream(url)),
        tools,
        lambda url: agent(url, output_type=Report).run_sync(ASK).output,
    )


def litellm(model: str) -> Client:
    sdk = pytest.importorskip("litellm")

    def complete(url: str, messages: list[Any], **more: Any) -> Any:
        base = url if model.startswith("anthropic") else f"{url}/v1"
        return sdk.completion(model=model, messages=messages, api_base=base, api_key=KEY, max_tokens=200, **more)

    def tools(url: str, cities: list[str]) -> str:
        messages: list[Any] = turns([ASK])
        offered = [{"type": "function", "function": FUNCTION}]
        while True:
            message = complete(url, messages, tools=offered).choices[0].message
            if not message.tool_calls:
                return str(message.content)
            messages.append(message.model_dump(exclude_none=True))
            for call in message.tool_calls:
                cities.append(orjson.loads(call.function.arguments)["city"])
                messages.append({"role": "tool", "tool_call_id": call.id, "content": measure(cities[-1])})

    def structured(url: str) -> Report:
        message = complete(url, turns([ASK]), response_format=Report).choices[0].message
        return Report.model_validate_json(message.content)

    return Client(
        lambda url, texts: complete(url, turns(texts)).choices[0].message.content,
        lambda url: [chunk.choices[0].delta.content or "" for chunk in complete(url, turns([ASK]), stream=True)],
        tools,
        structured,
    )


def langchain(package: str, name: str, **more: Any) -> Client:
    sdk, core = pytest.importorskip(package), pytest.importorskip("langchain_core.messages")
    decorate = importlib.import_module("langchain_core.tools").tool

    def model(url: str) -> Any:
        base = url if "anthropic" in package else f"{url}/v1"
        return getattr(sdk, name)(model="auto", base_url=base, api_key=KEY, max_retries=0, **more)

    def text_of(message: Any) -> str:
        return str(message.text() if callable(message.text) and not isinstance(message.text, str) else message.text)

    def tools(url: str, cities: list[str]) -> str:
        def temperature(city: str) -> str:
            """The temperature in a city."""
            cities.append(city)
            return measure(city)

        tool = decorate(temperature)
        messages: list[Any] = [core.HumanMessage(ASK)]
        while True:
            message = model(url).bind_tools([tool]).invoke(messages)
            messages.append(message)
            if not message.tool_calls:
                return text_of(message)
            messages += [tool.invoke(call) for call in message.tool_calls]

    return Client(
        lambda url, texts: text_of(model(url).invoke(turns(texts))),
        lambda url: [text_of(piece) for piece in model(url).stream(ASK)],
        tools,
        lambda url: model(url).with_structured_output(Report).invoke(ASK),
    )


CLIENTS: dict[str, Callable[[], Client]] = {
    "openai chat": openai_chat,
    "openai responses": openai_responses,
    "anthropic": anthropic_messages,
    "openai-agents chat": lambda: openai_agents("OpenAIChatCompletionsModel"),
    "openai-agents responses": lambda: openai_agents("OpenAIResponsesModel"),
    "pydantic-ai chat": lambda: pydantic_ai("openai", "OpenAIChatModel", "OpenAIProvider"),
    "pydantic-ai responses": lambda: pydantic_ai("openai", "OpenAIResponsesModel", "OpenAIProvider"),
    "pydantic-ai anthropic": lambda: pydantic_ai("anthropic", "AnthropicModel", "AnthropicProvider"),
    "litellm chat": lambda: litellm("openai/auto"),
    "litellm responses": lambda: litellm("openai/responses/auto"),
    "litellm anthropic": lambda: litellm("anthropic/auto"),
    "langchain-openai chat": lambda: langchain("langchain_openai", "ChatOpenAI"),
    "langchain-openai responses": lambda: langchain("langchain_openai", "ChatOpenAI", use_responses_api=True),
    "langchain-anthropic": lambda: langchain("langchain_anthropic", "ChatAnthropic", max_tokens=200),
}
FEATURES = ("text", "stream", "parallel tools", "structured output", "long conversation")


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("feature", FEATURES)
def test_an_sdk_gets_what_it_asks_for(
    running: Running, name: str, feature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it is fetched from GitHub when imported
    client = CLIENTS[name]()
    if feature == "text":
        assert client.text(running.url, [ASK]) == "Hello, this is answer 1."
    elif feature == "stream":
        pieces = [piece for piece in client.stream(running.url) if piece]
        assert "".join(pieces) == "Hello, this is answer 1."
        assert len(pieces) > 3
    elif feature == "parallel tools":
        cities: list[str] = []
        assert client.tools(running.url, cities) == "21 in Rome, 3 in Oslo."
        assert sorted(cities) == ["Oslo", "Rome"]
        assert len(running.engine.asks) == 2
    elif feature == "structured output":
        assert client.structured(running.url) == Report(city="Rome", degrees=21)
    else:
        texts = [f"Text {number} of a long conversation." for number in range(61)]
        assert client.text(running.url, texts) == "Hello, this is answer 31."
    assert [line["request"] for line in running.lines()]


@pytest.mark.parametrize("mode", ["TOOLS", "JSON", "JSON_SCHEMA", "MD_JSON", "ANTHROPIC_TOOLS"])
def test_instructor_gets_its_model(running: Running, mode: str) -> None:
    instructor = pytest.importorskip("instructor")
    call = '<tool_call>{"name": "Report", "arguments": {"city": "Rome", "degrees": 21}}</tool_call>'
    running.engine.script = lambda request: call if "TOOLS" in mode else '{"city": "Rome", "degrees": 21}'
    asked: dict[str, Any] = {"model": "auto", "messages": turns([ASK]), "response_model": Report, "max_retries": 0}
    if mode == "ANTHROPIC_TOOLS":
        client = instructor.from_anthropic(anthropic.Anthropic(base_url=running.url, api_key=KEY))
        assert client.messages.create(max_tokens=200, **asked).model_dump() == {"city": "Rome", "degrees": 21}
        return
    client = instructor.from_openai(
        openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY), mode=getattr(instructor.Mode, mode)
    )
    assert client.chat.completions.create(**asked).model_dump() == {"city": "Rome", "degrees": 21}


def test_smolagents_end_with_their_final_answer(running: Running) -> None:
    sdk = pytest.importorskip("smolagents")
    model = sdk.OpenAIServerModel(model_id="auto", api_base=f"{running.url}/v1", api_key=KEY)
    call = '<tool_call>{"name": "final_answer", "arguments": {"answer": "21"}}</tool_call>'
    running.engine.script = lambda request: call
    for stream in (False, True):
        agent = sdk.ToolCallingAgent(tools=[], model=model, verbosity_level=0, max_steps=2, stream_outputs=stream)
        assert agent.run(ASK) == "21"
    running.engine.script = lambda request: "Thought: I know.\n<code>\nfinal_answer('21')\n</code>"
    assert sdk.CodeAgent(tools=[], model=model, verbosity_level=0, max_steps=2).run(ASK) == "21"


def test_autogen_reflects_on_parallel_tools(running: Running) -> None:
    models, agents = pytest.importorskip("autogen_ext.models.openai"), pytest.importorskip("autogen_agentchat.agents")
    cities: list[str] = []

    def temperature(city: str) -> str:
        """The temperature in a city."""
        cities.append(city)
        return measure(city)

    able = {"vision": False, "function_calling": True, "json_output": True, "family": "unknown",
            "structured_output": True}  # fmt: skip
    model = models.OpenAIChatCompletionClient(
        model="auto", base_url=f"{running.url}/v1", api_key=KEY, model_info=able, max_retries=0
    )
    agent = agents.AssistantAgent("actor", model, tools=[temperature], reflect_on_tool_use=True)
    running.engine.script = lambda request: CALLS if not cities else "21 in Rome, 3 in Oslo."
    assert asyncio.run(agent.run(task=ASK)).messages[-1].content == "21 in Rome, 3 in Oslo."
    assert sorted(cities) == ["Oslo", "Rome"]


def test_llamaindex_chats_streams_and_fills_a_model(running: Running) -> None:
    models, core = pytest.importorskip("llama_index.llms.openai_like"), pytest.importorskip("llama_index.core.llms")
    model = models.OpenAILike(
        model="auto", api_base=f"{running.url}/v1", api_key=KEY, is_chat_model=True, is_function_calling_model=True
    )
    asked = [core.ChatMessage(role="user", content=ASK)]
    assert model.chat(asked).message.content == "Hello, this is answer 1."
    assert "".join(piece.delta or "" for piece in model.stream_chat(asked)) == "Hello, this is answer 1."
    call = '<tool_call>{"name": "Report", "arguments": {"city": "Rome", "degrees": 21}}</tool_call>'
    running.engine.script = lambda request: call
    assert model.as_structured_llm(Report).complete(ASK).raw == Report(city="Rome", degrees=21)


NODE = """
import OpenAI from 'openai'
import { generateText, streamText, generateObject, tool, stepCountIs } from 'ai'
import { createOpenAI } from '@ai-sdk/openai'
import { createAnthropic } from '@ai-sdk/anthropic'
import { z } from 'zod'
const [url, name, feature, ask] = process.argv.slice(2)
const key = 'a-key-of-nobody-1', baseURL = url + '/v1'
const texts = [...Array(61).keys()].map((n) => `Text ${n} of a long conversation.`)
const messages = texts.map((content, n) => ({ role: n % 2 ? 'assistant' : 'user', content }))
const degrees = { Rome: 21, Oslo: 3 }
async function openai() {
  const client = new OpenAI({ baseURL, apiKey: key, maxRetries: 0 })
  if (feature === 'stream') {
    const pieces = []
    for await (const chunk of await client.chat.completions.create(
      { model: 'auto', stream: true, messages: [{ role: 'user', content: ask }] })) {
      pieces.push(chunk.choices[0]?.delta?.content ?? '')
    }
    return pieces
  }
  const long = feature === 'long conversation'
  const reply = await client.responses.create({ model: 'auto', input: long ? messages : ask })
  return reply.output_text
}
async function ai(model) {
  if (feature === 'text') return (await generateText({ model, prompt: ask })).text
  if (feature === 'long conversation') return (await generateText({ model, messages })).text
  if (feature === 'structured output') {
    const schema = z.object({ city: z.string(), degrees: z.number().int() })
    return (await generateObject({ model, schema, prompt: ask })).object
  }
  if (feature === 'parallel tools') {
    const inputSchema = z.object({ city: z.string() })
    const execute = async ({ city }) => `${city}: ${degrees[city]}`
    const temperature = tool({ description: 'The temperature in a city.', inputSchema, execute })
    return (await generateText({ model, prompt: ask, tools: { temperature }, stopWhen: stepCountIs(3) })).text
  }
  const pieces = []
  for await (const piece of streamText({ model, prompt: ask }).textStream) pieces.push(piece)
  return pieces
}
const models = {
  openai, 'ai chat': () => ai(createOpenAI({ baseURL, apiKey: key }).chat('auto')),
  'ai responses': () => ai(createOpenAI({ baseURL, apiKey: key })('auto')),
  'ai anthropic': () => ai(createAnthropic({ baseURL, apiKey: key })('auto')),
}
console.log(JSON.stringify(await models[name]()))
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with npm's packages and the script."""
    folder = tmp_path_factory.mktemp("node")
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node is not installed")
    packages = ["openai", "ai", "@ai-sdk/openai", "@ai-sdk/anthropic", "zod"]
    installed = subprocess.run(
        ["npm", "install", "--prefix", str(folder), *packages], check=False, capture_output=True, timeout=300
    )
    if installed.returncode:
        pytest.skip("npm cannot install openai and ai: no registry is reachable")
    (folder / "ask.mjs").write_text(NODE)
    return folder


@pytest.mark.parametrize("name", ["openai", "ai chat", "ai responses", "ai anthropic"])
@pytest.mark.parametrize("feature", FEATURES)
def test_a_node_sdk_gets_what_it_asks_for(running: Running, node: Path, name: str, feature: str) -> None:
    if name == "openai" and feature in ("parallel tools", "structured output"):
        pytest.skip("the package only carries the bodies, which the Python package tests")
    command = ["node", "ask.mjs", running.url, name, feature, ASK]
    done = subprocess.run(command, cwd=node, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = orjson.loads(done.stdout.splitlines()[-1])  # `ai` writes its warnings to stdout, too
    if feature == "stream":
        assert ("".join(answer), len([piece for piece in answer if piece]) > 3) == ("Hello, this is answer 1.", True)
    else:
        wanted = {
            "text": "Hello, this is answer 1.",
            "parallel tools": "21 in Rome, 3 in Oslo.",
            "structured output": {"city": "Rome", "degrees": 21},
            "long conversation": "Hello, this is answer 31.",
        }
        assert answer == wanted[feature]
