"""`prunescope search`: which treatment each sublayer gets for a budget, compared with published recipes."""

import json
from collections.abc import Sequence
from dataclasses import replace as with_fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunescope.assets.cli import options
from prunescope.assets.cli.output import emit, log, put, write_file
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.assets.cli.study import end, request_of
from prunescope.pipelines.core.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from prunescope.assets.planning.work_plan import StudyRequest
    from prunescope.pipelines.studies import Study
    from prunescope.warehouse.storage.location import Place

_RESULT = ["strategy", "recipe", "remove", "removed", "predicted_nats"]
_RESULT += ["measured_nats", "measured_low", "measured_high", "n_trials"]
# A narrow terminal leaves out columns at the end.
_COMPARED = ["measure", "is_better", "amount", "other_amount", "other_recipe", "difference"]
_COMPARED += ["difference_low", "difference_high", "n_units"]


def search(
    context: typer.Context,
    study: options.StudyName,
    remove: list[str] = (),
    start: str | None = None,
    put_back: str | None = None,
    model: options.Models = (),
    minutes: float | None = None,
    settings_: Annotated[str | None, typer.Option("--settings")] = None,
    no_judge: bool = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", file_okay=False)] = None,
    replace: options.Replace = False,
    allow_code_execution: options.AllowCode = False,
    allow_python: options.AllowPython = False,
) -> None:
    """Search which treatment each sublayer gets so that a share is removed at the lowest KL at the output.

    Measures which method does best with the same sparsity everywhere, then every matrix alone at one of its sparsities
    and the other treatments of every sublayer, solves for the best allocation, measures it and exchanges treatments.
    Its data are windows of C4 (`source`) and prompts that the study does not ask. Then the found recipes, and
    published ones at the same share, run on the study's own prompts, texts and tasks. After an interruption, the same
    command continues where the search stopped.

    With --start the search goes the other way: it makes sublayers of a pruned model dense again, each time the one that
    lowers the KL most. On held-out texts it says what the first 2, 4 and 8 and all of them bring back.

    The study's key `search` holds the same settings. `prunescope run STUDY --recipe FILE` runs a found recipe.

    For example:

    - `prunescope search demo --remove 20%`
    - `prunescope search my-study.yaml --remove 20% --remove 30% --minutes 60 -o recipes`
    - `prunescope search demo --remove 20% --settings "{menu: [sparsegpt-2of4, drop], controls: [random]}"`
    - `prunescope search my-study.yaml --start wanda-50 --put-back 4`

    Options:
        remove (SHARE): Share to remove: 20%, 20 or 0.2 (default: the study's `search.remove`); each share gets an
            allocation of its own.
        start (RECIPE): Recipe of the pruned model to start from, instead of --remove: of weights or bits, drops, or a
            mixture, by its name or YAML file.
        put_back (AMOUNT): With --start: the most to make dense again: 4 or sublayers=4, or of the layers' parameters=5%
            or bytes=5%.
        minutes (N): No trial begins after so many minutes (default: 20). Effects of single treatments take at most half
            of them, but for a first batch of texts; pruning does not count.
        settings_ (MAPPING): Other keys of `search`, or a .yaml file with them: menu (treatments), objective (kl or
            task:NAME), budget (parameters, bytes or milliseconds), controls (hidden, random, greedy), texts, prompts.
            Other settings make another search. `prunescope schema` explains all.
        no_judge: Leave out the comparison with published recipes on the study's own data.
        output (DIR): Write each recipe to a file here instead of standard output.
    """
    from prunescope.assets.planning.steps import MODEL_TABLES, SEARCH_TABLES
    from prunescope.assets.runs.start import run_study
    from prunescope.warehouse.catalogue.queries import comparison_rows

    if remove and (start or put_back):
        raise InputError("--remove and --start contradict each other; leave one of them out")
    keys = {} if settings_ is None else options.mapping(settings_, "--settings")
    if remove:
        keys |= {"remove": [_share(text, "--remove") for text in remove], "start": None, "put_back": None}
    keys |= {} if start is None else {"start": options.inline_recipe(start)}
    keys |= {} if put_back is None else {"put_back": _amount(put_back)}
    keys |= {} if minutes is None else {"minutes": minutes}
    request = with_fields(request_of(study, model, [], allow_code_execution, allow_python), search=json.dumps(keys))
    if not keys.keys() & {"remove", "start", "put_back"} and request_of(study, [], []).load().search is None:
        raise InputError("--remove is missing, and the study has no `search`; give a share, such as --remove 20%")
    location, tables = options.root(context), (*MODEL_TABLES, *SEARCH_TABLES)
    with RichProgress() as bars:
        outcome = run_study(request, location, bars, replace=replace, tables=tables)
    failures = list(outcome.failures)
    if not outcome.computed and not failures:
        log("everything is current; nothing was searched")
    failed = {failure.name for failure in outcome.failures}
    for spec in outcome.study.models:
        rows, is_unfinished = (None, False) if spec.name in failed else _results(outcome.study, location, spec.name)
        if not rows:
            continue
        emit(rows.select(_RESULT))
        if outcome.study.search.start is not None:
            emit(comparison_rows(location, "brought_back", spec.name, rows["search"][0].as_py()))
        if is_unfinished:
            log("not all trials were made; the same command goes on, with more --minutes if the time was over")
        found = rows.to_pylist()
        _print_recipes([_recipe(row) for row in found if _is_own(row)], output)
        # The run below would search again if this one failed.
        if no_judge or f"{spec.name} search" in failed:
            log("`prunescope figure allocation` and `prunescope question q35` show the search")
            continue
        judged = _judging(request, outcome.study, location, spec.name, found)
        with RichProgress() as bars:
            failures += run_study(judged, location, bars, replace=replace).failures
        _print_judgement(found, location, spec.name, output)
    end(context, failures)


def _amount(text: str) -> dict[str, object]:
    """Return what may be put back by its unit, which is sublayers if none is given."""
    unit, _, amount = text.rpartition("=")
    return {unit or "sublayers": amount if unit in {"", "sublayers"} else _share(amount, "--put-back")}


def _share(text: str, flag: str) -> float:
    """Return a share that is given as a number below 1, or in per cent with or without the sign."""
    try:
        number = float(text.strip().removesuffix("%"))
    except ValueError:
        number = -1.0
    share = number if number < 1 and not text.strip().endswith("%") else round(number / 100, 12)
    if not 0 < share < 1:
        raise InputError(f"{flag} {text!r}: not a share; give 20%, 20 or 0.2, above 0 and below 100 %")
    return share


def _results(study: "Study", location: "Place", model: str) -> "tuple[pa.Table, bool]":
    """Return the results of a study's search on a model, none if it failed, and whether it can go on at a target."""
    from prunescope.assets.planning.fingerprints import find_model, search_id
    from prunescope.assets.planning.work_plan import unfinished_folder
    from prunescope.pipelines.core.progress import SILENT
    from prunescope.pipelines.evaluation.search.run import unfinished_targets
    from prunescope.warehouse.catalogue.queries import SEARCH_RESULTS, query_rows
    from prunescope.warehouse.storage.partition_store import Store

    search = search_id(study, find_model(study, model, SILENT).identity)
    rows = query_rows(location, SEARCH_RESULTS, model=model, search=search, targets=[*study.search.remove] or None)
    left = unfinished_targets(unfinished_folder(Store(location), model) / f"search-{search}")
    return rows, not left.isdisjoint(study.search.targets)


def _is_own(row: dict[str, Any]) -> bool:
    """Return whether a result is the search's own, not a control's."""
    return bool(row["strategy"] == "searched")


def _recipe(row: dict[str, Any]) -> dict[str, Any]:
    """Return a result as an entry of a study's `recipes`."""
    treatments = json.loads(row["recipe_treatments_json"])
    return {"name": row["recipe"], "method": "mixed", "predecessors": "dense", "treatments": treatments}


def _print_recipes(recipes: Sequence[dict[str, Any]], output: Path | None) -> None:
    """Write each recipe to a file of its name, or print all as entries of a study's `recipes`."""
    import yaml

    if output is None:
        put(yaml.safe_dump(list(recipes), sort_keys=False).rstrip())
        return
    output.expanduser().mkdir(parents=True, exist_ok=True)
    for recipe in recipes:
        path = output / f"{recipe['name']}.yaml"
        write_file(path, yaml.safe_dump(recipe, sort_keys=False).encode())
        log(f"run it with `prunescope run STUDY --recipe {path}`")


def _judging(
    request: "StudyRequest", study: "Study", location: "Place", model: str, rows: Sequence[dict[str, Any]]
) -> "StudyRequest":
    """Return the request of found recipes, and of published ones that remove as much, on the study's own data."""
    from prunescope.pipelines.evaluation.search.published import published_recipes
    from prunescope.warehouse.catalogue import queries

    recipes, budget, start = list(map(_recipe, rows)), rows[0]["budget"], study.search.start
    search = rows[0]["search"]
    shares = [row["share_to_match"] for row in rows if _is_own(row)]
    sizes = queries.query_pairs(location, queries.SUBLAYER_WEIGHTS, model=model)
    if budget == "sublayers":  # published recipes are compared at the weights that it removes
        found = queries.query_rows(location, queries.REMOVED_WEIGHTS, model=model, search=search)
        [removed] = found.columns[0].to_pylist()
        budget, share = "parameters", removed / sum(sizes.values())
        shares = [share] if 0 < share < 1 else []
    if budget == "milliseconds":
        times = queries.query_pairs(location, queries.SUBLAYER_MILLISECONDS, model=model, search=search)
        if times.keys() < sizes.keys():
            log("the menu drops no sublayer of one kind, whose time was not measured: no published drop is judged")
            shares = []
        sizes = times
    published = [name for share in shares for name in published_recipes(sizes, share, budget)]
    # A control that found the same allocation is the same variant.
    own = {json.dumps(recipe["treatments"]): recipe for recipe in reversed(recipes)}
    names = [*(json.dumps(recipe) for recipe in reversed(own.values())), *published]
    if start is not None and start.name not in published:
        names.append(start.model_dump_json())
    return with_fields(request, models=(f"{model}={study.model(model).source}",), recipes=tuple(dict.fromkeys(names)))


def _print_judgement(rows: Sequence[dict[str, Any]], location: "Place", model: str, output: Path | None) -> None:
    """Compare each own result with the best published recipe, and with a better control, on the study's data."""
    import pyarrow as pa

    from prunescope.warehouse.catalogue.queries import BEST_PUBLISHED, BETTER_CONTROLS, query_rows

    for row in filter(_is_own, rows):
        others = {other["recipe"]: other for other in rows if other["remove"] == row["remove"] and other is not row}
        # Recipes are not compared by time.
        ids = {"model": model, "recipe": row["recipe"]}
        best = [] if row["budget"] == "milliseconds" else [query_rows(location, BEST_PUBLISHED, **ids)]
        better = query_rows(location, BETTER_CONTROLS, **ids, controls=[*others]).slice(0, 1)
        compared = [table.select(_COMPARED) for table in (*best, better) if table.num_rows]
        does = "prunes" if row["budget"] == "sublayers" else "removes"
        head = f"{row['recipe']} {does} {row['removed']:.1%} of the layers' {row['budget']}"
        if compared:
            put(f"{head}. On the study's own data, compared with the published recipe that is best by each measure:")
            emit(pa.concat_tables(compared))
        else:
            put(f"{head}; no other recipe was compared with it, but `search_variants` has the KL of each.")
        for name in better["other_recipe"].to_pylist():
            put(f"{name}, of the control {others[name]['strategy']}, does less damage:")
            _print_recipes([_recipe(others[name])], output)
