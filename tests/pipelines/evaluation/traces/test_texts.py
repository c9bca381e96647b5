"""The table of texts against an independent float64 model; zero for the dense model itself, in any batch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.evaluation.traces import text_traces
from prunescope.pipelines.evaluation.traces.text_traces import DenseTextStates, TextSession
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import TextSpec
from prunescope.warehouse.tables import TABLES
from prunescope.warehouse.tables.text_tokens import NAMES
from tests.pipelines.evaluation.traces.float64_reference import Llama64, measures64
from tests.pipelines.tiny_study import study_of
from tests.tiny_models import ARCHITECTURES

HALF = TextSpec(id="half", source="embedded", context=32, max_tokens=96)
SIDE_BY_SIDE = TextSpec(id="side-by-side", context=24, stride=24, max_tokens=50)
STUDY = study_of(texts=[HALF, SIDE_BY_SIDE])
KEYS = ["text_id", "window_id", "position", "token_id"]


@pytest.fixture(scope="module")
def session(decoder: Decoder) -> TextSession:
    return TextSession(decoder, "tiny", STUDY)


@pytest.fixture(scope="module")
def magnitude(decoder: Decoder) -> Variant:
    return prune(decoder, parse_recipe("magnitude-50"))


@pytest.fixture(scope="module")
def traced(session: TextSession, magnitude: Variant) -> pl.DataFrame:
    return session.trace("magnitude-50", magnitude)


def last_layer_variant(decoder: Decoder, share: float) -> Variant:
    """Mask a few weights of the last MLP, so that only the final stream moves."""
    name, matrix = list(decoder.layers[-1].mlp.matrices.items())[-1]
    mask = torch.rand(matrix.weight.shape, generator=torch.Generator().manual_seed(0)) >= share
    return Variant({name: WeightDelta.masked(mask)})


def test_every_row_equals_an_independent_float64_model(
    decoder: Decoder, session: TextSession, magnitude: Variant, tiny_folder: Path
) -> None:
    model = Llama64.load(tiny_folder)
    for name, variant in {
        "magnitude-50": magnitude,
        "drop": Variant(dropped=("attn.1", "mlp.2")),
        "last": last_layer_variant(decoder, 0.002),
    }.items():
        rows = session.trace(name, variant)
        changed = {module: model.weights[f"{module}.weight"] * mask for module, mask in variant.masks.items()}
        for text in session._texts:
            mine = rows.filter(pl.col("text_id") == text.text.id)
            assert len(mine) == len(text.targets) > 0
            for index, window in enumerate(text.windows):
                compare(mine.filter(pl.col("window_id") == index), window, text.text, model, changed, variant)


def compare(
    rows: pl.DataFrame,
    window: torch.Tensor,
    text: TextSpec,
    model: Llama64,
    changed: dict[str, torch.Tensor],
    variant: Variant,
) -> None:
    tokens = window.tolist()
    last = f"mlp.{model.layers - 1}"
    reads = slice(-text.scored - 1, -1)
    dense, pruned = (
        model.norm(streams[last][1][reads], "model.norm.weight")
        for streams in (model.streams(tokens), model.streams(tokens, changed, set(variant.dropped)))
    )
    assert rows["token_id"].to_list() == tokens[-text.scored :]
    for side, states in (("dense", dense), ("pruned", pruned)):
        truth = torch.log_softmax(states @ model.head.T, -1)[torch.arange(text.scored), tokens[-text.scored :]]
        np.testing.assert_allclose(rows[f"log_p_target_{side}"], truth, rtol=1e-5, atol=2e-5)
        perplexity = np.exp(-rows[f"log_p_target_{side}"].cast(pl.Float64).mean())
        assert perplexity == pytest.approx(float((-truth.mean()).exp()), rel=1e-5)
    truth = measures64(dense, pruned, model.head, 1.0)
    for name in NAMES:
        if name in truth and not name.startswith("margin"):
            large = np.abs(truth[name]) >= 1e-8
            np.testing.assert_allclose(
                rows[name].to_numpy()[large], truth[name][large], rtol=2e-3, atol=1e-9, err_msg=f"{name} {text.id}"
            )


def test_a_tiny_change_of_the_last_layer_keeps_its_digits(decoder: Decoder, tiny_folder: Path) -> None:
    """Change one weight of the last MLP so little that two float32 streams would lose it."""
    broken = load_decoder(tiny_folder)
    name = list(broken.layers[-1].mlp.matrices)[-1]
    linear = broken.model.get_submodule(name)
    with torch.no_grad():
        linear.weight[0, 0] = 1e-5
    mask = torch.ones(linear.weight.shape, dtype=torch.bool)
    mask[0, 0] = False
    inner: list[torch.Tensor] = []
    handle = linear.register_forward_pre_hook(lambda _, args: inner.append(args[0][:, -HALF.scored - 1 : -1]))
    session = TextSession(broken, "tiny", study_of(texts=[HALF]))
    handle.remove()
    streams = torch.cat([kept.streams() for kept in session._dense[0]])
    shift = torch.zeros_like(streams)
    shift[:, 0] = -1e-5 * torch.cat(inner).flatten(end_dim=1)[:, 0].double()
    moved = np.concatenate([session_shift(session, Variant({name: WeightDelta.masked(mask)}))])
    largest = float(streams[:, 0].abs().max())
    assert np.abs(moved[:, 1:]).max() == 0
    # The product with a float32 matrix rounds, its sum with the stream does not.
    assert np.abs(moved[:, 0] - shift[:, 0].numpy()).max() <= 2e-7 * largest


def session_shift(session: TextSession, variant: Variant) -> np.ndarray:
    from prunescope.pipelines.core.progress import SILENT
    from prunescope.pipelines.pruning.variant_patching import apply_variant

    with apply_variant(session.decoder, variant):
        streams = list(session._streams(session._texts[0], "x", SILENT))
    return np.concatenate([k.shift_to(s).numpy() for k, s in zip(session._dense[0], streams, strict=True)])


def test_the_dense_model_against_itself_is_exactly_zero(session: TextSession, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, hidden = list[int](), Decoder.hidden
    monkeypatch.setattr(Decoder, "hidden", lambda *call: passes.append(1) or hidden(*call))
    rows = session.trace("dense", Variant())
    assert passes, "it ran again: to write zeros would check nothing"
    for name in NAMES:
        if name.startswith(("one_minus", "var", "t3", "kl", "js", "total")):
            assert (rows[name] == 0).all(), name
    assert rows["is_top1_same"].all()
    assert (rows["log_p_target_dense"] == rows["log_p_target_pruned"]).all()
    assert (rows["entropy_dense_nats"] == rows["entropy_pruned_nats"]).all()


@pytest.mark.parametrize("kind", ["bfloat16", "batch"])
def test_rounding_alone_leaves_a_floor_above_zero(session: TextSession, kind: str) -> None:
    kl = session.trace(f"noise-{kind}", Variant(noise=kind))["kl_dense_pruned_nats"]
    assert 0 < kl.min() <= kl.max() < (1e-9 if kind == "batch" else 1e-2)


def test_the_dense_side_is_the_same_beside_every_variant(session: TextSession, traced: pl.DataFrame) -> None:
    dense = session.trace("dense", Variant())
    assert dense.select(KEYS).equals(traced.select(KEYS))
    for name in ("log_p_target_dense", "entropy_dense_nats"):
        np.testing.assert_allclose(dense[name], traced[name], rtol=1e-6, atol=1e-6)


def test_the_number_of_windows_in_a_pass_does_not_change_results(
    decoder: Decoder, magnitude: Variant, traced: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_traces, "PASS_TOKENS", 1)
    monkeypatch.setattr(text_traces, "PIECE_ROWS", 7)
    alone = TextSession(decoder, "tiny", STUDY).trace("magnitude-50", magnitude)
    assert traced.select(KEYS).equals(alone.select(KEYS))
    for name in ("log_p_target_dense", "log_p_target_pruned", "kl_dense_pruned_nats", "one_minus_cos_p"):
        np.testing.assert_allclose(alone[name], traced[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_two_sessions_give_bit_identical_tables(decoder: Decoder, magnitude: Variant, traced: pl.DataFrame) -> None:
    assert TextSession(decoder, "tiny", STUDY).trace("magnitude-50", magnitude).equals(traced)


@pytest.mark.third(1)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probabilities_are_those_of_the_model_itself(
    architecture: str, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    session = TextSession(decoder, "tiny", STUDY)
    rows = session.trace("dense", Variant())
    for text in session._texts:
        with torch.inference_mode():
            log_p = torch.log_softmax(decoder.model(text.windows).logits.double(), -1)
        at = torch.arange(text.text.context - text.text.scored, text.text.context)
        truth = torch.stack([log_p[index, at - 1, window[at]] for index, window in enumerate(text.windows)])
        mine = rows.filter(pl.col("text_id") == text.text.id)["log_p_target_dense"]
        np.testing.assert_allclose(mine, truth.reshape(-1), rtol=1e-4, atol=1e-4)


def test_a_model_of_few_bits_is_measured_at_the_input_of_its_head(tiny_folder: Path) -> None:
    decoder = load_decoder(tiny_folder, "bfloat16")
    session = TextSession(decoder, "tiny", study_of(texts=[HALF]))
    rows = session.trace("dense", Variant())
    (text,) = session._texts
    with torch.inference_mode():
        states = decoder.head.norm(torch.cat([kept.streams() for kept in session._dense[0]]))
        own = decoder.hidden(text.windows)[:, -HALF.scored - 1 : -1].flatten(end_dim=1).float()
    torch.testing.assert_close(states, own, rtol=1e-2, atol=1e-2)
    assert (rows["kl_dense_pruned_nats"] == 0).all()


def test_the_dense_stream_is_kept_in_four_bytes_a_number(session: TextSession) -> None:
    tokens, width = sum(len(text.targets) for text in session._texts), 64
    kept = [dense for batches in session._dense for dense in batches]
    assert sum(dense.counts.nbytes for dense in kept) == 4 * width * tokens
    assert sum(dense.step.nbytes for dense in kept) == 8 * width * len(kept)


def test_streams_are_kept_to_a_two_billionth_of_their_channel() -> None:
    generator = torch.Generator().manual_seed(0)
    streams = torch.randn(50, 8, generator=generator, dtype=torch.float64) * 10.0 ** torch.arange(-4, 4)
    streams[:, 3] = 0
    kept = DenseTextStates.of(streams)
    assert ((kept.streams() - streams).abs() <= streams.abs().amax(0) * 2.0**-31).all()
    assert (kept.shift_to(streams) == 0).all()
    move = 1e-3 * torch.randn(50, 8, generator=generator, dtype=torch.float64)
    assert ((kept.shift_to(streams + move) - move).abs() <= streams.abs().amax(0) * 2.0**-30 + 1e-9).all()
    assert torch.equal(kept.rows(slice(3, 9)).streams(), kept.streams()[3:9])


def test_a_study_without_texts_gives_no_rows(decoder: Decoder) -> None:
    assert TextSession(decoder, "tiny", study_of()).trace("dense", Variant()).is_empty()


def test_the_table_and_the_measure_name_the_same_columns(session: TextSession) -> None:
    assert text_traces.MEASURES == NAMES
    columns = ["model", "recipe", *session.trace("dense", Variant()).columns]
    assert columns == [column.name for column in TABLES["text_tokens"].columns]


def test_broken_states_fail_with_the_variant_and_the_text(tiny_folder: Path) -> None:
    broken = load_decoder(tiny_folder)
    with torch.no_grad():
        broken.layers[1].mlp.mixers[0].down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ComputationError, match="tiny: NaN or infinite states on text 'half'"):
        TextSession(broken, "tiny", STUDY)
