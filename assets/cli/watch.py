"""`prunescope watch` and `add-model`: the studies and models that `prunescope ui` keeps current."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets.cli import completion, options
from prunescope.assets.cli.output import Sink, emit_list, log
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.assets.instance import settings
from prunescope.pipelines.core.errors import InputError

if TYPE_CHECKING:
    from prunescope.assets.watching.backlog import Backlog
    from prunescope.assets.watching.watch_list import WatchState
    from prunescope.pipelines.studies import Study
    from prunescope.warehouse.storage.partition_store import Store

_NEXT_STEP = "`prunescope ui` computes missing results, now and after every change; `prunescope run` computes them once"


def watch(
    context: typer.Context,
    sink: Sink,
    studies: Annotated[list[str], typer.Argument(autocompletion=completion.studies)] = (),
    stop: Annotated[list[str], typer.Option(autocompletion=completion.studies)] = (),
) -> None:
    """Keep studies current: while `prunescope ui` runs, it computes their missing and outdated results.

    Every model folder or .gguf file that is copied into _models inside the warehouse is added to every watched study,
    or to `demo` if none is watched. Without arguments, lists the watched studies with the number of missing and
    outdated variants; the model's own tables count as one more. What is stopped keeps its results; runs of a stopped
    model end.

    For example:

    - `prunescope watch demo my-study.yaml`
    - `prunescope watch --stop demo`

    Options:
        studies (STUDY): Studies to keep current: names or YAML files.
        stop (NAME): Stop watching this study, or this model that `add-model` added.
    """
    from prunescope.assets.watching.backlog import FreshnessScanner
    from prunescope.assets.watching.watch_list import make_models_folder
    from prunescope.warehouse.storage.partition_store import Store

    store = options.writable(context) if studies or stop else Store(options.root(context))
    if studies or stop:
        _change_list(store, [options.absolute_study(name) for name in studies], stop)
        make_models_folder(store)
    backlog = FreshnessScanner().scan(store)
    rows = _rows(backlog)
    emit_list(rows, sink, study=str, model=str, source=str, missing=int, outdated=int, of_another_study=int)
    _log_watched(backlog.watch, store)
    if backlog.stale_reports:
        log(f"questions, figures and report are older than their tables: {', '.join(backlog.stale_reports)}")
    if backlog.of_others:
        log(
            "of_another_study: measured by that study from other inputs, which `prunescope plan` names; give the "
            "recipes other names, use another --warehouse, or `prunescope run STUDY --replace`",
            "yellow",
        )


def add_model(context: typer.Context, model: str) -> None:
    """Add a model to the watched studies, or to `demo` if none is watched.

    Checks its config, tokenizer and weight headers, and whether prompts and recipes fit it, so that errors show before
    the first run, which reads the weights.

    For example:

    - `prunescope add-model ./my-model`
    - `prunescope add-model mine=org/name`

    Options:
        model: A folder with safetensors, a .gguf file or a hub id org/name; `NAME=MODEL` names it in all tables
            (default: the last part of its path).
    """
    from prunescope.assets.watching.watch_list import DEFAULT, edit_watch_list
    from prunescope.pipelines.studies import load_study

    store, named = options.writable(context), options.absolute_model(model)
    with edit_watch_list(store, log) as versions:
        listed = versions[-1]
        studies = [load_study(key).extended([named]) for key in listed.studies]
        studies = studies or [load_study(DEFAULT).replaced([named], [])]
        added = studies[0].models[-1]
        if added.name in listed.models:
            raise InputError(
                f"a model {added.name!r} was added before; stop it with `prunescope watch --stop`, or write NAME=MODEL"
            )
        _check_model(added.source, studies)
        versions.append(listed.model_copy(update={"models": {**listed.models, added.name: added.source}}))
    log(f"added {added.name} to {', '.join(study.name for study in studies)}")
    log(_NEXT_STEP)


def _change_list(store: "Store", added: list[str], stopped: list[str]) -> None:
    from prunescope.assets.watching.watch_list import edit_watch_list, models_folder
    from prunescope.pipelines.studies import load_study

    with edit_watch_list(store, log) as versions:
        names = {key: key for key in versions[-1].studies}
        for key in names:
            with suppress(InputError):  # a broken file can be stopped by its path
                names[key] = load_study(key).name
        for key in added:
            name = load_study(key).name
            if name in {other for listed, other in names.items() if listed != key}:
                raise InputError(f"{key}: a study named {name!r} is watched already; stop it, or rename this one")
            names[key] = name
        models = dict(versions[-1].models)
        for name in stopped:
            meant = {name, options.absolute_study(name)}
            left = {key: study for key, study in names.items() if not meant & {key, study}}
            if left == names and models.pop(name, None) is None:
                known = ", ".join([*names, *models]) or "nothing"
                raise InputError(
                    f"--stop {name}: is not watched; watched are {known}; a model of a study is removed from the "
                    f"study's file, one of {models_folder(store)} by moving it out"
                )
            names = left
        versions.append(versions[-1].model_copy(update={"studies": tuple(names), "models": models}))
    log(_NEXT_STEP if names else "no study is watched; results remain")


def _check_model(source: str, studies: "list[Study]") -> None:
    """Raise the errors of a new model that show without reading its weights."""
    with RichProgress() as bars:
        from prunescope.pipelines.models.cached_identity import require_whole
        from prunescope.pipelines.models.meta_model import load_meta_model
        from prunescope.pipelines.models.sources import locate_config
        from prunescope.pipelines.planning.preflight import check_outline

        folder, _ = locate_config(source, settings.cache_folder(), bars)
        if Path(source).exists():
            require_whole(Path(source))
        outline = load_meta_model(folder)
        for study in studies:
            check_outline(study, outline)


def _rows(backlog: "Backlog") -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for watched in backlog.watch.studies:
        for model in watched.study.models:
            key = watched.study.name, model.name
            of = {"study": key[0], "model": key[1], "source": model.source}
            is_missing = [*backlog.due.get(key, {}).values()]
            counts = {"missing": is_missing.count(True), "outdated": is_missing.count(False)}
            rows.append(of | counts | {"of_another_study": len(backlog.of_others.get(key, {}))})
    return rows


def _log_watched(watch: "WatchState", store: "Store") -> None:
    from prunescope.assets.watching.watch_list import DEFAULT, models_folder, read_list

    for reason in watch.refused.values():
        log(f"not watched: {reason}", "yellow")
    for name in watch.copying:
        log(f"{name} is still being copied")
    if not read_list(store).studies:
        models = ", ".join(model.name for watched in watch.studies for model in watched.study.models) or "none"
        log(
            f"no study is watched, so {DEFAULT} measures the models that are added or copied into "
            f"{models_folder(store)}: {models}; `prunescope watch STUDY` keeps a study current"
        )
