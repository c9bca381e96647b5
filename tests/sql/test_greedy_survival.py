"""Survival of greedy texts and the hazard of a flip, against numbers worked out by hand, scipy and brute force."""

import hashlib
import itertools

import numpy as np
import pytest
from scipy import optimize, stats

from tests.sql import reference_intervals
from tests.sql.warehouse_builder import Ask, Handmade, Row

# The first half of the steps has the one in the middle.
PROMPTS, STEPS, HALF = 24, 13, 7


def warehouse_of(texts: dict[str, str], recipe: str = "r", method: str = "wanda") -> Handmade:
    """Return a warehouse with the teacher-forced steps of each prompt: `x` flips, `=` does not, and `.` is its end."""
    warehouse = Handmade().model().variant("dense").variant(recipe, method=method)
    for prompt, steps in texts.items():
        kept, _, behind = steps.partition(".")
        warehouse.generation("dense", prompt, end_step=len(kept) - 1 if "." in steps else None)
        warehouse.generation(recipe, prompt)
        for step, sign in enumerate(kept + behind):
            warehouse.step(recipe, prompt, step, 1.0, flips=sign == "x")
            # The other trajectories, and the dense model itself, are not read.
            warehouse.step(recipe, prompt, step, 1.0, trajectory="free_running", flips=True)
            warehouse.step("dense", prompt, step)
    return warehouse


def curve(ask: Ask, warehouse: Handmade) -> list[Row]:
    return ask(warehouse, "select * from greedy_survival order by step")


def test_texts_leave_the_risk_set_by_their_first_flip_and_by_their_end(ask: Ask) -> None:
    # One text flips at once and again, one ends after two steps and flips only behind its end, one flips at step 2.
    rows = curve(ask, warehouse_of({"a": "xx==", "b": "==.xx", "c": "==x=", "d": "===="}))
    assert [(row["step"], row["texts_at_risk"], row["flips"]) for row in rows] == [
        (0, 4, 1),
        (1, 3, 0),
        (2, 2, 1),
        (3, 1, 0),
    ]
    assert [row["hazard"] for row in rows] == [1 / 4, 0, 1 / 2, 0]
    assert [row["equal_share"] for row in rows] == [3 / 4, 3 / 4, 3 / 8, 3 / 8]
    # As many texts as would be at risk without an end: 2 / (3/4) at step 2, 1 / (3/8) at step 3.
    for row, (equal, texts) in zip(rows, [(3, 4), (3, 4), (1, 8 / 3), (1, 8 / 3)], strict=True):
        expected = reference_intervals.wilson(equal, texts)
        assert (row["equal_share_low"], row["equal_share_high"]) == pytest.approx(expected)


def test_one_text_and_texts_without_a_flip_have_intervals_at_the_ends_of_the_scale(ask: Ask) -> None:
    (row,) = curve(ask, warehouse_of({"a": "x==="}))
    assert (row["equal_share"], row["equal_share_low"]) == (0, 0)
    assert row["equal_share_high"] == pytest.approx(reference_intervals.wilson(0, 1)[1])
    rows = curve(ask, warehouse_of({"a": "===", "b": "=.", "c": "===", "d": "==="}))
    assert [(row["equal_share"], row["equal_share_high"]) for row in rows] == [(1, 1)] * 3
    lows = [reference_intervals.wilson(texts, texts)[0] for texts in (4, 3, 3)]
    assert [row["equal_share_low"] for row in rows] == pytest.approx(lows)


def test_the_curve_is_that_of_scipy_and_without_ends_the_interval_is_the_binomial_one(ask: Ask) -> None:
    chance = np.random.default_rng(3)
    for has_ends in (True, False):
        texts, flips, ends = {}, [], []
        for prompt in range(30):
            flip, end = int(chance.geometric(0.2)) - 1, int(chance.integers(1, 9)) if has_ends else 8
            texts[f"p{prompt}"] = "".join("x" if step == flip else "=" for step in range(end)) + "." * (end < 8)
            flips += [flip] if flip < end else []
            # A text without a flip is known to be equal at its last step, and may flip at the next.
            ends += [end - 1] if flip >= end else []
        rows = curve(ask, warehouse_of(texts))
        reference = stats.ecdf(stats.CensoredData(uncensored=flips, right=ends)).sf
        assert [row["equal_share"] for row in rows] == pytest.approx(
            [float(reference.evaluate(row["step"])) for row in rows]
        )
        if not has_ends:
            equal = [30 - sum(flip <= row["step"] for flip in flips) for row in rows]
            assert [row["equal_share_high"] for row in rows] == pytest.approx(
                [reference_intervals.wilson(count, 30)[1] for count in equal]
            )


def test_noise_has_a_curve_of_its_own_and_the_temperature_counts_once(ask: Ask) -> None:
    warehouse = warehouse_of({"a": "=x", "b": "=="}, recipe="noise-bfloat16", method="noise")
    for prompt, step in itertools.product("ab", range(2)):
        warehouse.step("noise-bfloat16", prompt, step, 9.0, temperature=0.5, flips=prompt + str(step) == "a1")
    rows = curve(ask, warehouse)
    assert [(row["is_noise"], row["texts_at_risk"], row["equal_share"]) for row in rows] == [
        (True, 2, 1.0),
        (True, 2, 0.5),
    ]
    assert ask(warehouse, "select distinct margin_over_shift from greedy_steps") == [
        {"margin_over_shift": round(1 * np.sqrt(0.5 * 0.5 / 2.0), 2)}
    ]


def test_the_number_of_equal_tokens_follows_from_the_curve_and_its_interval(ask: Ask) -> None:
    # 100 texts: two flip at step 1, four at step 3, and 60 at step 5.
    signs = ["=x===="] * 2 + ["===x=="] * 4 + ["=====x"] * 60 + ["======"] * 34
    (row,) = ask(warehouse_of({f"p{at}": sign for at, sign in enumerate(signs)}), "greedy_survival_summary")
    assert (row["texts"], row["texts_flipped"], row["steps"]) == (100, 66, 6)
    # Shares 1, 0.98, 0.98, 0.94, 0.94, 0.34; Wilson's lower end of 0.98 is 0.93, the upper one of 0.94 is 0.97.
    assert [row[f"equal_tokens_95{end}"] for end in ("", "_low", "_high")] == [3, 1, 5]
    assert [row[f"equal_tokens_50{end}"] for end in ("", "_low", "_high")] == [5, 5, 5]


@pytest.mark.parametrize(("texts", "low"), [(72, None), (73, 4)])
def test_too_few_texts_give_no_lower_end_and_texts_without_a_flip_no_upper_one(
    ask: Ask, texts: int, low: int | None
) -> None:
    (row,) = ask(warehouse_of({f"p{at}": "====" for at in range(texts)}), "greedy_survival_summary")
    assert (row["equal_tokens_95"], row["equal_tokens_95_low"], row["equal_tokens_95_high"]) == (4, low, None)


def test_the_ratio_survives_a_p_of_one_and_a_shift_of_zero(ask: Ask) -> None:
    warehouse = Handmade().model().variant("r")
    given: list[Row] = [
        {"margin_dense": 2.0, "p_dense_top1_dense": 0.8, "var_p_dz": 4.0},
        {"margin_dense": 2.0, "p_dense_top1_dense": 0.8, "var_p_dz": 0.0},
        # 1 − p is rounded to 0; that of the second token is exp(−20).
        {"margin_dense": 20.0, "p_dense_top1_dense": 1.0, "var_p_dz": float(np.exp(-20) * 100)},
        {"margin_dense": 0.0, "p_dense_top1_dense": 0.3, "var_p_dz": 1.0},
        {"margin_dense": 20.0, "p_dense_top1_dense": 0.5, "var_p_dz": 1.0},
    ]
    for step, row in enumerate(given):
        warehouse.step("r", "p", step, 1.0, **row, t3_kl_nats=row["var_p_dz"] / 2)
    rows = ask(warehouse, "select margin_over_shift from greedy_steps order by step")
    assert [row["margin_over_shift"] for row in rows] == [0.4, 5.0, 2.0, 0.0, 5.0]


def hazards(chance: np.random.Generator, slope: float = -2.0) -> tuple[np.ndarray, np.ndarray]:
    """Return ratios and flips, prompt × step, of a logistic hazard."""
    ratios = np.round(np.minimum(chance.lognormal(0, 1, (PROMPTS, STEPS)), 5), 2)
    return ratios, chance.random(ratios.shape) < 1 / (1 + np.exp(-1 - slope * ratios))


def stored(ratios: np.ndarray, flips: np.ndarray) -> Handmade:
    """Return a warehouse of these ratios: p = 1/2 and a variance of 1/4 make the ratio the margin."""
    warehouse = Handmade().model().variant("r")
    for prompt, step in np.ndindex(ratios.shape):
        warehouse.step(
            "r",
            f"p{prompt}",
            step,
            1.0,
            flips=bool(flips[prompt, step]),
            margin_dense=float(ratios[prompt, step]),
            t3_kl_nats=0.125,
        )
    return warehouse


def fold_of(prompt: int) -> int:
    """Return the fifth of the prompts: the lowest bytes of the MD5 of the name, read as DuckDB's md5_number does."""
    return int.from_bytes(hashlib.md5(f"p{prompt}".encode()).digest(), "little") % 5  # noqa: S324 - not for safety


def predictions(ask: Ask, ratios: np.ndarray, flips: np.ndarray) -> dict[tuple[int, int], tuple[float, float]]:
    rows = ask(stored(ratios, flips), "greedy_hazards")
    return {
        (int(row["prompt_id"][1:]), row["step"]): (row["flip_probability"], row["flip_probability_constant"])
        for row in rows
    }


def test_the_hazard_is_the_likeliest_one_by_scipy_for_earlier_steps_of_other_prompts(ask: Ask) -> None:
    ratios, flips = hazards(np.random.default_rng(0))
    found = predictions(ask, ratios, flips)
    assert sorted(found) == [(prompt, step) for prompt in range(PROMPTS) for step in range(HALF, STEPS)]
    folds = np.array([fold_of(prompt) for prompt in range(PROMPTS)])
    assert len(set(folds)) == 5
    for fold in range(5):
        x, y = (side[folds != fold, :HALF].ravel() for side in (ratios, flips))

        def loss(weights: np.ndarray, x: np.ndarray = x, y: np.ndarray = y) -> float:
            logits = weights[0] + weights[1] * x
            return float(np.logaddexp(0, logits).sum() - logits[y].sum() + 0.005 * (weights**2).sum())

        a, b = optimize.minimize(loss, np.zeros(2), tol=1e-10).x
        for prompt in np.flatnonzero(folds == fold):
            for step in range(HALF, STEPS):
                expected = 1 / (1 + np.exp(-a - b * ratios[prompt, step]))
                assert found[int(prompt), step] == pytest.approx((expected, y.mean()), abs=1e-5)


def test_no_prediction_knows_its_own_prompt_or_a_later_step(ask: Ask) -> None:
    ratios, flips = hazards(np.random.default_rng(1))
    before = predictions(ask, ratios, flips)
    later, own = flips.copy(), flips.copy()
    later[:, HALF:] ^= True
    own[3] ^= True
    # The order of a sum moves the last digit.
    assert all(value == pytest.approx(before[key], rel=1e-9) for key, value in predictions(ask, ratios, later).items())
    after = predictions(ask, ratios, own)
    same = {key for key in before if after[key] == pytest.approx(before[key], rel=1e-9)}
    assert same == {key for key in before if fold_of(key[0]) == fold_of(3)}


def test_flips_that_the_ratio_separates_and_no_flips_have_a_finite_hazard(ask: Ask) -> None:
    ratios, _ = hazards(np.random.default_rng(2))
    separated = ratios < 0.5
    found = predictions(ask, ratios, separated)
    clear = {key: found[key][0] for key in found if abs(ratios[key] - 0.5) > 0.2}
    assert len(clear) > len(found) / 2
    assert all((probability > 0.5) == separated[key] for key, probability in clear.items())
    none = predictions(ask, ratios, np.zeros_like(separated))
    assert all(0 < probability < 0.02 and constant == 0 for probability, constant in none.values())
    (row,) = ask(stored(ratios, np.zeros_like(separated)), "greedy_survival_summary")
    assert (row["measured_flips"], row["brier_skill"], row["calibration_error"]) == (0, None, None)


def test_one_prompt_or_one_step_predicts_nothing(ask: Ask) -> None:
    ratios, flips = hazards(np.random.default_rng(2))
    assert ask(stored(ratios[:1], flips[:1]), "greedy_hazards") == []
    assert ask(stored(ratios[:, :1], flips[:, :1]), "greedy_hazards") == []


def test_the_scores_are_those_of_numpy_and_a_ratio_that_says_nothing_has_no_skill(ask: Ask) -> None:
    for slope, is_useful in ((-2.0, True), (0.0, False)):
        chance = np.random.default_rng(5)
        ratios, flips = hazards(chance, slope)
        rows = ask(stored(ratios, flips), "greedy_hazards")
        (row,) = ask(stored(ratios, flips), "q39_survival_of_greedy_texts")
        y, p, constant = (
            np.array([float(one[name]) for one in rows])
            for name in ("is_flip", "flip_probability", "flip_probability_constant")
        )
        assert row["brier_score"] == pytest.approx(((y - p) ** 2).mean())
        assert row["brier_score_constant"] == pytest.approx(((y - constant) ** 2).mean())
        assert row["brier_skill"] == pytest.approx(1 - row["brier_score"] / row["brier_score_constant"])
        prompts = np.array([one["prompt_id"] for one in rows])
        error, other = (
            np.array([((y - side)[prompts == one] ** 2).sum() for one in np.unique(prompts)]) for side in (p, constant)
        )
        half = reference_intervals.half_width(lambda w: (w * error).sum() / (w * other).sum(), PROMPTS)  # noqa: B023
        assert row["brier_skill_high"] - row["brier_skill"] == pytest.approx(half, rel=1e-3)
        assert (row["brier_skill_low"] > 0) == is_useful
        tenths = np.array_split(np.lexsort(([one["step"] for one in rows], prompts, p)), 10)
        differences = [abs((p - y)[tenth].sum()) for tenth in tenths]
        assert row["calibration_error"] == pytest.approx(sum(differences) / len(y))
        # The predictions are right on average; twice the expectation is beyond chance.
        assert row["calibration_error"] < 2 * row["calibration_error_expected"]
        deciles = ask(stored(ratios, flips), "q40_calibration_of_flip_hazards")
        assert [one["n"] for one in deciles] == [len(tenth) for tenth in tenths]
        assert [one["flip_share"] for one in deciles] == pytest.approx([y[tenth].mean() for tenth in tenths])
        assert [one["flip_probability"] for one in deciles] == pytest.approx([p[tenth].mean() for tenth in tenths])


def test_the_expected_calibration_error_is_that_of_true_predictions(ask: Ask) -> None:
    ratios, flips = hazards(np.random.default_rng(6))
    rows = ask(stored(ratios, flips), "greedy_hazards")
    p, decile = (np.array([row[name] for row in rows]) for name in ("flip_probability", "decile"))
    y = np.random.default_rng(7).random((4000, len(p))) < p
    simulated = sum(abs((y - p)[:, decile == one].sum(1)) for one in range(1, 11)) / len(p)
    (row,) = ask(stored(ratios, flips), "greedy_survival_summary")
    # Few flips in a decile are not normal.
    assert row["calibration_error_expected"] == pytest.approx(simulated.mean(), rel=0.15)
