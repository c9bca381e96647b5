"""The demo's layer table, on the real model, against an independent float64 computation of the same rows."""

from pathlib import Path

import platformdirs
import pytest
import torch

from pipelines.models.decoder import Decoder, load_decoder
from pipelines.models.sources import locate
from pipelines.pruning.apply import prune
from pipelines.pruning.recipes import parse_recipe
from pipelines.pruning.variant import Variant
from pipelines.studies import GenerationSpec, Study, load_study
from pipelines.traces.session import Session
from tests.pipelines.traces.llama64 import Llama64
from tests.pipelines.traces.test_session import compare


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return load_decoder(locate("embedded", Path(platformdirs.user_cache_dir("prunescope"))))


@pytest.fixture(scope="module")
def study() -> Study:
    demo = load_study("demo")
    # One prompt and three tokens keep the float64 side short; sublayers, lenses and scopes are all there.
    return demo.model_copy(update={"prompts": demo.prompts[:1], "generation": GenerationSpec(new_tokens=3)})


@pytest.mark.parametrize("name", ["magnitude-2of4", "drops"])
def test_every_row_of_the_demos_layer_table_agrees_with_float64(decoder: Decoder, study: Study, name: str) -> None:
    variant = (
        Variant(dropped=("attn.7", "attn.14", "mlp.14")) if name == "drops" else prune(decoder, parse_recipe(name))
    )
    session = Session(decoder, "smollm2", study)
    tables = session.trace(name, variant)
    model = Llama64.load(decoder.folder)
    changed = {module: model.weights[f"{module}.weight"] * mask for module, mask in variant.masks.items()}
    rows = 0
    with torch.inference_mode():
        for lens in ("raw", "normed"):
            rows += compare(tables, model, changed, set(variant.dropped), session, lens, (1.0,))
    assert rows == len(tables["layer_transitions"]) == 4 * 60 * 2 * 2
