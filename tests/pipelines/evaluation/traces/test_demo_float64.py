"""The demo's layer table, on the real model, against an independent float64 computation of the same rows."""

from pathlib import Path

import platformdirs
import polars as pl
import pytest
import torch

from prunescope.pipelines.evaluation.traces.activation_capture import stream_after
from prunescope.pipelines.evaluation.traces.trace_session import TraceSession, _local_shifts, _propagated_shifts
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.sources import locate
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import GenerationSpec, Study, load_study
from tests.pipelines.evaluation.traces.float64_reference import Llama64
from tests.pipelines.evaluation.traces.test_session import compare, compare_scopes


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return load_decoder(locate("embedded", Path(platformdirs.user_cache_dir("prunescope"))))


@pytest.fixture(scope="module")
def study() -> Study:
    demo = load_study("demo")
    # One prompt and three tokens keep the float64 side short; sublayers, lenses and scopes are all there.
    return demo.model_copy(update={"prompts": demo.prompts[:1], "generation": GenerationSpec(new_tokens=3)})


@pytest.fixture(scope="module")
def model(decoder: Decoder) -> Llama64:
    return Llama64.load(decoder.folder)


@pytest.mark.exhaustive  # as test_session.py on tiny models, on one of full size
@pytest.mark.parametrize("name", ["magnitude-2of4", "drops"])
def test_every_row_of_the_demos_layer_table_agrees_with_float64(
    decoder: Decoder, model: Llama64, study: Study, name: str
) -> None:
    variant = (
        Variant(dropped=("attn.7", "attn.14", "mlp.14")) if name == "drops" else prune(decoder, parse_recipe(name))
    )
    session = TraceSession(decoder, "smollm2", study)
    tables = session.trace(name, variant)
    changed = {module: model.weights[f"{module}.weight"] * mask for module, mask in variant.masks.items()}
    with torch.inference_mode():
        rows = compare_rows(tables["layer_transitions"], session, variant, model, changed)
        # From the tokens on, too: as uncertain as the margins are, by 1e-5 of the largest logit.
        compare(tables, model, changed, set(variant.dropped), session, "normed", (1.0,), logit_error=1e-5)
    assert rows == len(tables["layer_transitions"]) == 4 * 60 * 2 * 2


def compare_rows(
    table: pl.DataFrame, session: TraceSession, variant: Variant, model: Llama64, changed: dict[str, torch.Tensor]
) -> int:
    """Compare in two steps: states with the float64 model, then measures with float64 on the same states."""
    (dense,) = session._prompts
    tokens, at = dense.tokens[0].tolist(), list(range(dense.first, dense.tokens.shape[1]))
    truth, pruned = model.streams(tokens), model.streams(tokens, changed, set(variant.dropped))
    with apply_variant(session.decoder, variant, skips=False):
        capture = session._run(dense.tokens, len(dense.prompt.ids), dense.first, session._norms, keep_calls=False)
    shifts = _propagated_shifts(session.decoder, dense.capture, capture)
    compared = 0
    for sublayer in session.decoder.sublayers:
        label = sublayer.label
        before, after = truth[label]
        state = stream_after(session.decoder, dense.capture, sublayer)
        local = (
            _local_shifts(sublayer, variant, [(dense.capture, dense.first)])[0]
            if variant.changed(sublayer)
            else torch.zeros_like(state)
        )
        swapped = before + model.sublayer(before, label, changed, set(variant.dropped))
        moves = {"local": (local, swapped), "propagated": (shifts[label], pruned[label][1])}
        for shift, moved in moves.values():
            torch.testing.assert_close(state.double(), after[at], rtol=0, atol=2e-5 * float(after[at].abs().max()))
            exact = moved[at] - after[at]
            assert (shift.double() - exact).norm() <= 1e-4 * exact.norm()
        moved = {scope: state.double() + shift.double() for scope, (shift, _) in moves.items()}
        for lens in ("raw", "normed"):
            rows = table.filter(
                pl.col("lens") == lens, pl.col("layer") == sublayer.layer, pl.col("sublayer") == sublayer.kind
            ).with_columns(pl.col("position").replace_strict({position: row for row, position in enumerate(at)}))
            seen = {
                scope: model.norm(states, "model.norm.weight") if lens == "normed" else states
                for scope, states in {"dense": state.double(), **moved}.items()
            }
            compared += compare_scopes(rows, seen.pop("dense"), seen, model.head, 1.0, f"{label} {lens}")
    return compared
