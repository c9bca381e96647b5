"""The measures of damage and their intervals, and the paired intervals of q27, against numbers worked out slowly."""

import numpy as np
import pytest
from scipy import stats

from tests.sql import reference_intervals
from tests.sql.warehouse_builder import Ask, Handmade

# 97.5 % quantile of Student's t with 5 degrees of freedom, as tables have it.
T5 = 2.570582
PROMPTS, STEPS = 6, 8
RNG = np.random.default_rng(3)
KLS = {name: RNG.lognormal(-1 + size, 1, (PROMPTS, STEPS)).astype(np.float32).astype(float)
       for size, name in enumerate(("rtn-8", "wanda-50", "rtn-4"))}  # fmt: skip


def about(value: float) -> object:
    """Compare within the precision of float32 columns and a series for t."""
    return pytest.approx(value, rel=1e-3)


def half_width(influences: np.ndarray) -> float:
    """Return the half-width by Student's t over clusters, from each one's deviation from its expected part."""
    n = len(influences)
    return T5 * np.sqrt(n / (n - 1) * (influences**2).sum())


def flips(kls: np.ndarray) -> np.ndarray:
    return kls > 0.5


def measured(prompts: int = PROMPTS) -> Handmade:
    """Build a pruned variant between two quantized ones in KL, on many prompts and questions; two are shorter."""
    warehouse = Handmade().variant("dense")
    for recipe, kls in ({"dense": np.zeros((PROMPTS, STEPS))} | KLS).items():
        if recipe != "dense":
            warehouse.variant(recipe, method=recipe.split("-")[0], removed=0.0 if "rtn" in recipe else 0.5)
        for prompt in range(prompts):
            for step in range(steps_of(prompt)):
                kl = kls[prompt, step]
                warehouse.step(recipe, f"p{prompt}", step, kl, flips=bool(flips(kl)))
                warehouse.step(recipe, f"p{prompt}", step, 3 * kl, trajectory="own_text", flips=bool(flips(kl)))
                warehouse.step(recipe, f"p{prompt}", step, 9.0 * (kl > 0), trajectory="free_running")
            warehouse.generation(
                recipe, f"p{prompt}", flip=0 if kls[prompt, 0] > 0.5 else None, collapse=4 if prompt == 1 else None
            )
            warehouse.options(recipe, f"q{prompt}", [0.4, 0.3], [0.3, 0.4] if kls[prompt, 1] > 1 else [0.4, 0.3])
    return warehouse


def steps_of(prompt: int) -> int:
    return STEPS - 3 if prompt < 2 else STEPS


def change_of(recipe: str) -> tuple[float, np.ndarray]:
    """Return the share of steps with another top token, and each prompt's part of it."""
    changed = np.array([flips(KLS[recipe][prompt, : steps_of(prompt)]).sum() for prompt in range(PROMPTS)])
    lengths = np.array([steps_of(prompt) for prompt in range(PROMPTS)])
    share = changed.sum() / lengths.sum()
    return share, (changed - share * lengths) / lengths.sum()


def growths(recipe: str) -> np.ndarray:
    """Return the mean KL that reading its own text adds after the first step, by prompt that flips there."""
    flipped = [prompt for prompt in range(PROMPTS) if KLS[recipe][prompt, 0] > 0.5]
    return np.array([2 * KLS[recipe][prompt, 1 : steps_of(prompt)].mean() for prompt in flipped])


def mean_kl(recipe: str) -> float:
    return np.concatenate([KLS[recipe][prompt, : steps_of(prompt)] for prompt in range(PROMPTS)]).mean()


def test_every_measure_equals_that_of_the_summary_as_a_damage(ask: Ask) -> None:
    (row,) = ask(
        measured(),
        """select map(list(measure), list(amount)) as damage, any_value(columns(summary.*))
        from variant_damage inner join variant_summary as summary using (model, recipe) where recipe = 'wanda-50'""",
    )

    assert row["damage"] == pytest.approx(
        {
            "top1_change": 1 - row["top1_agreement"],
            "kl_step0_nats": row["kl_step0_nats"],
            "flipped_share": row["prompts_flipped"] / row["prompts"],
            "collapsed_share": row["prompts_collapsed"] / row["prompts"],
            "options_changed_share": 1 - row["options_argmax_kept"] / row["questions"],
            "first_flip_step_median": row["first_flip_step_median"],
            # A step on its own text has three times the KL of the one on the dense text.
            "kl_growth_nats": growths("wanda-50").mean(),
        }
    )
    assert 0 < row["damage"]["options_changed_share"] < 1
    assert 0 < row["damage"]["collapsed_share"] < 1


def test_shares_have_wilsons_interval_and_nats_students_over_the_prompts(ask: Ask) -> None:
    rows = {row["measure"]: row for row in ask(measured(), "select * from variant_damage where recipe = 'wanda-50'")}
    first = KLS["wanda-50"][:, 0]
    flipped = int((first > 0.5).sum())

    assert {row["n_units"] for measure, row in rows.items() if measure != "kl_growth_nats"} == {PROMPTS}
    flipping = rows["flipped_share"]
    assert 0 < flipped < PROMPTS
    assert flipping["amount"] == about(flipped / PROMPTS)
    ends = reference_intervals.wilson(flipped, PROMPTS)
    assert (flipping["amount_low"], flipping["amount_high"]) == (about(ends[0]), about(ends[1]))
    assert rows["kl_step0_nats"]["amount"] == about(first.mean())
    # Of the logarithm of the mean.
    factor = np.exp(half_width((first - first.mean()) / PROMPTS) / first.mean())
    assert rows["kl_step0_nats"]["amount_high"] == about(first.mean() * factor)
    assert rows["kl_step0_nats"]["amount_low"] == about(first.mean() / factor)
    lengths = [steps_of(prompt) for prompt in range(PROMPTS)]
    changed = [int(flips(KLS["wanda-50"][prompt, :length]).sum()) for prompt, length in enumerate(lengths)]
    ends = reference_intervals.over_clusters(changed, lengths)
    assert (rows["top1_change"]["amount_low"], rows["top1_change"]["amount_high"]) == (about(ends[0]), about(ends[1]))


def test_the_growth_of_the_kl_has_students_interval_over_the_prompts_that_flip(ask: Ask) -> None:
    (row,) = ask(measured(), "from variant_damage where recipe = 'wanda-50' and measure = 'kl_growth_nats'")
    own = growths("wanda-50")
    spread = stats.t.ppf(0.975, len(own) - 1) * own.std(ddof=1) / np.sqrt(len(own))

    assert 1 < len(own) < PROMPTS
    assert row["n_units"] == len(own)
    assert (row["amount"], row["amount_low"], row["amount_high"]) == (
        about(own.mean()),
        about(own.mean() - spread),
        about(own.mean() + spread),
    )


def test_a_text_without_a_flip_or_a_second_trajectory_does_not_count_as_growth(ask: Ask) -> None:
    warehouse = Handmade().variant("dense").variant("wanda-50").variant("noise-batch", method="noise")
    for recipe, prompt, flip in (("wanda-50", "p", 0), ("wanda-50", "same", None), ("wanda-50", "forced alone", 0),
                                 ("noise-batch", "p", 0)):  # fmt: skip
        warehouse.generation(recipe, prompt, flip=flip)
        for step in range(4):
            warehouse.step(recipe, prompt, step, 1 + step)
            if step < 3 and prompt != "forced alone":
                warehouse.step(recipe, prompt, step, 0.5 + step, trajectory="own_text")
    rows = ask(warehouse, "from variant_damage where measure = 'kl_growth_nats'")

    # After step 0, the steps that both have: 1.5 and 2.5 on its own text, 2 and 3 on the dense one.
    assert [(row["recipe"], row["amount"], row["amount_low"], row["n_units"]) for row in rows] == [
        ("wanda-50", about(-0.5), None, 1)
    ]


# By first flips, None for never: the median, and the ends that the sign test does not reject. Of 6 values only their
# range covers the median in 95 % of studies, 1 − 2 / 2⁶; of 9 the second and the eighth do, 1 − 20 / 2⁹.
@pytest.mark.parametrize(
    ("flips", "expected"),
    [
        ([5, 1, 3, 2, 4], (3, None, None)),
        ([6, 5, 1, 3, 2, 4], (3.5, 1, 6)),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], (5, 2, 8)),
        ([4, 3, None, 2, 1, 7, None, 6, 5], (5, 2, None)),
        ([4, 3, None, 2, 1, None, None, None, None], (None, 2, None)),
        ([7, 7, 7, 7, 7, 7], (7, 7, 7)),
        ([1, *[None] * 8], None),
        ([None] * 9, None),
    ],
)
def test_a_median_first_flip_has_the_order_statistics_of_the_sign_test_and_no_end_beyond_the_texts(
    ask: Ask, flips: list[int | None], expected: tuple[float | None, ...] | None
) -> None:
    warehouse = Handmade().variant("dense").variant("wanda-50")
    for prompt, flip in enumerate(flips):
        warehouse.generation("wanda-50", f"p{prompt}", flip=flip)
    rows = ask(warehouse, "from variant_damage where recipe = 'wanda-50' and measure = 'first_flip_step_median'")

    assert [(row["amount"], row["amount_low"], row["amount_high"]) for row in rows] == ([expected] if expected else [])


def test_q27_does_not_compare_by_a_measure_whose_units_are_not_paired(ask: Ask) -> None:
    warehouse = measured()
    own = {row["measure"] for row in ask(warehouse, "from variant_damage where not is_comparable")}

    assert own == {"kl_growth_nats", "first_flip_step_median"}
    rows = ask(warehouse, "from q27_pruning_against_quantization")
    assert rows
    assert {row["measure"] for row in rows} & own == set()


def test_deviations_of_prompts_from_a_measure_sum_to_zero(ask: Ask) -> None:
    rows = ask(measured(), "select sum(influence) as total, sum(abs(influence)) as size, count(*) as n "
                           "from damage_influences where recipe <> 'dense' group by recipe, measure")  # fmt: skip

    assert {row["n"] for row in rows} == {PROMPTS}
    assert len(rows) == 15
    for row in rows:
        assert abs(row["total"]) <= 1e-12 * max(1, row["size"])


def test_q27_pairs_a_difference_by_prompt_with_both_neighbours_by_their_weights(ask: Ask) -> None:
    (row,) = ask(measured(), "select * from q27_pruning_against_quantization where measure = 'top1_change'")
    weight = (mean_kl("wanda-50") - mean_kl("rtn-8")) / (mean_kl("rtn-4") - mean_kl("rtn-8"))
    (share, own), (below, its), (above, others) = (change_of(recipe) for recipe in ("wanda-50", "rtn-8", "rtn-4"))
    difference = share - (1 - weight) * below - weight * above
    spread = half_width(own - (1 - weight) * its - weight * others)

    assert 0 < weight < 1
    assert row["difference"] == about(difference)
    assert (row["difference_low"], row["difference_high"]) == (about(difference - spread), about(difference + spread))


def test_q27_bounds_a_difference_more_tightly_than_either_side_where_prompts_vary(ask: Ask) -> None:
    warehouse = Handmade().variant("dense")
    for recipe, scale in (("dense", 0.0), ("wanda-50", 1.0), ("rtn-8", 0.9), ("rtn-4", 1.1)):
        if scale:
            warehouse.variant(recipe, method=recipe.split("-")[0], removed=0.0 if "rtn" in recipe else 0.5)
        for prompt in range(PROMPTS):
            own = 0.01 * (prompt % 2) if recipe == "wanda-50" else 0.0
            warehouse.step(recipe, f"p{prompt}", 0, scale * (prompt + 1) + own)
    (row,) = ask(warehouse, "select * from q27_pruning_against_quantization where measure = 'kl_step0_nats'")
    sides = ask(warehouse, "select * from variant_damage where measure = 'kl_step0_nats' and recipe <> 'dense'")

    assert min(side["amount_high"] - side["amount_low"] for side in sides) > 3
    assert 0 < row["difference_high"] - row["difference_low"] < 0.02


def test_one_prompt_carries_no_interval_of_nats_and_none_of_a_difference(ask: Ask) -> None:
    warehouse = measured(prompts=1)
    rows = ask(warehouse, "q27_pruning_against_quantization")
    damage = ask(warehouse, "select * from variant_damage where recipe = 'wanda-50'")

    assert rows
    assert {row["difference_low"] for row in rows} == {None}
    assert {row["measure"] for row in damage if row["amount_low"] is None} == {
        "kl_step0_nats",
        "kl_growth_nats",
        "first_flip_step_median",
    }
