"""The explorer in a terminal: prompts by kind, the prompts that break first, and one prompt in all variants."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from prunescope.assets.cli import terminal_marks as marks
from prunescope.pipelines.reporting.charts.display_text import label, prose
from prunescope.pipelines.reporting.explorer.document_types import Index, KindSummary, PromptDocument, TextOutcome

MOST = 10
# Studies with fewer prompts need no summary of them.
MANY = 8
_LEGEND = (
    "Over the pruned variants. flip: median step of the first token that differs, – where most never flip. flipped and "
    "loops: variants whose text differs or falls into a loop. KL: median at the first token, in nats. The first flip "
    "decides what breaks first, then flipped, loops and KL."
)


def show_prompts(console: Console, index: Index) -> None:
    """Print the texts of all pruned variants by kind of prompt, and the prompts that break first."""
    for model in index["models"]:
        prompts = sorted(
            (prompt for prompt in index["prompts"] if prompt["model"] == model), key=lambda prompt: prompt["place"]
        )
        if len(prompts) <= MANY:
            continue
        console.print()
        entries = [entry for entry in index["variants"] if entry["model"] == model and not entry["is_dense"]]
        table = _table(f"{label(model)}: texts by kind of prompt", ("kind", "texts", "flipped", "loops", "right"))
        for kind in dict.fromkeys(summary["kind"] for entry in entries for summary in entry["kinds"]):
            of_kind = [summary for entry in entries for summary in entry["kinds"] if summary["kind"] == kind]
            texts = _sum(of_kind, "prompts")
            table.add_row(
                Text(label(kind)),
                Text(str(texts)),
                ratio(_sum(of_kind, "flipped"), texts),
                ratio(_sum(of_kind, "collapsed"), texts),
                ratio(_sum(of_kind, "correct"), _sum(of_kind, "graded")),
            )
        console.print(table)
        console.print()
        first = prompts[:MOST]
        title = f"{label(model)}: the {len(first)} of {len(prompts)} prompts that break first"
        table = _table(title, ("prompt", "kind", "flip", "flipped", "loops", "KL", "right"))
        for prompt in first:
            table.add_row(
                Text(prompt["name"]),
                Text(prompt["kind"]),
                marks.number(prompt["first_flip_median"]),
                ratio(prompt["flipped"], prompt["variants"]),
                ratio(prompt["collapsed"], prompt["variants"]),
                marks.number(prompt["kl_step0"]),
                ratio(prompt["correct"], prompt["graded"]),
            )
        console.print(table)
        console.print(Text(f"{_LEGEND} One prompt in all variants: --prompt ID.", "dim"))
        console.print()


def show_prompt(console: Console, index: Index, m: int, document: PromptDocument) -> None:
    """Print one prompt in all variants, from the one that differs first from the dense text."""
    prompt = index["prompts"][m]
    console.print(marks.heading(f"{prompt['name']} · {prompt['kind']}"))
    console.print(Text(prose(prompt["text"], 400), "dim"))
    if not prompt["has_layers"]:
        console.print(Text("Measured at the output only: this prompt has no layers.", "dim"))
    table = _table("", ("variant", "flip", "loop", "answer", "KL step 0", "KL forced", "KL own"))
    pruned = [text for text in document["texts"] if not index["variants"][text["variant"]]["is_dense"]]
    for text in sorted(pruned, key=lambda text: (text["first_flip_step"] is None, text["first_flip_step"] or 0)):
        table.add_row(
            Text(label(index["variants"][text["variant"]]["recipe"])),
            step(text["first_flip_step"]),
            step(text["collapse_step"]),
            answered(text),
            marks.number(text["kl_step0"]),
            marks.number(text["kl_forced_mean"]),
            marks.number(text["kl_own_mean"]),
        )
    console.print(table)
    console.print(Text("Token by token: add --variant NAME.", "dim"))


def _table(title: str, headings: Sequence[str]) -> marks.Table:
    table = marks.table(Text(title, "bold") if title else None)
    for heading in headings:
        is_text = heading in {"kind", "prompt", "variant", "answer"}
        table.add_column(heading, justify="left" if is_text else "right", overflow="fold")
    return table


def _sum(kinds: Sequence[KindSummary], name: str) -> int:
    return sum(kind[name] for kind in kinds)  # type: ignore[literal-required]


def answered(text: TextOutcome) -> Text:
    """Return whether the answer of a text is right, as sign, word and colour."""
    if text["is_correct"] is None:
        return Text(marks.NOTHING)
    return Text("✓ right", "green") if text["is_correct"] else Text("✗ wrong", "red")


def step(value: int | None) -> Text:
    """Return a step, or a dash."""
    return Text(marks.NOTHING if value is None else str(value))


def ratio(part: float | None, whole: float | None) -> Text:
    """Return a count and its total, or a dash."""
    return Text(marks.NOTHING if part is None or not whole else f"{part:g}/{whole:g}")
