"""`prunescope verify` and `prunescope gc`: whether files are as they were written, and which ones no study names.

How a file is verified and what counts as waste is the warehouse's and the variants' own business.
"""

# ruff: noqa: ARG001 - `--warehouse` and `--debug` are kept by their callbacks, see options.py

import shlex
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets import settings
from prunescope.assets.cli import completion
from prunescope.assets.cli.options import Debug, Format, Output, Warehouse, existing, root
from prunescope.assets.cli.output import chosen_format, emit, log
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.errors import WarehouseError

if TYPE_CHECKING:
    from prunescope.assets.watching.watch_list import WatchState
    from prunescope.pipelines.studies import Study
    from prunescope.warehouse.maintenance.garbage_collection import OrphanFile, StudyScope
    from prunescope.warehouse.maintenance.verification import VerificationResult
    from prunescope.warehouse.storage.partition_store import Store

FAILED = 1


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(verify)
    app.command()(gc)


def verify(
    context: typer.Context,
    format_: Format = None,
    output: Output = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Read every file again and compare it with its hashes; exit code 1 where one differs or cannot be read.

    Partitions carry a hash of their rows, one of their provenance and a seal over all bytes; variant files a hash of
    what they change. Files that were written before there were hashes are counted, and are no failure.

    For example: `prunescope verify --format json`
    """
    import pyarrow as pa

    from prunescope.warehouse.maintenance.verification import verify as verify_tables
    from prunescope.warehouse.storage.partition_store import Store

    chosen_format(format_, output)
    store, counts, changed = Store(existing(context)), Counter[str](), []
    for verdict in chain(verify_tables(store), _variants(store)):
        counts[verdict.state] += 1
        if verdict.state in {"changed", "unreadable"}:
            row = {"path": str(verdict.path), "state": verdict.state, "reason": verdict.reason, "bytes": verdict.bytes}
            changed.append(row)
    if changed or format_ or output:
        schema = pa.schema({"path": pa.string(), "state": pa.string(), "reason": pa.string(), "bytes": pa.int64()})
        emit(pa.Table.from_pylist(changed, schema), format_, output)
    log(f"{counts['intact']} files are as they were written, {counts['changed']} are not")
    if counts["unverifiable"]:
        log(f"{counts['unverifiable']} files are older than the hashes; the next run that computes them adds one")
    if counts["unreadable"]:
        log(f"{counts['unreadable']} files could not be read; check the disk or the store and verify again", "red")
    if counts["changed"]:
        log("delete what changed and run its study again", "red")
    if changed:
        raise typer.Exit(FAILED)


def _variants(store: "Store") -> "Iterator[VerificationResult]":
    files = [path for path in store.files("_variants") if path.suffix == ".safetensors"]
    if not files:
        return
    from prunescope.pipelines.pruning.variant import DamagedVariantError, verify_variant
    from prunescope.warehouse.maintenance.verification import VerificationResult

    for path in files:
        with tempfile.TemporaryDirectory() as folder:
            size = 0
            try:
                size = int(path.stat().st_size)
                verify_variant(store.local_file(str(path.relative_to(store.root)), Path(folder)))
            except DamagedVariantError as error:
                yield VerificationResult(path, "changed", str(error).partition(": ")[2].partition(";")[0], size)
            except (OSError, InputError, WarehouseError) as error:
                cause = error.__cause__ or error
                if not isinstance(cause, FileNotFoundError):  # removed since it was listed
                    yield VerificationResult(path, "unreadable", str(getattr(cause, "strerror", None) or cause), size)
            else:
                yield VerificationResult(path, "intact", "", size)


def gc(
    context: typer.Context,
    study: Annotated[
        list[str] | None,
        typer.Option(
            "--study",
            "-s",
            metavar="STUDY",
            help="Keep what this study names, a name or a YAML file. Repeatable.",
            autocompletion=completion.studies,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what holds no results.")] = False,
    computed_by: Annotated[
        list[str] | None,
        typer.Option(
            "--computed-by",
            metavar="STUDY",
            autocompletion=completion.studies,
            help="With --yes: remove also the listed results that this study computed. Repeatable.",
        ),
    ] = None,
    format_: Format = None,
    output: Output = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """List what no study names: partitions, variant files, reports, unfinished layers, leftovers of killed runs.

    Named is what the shipped and the watched studies name, and what each --study does. The column `study` says who
    computed a result, `removed_by` which options remove it. Plain --yes removes only leftovers, unfinished layers and
    variant files without a row; leftovers are also what killed runs left in the folder for temporary files (TMPDIR).
    Results go only with --computed-by and the name of their study, known here or not: they may be another person's,
    or those of `run STUDY --model X` or `--recipe Y`. While a watched study or model cannot be read or is still being
    copied, nothing is removed.

    For example:

    - `prunescope gc --study mine.yaml --study theirs.yaml`
    - `prunescope gc --yes`
    - `prunescope gc --yes --study mine.yaml --computed-by demo`
    """
    import pyarrow as pa

    from prunescope.assets.watching.watch_list import load_watch_state
    from prunescope.pipelines.studies import load_study, study_names
    from prunescope.warehouse.maintenance.garbage_collection import removable, waste
    from prunescope.warehouse.storage.partition_store import Store

    chosen_format(format_, output)
    store = Store(root(context))
    loaded = [load_study(name) for name in (*study_names(), *(study or []))]
    local = store.local(settings.cache_folder())
    with ExitStack() as alone:
        if yes:
            from prunescope.assets.instance.instance import writer_lock

            # Removing waits for a run that is at work, whose files might look like waste.
            alone.enter_context(writer_lock(local, RichProgress().waiting, store.url))
        watch = load_watch_state(store)
        if yes:
            _refuse_while_unknown(watch)
        studies = [_named(each) for each in (*loaded, *(watched.study for watched in watch.studies))]
        found = [*waste(store, studies, local), *_layers()]
        if found or format_ or output:
            text = pa.string()
            schema = pa.schema({"kind": text, "study": text, "removed_by": text, "bytes": pa.int64(), "path": text})
            emit(pa.Table.from_pylist([_row(each, store) for each in found], schema), format_, output)
        gone = removable(found, computed_by or ())
        freed = _removed(store, gone) if yes else 0
    _tell(found, len(gone), freed, removed=yes)
    if strange := sorted(set(computed_by or ()) - {each.study for each in found}):
        log(f"nothing of the list was computed by {', '.join(strange)}", "yellow")


def _layers() -> "list[OrphanFile]":
    """Layers that rested on disk while a model larger than memory ran, and whose process was killed."""
    from prunescope.pipelines.core import scratch_directory
    from prunescope.warehouse.maintenance.garbage_collection import OrphanFile

    return [
        OrphanFile("temporary", folder, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
        for folder in scratch_directory.abandoned()
    ]


def _removed(store: "Store", gone: "Sequence[OrphanFile]") -> int:
    """Removes files of the warehouse and folders of layers; gives the bytes."""
    from prunescope.pipelines.core import scratch_directory
    from prunescope.warehouse.maintenance.garbage_collection import remove

    layers = [each for each in gone if isinstance(each.path, Path) and each.path.is_dir()]
    for each in layers:
        scratch_directory.remove_dead(Path(each.path))
    return sum(each.bytes for each in layers) + remove(store, [each for each in gone if each not in layers])


def _refuse_while_unknown(watch: "WatchState") -> None:
    """What is watched and cannot be read names nothing, so that its results look like anybody's."""
    unknown = [*watch.refused.values(), *(f"{name} is still being copied" for name in watch.copying)]
    if unknown:
        raise InputError(
            f"nothing was removed, for what is watched cannot be told: {'; '.join(unknown)}; mend or finish it, "
            "or take it out of what is watched"
        )


def _named(study: "Study") -> "StudyScope":
    from prunescope.warehouse.maintenance.garbage_collection import StudyScope

    models, recipes = (frozenset(each.name for each in of) for of in (study.models, study.recipes))
    return StudyScope(study.name, models, recipes)


def _row(each: "OrphanFile", store: "Store") -> dict[str, object]:
    # Unfinished layers of a warehouse on a store lie on this machine.
    inside = isinstance(each.path, Path) == isinstance(store.root, Path) and each.path.is_relative_to(store.root)
    path = each.path.relative_to(store.root) if inside else each.path
    return {
        "kind": each.kind,
        "study": each.study or None,
        "removed_by": _options(each),
        "bytes": each.bytes,
        "path": str(path),
    }


def _options(each: "OrphanFile") -> str:
    if not each.is_result:
        return "--yes"
    return f"--yes --computed-by {shlex.quote(each.study)}" if each.study else "none, it is damaged: delete it by hand"


def _tell(found: "list[OrphanFile]", chosen: int, freed: int, *, removed: bool) -> None:
    if not found:
        log("every file belongs to a study; there is nothing to remove")
        return
    size = sum(each.bytes for each in found)
    if removed:
        log(f"{chosen} files removed, {freed / 1e6:,.1f} MB; {len(found) - chosen} of the list stay")
    else:
        log(f"{len(found)} files, {size / 1e6:,.1f} MB; nothing was removed, see removed_by")
    if whose := sorted({each.study for each in found if each.study}):
        log(
            f"results among them were computed by: {', '.join(whose)}; --study FILE keeps what a study names, "
            "--computed-by STUDY removes the others",
            "yellow",
        )
