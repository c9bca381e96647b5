"""Tests of the answers in words: their variants, their certainty and their links."""

import duckdb
import polars as pl
import pytest

from prunescope.pipelines.reporting.explorer.query_cache import QueryCache
from prunescope.pipelines.reporting.explorer.verdicts import answers, basis, reason
from prunescope.warehouse.catalogue.database import SQL, view_sql

FEW = "too little evidence"
VERDICT = {
    "model": "m", "verdict": "safe", "fidelity": "fails", "writing": "holds", "choosing": "holds", "alive": "holds",
    "loss_fidelity": 0.2, "loss_fidelity_low": 0.18, "loss_fidelity_high": 0.22, "n_fidelity": 400,
    "evidence_writing": "score", "loss_writing": 0.05, "loss_writing_low": 0.04, "loss_writing_high": 0.06,
    "n_writing": 640, "evidence_choosing": "options", "loss_choosing": 0.02, "loss_choosing_low": -0.001,
    "loss_choosing_high": 0.04, "n_choosing": 400, "loss_alive": 0.01, "loss_alive_low": 0.0, "loss_alive_high": 0.03,
    "prompts_lost": 4, "n_alive": 400, "first_flip_step_median": 1.5, "is_below_noise": False,
    "prompts": 400, "prompts_graded": 0, "prompts_correct": 0,
}  # fmt: skip
LOST = {"writing": "fails", "loss_writing": 0.83, "loss_writing_low": 0.75, "loss_writing_high": 0.9}
OPEN = {"loss_writing_low": -0.3, "loss_writing_high": 0.4, "writing": FEW}
LOOPS = {"alive": "fails", "loss_alive": 0.8, "loss_alive_low": 0.75, "loss_alive_high": 0.85, "prompts_lost": 320}
RANKING = {"model": "m", "band": 1, "band_removed_share": 0.39, "is_nearest": False, "n_variants": 2}
ABOUT = {
    "Which variants still answer right?": "right",
    "Which variants loop or stop early?": "alive",
    "How long do the texts stay the same?": "same",
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


def answers_by_topic(
    verdicts: list[dict], ranking: list[dict] | None = None, own: dict[str, str] | None = None, **rows: list[tuple]
) -> dict[str, dict]:
    """Return the answers by topic, from SQL over the given rows.

    A verdict may have the KL of its summary; `own` says of recipes how far they are on own text.
    """
    views = view_sql()
    known = {"model": "m", "is_noise": False, "kl_own_text_median_nats": 1.0}
    given = {
        "variant_verdict": [VERDICT | row for row in verdicts],
        "variant_ranking": [RANKING | row for row in ranking or [{"recipe": "of no variant"}]],
        "q13_own_text_against_forced": [
            known | {"recipe": recipe, "own_text_is": word} for recipe, word in (own or {}).items()
        ]
        or [known | {"model": "another"}],
    }
    sums = {"model": "m", "kl_step0_nats": 0.1, "prompts_correct": 6, "prompts_collapsed": 0,
            "parameters_removed_share": 0.1}  # fmt: skip
    summaries = [{**sums, **{name: row[name] for name in (*sums, "recipe") if name in row}}
                 for row in ({"recipe": "dense"}, *verdicts)]  # fmt: skip
    with duckdb.connect() as connection:
        for file in sorted((SQL / "macros").glob("*.sql")):
            connection.execute(file.read_text("utf-8"))
        for name, own_rows in given.items():
            whole = [dict.fromkeys(views[name].columns) | row for row in own_rows]
            connection.register(name, pl.DataFrame(whole, infer_schema_length=None, strict=False))
        connection.register("variant_summary", pl.DataFrame(summaries))
        for name, schema in SCHEMAS.items():
            frame = pl.DataFrame(rows.get(name, []), schema=schema, orient="row")
            connection.register(name, frame.with_columns(model=pl.lit("m")))
        connection.execute(f"create view looping_texts as {views['looping_texts'].sql}")
        found = answers(QueryCache(lambda query: connection.sql(query).pl(), is_whole=True), "m")
    return {ABOUT[answer["question"]]: answer for answer in found}


def test_kept_and_lost_right_answers_are_said_apart_with_what_is_lost():
    mute, dim = ({"recipe": "mute", "verdict": "chooses only"}, {"recipe": "dim", "verdict": "writes other text"})
    answer = answers_by_topic([{"recipe": "b"}, {"recipe": "a"}, mute | LOST, dim | OPEN])["right"]
    assert answer["short"] == (
        "a and b surely lose at most a tenth of the right answers. mute surely loses more than a tenth of the right "
        "answers. There are too few right answers to be sure of dim."
    )
    assert answer["text"] == (
        "mute loses 83 % [75, 90] of the right written answers. Verdicts by variant: safe (a and b), writes other text "
        "(dim), chooses only (mute)."
    )
    assert [link["href"] for link in answer["links"]] == ["#/variant/m%40a", "#/variant/m%40b"]
    assert answer["sql"] == [{"key": "verdicts", "where": {"model": "m"}}]


def test_too_few_answers_are_counted_beside_the_dense_models():
    few = OPEN | {"verdict": "writes other text", "prompts_graded": 24}
    verdicts = [few | {"recipe": name, "prompts_correct": count} for name, count in (("x", 6), ("y", 1), ("z", 6))]
    unmeasured = few | {"recipe": "unmeasured", "prompts_graded": 0, "prompts_correct": 0}
    answer = answers_by_topic([*verdicts, unmeasured])["right"]
    assert answer["short"] == (
        "The dense model answers 6 of 24 prompts right; x and z answer 6; y answers 1. There are too few right answers "
        "to be sure of any variant."
    )


def test_what_is_said_of_many_variants_needs_wider_intervals_than_the_verdict_on_one():
    """The upper end of 9 % is within the tolerance for one variant, and not if twenty must hold together."""
    close = {"loss_writing": 0.06, "loss_writing_high": 0.09}
    alone = answers_by_topic([{"recipe": "x"} | close])["right"]["short"]
    among = answers_by_topic([{"recipe": f"v{n}"} | (close if n == 0 else {}) for n in range(20)])["right"]["short"]
    assert alone.startswith("x surely loses")
    assert among.endswith("There are too few right answers to be sure of v0.")


def test_loops_and_early_ends_are_counted_beside_the_dense_models_with_the_mildest_loop():
    texts = [
        *(("dense", prompt, None, 4 if prompt == "dull" else None) for prompt in ("p", "q/1", "dull")),
        ("harsh", "p", None, 2),
        ("mild", "q/1", 3, 9),
        ("mild", "p", 1, None),
        ("mild", "dull", 0, 1),  # the dense model loops here too
        ("fine", "p", 5, None),
    ]
    verdicts = [
        {"recipe": "mild", "kl_step0_nats": 0.2},
        {"recipe": "harsh", "kl_step0_nats": 0.5} | LOOPS,
        {"recipe": "fine", "kl_step0_nats": 0.1},
    ]
    answer = answers_by_topic(verdicts, stg_generations=texts)["alive"]
    assert answer["short"] == (
        "harsh surely loops or stops early in more than a tenth of the texts. The dense model has 0 such texts "
        "of 400; harsh has 320; fine and mild have 4."
    )
    assert answer["text"] == (
        "fine and mild surely loop or stop early in at most a tenth of the texts. The least damaged variant that loops "
        "is mild: its text to prompt q/1 repeats itself for the third time by step 9."
    )
    assert [link["href"] for link in answer["links"]] == ["#/tokens/m%40mild/q%2F1/3/own"]
    # Without a KL at the first token none is the mildest, and the first loop is named.
    unknown = [verdict | {"kl_step0_nats": None} for verdict in verdicts]
    answer = answers_by_topic(unknown, stg_generations=texts)["alive"]
    assert answer["text"].endswith("is harsh: its text to prompt p repeats itself for the third time by step 2.")


def test_half_of_the_texts_differ_by_a_step_that_counts_from_zero_and_texts_that_never_differ_are_named():
    verdicts = [
        {"recipe": name, "first_flip_step_median": step}
        for name, step in zip("abcd", (1.5, 0.0, None, 2.0), strict=True)
    ]
    verdicts[2] |= {"fidelity": "holds", "loss_fidelity": 0.01, "loss_fidelity_low": 0.0, "loss_fidelity_high": 0.02}
    nearest = {"is_nearest": True, "n_variants": 3}
    alone = {"recipe": "d", "is_nearest": True, "band": 2, "n_variants": 1}
    ranking = [{"recipe": "a"} | nearest, {"recipe": "b"} | nearest, {"recipe": "c"}, alone]
    answer = answers_by_topic(verdicts, ranking)["same"]
    assert answer["short"] == (
        "c surely changes at most a tenth of the dense model's tokens. At least half of the texts of c stay the "
        "same to the end. Half of the texts differ from the dense ones (the first token is step 0): a and d by step 2; "
        "b by step 0."
    )
    assert answer["text"] == (
        "Tokens of the dense text that change: c 1 % [0, 2], a 20 % [18, 22], b 20 % [18, 22], d 20 % [18, 22]. Among "
        "3 variants that remove about 39 % of the parameters, a and b change the fewest tokens, without a proven "
        "difference between them (paired tests, 95 % over the comparisons)."
    )


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"a": "nearer", "b": "no difference shown"},
         "On its own text, no variant is shown to be further from the dense model than on the dense text. a is "
         "nearer."),
        ({"a": "further", "b": "nearer", "c": "nearer"},
         "On its own text, a is further from the dense model than on the dense text. b and c are nearer."),
        ({"a": "further", "b": "further"},
         "On their own text, a and b are further from the dense model than on the dense text."),
    ],
)  # fmt: skip
def test_own_text_is_compared_with_the_dense_text(own: dict[str, str], said: str) -> None:
    answer = answers_by_topic([{"recipe": "a"}, {"recipe": "b"}], own=own)["same"]
    assert answer["short"].endswith(f" by step 2. {said}")
    assert {"key": "findings/feedback", "where": {"model": "m"}} in answer["sql"]


def test_a_long_list_is_cut_and_the_rest_counted():
    answer = answers_by_topic([{"recipe": f"r{index:02}"} for index in range(11)])["right"]
    assert answer["short"].startswith("r00, r01, r02, r03, r04, r05, r06, r07 and 3 more surely lose")
    assert len(answer["links"]) == 8


UNMEASURED = dict.fromkeys(
    ("n_fidelity", "evidence_writing", "n_writing", "evidence_choosing", "n_choosing", "n_alive")
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (UNMEASURED, "nothing was measured that a verdict could rest on"),
        (UNMEASURED | {"n_fidelity": 1, "loss_fidelity_low": None, "fidelity": FEW, "would_decide": "fidelity: 30"},
         "same tokens: too little evidence, 20 % change (1 prompt, too few); enough would be fidelity: 30"),
        ({"is_below_noise": True},
         "same tokens: fails, 20 % [18, 22] change (400 prompts); right answers in writing: holds, 5 % [4, 6] of the "
         "right answers to tasks above a guess lost (640 answers); right answers in choosing: holds, 2 % [0, 4] of "
         "the dense model's own choices lost (400 answers); alive: holds, 4 of 400 texts loop or end early, 1 % [0, 3] "
         "beyond the dense model's; its median KL is not above that of rounding alone"),
    ],
)  # fmt: skip
def test_a_reason_states_only_measurements(changes, expected):
    assert reason(VERDICT | {"would_decide": None} | changes) == expected


def test_a_variant_worse_than_a_guess_has_lost_all_above_it():
    worse = {"choosing": "fails", "loss_choosing": 1.25, "loss_choosing_low": 0.75, "loss_choosing_high": 1.5}
    said = reason(VERDICT | {"would_decide": None, "evidence_choosing": "graded"} | worse)
    assert "in choosing: fails, 100 % [75, 100] of the right answers to the prompts above a guess lost" in said


def test_without_a_loop_the_layers_are_those_of_the_mildest_variant():
    carriers = [
        *(("far", layer, "mlp", share, place) for layer, share, place in ((7, 0.6, 1), (6, 0.3, 2), (5, 0.1, 3))),
        *(("near", layer, "attn", share, place) for layer, share, place in ((3, 0.75, 1), (4, 0.25, 2), (5, 0.0, 3))),
        ("near", 6, "mlp", 0.0, 4),
    ]
    parts = [("far", f"p{layer}", layer) for layer in (*range(10), None)]
    found = answers_by_topic(
        [{"recipe": "far", "kl_step0_nats": 3.0}, {"recipe": "near"}, {"recipe": "unmeasured", "kl_step0_nats": None}],
        layer_kl_share=carriers,
        first_divergent_layer=parts,
        stg_generations=[("dense", "p", None, None), ("far", "p", 2, None), ("near", "p", None, None)],
    )
    assert found["layers"]["short"] == (
        "In near the KL, summed over sublayers changed alone, comes mostly from the attention of layer 3 (75 %), "
        "the attention of layer 4 (25 %)."
    )
    text = found["layers"]["text"]
    # The three sublayers of `far` are all that it changed.
    assert text.startswith(
        "The sublayers that are most often among the three with the largest KL are the attention of layer 3 (1 of 1), "
        "the attention of layer 4 (1 of 1), the attention of layer 5 (1 of 1), counted over the variants that changed "
        "them and more than three sublayers."
    )
    assert "differs from layer 4 on, in the median of 10 texts (80 % between 0 and 8" in text


def test_the_list_of_variants_names_the_evidence_of_the_losses():
    schema = {"evidence_writing": pl.String, "evidence_choosing": pl.String}
    rows = pl.DataFrame([("score", "options"), ("agreement", None)], schema, orient="row")
    assert basis(rows) == (
        "Writing lost, beyond what rounding changes: share of the right answers to tasks above a guess, or of the "
        "dense model's own answers to tasks. Choosing lost, beyond what rounding changes: share of the "
        "dense model's own choices."
    )
    assert basis(rows.clear()) == ""


def test_missing_measurements_are_named():
    found = answers_by_topic([{"recipe": "a"} | UNMEASURED])
    assert found["layers"]["short"] == (
        "Not known: no pruned sublayer was measured after the final norm (lens normed)."
    )
    assert found["alive"]["short"] == "Not known: no pruned variant has generated a text."
    assert found["right"]["short"] == "There are too few right answers to be sure of any variant."
    assert found["same"]["short"] == "Not known: no tokens were compared."
    assert answers(QueryCache(lambda _: pl.DataFrame(schema={"model": pl.String}), is_whole=True), "m") == []


def test_an_encoder_has_only_the_question_about_retrieval():
    rows = [
        ("mild", "x", 0.8, 0.0, 0.99, -0.04, 0.04), ("mild", "y", 0.6, 0.1, 0.98, 0.08, 0.12),
        ("gone", "x", 0.8, 0.5, 0.3, 0.4, 0.6), ("gone", "y", 0.6, 0.3, 0.5, 0.2, 0.4),
        ("few", "x", 0.8, 0.0, 0.9, -0.3, 0.3), ("few", "y", 0.6, 0.0, 0.9, -0.3, 0.3),
        ("old", "x", 0.8, 0.0, 0.9, None, None), ("old", "y", 0.6, 0.0, 0.9, -0.1, 0.1),
        ("half", "x", 0.8, 0.0, 0.9, 0.0, 0.0), ("zero", "x", 0.0, None, 0.9, None, None),
    ]  # fmt: skip
    answers_of = answers_by_topic(
        [{"recipe": name, **UNMEASURED} for name in ("mild", "gone")], q30_retrieval_loss=rows
    )
    assert list(answers_of) == ["retrieval"]
    measured = answers_by_topic([{"recipe": "few"}], q30_retrieval_loss=rows)
    assert "right" in measured, "a decoder that retrieves has too little evidence, not none"
    assert answers_of["retrieval"]["short"] == "1 of 4 pruned variants: mild."
    assert answers_of["retrieval"]["text"] == (
        "The limit is a loss of a tenth of the dense model's nDCG@10 (0.700, mean over 2 data sets). gone loses more. "
        "Not shown either way: few and old. gone loses most, 40 %; its embeddings have a mean cosine of 0.400 with the "
        "dense ones."
    )


def test_a_decoder_with_retrieval_has_all_questions():
    rows = [("a", "x", 0.8, 0.4, None, 0.3, 0.5)]
    found = answers_by_topic([{"recipe": "a"}], q30_retrieval_loss=rows)
    assert list(found) == ["right", "alive", "same", "layers", "retrieval"]
    assert found["retrieval"]["short"] == "None of 1 pruned variants."
    assert found["retrieval"]["text"].endswith("a loses most, 40 %.")
