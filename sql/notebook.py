"""Five of the questions with their charts, as a marimo notebook: `marimo edit sql/notebook.py`.

The SQL file of a question defines its answer; `prunescope.pipelines.reporting.charts` draws the charts.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Prunescope")


@app.cell
def _():
    import marimo as mo
    import polars as pl

    import prunescope
    from prunescope.pipelines.reporting.charts import auto_chart
    from prunescope.warehouse.catalogue.database import view_sql

    # PRUNESCOPE_WAREHOUSE, else warehouse/data; prunescope.open("elsewhere") reads another one.
    connection = prunescope.open()
    return auto_chart, connection, mo, pl, view_sql


@app.cell
def _(auto_chart, mo, view_sql):
    def show(name, frame, answer):
        """The question, how to read it, its chart and rows, and the answer in words."""
        view = view_sql()[name]
        chart = auto_chart.draw(name, frame, view.key, view.parts["asks"])
        question = mo.md(f"## {view.parts['asks']}\n\n{view.parts['how to read']}")
        return mo.vstack([question, chart, frame, mo.md(answer)])

    return (show,)


@app.cell
def _(connection, mo):
    variants = connection.sql("select model, recipe from variants order by all").pl()
    mo.md(
        f"""
        # When does pruning work?

        This warehouse holds **{variants.height} variants** of {variants["model"].n_unique()} model(s):
        {", ".join(variants["recipe"].unique().sort()) or "none yet; `prunescope run demo` fills it"}.

        Each part below asks one question of `sql/questions/`, draws all rows of its answer and sums them up. You can
        query every number yourself: `connection.sql("from q11_first_flip")` in a cell, or `prunescope question q11` in
        a terminal.
        """
    )
    return


@app.cell
def _(connection, pl, show):
    flips = connection.sql("from q11_first_flip").pl()
    _flipped = flips.drop_nulls("first_flip_step")
    _close = _flipped.filter(pl.col("margin_dense") < 1)
    show(
        "q11_first_flip",
        flips,
        f"""
        **Answer.** {_flipped.height} of {flips.height} texts leave the dense one, half of them by step
        {_flipped["first_flip_step"].median()}. At {_close.height} of these flips the dense model's first two logits are
        less than 1 apart, so a small shift is enough. The other flips cross a wide margin, which is damage.
        """,
    )
    return (flips,)


@app.cell
def _(connection, pl, show):
    amplification = connection.sql("from q07_amplification").pl()
    _factors = {
        lens: amplification.filter((pl.col("scope") == "local") & (pl.col("lens") == lens) & ~pl.col("is_noise"))
        for lens in ("raw", "normed")
    }
    _medians = {lens: f"{rows['z_to_p_median'].median() or float('nan'):.2g}" for lens, rows in _factors.items()}
    show(
        "q07_amplification",
        amplification,
        f"""
        **Answer.** After one changed sublayer, *p* moves {_medians["raw"]} times as far as *z* if the head reads the
        residual stream as it is (lens raw, as in the paper), and {_medians["normed"]} times as far after the final norm
        (medians over sublayers). Whether the softmax amplifies depends on the lens; the rows of noise show rounding
        alone.
        """,
    )
    return (amplification,)


@app.cell
def _(connection, pl, show):
    fit = connection.sql("from q04_fit_of_theorem_3").pl()
    _local = fit.filter((pl.col("scope") == "local") & (pl.col("direction") == "dense_pruned"))
    show(
        "q04_fit_of_theorem_3",
        fit,
        f"""
        **Answer.** Var_p(Δz) / 2T² estimates the KL divergence after one sublayer with a median ratio of
        {_local["ratio_median"].median() or float("nan"):.2f} (1 is exact). The logarithms of estimate and truth
        correlate by at least {_local["pearson_log10"].min() or float("nan"):.2f}.
        """,
    )
    return (fit,)


@app.cell
def _(connection, pl, show):
    spikes = connection.sql("from q01_spike_predictors").pl()
    _best = spikes.drop_nulls("auc").sort("auc", descending=True).head(3)
    _names = [f"{row['recipe']}, {row['sublayer']} {row['layer']} (AUC {row['auc']:.2f})" for row in _best.to_dicts()]
    _sure = spikes.filter(pl.col("auc_low") > 0.5).height
    show(
        "q01_spike_predictors",
        spikes,
        f"""
        **Answer.** The sublayers that predict spikes best: {"; ".join(_names) or "the data do not show any"}. With 95 %
        confidence {_sure} of {spikes.height} do better than chance. If `auc_low` is NULL there are too few prompts to
        say; add prompts to the study.
        """,
    )
    return (spikes,)


@app.cell
def _(connection, pl, show):
    feedback = connection.sql("from q13_own_text_against_forced").pl()
    _pruned = feedback.filter(~pl.col("is_noise"))
    _medians = [
        f"{_pruned[f'kl_{name}_median_nats'].median() or float('nan'):.2f}"
        for name in ("teacher_forced", "own_text", "free_running", "fork")
    ]
    show(
        "q13_own_text_against_forced",
        feedback,
        f"""
        **Answer.** After the first flip the variants have a median of {_medians[0]} nats per token on the dense text and
        of {_medians[1]} on their own; {_pruned.filter(own_text_is="further").height} of {_pruned.height} are further
        away on their own text. Free running compares two texts: {_medians[2]} nats, against {_medians[3]} for the dense
        model alone after one different token.
        """,
    )
    return (feedback,)


if __name__ == "__main__":
    app.run()
