"""Tests of the answers in words: their variants, their certainty and their links."""

import duckdb
import polars as pl
import pytest

from prunescope.pipelines.reporting.explorer.query_cache import QueryCache
from prunescope.pipelines.reporting.explorer.verdicts import answers, basis, reason
from prunescope.warehouse.catalogue.database import view_sql

VERDICT = {
    "model": "m", "basis": "tasks", "measure": "score", "is_certain": True, "kl_step0_nats": 0.1, "top1_change": 0.05,
    "kl_step0_nats_low": None, "top1_change_low": None, "options_changed": 0.0, "options_changed_low": 0.0,
    "kl_step0_nats_high": None, "top1_change_high": None, "options_changed_high": 0.49, "questions": 4,
    "prompts": 4, "prompts_flipped": 2, "prompts_collapsed": 1, "is_below_noise": False,
    "loss_writing": 0.05, "loss_writing_low": 0.01, "loss_writing_high": 0.09,
    "parameters_removed_share": 0.1, "loss_choosing": 0.02, "loss_choosing_low": 0.0, "loss_choosing_high": 0.04,
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
                           "ndcg_loss_share": pl.Float64, "embedding_cosine": pl.Float64},
}  # fmt: skip


def answers_by_topic(verdicts: list[dict], **rows: list[tuple]) -> dict[str, dict]:
    """Return the answers by topic, from SQL over the given rows."""
    with duckdb.connect() as connection:
        views = view_sql()
        judged = [dict.fromkeys(views["variant_verdict"].columns) | VERDICT | row for row in verdicts]
        connection.register("variant_verdict", pl.DataFrame(judged, infer_schema_length=None, strict=False))
        for name, schema in SCHEMAS.items():
            frame = pl.DataFrame(rows.get(name, []), schema=schema, orient="row")
            connection.register(name, frame.with_columns(model=pl.lit("m")))
        connection.execute(f"create view looping_texts as {views['looping_texts'].sql}")
        found = answers(QueryCache(lambda query: connection.sql(query).pl(), is_whole=True), "m")
    return {ABOUT[answer["question"]]: answer for answer in found}


def test_safe_variants_are_listed_best_first_with_uncertain_ones_marked():
    answer = answers_by_topic(
        [
            {"recipe": "b", "verdict": "safe", "loss_writing": 0.09, "is_certain": False},
            {"recipe": "a", "verdict": "safe"},
            {"recipe": "mute", "verdict": "non-generative only", "loss_writing": 0.8},
            {"recipe": "gone", "verdict": "broken", "loss_writing": 1.0, "loss_choosing": 0.7, "is_certain": False},
        ]
    )["safe"]
    assert answer["short"] == "2 of 4 pruned variants: a, b (1 of these open within their intervals)."
    assert answer["text"].startswith(
        "Choosing only: mute. Broken: gone (open within its interval). In the tasks, writing loses 0.05 to 1.00 "
        "and choosing 0.02 to 0.70"
    )
    assert answer["text"].endswith("0.02 to 0.70 of the dense model's skill above a guess.")
    assert [link["href"] for link in answer["links"]] == ["#/variant/m%40a", "#/variant/m%40b"]
    assert [source["key"] for source in answer["sql"]] == ["answers/safe", "losses"]


def test_without_a_safe_variant_the_nearest_is_named_with_its_reason():
    answer = answers_by_topic([{"recipe": "x", "verdict": "broken", "measure": "agreement"}])["safe"]
    assert answer["short"] == "None of 1 pruned variants; the nearest is x."
    assert answer["sql"][1] == {"key": "verdicts", "where": {"model": "m", "recipe": "x"}}
    assert answer["text"].startswith(
        "x: by its agreement with the dense model, writing loses "
        "0.05 [0.01, 0.09] and choosing 0.02 [0.00, 0.04]; 2 of 4 texts change, 1 end in a loop."
    )


def test_a_long_list_is_cut_and_the_rest_counted():
    answer = answers_by_topic([{"recipe": f"r{index:02}", "verdict": "safe"} for index in range(11)])["safe"]
    assert answer["short"].endswith("r07 and 3 more.")
    assert len(answer["links"]) == 8


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"basis": None, "questions": 0}, "too little was measured"),
        ({"basis": None, "questions": 1, "prompts": 0},
         "KL at the first token 0.100 nats, 5 % of the tokens and 0 % [0, 49] of the choices change; one question "
         "is too few to judge choosing (3 are needed)"),
        ({"basis": "generations", "top1_change": None, "prompts": 0, "is_certain": False, "kl_step0_nats_low": 0.0,
          "kl_step0_nats_high": 0.7},
         "KL at the first token 0.100 [0.00, 0.70] nats, an unknown share of the tokens and 0 % [0, 49] of the "
         "choices change; the intervals leave the verdict open"),
        ({"prompts": 0, "loss_writing_low": None, "is_certain": None, "is_below_noise": True},
         "by right answers, writing loses 0.05 and choosing 0.02 [0.00, 0.04]; "
         "its median KL is not above that of rounding alone"),
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
            {"recipe": "unmeasured", "verdict": "not judged", "kl_step0_nats": None},
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


def test_the_list_of_variants_names_the_metric_of_the_losses():
    def rows(*measures, is_certain=True):
        return pl.DataFrame(
            [{"basis": "tasks" if measure else "generations", "measure": measure, "is_certain": is_certain}
             for measure in measures], schema={"basis": pl.String, "measure": pl.String, "is_certain": pl.Boolean}
        )  # fmt: skip

    assert basis(rows("score")) == "Lost: share of the dense model's right answers above a guess."
    assert basis(rows("agreement", is_certain=False)) == (
        "Lost: share of the agreement with the dense model's answers, above a guess. ? after a verdict: its intervals "
        "allow another one."
    )
    assert "Lost, if the dense model has too few right answers: share" in basis(rows("score", "agreement"))
    assert basis(rows(None, is_certain=None)) == basis(rows()) == ""


def test_missing_measurements_are_named():
    found = answers_by_topic([{"recipe": "a", "verdict": "not judged", "basis": None}])
    assert found["layers"]["short"] == (
        "Not known: no pruned sublayer was measured after the final norm (lens normed)."
    )
    assert found["collapse"]["short"] == "Not known: no pruned variant has generated a text."
    assert found["safe"]["short"] == "Not known: too little was measured to judge any of 1 pruned variants."
    assert answers(QueryCache(lambda _: pl.DataFrame(schema={"model": pl.String}), is_whole=True), "m") == []


def test_an_encoder_has_only_the_question_about_retrieval():
    rows = [
        ("mild", "x", 0.8, 0.0, 0.99), ("mild", "y", 0.6, 0.1, 0.98), ("gone", "x", 0.8, 0.5, 0.3),
        ("gone", "y", 0.6, 0.3, 0.5), ("zero", "x", 0.0, None, 0.9),
    ]  # fmt: skip
    unjudged = {"verdict": "not judged", "basis": None, "questions": 0, "is_certain": None}
    answers_of = answers_by_topic([{"recipe": name, **unjudged} for name in ("mild", "gone")], q30_retrieval_loss=rows)
    assert list(answers_of) == ["retrieval"]
    assert answers_of["retrieval"]["short"] == "1 of 2 pruned variants: mild."
    assert answers_of["retrieval"]["text"] == (
        "The limit is a loss of a tenth of the dense model's nDCG@10 (0.700, mean over 2 data sets). gone loses more. "
        "gone loses most, 40 %; its embeddings have a mean cosine of 0.400 with the dense ones."
    )


def test_a_decoder_with_retrieval_has_all_four_questions():
    rows = [("a", "x", 0.8, 0.4, None)]
    found = answers_by_topic([{"recipe": "a", "verdict": "safe"}], q30_retrieval_loss=rows)
    assert list(found) == ["safe", "collapse", "layers", "retrieval"]
    assert found["retrieval"]["short"] == "None of 1 pruned variants."
    assert found["retrieval"]["text"].endswith("a loses most, 40 %.")
