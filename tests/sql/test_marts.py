"""Each mart's figures against numbers that can be worked out by hand."""

import pytest

from tests.sql.warehouse_builder import Ask, Handmade


@pytest.mark.parametrize(
    ("temperatures", "expected"), [((0.3, 1.0, 1.3), 1.0), ((0.3, 0.7), 0.7), ((0.75, 1.25), 0.75), ((2.0,), 2.0)]
)
def test_the_reference_temperature_is_1_or_the_nearest_to_it(
    temperatures: tuple[float, ...], expected: float, ask: Ask
) -> None:
    warehouse = Handmade()
    for temperature in temperatures:
        warehouse.step("wanda-50", "p", 0, temperature=temperature)

    assert ask(warehouse, "reference_temperature") == [{"model": "tiny", "recipe": "wanda-50", "temperature": expected}]
    assert ask(warehouse, "select temperature, step from decoding_at_reference") == [
        {"temperature": expected, "step": 0}
    ]


def test_each_variant_has_its_own_reference_temperature(ask: Ask) -> None:
    warehouse = Handmade().step("a", "p", 0, temperature=0.5).step("a", "p", 0).step("b", "p", 0, temperature=0.5)
    rows = ask(warehouse, "select recipe, temperature from reference_temperature order by recipe")

    assert rows == [{"recipe": "a", "temperature": 1.0}, {"recipe": "b", "temperature": 0.5}]


def test_a_variant_summary_takes_both_trajectories_at_the_reference_temperature(ask: Ask) -> None:
    warehouse = Handmade().variant("drop", method="attn-drop", removed=0.125, dropped=["attn.0", "attn.1"])
    for prompt, kls in (("p", (1.0, 2.0, 9.0)), ("q", (3.0, 4.0, 5.0))):
        for step, kl in enumerate(kls):
            warehouse.step("drop", prompt, step, kl, flips=kl == 9.0)
            warehouse.step("drop", prompt, step, 10 * kl, trajectory="own_text")
            warehouse.step("drop", prompt, step, 100 * kl, temperature=0.5)
    warehouse.generation("drop", "p", flip=2, collapse=2, is_correct=True, kind="maths")
    warehouse.generation("drop", "q", flip=4, is_correct=False, kind="choice")
    warehouse.generation("drop", "r")
    warehouse.options("drop", "q", [0.5, 0.1], [0.5, 0.1]).options("drop", "r", [0.5, 0.1], [0.1, 0.5])
    warehouse.options("drop", "q", [0.5, 0.1], [0.1, 0.5], temperature=0.5)

    assert ask(warehouse, "variant_summary") == [
        {
            "model": "tiny",
            "recipe": "drop",
            "variant": "tiny@drop",
            "method": "attn-drop",
            "sparsity": 0.0,
            "parameters_removed_share": 0.125,
            "sublayers_dropped_count": 2,
            "temperature": 1.0,
            "kl_step0_nats": 2.0,
            "kl_teacher_forced_median_nats": 3.5,
            "kl_teacher_forced_mean_nats": 4.0,
            "kl_teacher_forced_max_nats": 9.0,
            "kl_own_text_median_nats": 35.0,
            "top1_agreement": pytest.approx(5 / 6),
            # A total variation of √(KL/2)/2, at most 1/2.
            "acceptance_rate": pytest.approx(1 - (0.5**0.5 / 2 + 5 / 2) / 6),
            "sequence_kl_dense_pruned_nats": None,
            "sequence_kl_pruned_dense_nats": None,
            "kl_noise_p95_nats": None,
            "is_below_noise": None,
            "first_flip_step_median": 4.0,
            "prompts": 3,
            "prompts_flipped": 2,
            "prompts_collapsed": 1,
            "prompts_graded": 2,
            "prompts_correct": 1,
            "questions": 2,
            "options_argmax_kept": 1,
        }
    ]


def test_a_variant_that_was_only_pruned_has_nulls_for_measures_and_zeros_for_counts(ask: Ask) -> None:
    (row,) = ask(Handmade().variant("wanda-50", sparsity=0.5), "variant_summary")

    assert row["kl_step0_nats"] is row["top1_agreement"] is row["first_flip_step_median"] is None
    assert row["prompts"] == row["prompts_correct"] == row["questions"] == row["options_argmax_kept"] == 0


def test_the_median_first_flip_is_null_where_most_prompts_never_flip(ask: Ask) -> None:
    warehouse = Handmade().variant("wanda-50")
    for prompt, flip in (("p", 1), ("q", None), ("r", None)):
        warehouse.generation("wanda-50", prompt, flip=flip)
    (row,) = ask(warehouse, "variant_summary")

    assert row["first_flip_step_median"] is None
    assert row["prompts_flipped"] == 1


def test_a_layer_summary_averages_positions_and_keeps_the_digits_of_small_shifts(ask: Ask) -> None:
    warehouse = Handmade()
    for step in range(11):
        shift = {"one_minus_cos_h": step * 1e-9, "one_minus_cos_z": 0.25, "one_minus_cos_p": step / 10}
        warehouse.transition("wanda-50", "p", step, float(step), var_p_dz=3.0 * step, orth_rel_h=0.5, **shift)
    warehouse.transition("wanda-50", "p", 0, layer=1, is_changed=False)
    first, second = ask(warehouse, "select * from layer_summary order by layer")

    assert (first["positions"], first["is_changed"], second["is_changed"]) == (11, True, False)
    assert first["one_minus_cos_h_mean"] == pytest.approx(5e-9)
    assert (first["cos_z_mean"], first["cos_z_p10"], first["cos_z_p90"]) == (0.75, 0.75, 0.75)
    assert first["cos_p_mean"] == pytest.approx(0.5)
    assert (first["cos_p_p10"], first["cos_p_p90"]) == (pytest.approx(0.1), pytest.approx(0.9))
    assert (first["kl_mean_nats"], first["kl_median_nats"], first["var_p_dz_mean"]) == (5.0, 5.0, 15.0)
    assert first["orth_rel_h_mean"] == 0.5
    assert (second["positions"], second["cos_h_mean"], second["kl_mean_nats"]) == (1, 1.0, 0.0)


def test_estimate_points_pair_estimates_with_truths_and_omit_unmoved_points(ask: Ask) -> None:
    warehouse = Handmade().transition("wanda-50", "p", 0, layer=1, is_changed=False)
    truths = {"one_minus_cos_h": 0.125, "one_minus_cos_z": 0.25, "one_minus_cos_p": 0.5}
    warehouse.transition("wanda-50", "p", 0, 0.75, **truths, t1_h=1.0, t1_z=2.0, t2_p=3.0, t3_kl_nats=4.0)
    rows = ask(warehouse, "select theorem, estimate, truth from estimate_points order by theorem")

    assert [tuple(row.values()) for row in rows] == [
        ("T1 h", 1.0, 0.125),
        ("T1 z", 2.0, 0.25),
        ("T2 p", 3.0, 0.5),
        ("T3 KL", 4.0, 0.75),
    ]


def test_the_decoding_curve_marks_steps_after_the_flip_and_after_the_answer(ask: Ask) -> None:
    warehouse = Handmade().generation("dense", "p", answer_end=2).generation("wanda-50", "p", flip=0, answer_end=1)
    for step in range(4):
        for trajectory in ("teacher_forced", "free_running"):
            warehouse.step("wanda-50", "p", step, float(step), trajectory=trajectory)
    columns = "kl_dense_pruned_nats, first_flip_step, answer_end_step, is_after_flip, is_after_answer"

    def of(trajectory: str) -> list[tuple[object, ...]]:
        rows = ask(warehouse, f"select {columns} from decoding_curve where trajectory = '{trajectory}' order by step")
        return [tuple(row.values()) for row in rows]

    # Teacher forced, both read the dense answer; free running, the pruned one is complete first.
    assert of("teacher_forced") == [
        (0.0, 0, 2, False, False),
        (1.0, 0, 2, True, False),
        (2.0, 0, 2, True, False),
        (3.0, 0, 2, True, True),
    ]
    assert of("free_running") == [
        (0.0, 0, 1, False, False),
        (1.0, 0, 1, True, False),
        (2.0, 0, 1, True, True),
        (3.0, 0, 1, True, True),
    ]


def test_no_step_is_after_a_missing_flip_or_answer(ask: Ask) -> None:
    warehouse = Handmade().step("wanda-50", "p", 5).step("wanda-50", "q", 5).generation("wanda-50", "q")
    rows = ask(warehouse, "select is_after_flip, is_after_answer, answer_end_step from decoding_curve")

    assert rows == 2 * [{"is_after_flip": False, "is_after_answer": False, "answer_end_step": None}]


def test_a_token_trace_puts_both_texts_and_every_divergence_into_one_row_a_step(ask: Ask) -> None:
    warehouse = Handmade().generation("wanda-50", "p", flip=1)
    for step, flips in enumerate((False, True)):
        warehouse.step("wanda-50", "p", step, 0.5, entropy_dense_nats=0.25, margin_dense=4.0)
        warehouse.step("wanda-50", "p", step, 0.5, temperature=0.5)
        for trajectory, nats in (("own_text", 1.0), ("fork", 3.0), ("free_running", 2.0)):
            warehouse.step("wanda-50", "p", step, nats, flips=flips, trajectory=trajectory)
    # The variant's text is longer than the dense one.
    warehouse.step("wanda-50", "p", 2, 1.5, trajectory="own_text")
    shared = {"model": "tiny", "recipe": "wanda-50", "prompt_id": "p"}
    numbers = {
        "kl_teacher_forced_nats": 0.5,
        "kl_own_text_nats": 1.0,
        "kl_fork_nats": 3.0,
        "kl_free_running_nats": 2.0,
        "entropy_dense_nats": 0.25,
        "margin_dense": 4.0,
        "first_flip_step": 1,
    }

    assert ask(warehouse, "select * from token_trace order by step") == [
        shared | {"step": 0, "token_text_dense": "d0", "token_text_pruned": "d0", "is_same_token": True} | numbers,
        shared | {"step": 1, "token_text_dense": "d1", "token_text_pruned": "x1", "is_same_token": False} | numbers,
        shared
        | dict.fromkeys(("token_text_dense", "is_same_token", *numbers))
        | {"step": 2, "token_text_pruned": "d2", "kl_own_text_nats": 1.5, "first_flip_step": 1},
    ]


def test_an_option_shift_keeps_the_order_of_the_options_and_marks_the_gold_one(ask: Ask) -> None:
    warehouse = Handmade().options("wanda-50", "p", [0.25, 0.125], [0.125, 0.375], ranks_dense=[3, 8], gold="B")
    first, second = ask(warehouse, "select * from option_shift order by option_index")

    assert (first["option_index"], first["option"], first["is_gold"]) == (0, "A", False)
    assert (second["option_index"], second["option"], second["is_gold"]) == (1, "B", True)
    assert (first["p_full_dense"], first["p_full_pruned"], first["rank_dense"], first["rank_pruned"]) == (
        0.25,
        0.125,
        3,
        2,
    )
    assert (second["p_options_dense"], second["p_options_pruned"]) == (pytest.approx(1 / 3), pytest.approx(0.75))
    assert (second["logit_dense"], second["logit_pruned"]) == (pytest.approx(-2.0794415), pytest.approx(-0.9808293))


def test_no_option_is_gold_where_the_question_names_none(ask: Ask) -> None:
    rows = ask(Handmade().options("wanda-50", "p", [0.2, 0.1], [0.2, 0.1]), "select is_gold from option_shift")

    assert rows == [{"is_gold": None}, {"is_gold": None}]


def test_shifts_omit_unchanged_states_and_keep_those_moved_by_earlier_layers(ask: Ask) -> None:
    warehouse = Handmade().step("wanda-50", "p", 0).step("dense", "p", 0).transition("dense", "p", 0)
    warehouse.transition("wanda-50", "p", 0, 1.0).transition("wanda-50", "p", 0, 2.0, temperature=0.5)
    warehouse.transition("wanda-50", "p", 0, layer=1, is_changed=False)
    warehouse.transition("wanda-50", "p", 0, 3.0, layer=1, is_changed=False, scope="propagated")
    rows = ask(warehouse, "select layer, scope, kl_dense_pruned_nats from representation_shifts order by layer")

    assert [tuple(row.values()) for row in rows] == [(0, "local", 1.0), (1, "propagated", 3.0)]


def test_the_first_divergent_layer_is_where_the_lens_differs_at_the_first_flip(ask: Ask) -> None:
    warehouse = Handmade()
    # The dense margins of five steps; step 2 is the first flip, and only step 4 was less sure.
    for trajectory in ("teacher_forced", "free_running"):
        for step, margin in enumerate((3.0, 4.0, 0.5, 2.0, 0.25)):
            warehouse.step("wanda-50", "p", step, step + 0.5, trajectory=trajectory, flips=step in (2, 4),
                           margin_dense=margin)  # fmt: skip
            warehouse.step("wanda-50", "never", step, trajectory=trajectory)
    # At the flip the lens agrees, differs, agrees again and differs up to the output.
    for step, places in ((1, (True, True, True, True)), (2, (False, True, False, True))):
        for place, flips in enumerate(places):
            at = {"layer": place // 2, "sublayer": ("attn", "mlp")[place % 2]}
            warehouse.transition("wanda-50", "p", step, 10 * step + place, flips=flips, scope="propagated",
                                 margin_dense=step + place / 8, **at)  # fmt: skip
            # Rows to be ignored: another lens and another scope, which differ at once.
            warehouse.transition("wanda-50", "p", step, 90.0, flips=True, scope="propagated", lens="raw", **at)
            warehouse.transition("wanda-50", "p", step, 90.0, flips=True, **at)

    never, p = ask(warehouse, "select * from first_divergent_layer order by prompt_id")

    assert p == {
        "model": "tiny", "recipe": "wanda-50", "prompt_id": "p", "step": 2,
        "token_text_dense": "d2", "token_text_pruned": "x2",
        "layer": 0, "sublayer": "mlp", "lens_kl_nats": 21.0, "lens_margin_dense": 2.125,
        "from_layer": 1, "from_sublayer": "mlp", "kl_output_nats": 2.5,
        "margin_dense": 0.5, "margin_share_below": 0.25, "is_margin_low": False, "steps": 5,
    }  # fmt: skip
    told = {"model", "recipe", "prompt_id", "steps"}
    assert {name for name, value in never.items() if value is not None} == told


@pytest.mark.parametrize(("margins", "is_low"), [((1.0, 2.0, 3.0), None), ((1.0, 2.0, 3.0, 4.0), True)])
def test_a_low_margin_is_in_the_lowest_quarter_of_at_least_four_steps(
    margins: tuple[float, ...], is_low: bool | None, ask: Ask
) -> None:
    warehouse = Handmade()
    for step, margin in enumerate(margins):
        warehouse.step("a", "p", step, flips=step == 0, margin_dense=margin, trajectory="free_running")

    [row] = ask(warehouse, "first_divergent_layer")

    assert (row["step"], row["is_margin_low"], row["layer"]) == (0, is_low, None)


def test_prompts_are_ordered_by_the_first_flip_then_the_shares_then_kl_and_noise_does_not_count(ask: Ask) -> None:
    warehouse = Handmade().variant("noise-batch", method="noise")
    flips = {"late": (9, 8), "tie": (3, 1), "never": (None, None), "first": (1, 3), "once": (0, None)}
    for prompt, steps in flips.items():
        warehouse.generation("dense", prompt, is_correct=prompt != "tie", kind="maths", token_ids=[7] * 4)
        warehouse.generation("noise-batch", prompt, flip=0, collapse=0, is_correct=False, kind="maths")
        for recipe, flip in zip(("a", "b"), steps, strict=True):
            collapse = 5 if (prompt, recipe) == ("tie", "a") else None
            warehouse.generation(recipe, prompt, flip=flip, collapse=collapse, is_correct=recipe == "a", kind="maths")
            warehouse.step(recipe, prompt, 0, 2.0 if recipe == "a" else 4.0)
            warehouse.step(recipe, prompt, 1, 100.0)
    # A prompt that only the dense model has answered comes last.
    warehouse.generation("dense", "alone", kind="open", token_ids=[7])

    rows = {row.pop("prompt_id"): row for row in ask(warehouse, "prompt_summary")}
    order = sorted(rows, key=lambda prompt: rows[prompt]["place_in_order"])
    assert order == ["tie", "first", "late", "once", "never", "alone"]
    assert rows["once"] == {
        "model": "tiny", "kind": "maths", "steps": 4, "variants": 2, "variants_flipped": 1, "variants_collapsed": 0,
        "first_flip_step_min": 0, "first_flip_step_median": None, "kl_step0_median_nats": 3.0, "variants_graded": 2,
        "variants_correct": 1, "is_correct_dense": True, "place_in_order": 4, "place_in_kind": 4,
    }  # fmt: skip
    assert rows["tie"]["first_flip_step_median"] == rows["first"]["first_flip_step_median"] == 2.0
    assert rows["alone"] | {"variants": 0, "variants_graded": 0, "place_in_kind": 1} == rows["alone"]
