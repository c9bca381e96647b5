"""The Python functions of `import prunescope as ps`: run a study, read its tables and views, draw its figures.

A test runs the examples in a folder where `my-study.yaml` has been computed. Heavy modules are imported inside the
functions, because every module of the package runs this file first.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets
    import duckdb
    import polars as pl
    import pyarrow.dataset
    from torch import nn

    from prunescope.assets.publishing.notebook import Answer, Figures, TokenText
    from prunescope.assets.runs.study_run import RunResult
    from prunescope.warehouse.storage.location import Place


def open(root: "Place | str | None" = None) -> "duckdb.DuckDBPyConnection":  # noqa: A001 - read as `ps.open`
    """Open the warehouse for questions: every table, staging view, mart and question is a view.

    Args:
        root: folder or URL of the warehouse; None: PRUNESCOPE_WAREHOUSE, else `warehouse/data`.

    Returns:
        A DuckDB connection in memory over the files that exist now. It is not restricted: it reads your own files to
        join with, and COPY writes files. For SQL that you did not write use
        `prunescope.warehouse.catalogue.sql_process.run_safe(root, sql)`, which reads tables and views only.

    Warns:
        DamagedFileWarning: names each file that cannot be read or belongs elsewhere; every answer leaves it out.

    Raises:
        WarehouseError: the root is a file.

    Example:
        >>> import prunescope as ps
        >>> ps.open().sql("select count(*) from variants where recipe is null").fetchall()
        [(0,)]
    """
    from prunescope.warehouse.catalogue.database import connect

    return connect(_root(root))


def scan(name: str, root: "Place | str | None" = None) -> "pl.LazyFrame":
    """Return a table or view as a polars LazyFrame.

    A table is read when the frame is collected, and only the rows and columns that the frame uses; a view is computed
    now. Only `open` sees one state of the files while a run writes.

    Args:
        name: the table or view, as `prunescope tables` lists them.
        root: as in `open`.

    Raises:
        WarehouseError: there is no such table or view, or a file is damaged.

    Example:
        >>> import prunescope as ps
        >>> ps.scan("variants").collect_schema().names()[:2]
        ['model', 'recipe']
    """
    from prunescope.warehouse.catalogue import dataframes

    return dataframes.scan(name, _root(root))


def arrow(name: str, root: "Place | str | None" = None) -> "pyarrow.dataset.Dataset":
    """Return a table or view as an Arrow data set that reads a table from its files; arguments, errors as in `scan`.

    Example:
        >>> import prunescope as ps
        >>> ps.arrow("models").schema.names[0]
        'model'
    """
    from prunescope.warehouse.catalogue import dataframes

    return dataframes.arrow(name, _root(root))


def dataset(name: str, root: "Place | str | None" = None) -> "datasets.Dataset":
    """Return a table or view as a Hugging Face data set, in memory; arguments and errors as in `scan`.

    Example:
        >>> import prunescope as ps
        >>> ps.dataset("models").column_names[0]
        'model'
    """
    from prunescope.warehouse.catalogue import dataframes

    return dataframes.dataset(name, _root(root))


def figure(
    name: str,
    root: "Place | str | None" = None,
    *,
    models: Sequence[str] = (),
    recipes: Sequence[str] = (),
    prompts: Sequence[str] = (),
) -> "Figures":
    """Draw a figure from the warehouse.

    Args:
        name: the figure, as `prunescope figure` lists them.
        root: as in `open`.
        models: only these models; empty for all.
        recipes: only these recipes, and `dense`; empty for all.
        prompts: only these prompts; empty for all.

    Returns:
        A list of Altair charts, one for each model, lens or prompt that the figure separates; `.save("figure.png")`
        writes one. A notebook shows all of them.

    Raises:
        InputError: there is no such figure.
        WarehouseError: the warehouse has no such model, recipe or prompt.

    Example:
        >>> import prunescope as ps
        >>> ps.figure("generation")[0].save("generation.png")
    """
    import altair as alt

    from prunescope.assets.publishing.notebook import Figures
    from prunescope.pipelines.reporting.charts import theme
    from prunescope.pipelines.reporting.charts.registry import find_figure
    from prunescope.warehouse.catalogue.question_query import RowFilter, rows_within

    found = find_figure(name)
    rows = rows_within(_existing(root), found.query, RowFilter(tuple(models), tuple(recipes), tuple(prompts)))
    return Figures(alt.Chart.from_dict(theme.dressed(drawing.specification)) for drawing in found.draw_all(rows))


def variant(name: str, root: "Place | str | None" = None) -> "Answer":
    """Return the verdict and the summary of a variant, which a notebook shows as a table.

    Args:
        name: MODEL@RECIPE, or RECIPE if only one model has it.
        root: as in `open`.

    Raises:
        WarehouseError: there is no such variant.

    Example:
        >>> import prunescope as ps
        >>> ps.variant("tiny-a@wanda-50").rows.columns
        ['quantity', 'value']
    """
    import polars as pl

    from prunescope.assets.publishing.notebook import Answer
    from prunescope.warehouse.catalogue.queries import variant_values
    from prunescope.warehouse.core.formats import shown_cell

    place = _existing(root)
    name = _full_name(name, place)
    values = [(key, shown_cell(value)) for key, value in variant_values(place, name).items() if value is not None]
    rows = pl.DataFrame(values, schema={"quantity": pl.String, "value": pl.String}, orient="row")
    return Answer(name, "`prunescope describe variant_verdict` explains each quantity", rows)


def question(
    name: str,
    root: "Place | str | None" = None,
    *,
    models: Sequence[str] = (),
    recipes: Sequence[str] = (),
    prompts: Sequence[str] = (),
) -> "Answer":
    """Return the answer to a question, which a notebook shows with the question and how to read the rows.

    Args:
        name: number or name, as `prunescope questions` lists them.
        root: as in `open`.
        models: only rows of these models; empty for all.
        recipes: only rows of these recipes; empty for all.
        prompts: only rows of these prompts; empty for all.

    Raises:
        WarehouseError: there is no such question, model, recipe or prompt, or the question has no such column.
        SqlError: the answer takes too long or too much memory.

    Example:
        >>> import prunescope as ps
        >>> ps.question("q01").rows.columns[:2]
        ['model', 'recipe']
    """
    import polars as pl

    from prunescope.assets.publishing.notebook import Answer
    from prunescope.warehouse.catalogue.question_query import RowFilter, ask, find_question

    view = find_question(name)
    rows = ask(_existing(root), view, RowFilter(tuple(models), tuple(recipes), tuple(prompts)))
    return Answer(view.parts["asks"], view.parts["how to read"], pl.DataFrame(rows))


def text(name: str, prompt: str, root: "Place | str | None" = None, *, is_own_text: bool = False) -> "TokenText":
    """Return the text of a prompt, which a notebook shows with its tokens colored by KL(dense ‖ pruned).

    Args:
        name: MODEL@RECIPE, or RECIPE if only one model has it; noise has no texts.
        prompt: id of the prompt.
        root: as in `open`.
        is_own_text: whether to show the text that the variant writes, instead of the dense model's.

    Raises:
        WarehouseError: there is no such variant or prompt.

    Example:
        >>> import prunescope as ps
        >>> ps.text("tiny-a@wanda-50", "open").shown
        'dense'
    """
    import polars as pl

    from prunescope.assets.publishing.notebook import TokenText
    from prunescope.warehouse.catalogue.queries import TOKENS, query_rows
    from prunescope.warehouse.catalogue.question_query import RowFilter, require

    place = _existing(root)
    name = _full_name(name, place)
    require(place, [name.partition("@")[0]], RowFilter(prompts=(prompt,)))
    trajectory, shown = ("own_text", "pruned") if is_own_text else ("teacher_forced", "dense")
    rows = pl.DataFrame(query_rows(place, TOKENS, variant=name, prompt=prompt, trajectory=trajectory))
    asked = str(rows["prompt_text"][0]) if len(rows) else ""
    title = f"{name}, {prompt}, {trajectory.replace('_', ' ')}"
    return TokenText(title, asked, rows.drop("prompt_text"), shown)


def measure(
    dense: "nn.Module",
    changed: "nn.Module | Callable[[nn.Module], nn.Module | None]",
    tokenizer: object,
    *,
    prompts: "Sequence[str | dict[str, object]]" = (),
    texts: "Sequence[str | dict[str, object]]" = (),
    model: str = "dense-model",
    name: str = "changed",
    **settings: object,
) -> "Measurement":
    """Measure how far a changed copy of a model in memory is from it, without a study, a checkpoint or a run.

    The models are verified as at every load, and left as they were. What differs must be in the weights: merge an
    adapter first; a model with a hook is refused. The noise floors are measured too.

    Args:
        dense: a transformers model with a decoder.
        changed: the same model with other weights, on the same device and of the same dtype; or a function that
            changes a copy of the dense model, or returns another one.
        tokenizer: the tokenizer of both.
        prompts: texts of prompts, or entries of a study's `prompts`, such as `{"source": "maths", "samples": 20}`.
        texts: entries of a study's `texts`, such as `"wikitext2"`.
        model: name of the dense model in the tables.
        name: name of the changed one, as a recipe.
        settings: other keys of a study, such as `tasks=["boolq"]` or `generation={"new_tokens": 64}`.

    Raises:
        InputError: a setting is wrong, the model's structure cannot be verified, or both do not belong together.
        ComputationError: both models compute the same, or their states are NaN or infinite.

    Example:
        >>> import prunescope as ps
        >>> from transformers import AutoModelForCausalLM, AutoTokenizer
        >>> dense = AutoModelForCausalLM.from_pretrained("my-model")
        >>> def shrink(model):
        ...     model.get_parameter("model.layers.1.mlp.down_proj.weight").data *= 0.9
        >>> tokenizer = AutoTokenizer.from_pretrained("my-model")
        >>> ps.measure(dense, shrink, tokenizer, prompts=["Why is the sky blue?"]).decoding_steps.columns[:2]
        ['model', 'recipe']
    """
    import tempfile

    from prunescope.assets.cli.progress_bars import RichProgress
    from prunescope.assets.execution.in_memory import measure_pair

    given = [{"text": prompt} if isinstance(prompt, str) else prompt for prompt in prompts]
    settings |= {"prompts": given, "texts": list(texts)}
    measurement = Measurement(tempfile.mkdtemp(prefix="prunescope-measure-"))
    with RichProgress() as bars:
        measure_pair(dense, changed, tokenizer, (model, name), settings, measurement.root, bars)
    return measurement


class Measurement:
    """Tables of two models in memory, in temporary files that are deleted with this object.

    Every table and view is an attribute, such as `decoding_steps` or `variant_summary`: a polars DataFrame. `root` is
    the folder, which every function here takes: `ps.text("changed", "prompt-1", m.root)`.
    """

    def __init__(self, root: str) -> None:
        import shutil
        import weakref

        self.root = root
        weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)

    def __getattr__(self, name: str) -> "pl.DataFrame":
        """Return a table or view; AttributeError if there is none of this name."""
        if name.startswith("_") or name not in dir(self):
            raise AttributeError(f"there is no table or view {name!r}; `prunescope tables` lists them")
        return scan(name, self.root).collect()

    def __dir__(self) -> list[str]:
        """Return the methods, tables and views, for completion."""
        from prunescope.warehouse.catalogue.dataframes import names

        return [*super().__dir__(), *names()]

    def figure(self, name: str) -> "Figures":
        """Draw a figure; errors as in `prunescope.figure`."""
        return figure(name, self.root)

    def question(self, name: str) -> "Answer":
        """Answer a question; errors as in `prunescope.question`."""
        return question(name, self.root)

    def save(self, root: "Place | str | None" = None) -> None:
        """Copy the tables into a warehouse; `root` as in `open`.

        Raises:
            WarehouseError: the warehouse has another model or variant of these names, or cannot be written.
        """
        from prunescope.warehouse.storage.partition_copy import copy_partitions
        from prunescope.warehouse.storage.partition_store import Store

        copy_partitions(Store(self.root), Store(_root(root)))

    def _repr_html_(self) -> str:
        from prunescope.assets.publishing.notebook import Answer

        return Answer(
            "Summary of the variants", "`prunescope describe variant_summary`", self.variant_summary
        )._repr_html_()


def run(
    study: str,
    root: "Place | str | None" = None,
    *,
    models: Sequence[str] = (),
    recipes: Sequence[str] = (),
    replace: bool = False,
) -> "RunResult":
    """Bring the warehouse up to date with a study, as `prunescope run` does; what is current is not computed again.

    Args:
        study: name of a shipped study, or path of a YAML file.
        root: as in `open`.
        models: in place of the study's: folders, GGUF files or hub ids.
        recipes: in place of the study's; `dense` is always among them.
        replace: recompute what another study computed from other inputs, instead of refusing.

    Returns:
        Names of the partitions that were computed, and the failures, which do not stop the other partitions.

    Raises:
        InputError: the study or all of its models are wrong, or another study's partition is in the way.
        WarehouseError: the warehouse cannot be read or written.

    Example:
        >>> import prunescope as ps
        >>> ps.run("my-study.yaml").failures
        ()
    """
    from prunescope.assets.cli.progress_bars import RichProgress
    from prunescope.assets.cli.study import request_of
    from prunescope.assets.runs.start import run_study

    request = request_of(study, list(models), list(recipes))
    with RichProgress() as bars:
        return run_study(request, _root(root), bars, replace=replace)


def _root(root: "Place | str | None") -> "Place | str":
    from prunescope.assets.instance import settings

    return settings.warehouse_root(root) if root is None or isinstance(root, str) else root


def _existing(root: "Place | str | None") -> "Place":
    """Return a warehouse to read; refuse a folder that does not exist."""
    from pathlib import Path

    from prunescope.pipelines.core.errors import InputError
    from prunescope.warehouse.storage.location import place_of

    found = place_of(_root(root))
    if isinstance(found, Path) and not found.exists():
        raise InputError(f"there is no warehouse at {found}; name another, or fill it with `prunescope run demo`")
    return found


def _full_name(variant: str, root: "Place | str") -> str:
    from prunescope.warehouse.catalogue.queries import find_variant, stored_variants

    return "@".join(find_variant(variant, stored_variants(root)))
