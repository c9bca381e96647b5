"""Options that filter rows by model, recipe or prompt."""

from typing import Annotated

import typer

from prunescope.assets.cli import completion

OnlyModels = Annotated[
    list[str] | None, typer.Option("--model", help="Only this model. Repeatable.", autocompletion=completion.models)
]
OnlyRecipes = Annotated[
    list[str] | None, typer.Option("--recipe", help="Only this recipe. Repeatable.", autocompletion=completion.recipes)
]
OnlyPrompts = Annotated[list[str] | None, typer.Option("--prompt", metavar="ID", help="Only this prompt. Repeatable.")]
