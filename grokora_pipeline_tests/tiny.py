"""A tiny random Llama with a real BPE tokenizer and a chat template: every path of the real thing in milliseconds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STOP = 2  # the id of the tiny tokenizer's stop token

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CORPUS = [
    "You are the actor of a desktop swarm. Answer with one tool call.",
    'Click the Save button at (120, 45). {"name": "computer", "arguments": {"action": "left_click"}}',
    "Open the vault, find the newest PDF and write its title into notes.txt.",
    '{"valid": true, "confidence": 97, "reason": "the file exists"} 0123456789',
    "system user assistant tool_call tool_response Task: Continue the task.",
]


def tiny_tokenizer(folder: Path, *, chat_template: bool = True) -> None:
    """Write a byte-level BPE of about 500 tokens with ChatML's control tokens into the folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": 2048,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if chat_template:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def tiny_base(
    folder: Path,
    *,
    chat_template: bool = True,
    seed: int = 7,
    hidden_size: int = 64,
    layers: int = 2,
    dtype: str = "bfloat16",
) -> Path:
    """Write a loadable model folder: a Llama of about 0.1 M random parameters, its tokenizer, its template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny_tokenizer(folder, chat_template=chat_template)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def wandering_model(folder: Path) -> Any:
    """A tiny base in fp32 with a head of its own, so that its answers wander and do not hang on rounding; not saved."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn(512, 64))
        for layer in model.model.layers:
            for weight in layer.parameters():
                weight.data += 0.1 * torch.randn_like(weight)
    return model


def greedy(model: Any, prompt: Sequence[int], new_tokens: int) -> list[int]:
    """What transformers' own generate answers to one prompt alone, without the stop token."""
    import torch

    ids = torch.tensor([list(prompt)])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=STOP,
        pad_token_id=STOP,
    )
    made: list[int] = out[0, len(prompt) :].tolist()
    return made[: made.index(STOP)] if STOP in made else made
