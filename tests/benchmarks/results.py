"""The results page: the scores of several models, the paper's question on each, and what carries over.

`python -m tests.benchmarks.results [WAREHOUSE …]` copies from each warehouse the rows that the page rests on into
`results/rows/`, where they replace those of the same models, and writes RESULTS.md from all rows there: models are
computed one after the other, on any machine, and compared here. Beside the page, `results/` has each table with all its
columns and digits, each figure, and the provenance of every partition. The page only puts questions, figures and a
sentence from their rows together; what they mean is in `sql/` and in the captions of the figures.
"""

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa

from prunescope.assets.instance import settings
from prunescope.pipelines.core.quoting import literal, quoted
from prunescope.pipelines.reporting.charts.registry import FIGURES
from prunescope.pipelines.reporting.charts.theme import missing
from prunescope.warehouse.catalogue.database import connected, view_sql
from prunescope.warehouse.catalogue.materialized import Materialized, read_by
from prunescope.warehouse.core.formats import markdown_escaped, render, shown_cell
from prunescope.warehouse.storage.atomic_write import write_atomically
from tests.gallery import picture

_PROVENANCE = """
    select
        model, recipe, study, code_version, device, provenance.dtype, seed, source, revision, weight_hash,
        string_agg(table_name, ' ' order by table_name) as tables, round(sum(seconds), 1) as seconds
    from provenance left join stg_models using (model) where model is not null group by all order by all
"""


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        name: of the file with the table.
        title: the question.
        note: how to read the table.
        sentence: SELECT of one text from the rows of the view `answer`; no row or NULL where they say nothing.
        query: SELECT of the table; x, x_low and x_high are printed as one column.
        figures: names of figures.
    """

    name: str
    title: str
    note: str
    sentence: str
    query: str
    figures: tuple[str, ...] = ()


SECTIONS = (
    Section(
        "dense",
        "What can the dense models do?",
        "Scores of the dense models (table `task_scores`), with 95 % intervals of Wilson over n samples. Published is "
        "the score in the technical report of Qwen2.5-Coder (arXiv 2409.12186), of weights in bfloat16. Two things "
        "separate ours from it: the files store weights in few bits (`models.weight_format`), and a problem is asked "
        "as lm-eval does, for at most 256 tokens.",
        """
        select
            string_agg(format('{} has {} million parameters', model, millions), ', ' order by millions, model)
            || '. Answered by choosing: ' || coalesce(any_value(choosing), 'nothing')
            || '. Answered by writing: ' || coalesce(any_value(writing), 'nothing') || '.'
        from (select distinct model, round(parameters / 1e6)::int as millions from answer), (
            select
                string_agg(distinct task, ', ' order by task) filter (where kind = 'non_generative') as choosing,
                string_agg(distinct task, ', ' order by task) filter (where kind = 'generative') as writing
            from answer
        )
        """,
        """
        select
            model, parameters, weight_format, task_group as task, kind, metric, score, n,
            wilson_interval(score * n, n)[1] as score_low, wilson_interval(score * n, n)[2] as score_high, published
        from task_group_scores inner join stg_models using (model)
        left join (
            values ('qwen2.5-coder-0.5b', 'humaneval', 0.616), ('qwen2.5-coder-1.5b', 'humaneval', 0.707)
        ) as reports (model, task_group, published) using (model, task_group)
        where recipe = 'dense' and metric <> 'agreement' and is_higher_better order by parameters, kind, task, metric
        """,
    ),
    Section(
        "choosing_writing",
        "Does writing lose more than choosing, by share removed?",
        "The part of what the dense model scores above a guess that is lost, in tasks answered by choosing and by "
        "writing (`task_losses`). Tasks in which the dense model is not above a guess are left out. Intervals are at "
        "95 %, paired by answer and not corrected for the number of variants; the sentence above rests on one mean per "
        "model (`paper_claims`). The last two columns are what rounding alone loses.",
        """
        select string_agg(format(
            '- {}: the loss of writing minus that of choosing, above a guess and beyond rounding, is {:.2f} [{}] in '
            'the mean of the variants ({}).', model, amount,
            coalesce(format('{:.2f}, {:.2f}', amount_low, amount_high), 'no interval'), verdict
        ), chr(10) order by model)
        from paper_claims where claim = 'writing_loses_more' and measure = 'score'
        """,
        """
        select
            choosing.model, choosing.recipe, round(summary.parameters_removed_share, 3) as removed,
            choosing.n_answers as n_choosing, choosing.loss as choosing, choosing.loss_low as choosing_low,
            choosing.loss_high as choosing_high, writing.n_answers as n_writing, writing.loss as writing,
            writing.loss_low as writing_low, writing.loss_high as writing_high,
            choosing.noise_loss as choosing_by_rounding, writing.noise_loss as writing_by_rounding
        from task_losses as choosing
        inner join task_losses as writing using (model, recipe, measure)
        left join variant_summary as summary using (model, recipe)
        where measure = 'score' and choosing.kind = 'non_generative' and writing.kind = 'generative'
        order by choosing.model, removed, choosing.recipe
        """,
        ("losses", "drops", "pareto"),
    ),
    Section(
        "published",
        "Is as much kept as published for models of 7 B?",
        "Shares of the dense score that the same method keeps there and here (`paper_published`), means over the tasks "
        "of a metric that both have.",
        """
        select format(
            'Among {} published points next to ours, ours keep less in {}.', count(*),
            count(*) filter (where kept_ours < kept_published)
        )
        from answer having count(*) > 0
        """,
        """
        select
            model, recipe, model_published, source, metric, count(*) as tasks, avg(kept_published) as kept_published,
            avg(kept_ours) as kept_ours
        from paper_published
        where
            kept_ours + kept_published is not null and method <> 'dense' and layer = -1
            and metric not like '%perplexity' and task not in ('generation', 'options', 'estimates')
        group by all order by all
        """,
    ),
    Section(
        "quantization",
        "Is quantization another kind of damage at the same KL?",
        "Damage of pruning minus that of quantization at equal KL (`q27_pruning_against_quantization`), paired; above "
        "0 pruning does more. The share of texts with a different token, or of questions with another option.",
        """
        select format(
            '{} of {} intervals are above 0 and {} below; by chance each would be outside in 5 %.',
            count_if(difference_low > 0), count(difference_low), count_if(difference_high < 0)
        )
        from answer having count(difference_low) > 0
        """,
        """
        select model, recipe, quantization, measure, kl_nats, difference, difference_low, difference_high
        from q27_pruning_against_quantization
        where difference is not null and measure in ('flipped_share', 'options_changed_share') order by all
        """,
        ("quantization",),
    ),
    Section(
        "repairs",
        "Does a repair bring back what a variant writes?",
        "Variants with a repair after the last `+`, beside the same variant without it: the mean KL on the dense "
        "model's text, and the part of the dense score above a guess that is lost (`task_losses`), each with its own "
        "95 % interval.",
        """
        select string_agg(format(
            '- {}: by point estimates, a repair lowers the KL of {} of {} variants, and the loss in writing of {} of '
            '{}; `prunescope compare` pairs their answers.', model, n_nearer, n_kl, n_better, n
        ), chr(10) order by model)
        from (
            select
                model, count(*) as n, count(kl_nats - kl_unrepaired_nats) as n_kl,
                count_if(kl_nats < kl_unrepaired_nats) as n_nearer, count_if(loss < loss_unrepaired) as n_better
            from answer where kind = 'generative' group by model
        )
        """,
        """
        select
            repaired.model, repaired.recipe, repaired.kind,
            unrepaired_summary.kl_teacher_forced_mean_nats as kl_unrepaired_nats,
            summary.kl_teacher_forced_mean_nats as kl_nats,
            unrepaired.loss as loss_unrepaired, unrepaired.loss_low as loss_unrepaired_low,
            unrepaired.loss_high as loss_unrepaired_high, repaired.loss, repaired.loss_low, repaired.loss_high
        from task_losses as repaired
        inner join stg_variants as variants
            on (variants.model, variants.recipe) = (repaired.model, repaired.recipe) and variants.is_repaired
        inner join task_losses as unrepaired
            on unrepaired.recipe = regexp_extract(repaired.recipe, '^(.*)[+]', 1)
            and (unrepaired.model, unrepaired.measure, unrepaired.kind)
            = (repaired.model, repaired.measure, repaired.kind)
        left join variant_summary as summary
            on (summary.model, summary.recipe) = (repaired.model, repaired.recipe)
        left join variant_summary as unrepaired_summary
            on (unrepaired_summary.model, unrepaired_summary.recipe) = (unrepaired.model, unrepaired.recipe)
        where repaired.measure = 'score' order by all
        """,
    ),
    Section(
        "claims",
        "Which claims of the paper hold on which model?",
        "`q33_claims_by_model`; `paper_claims` has the numbers, intervals and nulls.",
        """
        select format(
            'Among {} claims, {} hold on every model, {} on none, {} differ between models; the '
            'others are open.', count(*), count(*) filter (where verdict = 'holds on every model'),
            count(*) filter (where verdict = 'holds on no model'), count(*) filter (where verdict = 'differs')
        )
        from answer having count(*) > 0
        """,
        "select says as claim, measure, models_hold, models_fail, models_open, verdict from q33_claims_by_model",
    ),
    Section(
        "advice",
        "Can the losses of a model be predicted from the others?",
        "Each model's losses as predicted by probes from the other models alone (`q31_prediction_quality`): the rank "
        "correlation with what was measured, the mean error, and the share inside the stated interval, made for 0.9.",
        """
        select string_agg(format(
            '- {}: the loss in {} of {} variants is predicted with a mean error of {:.2f} from {}, the best probe.',
            model, if(kind = 'generative', 'writing', 'choosing'), n_variants, error_mean, probe
        ), chr(10) order by model, kind)
        from (
            from answer where error_mean is not null
            qualify row_number() over (partition by model, kind order by error_mean, probe) = 1
        )
        """,
        """
        select
            model, kind, probe, n_models, n_variants, n_beyond, spearman, error_mean, coverage, coverage_low,
            coverage_high
        from q31_prediction_quality where n_variants > 0 and measure = 'score' order by all
        """,
    ),
    Section(
        "layers",
        "Which layers' logit shifts foretell a KL spike?",
        "The five sublayers of each model with the largest area (`q42_depth_of_predictors`, lens normed), which look "
        "better than they are because they are the best; elsewhere are the other models at the same depth.",
        """
        select string_agg(
            format('- {}: the largest area is that of {}', model, best)
            || coalesce(format(', from which {} of {} sublayers cannot be told', nullif(n_best, 0), n), '')
            || coalesce(format(
                '; over depth the areas correlate by {:.2f} with those of the other models, and the Var_p threshold is '
                '{:.2g} times theirs in the median', r, ratio
            ), '') || '.', chr(10) order by model
        )
        from (
            select
                model, count(*) as n, count_if(is_among_best) as n_best, corr(auc, auc_elsewhere) as r,
                median(var_p_dz_ratio)::double as ratio, arg_max(format('{} {}', sublayer, layer), auc) as best
            from q42_depth_of_predictors where lens = 'normed' group by model
        )
        """,
        """
        select
            model, sublayer, layer, relative_depth, recipes, auc, auc_low, auc_high, auc_elsewhere, best_elsewhere,
            top_decile_var_p_dz, var_p_dz_ratio
        from q42_depth_of_predictors where lens = 'normed'
        qualify row_number() over (partition by model order by auc desc, layer, sublayer) <= 5 order by model, auc desc
        """,
        ("depth",),
    ),
)


def cells(rows: pa.Table) -> pa.Table:
    """Return the rows as texts, an estimate and the ends of its interval in one column, NULL as a dash."""
    texts = {
        name: ["–" if value is None else shown_cell(value, 3) for value in rows[name].to_pylist()]
        for name in rows.column_names
    }
    for name in rows.column_names:
        if f"{name}_low" in texts:
            ends = zip(texts[name], texts.pop(f"{name}_low"), texts.pop(f"{name}_high"), strict=True)
            texts[name] = [value if low == high == "–" else f"{value} [{low}, {high}]" for value, low, high in ends]
    return pa.table(texts)


def kept_names() -> set[str]:
    """Return the views and tables that the page rests on: those that describe each model by itself.

    A view that compares models (`across` in its header) is computed from the rows of all of them.
    """
    views = view_sql()

    def below(names: Collection[str]) -> Iterator[str]:
        for name in names:
            if name in views and "across" in views[name].parts:
                yield from below(views[name].depends_on)
            elif name in views or name == "provenance":
                yield name

    queries = [query for section in SECTIONS for query in (section.query, section.sentence)]
    drawn = [FIGURES[name].query for section in SECTIONS for name in section.figures]
    return set(below({name for query in (*queries, *drawn, _PROVENANCE) for name in read_by(query)}))


def keep(warehouse: str, rows: Path) -> None:
    """Copy the rows of one warehouse into the folder; rows of models that it does not have stay there."""
    rows.mkdir(parents=True, exist_ok=True)
    with connected(settings.warehouse_root(warehouse)) as connection:
        prepared = Materialized(connection)
        for name in sorted(kept_names()):
            query = f"select * from {quoted(name)}"
            prepared.prepare(query)
            file = rows / f"{name}.parquet"
            if file.exists():
                query += f"""
                    union all by name
                    from {literal(str(file))} where model not in (select model from {quoted(name)} where model not null)
                """
            write_atomically(file, partial(_copy, connection, f"from ({query}) order by all"))


def _copy(connection: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    connection.execute(f"copy ({query}) to {literal(str(path))} (format parquet, compression zstd)")


@contextmanager
def opened(rows: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the catalogue over the rows in the folder: the views that were kept are tables, the others read these."""
    with TemporaryDirectory() as empty, connected(Path(empty)) as connection:
        for file in sorted(rows.glob("*.parquet")):
            connection.execute(f"drop view {quoted(file.stem)}")
            connection.execute(f"create table {quoted(file.stem)} as from {literal(str(file))}")
        yield connection


def parts(connection: duckdb.DuckDBPyConnection, files: dict[str, bytes]) -> Iterator[str]:
    """Yield the paragraphs of the page, and add the files beside it to `files`, by name."""
    prepared = Materialized(connection)
    yield "# Results"
    [(models,)] = connection.execute("select string_agg(model, ', ' order by parameters) from stg_models").fetchall()
    yield (
        f"Written by `python -m tests.benchmarks.results` from the rows of {models} in [results/rows](results/rows). "
        "`results/` has each table with all digits, as CSV; [provenance.csv](results/provenance.csv) names the code, "
        "the device and the study behind each variant."
    )
    for section in SECTIONS:
        prepared.prepare(section.query)
        rows = connection.sql(section.query).to_arrow_table()
        connection.register("answer", rows)
        prepared.prepare(section.sentence)
        said = [text for (text,) in connection.execute(section.sentence).fetchall() if text]
        yield f"## {section.title}"
        if not rows.num_rows:
            yield "Not measured in this warehouse."
            continue
        yield said[0] if said else "The rows below are too few for a sentence."
        files[f"{section.name}.csv"] = str(render(rows, "csv")).encode()
        yield f"{section.note} [All digits](results/{section.name}.csv)."
        yield str(render(cells(rows), "markdown")).strip()
        for name in section.figures:
            prepared.prepare(FIGURES[name].query)
            drawings = list(FIGURES[name].draw_all(connection.sql(FIGURES[name].query).pl()))
            for drawing in drawings:
                if missing(drawing.specification) is None:
                    files[f"{drawing.name}.png"] = picture(drawing.specification)
                    yield f"![{markdown_escaped(drawing.title)}](results/{drawing.name}.png)"
            yield f"*{markdown_escaped(FIGURES[name].caption)}*"
    files["provenance.csv"] = str(render(connection.sql(_PROVENANCE).to_arrow_table(), "csv")).encode()


def main(folder: Path, *warehouses: str) -> None:
    """Keep the rows of the warehouses, then write the page and the files beside it; files of an earlier page go."""
    beside = folder / "results"
    for warehouse in warehouses:
        keep(warehouse, beside / "rows")
    files: dict[str, bytes] = {}
    with opened(beside / "rows") as connection:
        text = "\n\n".join(parts(connection, files)) + "\n"
    for old in (*beside.glob("*.csv"), *beside.glob("*.png")):
        old.unlink()
    for name, content in files.items():
        (beside / name).write_bytes(content)
    (folder / "RESULTS.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(__file__).parent, *sys.argv[1:])
