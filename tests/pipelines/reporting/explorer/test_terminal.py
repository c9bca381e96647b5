"""Tests of the explorer in a terminal: width, colour, markers, and text that must not control the terminal."""

import io
import math
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from prunescope.assets.cli import terminal

HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold red]x[/] \u202e\u200b\x9b1m"


def rows(pruned: list[str], kl: list[float], same: list[bool] | None = None) -> list[dict[str, Any]]:
    """Return rows as the statement `TOKENS` has them, in which the dense model writes other words."""
    columns = zip(pruned, kl, same or [True] * len(kl), strict=True)
    return [
        {
            "step": step,
            "token_text_dense": f" w{step}",
            "token_text_pruned": token,
            "kl_dense_pruned_nats": nats,
            "is_top1_same": is_same,
            "prompt_text": "Why?",
        }
        for step, (token, nats, is_same) in enumerate(columns)
    ]


OWN = rows([" w0", " no", " no", " no"], [0.0004, 0.5, 2.5, 12.0], [True, False, True, True])


def entry(recipe: str, verdict: str | None, model: str = "tiny", **changes: Any) -> dict[str, Any]:
    return {
        "id": f"{model}@{recipe}",
        "model": model,
        "recipe": recipe,
        "is_dense": verdict is None,
        "verdict": verdict,
        "numbers": {
            "kl_own_text_median_nats": 3.25,
            "first_flip_step_median": 1.5,
            "prompts_collapsed": 1,
            "prompts": 2,
        },
        "spark": {"forced": [0.0, 0.02, 0.5], "own": [0.0, 0.02, 11.0]},
    } | changes


def index(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "study": "demo",
        "models": ["tiny"],
        "variants": [
            entry("dense", None),
            entry("wanda-50", "not safe"),
            entry("attn-drop-1", "safe"),
            entry("gone", "too little evidence", numbers={}, spark={"forced": [], "own": [None, None]}),
        ],
        "answers": [
            {"model": "tiny", "question": "Which are safe?", "short": "One.", "text": "attn-drop-1 is."},
        ],
        "notes": [],
    }
    return found | changes


class Screen:
    """A terminal, or a pipe if `is_terminal` is false."""

    def __init__(self, width: int = 80, *, is_terminal: bool = False, **variables: str) -> None:
        self._file = io.StringIO()
        self.console = Console(
            file=self._file,
            width=width,
            force_terminal=is_terminal,
            color_system="truecolor" if is_terminal else None,
            highlight=False,
            no_color="NO_COLOR" in variables,
        )

    def text(self) -> str:
        return self._file.getvalue()

    def all(self) -> str:
        """Return everything that can be printed."""
        terminal.show_overview(self.console, index())
        for forced in (False, True):
            terminal.show_tokens(self.console, "tiny@wanda-50", OWN, forced=forced)
        return self.text()


def test_the_overview_has_the_answers_and_every_variant_with_its_verdict() -> None:
    screen = Screen()
    terminal.show_overview(screen.console, index())
    lines = screen.text().splitlines()
    [broken] = [line for line in lines if "wanda-50" in line]
    assert broken.split() == ["wanda-50", "✕", "not", "safe", "▁▃▅", "▁▃█", "3.2", "1.5", "1/2"]
    [gone] = [line for line in lines if "gone" in line]
    assert gone.split() == ["gone", "○", "too", "little", "evidence", "··", "–", "–", "–"]
    assert any("● safe" in line for line in lines)
    assert screen.text().index("attn-drop-1 is.") < screen.text().index("wanda-50")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_nothing_is_wider_than_the_terminal_and_a_pipe_gets_no_escape(width: int) -> None:
    text = Screen(width).all()
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text


def test_no_color_loses_no_information() -> None:
    colored, plain = Screen(is_terminal=True), Screen(is_terminal=True, NO_COLOR="1")
    assert "48;2;" in colored.all()
    text = plain.all()
    assert not [code for code in ("38;", "48;", "\x1b[31m", "\x1b[32m", "\x1b[33m") if code in text]
    pipe = Screen().all()
    for sign in ("✕ not safe", "● safe", " w0▁ no▅≠ no▆ no█", " w0▁ w1▅≠ w2▆ w3█"):
        assert sign in pipe


def test_every_token_of_a_long_text_is_shown_and_no_line_is_too_wide() -> None:
    words, screen = [f"token{n}" for n in range(100)], Screen(60)
    long = rows([f" {word}" for word in words], [0.1] * len(words))
    terminal.show_tokens(screen.console, "tiny@wanda-50", long, forced=False)
    lines = screen.text().splitlines()
    assert [word[:-1] for line in lines for word in line.split() if word.startswith("token")][: len(words)] == words
    assert max(map(cell_len, lines)) <= 60


def test_texts_and_names_cannot_control_the_terminal() -> None:
    hostile_index = index(
        study=HOSTILE,
        models=[HOSTILE],
        variants=[entry(HOSTILE, HOSTILE, HOSTILE)],
        answers=[{"model": HOSTILE, "question": HOSTILE, "short": HOSTILE, "text": HOSTILE}],
        notes=[HOSTILE],
    )
    tokens = [row | {"prompt_text": HOSTILE} for row in rows([HOSTILE, "x" * 10_000, "\n\r\t"], [0.1, math.inf, 0])]
    screen = Screen()
    terminal.show_overview(screen.console, hostile_index)
    terminal.show_tokens(screen.console, HOSTILE, tokens, forced=False)
    text = screen.text()
    assert not {char for char in text if not char.isprintable()} - {"\n"}
    assert "[bold red]x[/]" in text  # no markup of rich's
    assert max(map(cell_len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("values", "width", "shown"),
    [
        ([], 5, ""),
        ([0.0, None, 20.0], 5, "▁·█"),
        ([0.0, 20.0, 0.0, 0.0], 2, "█▁"),
        ([None, None, 0.3], 1, "▅"),
        ([0.05] * 3, 0, "▃"),
    ],
)
def test_an_interval_of_steps_shows_its_maximum(values: list[float | None], width: int, shown: str) -> None:
    assert terminal.spark(values, width) == shown
