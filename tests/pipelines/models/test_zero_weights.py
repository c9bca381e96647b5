"""A model whose sublayers hold zeros, as our own exports of dropped sublayers do, has the structure of any other."""

from pathlib import Path

import pytest
import torch

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.describe import structure_rows
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.checkpoints.export_checkpoint import export
from prunescope.pipelines.pruning.checkpoints.model_card import About
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant

ABOUT = About("tiny", "./tiny", "w" * 64, "drop", "mine", "{}")
TOKENS = torch.tensor([[5, 77, 9, 120, 5, 33, 250, 8, 8, 61, 2, 17, 4, 99, 180, 41]])


@pytest.mark.third(0)
@pytest.mark.parametrize(
    "dropped", [pytest.param(("attn.1",), marks=pytest.mark.exhaustive), ("mlp.0", "attn.2")], ids="-".join
)
def test_an_export_of_dropped_sublayers_loads_with_the_dense_models_structure(
    each_decoder: Decoder, dropped: tuple[str, ...], tmp_path: Path
) -> None:
    variant = Variant(dropped=dropped)
    export(each_decoder, variant, tmp_path / "out", ABOUT)
    again = load_decoder(tmp_path / "out")
    assert structure_rows(again).equals(structure_rows(each_decoder))
    assert (again.cache_refusal, again.can_pad, again.skips is None) == (
        each_decoder.cache_refusal,
        each_decoder.can_pad,
        each_decoder.skips is None,
    )
    with apply_variant(each_decoder, variant):
        assert torch.allclose(again.hidden(TOKENS), each_decoder.hidden(TOKENS), rtol=1e-5, atol=1e-6)


def test_the_proof_leaves_every_parameter_as_it_was_also_on_disk(decoder: Decoder, tmp_path: Path) -> None:
    export(decoder, Variant(dropped=("attn.1",)), tmp_path / "out", ABOUT)
    whole, streamed = load_decoder(tmp_path / "out"), load_decoder(tmp_path / "out", memory={})
    zero = [name for name, parameter in whole.model.named_parameters() if not parameter.any()]
    assert zero == ["model.layers.1.self_attn.o_proj.weight"]
    assert streamed.is_streamed
    assert torch.equal(streamed.hidden(TOKENS), whole.hidden(TOKENS))
