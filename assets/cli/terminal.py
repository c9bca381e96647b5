"""The explorer in a terminal: the overview and one variant, from the same documents as the page, of any width.

Reads documents and prints; no SQL, no charts. Colour repeats what a number, sign or bar beside it says. Texts token by
token are printed by `terminal_tokens`.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from prunescope.assets.cli import terminal_marks as marks
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.reporting.charts.display_text import label, prose
from prunescope.pipelines.reporting.explorer.document_types import (
    Index,
    Number,
    PromptSummary,
    VariantDocument,
    VariantEntry,
)

_OVERVIEW: dict[str, Literal["left", "right"]] = {
    "recipe": "left",
    "verdict": "left",
    "KL forced": "left",
    "KL free": "left",
    "median": "right",
    "flip": "right",
    "loops": "right",
}
# What the columns beside names and bars take, gaps included.
_NUMBERS = 27
_SHORTEST, _LONGEST = 9, 40
_CARRIERS = 8
_CARRIERS_LEGEND = (
    "KL that this sublayer makes on its own, and its share of the sum over all that the recipe changed. parts here: "
    "prompts whose likeliest token differs for good from behind it, at the first other token."
)


def find_variant(index: Index, name: str) -> int:
    """The position of a variant, by `model@recipe` or by its recipe where that is clear.

    Raises:
        InputError: there is none, or several models have the recipe.
    """
    found = [n for n, each in enumerate(index["variants"]) if name in {each["id"], each["recipe"]}]
    if len(found) == 1:
        return found[0]
    names = [each["id"] for each in index["variants"]]
    if found:
        raise InputError(f"--variant {name}: several models have it; choose {_listed([names[n] for n in found])}")
    raise InputError(f"--variant {name}: there is no such variant; {_known(name, names)}")


def find_prompt(index: Index, variant: int, name: str) -> int:
    """The position of a prompt of the variant's model.

    Raises:
        InputError: there is none, or its steps were not kept.
    """
    entry = index["variants"][variant]
    own = {p["prompt_id"]: m for m, p in enumerate(index["prompts"]) if p["model"] == entry["model"]}
    if name not in own:
        raise InputError(f"--prompt {name}: there is no such prompt; {_known(name, list(own))}")
    if own[name] not in entry["traces"]:
        raise InputError(f"--prompt {name}: its steps were not measured of {entry['id']}")
    return own[name]


def _known(name: str, names: Sequence[str]) -> str:
    like = get_close_matches(name, names, n=1)
    return f"did you mean {label(like[0], 80)}?" if like else f"there are {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(label(name, 80) for name in names[:20]) + (", …" if len(names) > 20 else "")


def show_overview(console: Console, index: Index) -> None:
    """Prints the answers, and a table of the variants of each model."""
    console.print(marks.heading(f"Study {label(index['study'])}"))
    for answer in index["answers"]:
        of = f"{label(answer['model'])}: " if len(index["models"]) > 1 else ""
        console.print(Text(of + prose(answer["question"]), "bold"))
        told = f"{answer['short']} {answer['text']}".strip()
        console.print(Padding(Text(prose(told)), (0, 0, 1, 2), expand=False))
    for model in index["models"]:
        entries = [entry for entry in index["variants"] if entry["model"] == model]
        width = _spark_width(console.width, entries)
        table = marks.table(Text(label(model), "bold"))
        for heading, justify in _OVERVIEW.items():
            table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading.startswith("KL"))
        for entry in entries:
            numbers = entry["numbers"]
            table.add_row(
                Text(label(entry["recipe"])),
                marks.verdict(entry),
                Text(marks.spark(entry["spark"]["forced"], width)),
                Text(marks.spark(entry["spark"]["free"], width)),
                marks.number(numbers.get("kl_free_running_median_nats")),
                marks.number(numbers.get("first_flip_step_median")),
                _of(numbers.get("prompts_collapsed"), numbers.get("prompts")),
            )
        console.print(table)
        console.print()
    console.print(Text(_legend(), "dim"))
    for note in index["notes"]:
        console.print(Text(prose(note), "dim"))
    console.print(Text("One variant: --variant NAME; its tokens: --variant NAME --prompt ID, then --step N.", "dim"))


def _spark_width(width: int, entries: Sequence[VariantEntry]) -> int:
    """Bars of each of the two lines that leave names and verdicts whole, where the terminal is wide enough."""
    names = max(cell_len(label(entry["recipe"])) + cell_len(marks.verdict(entry).plain) for entry in entries)
    return max(_SHORTEST, min(_LONGEST, (width - names - _NUMBERS) // 2))


def _legend() -> str:
    bars = "  ".join(f"{bar} {bound:g}" for bar, bound in zip(marks.BARS[1:], marks.KL_BOUNDS, strict=True))
    return (
        "KL(dense ‖ pruned) in nats along the generation, from left to right, the largest of each stretch: forced on "
        f"the dense model's tokens, free on its own. A bar begins at: {bars}. median: of KL free. flip: the first "
        "token that differs, median over prompts. loops: prompts that fall into a loop. (?): the intervals of what "
        "it stands on allow another verdict."
    )


def show_variant(console: Console, index: Index, n: int, document: VariantDocument) -> None:
    """Prints one variant: verdict, each prompt, and the sublayers that carry the damage."""
    entry = index["variants"][n]
    console.print(marks.heading(label(entry["id"], 80)))
    console.print(
        Text(": ").join(
            [marks.verdict(entry), Text(prose(entry["verdict_reason"] or "what the others are compared with"))]
        )
    )
    table = marks.table()
    for heading in ("prompt", "flip", "loop", "answer", "KL forced", "KL free", "parts at"):
        table.add_column(heading, justify="left" if heading in {"prompt", "answer", "parts at"} else "right")
    for prompt in document["prompts"]:
        table.add_row(
            Text(label(index["prompts"][prompt["prompt"]]["name"])),
            _step(prompt["first_flip_step"]),
            _step(prompt["collapse_step"]),
            _answered(prompt),
            marks.number(prompt["kl_forced_mean"]),
            marks.number(prompt["kl_free_mean"]),
            Text(label(prompt["parts_for_good_at"] or prompt["parts_at"] or marks.NOTHING)),
        )
    console.print(table)
    if carriers := document["carriers"][:_CARRIERS]:
        table = marks.table(Text("Which sublayers carry it", "bold"))
        for heading in ("sublayer", "scope", "KL, nats", "share", "", "parts here"):
            table.add_column(heading, justify="right" if heading in {"KL, nats", "share", "parts here"} else "left")
        largest = max(each["share"] or 0.0 for each in carriers) or 1.0
        for each in carriers:
            share = each["share"] or 0.0
            told = marks.NOTHING if each["share"] is None else f"{100 * share:.0f} %"
            bar = Text("█" * round(20 * share / largest))
            table.add_row(
                Text(label(each["place"])),
                Text(label(each["scope"])),
                marks.number(each["kl"]),
                Text(told),
                bar,
                Text(str(each["parted"])),
            )
        console.print()
        console.print(table)
        console.print(Text(_CARRIERS_LEGEND, "dim"))
    shown = [index["prompts"][m]["prompt_id"] for m in entry["traces"]]
    if shown:
        console.print(Text(f"Token by token: --prompt {_listed(shown)}", "dim"))


def _answered(prompt: PromptSummary) -> Text:
    if prompt["is_correct"] is None:
        return Text(marks.NOTHING)
    return Text("✓ right", "green") if prompt["is_correct"] else Text("✗ wrong", "red")


def _step(step: int | None) -> Text:
    return Text(marks.NOTHING if step is None else str(step))


def _of(part: Number, whole: Number) -> Text:
    return Text(marks.NOTHING if part is None or whole is None else f"{part:g}/{whole:g}")
