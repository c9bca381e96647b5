"""Options that filter rows by model, recipe or prompt, and those that name variants or a study."""

from typing import Annotated, Any

import typer

from prunescope.assets.cli import completion

OnlyModels = Annotated[
    list[str] | None, typer.Option("--model", help="Only this model. Repeatable.", autocompletion=completion.models)
]
OnlyRecipes = Annotated[
    list[str] | None, typer.Option("--recipe", help="Only this recipe. Repeatable.", autocompletion=completion.recipes)
]
OnlyPrompts = Annotated[list[str] | None, typer.Option("--prompt", metavar="ID", help="Only this prompt. Repeatable.")]


def variant_option(text: str) -> Any:  # noqa: ANN401 - as Typer types it
    """Return the option `--variant` with this help."""
    return typer.Option("--variant", metavar="MODEL@RECIPE", help=text, autocompletion=completion.variants_or_recipes)


def study_option(text: str, *names: str) -> Any:  # noqa: ANN401 - as Typer types it
    """Return the option `--study` with this help, and with these further names."""
    return typer.Option("--study", *names, metavar="STUDY", help=text, autocompletion=completion.studies)
