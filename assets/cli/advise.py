"""`prunescope advise`: probes of a model, and a verdict on each recipe from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets import settings
from prunescope.assets.cli import options
from prunescope.assets.cli.output import Sink, emit, log
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.assets.cli.study import end, request_of
from prunescope.pipelines.core.errors import InputError

if TYPE_CHECKING:
    from prunescope.assets.planning.work_plan import StudyRequest
    from prunescope.warehouse.storage.partition_store import Store

_STUDY = "advise"


def advise(
    context: typer.Context,
    sink: Sink,
    model: str,
    study: options.StudyOption = None,
    recipe: options.Recipes = (),
    replace: options.Replace = False,
    tolerance: Annotated[float, typer.Option(min=0, max=1)] = 0.1,
) -> None:
    """Judge which recipes a model tolerates, before any task is run, as far as the evidence allows.

    Probes the model with short prompts under every recipe, unless that was done before. Predicts the losses in tasks
    from other models of the warehouse that have scores, if the prompts' own answers are too few; the output says what
    is missing.

    For example:

    - `prunescope advise ./my-model`
    - `prunescope advise ./my-model --recipe wanda-50 --recipe attn-drop-4 --tolerance 0.2`
    - `prunescope advise smollm2-135m-instruct --study paper-small`

    Options:
        model: A folder with safetensors, a .gguf file, a hub id, `NAME=MODEL`, or a model of the warehouse.
        study: Study that gives recipes and prompts (default: the one that computed the model, else `advise`).
        tolerance: Acceptable loss, as a share of the dense model's skill, from 0 to 1.
    """
    import polars as pl

    from prunescope.assets.planning.steps import PROBE_TABLES
    from prunescope.assets.runs.start import run_study
    from prunescope.pipelines.reporting.advice import advise as judge
    from prunescope.warehouse.catalogue.queries import advised_verdicts, predicted_losses
    from prunescope.warehouse.storage.partition_store import Store

    # A name of the warehouse needs one; another model's probes are computed, into a new one if need be.
    location = options.existing(context) if _is_name(model) else options.root(context)
    request, reason = _request(model, study, recipe, Store(location))
    home = settings.cache_folder() / "advise" if reason else location
    if reason:
        log(f"{reason}; the prompts of study {_STUDY} are probed instead, with results in {home}")
    with RichProgress() as bars:
        outcome = run_study(request, home, settings.cache_folder(), bars, replace=replace, tables=PROBE_TABLES)
    name = outcome.study.models[0].name
    recipes = [recipe.name for recipe in outcome.study.recipes if recipe.method not in {"dense", "noise"}]
    verdicts = pl.DataFrame(advised_verdicts(home, name, recipes, tolerance))
    notes = judge(verdicts, pl.DataFrame(predicted_losses(location, name)), tolerance)
    columns = [column.name for column in verdicts if sink.format != "table" or column.null_count() < len(column)]
    emit(verdicts.select(columns).to_arrow(), sink)
    for line in notes:
        log(line)
    end(context, outcome.failures)


def _is_name(model: str) -> bool:
    """Return whether this is the name of a model of the warehouse, and not the source of one."""
    from prunescope.pipelines.models.embedded import embedded_model

    return not {"/", "="} & set(model) and not Path(model).exists() and embedded_model(model) is None


def _request(model: str, study: str | None, recipes: Sequence[str], store: "Store") -> "tuple[StudyRequest, str]":
    """Return the request of the probes: that of the study that computed the model, if any, so that it reuses results.

    Returns:
        The request, and the reason for storing its results outside of the warehouse: the study that computed the
        model asks too few questions for a verdict, and its results must not change. Empty if there is no such reason.
    """
    from prunescope.pipelines.core.verdict_rule import MIN_UNITS
    from prunescope.pipelines.studies import load_study, study_names
    from prunescope.warehouse.tables import TABLES

    [spec] = load_study(_STUDY).replaced([model], []).models
    provenance = store.provenance(TABLES["models"], spec.name, None)
    if study is None and provenance is not None and provenance.study not in study_names():
        raise InputError(f"model {spec.name} was computed by study {provenance.study!r}; name its file with --study")
    chosen, reason = study or (provenance.study if provenance else _STUDY), ""
    questions = sum(prompt.kind == "choice" for prompt in load_study(chosen).prompts)
    if study is None and questions < MIN_UNITS:
        asked = f"asks {questions} of the {MIN_UNITS} questions that a verdict needs"
        chosen, reason = _STUDY, f"study {chosen}, which computed {spec.name}, {asked}"
    loaded = load_study(chosen)
    if not loaded.prompts:
        raise InputError(f"study {chosen}: `prompts` is empty, and probes need prompts; name another with --study")
    if provenance and _is_name(model) and model not in {known.name for known in loaded.models}:
        source = store.read(TABLES["models"], model, None)["source"][0].as_py()
        model = f"{model}={source}"
    return request_of(chosen, [model], recipes), reason
