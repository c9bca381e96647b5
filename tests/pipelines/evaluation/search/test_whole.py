"""Whole allocations on the dense text, against single passes."""

from collections.abc import Callable

import pytest
import torch

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.evaluation.search import whole as whole_module
from prunescope.pipelines.evaluation.search.items import Item
from prunescope.pipelines.evaluation.search.whole import WholeMeasurement
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from tests.pipelines.evaluation.search.engine import items_of, menu_of

ALLOCATION = {"attn.0": "drop", "mlp.1": "magnitude-50", "mlp.2": "drop"}


@pytest.fixture(scope="module", params=["llama", "gemma3_text", "gpt_neox"])
def decoder(request: pytest.FixtureRequest, tiny_decoder: Callable[[str], Decoder]) -> Decoder:
    return tiny_decoder(request.param)


@pytest.fixture(scope="module")
def variant(decoder: Decoder) -> Variant:
    return menu_of(decoder, "magnitude-50", "drop").variant(ALLOCATION)


def test_the_kl_of_an_item_is_the_mean_of_both_models_softmaxes_at_its_positions(
    decoder: Decoder, variant: Variant
) -> None:
    items = items_of(decoder, 4)

    def log_p(item: Item) -> torch.Tensor:
        states = decoder.hidden(torch.tensor([item.tokens]))[0, item.measured]
        return torch.log_softmax(decoder.head.logits_of_state(states).double(), dim=-1)

    dense = [log_p(item) for item in items]
    with apply_variant(decoder, variant):
        pruned = [log_p(item) for item in items]
    truth = [float((p.exp() * (p - q)).sum(dim=-1).mean()) for p, q in zip(dense, pruned, strict=True)]
    assert WholeMeasurement(decoder, items).measure(variant)[0] == pytest.approx(truth, rel=1e-4)


def test_batches_change_no_item(decoder: Decoder, variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    items = items_of(decoder, 4)
    together = WholeMeasurement(decoder, items).measure(variant)[0]
    monkeypatch.setattr(whole_module, "_PASS_TOKENS", 1)
    assert WholeMeasurement(decoder, items).measure(variant)[0] == pytest.approx(together, rel=1e-4)


def test_the_dense_model_itself_has_no_kl(decoder: Decoder) -> None:
    kl, cosines = WholeMeasurement(decoder, items_of(decoder, 4)).measure(Variant())
    assert not kl.any()
    assert not cosines.any()


def test_a_model_whose_states_are_nan_is_refused_with_the_item(decoder: Decoder) -> None:
    norm = next(name for name, _ in decoder.model.named_parameters() if "norm" in name)
    broken = Variant(parameters={norm: torch.full_like(decoder.model.get_parameter(norm), torch.nan)})
    items = items_of(decoder, 4)
    with pytest.raises(ComputationError, match=f"NaN or infinite states on item {items[0].id}"):
        WholeMeasurement(decoder, items).measure(broken)
