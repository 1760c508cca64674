"""A champion as files that another engine serves: the base, the adapter, the effective template, one command.

Plan: {agent, base, model_id, revision, licence, adapter, target, kind, merged, toon, prompted, output, evidence,
metrics}; `target` is a name of `engines.NAMES`, `output` an empty folder. No file names a folder of this machine.
"""

import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat, read_json
from grokora_pipeline.models.engines import (
    NAMES,
    ServedAdapter,
    adapter_rank,
    lora_scale,
    refuse_agents,
    state_layers,
    vllm_words,
)
from grokora_pipeline.models.fingerprint import BUNDLED_ID, model_files, split_revision
from grokora_pipeline.models.sequences import first_difference
from grokora_pipeline.workers.frame import Plan

_CARD = """---
license: {licence}
---
# The champion of `{agent}` for {engine}

```sh
{command}
```

| | |
|---|---|
| base | {model_id}, {revision} |
| adapter | version {version}, rank {rank} |
| chat template (sha256) | `{template}` |
| licence of the base | {licence} |
| metrics | {metrics} |
| why it is champion | {evidence} |
| proof | {proof} |

{notes}
"""
NOT_PROVEN = "{engine} was not run: prove it with `grokora probe <base-url> {agent}`"


@dataclass(frozen=True, slots=True)
class Export:
    """What was written: its command, run in the folder, what its user has to know, and the facts of its card."""

    command: str
    notes: str
    facts: dict[str, Any]


def hand_over(plan: Plan, prompts: Sequence[Mapping[str, Any]]) -> Export:
    """Write the files into `output`. GrokoraError if the engine cannot do the same as this project.

    `prompts` are held-out ones, {prompt, tools}: all that a Go template has to render as training did.
    """
    target, output = str(plan["target"]), Path(plan["output"])
    if target not in NAMES:
        raise GrokoraError(f"There is no export to {target!r}; choose one of {', '.join(NAMES)}.")
    if plan.get("merged") and target not in ("gguf", "ollama"):
        raise GrokoraError(f"Only gguf and ollama take a merged file; for {NAMES[target]} serve merged_model itself.")
    toon, prompted = ([str(plan["agent"])] if plan.get(name) else [] for name in ("toon", "prompted"))
    notes = [refuse_agents(target, toon=toon, prompted=prompted)]
    chat, config = ChatFormat.load(Path(plan["base"])), read_json(Path(plan["adapter"]) / "adapter_config.json")
    output.mkdir(parents=True, exist_ok=True)
    command, note = _WRITERS[target](plan, chat, prompts, output)
    (output / "chat_template.jinja").write_text(chat.template, encoding="utf-8")
    facts = {
        **{name: str(plan[name]) for name in ("agent", "model_id", "revision", "licence", "evidence", "metrics")},
        **{"version": Path(plan["adapter"]).name, "rank": adapter_rank(config), "template": chat.template_sha256},
        **{"target": target, "engine": NAMES[target]},
    }
    return Export(command, "\n\n".join(filter(None, [*notes, note])), facts)


def write_card(output: Path, export: Export, proof: str = "") -> dict[str, Any]:
    """Write the folder's README.md; returns what it says, with the folder's size in `bytes`.

    `proof`: what the probe found; "" says that it was not run.
    """
    facts = {**export.facts, "command": export.command, "notes": export.notes}
    facts["proof"] = proof or NOT_PROVEN.format(**facts)
    (output / "README.md").write_text(_CARD.format(**facts), encoding="utf-8")
    return {**facts, "bytes": sum(path.stat().st_size for path in output.rglob("*") if path.is_file())}


def _base(plan: Plan, chat: ChatFormat, output: Path) -> tuple[str, str]:
    """(what a command calls the base, its revision): the hub's name and commit if it came from the hub; else `./base`,
    a copy with the effective template as its own. A folder of this machine's store exists nowhere else.
    """
    if plan["revision"] != "local" and plan["model_id"] != BUNDLED_ID:
        return split_revision(str(plan["model_id"]))[0], str(plan["revision"])
    folder = output / "base"
    folder.mkdir()
    for path in model_files(Path(plan["base"])):
        if path.name not in ("base_model.json", "effective_template.jinja"):
            shutil.copyfile(path, folder / path.name)
    (folder / "chat_template.jinja").write_text(chat.template, encoding="utf-8")
    return "./base", ""


def _copy_adapter(plan: Plan, folder: Path, base: str, revision: str) -> dict[str, Any]:
    """Copy the adapter in PEFT's format, with the base's name as the export's commands say it; returns its config."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(Path(plan["adapter"]) / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    config = read_json(Path(plan["adapter"]) / "adapter_config.json")
    config |= {"base_model_name_or_path": base, "revision": revision or None}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return config


def _gguf(plan: Plan, chat: ChatFormat, prompts: Sequence[Mapping[str, Any]], output: Path) -> tuple[str, str]:
    names = write_gguf(plan, output)
    command = f"llama-server -m {shlex.quote(names[0])}{' --lora adapter.gguf' * (len(names) > 1)} --jinja"
    return (
        command,
        "The effective chat template is inside the model's file. "
        "Sampling is the server's: send `temperature: 0` for the answers that the evaluation saw.",
    )


def write_gguf(plan: Plan, output: Path) -> list[str]:
    """Write the base and adapter.gguf, or if `merged` one file of both; the files' names, the model's first.

    GrokoraError, with no file left, if llama.cpp does not know the model or cannot apply the adapter.
    """
    from grokora_pipeline.models import gguf

    kind, merged, base = str(plan.get("kind") or "bf16"), bool(plan.get("merged")), Path(plan["base"])
    names = [f"{plan['agent']}-{kind}.gguf"] if merged else [f"base-{kind}.gguf", "adapter.gguf"]
    try:
        if merged:
            gguf.check_base(base, kind)  # before minutes of merging
            from grokora_pipeline.models.merge import write_merged

            with tempfile.TemporaryDirectory(dir=output) as folder:
                write_merged(base, Path(plan["adapter"]), Path(folder))
                gguf.write_base(Path(folder), output / names[0], kind, str(plan["model_id"]))
        else:
            gguf.write_adapter(base, Path(plan["adapter"]), output / names[1])
            gguf.write_base(base, output / names[0], kind, str(plan["model_id"]))
    except GrokoraError:
        for path in output.glob("*.gguf"):
            path.unlink()
        raise
    return names


def _ollama(plan: Plan, chat: ChatFormat, prompts: Sequence[Mapping[str, Any]], output: Path) -> tuple[str, str]:
    template, tools = go_template(chat, prompts)
    model, *adapter = write_gguf(plan, output)
    stops = [text for token in chat.stop_ids if (text := chat.tokenizer.id_to_token(token))]
    lines = [f"FROM ./{model}", *(f"ADAPTER ./{name}" for name in adapter), f'TEMPLATE """{template}"""']
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]  # quotes are cut off; an escape would stay as it is
    # Without it Ollama divides the logits of the last 64 tokens by 1.1, and JSON repeats its quotes and names.
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]
    lines.append(f"PARAMETER num_ctx {min(chat.context_length, 8192)}")
    (output / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
    name = shlex.quote(str(plan["agent"]))
    notes = f"The template gives the same text as training on all {len(prompts)} held-out prompts."
    if tools:
        notes += (
            " The agent's tools stand in the template as they were trained: send none with a request, and read calls"
            " from the text, `<tool_call>{…}</tool_call>`."
        )
    if adapter:
        without = [line for line in lines if not line.startswith("ADAPTER")]
        (output / "Modelfile.base").write_text("\n".join(without) + "\n", encoding="utf-8")
        notes += f" `ollama create {name}-base -f Modelfile.base` makes the base alone, which `grokora probe` needs."
    return f"ollama create {name} -f Modelfile && ollama run {name}", notes


def go_template(chat: ChatFormat, prompts: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    """(Ollama's Go template, whether the tools are written in it) that renders every one of `prompts` as training did.

    A Go template here is what stands before and after a message of each role. GrokoraError with the first prompt that
    this cannot express, byte for byte.
    """
    if not prompts:
        raise GrokoraError("There are no held-out prompts to prove an Ollama template on; materialize tokenized_split.")
    tools = prompts[0].get("tools")
    parts = _role_marks(chat, tools)
    for number, entry in enumerate(prompts, 1):
        expected = chat.render_prompt(entry["prompt"], entry.get("tools"))
        actual = _rendered(parts, entry["prompt"])
        if actual != expected:
            at = first_difference(actual, expected)
            raise GrokoraError(
                f"Ollama's Go template cannot render what training used: held-out prompt {number} differs from "
                f"character {at} on; use --to gguf, which keeps the template itself."
            )
    cases = "".join(
        f'{{{{ {"else " if index else ""}if eq .Role "{role}" }}}}{_go(before)}{{{{ .Content }}}}{_go(after)}'
        for index, (role, (before, after)) in enumerate((role, parts[role]) for role in ("system", "user", "assistant"))
    )
    start, end = _go(parts["start"][0]), _go(parts["end"][0])
    opening = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{start}{{{{ end }}}}' if start else ""
    return f"{opening}{{{{ range .Messages }}}}{cases}{{{{ end }}}}{{{{ end }}}}{end}", bool(tools)


def _go(text: str) -> str:
    """Text as a Go string inside a template, in ASCII: the Modelfile's parser drops what Go does not call printable."""
    quoted = "".join(json.dumps(char)[1:-1] if char < "\x7f" else f"\\U{ord(char):08x}" for char in text)
    return f'{{{{ "{quoted}" }}}}' if text else ""


def _role_marks(chat: ChatFormat, tools: Any) -> dict[str, tuple[str, str]]:
    """What stands before and after each role's text, read off a rendered conversation; `start` and `end` of it all.

    `start` is what a conversation without a system message begins with: some templates put one of their own there.
    """
    texts = ("Zq7system", "Zq7user", "Zq7assistant", "Zq7again")
    roles = ("system", "user", "assistant", "user")
    turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    # A message ends with its stop token and the line break after it; what follows belongs to the next one.
    end = re.compile(rf"(.*{re.escape(chat.stop_token)}\n*)?(.*)", re.DOTALL)

    def split(gap: str) -> tuple[str, str]:
        """What ends the turn before, and what begins the next."""
        match = end.fullmatch(gap)
        return (match[1] or "", match[2]) if match else ("", gap)

    gaps, rest = list[tuple[str, str]](), chat.render_prompt(turns, tools)
    for text in texts:
        before, separator, rest = rest.partition(text)
        if not separator:
            raise GrokoraError("Ollama's Go template cannot render what training used; use --to gguf instead.")
        gaps.append(split(before) if gaps else ("", before))
    alone = chat.render_prompt(turns[1:2], tools).partition(texts[1])[0]
    return {
        "start": (alone.removesuffix(gaps[1][1]), ""),
        "system": (gaps[0][1], gaps[1][0]),
        "user": (gaps[1][1], gaps[2][0]),
        "assistant": (gaps[2][1], gaps[3][0]),
        "end": (split(rest)[1], ""),
    }


def _rendered(parts: Mapping[str, tuple[str, str]], turns: Sequence[Mapping[str, Any]]) -> str:
    """What Ollama renders of a conversation: all of it up to the first message that it has no text for."""
    text = "" if turns and turns[0]["role"] == "system" else parts["start"][0]
    for role, group in groupby(turns, key=itemgetter("role")):
        messages = [*group]
        contents = [message["content"] for message in messages if isinstance(message.get("content"), str)]
        calls = any(message.get("tool_calls") for message in messages)
        if role not in parts or calls or len(contents) < len(messages):
            return text
        before, after = parts[role]
        text += before + "\n\n".join(contents) + after  # Ollama's `collate` makes one message of them
    return text + parts["end"][0]


def _vllm(plan: Plan, chat: ChatFormat, prompts: Sequence[Mapping[str, Any]], output: Path) -> tuple[str, str]:
    agent, (base, revision) = str(plan["agent"]), _base(plan, chat, output)
    config = _copy_adapter(plan, output / "adapter", base, revision)
    named = [base, *(["--revision", revision] if revision else []), "--served-model-name", "base"]
    adapter = ServedAdapter(agent, "./adapter", config)
    command = shlex.join(vllm_words(chat, named, "./chat_template.jinja", [adapter], str(plan["model_id"])))
    (output / "serve.sh").write_text(f'#!/bin/sh\ncd "$(dirname "$0")" && exec {command}\n', encoding="utf-8")
    (output / "serve.sh").chmod(0o755)
    notes = f"`{command}`; the models `base` and `{agent}` are the adapter off and on."
    if kinds := state_layers(Path(plan["base"])):
        # vllm#49354: such layers take the adapter without an error, and without an effect.
        notes += (
            f" The base has layers of {', '.join(kinds)}, on which vLLM may leave an adapter without effect: probe it."
        )
    return "./serve.sh", notes


def _peft(plan: Plan, chat: ChatFormat, prompts: Sequence[Mapping[str, Any]], output: Path) -> tuple[str, str]:
    base, revision = _base(plan, chat, output)
    _copy_adapter(plan, output, base, revision)
    named = f"{base!r}, revision={revision!r}" if revision else repr(base)
    code = (
        "from transformers import AutoModelForCausalLM, GenerationConfig; from peft import PeftModel; "
        f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({named}), '.'); "
        # without it, `generate` may sample or punish repetition, as the base's own settings say
        f"model.generation_config = GenerationConfig(eos_token_id={list(chat.stop_ids)})"
    )
    return f"python -c {shlex.quote(code)}", "Render prompts with chat_template.jinja, not the base's own."


def _mlx(plan: Plan, chat: ChatFormat, prompts: Sequence[Mapping[str, Any]], output: Path) -> tuple[str, str]:
    """mlx-lm's layout: A and B transposed, one rank and one scale for all; shorter ranks are filled with zeros."""
    from safetensors.torch import load_file, save_file

    from grokora_pipeline.models.gguf import refuse_adapter

    config = read_json(Path(plan["adapter"]) / "adapter_config.json")
    refuse_adapter(config, Path(plan["adapter"]))
    import torch

    state = load_file(str(Path(plan["adapter"]) / "adapter_model.safetensors"))
    rank, scale, keys, tensors = adapter_rank(config), 0.0, set(), {}
    layers = set()
    for key in sorted(name for name in state if name.endswith(".lora_A.weight")):
        module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        a, b = state[key].float(), state[key.replace(".lora_A.", ".lora_B.")].float()
        _, separator, inner = module.partition("model.layers.")
        layer, _, path = inner.partition(".")
        if not separator or not layer.isdigit():
            raise GrokoraError(f"mlx-lm puts adapters into layers only, not on {module}; merge the model instead.")
        layers.add(int(layer))
        keys.add(path)
        scale = scale or lora_scale(config, module, len(a))
        factor = lora_scale(config, module, len(a)) / scale
        padded_a, padded_b = torch.zeros(a.shape[1], rank), torch.zeros(rank, b.shape[0])
        padded_a[:, : len(a)], padded_b[: len(a)] = a.T, b.T * factor
        tensors[f"{module}.lora_a"], tensors[f"{module}.lora_b"] = padded_a, padded_b
    save_file(tensors, str(output / "adapters.safetensors"))
    total = int(read_json(Path(plan["base"]) / "config.json")["num_hidden_layers"])
    parameters = {"rank": rank, "scale": scale, "dropout": 0.0, "keys": sorted(keys)}
    document = {"fine_tune_type": "lora", "num_layers": total - min(layers), "lora_parameters": parameters}
    (output / "adapter_config.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    base, _ = _base(plan, chat, output)
    command = f'mlx_lm.server --model {base} --adapter-path . --chat-template "$(cat chat_template.jinja)"'
    return command, "chat_template.jinja is the effective template; mlx-lm takes no revision of a hub's model."


_WRITERS = {"gguf": _gguf, "ollama": _ollama, "vllm": _vllm, "mlx": _mlx, "peft": _peft}
