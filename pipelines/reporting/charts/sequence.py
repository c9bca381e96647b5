"""KL of the distributions over whole texts, dense against pruned and pruned against dense, one row per variant."""

from functools import partial

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
NEEDS = "the study samples no text from the full softmax (key `decoding` with `top_p: 1`)"

DIRECTIONS = {"teacher_forced": "KL(dense‖pruned), on dense texts", "own_text": "KL(pruned‖dense), on pruned texts"}
_VALUES = "sequence_kl_nats sequence_kl_low_nats sequence_kl_high_nats kl_per_token_nats"


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw rows of one model, two points per variant."""
    named = theme.with_variant(frame)
    values = _VALUES.split()
    direction = pl.col("trajectory").cast(pl.String).replace(DIRECTIONS).alias("direction")
    shown = named.filter(theme.has_logarithm("sequence_kl_nats")).with_columns(direction)
    if shown.is_empty():
        raise theme.NoData("every distance is 0")
    scale, axis = theme.decades(*theme.extent(*(shown[name] for name in values[:3])))
    x = partial(alt.X, title="KL over texts, nats per text", scale=scale, axis=axis)
    titles, colors = list(DIRECTIONS.values()), [theme.BLUE, theme.VERMILLION]
    legend = alt.Legend(orient="bottom", columns=1, labelLimit=300)
    base = theme.Chart().encode(
        y=alt.Y("variant:N", title=None, sort=theme.names(named, "variant")),
        yOffset=alt.YOffset("direction:N", sort=titles),
        color=theme.nominal(alt.Color, "direction", titles, colors, legend=legend),
    )
    interval = theme.valid(base, "sequence_kl_low_nats").mark_rule(strokeWidth=2)
    chart = alt.layer(
        interval.encode(**theme.span(x("sequence_kl_low_nats:Q"), "sequence_kl_high_nats:Q")),
        base.mark_point(filled=True, size=55, opacity=1).encode(
            x=x("sequence_kl_nats:Q"),
            shape=theme.nominal(alt.Shape, "direction", titles, ["circle", "diamond"]),
            tooltip=theme.tooltip(f"variant:N direction:N {_VALUES}"),
        ),
        data=theme.rows(shown.select("variant", "direction", *values)),
    ).properties(width=420, height=alt.Step(15, **{"for": "offset"}))
    return chart, [theme.about(frame, "model", f"{theme.size(frame, 'texts')} of {theme.size(frame)}")]
