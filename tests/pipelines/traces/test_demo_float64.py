"""The demo's layer table, on the real model, against an independent float64 computation of the same rows."""

from pathlib import Path

import platformdirs
import polars as pl
import pytest
import torch

from pipelines.models.decoder import Decoder
from pipelines.models.load import load_decoder
from pipelines.models.sources import locate
from pipelines.pruning.apply import prune
from pipelines.pruning.recipes import parse_recipe
from pipelines.pruning.variant import Variant
from pipelines.pruning.wearing import applied
from pipelines.studies import GenerationSpec, Study, load_study
from pipelines.traces.session import Session, _after, _local, _propagated
from tests.pipelines.traces.llama64 import Llama64
from tests.pipelines.traces.test_session import compare, compare_scopes


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return load_decoder(locate("embedded", Path(platformdirs.user_cache_dir("prunescope"))))


@pytest.fixture(scope="module")
def study() -> Study:
    demo = load_study("demo")
    # One prompt and two tokens keep the float64 side short; sublayers, lenses and scopes are all there.
    return demo.model_copy(update={"prompts": demo.prompts[:1], "generation": GenerationSpec(new_tokens=2)})


def test_every_row_of_the_demos_layer_table_agrees_with_float64(decoder: Decoder, study: Study) -> None:
    """One variant of both kinds, as drops before masks make it: every other sublayer is masked."""
    model, dropped = Llama64.load(decoder.folder), ("attn.7", "attn.14", "mlp.14")
    kept = {name for sublayer in decoder.sublayers if sublayer.label not in dropped for name in sublayer.matrices}
    masks = prune(decoder, parse_recipe("magnitude-2of4")).changes
    variant = Variant({name: masks[name] for name in kept}, dropped=dropped)
    session = Session(decoder, "smollm2", study)
    tables = session.trace("masked-and-dropped", variant)
    changed = {module: model.weights[f"{module}.weight"] * mask for module, mask in variant.masks.items()}
    rows = 0
    with torch.inference_mode():
        rows += compare(tables, model, changed, set(variant.dropped), session, "normed", (1.0,))
        rows += compare_raw(tables["layer_transitions"], session, variant, model, changed)
    assert rows == len(tables["layer_transitions"]) == 3 * 60 * 2 * 2


def compare_raw(
    table: pl.DataFrame, session: Session, variant: Variant, model: Llama64, changed: dict[str, torch.Tensor]
) -> int:
    """The raw lens in two steps: states against the float64 model, measures against float64 on the same states.

    A raw stream is up to thousands long, so that float32 states alone move a nearly one-hot p.
    """
    (dense,) = session._prompts
    tokens, at = dense.tokens[0].tolist(), list(dense.positions)
    truth, pruned = model.streams(tokens), model.streams(tokens, changed, set(variant.dropped))
    with applied(session.decoder, variant):
        capture = session._run(dense.tokens, len(dense.prompt.ids), dense.first, keep_calls=False)
    shifts = _propagated(session.decoder, dense.capture, capture)
    compared = 0
    for sublayer in session.decoder.sublayers:
        label = sublayer.label
        before, after = truth[label]
        state = _after(session.decoder, dense.capture, sublayer)
        local = (
            _local(sublayer, variant, [(dense.capture, dense.first)])[0]
            if variant.changed(sublayer)
            else torch.zeros_like(state)
        )
        swapped = before + model.sublayer(before, label, changed, set(variant.dropped))
        moves = {"local": (local, swapped), "propagated": (shifts[label], pruned[label][1])}
        for shift, moved in moves.values():
            torch.testing.assert_close(state.double(), after[at], rtol=0, atol=2e-5 * float(after[at].abs().max()))
            exact = moved[at] - after[at]
            assert (shift.double() - exact).norm() <= 1e-4 * exact.norm()
        rows = table.filter(
            pl.col("lens") == "raw", pl.col("layer") == sublayer.layer, pl.col("sublayer") == sublayer.kind
        ).with_columns(pl.col("position").replace_strict({position: row for row, position in enumerate(at)}))
        moved = {scope: state.double() + shift.double() for scope, (shift, _) in moves.items()}
        compared += compare_scopes(rows, state.double(), moved, model.head, 1.0, f"{label} raw")
    return compared
