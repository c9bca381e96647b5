"""`prunescope verify` and `prunescope gc`: check of all files against their hashes, and removal of orphan files."""

import shlex
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets import settings
from prunescope.assets.cli import completion
from prunescope.assets.cli.options import existing, study_option
from prunescope.assets.cli.output import FAILED, Sink, emit_list, log, log_wait
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.errors import WarehouseError

if TYPE_CHECKING:
    from prunescope.assets.watching.watch_list import WatchState
    from prunescope.warehouse.maintenance.garbage_collection import OrphanFile
    from prunescope.warehouse.maintenance.verification import VerificationResult
    from prunescope.warehouse.storage.partition_store import Store


def verify(context: typer.Context, sink: Sink) -> None:
    """Read every file and compare it with its hashes; exit code 1 if one differs or cannot be read.

    A partition has a hash of all its bytes, a variant file a hash of its changes to the model. Files from before there
    were hashes are counted and do not fail the check.

    For example: `prunescope verify --format json`
    """
    from prunescope.warehouse.maintenance.verification import verify as verify_tables
    from prunescope.warehouse.storage.partition_store import Store

    store, counts = Store(existing(context)), Counter[str]()
    failed: list[dict[str, object]] = []
    for result in chain(verify_tables(store), _verify_variants(store)):
        counts[result.state] += 1
        if result.state in {"changed", "unreadable"}:
            failed.append(asdict(result) | {"path": str(result.path)})
    if failed or sink.is_chosen:
        emit_list(failed, sink, path=str, state=str, reason=str, bytes=int)
    log(f"{counts['intact']} files are unchanged, {counts['changed']} have changed")
    if counts["unverifiable"]:
        log(f"{counts['unverifiable']} files are older than the hashes; the next run that computes them adds one")
    if counts["unreadable"]:
        log(f"{counts['unreadable']} files could not be read; check the disk or the store and verify again", "red")
    if counts["changed"]:
        log("move the changed files away and run their studies again", "red")
    if failed:
        raise typer.Exit(FAILED)


def _verify_variants(store: "Store") -> "Iterator[VerificationResult]":
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
                if not isinstance(cause, FileNotFoundError):  # removed after it was listed
                    yield VerificationResult(path, "unreadable", str(getattr(cause, "strerror", None) or cause), size)
            else:
                yield VerificationResult(path, "intact", "", size)


def gc(
    context: typer.Context,
    sink: Sink,
    study: Annotated[
        list[str] | None,
        study_option("Keep the results that this study names; a name or a YAML file. Repeatable.", "-s"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove the listed files that hold no results.")] = False,
    computed_by: Annotated[
        list[str] | None,
        typer.Option(
            "--computed-by",
            metavar="STUDY",
            autocompletion=completion.studies,
            help="With --yes: also remove the listed results that this study computed. Repeatable.",
        ),
    ] = None,
) -> None:
    """List files that no study names: partitions, variant files, reports, unfinished layers, leftovers of killed runs.

    A file is kept if a shipped study, a watched study or a --study names it. The column `study` names the study that
    computed a result, `removed_by` the options that remove it. Plain --yes removes only leftovers, unfinished layers
    and variant files without a row; leftovers include those in the folder for temporary files (TMPDIR).
    Results need --computed-by with the name of their study, because they may belong to another person, or come from
    `run STUDY --model X` or `--recipe Y`. While a watched study or model cannot be read or is still being copied,
    nothing is removed.

    For example:

    - `prunescope gc --study mine.yaml --study theirs.yaml`
    - `prunescope gc --yes`
    - `prunescope gc --yes --study mine.yaml --computed-by demo`
    """
    from prunescope.assets.watching.watch_list import load_watch_state
    from prunescope.pipelines.studies import load_study, study_names
    from prunescope.warehouse.maintenance.garbage_collection import StudyScope, removable, waste
    from prunescope.warehouse.storage.partition_store import Store

    store = Store(existing(context))
    loaded = [load_study(name) for name in (*study_names(), *(study or []))]
    local = store.local(settings.cache_folder())
    with ExitStack() as lock:
        if yes:
            from prunescope.assets.instance.instance import writer_lock

            # Waits for a running study, whose files might look like orphans.
            lock.enter_context(writer_lock(local, log_wait, store.url))
        watch = load_watch_state(store)
        if yes:
            _require_known(watch)
        scopes = [
            StudyScope(study.name, frozenset(m.name for m in study.models), frozenset(r.name for r in study.recipes))
            for study in (*loaded, *(watched.study for watched in watch.studies))
        ]
        orphans = [*waste(store, scopes, local), *_offloaded_layers()]
        if orphans or sink.is_chosen:
            rows = [_row(orphan, store) for orphan in orphans]
            emit_list(rows, sink, kind=str, study=str, removed_by=str, bytes=int, path=str)
        selected = removable(orphans, computed_by or ())
        freed = _remove(store, selected) if yes else 0
    _log_summary(orphans, len(selected), freed, removed=yes)
    if unknown := sorted(set(computed_by or ()) - {orphan.study for orphan in orphans}):
        log(f"no listed file was computed by {', '.join(unknown)}", "yellow")


def _offloaded_layers() -> "list[OrphanFile]":
    """Find layers that a killed process had offloaded to disk for a model larger than memory."""
    from prunescope.pipelines.core import scratch_directory
    from prunescope.warehouse.maintenance.garbage_collection import OrphanFile

    return [
        OrphanFile("temporary", folder, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
        for folder in scratch_directory.abandoned()
    ]


def _remove(store: "Store", orphans: "Sequence[OrphanFile]") -> int:
    """Remove files of the warehouse and folders of offloaded layers; return the number of bytes."""
    from prunescope.pipelines.core import scratch_directory
    from prunescope.warehouse.maintenance.garbage_collection import remove

    layers = [orphan for orphan in orphans if isinstance(orphan.path, Path) and orphan.path.is_dir()]
    for orphan in layers:
        scratch_directory.remove_dead(Path(orphan.path))
    return sum(orphan.bytes for orphan in layers) + remove(store, [file for file in orphans if file not in layers])


def _require_known(watch: "WatchState") -> None:
    """Refuse to remove anything while a watched study is unreadable, for its results would look like orphans."""
    unknown = [*watch.refused.values(), *(f"{name} is still being copied" for name in watch.copying)]
    if unknown:
        raise InputError(
            f"nothing was removed, because the watch list cannot be read in full: {'; '.join(unknown)}; repair it, "
            "wait for the copy, or stop watching it"
        )


def _row(orphan: "OrphanFile", store: "Store") -> dict[str, object]:
    path = orphan.path
    # Unfinished layers are on this machine even if the warehouse is on an object store.
    if isinstance(path, Path) == isinstance(store.root, Path) and path.is_relative_to(store.root):
        path = path.relative_to(store.root)
    if not orphan.is_result:
        options = "--yes"
    elif orphan.study:
        options = f"--yes --computed-by {shlex.quote(orphan.study)}"
    else:
        options = "none, it is damaged: delete it by hand"
    return {
        "kind": orphan.kind,
        "study": orphan.study or None,
        "removed_by": options,
        "bytes": orphan.bytes,
        "path": str(path),
    }


def _log_summary(orphans: "list[OrphanFile]", selected: int, freed: int, *, removed: bool) -> None:
    if not orphans:
        log("every file belongs to a study; there is nothing to remove")
        return
    if removed:
        log(f"{selected} files removed, {freed / 1e6:,.1f} MB; {len(orphans) - selected} listed files remain")
    else:
        size = sum(orphan.bytes for orphan in orphans)
        log(f"{len(orphans)} files, {size / 1e6:,.1f} MB; nothing was removed, see removed_by")
    if studies := sorted({orphan.study for orphan in orphans if orphan.study}):
        log(
            f"they include results computed by: {', '.join(studies)}; --study FILE keeps the results that a study "
            "names, --computed-by STUDY removes the others",
            "yellow",
        )
