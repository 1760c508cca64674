"""Words of a text in any script."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokora_pipeline.models.words import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Open the File_2, now!", ["open", "the", "file", "2", "now"]),
        ("Ёлка и straße", ["ёлка", "и", "strasse"]),
        ("打开window2窗口", ["打", "开", "window2", "窗", "口"]),
        ("カタカナ", ["カ", "タ", "カ", "ナ"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("น้ำ", ["น้ํ", "า"]),  # the folded form of sara am is a mark and a vowel
        ("한국어 문장", ["한국어", "문장"]),
        ("ＡＢＣ ﬁn", ["abc", "fin"]),
        ("", []),
    ],
)
def test_words_of_scripts_with_and_without_spaces(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_signs_are_tokens_if_asked_for() -> None:
    assert words("a.b(c)！", signs=True) == ["a", ".", "b", "(", "c", ")", "!"]


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_the_fast_way_for_ascii_gives_what_the_general_way_gives(text: str) -> None:
    for signs in (False, True):
        assert words(text, signs=signs) == words(f"{text} 终", signs=signs)[:-1]
