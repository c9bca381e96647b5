"""`prunescope compare` and `prunescope export`: what goes into a paper. Neither writes to the warehouse.

How rows are compared and typeset is `warehouse`'s business, how figures are drawn that of `pipelines.charts`.
"""

# ruff: noqa: ARG001 - `--warehouse` and `--debug` are kept by their callbacks, see options.py

from typing import Annotated

import typer

from assets.cli.options import Debug, Format, Output, Warehouse, root
from assets.cli.output import chosen_format, emit, say
from warehouse.compare import compare as compare_variants

_Variant = Annotated[str, typer.Argument(help="MODEL@RECIPE, or RECIPE where one model has it.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(compare)


def compare(
    context: typer.Context,
    a: _Variant,
    b: _Variant,
    format_: Format = None,
    output: Output = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Compare two variants of one model, paired token by token: perplexity, KL and top token of texts and prompts.

    difference is B − A; its error takes windows of a text, and prompts, as the independent units, and low and high are
    its 95 % interval (from five units on). noise_p95 is the KL that rounding alone makes.

    For example:

    - `prunescope compare wanda-50 magnitude-50`
    - `prunescope compare mine@wanda-50 mine@dense -o difference.tex`
    """
    chosen_format(format_, output)
    found = compare_variants(root(context), a, b)
    for reason in found.missing:
        say(f"not compared: {reason}", "dim")
    say(f"A is {found.model}@{found.recipe_a}, B is {found.model}@{found.recipe_b}", "dim")
    emit(found.rows, format_, output)
