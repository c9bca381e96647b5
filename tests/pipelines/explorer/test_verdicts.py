"""The three answers in words: what they name, how sure they say to be, and where their links lead."""

import polars as pl
import pytest

from pipelines.explorer.frames import Frames
from pipelines.explorer.statements import STATEMENTS
from pipelines.explorer.verdicts import answers, reason

VERDICT = {
    "model": "m", "basis": "tasks", "measure": "score", "is_certain": True, "kl_step0_nats": 0.1, "top1_change": 0.05,
    "options_changed": 0.0, "prompts": 4, "prompts_flipped": 2, "prompts_collapsed": 1, "is_below_noise": False,
    "loss_writing": 0.05, "loss_writing_low": 0.01, "loss_writing_high": 0.09,
    "loss_choosing": 0.02, "loss_choosing_low": 0.0, "loss_choosing_high": 0.04,
}  # fmt: skip
LOOP = {"model": "m", "first_flip_step": 3, "collapse_step": 9, "parameters_removed_share": 0.1, "kl_step0_nats": 0.5}
CARRIER = {"model": "m", "scope": "local", "kl_alone_nats": 1.0, "prompts_parted": 0}
EMPTY = {
    "collapses": pl.DataFrame(schema={**dict.fromkeys(("model", "recipe", "prompt_id"), pl.String),
                                      **dict.fromkeys(("first_flip_step", "collapse_step"), pl.Int32),
                                      "kl_step0_nats": pl.Float64}),
    "carriers": pl.DataFrame(schema={"model": pl.String, "recipe": pl.String, "share_of_kl": pl.Float64}),
    "carriers_overall": pl.DataFrame(schema={"model": pl.String, "variants_top3": pl.Int64}),
    "parts": pl.DataFrame(schema={"model": pl.String, "from_layer": pl.Int16}),
}  # fmt: skip


def told(verdicts: list[dict], **frames: pl.DataFrame) -> dict[str, dict]:
    """The three answers, by what they are about."""
    rows = pl.DataFrame([VERDICT | row for row in verdicts], infer_schema_length=None)
    known = {STATEMENTS[key].sql: frame for key, frame in ({"verdicts": rows} | EMPTY | frames).items()}
    found = answers(Frames(known.__getitem__, is_whole=True), "m")
    return dict(zip(("safe", "collapse", "layers"), found, strict=True))


def test_safe_variants_are_named_best_first_with_what_the_intervals_leave_open():
    answer = told(
        [
            {"recipe": "b", "verdict": "safe", "loss_writing": 0.09, "is_certain": False},
            {"recipe": "a", "verdict": "safe"},
            {"recipe": "mute", "verdict": "non-generative only", "loss_writing": 0.8},
            {"recipe": "gone", "verdict": "broken", "loss_writing": 1.0, "loss_choosing": 0.7, "is_certain": False},
        ]
    )["safe"]
    assert answer["text"].startswith(
        "2 of 4 pruned variants: a, b (for 1 of these open within the intervals). Choosing only: mute. "
        "Broken: gone (open within its interval). In the tasks writing loses 0.05 to 1.00 and choosing 0.02 to 0.70"
    )
    assert answer["text"].endswith("0.02 to 0.70 of what the dense model has above a guess.")
    assert [link["href"] for link in answer["links"]] == ["#/variant/m%40a", "#/variant/m%40b"]
    assert answer["sql"] == ["verdicts", "losses"]


def test_where_none_is_safe_the_nearest_is_named_with_its_reason():
    answer = told([{"recipe": "x", "verdict": "broken", "measure": "agreement"}])["safe"]
    assert answer["text"].startswith(
        "None of 1 pruned variants. The nearest is x: by its agreement with the dense model, writing loses "
        "0.05 [0.01, 0.09] and choosing 0.02 [0.00, 0.04]; 2 of 4 texts change, 1 end in a loop."
    )


def test_a_long_list_is_cut_and_says_by_how_much():
    answer = told([{"recipe": f"r{index:02}", "verdict": "safe"} for index in range(11)])["safe"]
    assert "r07 and 3 more." in answer["text"]
    assert len(answer["links"]) == 8


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"basis": None}, "too little was measured"),
        ({"basis": "generations", "top1_change": None, "prompts": 0},
         "KL at the first token 0.100 nats, an unknown part of the tokens and 0 % of the choices change"),
        ({"prompts": 0, "loss_writing_low": None, "is_certain": None, "is_below_noise": True},
         "by right answers, writing loses 0.05 and choosing 0.02 [0.00, 0.04]; "
         "its median KL is not above what rounding alone makes"),
    ],
)  # fmt: skip
def test_a_reason_says_what_was_measured_and_no_more(changes, expected):
    assert reason(VERDICT | changes) == expected


def test_the_first_collapse_is_that_of_the_mildest_variant_and_the_earliest_is_told_beside_it():
    loops = pl.DataFrame(
        [
            LOOP | {"recipe": "harsh", "prompt_id": "p", "collapse_step": 2, "first_flip_step": None},
            LOOP | {"recipe": "mild", "prompt_id": "q/1", "kl_step0_nats": 0.2},
        ]
    )
    answer = told([{"recipe": "mild", "verdict": "safe"}, {"recipe": "harsh", "verdict": "broken"}], collapses=loops)[
        "collapse"
    ]
    assert answer["text"] == (
        "2 of 2 pruned variants fall into a loop where the dense model does not. The mildest of them, by KL at the "
        "first token (0.200 nats), is mild: its text to prompt q/1 leaves the dense one at step 3 and has closed a "
        "loop at step 9. The earliest loop of all is that of harsh: its text to prompt p has closed a loop at step "
        "2."
    )
    assert [link["href"] for link in answer["links"]] == ["#/tokens/m%40mild/q%2F1/3", "#/tokens/m%40harsh/p/2"]


def test_without_a_loop_the_layers_are_those_of_the_mildest_variant():
    carriers = pl.DataFrame(
        [
            CARRIER
            | {"recipe": recipe, "layer": layer, "sublayer": kind, "share_of_kl": share, "place_in_order": place}
            for recipe, layer, kind, share, place in (("far", 7, "mlp", 1.0, 1), ("near", 3, "attn", 0.75, 1))
        ]
    )
    overall = pl.DataFrame([{"model": "m", "layer": 3, "sublayer": "attn", "variants": 5, "variants_top3": 4}])
    parts = pl.DataFrame({"model": ["m"] * 11, "from_layer": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, None]})
    found = told(
        [{"recipe": "far", "verdict": "safe", "kl_step0_nats": 3.0}, {"recipe": "near", "verdict": "safe"}],
        carriers=carriers, carriers_overall=overall, parts=parts,
    )  # fmt: skip
    assert found["collapse"]["text"].startswith("No text of a pruned variant falls into a loop")
    text = found["layers"]["text"]
    assert "attention of layer 3 (4 of 5)" in text
    assert "Of the sum in near: attention of layer 3 75 %." in text
    assert "median of 10 texts (80 % between 1 and 8" in text


def test_what_was_not_measured_is_said_so():
    found = told([{"recipe": "a", "verdict": "not judged", "basis": None}])
    assert found["layers"]["text"] == "No layer was measured."
    assert answers(Frames(lambda _: pl.DataFrame(schema={"model": pl.String}), is_whole=True), "m") == []
