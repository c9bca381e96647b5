"""Comparison of two variants and their paired difference: by hand, and against numpy and scipy."""

import math
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy import stats

from prunescope.warehouse.catalogue import comparison
from prunescope.warehouse.catalogue.comparison import Comparison, compare_pairs
from prunescope.warehouse.core.errors import WarehouseError
from tests.sql import reference_intervals
from tests.sql.built_tasks import task_sample
from tests.sql.built_texts import text_token
from tests.sql.built_whole import whole_warehouse
from tests.sql.reference_intervals import clustered
from tests.sql.warehouse_builder import Handmade, Memory, Row

Compare = Callable[[Handmade, str, str], Comparison]


@pytest.fixture
def compare(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Return a function that compares two variants of a warehouse in memory."""
    monkeypatch.setattr(comparison, "connected", lambda _: nullcontext(memory.connection))

    def compared(warehouse: Handmade, a: str, b: str) -> Comparison:
        memory.fill(warehouse)
        return comparison.compare("memory", a, b)

    return compared


def by_statistic(found: Comparison, measured_on: str) -> dict[str, Row]:
    rows = [row for row in found.rows.to_pylist() if row["measured_on"] == measured_on]
    assert len({row["statistic"] for row in rows}) == len(rows)
    return {row["statistic"]: row for row in rows}


def two_variants(*recipes: str) -> Handmade:
    warehouse = Handmade().model().variant("dense")
    for recipe in recipes or ("a", "b"):
        warehouse.variant(recipe)
    return warehouse


def test_difficulty_shared_by_both_cancels_in_the_paired_difference(compare: Compare) -> None:
    warehouse = two_variants()
    # Windows differ widely, but B is one bit worse at every token.
    for position, p in enumerate([1 / 4, 1 / 4, 1 / 64, 1 / 64], start=1):
        for recipe, bits in (("a", 1), ("b", 2)):
            text_token(warehouse, recipe, position, bits, window=position // 3, p_dense=p, p_pruned=p / 2**bits)
    found = by_statistic(compare(warehouse, "a", "tiny@b"), "text wiki")

    ln_ppl = found["ln_ppl"]
    assert (ln_ppl["a"], ln_ppl["b"]) == (pytest.approx(5 * math.log(2)), pytest.approx(6 * math.log(2)))
    assert ln_ppl["a_se"] == pytest.approx(2 * math.log(2))
    assert ln_ppl["difference"] == pytest.approx(math.log(2))
    assert ln_ppl["difference_se"] == pytest.approx(0, abs=1e-6)
    assert (found["ppl"]["a"], found["ppl"]["b"]) == (pytest.approx(32), pytest.approx(64))
    assert found["kl_mean_nats"]["difference"] == 1
    assert (found["share_nearer"]["a"], found["share_nearer"]["b"]) == (1, 0)
    assert (ln_ppl["tokens"], ln_ppl["clusters"]) == (4, 2)
    assert ln_ppl["difference_low"] is None, "two windows carry no interval"
    assert found["kl_p99_nats"]["difference_se"] is None


def test_texts_agree_with_numpy_and_scipy(compare: Compare) -> None:
    chance, warehouse, windows, each = np.random.default_rng(7), two_variants(), 8, 5
    count = windows * each
    window = np.arange(count) // each
    hard = chance.normal(size=windows)[window]  # tokens of a window err together
    kl = {side: np.exp(hard + chance.normal(size=count)).astype(np.float32).astype(float) for side in "ab"}
    p_dense = chance.uniform(0.01, 1, count)
    p = {side: np.clip(p_dense * np.exp(-kl[side] / 4), 1e-6, 1) for side in "ab"}
    same = {side: chance.random(count) < 0.7 for side in "ab"}
    for side in "ab":
        for at in range(count):
            text_token(
                warehouse,
                side,
                at + 1,
                kl[side][at],
                window=int(window[at]),
                p_dense=p_dense[at],
                p_pruned=p[side][at],
                flips=not same[side][at],
            )
    found = by_statistic(compare(warehouse, "a", "b"), "text wiki")

    nll, dp = {s: -np.log(p[s]) for s in "ab"}, {s: p[s] - p_dense for s in "ab"}
    rms = {s: math.sqrt((dp[s] ** 2).mean()) for s in "ab"}
    ppl = {s: math.exp(nll[s].mean()) for s in "ab"}
    nearer = {"a": (kl["a"] < kl["b"]).astype(float), "b": (kl["b"] < kl["a"]).astype(float)}
    # Value of each side, and the tokens whose mean has the same error to first order.
    expected = {
        "ln_ppl": ({s: nll[s].mean() for s in "ab"}, nll),
        "ppl": (ppl, {s: ppl[s] * nll[s] for s in "ab"}),
        "kl_mean_nats": ({s: kl[s].mean() for s in "ab"}, kl),
        "delta_p_mean": ({s: dp[s].mean() for s in "ab"}, dp),
        "delta_p_rms": (rms, {s: dp[s] ** 2 / (2 * rms[s]) for s in "ab"}),
        "top1_agreement": ({s: same[s].mean() for s in "ab"}, {s: same[s].astype(float) for s in "ab"}),
        "share_nearer": ({s: nearer[s].mean() for s in "ab"}, nearer),
    }
    quantile = stats.t.ppf(0.975, windows - 1)
    for name, (value, of) in expected.items():
        row, error = found[name], clustered(of["b"] - of["a"], window)
        assert (row["a"], row["b"]) == (pytest.approx(value["a"], rel=1e-5), pytest.approx(value["b"], rel=1e-5)), name
        assert row["a_se"] == pytest.approx(clustered(of["a"], window), rel=1e-5), name
        assert row["b_se"] == pytest.approx(clustered(of["b"], window), rel=1e-5), name
        assert row["difference_se"] == pytest.approx(error, rel=1e-5), name
        middle = value["b"] - value["a"]
        assert row["difference"] == pytest.approx(middle, rel=1e-4), name
        assert row["difference_low"] == pytest.approx(middle - quantile * error, rel=1e-3), name
        assert row["difference_high"] == pytest.approx(middle + quantile * error, rel=1e-3), name
    # Windows of one size: the paired error is that of a t test over the windows' means.
    means = [[kl[s][window == one].mean() for one in range(windows)] for s in "ba"]
    interval = stats.ttest_rel(*means).confidence_interval(0.95)
    assert found["kl_mean_nats"]["difference_low"] == pytest.approx(interval.low, rel=1e-3)
    for name, level in (("p999", 99.9), ("p99", 99), ("p95", 95), ("p90", 90), ("median", 50), ("p01", 1)):
        row = found[f"kl_{name}_nats"]
        assert row["b"] == pytest.approx(np.percentile(kl["b"], level), rel=1e-5)
        assert row["difference"] == pytest.approx(row["b"] - row["a"])


def test_generations_are_paired_by_prompt_and_step_with_errors_over_prompts(compare: Compare) -> None:
    chance, warehouse, lengths = np.random.default_rng(3), two_variants(), [3, 1, 4, 2, 5, 3]
    prompt = np.repeat(np.arange(len(lengths)), lengths)
    kl = {side: chance.lognormal(size=len(prompt)).astype(np.float32).astype(float) for side in "ab"}
    for side in "ab":
        for number, length in enumerate(lengths):
            warehouse.generation(side, f"p{number}")
            for step in range(length):
                warehouse.step(side, f"p{number}", step, kl[side][prompt == number][step])
        # Steps of one side only, and free-running ones, are not compared.
        warehouse.step(side, "p0", 7 if side == "a" else 8, 99.0)
        warehouse.step(side, "p0", 0, 99.0, trajectory="free_running")
    found = by_statistic(compare(warehouse, "a", "b"), "prompts")

    row, difference = found["kl_mean_nats"], kl["b"] - kl["a"]
    error = clustered(difference, prompt)
    assert (row["tokens"], row["clusters"]) == (len(prompt), len(lengths))
    assert row["difference"] == pytest.approx(difference.mean(), rel=1e-5)
    assert row["difference_se"] == pytest.approx(error, rel=1e-5)
    half = stats.t.ppf(0.975, len(lengths) - 1) * error
    assert row["difference_high"] == pytest.approx(difference.mean() + half, rel=1e-3)
    assert found["share_nearer"]["a"] == pytest.approx((kl["a"] < kl["b"]).mean())
    assert "ppl" not in found


def test_every_temperature_has_its_own_rows_and_ties_count_half(compare: Compare) -> None:
    warehouse = two_variants()
    for recipe in "ab":
        warehouse.generation(recipe, "p")
        for temperature in (0.5, 1.0):
            warehouse.step(recipe, "p", 0, temperature, temperature=temperature)
    rows = compare(warehouse, "a", "b").rows.to_pylist()

    shares = {row["temperature"]: row["a"] for row in rows if row["statistic"] == "share_nearer"}
    assert shares == {0.5: 0.5, 1.0: 0.5}
    assert {row["a_se"] for row in rows} == {None}, "one prompt says nothing about the error"


def test_every_kl_has_its_noise_floor(compare: Compare) -> None:
    warehouse = two_variants().variant("noise-batch", method="noise")
    for recipe, kl in (("a", 1.0), ("b", 2.0), ("noise-batch", 0.25)):
        text_token(warehouse, recipe, 1, kl)
        warehouse.generation(recipe, "p").step(recipe, "p", 0, kl / 2)
    rows = compare(warehouse, "a", "b").rows.to_pylist()

    floors = {(row["measured_on"], row["statistic"].startswith("kl_"), row["noise_p95"]) for row in rows}
    assert floors == {
        *(("text wiki", True, 0.25), ("text wiki", False, None)),
        *(("prompts", True, 0.125), ("prompts", False, None)),
    }


@pytest.mark.parametrize("change", [{"text_hash": "1" * 8}, {"context": 8}, {"stride": 1}])
def test_rounding_measured_under_other_conditions_is_no_floor(compare: Compare, change: dict[str, object]) -> None:
    warehouse = two_variants().variant("noise-batch", method="noise")
    for recipe in ("a", "b", "noise-batch"):
        text_token(warehouse, recipe, 1, 1.0)
    warehouse.where("text_tokens", recipe="noise-batch")[0].update(change)
    rows = compare(warehouse, "a", "b").rows.to_pylist()

    assert {row["noise_p95"] for row in rows} == {None}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"text_hash": "1" * 8}, "text wiki was scored in two ways: other contents"),
        ({"context": 8}, "text wiki was scored in two ways: context 4 and 8"),
        ({"stride": 1, "context": 3}, "context 4 and 3, stride 2 and 1"),
        ({"position": 9}, "text wiki was scored in two ways: no token in common"),
        ({"text_id": "other"}, "only b was scored on text other; only a was scored on text wiki"),
    ],
)
def test_a_text_with_two_settings_is_refused_with_the_reason(
    compare: Compare, change: dict[str, object], reason: str
) -> None:
    warehouse = two_variants()
    for recipe in "ab":
        text_token(warehouse, recipe, 1, 1.0)
    warehouse.where("text_tokens", recipe="b")[0].update(change)
    with pytest.raises(WarehouseError, match="a and b share nothing to compare: ") as refused:
        compare(warehouse, "a", "b")
    assert all(part in str(refused.value) for part in reason.split("; "))
    assert "neither has a teacher-forced generation" in str(refused.value)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("generations", "prompt p of the same name: other texts"),
        ("decoding_steps", "prompt p: other dense tokens, or no temperature in common"),
    ],
)
def test_prompts_with_other_texts_or_dense_tokens_are_not_paired(compare: Compare, table: str, reason: str) -> None:
    warehouse = two_variants()
    for recipe in "ab":
        text_token(warehouse, recipe, 1, 1.0)
        warehouse.generation(recipe, "p").step(recipe, "p", 0, 1.0)
    changed = {"prompt_text": "else?"} if table == "generations" else {"token_id_dense": 5, "token_id_pruned": 5}
    warehouse.where(table, recipe="b")[0].update(changed)
    found = compare(warehouse, "a", "b")
    assert set(found.rows["measured_on"].to_pylist()) == {"text wiki"}
    assert found.missing == (reason,)


def test_unpaired_prompts_are_reported_and_the_others_paired(compare: Compare) -> None:
    warehouse = two_variants()
    for recipe in "ab":
        for prompt in ("same", "other", f"only-{recipe}"):
            warehouse.generation(recipe, prompt).step(recipe, prompt, 0, 5.0 if prompt == "other" else 1.0)
    warehouse.where("generations", recipe="b", prompt_id="other")[0]["prompt_text"] = "else?"
    found = compare(warehouse, "a", "b")

    row = by_statistic(found, "prompts")["kl_max_nats"]
    assert (row["a"], row["tokens"]) == (1.0, 1)
    assert found.missing == (
        "neither was scored on a text",
        *("only a has prompt only-a", "only b has prompt only-b", "prompt other of the same name: other texts"),
    )


def test_tasks_are_paired_by_sample_with_an_exact_test(compare: Compare) -> None:
    chance, warehouse = np.random.default_rng(11), two_variants()
    right = {side: chance.random(30) < share for side, share in (("a", 0.8), ("b", 0.5))}
    nats = {side: np.float32(-chance.exponential(3, (9, 3))).astype(float) for side in "ab"}
    for side in "ab":
        for sample in range(30):
            # Lenient answers: right where they equal the dense model's; on sample 0 neither does.
            same = None if sample == 0 else bool(right[side][sample])
            known = {"is_correct": bool(right[side][sample]), "is_answer_same": same}
            task_sample(warehouse, side, "gsm8k", f"{sample:02d}", **known)
        for sample in range(9):
            task_sample(warehouse, side, "arc", f"{sample}", scoring="letter", log_likelihoods=nats[side][sample])
    task_sample(warehouse, "a", "gsm8k", "only A was asked")
    found = compare(warehouse, "a", "b")

    assert found.missing == ("neither was scored on a text", "neither has a teacher-forced generation")
    row = by_statistic(found, "task gsm8k")["exact_match"]
    only_a, only_b = int((right["a"] & ~right["b"]).sum()), int((right["b"] & ~right["a"]).sum())
    assert (row["only_a_right"], row["only_b_right"], row["clusters"]) == (only_a, only_b, 30)
    assert row["mcnemar_p"] == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)
    change = right["b"].astype(float) - right["a"]
    low, high = reference_intervals.of_paired_change(only_a, only_b, 30)
    assert (row["a"], row["difference"]) == (pytest.approx(right["a"].mean()), pytest.approx(change.mean()))
    assert (row["a_se"], row["difference_se"]) == (
        pytest.approx(stats.sem(right["a"])),
        pytest.approx(stats.sem(change)),
    )
    assert (row["difference_low"], row["difference_high"]) == (pytest.approx(low), pytest.approx(high))
    assert by_statistic(found, "task gsm8k")["agreement"]["clusters"] == 29
    letters = by_statistic(found, "task arc")
    assert set(letters) == {"accuracy_letter", "accuracy_letter_log_likelihood", "accuracy_letter_margin"}
    moved = nats["b"][:, 0] - nats["a"][:, 0]
    letter = letters["accuracy_letter_log_likelihood"]
    ends = stats.ttest_1samp(moved, 0).confidence_interval(0.95)
    assert (letter["difference"], letter["difference_low"], letter["difference_high"]) == pytest.approx(
        (moved.mean(), ends.low, ends.high), rel=1e-3
    )
    assert letters["accuracy_letter_log_likelihood"]["mcnemar_p"] is None


def test_the_tests_of_a_pair_are_corrected_together(compare: Compare) -> None:
    warehouse = two_variants()
    # The number of 15 samples that A alone answers right.
    for task, only_a in (("clear", 14), ("likely", 7), ("open", 2)):
        for sample in range(15):
            task_sample(warehouse, "a", task, f"{sample:02d}", is_correct=True)
            task_sample(warehouse, "b", task, f"{sample:02d}", is_correct=sample >= only_a)
    rows = compare(warehouse, "a", "b").rows.to_pylist()
    tests = sorted((row["mcnemar_p"], row["holm_p"]) for row in rows if row["mcnemar_p"] is not None)
    # Holm's: the smallest p times the number of tests, the next times one less, and none below that of a smaller p.
    stepped = [min(1.0, (len(tests) - place) * p) for place, (p, _) in enumerate(tests)]
    assert [holm for _, holm in tests] == pytest.approx([max(stepped[: place + 1]) for place in range(len(tests))])
    assert 2 * 0.5**14 < tests[0][1] < 0.01


def test_tasks_without_a_shared_sample_are_refused_with_the_reason(compare: Compare) -> None:
    warehouse = two_variants()
    task_sample(warehouse, "a", "gsm8k", "s", sample_hash="no example")
    task_sample(warehouse, "b", "gsm8k", "s", sample_hash="five examples")
    task_sample(warehouse, "b", "arc", "s", scoring="letter")
    with pytest.raises(WarehouseError, match="share nothing to compare: ") as refused:
        compare(warehouse, "a", "b")
    assert "task gsm8k has no sample that both were asked in the same way" in str(refused.value)
    assert "only b was scored on task arc" in str(refused.value)


@pytest.mark.exhaustive  # test_explorer.py compares pairs of a page with the command
@pytest.mark.usefixtures("compare")
def test_many_pairs_at_once_have_the_numbers_of_each_alone(memory: Memory) -> None:
    warehouse = whole_warehouse()
    # One has another prompt and other samples, so each pair shares different ones.
    for table, column in (
        ("generations", "prompt_text"),
        ("task_samples", "sample_hash"),
        ("text_tokens", "text_hash"),
    ):
        for row in warehouse.where(table, recipe="rtn-4bit")[::2]:
            row[column] = "another"
    recipes = ["wanda-50", "rtn-4bit", "dense"]
    pairs = [(a, b) for a in recipes for b in recipes if a != b]
    memory.fill(warehouse)
    found = compare_pairs(memory.connection, "tiny", pairs)

    assert [(one.recipe_a, one.recipe_b) for one in found] == pairs
    for one in found:
        alone = comparison.compare("memory", one.recipe_a, one.recipe_b)
        assert (one.prompts, one.missing) == (alone.prompts, alone.missing)
        assert_frame_equal(pl.DataFrame(one.rows), pl.DataFrame(alone.rows), rel_tol=1e-12)
    assert len({one.prompts for one in found}) == 2


def test_a_pair_that_shares_nothing_says_so_and_the_others_stay(memory: Memory) -> None:
    warehouse = two_variants("a", "b", "c", "unscored")
    for recipe in "abc":
        text_token(warehouse, recipe, 1, 1.0)
    warehouse.inputs["c"] = {"weight_hash": "2" * 64}
    memory.fill(warehouse)
    same, other, nothing = compare_pairs(memory.connection, "tiny", [("a", "b"), ("b", "c"), ("a", "unscored")])

    assert same.rows.num_rows
    assert not other.rows.num_rows
    assert not nothing.rows.num_rows
    assert other.missing[0].startswith("b and c were measured against different dense weights")
    assert nothing.missing[0] == "only a was scored on text wiki"


def test_variants_are_found_by_recipe_where_one_model_has_it(compare: Compare) -> None:
    warehouse = two_variants().model("other").variant("dense", model="other").variant("c", model="other")
    for recipe in ("dense", "a"):
        text_token(warehouse, recipe, 1, float(recipe == "a"))
    assert compare(warehouse, "tiny@dense", "a").model == "tiny"
    for a, b, message in (
        ("dense", "a", "'dense' is a recipe of other, tiny; write MODEL@RECIPE"),
        ("a", "c", "a is of model tiny and c of other; compare two variants of one model"),
        ("a", "tiny@a", "the same variant; name two"),
        ("a", "tiny@nope", "there is no variant 'tiny@nope'; did you mean 'tiny@b' or 'tiny@a' or 'tiny@dense'\\? see"),
        ("a' OR 1=1 --", "b", "there is no variant"),
        ("a", "b", "share nothing to compare: only a was scored on text wiki"),
    ):
        with pytest.raises(WarehouseError, match=message):
            compare(warehouse, a, b)


def test_variants_measured_against_other_dense_weights_are_refused(compare: Compare) -> None:
    warehouse = two_variants()
    for recipe in "ab":
        text_token(warehouse, recipe, 1, 1.0)
    for recipe, weights in (("a", "1" * 64), ("b", "2" * 64)):
        warehouse.inputs[recipe] = {"weight_hash": weights}
    with pytest.raises(WarehouseError, match="a and b were measured against different dense weights .111111111111…"):
        compare(warehouse, "a", "b")
