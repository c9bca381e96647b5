"""Sensitivity of variants to their calibration: change of KL and overlap of the masks of pairs."""

from functools import partial

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import method_encoding, theme

TITLE = "What another calibration changes"
CAPTION = (
    "Each row is a pair of variants whose recipes differ only in the calibration tokens or the seed. Left: the mean "
    "teacher-forced KL of the second minus that of the first, paired by prompt and step. The 95 % interval is over "
    "prompts, if there are at least two. Right: the number of weights that both remove, divided by the number that at "
    "least one of them removes, and the expected value for two independent masks. The bar is a conservative 95 % "
    "interval (Wilson) for the error of sampling the masks. It is mostly hidden by the point."
)
NEEDS = "no recipe was calibrated twice, on other tokens or with another seed"

MASKS = {"jaccard_removed": "these two masks", "expected_jaccard_removed": "two independent masks"}


def _divergences(named: pl.DataFrame, y: alt.Y) -> theme.AnyChart:
    shown = named.filter(pl.col("kl_difference_nats").is_not_null())
    x = partial(alt.X, title="KL of the second − KL of the first, nats")
    base = theme.Chart().encode(y=y)
    interval = theme.valid(base, "kl_difference_low_nats").mark_rule(strokeWidth=2, color=theme.BLUE)
    interval = interval.encode(**theme.span(x("kl_difference_low_nats:Q"), "kl_difference_high_nats:Q"))
    zero = theme.Chart().transform_aggregate(rows="count()").mark_rule(strokeWidth=1, color=theme.GREY)
    fields = "n_prompts kl_nats other_kl_nats kl_difference_nats kl_difference_low_nats kl_difference_high_nats"
    return alt.layer(
        zero.encode(x=alt.datum(0)),
        *([interval] if shown["kl_difference_low_nats"].count() else []),
        base.mark_point(filled=True, size=60, opacity=1, color=theme.BLUE).encode(
            x=x("kl_difference_nats:Q", scale=alt.Scale(zero=True)),
            tooltip=theme.tooltip(f"pair:N differs_in:N {fields}"),
        ),
        data=theme.rows(shown.select("pair", "differs_in", *fields.split())),
    ).properties(width=260, height=alt.Step(22))


def _masks(named: pl.DataFrame, y: alt.Y) -> theme.AnyChart:
    own, independent = (
        named.select(
            "pair", pl.lit(title).alias("masks"), pl.col(column).alias("overlap"), "jaccard_low", "jaccard_high"
        )
        for column, title in MASKS.items()
    )
    data = pl.concat([own, independent.drop("jaccard_low", "jaccard_high")], how="diagonal").drop_nulls("overlap")
    x = partial(alt.X, title="overlap of the removed weights (Jaccard)", scale=alt.Scale(domain=[0, 1]))
    # The legend is below its panel, so that the rows of both panels stay level.
    legend = alt.Legend(orient="bottom")
    color = theme.nominal(alt.Color, "masks", MASKS.values(), [theme.VERMILLION, theme.GREY], legend=legend)
    base = theme.Chart().encode(y=y, color=color)
    interval = base.transform_filter("datum.jaccard_low < datum.jaccard_high").mark_rule(strokeWidth=2)
    point = base.mark_point(size=60, opacity=1, filled=True).encode(
        x=x("overlap:Q"),
        shape=theme.nominal(alt.Shape, "masks", MASKS.values(), ["circle", "diamond"]),
        tooltip=theme.tooltip("pair:N masks:N overlap jaccard_low jaccard_high"),
    )
    return alt.layer(
        interval.encode(**theme.span(x("jaccard_low:Q"), "jaccard_high:Q")), point, data=theme.rows(data)
    ).properties(width=200, height=alt.Step(22))


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of `q28_sensitivity_to_calibration` of one model."""
    named = method_encoding.labelled(frame, "recipe", "other_recipe").with_columns(
        pl.format("{} → {} ({})", "recipe", "other_recipe", "differs_in").alias("pair")
    )
    y = partial(alt.Y, "pair:N", title=None, sort=(order := theme.names(named, "pair")), scale=alt.Scale(domain=order))
    parts = []
    if named["kl_difference_nats"].count():
        parts.append(_divergences(named, y(axis=alt.Axis(labelLimit=330))))
    if named["jaccard_removed"].count():
        # The panel on the left names the rows.
        labels = False if parts else alt.Undefined
        parts.append(_masks(named, y(axis=alt.Axis(labelLimit=330, labels=labels))))
    return alt.hconcat(*parts).resolve_legend(color="independent", shape="independent"), [theme.about(frame)]
