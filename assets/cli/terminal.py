"""The explorer in a terminal: the overview and one variant, printed from the documents of the page.

Colour only repeats a number, sign or bar next to it.
"""

from collections.abc import Sequence
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from prunescope.assets.cli import terminal_marks as marks
from prunescope.assets.cli import terminal_prompts
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.suggestions import similar_names
from prunescope.pipelines.reporting.charts.display_text import label, prose
from prunescope.pipelines.reporting.explorer.document_types import Column, Index, Number, VariantDocument, VariantEntry

_OVERVIEW: dict[str, Literal["left", "right"]] = {
    "recipe": "left",
    "verdict": "left",
    "KL forced": "left",
    "KL own": "left",
    "median": "right",
    "flip": "right",
    "loops": "right",
}
# Width of all columns but names, verdicts and bars, with gaps.
_NUMBERS_WIDTH = 27
_MIN_SPARK, _MAX_SPARK = 9, 40
_MAX_CARRIERS = 8
_CARRIERS_LEGEND = (
    "KL that this sublayer alone causes, and its share of the sum over all changed sublayers. parts here: prompts "
    "whose most likely token at the first flip differs from this sublayer's output on."
)


def find_prompt(index: Index, variant: int | None, name: str) -> int:
    """Return the position of a prompt of the variant's model, or without a variant of any model.

    Raises:
        InputError: there is none, several models have it, or the variant has no steps of it.
    """
    if variant is None:
        matches = [m for m, prompt in enumerate(index["prompts"]) if prompt["prompt_id"] == name]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise InputError(f"--prompt {name}: several models have it; add --variant")
        raise InputError(f"--prompt {name}: there is no such prompt; {_suggestion(name, _ids(index))}")
    entry = index["variants"][variant]
    positions = {p["prompt_id"]: m for m, p in enumerate(index["prompts"]) if p["model"] == entry["model"]}
    if name not in positions:
        raise InputError(f"--prompt {name}: there is no such prompt; {_suggestion(name, list(positions))}")
    if positions[name] not in entry["traces"]:
        raise InputError(f"--prompt {name}: its steps were not measured for {entry['id']}")
    return positions[name]


def _ids(index: Index) -> list[str]:
    return [prompt["prompt_id"] for prompt in index["prompts"]]


def _suggestion(name: str, names: Sequence[str]) -> str:
    similar = similar_names(name, names)
    return f"did you mean {label(similar[0], 80)}?" if similar else f"there are {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(label(name, 80) for name in names[:20]) + (", …" if len(names) > 20 else "")


def show_overview(console: Console, index: Index) -> None:
    """Print the answers, and a table of the variants of each model."""
    console.print(marks.heading(f"Study {label(index['study'])}"))
    for answer in index["answers"]:
        prefix = f"{label(answer['model'])}: " if len(index["models"]) > 1 else ""
        console.print(Text(prefix + prose(answer["question"]), "bold"))
        text = f"{answer['short']} {answer['text']}".strip()
        console.print(Padding(Text(prose(text)), (0, 0, 1, 2), expand=False))
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
                Text(marks.spark(entry["spark"]["own"], width)),
                marks.number(numbers.get("kl_own_text_median_nats")),
                marks.number(numbers.get("first_flip_step_median")),
                terminal_prompts.ratio(numbers.get("prompts_collapsed"), numbers.get("prompts")),
            )
        console.print(table)
        console.print()
    console.print(Text(_legend(), "dim"))
    terminal_prompts.show_prompts(console, index)
    for note in index["notes"]:
        console.print(Text(prose(note), "dim"))
    console.print(
        Text(
            "One variant: --variant NAME; one prompt: --prompt ID; its tokens: --variant NAME --prompt ID; one step: "
            "add --step N.",
            "dim",
        )
    )


def _spark_width(width: int, entries: Sequence[VariantEntry]) -> int:
    """Return the number of bars per line that leaves room for names and verdicts, if the terminal is wide enough."""
    names = max(cell_len(label(entry["recipe"])) + cell_len(marks.verdict(entry).plain) for entry in entries)
    return max(_MIN_SPARK, min(_MAX_SPARK, (width - names - _NUMBERS_WIDTH) // 2))


def _legend() -> str:
    bars = "  ".join(f"{bar} {bound:g}" for bar, bound in zip(marks.BARS[1:], marks.KL_BOUNDS, strict=True))
    return (
        "KL(dense ‖ pruned) in nats along the generation, from left to right, each bar the maximum of several steps: "
        f"both models reading the dense text (forced) or the variant's (own). Lower bound of a bar: {bars}. median: of "
        "KL own. flip: step of the first token that differs, median over prompts. loops: prompts that fall into a loop."
    )


def _with_intervals(index: Index, entry: VariantEntry) -> str:
    """State the numbers of a variant that have a 95 % interval."""

    def written(column: Column, value: Number) -> str:
        return f"{100 * value:.1f}" if column["form"] == "percent" and value is not None else marks.written(value)

    parts = []
    for column in index["columns"]:
        if (ends := entry["intervals"].get(column["name"])) is None:
            continue
        low, high = (None if end is None else written(column, end) for end in ends)
        interval = f"[{low}, {high}]" if low and high else f"≥ {low}" if low else f"≤ {high}"
        unit = ", %" if column["form"] == "percent" else ""
        parts.append(f"{column['heading']}{unit}: {written(column, entry['numbers'][column['name']])} {interval}")
    return f"With 95 % intervals: {'; '.join(parts)}."


def show_variant(console: Console, index: Index, n: int, document: VariantDocument) -> None:
    """Print one variant: verdict, prompts, and the sublayers that cause most of the KL."""
    entry = index["variants"][n]
    console.print(marks.heading(label(entry["id"], 80)))
    console.print(
        Text(": ").join([marks.verdict(entry), Text(prose(entry["verdict_reason"] or "reference of the others"))])
    )
    if entry["intervals"]:
        console.print(Text(_with_intervals(index, entry), "dim"))
    table = marks.table()
    for heading in ("prompt", "flip", "loop", "answer", "KL forced", "KL own", "parts at"):
        table.add_column(heading, justify="left" if heading in {"prompt", "answer", "parts at"} else "right")
    shown = document["prompts"][: terminal_prompts.MOST]
    for prompt in shown:
        table.add_row(
            Text(label(index["prompts"][prompt["prompt"]]["name"])),
            terminal_prompts.step(prompt["first_flip_step"]),
            terminal_prompts.step(prompt["collapse_step"]),
            terminal_prompts.answered(prompt),
            marks.number(prompt["kl_forced_mean"]),
            marks.number(prompt["kl_own_mean"]),
            Text(label(prompt["parts_for_good_at"] or prompt["parts_at"] or marks.NOTHING)),
        )
    console.print(table)
    if len(shown) < len(document["prompts"]):
        console.print(Text(f"The {len(shown)} of {len(document['prompts'])} prompts that break first.", "dim"))
    if carriers := document["carriers"][:_MAX_CARRIERS]:
        table = marks.table(Text("Sublayers with the largest KL", "bold"))
        for heading in ("sublayer", "scope", "KL, nats", "share", "", "parts here"):
            table.add_column(heading, justify="right" if heading in {"KL, nats", "share", "parts here"} else "left")
        largest = max(carrier["share"] or 0.0 for carrier in carriers) or 1.0
        for carrier in carriers:
            share = carrier["share"] or 0.0
            table.add_row(
                Text(label(carrier["place"])),
                Text(label(carrier["scope"])),
                marks.number(carrier["kl"]),
                Text(marks.NOTHING if carrier["share"] is None else f"{100 * share:.0f} %"),
                Text("█" * round(20 * share / largest)),
                Text(str(carrier["parted"])),
            )
        console.print()
        console.print(table)
        console.print(Text(_CARRIERS_LEGEND, "dim"))
    if prompt_ids := [index["prompts"][m]["prompt_id"] for m in entry["traces"]]:
        console.print(Text(f"Token by token: --prompt {_listed(prompt_ids)}", "dim"))
