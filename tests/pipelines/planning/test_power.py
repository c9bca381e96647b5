"""Tests of the losses that a plan can tell from the tolerance, against the SQL that gives the verdicts."""

import pytest

from prunescope.pipelines.core.verdict_rule import TOLERANCE
from prunescope.pipelines.planning.power import SPREAD_OF_PROMPTS, verdict_power
from prunescope.pipelines.planning.workload import TaskSize
from prunescope.pipelines.studies import Study
from prunescope.pipelines.studies.measure_specs import DecodingSpec, MeasureSpec
from tests.sql.warehouse_builder import Handmade


def study(prompts: int, questions: int) -> Study:
    options = {"options": ["A", "B"], "gold": "A", "answer_pattern": "(A|B)"}
    asked = [{"id": f"o{n}", "kind": "open", "text": "Why?"} for n in range(prompts - questions)]
    asked += [{"id": f"c{n}", "kind": "choice", "text": "Which?", **options} for n in range(questions)]
    models = [{"name": "m", "source": "embedded"}]
    return Study.model_validate({"name": "s", "models": models, "recipes": ["dense"], "prompts": asked})


def task(scoring: str, samples: int) -> TaskSize:
    return TaskSize("t", scoring, samples)


@pytest.mark.parametrize("count", [40, 100, 1319])
def test_the_least_and_largest_loss_are_those_at_which_wilsons_interval_leaves_the_tolerance(count: int) -> None:
    [_, _, choosing, _] = verdict_power(study(1, 0), [task("full_text", count)])
    low, high = (float(part.split("%")[0].split()[-1]) / 100 for part in choosing.split(", and one too large from"))
    with Handmade().opened() as connection:
        # One answer more or less is beyond the limit.
        for share, side, step in ((low, 2, -1), (high, 1, 1)):
            for shift, is_decided in ((step, True), (-step, False)):
                query = "select wilson_interval(?::double, ?::bigint)[?]"
                [(end,)] = connection.execute(query, [share * count + shift, count, side]).fetchall()
                assert ((end <= TOLERANCE) if side == 2 else (end > TOLERANCE)) is is_decided


def test_sampling_from_a_part_of_the_tokens_is_said_to_leave_the_sequence_kl_empty() -> None:
    whole, cut = (study(40, 0).model_copy(update={"decoding": DecodingSpec(top_p=top_p)}) for top_p in (1.0, 0.9))

    assert verdict_power(whole, []) == verdict_power(study(40, 0), [])
    assert verdict_power(cut, []) == [
        *verdict_power(whole, []),
        "sequence KL will be empty: it needs texts drawn from all tokens (`top_p: 1`)",
    ]


def test_too_few_units_are_named_by_what_they_would_judge() -> None:
    same, writing, choosing, alive = verdict_power(study(36, 1), [task("full_text", 16), task("greedy", 4)])

    few = "that a verdict needs"
    assert writing == (
        f"right answers in writing will not be judged: it has 4 of the 30 answers and 1 of the 30 graded prompts {few}"
    )
    assert choosing == (
        f"right answers in choosing will not be judged: it has 16 of the 30 answers and 1 of the 30 questions {few}"
    )
    margin = 1.959964 * SPREAD_OF_PROMPTS / 6
    assert same == (
        f"same tokens: 36 prompts can call a loss tolerated up to {0.1 - margin:.1%}, and one too large from "
        f"{0.1 + margin:.1%} on"
    )
    assert alive.startswith("alive: 36 texts can call a loss tolerated up to ")
    assert "alive will not be judged: it has 1 of the 30 texts that a verdict needs" in verdict_power(study(1, 0), [])


def test_a_study_whose_variants_write_no_text_judges_none() -> None:
    silent = study(40, 40).model_copy(update={"measure": MeasureSpec(trajectories=("teacher_forced",))})
    _, writing, _, alive = verdict_power(silent, [])

    assert "will not be judged: it has 0 of the 30 answers and 0 of the 30 graded prompts" in writing
    assert "will not be judged: it has 0 of the 30 texts" in alive


def test_a_loss_of_right_answers_presumes_that_the_dense_model_is_right() -> None:
    same, writing, choosing, alive = verdict_power(study(100, 40), [])

    assert [line.endswith(" on, if the dense model is right on all of them") for line in (writing, choosing)] == [
        True
    ] * 2
    assert "if the dense model" not in same + alive


def test_few_answers_never_show_that_a_loss_is_tolerated() -> None:
    writing = verdict_power(study(1, 0), [task("greedy", 30)])[1]

    assert "30 answers can call no loss tolerated, and one too large from 20.7% on" in writing
