"""The most likely tokens of both models at one step, the first flip: the paper's Figure 8, for every recipe.

Token texts come from strangers' models; `text.visible` makes each of them one short line.
"""

import altair as alt
import polars as pl

from pipelines.charts import theme
from pipelines.charts.text import label, visible

TITLE = "Top tokens of both models at the first flip"
CAPTION = (
    "The tokens that either model ranks among its six most likely, with the probability that each gives them, while "
    "both read the dense tokens: the square is the dense model, the circle the variant. The step is the first at which "
    "the variant alone would write another token, or step 0 where it never does. ␣ is a space, ↵ a line break. The "
    "first four prompts by name."
)
QUERY = """\
select tokens.model, tokens.recipe, tokens.prompt_id, tokens.step, generations.first_flip_step, tokens.token_id,
       left(any_value(tokens.token_text), 60) as token_text,
       any_value(tokens.probability_dense) as probability_dense,
       any_value(tokens.probability_pruned) as probability_pruned,
       min(tokens.rank) filter (where tokens.side = 'dense') as rank_dense,
       min(tokens.rank) filter (where tokens.side = 'pruned') as rank_pruned
from stg_top_tokens as tokens
inner join stg_generations as generations
    on tokens.model = generations.model
        and tokens.recipe = generations.recipe
        and tokens.prompt_id = generations.prompt_id
anti join noise_variants as noise on tokens.model = noise.model and tokens.recipe = noise.recipe
where tokens.recipe <> 'dense'
    and tokens.trajectory = 'teacher_forced'
    and tokens.rank <= 6
    and tokens.step = coalesce(generations.first_flip_step, 0)
group by tokens.model, tokens.recipe, tokens.prompt_id, tokens.step, generations.first_flip_step, tokens.token_id
qualify dense_rank() over (partition by tokens.model order by tokens.prompt_id) <= 4
order by tokens.model, tokens.prompt_id, tokens.recipe, probability_dense desc, probability_pruned desc,
         tokens.token_id"""

SIDES = {"dense": theme.BLUE, "pruned": theme.VERMILLION}
COLUMNS = 3
_LIMIT = 14  # columns of a token's text


def _panel(rows: pl.DataFrame) -> theme.AnyChart:
    """One variant at its step."""
    # Two tokens can look alike, so that the place orders them and the text only labels them.
    labelled = rows.with_row_index("place").with_columns(
        pl.col("token_text").map_elements(lambda text: visible(text, _LIMIT), return_dtype=pl.String).alias("token")
    )
    data = pl.concat(
        labelled.select(
            "place",
            "token",
            "token_id",
            pl.lit(side).alias("side"),
            pl.col(f"probability_{side}").cast(pl.Float64).alias("probability"),
            pl.col("probability_dense").cast(pl.Float64).alias("dense"),
            pl.col(f"rank_{side}").alias("rank"),
        )
        for side in SIDES
    )
    flip, step = rows["first_flip_step"][0], rows["step"][0]
    heading = f"{rows['variant'][0]}, step {step}" + ("" if flip is not None else " (no flip)")
    base = alt.Chart().encode(y=alt.Y("place:O", title=None, axis=None))
    x = alt.X(
        "probability:Q",
        title="probability",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(values=[0, 0.5, 1], format="~g"),
    )
    link = base.transform_filter("datum.side == 'pruned'").mark_rule(style="quiet").encode(x=x, x2=alt.X2("dense"))
    words = (
        base.transform_filter("datum.side == 'dense'")
        .mark_text(align="right", dx=-6, font=theme.MONOSPACE, fontSize=11, clip=False)
        .encode(x=alt.value(0), text="token:N")
    )
    ends = base.mark_point(filled=True, size=50, opacity=0.9).encode(
        x=x,
        color=alt.Color("side:N", title=None, scale=alt.Scale(domain=list(SIDES), range=list(SIDES.values()))),
        shape=alt.Shape("side:N", title=None, scale=alt.Scale(domain=list(SIDES), range=["square", "circle"])),
        tooltip=["token:N", "token_id:Q", "side:N", "probability:Q", "rank:Q"],
    )
    return alt.layer(link, words, ends, data=theme.rows(data)).properties(
        width=150, height=alt.Step(16), title=alt.TitleParams(heading, fontSize=12, anchor="middle", frame="group")
    )


def draw(frame: pl.DataFrame) -> theme.AnyChart:
    """Draws one row per variant and token, of one model and one prompt."""
    if frame.is_empty():
        return theme.no_data(TITLE, "no variant has its most likely tokens kept")
    named = theme.with_variant(frame)
    panels = [_panel(rows) for rows in named.partition_by("variant", maintain_order=True)]
    prompts = ", ".join(label(prompt) for prompt in theme.names(frame, "prompt_id"))
    return theme.themed(
        alt.concat(
            *panels,
            columns=min(COLUMNS, len(panels)),
            title=theme.title(TITLE, f"{theme.models(frame)} · prompt {prompts}"),
        )
    )
