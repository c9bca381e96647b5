"""Statistics of a text that llama.cpp prints, against numbers worked out by hand and against numpy."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.sql.built_texts import text_token
from tests.sql.reference_intervals import clustered
from tests.sql.warehouse_builder import Ask, Handmade, Row

NOISE = {f"kl_noise_{name}_nats" for name in ("mean", "max", "p99", "p95", "median")}
NOISE |= {"ln_ppl_ratio_noise", "delta_p_rms_noise", "top1_agreement_noise"}
# The lines of the tool, in its order, and the columns that hold them.
PRINTED = {
    "Mean PPL(Q)": "ppl_pruned ± ppl_pruned_se_iid",
    "Mean PPL(base)": "ppl_dense ± ppl_dense_se_iid",
    "Cor(ln(PPL(Q)), ln(PPL(base)))": "ln_ppl_correlation",
    "Mean ln(PPL(Q)/PPL(base))": "ln_ppl_ratio ± ln_ppl_ratio_se_iid",
    "Mean PPL(Q)/PPL(base)": "ppl_ratio ± ppl_ratio_se_iid",
    "Mean PPL(Q)-PPL(base)": "ppl_difference ± ppl_difference_se_iid",
    "Mean KLD": "kl_mean_nats ± kl_mean_nats_se_iid",
    "Maximum KLD": "kl_max_nats",
    **{f"{level} KLD": f"kl_{name}_nats" for level, name in (("99.9%", "p999"), ("99.0%", "p99"), ("95.0%", "p95"))},
    **{f"{level} KLD": f"kl_{name}_nats" for level, name in (("90.0%", "p90"), ("Median", "median"), ("10.0%", "p10"))},
    **{f"{level} KLD": f"kl_{name}_nats" for level, name in (("5.0%", "p05"), ("1.0%", "p01"), ("0.1%", "p001"))},
    "Minimum KLD": "kl_min_nats",
    "Mean Δp": "delta_p_mean ± delta_p_mean_se_iid",
    "Maximum Δp": "delta_p_max",
    **{f"{level} Δp": f"delta_p_{name}" for level, name in (("99.9%", "p999"), ("99.0%", "p99"), ("95.0%", "p95"))},
    **{f"{level} Δp": f"delta_p_{name}" for level, name in (("90.0%", "p90"), ("75.0%", "p75"), ("Median", "median"))},
    **{f"{level} Δp": f"delta_p_{name}" for level, name in (("25.0%", "p25"), ("10.0%", "p10"), ("5.0%", "p05"))},
    **{f"{level} Δp": f"delta_p_{name}" for level, name in (("1.0%", "p01"), ("0.1%", "p001"), ("Minimum", "min"))},
    "RMS Δp": "delta_p_rms ± delta_p_rms_se_iid",
    "Same top p": "top1_agreement ± top1_agreement_se_iid",
}


def test_perplexities_and_their_errors_by_hand(ask: Ask) -> None:
    warehouse = Handmade()
    # Dense: 2 bits, then 4 bits; pruned: one bit more everywhere. Two windows of two tokens each.
    for position, (window, p) in enumerate([(0, 1 / 4), (0, 1 / 4), (1, 1 / 16), (1, 1 / 16)], start=1):
        text_token(warehouse, "wanda-50", position, window=window, p_dense=p, p_pruned=p / 2)
    (row,) = ask(warehouse, "kld_summary")

    assert (row["model"], row["recipe"], row["text_id"]) == ("tiny", "wanda-50", "wiki")
    assert (row["tokens"], row["windows"]) == (4, 2)
    assert (row["ppl_dense"], row["ppl_pruned"]) == (pytest.approx(8), pytest.approx(16))
    # Windows at 2 and 4 bits: their mean has an error of one bit. As four tokens: sqrt(4/3)/2 bits.
    assert row["ppl_dense_se"] == pytest.approx(8 * math.log(2))
    assert row["ppl_dense_se_iid"] == pytest.approx(8 * math.log(2) * math.sqrt(1 / 3))
    assert row["ppl_pruned_se"] == pytest.approx(16 * math.log(2))
    # The pruned side is one bit worse at every token, so the ratio is certain.
    assert (row["ln_ppl_ratio"], row["ppl_ratio"]) == (pytest.approx(math.log(2)), pytest.approx(2))
    for name in ("ln_ppl_ratio_se", "ln_ppl_ratio_se_iid", "ppl_ratio_se", "ppl_ratio_se_iid"):
        assert row[name] == pytest.approx(0, abs=1e-6)
    # Δp: −1/8 twice and −1/32 twice.
    assert row["delta_p_mean"] == pytest.approx(-5 / 64)
    assert (row["delta_p_min"], row["delta_p_max"]) == (pytest.approx(-1 / 8), pytest.approx(-1 / 32))
    assert row["delta_p_mean_se"] == pytest.approx(3 / 64)
    assert row["delta_p_rms"] == pytest.approx(math.sqrt((1 / 64 + 1 / 1024) / 2))
    assert row["delta_p_rms_se"] == pytest.approx((1 / 64 - 1 / 1024) / 2 / (2 * row["delta_p_rms"]))
    assert row["ln_ppl_correlation"] is None, "four pairs carry no correlation"


def test_every_line_of_llama_cpp_has_its_column(ask: Ask) -> None:
    warehouse = Handmade()
    text_token(warehouse, "wanda-50", 1)
    (row,) = ask(warehouse, "kld_summary")

    assert len(PRINTED) == 34
    assert {column for columns in PRINTED.values() for column in columns.split(" ± ")} <= row.keys()


def test_the_noise_floor_is_shown_beside_pruning(ask: Ask) -> None:
    warehouse = Handmade().variant("wanda-50").variant("noise-batch", method="noise")
    warehouse.variant("noise-bfloat16", method="noise")
    for recipe, kls, p in (
        ("wanda-50", [1.0, 2.0, 3.0], 0.25),
        ("noise-batch", [0.0, 0.0, 0.0], 0.5),
        ("noise-bfloat16", [0.1, 0.2, 0.6], 0.4),
    ):
        for position, kl in enumerate(kls, start=1):
            text_token(warehouse, recipe, position, kl, p_pruned=p, flips=kl > 0.5)
            text_token(warehouse, recipe, position, 10 * kl, text="without noise" if p == 0.25 else "other")
    rows = {row["text_id"]: row for row in ask(warehouse, "kld_summary")}
    row = rows["wiki"]

    assert rows.keys() == {"wiki", "without noise"}
    assert {name: row[name] for name in NOISE} == {
        "kl_noise_mean_nats": pytest.approx(0.3),
        "kl_noise_max_nats": pytest.approx(0.6),
        "kl_noise_p99_nats": pytest.approx(0.592),
        "kl_noise_p95_nats": pytest.approx(0.56),
        "kl_noise_median_nats": pytest.approx(0.2),
        "ln_ppl_ratio_noise": pytest.approx(math.log(0.5 / 0.4)),
        "delta_p_rms_noise": pytest.approx(0.1),
        "top1_agreement_noise": pytest.approx(2 / 3),
    }
    assert row["is_below_noise"] is False
    assert {rows["without noise"][name] for name in NOISE} == {None}


@pytest.mark.parametrize("change", [{"text_hash": "1" * 8}, {"context": 8}, {"stride": 1}])
def test_rounding_measured_under_other_conditions_is_no_floor(ask: Ask, change: dict[str, object]) -> None:
    warehouse = Handmade().variant("wanda-50").variant("noise-batch", method="noise")
    for recipe in ("wanda-50", "noise-batch"):
        text_token(warehouse, recipe, 1, 1.0)
    warehouse.where("text_tokens", recipe="noise-batch")[0].update(change)
    (row,) = ask(warehouse, "kld_summary")

    assert {row[name] for name in (*NOISE, "is_below_noise")} == {None}


def test_one_window_has_no_error_over_windows(ask: Ask) -> None:
    warehouse = Handmade()
    for position in range(4):
        text_token(warehouse, "wanda-50", position + 1, float(position))
    (row,) = ask(warehouse, "kld_summary")

    assert {name for name, value in row.items() if value is None} == {
        "calibration_hash", "ln_ppl_correlation", "delta_p_rms_se", "delta_p_rms_se_iid",
        *(f"{name}_se" for name in ("ppl_dense", "ppl_pruned", "ln_ppl_ratio", "ppl_ratio", "kl_mean_nats")),
        *("delta_p_mean_se", "top1_agreement_se", "ppl_difference_se", "is_below_noise", *NOISE),
    }  # fmt: skip


def test_the_dense_model_has_a_ratio_of_one_and_a_divergence_of_zero(ask: Ask) -> None:
    warehouse = Handmade()
    for position in range(12):
        text_token(warehouse, "dense", position + 1, window=position // 4, p_dense=1 / (position + 2))
    (row,) = ask(warehouse, "kld_summary")

    zeros = ("ln_ppl_ratio", "ln_ppl_ratio_se", "kl_mean_nats", "kl_mean_nats_se", "kl_max_nats", "delta_p_rms")
    assert [row[name] for name in zeros] == [0.0] * len(zeros)
    assert row["ppl_ratio"] == row["top1_agreement"] == 1.0
    assert row["ln_ppl_correlation"] == pytest.approx(1)
    assert row["ppl_dense"] == row["ppl_pruned"]


def test_every_statistic_equals_numpys_in_float64(ask: Ask) -> None:
    chance, warehouse = np.random.default_rng(0), Handmade()
    count, windows = 120, 6
    kl = chance.lognormal(-3, 2, count).astype(np.float32).astype(float)
    p, q = (chance.uniform(1e-4, 1, count) for _ in range(2))
    flips = chance.random(count) < 0.3
    for at in range(count):
        text_token(
            warehouse,
            "wanda-50",
            at + 1,
            kl[at],
            window=at % windows,
            p_dense=p[at],
            p_pruned=q[at],
            flips=bool(flips[at]),
        )
    text_token(warehouse, "wanda-50", 1, 99.0, text="other")
    (row,) = ask(warehouse, "select * from kld_summary where text_id = 'wiki'")
    expected = statistics64(kl, p, q, ~flips, np.arange(count) % windows)

    others = {"model", "recipe", "text_id", "text_hash", "context", "stride", "calibration_hash"}
    others |= {"tokens", "windows", "is_below_noise", *NOISE}
    assert expected.keys() | others == row.keys()
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-5, abs=1e-9), name


def statistics64(kl: np.ndarray, p: np.ndarray, q: np.ndarray, same: np.ndarray, window: np.ndarray) -> Row:
    """Compute the statistics from their definitions."""
    rows: Row = {}

    def add(name: str, value: float, of: np.ndarray, factor: float = 1.0) -> None:
        rows.update(
            {name: value, f"{name}_se": factor * clustered(of, window), f"{name}_se_iid": factor * stats.sem(of)}
        )

    nll, nll2 = -np.log(p), -np.log(q)
    for side, values in (("dense", nll), ("pruned", nll2)):
        add(f"ppl_{side}", np.exp(values.mean()), values, np.exp(values.mean()))
    ratio = nll2 - nll
    add("ln_ppl_ratio", ratio.mean(), ratio)
    add("ppl_ratio", np.exp(ratio.mean()), ratio, np.exp(ratio.mean()))
    perplexities = np.exp(nll2.mean()), np.exp(nll.mean())
    add("ppl_difference", perplexities[0] - perplexities[1], perplexities[0] * nll2 - perplexities[1] * nll)
    rows["ln_ppl_correlation"] = np.corrcoef(nll, nll2)[0, 1]
    add("kl_mean_nats", kl.mean(), kl)
    rows |= {"kl_max_nats": kl.max(), "kl_min_nats": kl.min(), "kl_median_nats": np.median(kl)}
    for name, level in (
        ("p999", 99.9),
        ("p99", 99),
        ("p95", 95),
        ("p90", 90),
        ("p10", 10),
        ("p05", 5),
        ("p01", 1),
        ("p001", 0.1),
    ):
        rows[f"kl_{name}_nats"] = np.percentile(kl, level)
    dp = q - p
    add("delta_p_mean", dp.mean(), dp)
    rms = math.sqrt((dp**2).mean())
    add("delta_p_rms", rms, dp**2, 1 / (2 * rms))
    rows |= {"delta_p_max": dp.max(), "delta_p_min": dp.min(), "delta_p_median": np.median(dp)}
    for name, level in (
        ("p999", 99.9), ("p99", 99), ("p95", 95), ("p90", 90), ("p75", 75),
        ("p25", 25), ("p10", 10), ("p05", 5), ("p01", 1), ("p001", 0.1),
    ):  # fmt: skip
        rows[f"delta_p_{name}"] = np.percentile(dp, level)
    add("top1_agreement", same.mean(), same.astype(float))
    return rows
