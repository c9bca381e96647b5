"""Tests of the findings: their numbers are those of the frames, and they name claims of the paper that fail.

The frames come from the stated SQL, run on synthetic marts.
"""

import itertools
from typing import Any

import polars as pl
import pytest

from prunescope.pipelines.reporting.charts.display_text import number
from prunescope.pipelines.reporting.explorer.findings import findings
from prunescope.pipelines.reporting.explorer.queries import FINDINGS
from tests.pipelines.reporting.charts import frames


def found(models=(frames.MODEL,), **marts: pl.DataFrame) -> list[dict[str, Any]]:
    with frames.catalogue(**marts) as connection:
        return findings({key: connection.sql(query.sql).pl() for key, query in FINDINGS.items()}, models)


def having(word: str, **marts: pl.DataFrame) -> list[str]:
    return [finding["text"] for finding in found(**marts) if word in finding["text"]]


def the_one(word: str, **marts: pl.DataFrame) -> str:
    (sentence,) = having(word, **marts)
    return sentence


def test_a_number_has_three_significant_digits():
    values = (0.0, 1.2345, 12345.6, 0.00123, 0.000412, 123456.0, float("inf"))
    assert [number(value) for value in values] == ["0", "1.23", "12,346", "0.00123", "4.1e-4", "1.2e5", "inf"]


def test_flips_and_loops_are_counted_over_all_pruned_generations():
    assert the_one("differ from the dense text") == (
        "All 18 pruned texts differ from the dense text. The median text of a variant first differs at step 4 (the "
        "first token is step 0). 6 fall into a loop."
    )


def test_sampled_texts_part_where_the_distributions_say() -> None:
    together, usual = "drawn with the same random numbers", frames.sampling_summary()
    assert the_one(together) == (
        f"The sampled texts were {together} as the dense ones. 28 of 32 differ from these. The number expected from "
        "the distributions is 28.8. The texts of attn-drop-4 stay the same longest. Half of them differ by step 5.00. "
        "The expected step is 4.50."
    )
    # Nothing is expected behind the step at which the last text has parted.
    unknown = usual.with_columns(first_flip_step_median_expected=pl.lit(None, pl.Float64))
    assert the_one(together, sampling_summary=unknown).endswith("Half of them differ by step 5.00.")
    tied = usual.with_columns(first_flip_step_median=5.0, equal_share=0.25)
    assert "texts of attn-drop-4 and wanda-50 stay the same longest" in the_one(together, sampling_summary=tied)
    never = usual.with_columns(first_flip_step_median=pl.when(recipe="wanda-50").then("first_flip_step_median"))
    said = the_one(together, sampling_summary=never)
    assert said.endswith("longest. The share that never differs is 25.0 %.")


def test_a_variant_keeps_the_answers_only_where_it_was_measured():
    summary = frames.variant_summary()
    kept = summary.with_columns(prompts_correct=pl.when(recipe="wanda-50").then(2).otherwise("prompts_correct"))
    assert the_one("known answer", variant_summary=kept) == (
        "The dense model is right in all 2 prompts with a known answer. wanda-50 is right in at least as many."
    )
    unmeasured = summary.with_columns(prompts=pl.when(recipe="dense").then("prompts").otherwise(0))
    assert not having("known answer", variant_summary=unmeasured)


def test_feedback_is_what_the_own_text_adds_and_free_running_has_the_fork_beside_it():
    usual, word = frames.q13_own_text_against_forced(), "first different token"
    assert the_one(word) == (
        "After the first different token, if both models read the dense text, the median KL per token is 3.00 nats. If "
        "both read the variant's own text, it is 1.75 nats. Both are medians over 6 variants. On its own text, no "
        "variant is shown to be further from the dense model than on the dense text. wanda-2of4 and wanda-50 are "
        "nearer. The KL shows no feedback. A loop is feedback, too, but the KL does not show it. In free running, each "
        "model reads its own text. Then the KL is 12.5 nats. Without any pruning it is 16.0 nats. After one different "
        "token, the dense model alone differs from its own text by 13.0 nats. No variant is shown to exceed that."
    )
    one = pl.when(pl.col("recipe").is_in(["wanda-50", "noise-bfloat16"])).then(pl.lit("further"))
    further = usual.with_columns(one.otherwise(name).alias(name) for name in ("own_text_is", "free_running_is"))
    sentence = the_one(word, q13_own_text_against_forced=further)
    assert "On its own text, wanda-50 is further from the dense model than on the dense text. wanda-2of4 is" in sentence
    assert "shows no feedback" not in sentence
    assert sentence.endswith("nats. wanda-50 exceeds that.")
    null = pl.lit(None, pl.Float64)
    old, forked = usual.with_columns(kl_own_text_median_nats=null), usual.with_columns(kl_fork_median_nats=null)
    assert not having(word, q13_own_text_against_forced=old)
    assert "free running" not in the_one(word, q13_own_text_against_forced=forked)


def test_amplification_is_told_by_the_share_of_positions_with_rounding_beside_it():
    def told(raw: str, normed: str) -> list[str]:
        """Return the sentences of both lenses, from these verdicts of the claim."""
        claims = {"measure": pl.Series(["raw", "normed"]), "verdict": pl.Series([raw, normed])}
        judged = frames.paper_claims().head(2).with_columns(claim=pl.lit("softmax_amplifies"), **claims)
        return [the_one(f"lens {lens}", paper_claims=judged) for lens in ("raw", "normed")]

    raw, normed = told("does not hold", "holds")
    assert raw == (
        "After one changed sublayer, without the final norm (lens raw, as in the paper), the median 1 − cos is 0.00400 "
        "in h, 0.00200 in z and 0.00100 in p. It is larger in p than in z at 40.0 % of 1,200 positions (95 % interval "
        "30.0 % to 45.0 %). The median factor is 0.500. The paper's claim that the softmax amplifies most shifts does "
        "not hold here."
    )
    noise = "Under rounding alone, the share is 85.0 % and the factor 12.0."
    assert f"The median factor is 15.0. {noise} The softmax amplifies most shifts." in normed
    # The claim's verdict decides, not the interval alone: without a null it stays open.
    raw, _ = told("no null", "holds")
    assert raw.endswith("Rounding alone was not measured, so this may not be an effect of pruning.")
    raw, normed = told("too little data", "as under rounding")
    assert raw.endswith("These prompts do not show whether the softmax amplifies most shifts.")
    assert normed.endswith("Rounding alone does the same, so this is not an effect of pruning.")


def test_the_fit_of_each_theorem_has_its_spread_after_one_changed_sublayer():
    points = frames.estimate_points().with_columns(estimate=2 * pl.col("truth"))
    n = points.filter(theorem="T1 h", scope="local", lens="normed").height
    assert the_one("T1 h", estimate_points=points).startswith(
        "T1 h, after one changed sublayer: the median ratio of estimate to truth is 2.00. 80 % of "
        f"{n} points are between 2.00 and 2.00."
    )
    assert the_one("T3 KL", estimate_points=points).endswith(
        "Within a variant, estimate and truth correlate as closely as in the paper (r = 0.996): the median r is 1.000 "
        "(1.000 to 1.000). For their logarithms it is 1.000. After all pruned sublayers together it is 1.000."
    )


def test_correlation_is_computed_within_each_variant():
    # Each variant's estimate is its truth times a factor of its own, over eight powers of ten.
    factors = dict(zip(frames.RECIPES, [1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4], strict=True))
    apart = pl.col("truth") * pl.col("recipe").replace_strict(factors)
    # Another lens, in which nothing fits, is not asked.
    points = frames.estimate_points().with_columns(
        estimate=pl.when(lens="raw").then(1 / pl.col("truth")).otherwise(apart)
    )
    assert "the median r is 1.000 (1.000 to 1.000)" in the_one("T3 KL", estimate_points=points)


def test_a_fit_is_of_one_temperature_and_of_ten_points_of_a_variant():
    points = frames.estimate_points().with_columns(estimate=2 * pl.col("truth"))
    cold = points.with_columns(temperature=0.3, estimate=1 / pl.col("truth"))
    both = the_one("T3 KL", estimate_points=pl.concat([points, cold]))
    assert both == the_one("T3 KL", estimate_points=points)
    few = points.filter(pl.int_range(pl.len()).over("theorem", "recipe", "scope", "lens") < 9)
    assert "correlate" not in the_one("T3 KL", estimate_points=few)


def test_a_missing_overshoot_is_named():
    points = frames.estimate_points().with_columns(estimate="truth")
    assert "without the overshoot of the paper (1.6)" in the_one("T2 p", estimate_points=points)


def test_a_variant_below_the_noise_floor_is_named():
    summary, word = frames.variant_summary(), "rounding alone, without"
    assert the_one(word) == (
        "At 95 % of the tokens, rounding alone, without any pruning, causes a KL of at most 0.00200 nats. "
        "The median KL of all 6 variants is above that."
    )
    below = summary.with_columns(is_below_noise=pl.col("recipe").is_in(["dense", "wanda-50"]))
    assert "The median KL of wanda-50 is not above that" in the_one(word, variant_summary=below)
    silent = summary.with_columns(kl_noise_p95_nats=pl.lit(None, pl.Float64), is_below_noise=pl.lit(None, pl.Boolean))
    assert not having(word, variant_summary=silent)


@pytest.mark.parametrize(("attention", "verdict"), [(0.5, "As in the paper"), (2.0, "Unlike in the paper")])
def test_the_cost_of_dropping_attention_is_compared_with_the_paper(attention, verdict):
    kl = pl.when(method="attn-drop").then(attention).otherwise(1.0)
    sentence = the_one("Dropping", variant_summary=frames.variant_summary().with_columns(kl_step0_nats=kl))
    assert verdict in sentence
    assert "4 attention sublayers (5.0 % of the parameters)" in sentence


@pytest.mark.parametrize(
    ("mlp", "verdict"),
    [
        ((1.0, 3.0), "As in the paper, dropping attention costs less at all 2 numbers of dropped sublayers."),
        ((1.0, 0.1), "Unlike in the paper, dropping attention costs less only at 1 of 2 numbers of dropped sublayers."),
        ((0.1, 0.1), "Unlike in the paper, dropping attention costs no less at all 2 numbers of dropped sublayers."),
    ],
)
def test_several_drop_counts_give_one_sentence(mlp, verdict):
    summary = frames.variant_summary()
    rows = [
        summary.filter(method=method).with_columns(
            recipe=pl.lit(f"{method}-{count}"), sublayers_dropped_count=pl.lit(count, pl.Int64), kl_step0_nats=kl
        )
        for count, *kls in ((1, 0.5, mlp[0]), (8, 0.9, mlp[1]))
        for method, kl in zip(("attn-drop", "mlp-drop"), kls, strict=True)
    ]
    sentence = the_one("Dropping", variant_summary=pl.concat(rows))
    assert sentence.startswith("Dropping 1 attention sublayer (")
    assert " Dropping 8 attention sublayers (" in sentence
    assert verdict in sentence


def test_changed_options_are_counted():
    shift = frames.option_shift(recipes=("wanda-50", "wanda-2of4"))
    swapped = pl.when(recipe="wanda-50").then(-pl.col("p_options_dense")).otherwise("p_options_dense")
    sentence = the_one("Among the options", option_shift=shift.with_columns(p_options_pruned=swapped))
    assert "1 of 2 choices are those of the dense model" in sentence
    assert "The whole ranking is the same in 1" in sentence
    assert "in the paper, most questions" not in sentence, "the claim has too little data"
    # The median over variants, and the share of questions beside that of rounding.
    assert "The median share of the options in the KL over the vocabulary is 35.0 %." in sentence
    rest = "less than the rest of the vocabulary at 90.0 % of the questions. Without any pruning this share is 87.5 %."
    assert rest in sentence


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("holds", "As in the paper, most questions keep their choice."),
        ("does not hold", "Unlike in the paper, most questions do not keep their choice."),
    ],
)
def test_whether_the_choice_is_kept_is_the_verdict_of_the_claim(verdict: str, said: str) -> None:
    """A single changed choice does not refute that most are kept."""
    judged = pl.when(claim="choice_is_kept").then(pl.lit(verdict)).otherwise("verdict")
    sentence = the_one("Among the options", paper_claims=frames.paper_claims().with_columns(verdict=judged))
    assert said in sentence
    assert "does not hold here for" not in sentence


def test_perplexities_are_listed_in_ascending_order():
    assert the_one("perplexity") == (
        "On 4,096 tokens of the text wikitext2, the dense model has a perplexity of 17.0. The pruned models have "
        "20.0 (attn-drop-4) to 35.0 (wanda-50). Their mean KL per token is 0.250 to 1.50 nats. Their most likely token "
        "is the dense model's at 87.5 % to 25.0 % of the tokens."
    )
    alone = frames.kld_summary(recipes=("wanda-50",))
    assert "The pruned models have 20.0 (wanda-50). Their" in the_one("perplexity", kld_summary=alone)


def test_without_measurements_there_are_no_sentences():
    empty = {mart.__name__: mart().clear() for mart in frames.MARTS}
    assert found(**empty) == []
    assert found(**{**empty, "variant_summary": frames.variant_summary(recipes=())}) == []


def test_several_models_are_described_in_turn():
    models = ("first", "second")
    both = found(models, **{mart.__name__: mart(models) for mart in frames.MARTS})
    assert [finding["model"] for finding in both] == [model for model in models for _ in found()]


def test_findings_are_grouped_by_theme_and_cover_every_query():
    all_findings = found()
    themes = [finding["theme"] for finding in all_findings]
    assert [theme for theme, _ in itertools.groupby(themes)] == list(dict.fromkeys(themes))
    assert {finding["sql"]["key"] for finding in all_findings} == set(FINDINGS)
