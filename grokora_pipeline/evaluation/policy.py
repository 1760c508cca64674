"""Who answers in a task of the sandbox's swarm, and the models' answers to its calls."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from grokora_pipeline.evaluation.systems import Decoding, Systems
from grokora_pipeline.models.chat import ChatFormat
from grokora_pipeline.models.messages import Message
from grokora_pipeline.models.prompt import FixedPrompt, encode_behind
from grokora_pipeline.sandbox.roles import AgentCall
from grokora_pipeline.workers.frame import Reporter


@dataclass(frozen=True, slots=True)
class Policy:
    """Who answers in one task: the adapter of each role (if it has none, the base model), and the fixed prompts that
    stand before a role's questions. `system` is what the policy's seconds are booked under."""

    system: str
    adapters: Mapping[str, str]
    prompts: Mapping[str, FixedPrompt]
    seed: int = 0


@dataclass(slots=True)
class PolicyResponder:
    """Answers the calls of `run_swarm`, one policy a task: a batch for each adapter and role of a round."""

    systems: Systems
    chat: ChatFormat
    policies: Sequence[Policy]
    decoding: Callable[[str], Decoding]  # by role
    reporter: Reporter
    # that each system took for its own answers
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __call__(self, calls: Sequence[AgentCall]) -> list[Message]:
        """The messages that answer a round's calls, in their order."""
        messages = dict[int, Message]()
        batches: defaultdict[tuple[str | None, str], list[int]] = defaultdict(list)
        for index, call in enumerate(calls):
            batches[self.policies[call.task].adapters.get(call.agent), call.agent].append(index)
        for (adapter, role), batch in batches.items():
            batch_calls = [(calls[index], self.policies[calls[index].task]) for index in batch]
            prompts = [
                encode_behind(policy.prompts.get(role), call.messages, call.tools, self.chat)
                for call, policy in batch_calls
            ]
            seeds = [policy.seed for _, policy in batch_calls]
            answers = self.systems.answers(adapter, prompts, self.decoding(role), seeds=seeds)
            for index, (_, policy), (answer, _) in zip(batch, batch_calls, answers, strict=True):
                self.seconds[policy.system] += answer.seconds
                messages[index] = self.chat.parse_answer(self.chat.decode(answer.tokens))
        self.reporter.progress(len(self.policies) - len(calls), len(self.policies), calls=str(len(calls)))
        return [messages[index] for index in range(len(calls))]
