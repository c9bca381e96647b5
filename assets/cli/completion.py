"""Shell completion of studies, recipes, methods, models, variants, tables, questions and figures.

Names come from files' names, from the text of the figure registry, which is slow to import, and from the warehouse.
"""

import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import get_args

import typer

from prunescope.assets import settings
from prunescope.pipelines.core.errors import InputError

_ROOT = Path(__file__).parents[2]


@contextmanager
def rejoined_variants() -> Iterator[None]:
    """Complete variants in bash, which splits a word at its `@` and replaces only the part behind it.

    Typer's script for bash passes one word per line.
    """
    # Words behind the cursor do not matter.
    words = os.environ.get("COMP_WORDS", "").split("\n")[: int(os.environ.get("COMP_CWORD", "0")) + 1]
    line = "\n".join(words)
    joined, splits = re.subn(r"\n@(?:\n|$)", "@", line)
    if not splits:
        yield
        return
    os.environ["COMP_WORDS"] = joined
    os.environ["COMP_CWORD"] = str(len(joined.split("\n")) - 1)
    last = joined.rpartition("\n")[2]
    output = io.StringIO()
    try:
        with redirect_stdout(output):
            yield
    finally:
        model = last[: last.rfind("@") + 1]
        sys.stdout.write("".join(f"{word.removeprefix(model)}\n" for word in output.getvalue().splitlines()))


def _completing(*sources: Callable[[typer.Context], Iterable[str]]) -> Callable[[typer.Context, str], list[str]]:
    """Return a callback that completes a word with the names of all sources."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        names = dict.fromkeys(name for source in sources for name in source(context))
        return [name for name in names if name.startswith(incomplete)]

    return complete


def _stems(*patterns: str) -> list[str]:
    return sorted(path.stem for pattern in patterns for path in _ROOT.glob(pattern))


def _studies(_: typer.Context) -> list[str]:
    """List the shipped studies and the YAML files of the current folder."""
    return [*_stems("pipelines/studies/*.yaml"), *sorted(path.name for path in Path().glob("*.y*ml"))]


def _forms(_: typer.Context) -> list[str]:
    from prunescope.pipelines.recipes import KINDS

    return [form for kind in KINDS for form, _ in kind.EXAMPLES]


def _methods(_: typer.Context) -> list[str]:
    from prunescope.pipelines.recipes import KINDS

    return [method for kind in KINDS for method in get_args(kind.model_fields["method"].annotation)]


def _figures(_: typer.Context) -> list[str]:
    registry = _ROOT / "pipelines/reporting/charts/registry.py"
    return re.findall(r'_figure\(\s*"(\w+)"', registry.read_text(encoding="utf-8"))


def _tables(_: typer.Context) -> list[str]:
    return sorted({*_stems("warehouse/tables/[!_]*.py"), "provenance"} - {"columns"})


def _views(context: typer.Context) -> list[str]:
    staging = (f"stg_{name}" for name in _tables(context) if name != "provenance")
    return [*_stems("sql/marts/**/*.sql", "sql/intermediate/**/*.sql"), *staging]


def _questions(_: typer.Context) -> list[str]:
    return _stems("sql/questions/*.sql")


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


def _variants(context: typer.Context) -> list[str]:
    return ["@".join(names) for names in _stored(context)]


studies = _completing(_studies)
recipes = _completing(_recipes, _forms)
methods = _completing(_methods)
models = _completing(lambda context: (model for model, _ in _stored(context)))
variants_or_recipes = _completing(_recipes, _variants)
relations = _completing(_tables, _views, _questions)
questions = _completing(_questions)
figures = _completing(_figures)
exported = _completing(_questions, _views, _figures)
