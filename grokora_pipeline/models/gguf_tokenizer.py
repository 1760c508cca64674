"""A tokenizer in a GGUF file: tokenizer.json, which is what training tokenized with, and the effective chat template.

llama.cpp has code for each way to split text, by name; a way that it has no code for is refused. It never adds a BOS
token of its own: the template writes it if one belongs there.
"""

import json
from pathlib import Path
from typing import Any

import gguf

from grokora_pipeline.errors import GrokoraError
from grokora_pipeline.models.chat import ChatFormat

_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
)
_SHORT_FORMS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SLASHED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Other ways to write parts of these patterns, as OpenAI's cl100k does.
_ALIKE = {
    "'(?i:[sdmt]|ll|ve|re)": _SHORT_FORMS,
    "]?+": "]?",
    "]++": "]+",
    r"\s*[\r\n]|": r"\s*[\r\n]+|",
    r"\p{L}++": r"\p{L}+",
}
# The pre-tokenizers that llama.cpp has code for, by the pattern in tokenizer.json.
_PATTERNS = {
    rf"{_SHORT_FORMS}|{_WORD}|\p{{N}}{{1,3}}{_REST}": "llama-bpe",
    rf"{_SHORT_FORMS}|{_WORD}|\p{{N}}{_REST}": "qwen2",
    rf"{_CASED % ('', '')}|\p{{N}}{_SLASHED}": "tekken",
    rf"{_CASED % (_SHORT_FORMS + '?', _SHORT_FORMS + '?')}|\p{{N}}{{1,3}}{_SLASHED}": "gpt-4o",
}


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int) -> None:
    """The tokenizer with `size` rows of vocabulary, its control tokens and the effective chat template.

    GrokoraError if llama.cpp would split text otherwise than tokenizer.json says.
    """
    chat = ChatFormat.load(folder)
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model, vocabulary = document["model"], chat.tokenizer.get_vocab(with_added_tokens=True)
    added = chat.tokenizer.get_added_tokens_decoder()
    tokens = [f"[PAD{index}]" for index in range(size)]
    kinds = [gguf.TokenType.UNUSED] * size
    for token, index in vocabulary.items():
        if index < size:
            tokens[index], kinds[index] = token, gguf.TokenType.NORMAL
    for index, control in added.items():
        if index < size:
            kinds[index] = gguf.TokenType.CONTROL if control.special else gguf.TokenType.USER_DEFINED
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges") or ()]
    if model.get("type") != "BPE":
        raise GrokoraError(f"llama.cpp cannot split text as a {model.get('type')} tokenizer does; no GGUF was written.")
    if model.get("byte_fallback"):
        _add_pieces(writer, document, tokens, kinds, merges)
        writer.add_add_space_prefix(_begins_with_space(document, chat))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pre_tokenizer(document))
        writer.add_token_list(tokens)
        writer.add_token_merges(merges)
    writer.add_token_types(kinds)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    ids = {name: vocabulary.get(token) for name, token in chat.special.items()}
    if (bos := ids.get("bos_token")) is not None:
        writer.add_bos_token_id(bos)
    stop = vocabulary[chat.stop_token]
    writer.add_eos_token_id(stop)  # what ends an answer here, which may be another than the config's own eos
    # The end of a turn is the only one that llama.cpp allows in a grammar; left out, it is guessed by its text.
    writer.add_eot_token_id(stop)
    if others := [token for token in chat.stop_ids if token != stop]:
        writer.add_eom_token_id(others[0])
    # llama.cpp's own Jinja knows `select` only with a test (version b11549); the text that is rendered is the same.
    writer.add_chat_template(chat.template.replace("| select |", "| select('ne', '') |"))


def _pre_tokenizer(document: dict[str, Any]) -> str:
    """llama.cpp's name of how tokenizer.json splits text before it merges; GrokoraError if it has none."""
    normaliser = document.get("normalizer") or {}
    # NFC: llama.cpp leaves text as it comes, as its own converter does.
    if normaliser.get("type") not in (None, "NFC") and normaliser != {"type": "Sequence", "normalizers": []}:
        raise GrokoraError(f"llama.cpp cannot normalise text by {normaliser.get('type')}; no GGUF was written.")
    pre = document.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers") or [pre]
    kinds = [step.get("type") for step in steps]
    known = not any(step.get("add_prefix_space") for step in steps)
    if known and kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if known and kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1].get("use_regex", True):
        return "smollm"
    keeps_all = (steps[0].get("behavior"), steps[0].get("invert")) in (("Isolated", False), ("Removed", True))
    if known and kinds == ["Split", "ByteLevel"] and keeps_all and not steps[1].get("use_regex", True):
        pattern = (steps[0].get("pattern") or {}).get("Regex", "")
        for written, alike in _ALIKE.items():
            pattern = pattern.replace(written, alike)
        name = _PATTERNS.get(pattern, "")
        whole_words = bool(document["model"].get("ignore_merges"))
        if name == "llama-bpe" and not whole_words:
            name = "smaug-bpe"  # the same pattern, without a look-up of whole words first
        if name and whole_words == (name in ("llama-bpe", "tekken")):
            return name
    raise GrokoraError(f"llama.cpp has no pre-tokenizer like this model's ({', '.join(map(str, kinds))}).")


def _add_pieces(
    writer: gguf.GGUFWriter,
    document: dict[str, Any],
    tokens: list[str],
    kinds: list[gguf.TokenType],
    merges: list[str],
) -> None:
    """A SentencePiece vocabulary. A piece's score is the negative rank of its first merge: llama.cpp then merges in
    the order in which the tokenizers library does.
    """
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    for index, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            kinds[index] = gguf.TokenType.BYTE
        elif token == document["model"].get("unk_token"):
            kinds[index] = gguf.TokenType.UNKNOWN
            writer.add_unk_token_id(index)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(-ranks.get(token, len(merges))) for token in tokens])


def _begins_with_space(document: dict[str, Any], chat: ChatFormat) -> bool:
    """Whether SentencePiece puts a space before each text; GrokoraError if it does what llama.cpp does not."""
    normaliser, pre = document.get("normalizer") or {}, document.get("pre_tokenizer") or {}
    steps = normaliser.get("normalizers") or [normaliser]
    forms = [(step.get("type"), step.get("prepend") or step.get("content")) for step in steps]
    splits = (pre.get("type"), pre.get("pattern"))
    if splits in ((None, None), ("Split", {"String": " "})):  # of the spaces that Gemma splits at, none is left
        if forms in ([("Prepend", "▁"), ("Replace", "▁")], [("Replace", "▁")]):
            return len(forms) == 2
    elif pre.get("type") == "Metaspace" and not normaliser and pre.get("replacement") == "▁" and not pre.get("split"):
        # `first`: before the whole prompt only, which begins with a control token if the template writes BOS.
        opening = chat.encode_prompt([{"role": "user", "content": "x"}])[0]
        scheme = pre.get("prepend_scheme")
        if scheme != "first" or opening in chat.tokenizer.get_added_tokens_decoder():
            return bool(scheme == "always")
    raise GrokoraError("llama.cpp cannot normalise text as this SentencePiece tokenizer does; no GGUF was written.")
