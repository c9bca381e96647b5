"""The treatments of each sublayer: what each removes, and the variants of whole allocations."""

import pytest
import torch

from prunescope.pipelines.evaluation.search.menu import Menu
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.recipes import parse_recipe
from tests.pipelines.evaluation.search.engine import menu_of

ATTN, MLP = 12_288, 18_432  # weights of a sublayer


def test_every_sublayer_can_be_kept_and_only_the_named_kind_dropped(decoder: Decoder) -> None:
    menu = menu_of(decoder, "magnitude-50", "attn-drop")
    of = {(option.sublayer, option.treatment) for option in menu.options}
    labels = [sublayer.label for sublayer in decoder.sublayers]
    assert of == {
        *((label, name) for label in labels for name in ("keep", "magnitude-50")),
        *((f"attn.{layer}", "drop") for layer in range(3)),
    }
    both = menu_of(decoder, "attn-drop", "mlp-drop")
    assert {(each, "drop") for each in labels} <= {(option.sublayer, option.treatment) for option in both.options}


def test_what_a_treatment_removes_is_counted_in_weights_bytes_and_milliseconds(decoder: Decoder) -> None:
    times = {sublayer.label: 0.5 for sublayer in decoder.sublayers}
    menu = Menu(decoder, ("magnitude-50", "magnitude-5", "rtn-4bit", "drop"), Statistics(), (), times)
    of = {option.treatment: option for option in menu.options if option.sublayer == "mlp.1"}
    assert (of["keep"].parameters, of["keep"].bytes, of["keep"].milliseconds) == (0, 0, 0)
    assert (of["drop"].parameters, of["drop"].bytes, of["drop"].milliseconds) == (MLP, 2 * MLP, 0.5)
    # Half of the values, and a bit a weight for the mask.
    assert (of["magnitude-50"].parameters, of["magnitude-50"].bytes) == (MLP // 2, MLP - MLP // 8)
    assert of["magnitude-50"].milliseconds == 0
    # A mask of so few zeros would take more than they save.
    assert of["magnitude-5"].parameters == pytest.approx(0.05 * MLP, rel=0.02)
    assert of["magnitude-5"].bytes == 0
    assert of["rtn-4bit"].parameters == 0
    assert 1.2 * MLP < of["rtn-4bit"].bytes < 1.5 * MLP
    totals = [menu.total(budget) for budget in ("parameters", "bytes", "milliseconds")]
    assert totals == [3 * (ATTN + MLP), 6 * (ATTN + MLP), 3]


def test_an_allocations_variant_has_each_sublayers_own_weights(decoder: Decoder) -> None:
    menu = menu_of(decoder, "magnitude-50", "magnitude-30", "drop")
    variant = menu.variant({"attn.0": "magnitude-50", "mlp.1": "magnitude-30", "mlp.2": "drop", "attn.2": "keep"})
    assert variant.dropped == ("mlp.2",)
    assert set(variant.changes) == {*menu.sublayers["attn.0"].matrices, *menu.sublayers["mlp.1"].matrices}
    for label, recipe in (("attn.0", "magnitude-50"), ("mlp.1", "magnitude-30")):
        alone = prune(decoder, parse_recipe(recipe))
        assert menu.weights(label, recipe).keys() == menu.sublayers[label].matrices.keys()
        for name in menu.sublayers[label].matrices:
            assert torch.equal(variant.masks[name], alone.masks[name])
    assert menu.variant({}).is_dense
    assert menu.weights("attn.0", "keep") == {}
    (whole,) = (option for option in menu.options if (option.sublayer, option.treatment) == ("mlp.1", "magnitude-30"))
    parts = {part: menu.removed("mlp.1", f"magnitude-30 {part}") for part in ("gate_proj", "up_proj", "down_proj")}
    assert sum(weights for weights, _ in parts.values()) == whole.parameters
    assert sum(saved for _, saved in parts.values()) == whole.bytes
    assert set(menu.weights("mlp.1", "magnitude-30 up_proj")) == {"model.layers.1.mlp.up_proj"}
