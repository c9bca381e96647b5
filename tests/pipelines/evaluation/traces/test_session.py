"""Trace tables against an independent float64 model; zero for the dense model itself, with and without cache."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.evaluation.traces.trace_session import TraceSession
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.module_calls import first_tensor
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.statistics import calibrate, calibration_tokens
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import CalibrationSpec, GenerationSpec, Prompt, Study
from tests.greedy_decoding import decode_greedily
from tests.pipelines.evaluation.traces.float64_reference import Llama64, measures64
from tests.pipelines.tiny_study import study_of
from tests.tiny_models import ARCHITECTURES, SHORT_TEXT

STEPS = 6
PROMPTS = (
    Prompt(id="maths", kind="maths", text="2+2?", gold="4", answer_pattern=r"(\d)"),
    Prompt(id="open", kind="open", text="Why ⏎ 😀?"),
    Prompt(id="choice", kind="choice", text="A or b?", options=("A", "b"), gold="b"),
)


def study(**measure: object) -> Study:
    return study_of(prompts=PROMPTS, generation={"new_tokens": STEPS}, measure=measure)


def variant_of(decoder: Decoder, name: str) -> Variant:
    spec = CalibrationSpec(source=SHORT_TEXT, sequences=2, length=32)
    calibrated, tokens = calibrate(decoder, spec, "tiny"), calibration_tokens(decoder.tokenizer, spec)
    return prune(decoder, parse_recipe(name), calibrated.activation_stats, calibrated.block_influence, tokens)


@pytest.fixture(scope="module")
def wanda(decoder: Decoder) -> Variant:
    return variant_of(decoder, "wanda-50")


@pytest.fixture(scope="module")
def session(decoder: Decoder) -> TraceSession:
    return TraceSession(decoder, "tiny", study())


@pytest.fixture(scope="module")
def traced(session: TraceSession, wanda: Variant) -> dict[str, pl.DataFrame]:
    return session.trace("wanda-50", wanda)


def expected_shapes(temperatures: int, positions: int, forked: int) -> dict[str, int]:
    return {
        "layer_transitions": positions * 6 * 2 * 2 * temperatures,
        "decoding_steps": (3 * 3 + forked) * STEPS * temperatures,
        "top_tokens": 3 * 2 * STEPS * 2 * 10,
        "option_subspace": temperatures,
        "generations": 3,
        "hidden_states": 0,
    }


def test_one_row_per_grain(decoder: Decoder, wanda: Variant) -> None:
    tables = TraceSession(decoder, "tiny", study(temperatures=(0.5, 1.0))).trace("wanda-50", wanda)
    assert {name: len(frame) for name, frame in tables.items()} == expected_shapes(
        2, 3 * (STEPS + 1), tables["generations"]["first_flip_step"].count()
    )
    transitions = tables["layer_transitions"]
    keys = ["prompt_id", "position", "layer", "sublayer", "scope", "lens", "temperature"]
    assert transitions.select(keys).is_duplicated().sum() == 0
    ends = transitions.filter(pl.col("position") == pl.col("position").max().over("prompt_id"))
    assert ends["step"].null_count() == len(ends), "behind the last generated token nothing is predicted"


def test_a_variants_rows_do_not_depend_on_other_variants(decoder: Decoder) -> None:
    session = TraceSession(decoder, "tiny", study(temperatures=(0.5, 1.0)))
    variants = {name: variant_of(decoder, name) for name in ("dense", "wanda-50", "magnitude-50", "attn-drop-1")}
    together = session.trace_all(variants)
    assert list(together) == list(variants)
    for name, variant in variants.items():
        for table, frame in session.trace(name, variant).items():
            assert frame.equals(together[name][table]), f"{table} of {name}"


@pytest.mark.parametrize(
    "name", ["wanda-50", pytest.param("attn-drop-1", marks=pytest.mark.exhaustive), "block-drop-1"]
)
def test_layer_and_output_rows_equal_an_independent_float64_model(
    decoder: Decoder, tiny_folder: Path, name: str
) -> None:
    temperatures = (0.7, 1.0)
    session = TraceSession(decoder, "tiny", study(temperatures=temperatures))
    variant = variant_of(decoder, name)
    tables = session.trace(name, variant)
    model = Llama64.load(tiny_folder)
    changed = {module: model.weights[f"{module}.weight"] * mask for module, mask in variant.masks.items()}
    compared = [
        compare(tables, model, changed, set(variant.dropped), session, lens, temperatures) for lens in ("raw", "normed")
    ]
    assert compared == [len(tables["layer_transitions"]) / 2] * 2


def test_another_embedding_moves_the_stream_from_the_first_sublayer_on(
    session: TraceSession, tiny_folder: Path
) -> None:
    """As in checkpoints made elsewhere, and where bfloat16 rounds the embedding, too."""
    chance = torch.Generator().manual_seed(3)
    embedding = session.decoder.model.get_input_embeddings().weight
    changed = embedding.detach() + 0.02 * torch.randn(embedding.shape, generator=chance)
    rows = session.trace("theirs", Variant(parameters={"model.embed_tokens.weight": changed}))["layer_transitions"]
    own = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float64)
    for dense in session._prompts:
        streams = []
        for weight in (embedding, changed):
            own.get_input_embeddings().weight.data = weight.detach().double()
            blocks: list[torch.Tensor] = []
            handles = [
                layer.register_forward_hook(lambda _, __, output, blocks=blocks: blocks.append(first_tensor(output)[0]))
                for layer in own.model.layers
            ]
            with torch.no_grad():
                own(dense.tokens)
            for handle in handles:
                handle.remove()
            streams.append(blocks)
        for layer, (before, after) in enumerate(zip(*streams, strict=True)):
            place = {"prompt_id": dense.prompt.prompt.id, "layer": layer, "sublayer": "mlp"}
            found = rows.filter(**place, scope="propagated", lens="raw", temperature=1.0).sort("position")
            expected = (after - before).norm(dim=-1)[found["position"].to_list()]
            np.testing.assert_allclose(found["norm_dh"], expected, rtol=1e-5)


def compare(
    tables: dict[str, pl.DataFrame],
    model: Llama64,
    changed: dict[str, torch.Tensor],
    dropped: set[str],
    session: TraceSession,
    lens: str,
    temperatures: tuple[float, ...],
    logit_error: float = 0.0,
) -> int:
    """Compare every row of `layer_transitions` of a lens with float64: relative error 1e-3 above 1e-8.

    `logit_error` as in `assert_close`.
    """
    compared = 0

    def through(states: torch.Tensor) -> torch.Tensor:
        return model.norm(states, "model.norm.weight") if lens == "normed" else states

    transitions = tables["layer_transitions"].filter(pl.col("lens") == lens)
    for dense in session._prompts:
        tokens = dense.tokens[0].tolist()
        dense_streams = model.streams(tokens)
        pruned_streams = model.streams(tokens, changed, dropped)
        for label, (before, after) in dense_streams.items():
            kind, layer = label.split(".")
            local = before + model.sublayer(before, label, changed, dropped)
            for temperature in temperatures:
                place = {"prompt_id": dense.prompt.prompt.id, "layer": int(layer), "sublayer": kind}
                rows = transitions.filter(**place, temperature=temperature)
                compared += compare_scopes(
                    rows,
                    through(after),
                    {"local": through(local), "propagated": through(pruned_streams[label][1])},
                    model.head,
                    temperature,
                    f"{label} {lens} T={temperature}",
                    logit_error,
                )
    return compared


def compare_scopes(
    rows: pl.DataFrame,
    dense: torch.Tensor,
    moved: dict[str, torch.Tensor],
    head: torch.Tensor,
    temperature: float,
    where: str,
    logit_error: float = 0.0,
) -> int:
    """Compare the rows of one sublayer with the measures between its dense state and each scope's moved state.

    All scopes go through the head together: reading a head in float64 takes longer than the arithmetic.
    """
    by_scope = {scope: rows.filter(pl.col("scope") == scope).sort("position") for scope in moved}
    at = {scope: part["position"].to_list() for scope, part in by_scope.items()}
    before = torch.cat([dense[at[scope]] for scope in moved])
    after = torch.cat([state[at[scope]] for scope, state in moved.items()])
    truth, start = measures64(before, after, head, temperature), 0
    for scope, part in by_scope.items():
        own = slice(start, start := start + len(part))
        assert_close(part, {name: values[own] for name, values in truth.items()}, f"{scope} {where}", logit_error)
    return start


def assert_close(rows: pl.DataFrame, truth: dict[str, np.ndarray], where: str, logit_error: float = 0.0) -> None:
    """Assert the contract: relative error at most 1e-3 where the true value is at least 1e-8, and nothing negative.

    Where the states are not given, their float32 leaves an error of `logit_error` times the largest logit in each
    logit. A probability moves by as much, relative to itself, on either side, and the squares of measures twice that.
    """
    for column, values in truth.items():
        if column == "largest_logit":
            continue
        found = rows[column].to_numpy()
        if column not in {"par_rel_h", "par_rel_z", "par_rel_p"}:
            assert (found >= 0).all(), f"{column} negative at {where}"
        counted = np.abs(values) >= 1e-8
        scale = np.abs(values[counted])
        if column.startswith("par_rel"):
            # A signed share may be near zero by cancellation: its error is relative to the length of the shift.
            scale = np.hypot(values, truth[f"orth_rel_{column[-1]}"])[counted]
        elif column.startswith("margin"):
            # A difference of two float32 logits, each with an error of its own size.
            scale = scale + 1e-2 * truth["largest_logit"][counted]
        elif not column.endswith(("_h", "_z", "_dh", "_dz")) or column.startswith(("var_p", "var_q", "var_r")):
            scale = scale * (1 + 4 * logit_error / 1e-3 * truth["largest_logit"][counted])
        error = np.abs(found[counted] - values[counted]) / scale
        worst = f"off by {error.max():.1e} of {values[counted][error.argmax()]:.3e}" if len(error) else ""
        assert (error <= 1e-3).all(), f"{column} {worst} at {where}"


@pytest.mark.parametrize("cache", [False, True])
def test_the_dense_model_against_itself_is_exactly_zero(
    decoder: Decoder, cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, passes, hidden = TraceSession(decoder, "tiny", study(cache=cache)), list[int](), Decoder.hidden
    monkeypatch.setattr(Decoder, "hidden", lambda *call: passes.append(1) or hidden(*call))
    tables = session.trace("dense", Variant())
    assert passes, "it ran again: to write zeros would check nothing"
    for name in ("layer_transitions", "decoding_steps"):
        frame = tables[name]
        for column in (
            *(f"norm_d{s}" for s in "hzp"), *(f"one_minus_cos_{s}" for s in "hzp"), *(f"orth_rel_{s}" for s in "hzp"),
            *(f"par_rel_{s}" for s in "hzp"), "t1_h", "t1_z", "t2_p", "t3_kl_nats", "var_p_dz", "var_r_dz",
            "var_q_dz", "var_rq_dz", "var_uniform_dz", "kl_dense_pruned_nats", "kl_pruned_dense_nats", "js_nats",
            "total_variation",
        ):  # fmt: skip
            assert (frame[column] == 0).all(), f"{name}.{column}"
        assert frame["is_top1_same"].all()
        assert (frame["entropy_dense_nats"] == frame["entropy_pruned_nats"]).all()
    assert tables["generations"]["first_flip_step"].null_count() == 3
    assert not tables["layer_transitions"]["is_changed"].any()


@pytest.mark.third(0)
@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        *((architecture, "wanda-50") for architecture in ("gemma3_text", "gpt_neox", "gpt2")),
        # The others have the cache of a Llama.
        *(pytest.param(each, "wanda-50", marks=pytest.mark.exhaustive) for each in ("llama", "mistral", "qwen3")),
        ("llama", "attn-drop-1"),
        *(pytest.param(each, "attn-drop-1", marks=pytest.mark.exhaustive) for each in ARCHITECTURES if each != "llama"),
    ],
)
def test_a_cached_run_gives_the_same_table_as_an_uncached_one(
    architecture: str, name: str, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    variant = variant_of(decoder, name)
    keys = ["prompt_id", "position", "layer", "sublayer", "scope", "lens"]
    whole, cached = (
        TraceSession(decoder, "tiny", study(cache=cache)).trace(name, variant)["layer_transitions"].sort(keys)
        for cache in (False, True)
    )
    assert whole.select(keys).equals(cached.select(keys))
    for column in ("norm_dh", "one_minus_cos_h", "one_minus_cos_p", "kl_dense_pruned_nats", "total_variation"):
        np.testing.assert_allclose(cached[column], whole[column], rtol=2e-3, atol=1e-6, err_msg=column)


def test_an_untouched_sublayer_is_not_run_again(decoder: Decoder, wanda: Variant) -> None:
    session = TraceSession(decoder, "tiny", study(scopes=("local",), trajectories=("teacher_forced",)))
    layer = decoder.layers[1]
    only = Variant({name: WeightDelta.masked(wanda.masks[name]) for name in layer.mlp.matrices})
    calls: list[str] = []
    handles = [
        s.mixers[0].register_forward_hook(lambda *_, label=s.label: calls.append(label)) for s in decoder.sublayers
    ]
    table = session.trace("one", only)["layer_transitions"]
    for handle in handles:
        handle.remove()
    # One whole pass of the variant a prompt, and beyond it only the changed sublayer, once a prompt.
    assert {label: calls.count(label) for label in set(calls)} == {
        s.label: 6 if s is layer.mlp else 3 for s in decoder.sublayers
    }
    touched = table.filter(pl.col("is_changed"))
    assert touched.select("layer", "sublayer").unique().rows() == [(1, "mlp")]
    assert (touched["norm_dh"] > 0).all()
    assert (table.filter(~pl.col("is_changed"))["norm_dh"] == 0).all()


def test_all_positions_add_the_prompt_and_keep_the_other_rows(
    decoder: Decoder, wanda: Variant, traced: dict[str, pl.DataFrame]
) -> None:
    every = TraceSession(decoder, "tiny", study(positions="every")).trace("wanda-50", wanda)
    keys = ["prompt_id", "position", "layer", "sublayer", "scope", "lens"]
    joined = traced["layer_transitions"].join(every["layer_transitions"], on=keys, suffix="_every")
    assert len(joined) == len(traced["layer_transitions"]) < len(every["layer_transitions"])
    kl, kl_every = joined["kl_dense_pruned_nats"], joined["kl_dense_pruned_nats_every"]
    np.testing.assert_allclose(kl, kl_every, rtol=1e-4, atol=1e-9)
    assert every["layer_transitions"]["position"].min() == 0
    first, second = (tables["decoding_steps"].sort("prompt_id", "trajectory", "step") for tables in (traced, every))
    np.testing.assert_allclose(first["kl_dense_pruned_nats"], second["kl_dense_pruned_nats"], rtol=1e-4, atol=1e-9)


def test_trajectories_agree_until_the_first_flip_and_the_tokens_are_the_models_own(session: TraceSession) -> None:
    tables = session.trace("magnitude-50", variant_of(session.decoder, "magnitude-50"))
    steps = tables["decoding_steps"]
    for row in tables["generations"].iter_rows(named=True):
        mine = steps.filter(pl.col("prompt_id") == row["prompt_id"]).sort("step")
        free, forced = (mine.filter(pl.col("trajectory") == t) for t in ("free_running", "teacher_forced"))
        assert free["token_id_pruned"].to_list() == row["token_ids"]
        sides = zip(free["token_id_dense"], free["token_id_pruned"], strict=True)
        flips = [step for step, (dense, pruned) in enumerate(sides) if dense != pruned]
        assert row["first_flip_step"] == (flips[0] if flips else None)
        agree = (flips[0] if flips else STEPS - 1) + 1
        np.testing.assert_allclose(
            free["kl_dense_pruned_nats"][:agree], forced["kl_dense_pruned_nats"][:agree], rtol=1e-3, atol=1e-7
        )


def test_output_rows_equal_the_last_layers_normed_rows(traced: dict[str, pl.DataFrame]) -> None:
    last = traced["layer_transitions"].filter(layer=2, sublayer="mlp", scope="propagated", lens="normed")
    forced = traced["decoding_steps"].filter(trajectory="teacher_forced")
    joined = forced.join(last, on=["prompt_id", "position"], suffix="_layer")
    assert len(joined) == 3 * STEPS
    for column in ("kl_dense_pruned_nats", "one_minus_cos_h", "var_p_dz", "entropy_pruned_nats"):
        np.testing.assert_allclose(joined[column], joined[f"{column}_layer"], rtol=1e-4, atol=1e-9)


def test_options_are_read_at_the_last_prompt_token(traced: dict[str, pl.DataFrame]) -> None:
    (row,) = traced["option_subspace"].rows(named=True)
    (first,) = traced["decoding_steps"].filter(prompt_id="choice", trajectory="teacher_forced", step=0).rows(named=True)
    assert row["kl_dense_pruned_nats"] == pytest.approx(first["kl_dense_pruned_nats"], rel=1e-3)
    assert row["one_minus_cos_p"] == pytest.approx(first["one_minus_cos_p"], rel=1e-3)
    assert sum(row["p_options_dense"]) == pytest.approx(1, rel=1e-6)
    assert row["options"] == ["A", "b"]


@pytest.mark.parametrize("measure", [{}, {"cache": True}, {"positions": "every", "scopes": ("isolated", "propagated")}])
def test_a_prompt_measured_at_the_output_alone_has_the_same_output(
    decoder: Decoder, wanda: Variant, measure: dict[str, object]
) -> None:
    asked = tuple(prompt.model_copy(update={"kind": "choice"}) for prompt in PROMPTS)
    few, whole = (
        TraceSession(
            decoder, "tiny", study(layer_prompts=limit, **measure).model_copy(update={"prompts": asked})
        ).trace("wanda-50", wanda)
        for limit in (1, "all")
    )
    assert few["layer_transitions"].equals(whole["layer_transitions"].filter(pl.col("prompt_id") == "maths"))
    assert whole["layer_transitions"]["prompt_id"].n_unique() == 3
    for name in ("decoding_steps", "top_tokens", "option_subspace", "generations"):
        floats = (pl.Float32, pl.Float64, pl.List(pl.Float64))
        numbers = [column for column in few[name].columns if few[name][column].dtype in floats]
        assert few[name].drop(numbers).equals(whole[name].drop(numbers), null_equal=True)
        for column in numbers:
            # At the output alone the layers compute in float32, layer by layer in float64.
            own, same = (frame[name][column].explode() for frame in (few, whole))
            # A margin is a difference of two float32 logits, whose last digit is 1e-6.
            atol = 2.5e-6 if column.startswith("margin") else 1e-6
            np.testing.assert_allclose(own, same, rtol=1e-5, atol=atol, err_msg=column)


def test_steps_end_with_the_dense_text_and_the_pruned_text_with_its_own(decoder: Decoder) -> None:
    variant = variant_of(decoder, "magnitude-50")
    full = study().model_copy(update={"generation": GenerationSpec(new_tokens=STEPS, until="length")})
    length = TraceSession(decoder, "tiny", full).trace("magnitude-50", variant)
    # The dense model's third token of one prompt, and the pruned model's second of another, end a text from here on.
    dense = length["decoding_steps"].filter(trajectory="free_running", prompt_id="maths", step=2)["token_id_dense"]
    pruned = length["decoding_steps"].filter(trajectory="free_running", prompt_id="open", step=1)["token_id_pruned"]
    ending = replace(decoder, end_ids=frozenset({dense[0], pruned[0]}))
    length, end = (
        TraceSession(ending, "tiny", study().model_copy(update={"generation": spec})).trace("magnitude-50", variant)
        for spec in (full.generation, GenerationSpec(new_tokens=STEPS))
    )
    steps = length["decoding_steps"]
    # The others end with the text that they are named after.
    steps = steps.filter(pl.col("trajectory").is_in(["teacher_forced", "free_running"]))
    assert set(steps.group_by("prompt_id", "trajectory").len()["len"]) == {STEPS}
    texts = {
        prompt: steps.filter(prompt_id=prompt, trajectory="free_running").sort("step")["token_id_dense"].to_list()
        for prompt in ("maths", "open", "choice")
    }
    ends = {
        prompt: next((step for step, token in enumerate(tokens) if token in ending.end_ids), STEPS - 1)
        for prompt, tokens in texts.items()
    }
    assert ends["maths"] <= 2 < max(ends.values())
    counted = steps.filter(pl.col("step") <= pl.col("prompt_id").replace_strict(ends))
    found = end["decoding_steps"].filter(pl.col("trajectory").is_in(["teacher_forced", "free_running"]))
    exact = ["prompt_id", "trajectory", "step", "token_id_dense", "token_id_pruned"]
    assert found.select(exact).equals(counted.select(exact))
    np.testing.assert_allclose(found["kl_dense_pruned_nats"], counted["kl_dense_pruned_nats"], rtol=2e-3, atol=1e-6)
    columns = ["prompt_id", "text", "first_flip_step", "collapse_step", "end_step"]
    assert end["generations"].select(columns).equals(length["generations"].select(columns), null_equal=True)
    for row in end["generations"].iter_rows(named=True):
        own = STEPS if row["end_step"] is None else row["end_step"] + 1
        assert len(row["token_ids"]) == max(own, ends[row["prompt_id"]] + 1)
        assert row["first_flip_step"] is None or row["first_flip_step"] <= ends[row["prompt_id"]]
        assert end["layer_transitions"].filter(prompt_id=row["prompt_id"])["step"].max() == ends[row["prompt_id"]]


def test_two_sessions_give_bit_identical_tables(
    traced: dict[str, pl.DataFrame], wanda: Variant, tiny_folder: Path
) -> None:
    again = TraceSession(load_decoder(tiny_folder), "tiny", study()).trace("wanda-50", wanda)
    assert all(traced[name].equals(again[name], null_equal=True) for name in traced)


def test_broken_models_and_long_prompts_are_refused(tiny_folder: Path, decoder: Decoder) -> None:
    long = study().model_copy(update={"prompts": (Prompt(id="long", kind="open", text="word " * 200),)})
    with pytest.raises(InputError, match="'long' has .* over the model's context of 128"):
        TraceSession(decoder, "tiny", long)
    broken = load_decoder(tiny_folder)
    with torch.no_grad():
        broken.layers[1].mlp.mixers[0].down_proj.weight.fill_(float("inf"))
    with pytest.raises(ComputationError, match="NaN or infinite"):
        TraceSession(broken, "tiny", study())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_text_is_the_same_in_batches_of_any_size(
    architecture: str, tiny_decoder: Callable[[str], Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [(5, 77, 9), (120,), (33, 250, 8, 8, 61, 44, 17), (9, 9)]
    decoder = tiny_decoder(architecture)
    (first, *_) = decode_greedily(decoder, prompts, 6)
    # The fourth token of the first text ends it; texts leave the batch one by one.
    decoder = replace(decoder, end_ids=frozenset({first.tokens[3]}))
    least = [0, 0, 6, 2]
    whole = decode_greedily(decoder, prompts, 6, least)
    monkeypatch.setattr("prunescope.pipelines.evaluation.traces.decoding.BATCH_TEXTS", 2)
    for batched in (
        decode_greedily(decoder, prompts, 6, least),
        decode_greedily(replace(decoder, cache_refusal="no"), prompts, 6, least),
    ):
        for one, other in zip(whole, batched, strict=True):
            assert one.tokens == other.tokens
            np.testing.assert_allclose(one.streams, other.streams, rtol=1e-3, atol=1e-4)
    lengths = [len(text.tokens) for text in whole]
    assert (lengths[0], lengths[2]) == (4, 6)


def test_a_study_without_options_or_free_running_has_empty_tables(decoder: Decoder, wanda: Variant) -> None:
    full = study(trajectories=("teacher_forced",))
    session = TraceSession(decoder, "tiny", full.model_copy(update={"prompts": PROMPTS[:1]}))
    tables = session.trace("wanda-50", wanda)
    assert len(tables["option_subspace"]) == len(tables["generations"]) == 0
