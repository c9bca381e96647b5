"""The marts and questions of a search against numbers worked out in numpy and scipy, and by hand."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from scipy import stats

from prunescope.warehouse.catalogue.database import SQL
from prunescope.warehouse.catalogue.queries import BETTER_CONTROLS, query_rows
from tests.sql.built_searches import matrix, search_effect, search_trial, sizes, typical
from tests.sql.built_texts import text_token
from tests.sql.reference_intervals import of_paired_change, wilson
from tests.sql.warehouse_builder import Ask, Handmade, Memory, Row

WINDOWS, TOKENS = 9, 3
CHANCE = np.random.default_rng(11)
SIZES = {"mixed-40": 0.2, "sparsegpt-40": 0.3, "wanda-40": 0.6, "wanda-45": 0.5}
KLS = {
    recipe: (size * CHANCE.lognormal(0, 0.5, (WINDOWS, TOKENS))).astype(np.float32).astype(float)
    for recipe, size in SIZES.items()
}
# Float32 columns and a series for Student's t.
CLOSE = {"rel": 1e-3}


def half_width(influences: np.ndarray) -> float:
    """Return the half-width by Student's t over clusters of equal size."""
    n = len(influences)
    return float(stats.t.ppf(0.975, n - 1) * np.sqrt(n / (n - 1) * (influences**2).sum()))


def judged(removed: dict[str, float] | None = None) -> Handmade:
    """Build a mixed variant and published ones on nine windows of a text and nine prompts of two steps."""
    warehouse = Handmade().model().variant("dense")
    shares = {"mixed-40": 0.4, "sparsegpt-40": 0.395, "wanda-40": 0.4, "wanda-45": 0.45} | (removed or {})
    for recipe, share in shares.items():
        warehouse.variant(recipe, method=recipe.split("-")[0], removed=share)
    for prompt in range(WINDOWS):
        # Every other dense text ends at step 9, the others at the length of 20 tokens.
        ends = {"end_step": 9} if prompt % 2 else {}
        warehouse.generation("dense", f"p{prompt}", token_ids=[7] * 20, **ends)
        for recipe in shares:
            kls = KLS[recipe][prompt]
            for token, kl in enumerate(kls):
                position = prompt * TOKENS + token + 1
                text_token(warehouse, recipe, position, kl, window=prompt, p_pruned=0.5 * float(np.exp(-kl)))
            for step in range(2):
                warehouse.step(recipe, f"p{prompt}", step, kls[step])
            warehouse.generation(recipe, f"p{prompt}", flip=flip_of(recipe, prompt), token_ids=[7] * 20)
    return warehouse


def flip_of(recipe: str, prompt: int) -> int | None:
    """Return a step that is later the smaller the KL is; None where the text never leaves the dense one."""
    step = int(3 / KLS[recipe][prompt, 0])
    return None if step >= (10 if prompt % 2 else 20) else step


def kept(recipe: str) -> np.ndarray:
    """Return the number of steps before each text leaves the dense one, at most the length of the dense text."""
    steps = [flip_of(recipe, prompt) for prompt in range(WINDOWS)]
    return np.array([(10 if p % 2 else 20) if step is None else step for p, step in enumerate(steps)], dtype=float)


def judgement(ask: Ask, warehouse: Handmade, measure: str) -> dict[str, Row]:
    rows = ask(warehouse, f"select * from search_judgement where measure = '{measure}'")
    return {row["other_recipe"]: row for row in rows}


@pytest.mark.parametrize(("measure", "tokens"), [("kl_texts", TOKENS), ("kl_prompts", 2)])
def test_a_difference_of_kl_is_paired_by_window_or_prompt(ask: Ask, measure: str, tokens: int) -> None:
    row = judgement(ask, judged(), measure)["wanda-40"]
    own, other = (KLS[recipe][:, :tokens].mean(1) for recipe in ("mixed-40", "wanda-40"))
    spread = half_width((own - other - (own - other).mean()) / WINDOWS)

    assert row["n_units"] == WINDOWS
    assert (row["amount"], row["other_amount"]) == (pytest.approx(own.mean()), pytest.approx(other.mean()))
    assert row["difference"] == pytest.approx(own.mean() - other.mean())
    assert row["difference_low"] == pytest.approx(own.mean() - other.mean() - spread, **CLOSE)
    assert row["difference_high"] == pytest.approx(own.mean() - other.mean() + spread, **CLOSE)
    factor = np.exp(half_width((own - own.mean()) / WINDOWS) / own.mean())
    ends = (pytest.approx(own.mean() / factor, **CLOSE), pytest.approx(own.mean() * factor, **CLOSE))
    assert (row["amount_low"], row["amount_high"]) == ends
    assert row["is_better"]


def test_perplexities_have_the_interval_of_their_logarithm_and_a_linearised_difference(ask: Ask) -> None:
    row = judgement(ask, judged(), "perplexity")["wanda-40"]
    # The loss on the target is ln 2 plus the KL, as the rows are built.
    own, other = (np.log(2) + KLS[recipe].mean(1) for recipe in ("mixed-40", "wanda-40"))
    deviations = [np.exp(loss.mean()) * (loss - loss.mean()) / WINDOWS for loss in (own, other)]
    spread = half_width(deviations[0] - deviations[1])
    difference = np.exp(own.mean()) - np.exp(other.mean())

    assert row["amount"] == pytest.approx(np.exp(own.mean()))
    low = np.exp(own.mean() - half_width((own - own.mean()) / WINDOWS))
    assert row["amount_low"] == pytest.approx(low, **CLOSE)
    assert (row["difference"], row["difference_low"]) == (
        pytest.approx(difference),
        pytest.approx(difference - spread, **CLOSE),
    )


def test_texts_are_compared_by_the_steps_that_they_have_in_common_with_the_dense_one(ask: Ask) -> None:
    row = judgement(ask, judged(), "same_steps")["wanda-40"]
    own, other = kept("mixed-40"), kept("wanda-40")
    assert any(flip_of("mixed-40", prompt) is None for prompt in range(WINDOWS))
    spread = half_width((own - other - (own - other).mean()) / WINDOWS)

    assert (row["amount"], row["other_amount"]) == (pytest.approx(own.mean()), pytest.approx(other.mean()))
    ends = own.mean() + np.array([-1, 1]) * half_width((own - own.mean()) / WINDOWS)
    # No text has more steps in common with the dense one than this has, nor fewer than none.
    ends = np.clip(ends, 0, np.mean([10 if prompt % 2 else 20 for prompt in range(WINDOWS)]))
    assert [row["amount_low"], row["amount_high"]] == pytest.approx(ends, **CLOSE)
    assert row["difference"] == pytest.approx((own - other).mean())
    assert row["difference_low"] == pytest.approx((own - other).mean() - spread, **CLOSE)
    # More steps in common are better.
    assert row["difference_low"] > 0
    assert row["is_better"]


def test_steps_in_common_stay_within_what_the_texts_can_have_and_two_prompts_bound_nothing(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense")
    for recipe in ("mixed-40", "wanda-40"):
        warehouse.variant(recipe, method=recipe.split("-")[0], removed=0.4)
    search_trial(warehouse, 0, {"mlp.0": "drop"}, [0.1], is_result=True, recipe="mixed-40")
    found = []
    for prompt, (own, other) in enumerate([(1, 8), (19, 2), (19, 3)]):
        warehouse.generation("dense", f"p{prompt}", token_ids=[7] * 20)
        for recipe, flip in (("mixed-40", own), ("wanda-40", other)):
            warehouse.generation(recipe, f"p{prompt}", flip=flip, token_ids=[7] * 20)
        if prompt:
            found.append(judgement(ask, warehouse, "same_steps")["wanda-40"])
    two, three = found
    ends = [f"{name}_{end}" for name in ("amount", "other", "difference") for end in ("low", "high")]
    assert (two["n_units"], two["amount"], {two[end] for end in ends}, two["is_better"]) == (2, 10, {None}, None)
    # Student's t over three prompts would allow −12.8 to 38.8, −3.7 to 12.3 and −25.1 to 42.4 steps.
    other = 13 / 3 + np.array([0, 1]) * stats.t.ppf(0.975, 2) * np.std([8, 2, 3], ddof=1) / np.sqrt(3)
    assert [three[end] for end in ends] == pytest.approx([0, 20, 0, other[1], -20, 20], **CLOSE)
    assert three["is_better"] is None


def test_questions_are_compared_by_the_options_that_stay_the_dense_models(ask: Ask) -> None:
    warehouse = judged()
    # (mixed, wanda): both keep the option 8 times, mixed alone 7 times, wanda alone once, neither twice.
    kept_by = [(True, True)] * 8 + [(True, False)] * 7 + [(False, True)] + [(False, False)] * 2
    for question, choices in enumerate(kept_by):
        for recipe, is_kept in zip(("mixed-40", "wanda-40"), choices, strict=True):
            warehouse.options(recipe, f"q{question}", (0.6, 0.3), (0.6, 0.3) if is_kept else (0.3, 0.6))
    row = judgement(ask, warehouse, "same_options")["wanda-40"]
    assert (row["amount"], row["other_amount"], row["n_units"]) == (pytest.approx(15 / 18), pytest.approx(0.5), 18)
    assert (row["amount_low"], row["amount_high"]) == pytest.approx(wilson(15, 18), **CLOSE)
    assert (row["other_low"], row["other_high"]) == pytest.approx(wilson(9, 18), **CLOSE)
    assert row["difference"] == pytest.approx(6 / 18)
    ends = of_paired_change(lost=1, gained=7, pairs=18)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(ends, **CLOSE)
    # McNemar's exact test of 7 against 1 has p = 0.07.
    assert row["difference_low"] <= 0
    assert row["is_better"] is None


def test_others_remove_as_much_up_to_half_a_percentage_point(ask: Ask) -> None:
    assert set(judgement(ask, judged(), "kl_texts")) == {"sparsegpt-40", "wanda-40", "wanda-45"}
    fewer = judged({"sparsegpt-40": 0.394})
    assert set(judgement(ask, fewer, "kl_texts")) == {"wanda-40", "wanda-45"}
    assert {row["recipe"] for row in ask(fewer, "search_variants")} == {
        "mixed-40",
        "sparsegpt-40",
        "wanda-40",
        "wanda-45",
    }


def on_windows(**kls: list[float]) -> Handmade:
    """Build variants that remove 40 %, with the KL of the one token of each window; mixed-40 is a search's result."""
    warehouse = Handmade().model().variant("dense")
    for name, values in kls.items():
        recipe = f"{name}-40"
        warehouse.variant(recipe, method=name, removed=0.4)
        for window, kl in enumerate(values):
            text_token(warehouse, recipe, window + 1, kl, window=window)
    search_trial(warehouse, 0, {"mlp.0": "drop"}, [0.1, 0.2], is_result=True, recipe="mixed-40")
    return warehouse


AGAINST_PUBLISHED = "select * from q34_output_kl_against_published where measure = 'kl_texts'"
# Mean of 0.2, 0.4, 0.2, 0.4 is 0.3; its error √(4/3 · 0.1²/4) = 0.0577; Student's t of three degrees is 3.1824.
LOW, MIDDLE, HIGH = [0.2, 0.4, 0.2, 0.4], [0.4, 0.6, 0.4, 0.6], [0.6, 0.8, 0.6, 0.8]


@pytest.mark.parametrize(
    ("sign", "verdict", "best", "difference"),
    [(1, "beats the best", "sparsegpt-40", -0.3), (-1, "loses to the best", "ria-40", 0.7)],
)
def test_a_search_beats_or_loses_to_the_published_variant_that_does_the_least_damage(
    ask: Ask, sign: int, verdict: str, best: str, difference: float
) -> None:
    """On every window the search does less damage than each of three others, or more."""
    own = np.array([1.0, 1.1, 1.2, 1.3])
    others = {"wanda": MIDDLE, "sparsegpt": LOW, "ria": HIGH}
    kls = {name: list(own + sign * np.array(by)) for name, by in others.items()}
    (answer,) = ask(on_windows(mixed=list(own), **kls), AGAINST_PUBLISHED)
    assert (answer["recipe"], answer["best_recipe"], answer["verdict"]) == ("mixed-40", best, verdict)
    better = 3 if sign > 0 else 0
    assert (answer["n_published"], answer["n_better"], answer["n_worse"]) == (3, better, 3 - better)
    assert (answer["n_units"], answer["amount"]) == (4, pytest.approx(1.15))
    assert answer["best_amount"] == pytest.approx(1.15 - difference)
    assert answer["difference"] == pytest.approx(difference)
    assert answer["difference_low"] == pytest.approx(difference - 0.1837, abs=1e-4)
    assert answer["difference_high"] == pytest.approx(difference + 0.1837, abs=1e-4)


def test_the_best_published_variant_is_the_hardest_to_beat_on_common_windows(ask: Ask) -> None:
    # wanda has the lower mean, 0.2, but on its two windows, which are easy, the mixed variant is better.
    warehouse = on_windows(
        mixed=[0.1, 0.2, 0.9, 1.0], wanda=[0.15, 0.25], sparsegpt=[0.1, 0.19, 0.88, 1.0], ria=[0.1, 0.19, 0.88, 1.0]
    )
    rows = judgement(ask, warehouse, "kl_texts")
    assert {name: row["n_units"] for name, row in rows.items()} == {"wanda-40": 2, "sparsegpt-40": 4, "ria-40": 4}
    # The first by name of equal ones.
    assert [name for name, row in rows.items() if row["is_best_published"]] == ["ria-40"]
    (answer,) = ask(warehouse, AGAINST_PUBLISHED)
    assert (answer["best_recipe"], answer["verdict"]) == ("ria-40", "no difference shown")


def test_other_mixed_variants_and_windows_of_other_lengths_are_no_published_pair(ask: Ask) -> None:
    warehouse = judged()
    warehouse.variant("mixed-better", method="mixed", removed=0.4)
    for window in range(WINDOWS):
        text_token(warehouse, "mixed-better", window * TOKENS + 1, 1e-3, window=window)
        warehouse.step("mixed-better", f"p{window}", 0, 1e-3).step("mixed-better", f"p{window}", 1, 1e-3)
    rows = ask(warehouse, "select * from search_judgement where recipe = 'mixed-40'")
    by_measure = {(row["measure"], row["other_recipe"]): row for row in rows}
    assert ("kl_texts", "mixed-better") not in by_measure
    other = by_measure["kl_prompts", "mixed-better"]
    assert (other["is_published"], other["is_best_published"]) == (False, False)
    assert {row["other_recipe"] for row in rows if row["is_best_published"]} == {"sparsegpt-40"}


def test_a_control_is_better_where_its_kl_is_lower_on_texts_or_prompts_and_higher_on_neither(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = Memory()
    warehouse = judged()
    warehouse.variant("mixed-better", method="mixed", removed=0.4)
    for window in range(WINDOWS):
        for step in range(2):
            warehouse.step("mixed-better", f"p{window}", step, 0.5 * KLS["mixed-40"][window, step])
    memory.fill(warehouse)

    @contextmanager
    def opened(_: object) -> Iterator[object]:
        yield memory.connection

    monkeypatch.setattr("prunescope.warehouse.catalogue.queries.connected", opened)

    def found(recipe: str, *controls: str) -> list[tuple[str, str]]:
        rows = query_rows("", BETTER_CONTROLS, model="tiny", recipe=recipe, controls=list(controls)).to_pylist()
        return [(row["other_recipe"], row["measure"]) for row in rows]

    assert found("mixed-40", "mixed-better", "wanda-40") == [("mixed-better", "kl_prompts")]
    assert found("mixed-40", "wanda-40") == found("mixed-better", "mixed-40") == []
    # Worse on texts, where the interval excludes 0.
    for window in range(WINDOWS):
        for token in range(TOKENS):
            kl = 3 * KLS["mixed-40"][window, token]
            text_token(warehouse, "mixed-better", window * TOKENS + token + 1, kl, window=window)
    memory.fill(warehouse)
    assert found("mixed-40", "mixed-better") == []


def test_a_recipe_of_a_control_is_not_the_search_s_own_unless_the_search_found_it_too(ask: Ask) -> None:
    warehouse = on_windows(mixed=[0.1, 0.2], wanda=[0.5, 0.7])
    warehouse.rows["search_trials"][0]["strategy"] = "hidden"
    assert {row["strategy"] for row in ask(warehouse, "search_judgement")} == {"hidden"}
    assert ask(warehouse, AGAINST_PUBLISHED) == []
    figure = ask(warehouse, (SQL / "figures" / "search.sql").read_text())
    assert {row["method"] for row in figure if row["panel"] == "judged"} == {"mixed, hidden", "wanda"}

    search_trial(warehouse, 1, {"mlp.0": "drop"}, [0.1], is_result=True, recipe="mixed-40", search="another")
    assert {row["strategy"] for row in ask(warehouse, "search_judgement")} == {"searched"}
    assert len(ask(warehouse, AGAINST_PUBLISHED)) == 1
    figure = ask(warehouse, (SQL / "figures" / "search.sql").read_text())
    assert {row["method"] for row in figure if row["panel"] == "judged"} == {"mixed", "wanda"}


def test_a_recipe_for_a_budget_of_bytes_is_compared_at_equal_bytes_and_one_for_time_is_not_compared(ask: Ask) -> None:
    warehouse = on_windows(mixed=[0.1, 0.2], wanda=[0.5, 0.7], gptq=[0.15, 0.26])
    for recipe, removed, saved in (("mixed-40", 0.3, 0.5), ("wanda-40", 0.4, 0.3), ("gptq-40", 0, 0.7)):
        (row,) = warehouse.where("variants", recipe=recipe)
        row |= {"parameters_removed": 1000 * removed, "bytes_removed": 2000 * saved}
    results = (SQL / "explorer" / "search" / "results.sql").read_text()
    assert set(judgement(ask, warehouse, "kl_texts")) == {"wanda-40"}
    assert ask(warehouse, results)[0]["other_recipe"] == "wanda-40"

    warehouse.rows["search_trials"][0]["budget"] = "bytes"
    assert set(judgement(ask, warehouse, "kl_texts")) == {"gptq-40"}
    (answer,) = ask(warehouse, AGAINST_PUBLISHED)
    assert (answer["budget"], answer["removed_share"], answer["best_removed_share"]) == ("bytes", 0.5, 0.7)
    assert ask(warehouse, results)[0]["other_recipe"] == "gptq-40"
    # Codes alone remove no weight.
    assert {row["recipe"] for row in ask(warehouse, "search_variants")} == {"mixed-40", "wanda-40"}

    warehouse.rows["search_trials"][0]["budget"] = "milliseconds"
    assert ask(warehouse, AGAINST_PUBLISHED) == []
    assert ask(warehouse, results)[0]["other_recipe"] is None


def test_a_model_without_a_mixed_recipe_is_not_judged(ask: Ask) -> None:
    warehouse = judged()
    for row in warehouse.where("variants", recipe="mixed-40"):
        row["method"] = "wanda"
    assert ask(warehouse, "search_judgement") == []
    assert ask(warehouse, "search_variants") == []


def test_one_window_carries_no_interval(ask: Ask) -> None:
    warehouse = Handmade().model().variant("dense")
    for recipe, kl in (("mixed-40", 0.1), ("wanda-40", 0.5)):
        warehouse.variant(recipe, method=recipe.split("-")[0], removed=0.4)
        text_token(warehouse, recipe, 1, kl)
    search_trial(warehouse, 0, {"mlp.0": "drop"}, [0.1], is_result=True, recipe="mixed-40")
    row = judgement(ask, warehouse, "kl_texts")["wanda-40"]
    assert row["difference"] == pytest.approx(-0.4)
    assert {row[name] for name in ("amount_low", "difference_low", "difference_high", "is_better")} == {None}
    assert ask(warehouse, "select verdict from q34_output_kl_against_published")[0] == {"verdict": "not known"}


def searched() -> Handmade:
    """Build two accepted trials, a rejected one and a control, and effects of treatments, one computed."""
    warehouse = Handmade().model()
    sizes(warehouse)
    for place, treatment, kl, removed in (
        ("attn.0", "drop", [0.1, 0.3], 104),
        ("attn.0", "wanda-50", [0.05, 0.05], 50),
        ("mlp.1", "wanda-50", [0.5, 0.7], 200),
        ("attn.1", "drop", [1.0, 2.0], 100),
    ):
        search_effect(warehouse, place, treatment, kl, kl=sum(kl) / 2, removed=removed)
    search_effect(warehouse, "mlp.0", "wanda-50", [], kl=0.2, removed=200)
    # One matrix alone is no treatment of its sublayer.
    search_effect(warehouse, "mlp.0", "wanda-50", [3.0, 5.0], removed=50, matrix="down_proj")
    search_trial(warehouse, 0, {"attn.0": "drop", "mlp.1": "wanda-50"}, [1.0, 1.4])
    better = {"attn.0": "drop", "mlp.0": "wanda-50"}
    search_trial(warehouse, 1, better, [0.5, 0.7], parent=0, is_result=True, recipe="mixed-40-abc")
    search_trial(warehouse, 2, {"attn.0": "wanda-50", "mlp.0": "wanda-50"}, [0.1], parent=1, is_accepted=False)
    search_trial(
        warehouse, 3, {"attn.1": "drop", "mlp.1": "rtn-4bit"}, [0.9, 0.8, 5.0], strategy="hidden", is_result=True
    )
    return warehouse


def test_the_front_has_each_result_with_the_trials_and_seconds_of_its_strategy(ask: Ask) -> None:
    rows = {row["strategy"]: row for row in ask(searched(), "search_front")}
    assert {name: (row["trial"], row["n_trials"], row["seconds"]) for name, row in rows.items()} == {
        "searched": (1, 3, 6.0),
        "hidden": (3, 1, 2.0),
    }
    assert rows["searched"]["measured_nats"] == pytest.approx(0.6)
    assert json.loads(rows["searched"]["treatments_json"]) == {"attn.0": "drop", "mlp.0": "wanda-50"}


@pytest.mark.parametrize(("removed", "share"), [(0.4, 0.4), (0.4049, 0.4), (0.41, 0.41)])
def test_published_recipes_match_the_target_unless_the_result_removes_clearly_more(
    ask: Ask, removed: float, share: float
) -> None:
    warehouse = Handmade().model()
    search_trial(warehouse, 0, {"mlp.0": "drop"}, [0.1, 0.2], removed=removed, is_result=True)
    (row,) = ask(warehouse, "search_front")
    assert row["share_to_match"] == pytest.approx(share)


def test_an_allocation_lists_kept_sublayers_and_the_removed_share_of_each(ask: Ask) -> None:
    rows = ask(searched(), "select * from search_allocation where strategy = 'searched'")
    found = {(row["sublayer"], row["layer"]): (row["treatment"], row["removed_share"]) for row in rows}
    # A drop also removes four parameters that are no weights of matrices.
    assert found == {
        ("attn", 0): ("drop", 1.0),
        ("mlp", 0): ("wanda-50", 0.5),
        ("attn", 1): ("keep", 0.0),
        ("mlp", 1): ("keep", 0.0),
    }
    effects = {row["treatment"]: row["effect_nats"] for row in rows}
    assert effects == pytest.approx({"drop": 0.2, "wanda-50": 0.2, "keep": 0.0})
    (unmeasured,) = ask(searched(), "select * from search_allocation where treatment = 'rtn-4bit'")
    assert (unmeasured["effect_nats"], unmeasured["parameters_removed"], unmeasured["removed_share"]) == (None,) * 3


def test_matrices_have_their_own_share_where_a_treatment_is_split_and_else_their_sublayers(ask: Ask) -> None:
    warehouse = Handmade().model()
    for layer in (0, 1):
        for module, sublayer, outputs in (
            (f"h.{layer}.attn.qkv", "attn", 30),
            (f"h.{layer}.attn.out", "attn", 10),
            (f"h.{layer}.mlp.experts.up[0]", "mlp", 20),
            (f"h.{layer}.mlp.experts.up[1]", "mlp", 20),
        ):
            matrix(warehouse, layer, sublayer, module, outputs)
    split = "wanda-20-by-kl-30"
    for place, name, removed in (
        ("attn.0", "all", 80),
        ("attn.0", "qkv", 75),
        ("attn.0", "out", 5),
        ("mlp.0", "all", 80),
        ("mlp.0", "up", 80),
        ("attn.1", "qkv", 75),
        ("attn.1", "out", 5),
    ):
        search_effect(warehouse, place, split, [], kl=removed / 1000, removed=removed, matrix=name)
    search_effect(warehouse, "attn.1", "drop", [1.0, 2.0], removed=400)
    search_effect(warehouse, "mlp.1", "drop", [1.0, 2.0], removed=400)
    search_trial(warehouse, 0, {"attn.0": split, "mlp.0": split, "attn.1": "drop"}, [1.0, 1.4], is_result=True)
    rows = ask(warehouse, "search_matrices")
    found = {
        (f"{row['sublayer']}.{row['layer']}", row["matrix"]): (row["weights"], row["removed_share"], row["effect_nats"])
        for row in rows
    }
    assert len(rows) == len(found)
    assert found == {
        ("attn.0", "qkv"): (300, pytest.approx(0.25), pytest.approx(0.075)),
        ("attn.0", "out"): (100, pytest.approx(0.05), pytest.approx(0.005)),
        # All experts are one.
        ("mlp.0", "up"): (400, pytest.approx(0.2), pytest.approx(0.08)),
        ("attn.1", "qkv"): (300, 1.0, None),
        ("attn.1", "out"): (100, 1.0, None),
    }


def test_a_path_keeps_the_last_accepted_trial_and_adds_seconds_up(ask: Ask) -> None:
    rows = ask(searched(), "select * from search_path where strategy = 'searched'")
    assert [(row["place_in_strategy"], row["cumulative_seconds"], row["best_trial"]) for row in rows] == [
        (1, 2.0, 0),
        (2, 4.0, 1),
        (3, 6.0, 1),
    ]
    # The rejected trial is smaller on its one item.
    assert [row["best_nats"] for row in rows] == pytest.approx([1.2, 0.6, 0.6])


def test_an_interaction_is_measured_over_the_sum_of_effects_alone(ask: Ask) -> None:
    rows = {row["trial"]: row for row in ask(searched(), "search_interaction")}
    # One treatment of trial 3 was not measured alone.
    assert {trial: row["effects_sum_nats"] for trial, row in rows.items()} == pytest.approx({0: 0.8, 1: 0.4, 2: 0.25})
    # The square roots of 1 · 1.4 and 0.5 · 0.7, but for the thousandth.
    assert [rows[trial]["typical_nats"] for trial in range(3)] == pytest.approx([1.18325, 0.59163, 0.1], rel=1e-4)
    assert rows[0]["typical_nats"] == pytest.approx(typical([1.0, 1.4]))
    assert rows[0]["ratio"] == pytest.approx(rows[0]["typical_nats"] / 0.8)
    assert {trial: row["n_computed"] for trial, row in rows.items()} == {0: 0, 1: 1, 2: 1}
    (answer,) = ask(searched(), "q36_do_effects_add")
    assert (answer["n_allocations"], answer["log_correlation"]) == (3, None)
    assert answer["ratio_median"] == pytest.approx(1.47906, rel=1e-4)
    assert answer["above_sum_share"] == pytest.approx(2 / 3)


def test_controls_are_paired_over_common_items(ask: Ask) -> None:
    (row,) = ask(searched(), "q35_choosing_by_p_against_controls")
    differences = np.array([0.5 - 0.9, 0.7 - 0.8])
    assert (row["control"], row["n_items"]) == ("hidden", 2)
    assert (row["searched_nats"], row["control_nats"]) == (pytest.approx(0.6), pytest.approx(0.85))
    assert row["difference_nats"] == pytest.approx(-0.25)
    spread = half_width((differences - differences.mean()) / 2)
    assert row["difference_high"] == pytest.approx(-0.25 + spread, **CLOSE)
    assert row["verdict"] == "no difference shown"


@pytest.mark.parametrize(("shift", "verdict"), [(1.0, "beats the control"), (-0.3, "loses to the control")])
def test_a_control_is_beaten_where_the_interval_excludes_zero(ask: Ask, shift: float, verdict: str) -> None:
    warehouse = searched()
    search_trial(warehouse, 4, {}, [0.5 + shift, 0.71 + shift], strategy="random", is_result=True)
    rows = {row["control"]: row["verdict"] for row in ask(warehouse, "q35_choosing_by_p_against_controls")}
    assert rows["random"] == verdict
