"""The questions about theorems and geometry (q01 to q10), against hand-made points and independent statistics."""

import numpy as np
import pytest
from scipy import stats

from prunescope.warehouse.catalogue import database
from tests.sql import reference_intervals
from tests.sql.reference_intervals import auc_of_pairs, weighted_correlation
from tests.sql.warehouse_builder import Ask, Handmade, Row

RECIPE = "wanda-50"


def about(value: float) -> object:
    """Compare within the precision of a float32 column."""
    return pytest.approx(value, rel=1e-5)


def spiky(prompts: int, steps: int = 12, seed: int = 0) -> tuple[Handmade, dict[str, np.ndarray]]:
    """Generate output KL and a local variance that partly follows it, with ties, as arrays prompt × step."""
    chance = np.random.default_rng(seed)
    kl = chance.gamma(0.5, 1.0, (prompts, steps)).astype(np.float32)
    variance = np.round(kl + chance.gamma(1.0, 0.5, kl.shape), 1).astype(np.float32) + np.float32(0.125)
    warehouse = Handmade()
    for prompt, step in np.ndindex(kl.shape):
        warehouse.step(RECIPE, f"p{prompt:02}", step, float(kl[prompt, step]))
        warehouse.step(RECIPE, f"p{prompt:02}", step, 9.0, trajectory="free_running")
        for scope, value in (("local", variance[prompt, step]), ("propagated", 1.0)):
            warehouse.transition(RECIPE, f"p{prompt:02}", step, 1.0, scope=scope, var_p_dz=float(value))
        warehouse.transition(RECIPE, f"p{prompt:02}", step, layer=1, is_changed=False)
        warehouse.transition("dense", f"p{prompt:02}", step).step("dense", f"p{prompt:02}", step)
    return warehouse, {"kl": kl, "variance": variance}


def test_q01_agrees_with_independent_statistics(ask: Ask) -> None:
    warehouse, data = spiky(prompts=6)
    kl, variance = data["kl"], data["variance"]
    is_spike = kl > np.quantile(kl.astype(float), 0.9)
    top = (stats.rankdata(variance.ravel(), method="min") - 1) / (kl.size - 1) >= 0.9
    (row,) = ask(warehouse, "q01_spike_predictors")
    bounds = {name for name in row if name.endswith(("_low", "_high"))}

    assert {name: value for name, value in row.items() if name not in bounds} == {
        "model": "tiny", "recipe": RECIPE, "layer": 0, "sublayer": "attn", "lens": "normed", "n": 72, "n_prompts": 6,
        "n_spikes": 8, "spearman": about(stats.spearmanr(variance.ravel(), kl.ravel()).statistic),
        "auc": about(auc_of_pairs(variance, is_spike)),
        "top_decile_lift": about(is_spike.ravel()[top].mean() / is_spike.mean()),
        "top_decile_var_p_dz": about(variance.ravel()[top].min()),
    }  # fmt: skip
    assert all(row[bound] is not None for bound in bounds)


@pytest.mark.parametrize(("prompts", "seed"), [(6, 2), (12, 0)])
def test_q01_has_the_intervals_of_a_jackknife_over_prompts(prompts: int, seed: int, ask: Ask) -> None:
    warehouse, data = spiky(prompts, seed=seed)
    kl, variance = data["kl"], data["variance"]
    is_spike = kl > np.quantile(kl.astype(float), 0.9)
    order = stats.rankdata(variance, method="min").reshape(kl.shape)
    is_top = (order - 1) / (kl.size - 1) >= 0.9
    ranks = [stats.rankdata(values).reshape(kl.shape) for values in (variance, kl)]

    def log_lift(weights: np.ndarray) -> float:
        of_top = (weights[:, None] * is_top * is_spike).sum() / (weights[:, None] * is_top).sum()
        return float(np.log(of_top / (weights[:, None] * is_spike).mean() * weights.mean()))

    def auc(weights: np.ndarray) -> float:
        return auc_of_pairs(variance, is_spike, weights)

    def spearman(weights: np.ndarray) -> float:
        return weighted_correlation(ranks[0], ranks[1], weights)

    (row,) = ask(warehouse, "q01_spike_predictors")
    everything = np.ones(prompts)
    for name, expected in (
        (
            "spearman",
            reference_intervals.on_fishers_scale(
                spearman(everything), reference_intervals.half_width(spearman, prompts)
            ),
        ),
        ("auc", reference_intervals.of_auc(auc(everything), reference_intervals.half_width(auc, prompts))),
        (
            "top_decile_lift",
            np.exp(log_lift(everything) + np.array([-1, 1]) * reference_intervals.half_width(log_lift, prompts)),
        ),
    ):
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(tuple(expected), rel=1e-3), name


def test_q01_ranks_outputs_over_the_whole_variant(ask: Ask) -> None:
    warehouse, data = spiky(prompts=6)
    rows = warehouse.rows["layer_transitions"]
    kept = [row for row in rows if row["step"] % 2 or row["recipe"] == "dense"]
    warehouse.rows["layer_transitions"] = kept
    (row,) = ask(warehouse, "q01_spike_predictors")
    ranks = stats.rankdata(data["kl"]).reshape(data["kl"].shape)[:, 1::2].ravel()

    assert row["n"] == 36
    assert row["spearman"] == about(np.corrcoef(stats.rankdata(data["variance"][:, 1::2]), ranks)[0, 1])


def test_q01_includes_the_uncertainty_between_prompts(ask: Ask) -> None:
    chance = np.random.default_rng(3)
    shift = np.repeat(chance.normal(0, 2, 12), 12)
    kl = np.exp(chance.normal(0, 0.3, shift.size) + shift)
    variance = np.exp(chance.normal(0, 0.3, shift.size) + shift * chance.choice([0.2, 1], shift.size))
    widths = []
    for prompts in (np.repeat(np.arange(12), 12), np.tile(np.arange(12), 12)):
        warehouse = Handmade()
        steps = dict.fromkeys(range(12), 0)
        for prompt, at, local in zip(prompts, kl, variance, strict=True):
            warehouse.step(RECIPE, f"p{prompt:02}", steps[prompt], at)
            warehouse.transition(RECIPE, f"p{prompt:02}", steps[prompt], 1.0, var_p_dz=local)
            steps[prompt] += 1
        (row,) = ask(warehouse, "q01_spike_predictors")
        widths.append(row["spearman_high"] - row["spearman_low"])
    together, scattered = widths

    assert together > 1.5 * scattered


def test_q01_bounds_spikes_from_three_prompts_with_spikes_on(ask: Ask) -> None:
    warehouse, _ = spiky(prompts=2, steps=20)
    (row,) = ask(warehouse, "q01_spike_predictors")

    assert row["n_prompts"] == 2
    assert row["auc"] is not None
    bounds = {name for name, value in row.items() if name.endswith(("_low", "_high")) and value is not None}
    assert bounds == {"spearman_low", "spearman_high"}


def test_q01_has_no_row_for_constant_or_few_values(ask: Ask) -> None:
    flat = Handmade()
    for step in range(20):
        flat.step(RECIPE, "p", step, 0.1).transition(RECIPE, "p", step, 1.0, var_p_dz=0.1)
        flat.step("few", "p", step, float(step))
    for step in range(4):
        flat.transition("few", "p", step, 1.0, var_p_dz=step + 1.0)
    few, constant = sorted(ask(flat, "q01_spike_predictors"), key=lambda row: row["recipe"])
    figures = ("spearman", "auc", "top_decile_lift")
    measures = [name for name in few if name.startswith(figures)]

    assert (few["n"], constant["n"], constant["n_spikes"]) == (4, 20, 0)
    assert len(measures) == 9
    assert {few[name] for name in measures} == {constant[name] for name in measures} == {None}


def test_q01_gives_correlations_but_no_ranking_of_two_spikes(ask: Ask) -> None:
    warehouse = Handmade()
    for step in range(12):
        warehouse.step(RECIPE, "p", step, step + 1.0).transition(RECIPE, "p", step, 1.0, var_p_dz=step + 1.0)
    (row,) = ask(warehouse, "q01_spike_predictors")

    assert (row["n"], row["n_spikes"], row["spearman"]) == (12, 2, about(1.0))
    assert row["auc"] is row["top_decile_lift"] is None


def fit_points(truths: list[float], ratios: list[float], **where: object) -> Handmade:
    """Build points in which all four estimates are the truth times the ratio."""
    warehouse = Handmade()
    for step, (truth, ratio) in enumerate(zip(truths, ratios, strict=True)):
        spaces = {f"one_minus_cos_{space}": truth for space in "hzp"}
        estimates = dict.fromkeys(("t1_h", "t1_z", "t2_p", "t3_kl_nats"), truth * ratio)
        warehouse.step(RECIPE, "p", step).transition(
            RECIPE, "p", step, truth, kl_pruned_dense_nats=2 * truth, **spaces, **estimates, **where
        )
    return warehouse


TRUTHS = [10.0**-power for power in range(11)]
RATIOS = [1.0, 1.05, 0.95, 1.09, 0.92, 1.0, 1.2, 0.7, 2.0, 1.0, 1.5]


def expected_fit(truths: list[float], ratios: list[float], shown_ratios: list[float]) -> Row:
    """Compute the common columns by numpy and scipy."""
    truth, estimate = np.array(truths), np.array(truths) * np.array(ratios)
    return {
        "n": len(truths),
        "pearson_log10": about(stats.pearsonr(np.log10(estimate), np.log10(truth)).statistic),
        "pearson": about(stats.pearsonr(estimate, truth).statistic),
        "ratio_median": about(np.median(shown_ratios)),
        "ratio_p10": about(np.quantile(shown_ratios, 0.1)),
        "ratio_p90": about(np.quantile(shown_ratios, 0.9)),
        "share_within_10_percent": about(np.mean(np.abs(np.array(shown_ratios) - 1) <= 0.1)),
    }


def fit_of(row: Row) -> Row:
    return {name: row[name] for name in expected_fit(TRUTHS, RATIOS, RATIOS)}


def test_q02_q03_and_q04_agree_with_independent_statistics(ask: Ask) -> None:
    warehouse = fit_points(TRUTHS, RATIOS)
    hidden, logits = ask(warehouse, "q02_fit_of_theorem_1")
    (probabilities,) = ask(warehouse, "q03_fit_of_theorem_2")
    forward, backward = ask(warehouse, "q04_fit_of_theorem_3")

    assert (hidden["theorem"], logits["theorem"]) == ("T1 h", "T1 z")
    assert (forward["direction"], backward["direction"]) == ("dense_pruned", "pruned_dense")
    for row in (hidden, logits, probabilities, forward):
        assert fit_of(row) == expected_fit(TRUTHS, RATIOS, RATIOS)
    assert fit_of(backward) == expected_fit(TRUTHS, RATIOS, [ratio / 2 for ratio in RATIOS])


def test_q02_counts_a_point_once_whatever_the_number_of_temperatures(ask: Ask) -> None:
    warehouse = fit_points(TRUTHS, RATIOS)
    for step, truth in enumerate(TRUTHS):
        warehouse.step(RECIPE, "p", step, temperature=0.5)
        warehouse.transition(RECIPE, "p", step, truth, temperature=0.5)

    assert [row["n"] for row in ask(warehouse, "q02_fit_of_theorem_1")] == [11, 11]
    assert [row["temperature"] for row in ask(warehouse, "q03_fit_of_theorem_2")] == [0.5, 1.0]


def test_a_fit_names_its_worst_layer_and_counts_only_moved_points(ask: Ask) -> None:
    warehouse = Handmade().transition("dense", "p", 0).transition(RECIPE, "p", 0, layer=9, is_changed=False)
    for layer, ratio in enumerate((1.5, 1.0, 0.5)):
        warehouse.step(RECIPE, "p", layer)
        warehouse.transition(RECIPE, "p", layer, 1.0, layer=layer, t3_kl_nats=ratio)
    row = ask(warehouse, "q04_fit_of_theorem_3")[0]

    assert (row["n"], row["worst_layer"], row["worst_layer_ratio_median"]) == (3, 2, 0.5)
    assert row["pearson"] is row["pearson_log10"] is None


def test_every_estimate_has_a_fit_and_a_worst_layer_of_its_own(ask: Ask) -> None:
    warehouse = Handmade()
    for layer, (h, z, kl, reverse) in enumerate([(1.0, 2.0, 1.0, 0.1), (4.0, 2.0, 1.0, 0.5), (1.0, 7.0, 0.3, 0.3)]):
        warehouse.step(RECIPE, "p", layer)
        truths = {"one_minus_cos_h": 0.1, "one_minus_cos_z": 0.1, "kl_pruned_dense_nats": kl / reverse}
        estimates = {"t1_h": 0.1 * h, "t1_z": 0.1 * z, "t3_kl_nats": kl}
        warehouse.transition(RECIPE, "p", layer, 1.0, layer=layer, **truths, **estimates)
    found = {
        row[name]: (row["ratio_median"], row["worst_layer"], row["worst_layer_ratio_median"])
        for question, name in (("q02_fit_of_theorem_1", "theorem"), ("q04_fit_of_theorem_3", "direction"))
        for row in ask(warehouse, question)
    }

    assert found == {
        "T1 h": (about(1), 1, about(4)),
        "T1 z": (about(2), 2, about(7)),
        "dense_pruned": (about(1), 2, about(0.3)),
        "pruned_dense": (about(0.3), 0, about(0.1)),
    }


def test_an_estimate_of_zero_is_the_worst_and_does_not_break_the_fit(ask: Ask) -> None:
    warehouse = Handmade().step(RECIPE, "p", 0).transition(RECIPE, "p", 0, 1.0, t3_kl_nats=0.0)
    warehouse.transition(RECIPE, "p", 0, 1.0, layer=1, t3_kl_nats=100.0)
    row = ask(warehouse, "q04_fit_of_theorem_3")[0]

    assert (row["n"], row["worst_layer"], row["worst_layer_ratio_median"]) == (2, 0, 0.0)


@pytest.mark.parametrize(
    ("ratios", "has_logarithmic"),
    [
        ([0.0, 0.0, *(1 + index / 10 for index in range(10))], True),
        ([0.0, 0.0, 0.0, *(1 + index / 10 for index in range(9))], False),  # nine logarithms
    ],
)
def test_zero_estimates_count_for_all_but_the_correlation_of_logarithms(
    ratios: list[float], has_logarithmic: bool, ask: Ask
) -> None:
    truths = [1 / (1 + index) for index in range(12)]
    estimates = np.array(truths) * ratios
    (row,) = ask(fit_points(truths, ratios), "q03_fit_of_theorem_2")
    kept = estimates > 0
    logarithmic = stats.pearsonr(np.log10(estimates[kept]), np.log10(np.array(truths)[kept])).statistic

    assert (row["n"], row["pearson"]) == (12, about(stats.pearsonr(estimates, truths).statistic))
    assert row["pearson_log10"] == (about(logarithmic) if has_logarithmic else None)


def test_constant_logarithms_beside_zero_estimates_have_no_correlation(ask: Ask) -> None:
    # Estimates are 0 or 0.1, which vary; of the logarithms only that of 0.1 is left.
    truths = [0.1 * (1 + index) for index in range(12)]
    ratios = [0.0, 0.0, *(0.1 / truth for truth in truths[2:])]
    (row,) = ask(fit_points(truths, ratios), "q03_fit_of_theorem_2")
    # The truth varies only where the estimate is 0.
    (other,) = ask(fit_points([0.2, *[0.1] * 11], [0.0, *(1 + step for step in range(11))]), "q03_fit_of_theorem_2")

    assert row["pearson"] is not None
    assert other["pearson"] is not None
    assert row["pearson_log10"] is other["pearson_log10"] is None


def test_q05_shows_the_deviation_from_which_the_estimate_fails(ask: Ask) -> None:
    truths = [index / 100 for index in range(1, 21)]
    rows = ask(fit_points(truths, [1.0 if truth <= 0.1 else 1.5 for truth in truths]), "q05_bias_by_deviation")
    rows = [row for row in rows if row["theorem"] == "T2 p"]

    assert [row["decile"] for row in rows] == list(range(1, 11))
    assert [row["n"] for row in rows] == [2] * 10
    assert [row["is_good"] for row in rows] == [True] * 5 + [False] * 5
    assert (rows[9]["truth_min"], rows[9]["truth_max"], rows[9]["ratio_median"]) == (
        about(0.19),
        about(0.2),
        about(1.5),
    )
    assert (rows[0]["share_within_10_percent"], rows[9]["share_within_10_percent"]) == (1.0, 0.0)


def test_q05_keeps_equal_truths_in_one_decile(ask: Ask) -> None:
    rows = ask(fit_points([0.5] * 20, [1.0] * 20), "q05_bias_by_deviation")

    assert {(row["theorem"], row["decile"], row["n"]) for row in rows} == {
        (theorem, 1, 20) for theorem in ("T1 h", "T1 z", "T2 p", "T3 KL")
    }


def test_q05_thins_each_model_by_its_own_records(ask: Ask) -> None:
    warehouse = fit_points([0.5] * 12, [1.0] * 12)
    for step in range(4):
        warehouse.transition(RECIPE, "p", step, 0.5, model="small")
    thinned = database.view_sql()["q05_bias_by_deviation"].sql.replace("500000", "4")
    rows = ask(warehouse, f"select distinct model, n from ({thinned}) order by model")

    # Every third position of the large model stays, and of the small one every position.
    assert rows == [{"model": "small", "n": 4}, {"model": "tiny", "n": 4}]


def geometry(**columns: list[float]) -> Handmade:
    """Build one sublayer at several positions with these columns, and rows that must not count."""
    warehouse = Handmade().step("dense", "p", 0).transition("dense", "p", 0)
    for step, values in enumerate(zip(*columns.values(), strict=True)):
        warehouse.step(RECIPE, "p", step)
        warehouse.transition(RECIPE, "p", step, 1.0, **dict(zip(columns, values, strict=True)))
        warehouse.transition(RECIPE, "p", step, layer=1, is_changed=False)
    return warehouse


def test_q06_calls_a_layer_non_local_where_theorem_1_is_a_tenth_off(ask: Ask) -> None:
    (row,) = ask(geometry(orth_rel_h=[0.1, 0.4, 0.5]), "q06_non_local_layers")
    angle = 0.37

    assert (row["n"], row["is_non_local"]) == (3, True)
    assert (row["orth_rel_h_median"], row["orth_rel_h_max"]) == (about(0.4), 0.5)
    assert row["share_non_local"] == about(2 / 3)
    assert angle**2 / 2 / (1 - 1 / np.sqrt(1 + angle**2)) == pytest.approx(1.1, abs=0.005)


def test_q07_relates_each_space_to_the_one_before(ask: Ask) -> None:
    warehouse = geometry(
        one_minus_cos_h=[0.25, 0.25, 0.25, 0.0], one_minus_cos_z=[0.125, 0.5, 0.25, 0.25], one_minus_cos_p=[0.5] * 4
    )
    (row,) = ask(warehouse, "q07_amplification")

    assert (row["layer"], row["n"]) == (0, 3)
    assert (row["h_to_z_median"], row["h_to_z_p10"], row["h_to_z_p90"]) == (1.0, about(0.6), about(1.8))
    assert (row["z_to_p_median"], row["z_to_p_p10"], row["z_to_p_p90"]) == (2.0, about(1.2), about(3.6))
    assert row["share_amplified"] == about(2 / 3)


def test_q08_shows_whether_the_head_compresses(ask: Ask) -> None:
    (row,) = ask(geometry(orth_rel_h=[0.5, 0.5, 0.25, 0.0], orth_rel_z=[0.25, 0.125, 0.5, 1.0]), "q08_head_compression")

    assert (row["n"], row["z_over_h_median"], row["orth_rel_h_median"], row["orth_rel_z_median"]) == (3, 0.5, 0.5, 0.25)
    assert row["share_compressed"] == about(2 / 3)


def test_q09_splits_the_shift_into_along_and_across(ask: Ask) -> None:
    rows = ask(geometry(par_rel_z=[-0.5, 0.5, -0.5], orth_rel_z=[0.5, 0.0, 0.5]), "q09_parallel_against_orthogonal")
    row = next(row for row in rows if row["space"] == "z")

    assert {row["space"] for row in rows} == {"h", "z", "p"}
    assert (row["n"], row["par_rel_median"], row["par_rel_abs_median"], row["orth_rel_median"]) == (3, -0.5, 0.5, 0.5)
    assert row["orthogonal_share_median"] == 0.5


def test_q09_thins_each_model_by_its_own_records(ask: Ask) -> None:
    warehouse = Handmade()
    for model, steps in (("large", 12), ("small", 4)):
        for step in range(steps):
            warehouse.step(RECIPE, "p", step, model=model)
            for layer in range(2):
                warehouse.transition(RECIPE, "p", step, 0.5, model=model, layer=layer, orth_rel_h=float(step))
    thinned = database.view_sql()["q09_parallel_against_orthogonal"].sql.replace("1500000", "8")
    query = f"select model, layer, n, orth_rel_median from ({thinned}) where space = 'h' order by model, layer"

    # Of 24 records, those of every third position stay, in the next layer the ones before. Of 8 all stay, and of every
    # layer one did not move.
    assert [tuple(row.values()) for row in ask(warehouse, query)] == [
        ("large", 0, 4, 6.5),
        ("large", 1, 4, 5.5),
        ("small", 0, 3, 2.0),
        ("small", 1, 3, 2.0),
    ]


def test_q10_says_which_weighting_follows_the_divergence(ask: Ask) -> None:
    chance = np.random.default_rng(1)
    kl, noise = chance.uniform(0.1, 1, 12), chance.uniform(0.1, 1, 12)
    warehouse = geometry(
        kl_dense_pruned_nats=list(kl), var_p_dz=list(2 * kl), var_uniform_dz=list(noise), one_minus_cos_p=list(kl)
    )
    (row,) = ask(warehouse, "q10_weighting_of_the_variance")
    log = np.log10(kl), np.log10(noise)

    assert (row["n"], row["p_over_uniform_median"]) == (12, about(np.median(2 * kl / noise)))
    assert row["r_over_uniform_median"] == about(np.median(2 * kl / noise))
    assert (row["pearson_log10_var_p_kl"], row["pearson_log10_var_r_cos_p"]) == (about(1.0), about(1.0))
    assert row["pearson_log10_var_uniform_kl"] == about(stats.pearsonr(*log).statistic)
    assert row["pearson_log10_var_uniform_cos_p"] == about(stats.pearsonr(*log).statistic)


def test_q10_compares_dense_and_pruned_weights_with_both_directions_of_the_kl(ask: Ask) -> None:
    chance = np.random.default_rng(2)
    kl, reverse, var_q, var_rq = (chance.uniform(0.1, 1, 12) for _ in range(4))
    temperature, warehouse = 0.5, Handmade()
    for step, values in enumerate(zip(kl, reverse, var_q, var_rq, strict=True)):
        warehouse.step(RECIPE, "p", step, temperature=temperature).transition(
            RECIPE, "p", step, values[0], temperature=temperature, kl_pruned_dense_nats=values[1],
            var_p_dz=values[0], var_q_dz=values[2], var_rq_dz=values[3], one_minus_cos_p=values[1],
        )  # fmt: skip
    (row,) = ask(warehouse, "q10_weighting_of_the_variance")
    estimates = {"p": kl / (2 * temperature**2), "q": var_q / (2 * temperature**2)}

    assert row["q_over_p_median"] == about(np.median(var_q / kl))
    for weight, estimate in estimates.items():
        for name, truth in (("kl", kl), ("kl_pruned_dense", reverse)):
            assert row[f"{weight}_estimate_over_{name}_median"] == about(np.median(estimate / truth))
            correlation = stats.pearsonr(np.log10(estimate), np.log10(truth)).statistic
            assert row[f"pearson_log10_var_{weight}_{name}"] == about(correlation)
    assert row["pearson_log10_var_rq_cos_p"] == about(stats.pearsonr(np.log10(var_rq), np.log10(reverse)).statistic)
