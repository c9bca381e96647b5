"""Loss in writing against loss in choosing, one panel per model."""

from typing import Any

import altair as alt
import polars as pl

from prunescope.pipelines.reporting.charts import method_encoding, theme

TITLE = "Is more lost in writing than in choosing?"
CAPTION = (
    "One point per variant: its loss as a share of the dense model's score above a guess, by right answers or by the "
    "dense model's own answers. The x axis is the mean over tasks that are answered by choosing an option, the y axis "
    "over tasks that are answered by writing. Bars are 95 % intervals, paired by answer. On the dashed diagonal both "
    "losses are equal; above it writing loses more. At 100 % nothing above a guess is left; below 0 the score rose. "
    "Tasks in which the dense model is not above a guess are left out. A label is left out if there is no room."
)
NEEDS = "no variant was scored in a task of each kind that the dense model solves"

# Labels closer than both of these, in losses, would overlap.
_MIN_DISTANCE = (0.42, 0.06)
_ENDS = "choosing_low choosing_high writing_low writing_high"
_MEASURES = {"score": "by right answers", "agreement": "by the dense model's own answers, right or wrong"}


def draw(frame: pl.DataFrame) -> theme.Drawn:
    """Draw a panel per model, the smallest first."""
    rows = method_encoding.labelled(frame.rename({"recipe": "variant"}), "method", "variant", "model")
    # Variants with little loss get their names first.
    places = rows.with_row_index("row").sort(pl.col("choosing") + pl.col("writing"), maintain_order=True)
    has_room = theme.with_room(places.select("model", "choosing", "writing").iter_rows(), *_MIN_DISTANCE)
    names = places.select("row", pl.when(pl.Series(has_room)).then("variant").otherwise(pl.lit("")).alias("label"))
    rows = rows.with_columns(names.sort("row")["label"])
    low, high = theme.extent(rows["choosing"], rows["writing"])
    domain = [min(low, 0.0) - 0.06, max(high, 1.0) + 0.06]
    axis = alt.Axis(format="~%", tickCount=6, grid=False)
    x, y = (
        channel(f"{kind}:Q", title=f"lost in {kind}", scale=alt.Scale(domain=domain, nice=False), axis=axis)
        for channel, kind in ((alt.X, "choosing"), (alt.Y, "writing"))
    )
    marks = method_encoding.encodings(rows["method"])
    diagonal = alt.Chart(theme.inline([{"at": domain[0]}, {"at": domain[1]}]))
    base = theme.Chart()
    bar: dict[str, Any] = {"strokeWidth": 1, "opacity": 0.45, "clip": True}
    intervals = [
        theme.valid(base, f"{kind}_low")
        .mark_rule(**bar)
        .encode(
            **{other: place} | theme.span(channel(f"{kind}_low:Q", title=f"lost in {kind}"), f"{kind}_high:Q"),
            color=marks["color"],
        )
        for channel, kind, other, place in ((alt.X, "choosing", "y", y), (alt.Y, "writing", "x", x))
    ]
    text = base.transform_filter("datum.label").mark_text(**theme.NAMES)
    chart = alt.layer(
        diagonal.mark_line(strokeDash=[4, 3], color=theme.GREY, clip=True).encode(x="at:Q", y="at:Q"),
        *intervals,
        base.mark_point(filled=True, size=50, opacity=0.9).encode(
            x=x,
            y=y,
            **marks,
            tooltip=theme.tooltip(f"variant:N method:N choosing writing {_ENDS}"),
        ),
        text.encode(x=x, y=y, text=alt.Text("label:N")),
        data=theme.rows(rows.drop("parameters", "measure")),
    ).properties(width=300, height=300)
    return theme.faceted(chart, "model", theme.names(rows, "model"), 2), [_MEASURES[frame["measure"][0]]]
