"""`prunescope watch`, `add-model` and `remove-model`: the studies and models that `prunescope ui` keeps current."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets import settings
from prunescope.assets.cli import completion, options
from prunescope.assets.cli.output import Sink, emit_list, log, log_wait
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.pipelines.core.errors import InputError

if TYPE_CHECKING:
    from prunescope.assets.watching.backlog import Backlog
    from prunescope.assets.watching.watch_list import AddedModel, WatchState
    from prunescope.pipelines.studies import Study
    from prunescope.warehouse.storage.partition_store import Store

_NEXT_STEP = "`prunescope ui` computes missing results, now and after every change; `prunescope run` computes them once"
_CONFLICT_FIX = "give the recipes other names, use another --warehouse, or `prunescope run STUDY --replace`"


def watch(
    context: typer.Context,
    sink: Sink,
    studies: Annotated[list[str], typer.Argument(autocompletion=completion.studies)] = (),
    stop: Annotated[list[str], typer.Option(autocompletion=completion.studies)] = (),
) -> None:
    """Keep studies current: while `prunescope ui` runs, it computes their missing and outdated results.

    Every model folder or .gguf file that is copied into _models inside the warehouse is added to every watched study,
    or to `demo` if none is watched. Without arguments, lists the watched studies with the number of missing and
    outdated variants. A stopped study keeps its results.

    For example:

    - `prunescope watch demo my-study.yaml`
    - `prunescope watch --stop demo`

    Options:
        studies (STUDY): Studies to keep current: names or YAML files.
        stop (STUDY): Stop watching this study.
    """
    from prunescope.assets.watching.backlog import FreshnessScanner
    from prunescope.assets.watching.watch_list import make_models_folder
    from prunescope.warehouse.storage.partition_store import Store

    store = Store((options.writable if studies or stop else options.root)(context))
    if studies or stop:
        _change_studies(store, [options.absolute_study(name) for name in studies], stop)
        make_models_folder(store)
    backlog = FreshnessScanner().scan(store)
    if (rows := _rows(backlog)) or sink.is_chosen:
        texts, counts = ("study", "model", "from", "source"), ("missing", "outdated", "of_another_study")
        emit_list(rows, sink, **dict.fromkeys(texts, str), **dict.fromkeys(counts, int))
    _log_watched(backlog.watch, store)
    if backlog.stale_reports:
        log(f"questions, figures and report are older than their tables: {', '.join(backlog.stale_reports)}")
    for (study, model), others in backlog.of_others.items():
        log(
            f"{study}: {', '.join(sorted(set(others.values())))} measures {model} from other inputs, which "
            f"`prunescope plan {study}` names; {_CONFLICT_FIX}",
            "yellow",
        )


def add_model(
    context: typer.Context,
    model: str,
    name: Annotated[str | None, typer.Option("--name", "-n")] = None,
    study: options.StudyOption = None,
) -> None:
    """Add a model to the watched studies, or to `demo` if none is watched.

    Checks its config, tokenizer and weight headers, and whether prompts and recipes fit it, so that errors show before
    the first run, which reads the weights.

    For example:

    - `prunescope add-model ./my-model`
    - `prunescope add-model org/name --name mine --study my-study.yaml`

    Options:
        model: A folder with safetensors, a .gguf file, a hub id org/name, or `NAME=MODEL`.
        name: Name in all tables (default: the last part of its path).
        study: Add it to this study only, and watch the study.
    """
    from pydantic import ValidationError

    from prunescope.assets.watching.watch_list import DEFAULT, AddedModel, WatchList, edit_watch_list
    from prunescope.pipelines.core.frozen_model import name_from
    from prunescope.pipelines.core.validation_errors import first_problem
    from prunescope.pipelines.studies import load_study
    from prunescope.warehouse.storage.partition_store import Store

    store, source = Store(options.writable(context)), options.absolute_model(model)
    given, separator, named = source.partition("=")
    if separator and "/" not in given:  # a path may hold `=`
        name, source = name or given, named
    name = name or name_from(source)
    if not name:
        raise InputError(f"{model!r}: it gives no name; add one with --name")
    chosen = options.absolute_study(study) if study else ""
    with edit_watch_list(store, log_wait) as versions:
        listed = versions[-1]
        watched = dict.fromkeys((*listed.studies, chosen) if chosen else listed.studies)
        if name in {model.name for model in listed.models}:
            raise InputError(f"a model {name!r} was added before; remove it with remove-model, or give a --name")
        try:
            added = AddedModel(name=name, source=source, study=chosen)
        except ValidationError as error:
            raise InputError(f"--name: {first_problem(error)[1]}") from error
        versions.append(WatchList(studies=tuple(watched), models=(*listed.models, added)))
        studies = [load_study(key) for key in ([chosen] if chosen else watched or [DEFAULT])]
        _check_model(added, studies, is_alone=not watched)
    log(f"{name} is now measured by {', '.join(study.name for study in studies)}")
    counts = Counter(recipe.name for study in studies for recipe in study.recipes)
    if shared := [recipe for recipe, count in counts.items() if count > 1]:
        log(
            f"{', '.join(shared)}: if inputs differ, the first study to compute one keeps it; else {_CONFLICT_FIX}",
            "yellow",
        )
    log(_NEXT_STEP)


def remove_model(context: typer.Context, name: str) -> None:
    """Remove a model that `add-model` added: stop its runs, but keep its results.

    For example: `prunescope remove-model my-model`

    Options:
        name: Name of the model, as `prunescope watch` lists it.
    """
    from prunescope.assets.watching.watch_list import edit_watch_list, models_folder
    from prunescope.warehouse.storage.partition_store import Store

    store = Store(options.writable(context))
    with edit_watch_list(store, log_wait) as versions:
        listed = versions[-1]
        others = tuple(model for model in listed.models if model.name != name)
        if len(others) == len(listed.models):
            known = ", ".join(model.name for model in listed.models) or "none"
            raise InputError(
                f"no model {name!r} was added; added models: {known}; one of a study is removed from the study's file, "
                f"one of {models_folder(store)} by moving it out"
            )
        versions.append(listed.model_copy(update={"models": others}))
    log(f"{name} is no longer watched; `prunescope ui` stops its runs, its results remain")


def _change_studies(store: "Store", added: list[str], stopped: list[str]) -> None:
    from prunescope.assets.watching.watch_list import WatchList, edit_watch_list
    from prunescope.pipelines.studies import load_study

    with edit_watch_list(store, log_wait) as versions:
        listed, names = versions[-1], dict[str, str]()
        for key in dict.fromkeys((*listed.studies, *added)):
            name = load_study(key).name if key in added else _study_name(key)
            if name in names.values():
                raise InputError(f"{key}: a study named {name!r} is watched already; stop it, or rename this one")
            names[key] = name
        for study in stopped:
            others = {
                key: name
                for key, name in names.items()
                if study not in {key, name} and options.absolute_study(study) != key
            }
            if len(others) == len(names):
                raise InputError(f"--stop {study}: is not watched; {', '.join(names) or 'no study'} is")
            names = others
        models = tuple(model for model in listed.models if not model.study or model.study in names)
        for model in set(listed.models) - set(models):
            log(f"{model.name} belonged to that study alone and is no longer watched either", "yellow")
        versions.append(WatchList(studies=tuple(names), models=models))
    log(_NEXT_STEP if names else "no study is watched; results remain")


def _study_name(study: str) -> str:
    """Return the name of a listed study, or its key if its file is broken or missing."""
    from prunescope.pipelines.studies import load_study

    try:
        return load_study(study).name
    except InputError:
        return study


def _check_model(added: "AddedModel", studies: "list[Study]", *, is_alone: bool) -> None:
    """Raise the errors of a new model that show without reading its weights."""
    for study in studies:
        if not is_alone and added.name in {model.name for model in study.models}:
            raise InputError(f"study {study.name} has its own model {added.name!r}; give another --name")
    with RichProgress() as bars:
        from prunescope.pipelines.models.cached_identity import require_whole
        from prunescope.pipelines.models.meta_model import load_meta_model
        from prunescope.pipelines.models.sources import locate_config
        from prunescope.pipelines.planning.preflight import check_outline

        folder, _ = locate_config(added.source, settings.cache_folder(), bars)
        if Path(added.source).exists():
            require_whole(Path(added.source))
        outline = load_meta_model(folder)
        for study in studies:
            check_outline(study, outline)


def _rows(backlog: "Backlog") -> list[dict[str, object]]:
    due = {(work.watched.study.name, work.model): [*work.is_missing.values()] for work in backlog.due}
    rows: list[dict[str, object]] = []
    for watched in backlog.watch.studies:
        for model in watched.study.models:
            key = watched.study.name, model.name
            of = {"study": key[0], "model": key[1], "from": watched.origins[model.name], "source": model.source}
            counts = {"missing": due.get(key, []).count(True), "outdated": due.get(key, []).count(False)}
            rows.append(of | counts | {"of_another_study": len(backlog.of_others.get(key, {}))})
    return rows


def _log_watched(watch: "WatchState", store: "Store") -> None:
    from prunescope.assets.watching.watch_list import DEFAULT, models_folder, read_list

    for reason in watch.refused.values():
        log(f"not watched: {reason}", "yellow")
    for name in watch.copying:
        log(f"{name} is still being copied")
    if read_list(store).studies:
        return
    if models := [name for watched in watch.studies for name in watched.origins]:
        log(
            f"no study is watched, so {DEFAULT} measures these models: {', '.join(models)}; remove them with "
            f"`prunescope remove-model`, or move them out of {models_folder(store)}",
            "yellow",
        )
    else:
        log(
            "no study is watched; `prunescope watch STUDY` keeps a study current, and a model copied into "
            f"{models_folder(store)} is added to {DEFAULT}"
        )
