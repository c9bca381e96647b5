"""Loss in writing against loss in choosing, one panel per model."""

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

# Labels closer than both of these, in losses, would overlap.
_MIN_DISTANCE = (0.42, 0.06)
_MEASURES = {"score": "by right answers", "agreement": "by the dense model's own answers, right or wrong"}
_ENDS = ("choosing_low", "choosing_high", "writing_low", "writing_high")


def labels(frame: pl.DataFrame) -> list[str]:
    """Return the names of the variants whose labels have room, "" for the others; rows with little loss come first."""
    names, taken = dict.fromkeys(range(frame.height), ""), list[tuple[str, float, float]]()
    rows = frame.select("model", "variant", "choosing", "writing").rows()
    for index in sorted(names, key=lambda index: rows[index][2] + rows[index][3]):
        model, variant, x, y = rows[index]
        if not any(
            model == other and abs(x - a) < _MIN_DISTANCE[0] and abs(y - b) < _MIN_DISTANCE[1] for other, a, b in taken
        ):
            taken.append((model, x, y))
            names[index] = variant
    return [names[index] for index in range(frame.height)]


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draw a panel per model, the smallest first."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no variant was scored in a task of each kind that the dense model solves")
    rows = method_encoding.labelled(frame.rename({"recipe": "variant"}), "method", "variant")
    rows = rows.with_columns(
        pl.col("model").cast(pl.String).replace_strict(theme.distinct_labels(frame["model"].cast(pl.String))),
        pl.Series("label", labels(rows)),
    )
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
    intervals = [
        base.transform_filter(f"isValid(datum.{kind}_low)")
        .mark_rule(strokeWidth=1, opacity=0.45, clip=True)
        .encode(
            **{
                along: type(ends)(f"{kind}_low:Q", title=f"lost in {kind}"),
                f"{along}2": f"{kind}_high:Q",
                across: other,
            },
            color=marks["color"],
        )
        for kind, along, ends, across, other in (("choosing", "x", x, "y", y), ("writing", "y", y, "x", x))
    ]
    chart = alt.layer(
        diagonal.mark_line(strokeDash=[4, 3], color=theme.GREY, clip=True).encode(x="at:Q", y="at:Q"),
        *intervals,
        base.mark_point(filled=True, size=50, opacity=0.9).encode(
            x=x,
            y=y,
            **marks,
            tooltip=theme.tooltip(
                "variant:N",
                "method:N",
                "choosing:Q",
                "writing:Q",
                *(f"{end}:Q" for end in _ENDS),
            ),
        ),
        base.transform_filter("datum.label")
        .mark_text(align="left", dx=7, dy=-6, fontSize=10, limit=130)
        .encode(x=x, y=y, text=alt.Text("label:N")),
        data=theme.rows(rows.drop("parameters", "measure")),
    )
    return theme.themed(
        chart.properties(width=300, height=300).facet(
            facet=alt.Facet("model:N", title=None, sort=theme.names(rows, "model")),
            columns=2,
            title=theme.title(TITLE, _MEASURES[frame["measure"][0]]),
        )
    )
