"""Commands that keep a warehouse: import of lm-eval's results, hashes of files, orphan files, diagnosis."""

import shlex
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets.cli import completion, options
from prunescope.assets.cli.output import FAILED, Sink, emit, emit_list, log
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.assets.instance import settings
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.errors import WarehouseError

if TYPE_CHECKING:
    import pyarrow as pa

    from prunescope.warehouse.maintenance.garbage_collection import OrphanFile
    from prunescope.warehouse.maintenance.verification import VerificationResult
    from prunescope.warehouse.storage.partition_store import Store


# A larger file does not hold results: those of all tasks of the harness have a few MB.
_MAX_RESULTS_BYTES = 100_000_000


def import_lm_eval(context: typer.Context, results: list[Path], variant: options.VariantOption = None) -> None:
    """Import scores that lm-evaluation-harness measured.

    They become rows of `imported_scores`, and the view `imported_comparisons` joins them with ours. --variant is not
    needed if the file names a dense model of this warehouse, or a folder written on this machine by `prunescope
    checkpoint`. A file that was imported before changes nothing; if any file is wrong, none is imported.

    For example:

    - `prunescope import-lm-eval out/*/results_*.json`
    - `prunescope import-lm-eval results_2026-01-31T12-00-00.json --variant mine@wanda-50`

    Options:
        results (RESULTS): Files results_*.json that lm-evaluation-harness wrote.
        variant: The variant that all files are of, or RECIPE if only one model has it; `dense` is the dense model
            (default: what `model_args` in each file names).
    """
    from prunescope.assets.instance.file_lock import locked
    from prunescope.pipelines.core.regular_files import open_regular
    from prunescope.warehouse.export.lm_eval_import import evaluated_variant, import_results, parse_results
    from prunescope.warehouse.storage.partition_store import Store

    store = Store(options.existing(context))
    given = options.variants_of(store.root, [variant])[0] if variant is not None else None
    found = []
    for path in results:
        with open_regular(path.expanduser(), _MAX_RESULTS_BYTES, "a results file") as file:
            parsed = parse_results(str(path), file.read())
        found.append((parsed, given or evaluated_variant(parsed, store)))
    with locked(store.local(settings.cache_folder()) / "_import_lock", log):
        added = import_results(store, found)
    for (parsed, pair), rows in zip(found, added, strict=True):
        log(f"{parsed.file}: {rows} scores of {'@'.join(pair)}" if rows else f"{parsed.file}: was imported before")
    log("`prunescope sql 'from imported_comparisons'` shows them next to ours")


def verify(context: typer.Context, sink: Sink) -> None:
    """Read every file and compare it with its hashes; exit code 1 if one differs or cannot be read.

    A partition has a hash of all its bytes, a variant file a hash of its changes to the model. Files from before there
    were hashes are counted and do not fail the check.

    For example: `prunescope verify --format json`
    """
    from prunescope.warehouse.maintenance.verification import verify as verify_tables
    from prunescope.warehouse.storage.partition_store import Store

    store, counts = Store(options.existing(context)), Counter[str]()
    failed: list[dict[str, object]] = []
    for result in chain(verify_tables(store), _verify_variants(store)):
        counts[result.state] += 1
        if result.state in {"changed", "unreadable"}:
            failed.append(asdict(result) | {"path": str(result.path)})
    emit_list(failed, sink, path=str, state=str, reason=str, bytes=int)
    have = "has" if counts["changed"] == 1 else "have"
    log(f"{counts['intact']} files are unchanged, {counts['changed']} {have} changed")
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
    study: options.StudyOptions = (),
    yes: bool = False,
    computed_by: Annotated[list[str], typer.Option(autocompletion=completion.studies)] = (),
) -> None:
    """List files that no study names: partitions, variant files, reports, unfinished layers, leftovers of killed runs.

    A file is kept if a shipped study, a watched study or a --study names it. The column `study` names the study that
    computed a result, `removed_by` the options that remove it. Plain --yes removes only leftovers, variant files
    whose row is missing or has a different fingerprint, unfinished layers of variants without a row, and what
    killed runs left in the folder for temporary files (TMPDIR). Everything else needs --computed-by with the name of
    its study, because it may belong to another person, or come from `run STUDY --model X` or `--recipe Y`. While a
    watched study or model cannot be read or is still being copied, nothing is removed.

    For example:

    - `prunescope gc --study mine.yaml --study theirs.yaml`
    - `prunescope gc --yes --study mine.yaml --computed-by demo`

    Options:
        study: Keep the results that this study names; a name or a YAML file.
        yes: Remove the listed files that hold no results.
        computed_by (STUDY): With --yes: also remove the listed results that this study computed.
    """
    from prunescope.assets.watching.watch_list import load_watch_state
    from prunescope.pipelines.core import scratch_directory
    from prunescope.pipelines.studies import load_study, study_names
    from prunescope.warehouse.maintenance.garbage_collection import StudyScope, removable, remove, waste
    from prunescope.warehouse.storage.partition_store import Store

    store = Store(options.existing(context))
    loaded = [load_study(name) for name in (*study_names(), *study)]
    local = store.local(settings.cache_folder())
    with ExitStack() as lock:
        if yes:
            from prunescope.assets.instance.instance import writer_lock

            # Waits for a running study, whose files might look like orphans.
            lock.enter_context(writer_lock(local, log, store.url))
        watch = load_watch_state(store)
        unknown = [*watch.refused.values(), *(f"{name} is still being copied" for name in watch.copying)]
        if yes and unknown:  # its results would look like orphans
            raise InputError(
                f"nothing was removed, because the watch list cannot be read in full: {'; '.join(unknown)}; repair it, "
                "wait for the copy, or stop watching it"
            )
        scopes = [
            StudyScope(study.name, frozenset(m.name for m in study.models), frozenset(r.name for r in study.recipes))
            for study in (*loaded, *(watched.study for watched in watch.studies))
        ]
        orphans = waste(store, scopes, local)
        rows = [vars(orphan) | _described(orphan) for orphan in orphans]
        emit_list(rows, sink, kind=str, study=str, removed_by=str, bytes=int, path=str)
        removed = removable(orphans, computed_by) if yes else []
        freed = remove(store, removed)
        if yes:
            scratch_directory.clean()
    if not orphans:
        log("every file belongs to a study; there is nothing to remove")
    elif yes:
        log(f"{len(removed)} files removed, {freed / 1e6:,.1f} MB; {len(orphans) - len(removed)} listed files remain")
    else:
        size = sum(orphan.bytes for orphan in orphans)
        log(f"{len(orphans)} files, {size / 1e6:,.1f} MB; nothing was removed, see removed_by")
    if others := sorted(set(computed_by) - {orphan.study for orphan in orphans}):
        log(f"no listed file was computed by {', '.join(others)}", "yellow")


def _described(orphan: "OrphanFile") -> dict[str, object]:
    """Return the fields of a listed file that are texts, and the options that remove it."""
    of_study = f"--yes --computed-by {shlex.quote(orphan.study)}" if orphan.study else None
    removed_by = of_study or "none, it is damaged: delete it by hand" if orphan.is_result else "--yes"
    return {"study": orphan.study or None, "removed_by": removed_by, "path": str(orphan.path)}


def doctor(
    context: typer.Context, sink: Sink, model: Annotated[str | None, typer.Option("--model", "-m")] = None
) -> None:
    """Check the warehouse; exit code 1 if there is an error. With --model, check the structure of a model instead.

    For a model, print the structure that was discovered and proved: every sublayer with its contribution to the
    residual stream, final norm, LM head, parameter shares. If the proof or the chat template fails, the error names
    the module or the model and the reason, with exit code 2.

    For example: `prunescope doctor --model ./my-model --format json`

    Options:
        model (MODEL): Load this model and show its structure; a model as in a study, or `embedded:NAME`.
    """
    if model is not None:
        log(f"cache: {settings.cache_folder()}")
        emit(_examine(model), sink)
        return
    from prunescope.warehouse.maintenance.diagnostics import Diagnosis, diagnose

    location = options.existing(context)
    log(f"warehouse: {location}\ncache: {settings.cache_folder()}")
    diagnoses = diagnose(location)
    emit_list(list(map(asdict, diagnoses)), sink, **{field.name: str for field in fields(Diagnosis)})
    if not diagnoses:
        log("no problem found in the warehouse")
    if any(diagnosis.level == "error" for diagnosis in diagnoses):
        raise typer.Exit(FAILED)


def _examine(model: str) -> "pa.Table":
    """Return the structure of a model; an InputError says what is wrong with it."""
    from prunescope.pipelines.models.sources import identify, locate, weight_format

    cache = settings.cache_folder()
    with RichProgress() as bars:
        folder = locate(model, cache, bars)
        identity = identify(folder, cache)
        bars.start("load the model and prove its structure", 1)
        from prunescope.pipelines.models.chat_template import check_chat_template
        from prunescope.pipelines.models.describe import structure_rows
        from prunescope.pipelines.models.load import load_decoder

        decoder = load_decoder(folder)
        check_chat_template(decoder.tokenizer)
    stored = f"stored as {weight_format(model, folder)}"
    log(f"model: {folder}\nweights: {identity.weight_bytes:,} bytes, {stored}, SHA-256 {identity.weight_hash}")
    return structure_rows(decoder).to_arrow()
