"""The words of a text in any script: one tokenizer for near duplicates, ROUGE and few-shot retrieval."""

import re
import unicodedata

import regex

# Scripts that put no space between words: every character (with its marks) stands for itself, so that n-grams of
# tokens are n-grams of characters there.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Javanese}\p{Balinese}"
_WORD = rf"[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]+"
_WORDS = regex.compile(_WORD, regex.VERSION1)
_WORDS_AND_SIGNS = regex.compile(rf"{_WORD}|[^\s\p{{L}}\p{{M}}\p{{N}}\x1c-\x1f]", regex.VERSION1)
# The same for ASCII, where `re` is six times as fast as `regex`.
_ASCII_WORDS, _ASCII_WORDS_AND_SIGNS = re.compile(r"[a-z0-9]+"), re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


def words(text: str, *, signs: bool = False) -> list[str]:
    """The words of a text, without case; with `signs`, each punctuation mark and symbol is a token too.

    ASCII text gives the runs of letters and digits that `rouge_score` counts. Compatibility forms (full-width letters,
    ligatures) are folded to the common ones (NFKC), since recorders and keyboards mix them.
    """
    if text.isascii():
        return (_ASCII_WORDS_AND_SIGNS if signs else _ASCII_WORDS).findall(text.lower())
    tokens: list[str] = (_WORDS_AND_SIGNS if signs else _WORDS).findall(unicodedata.normalize("NFKC", text).casefold())
    return tokens
