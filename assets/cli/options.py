"""Options that several commands share, and where their values are kept.

`--warehouse` and `--debug` may stand before the command or behind it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets import settings
from prunescope.assets.cli.output import log
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.limits import GIBIBYTES

if TYPE_CHECKING:
    from prunescope.warehouse.storage.location import Place


@dataclass
class Globals:
    """What stood before the command, or behind it."""

    warehouse: str | None = None
    debug: bool = False


def _keep_warehouse(context: typer.Context, value: str | None) -> str | None:
    if value is not None:
        context.ensure_object(Globals).warehouse = value
    return value


def _keep_debug(context: typer.Context, value: bool) -> bool:
    if value:
        context.ensure_object(Globals).debug = True
    return value


def _named_file(value: Path | None) -> Path | None:
    """Refuses a place where no file can come to lie, before anything is computed."""
    if value is None:
        return None
    path = value.expanduser()
    if path == Path() or path.is_dir():
        shown = value if path != Path() else "''"
        raise InputError(f"-o {shown}: that is a folder; name a file")
    if not path.parent.exists():
        raise InputError(f"-o {value}: there is no folder {value.parent}; make it first")
    return value


def _existing_memory(value: float) -> float:
    """Refuses a limit that the machine could never keep; what nobody asked for is as much as there is."""
    there_is = settings.memory_gibibytes()
    if value == GIBIBYTES:
        return min(value, there_is)
    if value > there_is:
        raise InputError(f"--memory {value:g}: this machine has {there_is:.1f} GiB; give less")
    return value


def root(context: typer.Context) -> "Place":
    """The warehouse that the command works on.

    Raises:
        InputError: there is a file where it should be.
        WarehouseError: it is a URL that cannot hold one, or cannot be reached.
    """
    from prunescope.warehouse.storage.partition_store import Store

    store = Store(settings.warehouse_root(context.ensure_object(Globals).warehouse))
    place = store.root
    if not isinstance(place, Path):
        store.require()
        return place
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    if not existing.is_dir():
        raise InputError(f"{existing} is a file, not a folder; choose another place with --warehouse")
    return place


def existing(context: typer.Context) -> "Place":
    """The warehouse to read; says so where there is none yet, which a mistyped place looks like.

    Raises:
        InputError, WarehouseError: as `root`.
    """
    place = root(context)
    if isinstance(place, Path) and not place.exists():
        log(f"there is no warehouse at {place} yet; a run makes one, such as `prunescope run demo`", "yellow")
    return place


def writable(context: typer.Context) -> "Place":
    """The warehouse to write into, made where there is none.

    Raises:
        InputError: as `root`.
        WarehouseError: as `root`, or the folder cannot be made.
    """
    from prunescope.warehouse.storage.atomic_write import translate_os_errors

    place = root(context)
    if isinstance(place, Path):
        with translate_os_errors(place):
            place.mkdir(parents=True, exist_ok=True)
    return place


def variant_names(variant: str) -> tuple[str, str]:
    """Model and recipe of a variant.

    Raises:
        InputError: it is not MODEL@RECIPE.
    """
    model, _, recipe = variant.partition("@")
    if not model or not recipe:
        raise InputError(f"{variant!r}: write MODEL@RECIPE, as `prunescope variants` lists them")
    return model, recipe


def absolute_model(model: str) -> str:
    """A model as a run elsewhere finds it, with or without `NAME=`: a folder or file of this machine by its whole path.

    Raises:
        InputError: it is empty.
    """
    name, separator, source = model.partition("=")
    if separator and "/" not in name:
        return f"{name}={absolute_model(source)}"
    if not model.strip():
        raise InputError("model '': names no model; give a folder, a .gguf file or a hub id")
    path = Path(model).expanduser()
    return str(path.absolute()) if path.exists() else model


def absolute_study(study: str) -> str:
    """A study as a run elsewhere finds it: a shipped one by its name, a file by its whole path.

    An address stays as it is, so that it is refused for one where it is loaded.
    """
    path = Path(study).expanduser()
    return str(path.absolute()) if path.suffix in {".yaml", ".yml"} and "://" not in study else study


Warehouse = Annotated[
    str | None,
    typer.Option(
        "--warehouse",
        metavar="PLACE",
        callback=_keep_warehouse,
        help="Where results are kept, a folder or s3://BUCKET/PREFIX; else PRUNESCOPE_WAREHOUSE, else warehouse/data.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", callback=_keep_debug, help="Show the traceback of an error.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        metavar="FORMAT",
        help="table, csv, json, markdown, latex or parquet; else what the name of -o says, else table.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", callback=_named_file, help="Write to a file instead of standard output."
    ),
]
Seconds = Annotated[float, typer.Option(min=0.001, max=86_400, help="Longest time that it may take.")]
Memory = Annotated[
    float, typer.Option(min=0.05, metavar="GIB", callback=_existing_memory, help="Most memory that it may use.")
]
