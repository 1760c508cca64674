"""`python -m grokora_pipeline.models.handover plan.json`: a champion as files that another engine serves.

Plan: {agent, base, model_id, licence, adapter, target, kind, output, prompts: [{prompt, tools?}], evidence}. `target`
is gguf, ollama, vllm, mlx or peft; `output` an empty folder. Every folder has a README.md: what it is, how to run it.
"""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat, read_json
from grokora_pipeline.models.messages import normalise
from grokora_pipeline.workers.frame import Plan, Reporter, Result, run

TARGETS = ("gguf", "ollama", "vllm", "mlx", "peft")
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank accepts
_CARD = """---
license: {licence}
---
# The champion of `{agent}` for {target}

{commands}

| | |
|---|---|
| base | {model_id} |
| adapter | version {version}, rank {rank} |
| chat template (sha256) | `{template}` |
| licence of the base | {licence} |
| why it is champion | {evidence} |

{notes}
"""


def hand_over(plan: Plan, reporter: Reporter) -> Result:
    """Write the folder; returns what its card says. GrokoraError if the engine cannot do the same as this project."""
    target, output = str(plan["target"]), Path(plan["output"])
    if target not in TARGETS:
        raise GrokoraError(f"There is no export to {target!r}; choose one of {', '.join(TARGETS)}.")
    base, adapter = Path(plan["base"]), Path(plan["adapter"])
    chat, config = ChatFormat.load(base), read_json(adapter / "adapter_config.json")
    output.mkdir(parents=True, exist_ok=True)
    reporter.log(f"Writing the champion of {plan['agent']} for {target}")
    commands, notes = _WRITERS[target](plan, chat, config, output)
    facts = {
        **{name: str(plan[name]) for name in ("agent", "model_id", "licence", "evidence")},
        **{"target": target, "version": adapter.name, "rank": adapter_rank(config), "template": chat.template_sha256},
    }
    block = f"```sh\n{commands}\n```"
    (output / "README.md").write_text(_CARD.format(**facts, commands=block, notes=notes), encoding="utf-8")
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return {**facts, "command": commands, "notes": notes, "bytes": size}


def _gguf(plan: Plan, chat: ChatFormat, config: dict[str, Any], output: Path) -> tuple[str, str]:
    from grokora_pipeline.models import gguf

    kind = str(plan.get("kind") or "bf16")
    try:
        gguf.write_base(Path(plan["base"]), output / f"base-{kind}.gguf", kind, str(plan["model_id"]))
        gguf.write_adapter(Path(plan["base"]), Path(plan["adapter"]), output / "adapter.gguf")
    except GrokoraError:
        for path in output.glob("*.gguf"):
            path.unlink()
        raise
    (output / "chat_template.jinja").write_text(chat.template, encoding="utf-8")
    return (
        f"llama-server -m base-{kind}.gguf --lora adapter.gguf --jinja",
        "The effective chat template is inside the base's file. "
        "Sampling is the server's: send `temperature: 0` for the answers that the evaluation saw.",
    )


def _ollama(plan: Plan, chat: ChatFormat, config: dict[str, Any], output: Path) -> tuple[str, str]:
    template, tools = go_template(chat, plan["prompts"])
    _gguf(plan, chat, config, output)
    kind = str(plan.get("kind") or "bf16")
    stops = [text for token in chat.stop_ids if (text := chat.tokenizer.id_to_token(token))]
    lines = [f"FROM ./base-{kind}.gguf", "ADAPTER ./adapter.gguf", f'TEMPLATE """{template}"""']
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    lines += ["PARAMETER temperature 0", f"PARAMETER num_ctx {min(chat.context_length, 8192)}"]
    (output / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
    without = [line for line in lines if not line.startswith("ADAPTER")]
    (output / "Modelfile.base").write_text("\n".join(without) + "\n", encoding="utf-8")
    name = shlex.quote(str(plan["agent"]))
    notes = f"The template gives the same text as training on all {len(plan['prompts'])} held-out prompts."
    if tools:
        notes += (
            " The agent's tools stand in the template as they were trained: send none with a request, and read calls"
            " from the text, `<tool_call>{…}</tool_call>`."
        )
    notes += " `ollama create NAME -f Modelfile.base` makes the base alone, which `grokora probe` compares with."
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
        actual = _rendered(parts, normalise(entry["prompt"]))
        if actual != expected:
            at = next((i for i, (a, b) in enumerate(zip(actual, expected, strict=False)) if a != b), len(actual))
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
    """Text as a Go string inside a template: line breaks and quotes cannot be trimmed or end the Modelfile's string."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


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
        match = end.fullmatch(gap)
        return (match[1] or "", match[2]) if match else ("", gap)

    gaps, rest = list[tuple[str, str]](), chat.render_prompt(turns, tools)
    for text in texts:
        before, found, rest = rest.partition(text)
        if not found:
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
    text = "" if turns and turns[0]["role"] == "system" else parts["start"][0]
    for turn in turns:
        if turn["role"] not in parts or turn.get("tool_calls") or not isinstance(turn.get("content"), str):
            return text
        before, after = parts[turn["role"]]
        text += before + turn["content"] + after
    return text + parts["end"][0]


def _vllm(plan: Plan, chat: ChatFormat, config: dict[str, Any], output: Path) -> tuple[str, str]:
    for name in ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters"):
        if config.get(name):
            raise GrokoraError(f"vLLM serves no adapter that was trained with {name}; export --to peft and merge it.")
    _peft(plan, chat, config, output)
    words = ["vllm", "serve", str(plan["base"]), "--served-model-name", "base", "--enable-lora"]
    words += ["--max-lora-rank", str(max_lora_rank(config)), "--lora-modules", f"{plan['agent']}=./adapter"]
    words += ["--chat-template", "./chat_template.jinja"]
    if "<tool_call>" in chat.template:  # as the effective template writes calls, whatever the model's family
        words += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    adapter = output / "adapter"
    adapter.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (output / name).rename(adapter / name)
    command = shlex.join(words)
    (output / "serve.sh").write_text(f'#!/bin/sh\ncd "$(dirname "$0")" && exec {command}\n', encoding="utf-8")
    (output / "serve.sh").chmod(0o755)
    return "./serve.sh", f"`{command}`; the models `base` and `{plan['agent']}` are the adapter off and on."


def _peft(plan: Plan, chat: ChatFormat, config: dict[str, Any], output: Path) -> tuple[str, str]:
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(Path(plan["adapter"]) / name, output / name)
    (output / "chat_template.jinja").write_text(chat.template, encoding="utf-8")
    code = (
        "from transformers import AutoModelForCausalLM; from peft import PeftModel; "
        f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({str(plan['base'])!r}), '.')"
    )
    return (
        f"python -c {shlex.quote(code)}",
        "Render prompts with chat_template.jinja, not the base's own.",
    )


def _mlx(plan: Plan, chat: ChatFormat, config: dict[str, Any], output: Path) -> tuple[str, str]:
    """mlx-lm's layout: A and B transposed, one rank and one scale for all; shorter ranks are filled with zeros."""
    from safetensors.torch import load_file, save_file

    from grokora_pipeline.models.gguf import lora_scale, refuse_adapter

    refuse_adapter(config, Path(plan["adapter"]))
    import torch

    state = load_file(str(Path(plan["adapter"]) / "adapter_model.safetensors"))
    rank, scale, keys, tensors = adapter_rank(config), 0.0, set(), {}
    layers = set()
    for key in sorted(name for name in state if name.endswith(".lora_A.weight")):
        module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        a, b = state[key].float(), state[key.replace(".lora_A.", ".lora_B.")].float()
        _, found, inner = module.partition("model.layers.")
        layer, _, path = inner.partition(".")
        if not found or not layer.isdigit():
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
    (output / "chat_template.jinja").write_text(chat.template, encoding="utf-8")
    command = f"mlx_lm.server --model {shlex.quote(str(plan['base']))} --adapter-path ."
    template = "chat_template.jinja is the effective template: put it in place of the model folder's own."
    return f'{command} --chat-template "$(cat chat_template.jinja)"', template


def max_lora_rank(*configs: Mapping[str, Any]) -> int:
    """The smallest --max-lora-rank of vLLM that holds adapters of these `adapter_config.json`."""
    rank = max(adapter_rank(config) for config in configs)
    return next((size for size in _VLLM_RANKS if size >= rank), rank)


def adapter_rank(config: Mapping[str, Any]) -> int:
    """The largest rank of an adapter's layers, by its `adapter_config.json`."""
    return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])


_WRITERS = {"gguf": _gguf, "ollama": _ollama, "vllm": _vllm, "mlx": _mlx, "peft": _peft}

if __name__ == "__main__":
    sys.exit(run(hand_over))
