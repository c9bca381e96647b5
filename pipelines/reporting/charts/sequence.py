"""KL of the distributions over whole texts, dense against pruned and pruned against dense, one row per variant."""

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import theme

TITLE = "How far apart dense and pruned model are over whole texts"
CAPTION = (
    "KL of the two distributions over sampled texts: the sum over the tokens of a text, averaged over texts of the "
    "model on the left of the ‖. A text that is cut counts with its first tokens. Bars are 95 % intervals over prompts "
    "(Student's t of the logarithm); without a bar the interval is not known. Noise variants are the dense model with "
    "other rounding. They come last and show the distance without any pruning. A distance of 0 is not drawn."
)

DIRECTIONS = {"teacher_forced": "KL(dense‖pruned), on dense texts", "own_text": "KL(pruned‖dense), on pruned texts"}
_VALUES = ("sequence_kl_nats", "sequence_kl_low_nats", "sequence_kl_high_nats", "kl_per_token_nats")


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw rows of one model, two points per variant."""
    if frame.is_empty():
        return theme.no_data(TITLE, "the study samples no text from the full softmax (key `decoding` with `top_p: 1`)")
    named = theme.with_variant(frame)
    shown = named.filter(theme.has_logarithm("sequence_kl_nats")).with_columns(
        pl.col("trajectory").cast(pl.String).replace(DIRECTIONS).alias("direction")
    )
    if shown.is_empty():
        return theme.no_data(TITLE, "every distance is 0")
    scale, axis = theme.decades(*theme.extent(*(shown[name] for name in _VALUES[:3])))
    title = "KL over texts, nats per text"
    base = theme.Chart().encode(
        y=alt.Y("variant:N", title=None, sort=theme.names(named, "variant")),
        yOffset=alt.YOffset("direction:N", sort=[*DIRECTIONS.values()]),
        color=theme.nominal(
            alt.Color,
            "direction",
            DIRECTIONS.values(),
            [theme.BLUE, theme.VERMILLION],
            legend=alt.Legend(orient="bottom", columns=1, labelLimit=300),
        ),
    )
    interval = (
        base.transform_filter("isValid(datum.sequence_kl_low_nats)")
        .mark_rule(strokeWidth=2)
        .encode(
            x=alt.X("sequence_kl_low_nats:Q", title=title, scale=scale, axis=axis),
            x2=alt.X2("sequence_kl_high_nats:Q"),
        )
    )
    point = base.mark_point(filled=True, size=55, opacity=1).encode(
        x=alt.X("sequence_kl_nats:Q", title=title, scale=scale, axis=axis),
        shape=theme.nominal(alt.Shape, "direction", DIRECTIONS.values(), ["circle", "diamond"]),
        tooltip=theme.tooltip("variant:N", "direction:N", *(f"{name}:Q" for name in _VALUES)),
    )
    texts = int(frame["texts"].max())  # type: ignore[arg-type]
    prompts = theme.prompts(int(frame["prompts"].max()))  # type: ignore[arg-type]
    return theme.themed(
        alt.layer(interval, point, data=theme.rows(shown.select("variant", "direction", *_VALUES))).properties(
            width=420,
            height=alt.Step(15, **{"for": "offset"}),
            title=theme.title(TITLE, f"{theme.models(frame)} · {texts} texts of {prompts}"),
        )
    )
