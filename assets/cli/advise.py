"""`prunescope advise`: the cheap probes of a model, and which recipes it bears by what they say.

Probes run as `prunescope run` runs them, predictions are the view loss_predictions, verdicts `prunescope.pipelines.reporting.advice`.
"""

# ruff: noqa: ARG001 - `--warehouse` and `--debug` are kept by their callbacks, see options.py

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunescope.assets import settings
from prunescope.assets.cli import completion
from prunescope.assets.cli.options import Debug, Format, Output, Warehouse, root
from prunescope.assets.cli.output import chosen_format, emit, log
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.assets.cli.study import Recipes, Replace, end, request_of
from prunescope.pipelines.core.errors import InputError

if TYPE_CHECKING:
    import polars as pl

    from prunescope.assets.planning.work_plan import StudyRequest
    from prunescope.pipelines.studies import Study
    from prunescope.warehouse.storage.location import Place
    from prunescope.warehouse.storage.partition_store import Store

STUDY = "advise"


def _share(value: float) -> float:
    """Refuses what is no share; NaN fails every comparison."""
    if not 0 <= value <= 1:
        raise InputError(f"--tolerance {value:g}: give a share from 0 to 1, such as 0.1")
    return value


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(advise)


def advise(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A folder with safetensors, a .gguf file, a hub id, `NAME=MODEL`, or a model's name in the warehouse."
        ),
    ],
    study: Annotated[
        str | None,
        typer.Option(
            "--study",
            metavar="STUDY",
            autocompletion=completion.studies,
            help="Whose recipes and prompts, a name or a path; else that which computed the model, else `advise`.",
        ),
    ] = None,
    recipe: Recipes = None,
    replace: Replace = False,
    tolerance: Annotated[
        float, typer.Option(callback=_share, help="Share of the dense model's skill that may be lost, from 0 to 1.")
    ] = 0.1,
    format_: Format = None,
    output: Output = None,
    warehouse: Warehouse = None,
    debug: Debug = False,
) -> None:
    """Say which recipes a model bears: safe, non-generative only, or broken, before any task is run.

    A few short prompts are probed under every recipe, as far as that was not done. Losses in tasks are predicted from
    other models of the warehouse that were scored; where they are too few, a rule of the paper decides and says so.

    For example:

    - `prunescope advise ./my-model`
    - `prunescope advise ./my-model --recipe wanda-50 --recipe attn-drop-4 --tolerance 0.2`
    - `prunescope advise smollm2-135m-instruct --study paper-small`
    """
    from prunescope.assets.planning.steps import PROBE_TABLES
    from prunescope.assets.runs.study_run import run_study
    from prunescope.pipelines.reporting.advice import advise as judge
    from prunescope.warehouse.storage.partition_store import Store

    shown = chosen_format(format_, output)
    place = root(context)
    request, aside = _request(model, study, recipe or [], Store(place))
    home = settings.cache_folder() / "advise" if aside else place
    if aside:
        log(f"{aside}; the prompts of study {STUDY} are read instead, and kept in {home}")
    with RichProgress() as bars:
        outcome = run_study(request, home, settings.cache_folder(), bars, replace=replace, tables=PROBE_TABLES)
    variants, predictions = (
        _rows("variant_verdict", outcome.study, home),
        _rows("loss_predictions", outcome.study, place),
    )
    advice = judge(variants, predictions, tolerance)
    told = [column.name for column in advice.rows if shown != "table" or column.null_count() < len(column)]
    emit(advice.rows.select(told).to_arrow(), format_, output)
    for line in advice.notes:
        log(line)
    end(context, outcome.failures)


def _request(model: str, study: str | None, recipes: list[str], store: "Store") -> "tuple[StudyRequest, str]":
    """What is probed: by the study that computed the model where the warehouse has it, so that nothing is done twice.

    Returns:
        What is probed, and why apart from the warehouse, where that study asks too few questions for a verdict and its
        results must stay what they are; empty where it is not.

    Raises:
        InputError: that study is in a file of the user's, which has to be named, or has no prompts to probe with.
    """
    from prunescope.pipelines.reporting.advice import LEAST_QUESTIONS
    from prunescope.pipelines.studies import load_study, study_names
    from prunescope.warehouse.tables import TABLES

    [spec] = load_study(STUDY).replaced([model], []).models
    made = store.provenance(TABLES["models"], spec.name, None)
    if study is None and made is not None and made.study not in study_names():
        raise InputError(f"model {spec.name} was computed by study {made.study!r}; name its file with --study")
    chosen, aside = study or (made.study if made else STUDY), ""
    if (
        study is None
        and (few := sum(prompt.kind == "choice" for prompt in load_study(chosen).prompts)) < LEAST_QUESTIONS
    ):
        aside = (
            f"study {chosen}, which computed {spec.name}, asks {few} of the {LEAST_QUESTIONS} questions that it takes"
        )
        chosen = STUDY
    if not load_study(chosen).prompts:
        raise InputError(f"study {chosen}: `prompts` is empty, and probes read prompts; name another with --study")
    is_bare = not {"/", "="} & set(model) and not Path(model).exists()
    if made and is_bare and model not in {known.name for known in load_study(chosen).models}:
        source = store.read(TABLES["models"], model, None)["source"][0].as_py()
        model = f"{model}={source}"
    return request_of(chosen, [model], recipes), aside


def _rows(view: str, study: "Study", place: "Place") -> "pl.DataFrame":
    """What the view says of the model's pruned variants."""
    import polars as pl

    from prunescope.warehouse.catalogue.database import connect

    recipes = [recipe.name for recipe in study.recipes if recipe.method != "dense"]
    with connect(place) as connection:
        found = connection.sql(
            f"SELECT * FROM {view} WHERE model = ? AND list_contains(?, recipe)",  # noqa: S608 - our own names
            params=[study.models[0].name, recipes],
        )
        return pl.DataFrame(found.to_arrow_table())
