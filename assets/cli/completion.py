"""Shell completion by the names of files: shipped studies and SQL, tables, and the variants of a local warehouse.

Recipes of the package are named here too. Nothing heavy is imported, and no table is read.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from prunescope.assets.instance import settings
from prunescope.pipelines.core.errors import InputError

_ROOT = Path(__file__).parents[2]
Names = Callable[[typer.Context], Iterable[str]]


def _completing(*sources: Names) -> Callable[[typer.Context, str], list[str]]:
    """Return a callback that completes a word with the names of all sources."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        names = dict.fromkeys(name for source in sources for name in source(context))
        return [name for name in names if name.startswith(incomplete)]

    return complete


def _stems(*patterns: str) -> Names:
    return lambda _: sorted(path.stem for pattern in patterns for path in _ROOT.glob(pattern))


def _forms(_: typer.Context) -> list[str]:
    from prunescope.pipelines.recipes import KINDS

    return [form for kind in KINDS for form, _ in kind.EXAMPLES]


def _tables(context: typer.Context) -> list[str]:
    return [name for name in _stems("warehouse/tables/[!_]*.py")(context) if name != "columns"]


def _stored(context: typer.Context) -> list[list[str]]:
    """List model and recipe of the variants in a local warehouse; nothing for one on an object store."""
    from prunescope.warehouse.storage.path_names import original

    try:
        folder = Path(settings.warehouse_root(getattr(context.obj, "warehouse", None)))
    except InputError:
        return []
    paths = sorted(path.parts[-2:] for path in folder.glob("variants/model=*/recipe=*"))
    names = [[original(part.partition("=")[2]) for part in parts] for parts in paths]
    # A path with a shortened name does not have the original one.
    return [[name for name in path if name is not None] for path in names if None not in path]


def _recipes(context: typer.Context) -> list[str]:
    return [recipe for _, recipe in _stored(context)]


_views = _stems("sql/marts/**/*.sql", "sql/intermediate/**/*.sql")
_questions = _stems("sql/questions/*.sql")
_figures = _stems("sql/figures/*.sql")

studies = _completing(_stems("pipelines/studies/*.yaml"), lambda _: sorted(path.name for path in Path().glob("*.y*ml")))
recipes = _completing(_recipes, _forms)
models = _completing(lambda context: [model for model, _ in _stored(context)])
variants_or_recipes = _completing(_recipes, lambda context: map("@".join, _stored(context)))
relations = _completing(_tables, _views, _questions)
questions = _completing(_questions)
figures = _completing(_figures)
exported = _completing(_questions, _views, _figures)
