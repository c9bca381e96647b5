"""Tests of the answers in words: their variants, their certainty and their links."""

import duckdb
import polars as pl
import pytest

from prunescope.pipelines.reporting.explorer.query_cache import QueryCache
from prunescope.pipelines.reporting.explorer.verdicts import answers, basis, reason
from prunescope.warehouse.catalogue.database import view_sql

VERDICT = {
    "model": "m", "undecided": None, "units_needed": None, "unit_needed": None, "kl_step0_nats": 0.1,
    "evidence_writing": "score", "loss_writing": 0.05, "loss_writing_low": 0.01, "loss_writing_high": 0.09,
    "n_writing": 64, "evidence_choosing": "options", "loss_choosing": 0.02, "loss_choosing_low": -0.001,
    "loss_choosing_high": 0.04, "n_choosing": 40, "parameters_removed_share": 0.1, "is_below_noise": False,
    "prompts": 4, "prompts_flipped": 2, "prompts_collapsed": 1,
}  # fmt: skip
RANKING = {
    "measure": "top1_change", "amount": 0.14, "amount_low": 0.10, "amount_high": 0.18, "place": 1, "is_nearest": False
}  # fmt: skip
ABOUT = {
    "Which variants generate safely?": "safe",
    "Where does the first collapse start?": "collapse",
    "Which layers cause the damage?": "layers",
    "Which variants still retrieve?": "retrieval",
}
SCHEMAS = {
    "stg_generations": {"recipe": pl.String, "prompt_id": pl.String, "first_flip_step": pl.Int32,
                        "collapse_step": pl.Int32},
    "layer_kl_share": {"recipe": pl.String, "layer": pl.Int16, "sublayer": pl.String, "share_of_kl": pl.Float64,
                       "place_in_order": pl.Int64},
    "first_divergent_layer": {"recipe": pl.String, "prompt_id": pl.String, "from_layer": pl.Int16},
    "q30_retrieval_loss": {"recipe": pl.String, "data_set": pl.String, "ndcg_dense": pl.Float64,
                           "ndcg_loss_share": pl.Float64, "embedding_cosine": pl.Float64,
                           "ndcg_loss_share_low": pl.Float64, "ndcg_loss_share_high": pl.Float64},
}  # fmt: skip


def answers_by_topic(verdicts: list[dict], ranking: list[dict] | None = None, **rows: list[tuple]) -> dict[str, dict]:
    """Return the answers by topic, from SQL over the given rows."""
    with duckdb.connect() as connection:
        views = view_sql()
        judged = [dict.fromkeys(views["variant_verdict"].columns) | VERDICT | row for row in verdicts]
        connection.register("variant_verdict", pl.DataFrame(judged, infer_schema_length=None, strict=False))
        ranked = [{"model": "m"} | RANKING | row for row in ranking or [{"recipe": "of no variant"}]]
        connection.register("variant_ranking", pl.DataFrame(ranked))
        for name, schema in SCHEMAS.items():
            frame = pl.DataFrame(rows.get(name, []), schema=schema, orient="row")
            connection.register(name, frame.with_columns(model=pl.lit("m")))
        connection.execute(f"create view looping_texts as {views['looping_texts'].sql}")
        found = answers(QueryCache(lambda query: connection.sql(query).pl(), is_whole=True), "m")
    return {ABOUT[answer["question"]]: answer for answer in found}


def test_safe_variants_are_listed_by_damage_and_the_others_by_verdict():
    answer = answers_by_topic(
        [
            {"recipe": "b", "verdict": "safe"},
            {"recipe": "a", "verdict": "safe"},
            {"recipe": "mute", "verdict": "non-generative only", "loss_writing": 0.8},
            {"recipe": "gone", "verdict": "broken", "loss_writing": 1.0, "loss_choosing": 0.7},
        ],
        [{"recipe": "b", "is_nearest": True}, {"recipe": "a", "amount": 0.2}, {"recipe": "mute", "amount": 0.5}],
    )["safe"]
    assert answer["short"] == "2 of 4 pruned variants generate safely: b, a."
    assert answer["text"].endswith("Choosing only: mute. Broken: gone.")
    assert [link["href"] for link in answer["links"]] == ["#/variant/m%40b", "#/variant/m%40a"]
    assert [source["key"] for source in answer["sql"]] == ["answers/safe", "ranking", "verdicts", "losses"]


def test_without_a_safe_variant_the_nearest_is_named_with_what_tells_it_apart():
    answer = answers_by_topic(
        [{"recipe": "x", "verdict": "not safe"}, {"recipe": "y", "verdict": "broken"}],
        [{"recipe": "x", "is_nearest": True}, {"recipe": "y", "amount": 0.39}],
    )["safe"]
    assert answer["short"] == "None of 2 pruned variants generates safely; the nearest is x."
    assert answer["sql"][1:3] == [
        {"key": "ranking", "where": {"model": "m"}},
        {"key": "verdicts", "where": {"model": "m", "recipe": "x"}},
    ]
    assert answer["text"].startswith(
        "By the share of tokens whose most likely token changes, the least is 14 % [10 %, 18 %]; the next that can be "
        "told apart is y with 39 % (paired tests, 95 % over all comparisons). x: writing loses 5 % [1, 9] of the dense "
        "model's right answers above a guess (64 answers); choosing loses 2 % [0, 4] of its choices (40 questions); 2 "
        "of 4 texts change, 1 loop."
    )


def test_a_single_variant_is_not_called_the_nearest():
    answer = answers_by_topic([{"recipe": "x", "verdict": "broken"}], [{"recipe": "x", "is_nearest": True}])["safe"]
    assert answer["short"] == "None of 1 pruned variant generates safely."
    assert answer["text"].startswith("x: writing loses 5 % [1, 9]")


def test_variants_that_cannot_be_told_apart_are_all_nearest():
    verdicts = [{"recipe": name, "verdict": "broken"} for name in "xyz"]
    ranking = [{"recipe": "y", "is_nearest": True}, {"recipe": "x", "amount": 0.15, "is_nearest": True}]
    answer = answers_by_topic(verdicts, ranking)["safe"]
    assert answer["short"] == (
        "None of 3 pruned variants generates safely; the nearest, which cannot be told apart, are y, x."
    )


def test_what_too_little_evidence_leaves_open_is_not_denied():
    open_ = {"verdict": "too little evidence", "undecided": "writing", "unit_needed": "prompts"}
    few = {"recipe": "x", "units_needed": 71} | open_
    many = {"recipe": "y", "units_needed": 10**9} | open_
    assert answers_by_topic([few, {"recipe": "z", "verdict": "broken"}])["safe"]["short"] == (
        "None of 2 pruned variants is shown to generate safely."
    )
    answer = answers_by_topic([few, many])["safe"]
    assert answer["short"] == "Not known: too little evidence on any of 2 pruned variants."
    assert answer["text"] == "Too little evidence: x, y. The least is needed for x: 71 prompts would do."
    assert "more than 100,000 prompts are needed" in answers_by_topic([many])["safe"]["text"]


def test_a_long_list_is_cut_and_the_rest_counted():
    answer = answers_by_topic([{"recipe": f"r{index:02}", "verdict": "safe"} for index in range(11)])["safe"]
    assert answer["short"].endswith("r07 and 3 more.")
    assert len(answer["links"]) == 8


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"evidence_writing": None, "evidence_choosing": None}, "nothing was measured that a verdict could rest on"),
        ({"evidence_writing": "tokens", "n_writing": 1, "loss_writing_low": None, "prompts": 0,
          "undecided": "writing", "units_needed": 30, "unit_needed": "prompts"},
         "writing loses 5 % of its most likely tokens (1 prompt, too few); choosing loses 2 % [0, 4] of its choices "
         "(40 questions); writing is open: 30 prompts would do"),
        ({"undecided": "both", "units_needed": 71, "unit_needed": "prompts and as many questions", "prompts": 0},
         "writing loses 5 % [1, 9] of the dense model's right answers above a guess (64 answers); choosing loses 2 % "
         "[0, 4] of its choices (40 questions); writing and choosing are open: 71 prompts and as many questions would "
         "do"),
        ({"evidence_choosing": None, "undecided": "writing", "is_below_noise": True},
         "writing loses 5 % [1, 9] of the dense model's right answers above a guess (64 answers); choosing was not "
         "measured; writing is open; 2 of 4 texts change, 1 loop; its median KL is not above that of rounding alone"),
    ],
)  # fmt: skip
def test_a_reason_states_only_measurements(changes, expected):
    assert reason(VERDICT | changes) == expected


def test_the_first_collapse_is_that_of_the_mildest_variant_with_the_earliest_named():
    texts = [
        *(("dense", prompt, None, 4 if prompt == "dull" else None) for prompt in ("p", "q/1", "dull")),
        ("harsh", "p", None, 2),
        ("mild", "q/1", 3, 9),
        ("mild", "p", 1, None),
        ("mild", "dull", 0, 1),  # the dense model loops here too
        ("fine", "p", 5, None),
    ]
    verdicts = [
        {"recipe": "mild", "verdict": "safe", "kl_step0_nats": 0.2},
        {"recipe": "harsh", "verdict": "broken", "kl_step0_nats": 0.5},
        {"recipe": "fine", "verdict": "safe", "kl_step0_nats": 0.1},
    ]
    answer = answers_by_topic(verdicts, stg_generations=texts)["collapse"]
    assert answer["short"] == (
        "In mild, the mildest (by KL at the first token) of 2 of 3 pruned variants that loop: prompt q/1, from step 3; "
        "the loop is closed at step 9."
    )
    assert answer["text"] == (
        "By KL at the first token (0.200 nats) it is the mildest that loops where the dense model does not: its text "
        "to prompt q/1 differs from the dense one from step 3 on and has closed a loop at step 9. The earliest loop of "
        "all is that of harsh: its text to prompt p has closed a loop at step 2."
    )
    assert [link["href"] for link in answer["links"]] == [
        "#/tokens/m%40mild/q%2F1/3/free",
        "#/tokens/m%40harsh/p/2/free",
    ]
    # Without a KL at the first token none is the mildest.
    unknown = [verdict | {"kl_step0_nats": None} for verdict in verdicts]
    answer = answers_by_topic(unknown, stg_generations=texts)["collapse"]
    assert answer["short"] == (
        "In harsh, the first of 2 of 3 pruned variants that loop: prompt p, from step 2; the loop is closed at step 2."
    )
    assert answer["text"] == "harsh: its text to prompt p has closed a loop at step 2."


def test_a_variant_without_texts_does_not_count_as_free_of_loops():
    verdicts = [{"recipe": name, "verdict": "safe"} for name in ("loops", "writes", "silent")]
    texts = [("dense", "p", None, None), ("loops", "p", 0, 3), ("writes", "p", 1, None)]
    assert (
        "of 1 of 2 pruned variants that loop" in answers_by_topic(verdicts, stg_generations=texts)["collapse"]["short"]
    )


def test_without_a_loop_the_layers_are_those_of_the_mildest_variant():
    carriers = [
        *(("far", layer, "mlp", share, place) for layer, share, place in ((7, 0.6, 1), (6, 0.3, 2), (5, 0.1, 3))),
        *(("near", layer, "attn", share, place) for layer, share, place in ((3, 0.75, 1), (4, 0.25, 2), (5, 0.0, 3))),
        ("near", 6, "mlp", 0.0, 4),
    ]
    parts = [("far", f"p{layer}", layer) for layer in (*range(10), None)]
    found = answers_by_topic(
        [
            {"recipe": "far", "verdict": "safe", "kl_step0_nats": 3.0},
            {"recipe": "near", "verdict": "safe"},
            {"recipe": "unmeasured", "verdict": "too little evidence", "kl_step0_nats": None},
        ],
        layer_kl_share=carriers,
        first_divergent_layer=parts,
        stg_generations=[("dense", "p", None, None), ("far", "p", 2, None), ("near", "p", None, None)],
    )
    assert found["collapse"]["short"].startswith("Nowhere: no text of a pruned variant falls into a loop")
    assert found["layers"]["short"] == (
        "In near: attention of layer 3 (75 %), attention of layer 4 (25 %), of the sum of the KL that each of its "
        "sublayers alone causes."
    )
    text = found["layers"]["text"]
    # The three sublayers of `far` are all that it changed.
    assert text.startswith(
        "Over all variants: attention of layer 3 (1 of 1), attention of layer 4 (1 of 1), attention of layer 5 (1 of "
        "1)."
    )
    assert "differs from layer 4 on, in the median of 10 texts (80 % between 0 and 8" in text


def test_the_list_of_variants_names_the_evidence_of_the_losses():
    def rows(*evidence):
        return pl.DataFrame(
            [{"evidence_writing": writing, "evidence_choosing": choosing} for writing, choosing in evidence],
            schema={"evidence_writing": pl.String, "evidence_choosing": pl.String},
        )

    assert basis(rows(("score", "options"), ("tokens", None))) == (
        "Writing lost, beyond the noise floor: share of the dense model's right answers above a guess, or of its most "
        "likely tokens. Choosing lost, beyond the noise floor: share of its choices."
    )
    assert basis(rows()) == ""


def test_missing_measurements_are_named():
    found = answers_by_topic([{"recipe": "a", "verdict": "too little evidence"}])
    assert found["layers"]["short"] == (
        "Not known: no pruned sublayer was measured after the final norm (lens normed)."
    )
    assert found["collapse"]["short"] == "Not known: no pruned variant has generated a text."
    assert found["safe"]["short"] == "Not known: too little evidence on any of 1 pruned variant."
    assert answers(QueryCache(lambda _: pl.DataFrame(schema={"model": pl.String}), is_whole=True), "m") == []


def test_an_encoder_has_only_the_question_about_retrieval():
    rows = [
        ("mild", "x", 0.8, 0.0, 0.99, -0.04, 0.04), ("mild", "y", 0.6, 0.1, 0.98, 0.08, 0.12),
        ("gone", "x", 0.8, 0.5, 0.3, 0.4, 0.6), ("gone", "y", 0.6, 0.3, 0.5, 0.2, 0.4),
        ("few", "x", 0.8, 0.0, 0.9, -0.3, 0.3), ("few", "y", 0.6, 0.0, 0.9, -0.3, 0.3),
        ("old", "x", 0.8, 0.0, 0.9, None, None), ("old", "y", 0.6, 0.0, 0.9, -0.1, 0.1),
        ("half", "x", 0.8, 0.0, 0.9, 0.0, 0.0), ("zero", "x", 0.0, None, 0.9, None, None),
    ]  # fmt: skip
    unjudged = {"verdict": "too little evidence", "evidence_writing": None, "evidence_choosing": None}
    answers_of = answers_by_topic([{"recipe": name, **unjudged} for name in ("mild", "gone")], q30_retrieval_loss=rows)
    assert list(answers_of) == ["retrieval"]
    measured = answers_by_topic([{"recipe": "few", "verdict": "too little evidence"}], q30_retrieval_loss=rows)
    assert "safe" in measured, "a decoder that retrieves has too little evidence, not none"
    assert answers_of["retrieval"]["short"] == "1 of 4 pruned variants: mild."
    assert answers_of["retrieval"]["text"] == (
        "The limit is a loss of a tenth of the dense model's nDCG@10 (0.700, mean over 2 data sets). gone loses more. "
        "Not shown either way: few, old. gone loses most, 40 %; its embeddings have a mean cosine of 0.400 with the "
        "dense ones."
    )


def test_a_decoder_with_retrieval_has_all_four_questions():
    rows = [("a", "x", 0.8, 0.4, None, 0.3, 0.5)]
    found = answers_by_topic([{"recipe": "a", "verdict": "safe"}], q30_retrieval_loss=rows)
    assert list(found) == ["safe", "collapse", "layers", "retrieval"]
    assert found["retrieval"]["short"] == "None of 1 pruned variants."
    assert found["retrieval"]["text"].endswith("a loses most, 40 %.")
