"""Whole allocations on the dense text and on each model's own, against single passes and divergences of the traces."""

from collections.abc import Callable

import polars as pl
import pytest
import torch

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.evaluation.search import whole as whole_module
from prunescope.pipelines.evaluation.search.items import Item, prompt_items
from prunescope.pipelines.evaluation.search.whole import FreeRunningMeasurement, WholeMeasurement, measurement_of
from prunescope.pipelines.evaluation.traces.trace_session import TraceSession
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.studies import Study
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


def free_study() -> Study:
    return Study.model_validate(
        {
            "name": "own",
            "models": [{"name": "tiny", "source": "tiny"}],
            "recipes": ["dense"],
            "template": "plain",
            "prompts": [{"id": f"p{n}", "kind": "open", "text": "while True: " * (n + 1)} for n in range(4)],
            "generation": {"new_tokens": 10},
            "measure": {"layer_prompts": 1},
        }
    )


def test_free_running_kls_are_those_of_the_studys_own_steps(decoder: Decoder, variant: Variant) -> None:
    study = free_study()
    items = prompt_items(decoder, study)
    kl, cosines = FreeRunningMeasurement(decoder, items).measure(variant)
    steps = TraceSession(decoder, "tiny", study).trace("own", variant)["decoding_steps"]
    own = steps.filter(trajectory="free_running").group_by("prompt_id", maintain_order=True)
    means = own.agg(pl.col("kl_dense_pruned_nats", "one_minus_cos_h").cast(pl.Float64).mean()).rows()
    assert [name for name, *_ in means] == [item.id for item in items]
    assert kl == pytest.approx([value for _, value, _ in means], rel=1e-3)
    assert cosines == pytest.approx([value for *_, value in means], rel=1e-3)
    teacher_forced, _ = WholeMeasurement(decoder, items).measure(variant)
    assert kl[0] != pytest.approx(teacher_forced[0], rel=1e-3)


def test_the_first_step_of_both_objectives_is_the_same(decoder: Decoder, variant: Variant) -> None:
    items = [Item(item.id, item.tokens[: item.first + 1], item.first) for item in prompt_items(decoder, free_study())]
    free, forced = (measurement_of(name, decoder, items).measure(variant) for name in ("free-kl", "kl"))
    assert free[0] == pytest.approx(forced[0], rel=1e-3)
    assert free[1] == pytest.approx(forced[1], rel=1e-3)


def test_texts_of_the_dense_model_itself_have_no_kl(decoder: Decoder) -> None:
    items = prompt_items(decoder, free_study())
    for objective in ("kl", "free-kl", "task:own"):
        measurement = measurement_of(objective, decoder, items)
        assert isinstance(measurement, FreeRunningMeasurement if objective == "free-kl" else WholeMeasurement)
        kl, cosines = measurement.measure(Variant())
        assert not kl.any()
        assert not cosines.any()


def test_a_model_whose_states_are_nan_is_refused_with_the_item(decoder: Decoder) -> None:
    norm = next(name for name, _ in decoder.model.named_parameters() if "norm" in name)
    broken = Variant(parameters={norm: torch.full_like(decoder.model.get_parameter(norm), torch.nan)})
    items = prompt_items(decoder, free_study())
    for objective in ("kl", "free-kl"):
        with pytest.raises(ComputationError, match="NaN or infinite states on item p0"):
            measurement_of(objective, decoder, items).measure(broken)
