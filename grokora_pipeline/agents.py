"""Who the agents are, how their calls are recognised, and what their answers look like (`agents.yaml`)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from grokora_pipeline.errors import GrokoraError, first_mistake, one_line
from grokora_pipeline.models.messages import first_text, message_role, message_text, tool_function
from grokora_pipeline.settings import Preset

ModelT = TypeVar("ModelT", bound=BaseModel)
AnswerType = Literal["json", "tool_call", "code", "text"]
# Cumulative: each of the others learns what `failures` learns, too.
LearnFrom = Literal["successes", "failures", "ratings", "preferences"]
UnknownBlame = Literal["none", "first_half", "all"]
UnknownOutcome = Literal["tool_calls", "all", "none"]
DEFAULT_MAIN_METRIC: dict[AnswerType, str] = {
    "json": "field_accuracy",
    "tool_call": "tool_call_match",
    "code": "code_match",
    "text": "rougeL",
}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
RESERVED = frozenset(
    {
        *("session_logs", "session_log_files", "forget_list", "base_model", "swarm_report"),  # assets
        *("default", "sources", "swarm", "rank_trials", "improvement", "exports"),  # groups of assets
        "all",  # the job retrain_all
        *("auto", "base"),  # what the gateway calls models that are no agent
    }
)
# The names of `evaluation.metrics.METRICS`, which this room must not import; a test holds them equal.
MetricName = Literal[
    "",
    "perplexity",
    "bits_per_byte",
    "exact_match",
    "valid_json",
    "schema_valid",
    "field_accuracy",
    "field_precision",
    "field_recall",
    "action_type",
    "argument_keys",
    "typed_text",
    "coordinates",
    "verdict",
    "tool_call_match",
    "no_call",
    "code_parses",
    "code_match",
    "code_runs",
    "rouge1",
    "rouge2",
    "rougeL",
    "sacrebleu",
    "finished",
    "answer_chars",
    "answer_tokens",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _compiled(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    return pattern


Patterns = tuple[Annotated[str, AfterValidator(_compiled)], ...]


class Match(_Strict):
    """Rules that recognise an agent's calls: any that holds is enough; patterns are searched, ignoring case.

    A name may end in `*`. `tools` are names of tools that a call must all have been offered, or that its session used
    if the log does not say what was offered. `any` takes what no other rule of any agent recognises.
    """

    names: tuple[str, ...] = ()
    system: Patterns = ()
    user: Patterns = ()
    tools: tuple[str, ...] = ()
    any: bool = False

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        """`match: any` is short for `match: {any: true}`."""
        return {"any": True} if data == "any" else data


class Teachers(_Strict):
    """Whose answers are learnt: patterns on the name of the model that answered, searched ignoring case.

    With `allow`, only models that one of its patterns recognises, so calls of an unnamed model are left out; never
    those that a pattern of `refuse` recognises.
    """

    allow: Patterns = ()
    refuse: Patterns = ()

    def accepts(self, model: str) -> bool:
        """Whether answers of this model are learnt; "" is a model that the log does not name."""
        return (not self.allow or _any_found(self.allow, model)) and not _any_found(self.refuse, model)


class AnswerSpec(_Strict):
    """What a good answer is: JSON (with an optional JSON Schema), one or more tool calls, code, or free text."""

    type: AnswerType = "text"
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")

    @field_validator("schema_")
    @classmethod
    def _usable(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        """Refused here, before a training, since the first answer that is checked with it would end the evaluation."""
        if schema is None:
            return None
        try:
            from jsonschema import Draft202012Validator, SchemaError
            from referencing import Registry
            from referencing.exceptions import Unresolvable
            from referencing.jsonschema import DRAFT202012
        except ImportError:  # the image of a web server or daemon may lack them; the steps check it
            return schema
        try:
            Draft202012Validator.check_schema(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
            resource = DRAFT202012.create_resource(schema)
            uri = resource.id() or ""
            resolver = Registry().with_resource(uri, resource).crawl().resolver(base_uri=uri)
            for reference in _references(schema):
                resolver.lookup(reference)
        except SchemaError as error:
            raise ValueError(f"no JSON Schema: {error.message}") from error
        except Unresolvable as error:
            raise ValueError(f"the schema has nothing at {error.ref!r}, which a $ref names; none is fetched") from error
        return schema


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
        yield schema["$ref"]
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _references(part)


class RetrainPolicy(_Strict):
    """When the automation trains an agent anew; every threshold is compared with what the adapter was trained on."""

    new_examples: int = Field(default=50, ge=1)  # distinct and learnable; this many, or
    new_share: float = Field(default=0.2, gt=0)  # this share of those that the adapter was trained on
    rating_below: float = Field(default=3.8, ge=1, le=5)  # mean of the last rated sessions
    rated_sessions: int = Field(default=50, ge=1)
    min_ratings: int = Field(default=10, ge=1)
    drift: float = Field(default=1.3, gt=1)  # the champion's perplexity on new held-out rows / on those it knew
    drift_rows: int = Field(default=20, ge=1)
    window: str = "*/10 2-5 * * *"  # cron, local time: the moments at which a training may start
    gap_hours: float = Field(default=12.0, ge=0, le=24 * 366)  # between two trainings
    gpu_hours: float = Field(default=8.0, gt=0)  # in 24 hours
    attempts: int = Field(default=3, ge=1)  # at the same thing, each later than the one before

    @field_validator("window")
    @classmethod
    def _cron(cls, window: str) -> str:
        if not re.fullmatch(r"[\d*/,a-zA-Z-]+( [\d*/,a-zA-Z-]+){4}", window):
            raise ValueError(f"{window!r} is no cron expression of five fields, such as '*/10 2-5 * * *'")
        return window


class Improve(_Strict):
    """How the champion's own answers become recordings that are trained on: only those that `verify` accepts.

    `schema`: the answer's JSON Schema, or those of the tools that were offered; `command`: its exit status is 0, with
    the answer on its standard input; `function`: `module:name`, called with the prompt's messages and the answer;
    `sandbox`: whole sessions of the sandbox's swarm that reach the goal state.
    """

    verify: Literal["schema", "command", "function", "sandbox"]
    command: tuple[str, ...] = ()
    function: str = ""
    seconds: float = Field(default=30.0, gt=0)  # of one command, or of one call of the function
    tasks: int = Field(default=100, ge=1)  # training prompts (or sandbox tasks) that are asked
    samples: int = Field(default=4, ge=1)  # answers a task
    temperature: float = Field(default=0.8, gt=0)
    max_new_tokens: int = Field(default=256, ge=1)
    seed: int = Field(default=7, ge=0)  # another seed asks other tasks
    schedule: str = "0 1 * * 0"  # cron; the schedule is off until it is switched on

    @model_validator(mode="after")
    def _complete(self) -> "Improve":
        if self.verify == "command" and not self.command:
            raise ValueError("verify: command needs `command: [program, argument, …]`")
        if self.verify == "function" and not re.fullmatch(r"[\w.]+:\w+", self.function):
            raise ValueError("verify: function needs `function: package.module:name`")
        return self


class AgentSpec(_Strict):
    """One agent. `training` holds any training knob; it is validated by the training room, which knows them."""

    name: str
    description: str
    match: Match = Match()
    answer: AnswerSpec = AnswerSpec()
    main_metric: MetricName = ""
    min_examples: int = Field(default=40, ge=1)
    payload_format: Literal["json", "toon"] = "json"
    images: Literal["refuse", "placeholder"] = "refuse"  # what the gateway does with a picture that a text model gets
    unknown_outcome: UnknownOutcome = "tool_calls"  # what to learn if nobody told the outcome
    learn_from: LearnFrom = "successes"
    unknown_blame: UnknownBlame = "none"  # steps of a failed session in which nobody is blamed
    replay: float = Field(default=0.0, ge=0, le=1)  # so many more examples of earlier datasets whose logs are gone
    teachers: Teachers = Teachers()
    preset: Preset = ""
    rollout: float = Field(default=0.0, ge=0, le=1)  # a new champion's share of the traffic until it has proved itself
    retrain: RetrainPolicy = RetrainPolicy()
    improve: Improve | None = None  # None: the agent learns from logs alone
    training: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: dict[str, Any]) -> dict[str, Any]:
        """`answer: json` is short for `answer: {type: json}`; unknown keys beside the known ones are training knobs."""
        data = dict(data)
        if isinstance(data.get("answer"), str):
            data["answer"] = {"type": data["answer"]}
        if "canary" in data:  # what `rollout` was called
            data.setdefault("rollout", data.pop("canary"))
        knobs = {key: data.pop(key) for key in list(data) if key not in cls.model_fields}
        if isinstance(data.get("training") or {}, dict):  # the field itself says what is wrong with any other value
            data["training"] = {**(data.get("training") or {}), **knobs}
        return data

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name) or name in RESERVED:
            raise ValueError(
                "an agent's name is lower-case letters, digits and _, starts with a letter, and is none of the "
                "reserved words " + ", ".join(sorted(RESERVED))
            )
        return name

    @property
    def metric(self) -> str:
        """The metric that the champion's gate looks at."""
        return self.main_metric or DEFAULT_MAIN_METRIC[self.answer.type]

    def is_named(self, recorded_name: str) -> bool:
        """Whether the log's name for an agent is this one's."""
        return recorded_name == self.name or any(fnmatchcase(recorded_name, name) for name in self.match.names)

    def recognises(self, messages: Sequence[dict[str, Any]]) -> bool:
        """Whether a system message of a call or its first user text is this agent's; outer white space does not count.

        Any system message: clients put some of their own in front.
        """
        systems = [message_text(message).strip() for message in messages if message_role(message) == "system"]
        user = first_text(messages, "user").strip()
        return any(_any_found(self.match.system, text) for text in systems) or _any_found(self.match.user, user)


def _any_found(patterns: tuple[str, ...], text: str) -> bool:
    return any(re.search(pattern, text, re.IGNORECASE) for pattern in patterns)


def recognise(
    agents: Sequence[AgentSpec],
    messages: Sequence[dict[str, Any]],
    recorded_name: str | None,
    tools: Sequence[dict[str, Any]] | None = None,
) -> str | None:
    """The name of the first agent that recognises a call; None when nobody does.

    A recorded name decides before texts do: a call that is named is never taken for another agent's by its texts. Then
    come the tools that were offered, and last `match: any`.
    """
    if recorded_name is not None:
        owner = next((agent.name for agent in agents if agent.is_named(recorded_name)), None)
    else:
        owner = next((agent.name for agent in agents if agent.recognises(messages)), None)
    if owner is None and tools:
        names = {tool_function(tool).get("name") for tool in tools}
        by_tools = (one for one in agents if one.match.tools and names.issuperset(one.match.tools))
        owner = next((agent.name for agent in by_tools), None)
    if owner is None and messages:
        owner = next((agent.name for agent in agents if agent.match.any), None)
    return owner


def load_agents(path: Path, hint: str = "point GROKORA_AGENTS at an agents.yaml") -> tuple[AgentSpec, ...]:
    """The agents of an `agents.yaml`, in its order; GrokoraError names file, line, agent and key.

    `hint` is what to do if there is no such file.
    """
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        _refuse_duplicate_keys(path, node, (), {})
        document = loader.construct_document(node) if node else None
    except UnicodeDecodeError as error:
        raise GrokoraError(f"{path} is not UTF-8 ({error}); save it in that encoding.") from error
    except OSError as error:
        raise GrokoraError(f"{path} cannot be read ({error}); {hint}.") from error
    except yaml.YAMLError as error:
        raise GrokoraError(f"{path} is not valid YAML: {one_line(error, 1000)}.") from error
    except RecursionError:
        raise GrokoraError(f"{path}: a value is hundreds of levels deep.") from None
    return parse_agents(document.get("agents") if isinstance(document, dict) else None, path)


def find_agent(agents: Sequence[AgentSpec], name: str) -> AgentSpec:
    """The agent of this name; GrokoraError names those that there are."""
    for agent in agents:
        if agent.name == name:
            return agent
    raise GrokoraError(f"There is no agent {name!r}; agents.yaml has {', '.join(agent.name for agent in agents)}.")


def parse_agents(entries: object, file: Path) -> tuple[AgentSpec, ...]:
    """The agents of the mapping name → fields below `agents:` of a file; GrokoraError names it, agent and key."""
    if not isinstance(entries, dict) or not entries:
        where = locate(file, "agents")
        raise GrokoraError(f"{where} needs a mapping `agents:` with at least one `name: {{description: …}}` below it.")
    for name, fields in entries.items():
        if not isinstance(fields, dict):
            raise GrokoraError(f"{locate(file, 'agents', name)}: agent {str(name)!r} needs at least a `description:`.")
    return tuple(
        validated(AgentSpec, {**fields, "name": str(name)}, file, "agents", str(name))
        for name, fields in entries.items()
    )


def validated(model: type[ModelT], values: Mapping[str, Any], file: Path, *above: str) -> ModelT:
    """A model from values that stand in a YAML file below the keys `above`; GrokoraError names file, line and key."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise refusal(error, file, *above) from error


def refusal(error: ValidationError, file: Path, *above: str) -> GrokoraError:
    """The sentence of the first error of values that stand in a YAML file below the keys `above`."""
    where, why, _ = first_mistake(error)
    why = why.replace("tuple", "list").replace("dictionary", "mapping")  # YAML's words instead of Python's
    key = f"key {'.'.join((*above, *where))!r}"
    if above[:1] == ("agents",):
        key = f"agent {above[1]!r}, key {'.'.join(where)!r}"
    return GrokoraError(f"{locate(file, *above, *where)}: {key}: {why}.")


def locate(file: Path, *keys: object) -> str:
    """`file:line` of a key of a YAML file, given with those above it; of the innermost of them that is there.

    Of a component's `defs.yaml` the keys are those below `attributes`. The file alone if it is not here, or if it holds
    several documents.
    """
    documents = list(yaml.compose_all(file.read_text("utf-8"), yaml.SafeLoader)) if file.is_file() else []
    node, line = documents[0] if len(documents) == 1 else None, 0
    for key in ("attributes", *map(str, keys)):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        entries = {str(name.value): (name, value) for name, value in pairs}
        if key in entries:
            name, node = entries[key]
            line = name.start_mark.line + 1
        elif key != "attributes":
            break
    return f"{file}:{line}" if line else str(file)


def refuse_duplicate_keys(path: Path) -> None:
    """GrokoraError names the agent, the key and both lines if a mapping of a YAML file has a key twice.

    PyYAML takes the last of two equal keys silently (yaml/pyyaml#165), and so does dg's parser of a `defs.yaml`, which
    is built on it: the first agent or setting would be lost.
    """
    for document in yaml.compose_all(path.read_text(encoding="utf-8"), yaml.SafeLoader):
        _refuse_duplicate_keys(path, document, (), {})


def _refuse_duplicate_keys(path: Path, node: yaml.Node | None, keys: tuple[str, ...], checked: dict[int, bool]) -> None:
    """Check a node, which stands below these keys, and all that it holds.

    `checked` says, by `id`, which nodes are done (True) or begun: aliases of aliases stand for one a million times.
    """
    if checked.get(id(node)) is False:
        raise GrokoraError(f"{path}: an anchor holds itself, below key {'.'.join(keys)!r}.")
    if node is None or id(node) in checked:
        return
    checked[id(node)] = False
    for item in node.value if isinstance(node, yaml.SequenceNode) else ():
        _refuse_duplicate_keys(path, item, keys, checked)
    lines: dict[str, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines and name != "<<":
            where = f"key {'.'.join((*keys, name))!r}"
            if "agents" in keys:
                agent, *fields = (*keys, name)[keys.index("agents") + 1 :]
                where = f"agent {agent!r}" + (f", key {'.'.join(fields)!r}" if fields else "")
            raise GrokoraError(f"{path}: {where} is there twice, in lines {lines[name]} and {line}; remove one.")
        lines[name] = line
        _refuse_duplicate_keys(path, value, (*keys, name), checked)
    checked[id(node)] = True
