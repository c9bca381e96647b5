"""How far every two variants remove the same weights, as a matrix.

Counting the weights is the query's business.
"""

import altair as alt
import polars as pl

from pipelines.charts import theme

TITLE = "Which variants remove the same weights"
CAPTION = (
    "Weights that both variants remove over weights that at least one removes (Jaccard), summed over all matrices, "
    "each sample of a matrix weighted with the weights that it stands for: 1 is the same mask, 0 a disjoint one. The "
    "small number below is the overlap of two masks of these sizes that know nothing of each other. The greatest "
    "standard error that sampling can cause stands in the tooltip. Variants that remove nothing are left out."
)
# |A ∪ B| = (|A| + |B|)/(1 + j) in each matrix, and the sums over matrices give one j.
QUERY = """\
with counts as (
    select model, recipe, other_recipe, weights, removed_share, other_removed_share,
           weights * (removed_share + other_removed_share) / (1 + coalesce(jaccard_removed, 0)) as either_removed,
           jaccard_removed, jaccard_removed_se,
           weights * removed_share * other_removed_share as both_expected,
           weights * (removed_share + other_removed_share - removed_share * other_removed_share) as either_expected
    from mask_overlap
)
select model, recipe, other_recipe, count(*) as matrices,
       sum(coalesce(jaccard_removed, 0) * either_removed) / sum(either_removed) as jaccard_removed,
       sqrt(sum((coalesce(jaccard_removed_se, 0) * either_removed) ** 2)) / sum(either_removed) as jaccard_removed_se,
       sum(both_expected) / sum(either_expected) as jaccard_removed_expected
from counts
group by model, recipe, other_recipe
having sum(weights * removed_share) > 0 and sum(weights * other_removed_share) > 0
order by model, recipe, other_recipe"""


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draws the pairs of one model's variants, the lower triangle of the matrix."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no two variants with masks were sampled")
    recipes = sorted(set(frame["recipe"].cast(pl.String)) | set(frame["other_recipe"].cast(pl.String)))
    names = theme.distinct_labels(recipes)
    named = frame.with_columns(
        pl.col(column).cast(pl.String).replace_strict(names) for column in ("recipe", "other_recipe")
    ).drop("model")
    order = list(names.values())
    cell = 44 if len(order) <= 16 else 26
    size = 11 if cell == 44 else 9
    base = alt.Chart(theme.rows(named)).encode(
        x=alt.X(
            "recipe:N",
            title=None,
            sort=order,
            scale=alt.Scale(domain=order[:-1]),
            axis=alt.Axis(labelAngle=-40, domain=False, ticks=False),
        ),
        y=alt.Y(
            "other_recipe:N",
            title=None,
            sort=order,
            scale=alt.Scale(domain=order[1:]),
            axis=alt.Axis(domain=False, ticks=False),
        ),
    )
    ink = alt.condition("datum.jaccard_removed > 0.55", alt.value("white"), alt.value(theme.INK))
    layers = [
        base.mark_rect().encode(
            color=alt.Color(
                "jaccard_removed:Q",
                title="overlap of the removed weights (Jaccard)",
                scale=alt.Scale(scheme="blues", domain=[0, 1]),
                legend=alt.Legend(gradientLength=200),
            ),
            tooltip=[
                "recipe:N",
                "other_recipe:N",
                "jaccard_removed:Q",
                "jaccard_removed_se:Q",
                "jaccard_removed_expected:Q",
                "matrices:Q",
            ],
        ),
        base.mark_text(fontSize=size, dy=-5 if cell == 44 else 0).encode(
            text=alt.Text("jaccard_removed:Q", format=".2f"), color=ink
        ),
    ]
    if cell == 44:
        layers.append(
            base.mark_text(fontSize=9, dy=9).encode(
                text=alt.Text("jaccard_removed_expected:Q", format=".2f"), color=ink, opacity=alt.value(0.8)
            )
        )
    chart = alt.layer(*layers).properties(
        width=alt.Step(cell),
        height=alt.Step(cell),
        view=alt.ViewBackground(stroke=None),
        title=theme.title(TITLE, theme.models(frame)),
    )
    return theme.themed(chart)
