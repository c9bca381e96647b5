"""Sensitivity of variants to their calibration: change of KL and overlap of the masks of pairs."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import method_encoding, theme

TITLE = "What another calibration changes"
CAPTION = (
    "Each row is a pair of variants whose recipes differ only in the calibration tokens or the seed. Left: the mean "
    "teacher-forced KL of the second minus that of the first, paired by prompt and step. The 95 % interval is over "
    "prompts, if there are at least two. Right: the number of weights that both remove, divided by the number that at "
    "least one of them removes, and the expected value for two independent masks. The bar is the widest 95 % interval "
    "that sampling the masks can cause (Wilson). It is mostly narrower than the point."
)

MASKS = {"jaccard_removed": "these two masks", "expected_jaccard_removed": "two independent masks"}

_DIVERGENCES = (
    "n_prompts",
    "kl_nats",
    "other_kl_nats",
    "kl_difference_nats",
    "kl_difference_low_nats",
    "kl_difference_high_nats",
)


def _divergences(named: pl.DataFrame, y: alt.Y) -> theme.AnyChart:
    shown = named.filter(pl.col("kl_difference_nats").is_not_null())
    title = "KL of the second − KL of the first, nats"
    base = theme.Chart().encode(y=y)
    interval = (
        base.transform_filter("isValid(datum.kl_difference_low_nats)")
        .mark_rule(strokeWidth=2, color=theme.BLUE)
        .encode(x=alt.X("kl_difference_low_nats:Q", title=title), x2=alt.X2("kl_difference_high_nats:Q"))
    )
    return alt.layer(
        theme.Chart()
        .transform_aggregate(rows="count()")
        .mark_rule(strokeWidth=1, color=theme.GREY)
        .encode(x=alt.datum(0)),
        *([interval] if shown["kl_difference_low_nats"].count() else []),
        base.mark_point(filled=True, size=60, opacity=1, color=theme.BLUE).encode(
            x=alt.X("kl_difference_nats:Q", title=title, scale=alt.Scale(zero=True)),
            tooltip=theme.tooltip("pair:N", "differs_in:N", *(f"{column}:Q" for column in _DIVERGENCES)),
        ),
        data=theme.rows(shown.select("pair", "differs_in", *_DIVERGENCES)),
    ).properties(width=260, height=alt.Step(22))


def _masks(named: pl.DataFrame, y: alt.Y) -> theme.AnyChart:
    own, independent = MASKS
    data = pl.concat(
        [
            named.select(
                "pair", pl.lit(MASKS[own]).alias("masks"), pl.col(own).alias("overlap"), "jaccard_low", "jaccard_high"
            ),
            named.select("pair", pl.lit(MASKS[independent]).alias("masks"), pl.col(independent).alias("overlap")),
        ],
        how="diagonal",
    ).drop_nulls("overlap")
    title, scale = "overlap of the removed weights (Jaccard)", alt.Scale(domain=[0, 1])
    base = theme.Chart().encode(
        y=y,
        # The legend is below its panel, so that the rows of both panels stay level.
        color=theme.nominal(
            alt.Color, "masks", MASKS.values(), [theme.VERMILLION, theme.GREY], legend=alt.Legend(orient="bottom")
        ),
    )
    interval = (
        base.transform_filter("datum.jaccard_low < datum.jaccard_high")
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("jaccard_low:Q", title=title, scale=scale), x2=alt.X2("jaccard_high:Q"))
    )
    point = base.mark_point(size=60, opacity=1, filled=True).encode(
        x=alt.X("overlap:Q", title=title, scale=scale),
        shape=theme.nominal(alt.Shape, "masks", MASKS.values(), ["circle", "diamond"]),
        tooltip=theme.tooltip("pair:N", "masks:N", "overlap:Q", "jaccard_low:Q", "jaccard_high:Q"),
    )
    return alt.layer(interval, point, data=theme.rows(data)).properties(width=200, height=alt.Step(22))


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw rows of `q28_sensitivity_to_calibration` of one model."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no recipe was calibrated twice, on other tokens or with another seed")
    named = method_encoding.labelled(frame, "recipe", "other_recipe").with_columns(
        pl.format("{} → {} ({})", "recipe", "other_recipe", "differs_in").alias("pair")
    )
    order = theme.names(named, "pair")

    def y(*, labels: bool) -> alt.Y:
        axis = alt.Axis(labelLimit=330) if labels else alt.Axis(labelLimit=330, labels=False)
        return alt.Y("pair:N", title=None, sort=order, scale=alt.Scale(domain=order), axis=axis)

    parts = []
    if named["kl_difference_nats"].count():
        parts.append(_divergences(named, y(labels=True)))
    if named["jaccard_removed"].count():
        parts.append(_masks(named, y(labels=not parts)))
    chart = alt.hconcat(*parts, title=theme.title(TITLE, theme.models(frame)))
    return theme.themed(chart.resolve_legend(color="independent", shape="independent"))
