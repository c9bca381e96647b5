"""Tests of the explorer in a terminal: width, colour, markers, and text that must not control the terminal."""

import io
import math
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from prunescope.assets.cli import terminal
from prunescope.pipelines.core.errors import InputError

HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold red]x[/] \u202e\u200b\x9b1m"


def steps(pruned: list[str], kl: list[float | None], dense: list[str] | None = None) -> dict[str, Any]:
    dense = dense or [f"␣w{n}" for n in range(len(pruned))]
    return {
        "step": list(range(len(pruned))),
        "token_text_dense": dense,
        "token_text_pruned": pruned,
        "is_same_token": [one == other for one, other in zip(dense, pruned, strict=True)],
        "kl_dense_pruned_nats": kl,
    }


def trace(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "first_flip_step": 1,
        "collapse_step": 2,
        "collapse_step_dense": None,
        "answer_end_step": None,
        "answer_end_step_dense": 1,
        "own": steps(["␣w0", "␣no", "␣no", "␣no"], [0.0004, 0.5, 2.5, 12.0]),
        "forced": steps(["␣w0", "␣w1", "␣w2", "␣w9"], [0.0004, 0.1, 0.2, None]),
    }
    return found | changes


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
        "traces": ["sky"],
    } | changes


def prompt(prompt_id: str, model: str = "tiny") -> dict[str, Any]:
    return {"model": model, "prompt_id": prompt_id, "name": prompt_id, "prompt_text": "Why?"}


def index(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "study": "demo",
        "models": ["tiny"],
        "prompts": [prompt("sky"), prompt("sea")],
        "variants": [
            entry("dense", None),
            entry("wanda-50", "not safe"),
            entry("attn-drop-1", "safe"),
            entry("gone", "too little evidence", numbers={}, spark={"forced": [], "own": [None, None]}, traces=[]),
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
            terminal.show_tokens(self.console, entry("wanda-50", "not safe"), prompt("sky"), trace(), forced=forced)
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
    for sign in ("✕ not safe", "● safe", "≠", "◆flip", "◆loop", "◆flip,end", "█ 12", "▄ 0.1"):
        assert sign in pipe


def test_tokens_are_aligned_with_their_divergence() -> None:
    screen = Screen()
    terminal.show_tokens(screen.console, entry("wanda-50", "not safe"), prompt("sky"), trace(), forced=False)
    lines = screen.text().splitlines()
    [at] = [n for n, line in enumerate(lines) if line.startswith("step ")]
    step, dense, pruned, kl = lines[at : at + 4]
    assert step.split() == ["step", "0", "1", "◆flip", "2", "◆loop", "3"]
    assert pruned.split() == ["pruned", "␣w0", "␣no", "␣no", "␣no"]
    assert kl.split() == ["KL", "▁", "0.0004", "▅", "0.5", "≠", "▆", "2.5", "≠", "█", "12", "≠"]
    assert step.index("1 ◆flip") == dense.index("␣w1") == pruned.index("␣no") == kl.index("▅")


def test_wide_characters_keep_the_columns_aligned() -> None:
    wide = steps(["日本", "e\u0301a", "👍🏽x", "last"], [0.1, 0.1, 0.1, 0.1], ["a", "b", "c", "last"])
    screen = Screen()
    terminal.show_tokens(screen.console, entry("wanda-50", "not safe"), prompt("sky"), trace(own=wide), forced=False)
    lines = screen.text().splitlines()
    [at] = [n for n, line in enumerate(lines) if line.startswith("step ")]
    starts = {cell_len(line[: line.index("last")]) for line in lines[at + 1 : at + 3]}
    assert len(starts) == 1


def test_lines_break_between_tokens_and_show_every_step() -> None:
    count = 100
    long = steps([f"␣token{n}" for n in range(count)], [0.1] * count)
    screen = Screen(60)
    terminal.show_tokens(screen.console, entry("wanda-50", "not safe"), prompt("sky"), trace(own=long), forced=False)
    lines = screen.text().splitlines()
    found = [int(word) for line in lines if line.startswith("step ") for word in line.split()[1:] if word.isdecimal()]
    assert found == list(range(count))
    assert max(map(cell_len, lines)) <= 60


def test_texts_and_names_cannot_control_the_terminal() -> None:
    hostile_index = index(
        study=HOSTILE,
        models=[HOSTILE],
        variants=[entry(HOSTILE, HOSTILE, HOSTILE)],
        answers=[{"model": HOSTILE, "question": HOSTILE, "short": HOSTILE, "text": HOSTILE}],
        notes=[HOSTILE],
        prompts=[prompt(HOSTILE, HOSTILE) | {"text": HOSTILE}],
    )
    tokens = steps([HOSTILE, "x" * 10_000], [0.1, math.inf], [HOSTILE, "\n\r\t"])
    screen = Screen()
    terminal.show_overview(screen.console, hostile_index)
    [one], [asked] = hostile_index["variants"], hostile_index["prompts"]
    terminal.show_tokens(screen.console, one, asked, trace(own=tokens), forced=False)
    text = screen.text()
    assert not {char for char in text if not char.isprintable()} - {"\n"}
    assert "[bold red]x[/]" in text  # no markup of rich's
    assert max(map(cell_len, text.splitlines())) <= 80
    with pytest.raises(InputError) as refused:
        terminal.find_prompt(hostile_index, one, "nothing like it")
    assert str(refused.value).isprintable()


def test_a_prompt_without_steps_is_refused_with_those_that_have_some() -> None:
    of_other = prompt("sea", "other")
    both = index(prompts=[of_other, *index()["prompts"]])
    wanda, gone = entry("wanda-50", "safe", traces=["sky", "sea"]), entry("gone", None, traces=[])
    assert terminal.find_prompt(both, wanda, "sea") == prompt("sea")
    with pytest.raises(InputError, match="--prompt see: no steps of it were measured for .*; did you mean sea?"):
        terminal.find_prompt(both, wanda, "see")
    with pytest.raises(InputError, match="--prompt lake: no steps of it were measured for .*; there are sky, sea"):
        terminal.find_prompt(both, wanda, "lake")
    with pytest.raises(InputError, match="--prompt sky: .*; it has no steps of any prompt"):
        terminal.find_prompt(both, gone, "sky")
    with pytest.raises(InputError, match="--variant: add --prompt; there are sky, sea"):
        terminal.find_prompt(both, wanda, None)


def test_a_prompt_with_one_trajectory_says_so() -> None:
    one_way = {name: value for name, value in trace().items() if name != "forced"}
    with pytest.raises(InputError, match="tiny@wanda-50, prompt sky: no step was measured that way"):
        terminal.show_tokens(Screen().console, entry("wanda-50", "not safe"), prompt("sky"), one_way, forced=True)


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
