"""Tests of the explorer in a terminal: width, colour, markers, and text that must not control the terminal."""

import io
import math
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from prunescope.assets.cli import terminal, terminal_marks, terminal_prompts, terminal_tokens
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.reporting.charts.display_text import label
from prunescope.pipelines.reporting.explorer.document_types import Index, Trace, VariantDocument
from prunescope.pipelines.reporting.explorer.index_document import COLUMNS

HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold red]x[/] \u202e\u200b\x9b1m"


def steps(pruned: list[str], kl: list[float | None], dense: list[str] | None = None) -> dict[str, Any]:
    dense = dense or [f"␣w{n}" for n in range(len(pruned))]
    some: dict[str, Any] = {
        name: [0.5] * len(pruned)
        for name in ("entropy_dense", "entropy_pruned", "margin_dense", "margin_pruned", "h", "z", "p")
    }
    return some | {
        "step": list(range(len(pruned))),
        "token_dense": dense,
        "token_pruned": pruned,
        "is_same": [one == other for one, other in zip(dense, pruned, strict=True)],
        "kl": kl,
        "rank_of_dense_top1": [1] * len(pruned),
    }


def trace(**changes: Any) -> Trace:
    free = steps(["␣w0", "␣no", "␣no", "␣no"], [0.0004, 0.5, 2.5, 12.0])
    layers = {
        "places": ["0 attn", "0 mlp", "1 attn", "1 mlp"],
        "is_changed": [False, True, False, True],
        "steps": [0, 1],
        "h": [[1e-4, 1e-3], [1e-3, 1e-3], [1e-2, 1e-2], [1e-2, 1e-2]],
        "z": [[0.0, 0.0], [1e-5, 1e-5], [1e-4, 1e-4], [1e-3, 1e-3]],
        "p": [[None, None], [1e-2, 0.1], [0.1, 0.2], [0.1, 0.9]],
        "kl": [[0.0, 0.0], [0.1, 0.2], [0.3, 2.0], [0.4, 12.0]],
        "is_top1_same": [[True, True], [True, True], [True, False], [True, None]],
    }
    found: dict[str, Any] = {
        "id": "tiny@wanda-50",
        "prompt_id": "sky",
        "text_dense": "w0 w1 w2 w3",
        "text_pruned": "w0 no no no",
        "first_flip_step": 1,
        "collapse_step": 2,
        "collapse_step_dense": None,
        "answer_end_step": None,
        "answer_end_step_dense": None,
        "answer": None,
        "answer_dense": None,
        "is_correct": None,
        "is_correct_dense": None,
        "free": free,
        "forced": steps(["␣w0", "␣w1", "␣w2", "␣w9"], [0.0004, 0.1, 0.2, None]),
        "top": {
            "free": [
                {"dense": [["␣w0", 0.9, 0.8], ["␣x", 0.1, 0.05]], "pruned": [["␣w0", 0.9, 0.8]]},
                {"dense": [["␣w1", 0.755, 0.1]], "pruned": [["␣no", 0.2, 0.6], ["␣w1", 0.755, 0.1]]},
            ]
        },
        "layers": {"propagated": layers},
        "parts_at": "1 mlp",
        "parts_for_good_at": "1 mlp",
        "options": {
            "labels": ["A", "B"],
            "p_dense": [0.9, 0.1],
            "p_pruned": [0.4, 0.6],
            "full_dense": [0.9, 0.1],
            "full_pruned": [0.4, 0.6],
            "rank_dense": [1, 2],
            "rank_pruned": [2, 1],
            "mass_dense": 1.0,
            "mass_pruned": 1.0,
            "kl_options": 0.1,
            "kl_vocabulary": 0.2,
            "gold": "A",
            "is_argmax_same": False,
        },
        "sql": {},
    }
    return found | changes  # type: ignore[return-value]


def entry(recipe: str, verdict: str | None, model: str = "tiny", **changes: Any) -> dict[str, Any]:
    return {
        "id": f"{model}@{recipe}",
        "model": model,
        "recipe": recipe,
        "method": "wanda",
        "is_dense": verdict is None,
        "verdict": verdict,
        "verdict_reason": "it loops in 1 of 2 prompts",
        "sql": {"key": "verdicts", "where": {}},
        "where": {},
        "numbers": {
            "kl_own_text_median_nats": 3.25,
            "first_flip_step_median": 1.5,
            "prompts_collapsed": 1,
            "prompts": 2,
        },
        "intervals": {},
        "spark": {"forced": [0.0, 0.02, 0.5], "own": [0.0, 0.02, 11.0]},
        "kinds": [],
        "traces": [0],
    } | changes


PROMPT: dict[str, Any] = {
    "place": 1,
    "variants": 3,
    "flipped": 2,
    "collapsed": 1,
    "graded": 3,
    "correct": 0,
    "is_correct_dense": True,
    "first_flip_min": 0,
    "first_flip_median": 1.5,
    "kl_step0": 0.25,
    "has_layers": False,
}


def index(**changes: Any) -> Index:
    prompt = PROMPT | {"model": "tiny", "kind": "open", "text": "Why?", "gold": None, "steps": 4}
    found: dict[str, Any] = {
        "study": "demo",
        "title": "Demo",
        "live": True,
        "models": ["tiny"],
        "lenses": {"tiny": "normed"},
        "prompts": [
            prompt | {"prompt_id": "sky", "name": "sky"},
            prompt | {"prompt_id": "sea", "name": "sea"},
        ],
        "columns": [],
        "columns_sql": "variants",
        "variants": [
            entry("dense", None),
            entry("wanda-50", "broken"),
            entry("attn-drop-1", "safe"),
            entry("gone", "too little evidence", numbers={}, spark={"forced": [], "own": [None, None]}, traces=[]),
        ],
        "verdict_basis": "",
        "verdict_rule": "",
        "answers": [
            {
                "model": "tiny",
                "question": "Which are safe?",
                "short": "One.",
                "text": "attn-drop-1 is.",
                "sql": [],
                "links": [],
            }
        ],
        "claims": [],
        "claims_by_model": [],
        "findings": [],
        "figures": [],
        "figures_without_data": [],
        "facts": [],
        "notes": [],
    }
    return found | changes  # type: ignore[return-value]


def document(**changes: Any) -> VariantDocument:
    found: dict[str, Any] = {
        "id": "tiny@wanda-50",
        "facts": [],
        "facts_sql": "",
        "prompts": [
            {
                "prompt": 0,
                "first_flip_step": 1,
                "collapse_step": 2,
                "collapse_step_dense": None,
                "answer": "3",
                "answer_dense": "4",
                "is_correct": False,
                "is_correct_dense": True,
                "text_same": "w0",
                "text_dense": "w1",
                "text_pruned": "no",
                "kl_step0": 0.2,
                "kl_forced_mean": 0.1,
                "kl_own_mean": 3.0,
                "parts_at": None,
                "parts_for_good_at": "1 mlp",
            }
        ],
        "prompts_sql": "",
        "layers": {},
        "layers_sql": "",
        "carriers": [
            {"place": "1 mlp", "scope": "isolated", "kl": 0.4, "share": 0.75, "parted": 1},
            {"place": "0 mlp", "scope": "isolated", "kl": None, "share": None, "parted": 0},
        ],
        "carriers_sql": "",
        "tables": [],
    }
    return found | changes  # type: ignore[return-value]


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
        terminal.show_variant(self.console, index(), 1, document())
        for forced in (False, True):
            terminal_tokens.show_tokens(self.console, index(), 1, 0, trace(), forced=forced)
        terminal_tokens.show_step(self.console, trace(), 0, forced=False)
        terminal_tokens.show_step(self.console, trace(), 1, forced=False)
        return self.text()


def test_the_overview_has_the_answers_and_every_variant_with_its_verdict() -> None:
    screen = Screen()
    terminal.show_overview(screen.console, index())
    lines = screen.text().splitlines()
    [broken] = [line for line in lines if "wanda-50" in line]
    assert broken.split() == ["wanda-50", "✗", "broken", "▁▃▅", "▁▃█", "3.2", "1.5", "1/2"]
    [gone] = [line for line in lines if "gone" in line]
    assert gone.split() == ["gone", "?", "too", "little", "evidence", "··", "–", "–", "–"]
    assert any("✓ safe" in line for line in lines)
    assert screen.text().index("attn-drop-1 is.") < screen.text().index("wanda-50")


def test_a_variant_states_its_numbers_with_intervals_and_the_one_end_that_is_known() -> None:
    shown = index()
    names = ("first_flip_step_median", "kl_own_text_median_nats", "top1_agreement", "prompts_collapsed")
    columns = [column for column in COLUMNS if column["name"] in names]
    one = entry(
        "wanda-50",
        "broken",
        intervals={
            "first_flip_step_median": [1.0, None],
            "kl_own_text_median_nats": [2.5, 4.125],
            "top1_agreement": [None, 0.5],
        },
    )
    one["numbers"] |= {"first_flip_step_median": None, "top1_agreement": 0.25}
    screen = Screen(200)
    terminal.show_variant(screen.console, shown | {"columns": columns, "variants": [one] * 2}, 1, document())  # type: ignore[typeddict-item]

    assert (
        "With 95 % intervals: KL, own text, nats: 3.2 [2.5, 4.1]; same top token, %: 25.0 ≤ 50.0; first flip, step: "
        "– ≥ 1." in screen.text()
    )
    plain = Screen()
    terminal.show_variant(plain.console, index(), 1, document())
    assert "intervals" not in plain.text()


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
    for sign in ("✗ broken", "✓ safe", "≠", "◆flip", "◆loop", "✗ wrong", "█ 12", "▄ 0.1"):
        assert sign in pipe


def test_tokens_are_aligned_with_their_divergence() -> None:
    screen = Screen()
    terminal_tokens.show_tokens(screen.console, index(), 1, 0, trace(), forced=False)
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
    terminal_tokens.show_tokens(screen.console, index(), 1, 0, trace(free=wide), forced=False)
    lines = screen.text().splitlines()
    [at] = [n for n, line in enumerate(lines) if line.startswith("step ")]
    starts = {cell_len(line[: line.index("last")]) for line in lines[at + 1 : at + 3]}
    assert len(starts) == 1


def test_lines_break_between_tokens_and_show_every_step() -> None:
    count = 100
    long = steps([f"␣token{n}" for n in range(count)], [0.1] * count)
    screen = Screen(60)
    terminal_tokens.show_tokens(screen.console, index(), 1, 0, trace(free=long), forced=False)
    lines = screen.text().splitlines()
    found = [int(word) for line in lines if line.startswith("step ") for word in line.split()[1:] if word.isdecimal()]
    assert found == list(range(count))
    assert max(map(cell_len, lines)) <= 60


def test_a_step_shows_both_sides_and_the_layers() -> None:
    screen = Screen()
    terminal_tokens.show_step(screen.console, trace(), 1, forced=False)
    text = screen.text()
    assert "Step 1: ␣w1 ≠ ␣no" in text
    assert "75.5 %" in text
    assert "60.0 %" in text
    curves = {line.split("  ")[0]: line for line in text.splitlines()}
    assert curves["KL, nats"].split()[2:] == ["▁▄▆█", "0", "→", "12"]
    assert curves["≠ top"].rstrip().endswith("  •")
    assert next(line for line in text.splitlines() if line.startswith("changed")).split("changed")[1] == "    • •"
    assert "Answer options" not in text
    first = Screen()
    terminal_tokens.show_step(first.console, trace(), 0, forced=False)
    assert "A (right)" in first.text()


@pytest.mark.parametrize(("width", "sides_in"), [(40, "two"), (79, "two"), (80, "both")])
def test_numbers_and_headings_stay_whole_on_a_narrow_terminal(width: int, sides_in: str) -> None:
    long = [["␣twelve_char", 0.996, 0.946], ["␣other", 0.004, 0.054]]
    screen = Screen(width)
    both = trace(top={"free": [{"dense": long, "pruned": long}] * 4})
    terminal_tokens.show_step(screen.console, both, 1, forced=False)
    text = screen.text()
    sides = [["dense's", "dense", "pruned"], ["pruned's", "dense", "pruned"]]
    found = [line.split() for line in text.splitlines() if line.startswith(("dense's", "pruned's"))]
    assert found == ([sides[0] + sides[1]] if sides_in == "both" else sides)
    # Both sides list both tokens, each number in one piece with its unit.
    assert [text.count(number) for number in ("████ 99.6 %", "████ 94.6 %", " 0.4 %", " 5.4 %")] == [2, 2, 2, 2]
    assert "␣twelve_char" in text


def test_a_step_out_of_range_names_the_existing_ones() -> None:
    with pytest.raises(InputError, match=r"--step 4: this prompt has the steps 0 to 3"):
        terminal_tokens.show_step(Screen().console, trace(), 4, forced=False)


def test_texts_and_names_cannot_control_the_terminal() -> None:
    hostile_index = index(
        study=HOSTILE,
        models=[HOSTILE],
        variants=[entry(HOSTILE, HOSTILE, HOSTILE, verdict_reason=HOSTILE)],
        answers=[{"model": HOSTILE, "question": HOSTILE, "short": HOSTILE, "text": HOSTILE, "sql": [], "links": []}],
        notes=[HOSTILE],
        prompts=[
            PROMPT
            | {"model": HOSTILE, "prompt_id": HOSTILE, "name": HOSTILE, "kind": "", "text": HOSTILE, "gold": None}
        ],
    )
    tokens = steps([HOSTILE, "x" * 10_000], [0.1, math.inf], [HOSTILE, "\n\r\t"])
    top = [{"dense": [[HOSTILE, 0.5, 0.5]], "pruned": []}] * 2
    layers = trace()["layers"]["propagated"] | {"places": [HOSTILE] * 4, "steps": [0, 1]}
    options = dict(trace()["options"] or {}) | {"labels": [HOSTILE, "B"]}
    hostile_trace = trace(
        id=HOSTILE, free=tokens, top={"free": top}, layers={HOSTILE: layers}, options=options, prompt_id=HOSTILE
    )
    carrier = {"place": HOSTILE, "scope": HOSTILE, "kl": 0.1, "share": 1.0, "parted": 0}
    prompt = dict(document()["prompts"][0]) | {"parts_for_good_at": HOSTILE}
    screen = Screen()
    terminal.show_overview(screen.console, hostile_index)
    terminal.show_variant(screen.console, hostile_index, 0, document(carriers=[carrier], prompts=[prompt]))
    terminal_tokens.show_tokens(screen.console, hostile_index, 0, 0, hostile_trace, forced=False)
    terminal_tokens.show_step(screen.console, hostile_trace, 0, forced=False)
    text = screen.text()
    assert not {char for char in text if not char.isprintable()} - {"\n"}
    assert "[bold red]x[/]" in text  # no markup of rich's
    assert max(map(cell_len, text.splitlines())) <= 80
    with pytest.raises(InputError) as refused:
        terminal.find_prompt(hostile_index, 0, "nothing like it")
    assert str(refused.value).isprintable()


def test_a_prompt_without_steps_is_refused_by_name() -> None:
    assert terminal.find_prompt(index(), 1, "sky") == 0
    with pytest.raises(InputError, match="--prompt sea: its steps were not measured for tiny@wanda-50"):
        terminal.find_prompt(index(), 1, "sea")
    with pytest.raises(InputError, match="--prompt lake: there is no such prompt; there are sky, sea"):
        terminal.find_prompt(index(), 1, "lake")


def test_a_prompt_is_found_by_id_without_a_variant_unless_several_models_have_it() -> None:
    assert terminal.find_prompt(index(), None, "sea") == 1
    with pytest.raises(InputError, match="--prompt see: there is no such prompt; did you mean sea?"):
        terminal.find_prompt(index(), None, "see")
    twice = index(prompts=[*index()["prompts"], *index()["prompts"]])
    with pytest.raises(InputError, match="several models have it; add --variant"):
        terminal.find_prompt(twice, None, "sea")


def test_many_prompts_are_added_up_by_kind_and_the_ten_that_break_first_are_listed() -> None:
    kinds = [
        {"kind": "maths", "prompts": 7, "flipped": 3, "collapsed": 1, "graded": 7, "correct": 2},
        {"kind": "open", "prompts": 5, "flipped": 0, "collapsed": 0, "graded": 0, "correct": 0},
    ]
    entries = [entry("dense", None, kinds=kinds), *(entry(f"wanda-{n}", "safe", kinds=kinds) for n in (50, 60))]
    [one, *_] = index()["prompts"]
    names = [HOSTILE, *(f"prompt-{n}" for n in range(1, 12))]
    prompts = [one | {"prompt_id": name, "name": label(name), "place": 12 - n} for n, name in enumerate(names)]
    screen = Screen(60)
    terminal.show_overview(screen.console, index(variants=entries, prompts=prompts))
    lines = [line.split() for line in screen.text().splitlines()]
    assert ["maths", "14", "6/14", "2/14", "4/14"] in lines
    assert ["open", "10", "0/10", "0/10", "–"] in lines
    assert [line[0] for line in lines if line and line[0].startswith("prompt-")] == [
        f"prompt-{n}" for n in range(11, 1, -1)
    ]
    assert "the 10 of 12 prompts that break first" in screen.text()


def test_a_prompt_lists_its_variants_by_their_first_flip_and_says_what_was_not_measured() -> None:
    [text] = document()["prompts"]
    texts = [text | {"variant": n, "first_flip_step": flip} for n, flip in ((0, None), (1, None), (2, 7), (3, 2))]
    found = {"prompt_id": "sky", "texts": texts, "sql": {}}
    screen = Screen()
    terminal_prompts.show_prompt(screen.console, index(), 0, found)  # type: ignore[arg-type]
    shown = [line.split()[0] for line in screen.text().splitlines() if " ✗ wrong" in line]
    assert shown == ["gone", "attn-drop-1", "wanda-50"]
    assert "Measured at the output only" in screen.text()
    longer = document(prompts=[text] * 11)
    terminal.show_variant(screen.console, index(), 1, longer)
    assert "The 10 of 11 prompts that break first." in screen.text()
    terminal_tokens.show_step(screen.console, trace(layers={}), 0, forced=False)
    assert "The layers were not measured, only the output." in screen.text()


def test_a_prompt_with_one_trajectory_says_so() -> None:
    one_way = {name: value for name, value in trace().items() if name != "forced"}
    with pytest.raises(InputError, match="no step was measured that way"):
        terminal_tokens.show_tokens(Screen().console, index(), 1, 0, one_way, forced=True)  # type: ignore[arg-type]


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
    assert terminal_marks.spark(values, width) == shown
