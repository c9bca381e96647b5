"""Tests of displayed text: invisible characters are shown, long texts are cut.

The tests of the report prove that the page escapes it.
"""

import unicodedata

import pytest

from prunescope.pipelines.reporting.charts.display_text import label, prose, visible
from tests.pipelines.reporting.charts.frames import HOSTILE


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "␣the"),
        ("\n\n", "↵↵"),
        ("\t", "⇥"),
        ("a\x00b", "a⟨0⟩b"),
        ("\u202eabc", "⟨202E⟩a…"),
        ("\u200b", "⟨200B⟩"),
        ("", ""),
        ("12345678", "12345678"),
        ("123456789", "1234567…"),
        ("日本語", "日本語"),
        ("日本語文字", "日本語…"),
    ],
)
def test_a_token_is_shown_on_one_line_with_its_invisible_characters(token, shown):
    assert visible(token, 8) == shown


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_has_no_invisible_characters_and_respects_the_limit(text):
    for shown in (visible(text, 8), label(text, 40)):
        assert len(shown) <= 40
        assert not any(unicodedata.category(character).startswith("C") for character in shown)
    kept = prose(text, 50)
    assert not any(unicodedata.category(character) in {"Cc", "Cf"} for character in kept.replace("\n", ""))


def test_a_name_keeps_its_spaces():
    assert label("a model name") == "a model name"


def test_prose_keeps_line_breaks_and_joiners_and_counts_cut_characters():
    assert prose("a\nb 👩\u200d👧") == "a\nb 👩\u200d👧"
    assert prose("x" * 10_000, 4000) == "x" * 4000 + "… (cut: 4,000 of 10,000 characters shown)"
    assert prose("left\u202eright") == "left⟨202E⟩right"
