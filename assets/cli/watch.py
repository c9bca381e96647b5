"""`prunescope watch`, `add-model` and `remove-model`: what the warehouse keeps current unasked.

What is kept stands in `prunescope.assets.watching.watch_list`; who starts the runs is `prunescope.assets.automation.sensors`, while `prunescope ui` runs.
"""

# ruff: noqa: ARG001 - `--warehouse` and `--debug` are kept by their callbacks, see options.py

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets import settings
from prunescope.assets.cli import completion
from prunescope.assets.cli.options import (
    Debug,
    Format,
    Output,
    Warehouse,
    absolute_model,
    absolute_study,
    root,
    writable,
)
from prunescope.assets.cli.output import chosen_format, emit, log
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.pipelines.core.errors import InputError

if TYPE_CHECKING:
    from prunescope.assets.watching.backlog import Backlog
    from prunescope.assets.watching.watch_list import AddedModel, WatchState
    from prunescope.pipelines.studies import Study
    from prunescope.warehouse.storage.partition_store import Store

_NEXT = "`prunescope ui` computes what is missing, now and whenever something changes; `prunescope run` does it once"
_MEND = "give the recipes other names, use another --warehouse, or `prunescope run STUDY --replace`"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(watch)
    app.command(name="add-model")(add_model)
    app.command(name="remove-model")(remove_model)


def watch(
    context: typer.Context,
    studies: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STUDY", help="Keep these current: names or YAML files.", autocompletion=completion.studies
        ),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            "--stop", metavar="STUDY", help="No longer keep this one. Repeatable.", autocompletion=completion.studies
        ),
    ] = None,
    format_: Format = None,
    output: Output = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Keep studies current: while `prunescope ui` runs, what they miss and what changes in them is computed.

    Every folder with a model (or .gguf file) that is copied into _models inside the warehouse becomes a model of every
    watched study; where none is watched, of `demo`. Without arguments: what is watched, with the number of variants
    that are missing or outdated. A study that is stopped keeps its results.

    For example:

    - `prunescope watch demo my-study.yaml`
    - `prunescope watch --stop demo`
    """
    import pyarrow as pa

    from prunescope.assets.watching.backlog import FreshnessScanner
    from prunescope.assets.watching.watch_list import make_models_folder
    from prunescope.warehouse.storage.partition_store import Store

    chosen_format(format_, output)
    store = Store((writable if studies or stop else root)(context))
    if studies or stop:
        _change_studies(store, [absolute_study(name) for name in studies or []], stop or [])
        make_models_folder(store)
    backlog = FreshnessScanner().scan(store)
    schema = pa.schema(
        {
            "study": pa.string(),
            "model": pa.string(),
            "from": pa.string(),
            "source": pa.string(),
            "missing": pa.int64(),
            "outdated": pa.int64(),
            "of_another_study": pa.int64(),
        }
    )
    rows = pa.Table.from_pylist(_rows(backlog), schema)
    if rows.num_rows or format_ or output:
        emit(rows, format_, output)
    _tell(backlog.watch, store)
    if backlog.stale_reports:
        log(f"questions, figures and report are older than their tables: {', '.join(backlog.stale_reports)}")
    for (study, model), makers in backlog.of_others.items():
        log(f"{study}: {', '.join(sorted(set(makers.values())))} measures {model} from other inputs; {_MEND}", "yellow")


def add_model(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A folder with safetensors, a .gguf file or a hub id org/name.")],
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Its name in all tables; else the last part of its place.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            "--study",
            "-s",
            help="Measure it by this study alone, which is watched from now on.",
            autocompletion=completion.studies,
        ),
    ] = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Add a model to the watched studies, or to `demo` where none is watched.

    Config, tokenizer and the headers of its weights are looked at, and whether prompts and recipes fit it; what would
    fail is refused now. The weights are read by the first run.

    For example:

    - `prunescope add-model ./my-model`
    - `prunescope add-model org/name --name mine --study my-study.yaml`
    """
    from prunescope.assets.watching.watch_list import DEFAULT, WatchList, edit_watch_list
    from prunescope.pipelines.studies import load_study, model_name
    from prunescope.warehouse.storage.partition_store import Store

    store, source = Store(writable(context)), absolute_model(model)
    called = name or model_name(source)
    if not called:
        raise InputError(f"{model!r}: no name can be made from it; give one with --name")
    chosen = absolute_study(study) if study else ""
    with edit_watch_list(store) as versions:
        listed = versions[-1]
        others = dict.fromkeys((*listed.studies, chosen) if chosen else listed.studies)
        if called in {model.name for model in listed.models}:
            raise InputError(f"a model {called!r} was added before; take it out with remove-model, or give a --name")
        added = _added(called, source, chosen)
        versions.append(WatchList(studies=tuple(others), models=(*listed.models, added)))
        concerned = [load_study(each) for each in ([chosen] if chosen else others or [DEFAULT])]
        _refuse_what_cannot_work(added, concerned, is_alone=not others)
    log(f"{called} is now measured by {', '.join(each.name for each in concerned)}")
    counts = Counter(recipe.name for each in concerned for recipe in each.recipes)
    if shared := [name for name, count in counts.items() if count > 1]:
        log(
            f"{', '.join(shared)}: where inputs differ, the study that computes first keeps them; else {_MEND}",
            "yellow",
        )
    log(_NEXT)


def remove_model(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name, as `prunescope watch` lists it.")],
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Take a model out that `add-model` added: its runs are stopped, its results stay.

    For example: `prunescope remove-model my-model`
    """
    from prunescope.assets.watching.watch_list import edit_watch_list, load_watch_state
    from prunescope.warehouse.storage.partition_store import Store

    store = Store(writable(context))
    with edit_watch_list(store) as versions:
        listed = versions[-1]
        left = tuple(model for model in listed.models if model.name != name)
        if len(left) == len(listed.models):
            raise InputError(_why_it_stays(name, load_watch_state(store), store))
        versions.append(listed.model_copy(update={"models": left}))
    log(f"{name} is no longer watched; `prunescope ui` stops its runs, its results stay")


def _added(name: str, source: str, study: str) -> "AddedModel":
    from pydantic import ValidationError

    from prunescope.assets.watching.watch_list import AddedModel
    from prunescope.pipelines.core.validation_errors import first_problem

    try:
        return AddedModel(name=name, source=source, study=study)
    except ValidationError as error:
        raise InputError(f"--name: {first_problem(error)[1]}") from error


def _change_studies(store: "Store", added: list[str], stopped: list[str]) -> None:
    from prunescope.assets.watching.watch_list import WatchList, edit_watch_list
    from prunescope.pipelines.studies import load_study

    with edit_watch_list(store) as versions:
        listed, names = versions[-1], dict[str, str]()
        for each in dict.fromkeys((*listed.studies, *added)):
            name = load_study(each).name if each in added else _name_of(each)
            if name in names.values():
                raise InputError(
                    f"{each}: a study of the name {name!r} is watched already; stop it, or rename this one"
                )
            names[each] = name
        for each in stopped:
            if not (gone := {key for key, name in names.items() if each in {key, name} or absolute_study(each) == key}):
                raise InputError(f"--stop {each}: is not watched; {', '.join(names) or 'no study'} is")
            names = {key: name for key, name in names.items() if key not in gone}
        models = tuple(model for model in listed.models if not model.study or model.study in names)
        for model in set(listed.models) - set(models):
            log(f"{model.name} was measured by that study alone and is no longer watched either", "yellow")
        versions.append(WatchList(studies=tuple(names), models=models))
    log(_NEXT if names else "no study is watched; results stay")


def _name_of(study: str) -> str:
    """The name of a study of the list, whose file may be broken or gone by now."""
    from prunescope.pipelines.studies import load_study

    try:
        return load_study(study).name
    except InputError:
        return study


def _refuse_what_cannot_work(added: "AddedModel", studies: "list[Study]", *, is_alone: bool) -> None:
    """Everything that can be known before weights are read."""
    for study in studies:
        if not is_alone and added.name in {model.name for model in study.models}:
            raise InputError(f"study {study.name} has a model {added.name!r} of its own; give another --name")
    with RichProgress() as bars:
        from prunescope.pipelines.models.cached_identity import require_whole
        from prunescope.pipelines.models.meta_model import load_meta_model
        from prunescope.pipelines.models.sources import locate_config
        from prunescope.pipelines.planning.preflight import check_outline

        place, _ = locate_config(added.source, settings.cache_folder(), bars)
        if Path(added.source).exists():
            require_whole(Path(added.source))
        outline = load_meta_model(place)
        for study in studies:
            check_outline(study, outline)


def _why_it_stays(name: str, watch: "WatchState", store: "Store") -> str:
    from prunescope.assets.watching.watch_list import models_folder, read_list

    origins = {each.origins[name]: each for each in watch.studies if name in each.origins}
    if "folder" in origins:
        source = origins["folder"].study.model(name).source
        return f"{name} lies in the watched folder; move {source} out of {models_folder(store)} or delete it there"
    if "study" in origins:
        return f"{name} is named by study {origins['study'].study.name} itself; take it out of its file"
    known = ", ".join(model.name for model in read_list(store).models) or "none"
    return f"no model {name!r} was added; added were {known}"


def _rows(backlog: "Backlog") -> list[dict[str, object]]:
    missing = {(due.watched.study.name, due.model): len(due.missing) for due in backlog.missing}
    outdated = {partition for partitions in backlog.outdated.values() for partition in partitions}
    return [
        {
            "study": watched.study.name,
            "model": model.name,
            "from": watched.origins[model.name],
            "source": model.source,
            "missing": missing.get((watched.study.name, model.name), 0),
            "outdated": sum(name == model.name for name, _ in outdated),
            "of_another_study": len(backlog.of_others.get((watched.study.name, model.name), {})),
        }
        for watched in backlog.watch.studies
        for model in watched.study.models
    ]


def _tell(watch: "WatchState", store: "Store") -> None:
    from prunescope.assets.watching.watch_list import DEFAULT, models_folder, read_list

    for reason in watch.refused.values():
        log(f"not watched: {reason}", "yellow")
    for name in watch.copying:
        log(f"{name} is still being copied")
    if read_list(store).studies:
        return
    if unclaimed := [name for each in watch.studies for name in each.origins]:
        log(
            f"no study is watched, so {DEFAULT} measures what came without one: {', '.join(unclaimed)}; `prunescope "
            f"remove-model` takes out what was added, a model in {models_folder(store)} is moved out of there",
            "yellow",
        )
    else:
        log(
            "nothing is watched; `prunescope watch STUDY` keeps a study current, and a model copied into "
            f"{models_folder(store)} is measured by {DEFAULT}"
        )
