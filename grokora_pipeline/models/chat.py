"""How a model's chat turns into tokens, without torch: prompts, completions, stop tokens and parsed answers.

Rendering follows `transformers`' chat templates (same sandboxed Jinja environment, same ids; a test compares them).
Log text is untrusted: a control token that stands in a message's text is broken up, so that it cannot forge a turn.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.answers import AnswerForm
from grokora_pipeline.models.fit import fit_template, read_message, render
from grokora_pipeline.models.messages import (
    REASONING,
    SURROGATE,
    Message,
    Tool,
    answer_text,
    calls_of,
    message_reasoning,
    normalise,
)
from grokora_pipeline.models.template import CHATML, PLAIN

DEFAULT_CONTEXT = 2048
_LONG_TEXT = 1 << 14  # characters; below, `encode` is done within some 30 ms


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """The chat format of one model: its tokenizer, its effective template and how an answer is written and read."""

    tokenizer: Tokenizer
    template: str  # the effective one
    special: Mapping[str, str]  # bos_token, eos_token, … as templates see them
    stop_token: str
    stop_ids: tuple[int, ...]
    context_length: int
    has_chat_template: bool  # False: `template` is this project's default
    native_tools: bool  # False: tools and calls are text, see `template.TEXT_TOOLS`
    form: AnswerForm
    rowless: frozenset[str]  # added tokens without an embedding (Gemma-3's for pictures): a text's are broken up
    notes: tuple[str, ...]  # what differs from the model's own template, and why, a sentence each

    @classmethod
    def load(cls, folder: Path) -> "ChatFormat":
        """Read a model folder's tokenizer.json, template and configs; GrokoraError says which file is missing."""
        tokenizer = _load_tokenizer(folder)
        configs = {name: read_json(folder / name) for name in ("config.json", "tokenizer_config.json")}
        special = _special_tokens(folder, tokenizer, configs)
        own = _own_template(folder, configs["tokenizer_config.json"])
        added, rows = tokenizer.get_added_tokens_decoder(), embedding_rows(configs["config.json"])
        controls = {token.content for token in added.values() if token.special}
        # The template of a model that brings none: ChatML if its tokens exist, else plain `### Role:` headings.
        chatml = all(tokenizer.token_to_id(token) is not None for token in ("<|im_start|>", "<|im_end|>"))
        fit = fit_template(own, CHATML if chatml else PLAIN, tuple(sorted(special.items())), frozenset(controls))
        if tokenizer.token_to_id(fit.stop_token) is None:
            raise GrokoraError("The model names no end-of-sequence token; set eos_token in its tokenizer_config.json.")
        return cls(
            tokenizer=tokenizer,
            template=fit.template,
            special=special,
            stop_token=fit.stop_token,
            stop_ids=_stop_ids(folder, tokenizer, fit.stop_token, special, configs["config.json"]),
            context_length=_context_length(configs),
            has_chat_template=own is not None and not fit.replaced,
            native_tools=fit.native_tools,
            form=fit.form,
            rowless=frozenset(token.content for index, token in added.items() if rows is not None and index >= rows),
            notes=fit.notes,
        )

    @property
    def template_sha256(self) -> str:
        """The hash of the effective template's text."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    def render_prompt(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool] | None = None) -> str:
        """The conversation as text, up to where the assistant starts to write.

        GrokoraError if the template refuses the conversation.
        """
        return self._render(self._guard(normalise(messages)), tools, generation=True)

    def render_completion(
        self,
        prompt_messages: Sequence[Mapping[str, Any]],
        completion_messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Tool] | None = None,
    ) -> str:
        """The text after the prompt up to and including the stop token; `parse_answer` reads it back."""
        answer = self._guard(normalise(completion_messages, opening=False))
        if self.native_tools and any(turn.get("tool_calls") for turn in answer):
            if not self.form.closing:
                answer = [{name: turn[name] for name in turn if name not in REASONING} for turn in answer]
            prompt_turns = self._guard(normalise(prompt_messages))
            prompt = self._render(prompt_turns, tools, generation=True)
            whole = self._render([*prompt_turns, *answer], tools, generation=False)
            if whole.startswith(prompt):
                return whole[len(prompt) :].partition(self.stop_token)[0] + self.stop_token
        reasoning = "\n\n".join(filter(None, map(message_reasoning, answer)))
        return self.form.write("\n".join(map(answer_text, answer)), reasoning) + self.stop_token

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text; nothing is added."""
        ids: list[int]
        if len(text) < _LONG_TEXT:
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        else:  # `encode` holds the GIL to its end, so that a server's other threads stand still; a batch does not
            ids = self.tokenizer.encode_batch([text], add_special_tokens=False)[0].ids
        return ids

    def encode_prompt(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool] | None = None) -> list[int]:
        """Token ids of the prompt: the one function from a request's messages and offered tools to what a model reads.

        Training, evaluation and the gateway call it alike; `messages.offered_tools` says which tools a request offers.
        """
        return self.encode(self.render_prompt(messages, tools))

    def encode_example(self, example: Mapping[str, Any], *, exact: bool = True) -> tuple[list[int], list[int]]:
        """(prompt ids, completion ids) of an example with `prompt`, `completion` and optional `tools`.

        The two are tokenized apart, so that a prompt's ids are the same in training as in generation. GrokoraError
        if the template refuses the example and, with `exact`, if its answer would be read back as another one.
        """
        tools = example.get("tools")
        completion = self.render_completion(example["prompt"], example["completion"], tools)
        if exact and (difference := self._difference(example["completion"], completion)):
            raise GrokoraError(f"A model that writes this answer would be read as saying something else: {difference}.")
        return self.encode_prompt(example["prompt"], tools), self.encode(completion)

    def _difference(self, completion: Sequence[Mapping[str, Any]], text: str) -> str:
        """What of an answer is not what its text is read back as, "" for nothing.

        Reasoning may be missing, for not every template has a place for it. White space around a text does not count.
        """
        turns, parsed = normalise(completion, opening=False), self.parse_answer(text)
        calls = [call for message in completion for call in calls_of(message)]
        if any(call.arguments is None for call in calls):
            return "the arguments of a call are no JSON object"
        if calls_of(parsed) != calls:
            return "its calls, or text that looks like one"
        if parsed["content"] != "\n".join(turn["content"] for turn in turns).strip():
            return "its text, which holds marks of the template"
        reasoning = "\n\n".join(filter(None, map(message_reasoning, turns))).strip()
        return (
            "" if parsed.get("reasoning_content", reasoning) == reasoning else "its reasoning, which holds such marks"
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids up to the first stop token."""
        end = next((index for index, token in enumerate(ids) if token in self.stop_ids), len(ids))
        text: str = self.tokenizer.decode(list(ids[:end]), skip_special_tokens=False)
        return text

    def parse_answer(self, text: str) -> Message:
        """An OpenAI-shaped assistant message from generated text; `content` is "" and never null.

        What the model thought is `reasoning_content`, never content.
        """
        return read_message(text, self.form, self.stop_token)

    def visible_text(self, growing: str) -> str:
        """What of an answer that still grows is certain to be content (or a call): no reasoning, no half a mark."""
        return self.form.visible(growing.split(self.stop_token, 1)[0])

    def visible_reasoning(self, growing: str) -> str:
        """What of an answer that still grows is certain to be reasoning; it only grows, and ends where text begins."""
        return self.form.visible_reasoning(growing.split(self.stop_token, 1)[0])

    def _guard(self, turns: list[Any]) -> list[Any]:
        """The turns, or tools, with every control token in their texts broken up."""
        added = self.tokenizer.get_added_tokens_decoder().items()
        controls = {self.stop_token, *self.special.values(), *self.rowless}
        controls |= {
            token.content
            for number, token in added
            if number in self.stop_ids or (token.special and token.content in self.template)
        }
        pattern = re.compile("|".join(re.escape(token) for token in sorted(controls, key=len, reverse=True)))
        return [_escape_controls(turn, pattern) for turn in turns]

    def _render(self, turns: list[Message], tools: Sequence[Tool] | None, *, generation: bool) -> str:
        tools = self._guard(list(tools)) if tools else None
        return render(self.template, self.special, turns, tools, generation=generation)


class TextStream:
    """The text of an answer whose tokens come one by one; decoding the whole anew for each of them is quadratic.

    What `text` has shown stays: it only grows, so that a streamed answer and its final text agree.
    """

    def __init__(self, chat: ChatFormat) -> None:
        self.text = ""
        self._chat, self._tokens = chat, list[int]()
        self._stream = DecodeStream(skip_special_tokens=False)

    def add(self, tokens: Sequence[int]) -> None:
        """Append tokens; half a character is kept back until the rest of it comes."""
        for token in tokens:
            self._tokens.append(token)
            try:
                piece = self._stream.step(self._chat.tokenizer, token)
            except Exception as error:  # the Rust extension raises a bare Exception
                # Bytes that are no UTF-8 change what a byte-fallback tokenizer (Llama 2, Gemma) decoded before them.
                if not str(error).startswith("Invalid prefix"):
                    raise
                self._stream = DecodeStream(skip_special_tokens=False)
                piece = self._stream.step(self._chat.tokenizer, token)
            self.text += piece or ""

    def end(self) -> None:
        """No more tokens come: what was kept back is shown as it is."""
        whole = self._chat.decode(self._tokens)
        self.text = whole if whole.startswith(self.text) else self.text


def _escape_controls(value: Any, controls: re.Pattern[str]) -> Any:
    """The value with a space after the first character of every control token in its strings.

    Half a surrogate pair, which JSON can hold and no tokenizer takes, becomes the replacement character.
    """
    if isinstance(value, str):
        text = controls.sub(lambda match: f"{match.group()[0]} {match.group()[1:]}", value)
        return text if text.isascii() else SURROGATE.sub("\ufffd", text)
    if isinstance(value, Mapping):
        return {_escape_controls(key, controls): _escape_controls(item, controls) for key, item in value.items()}
    return [_escape_controls(item, controls) for item in value] if isinstance(value, list) else value


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model's file, {} if the file is absent; GrokoraError if it is broken."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise GrokoraError(f"{path} is no readable JSON ({error}); fetch the model again.") from error
    return document if isinstance(document, dict) else {}


def _load_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not folder.is_dir():  # the checkout was moved, or the hub's cache emptied, since base_model was made
        raise GrokoraError(f"{folder} is not there any more; materialize base_model again, or put the model back.")
    if not path.is_file():
        raise GrokoraError(
            f"{folder} has no tokenizer.json; save one with transformers' AutoTokenizer….save_pretrained(folder)."
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust extension raises a bare Exception
        raise GrokoraError(f"{path} is no readable tokenizer ({error}); fetch the model again.") from error


def _special_tokens(folder: Path, tokenizer: Tokenizer, configs: dict[str, dict[str, Any]]) -> dict[str, str]:
    """bos/eos/pad/unk tokens from tokenizer_config.json, special_tokens_map.json, else from the ids in config.json."""
    tokens: dict[str, str] = {}
    for source in (configs["tokenizer_config.json"], read_json(folder / "special_tokens_map.json")):
        for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
            token = source.get(name)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                tokens.setdefault(name, token)
    for name in ("bos", "eos"):
        ids = configs["config.json"].get(f"{name}_token_id")
        first = ids[0] if isinstance(ids, list) and ids else ids
        if f"{name}_token" not in tokens and _is_id(first):
            token = tokenizer.id_to_token(first)
            if token is not None:
                tokens[f"{name}_token"] = token
    return tokens


def _own_template(folder: Path, tokenizer_config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise GrokoraError(f"{path} is no readable text ({error}); fetch the model again.") from error
    template = read_json(folder / "chat_template.json").get("chat_template") or tokenizer_config.get("chat_template")
    if isinstance(template, list):
        by_name = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = by_name.get("default") or next(iter(by_name.values()), None)
    return template if isinstance(template, str) and template else None


def _stop_ids(
    folder: Path, tokenizer: Tokenizer, stop_token: str, special: Mapping[str, str], config: dict[str, Any]
) -> tuple[int, ...]:
    ids = {tokenizer.token_to_id(stop_token), tokenizer.token_to_id(special.get("eos_token", stop_token))}
    for source in (config, read_json(folder / "generation_config.json")):
        declared = source.get("eos_token_id")
        ids.update(filter(_is_id, declared if isinstance(declared, list) else [declared]))
    return tuple(sorted(token for token in ids if token is not None))


def _is_id(value: object) -> TypeGuard[int]:
    """Whether this can be a token's id: some configs say -1 for none, at which `id_to_token` overflows."""
    return isinstance(value, int) and 0 <= value < 1 << 32


def text_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json with the settings of the text model on top, which models that read pictures keep apart."""
    text = config.get("text_config")
    return {**config, **(text if isinstance(text, dict) else {})}


def embedding_rows(config: Mapping[str, Any]) -> int | None:
    """How many tokens a model has embeddings of, as its config says; None if it does not."""
    rows = text_settings(config).get("vocab_size")
    return rows if isinstance(rows, int) else None


def _context_length(configs: dict[str, dict[str, Any]]) -> int:
    config = text_settings(configs["config.json"])
    stated = [config.get("max_position_embeddings"), config.get("n_positions")]
    stated.append(configs["tokenizer_config.json"].get("model_max_length"))
    lengths = [int(value) for value in stated if isinstance(value, int | float) and 0 < value < 10_000_000]
    return min(lengths, default=DEFAULT_CONTEXT)
