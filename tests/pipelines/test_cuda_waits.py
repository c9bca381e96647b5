"""Budgets of the pipelines on a GPU: how often they copy between host and device, and how often the host waits.

A copy to the host is a wait, too. What transformers waits for, once a pass, is counted with the package's call.
"""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch

from prunescope.pipelines.evaluation.search.whole import WholeMeasurement
from prunescope.pipelines.evaluation.traces.activation_capture import run_known
from prunescope.pipelines.evaluation.traces.decoding import decode
from prunescope.pipelines.metrics.divergence import divergences
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.calibration.statistics import calibrate
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.studies import CalibrationSpec
from tests.cuda_device import Devices, cuda_devices
from tests.pipelines.evaluation.search.engine import items_of
from tests.pipelines.test_on_cuda import GPU, pruned
from tests.tiny_models import SHORT_TEXT, save_tiny

Count = Callable[..., Counter[str]]
SHALLOW, DEEP = 2, 5
# Copies and waits of one more matrix: those of its layer's calibration and of its stored change are in it.
PRUNING = {"magnitude-50": 12, "wanda-50": 16, "sparsegpt-50": 25, "gptq-4bit": 22, "rtn-4bit": 13}


@pytest.fixture(scope="module")
def devices() -> Iterator[Devices]:
    with cuda_devices(1 << 30) as own:
        yield own


@pytest.fixture(scope="module")
def decoders(devices: Devices, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Decoder]:
    folder = tmp_path_factory.mktemp("models")
    return {
        layers: load_decoder(save_tiny(folder / str(layers), num_hidden_layers=layers), device=GPU)
        for layers in (SHALLOW, DEEP)
    }


@pytest.fixture
def count(devices: Devices) -> Count:
    def counted(work: Callable[[], object]) -> Counter[str]:
        devices.events.clear()
        work()
        return devices.kinds()

    return counted


def more(larger: Counter[str], smaller: Counter[str]) -> dict[str, int]:
    """Return the events of the larger work that the smaller one has not."""
    return {kind: larger[kind] - smaller[kind] for kind in larger | smaller if larger[kind] != smaller[kind]}


def test_a_block_of_logits_is_copied_once_and_each_shift_once(count: Count) -> None:
    head = OutputHead(torch.randn(300, 16).to(GPU))

    def block(rows: int, shifts: int) -> Counter[str]:
        x, dx = torch.randn(rows, 16).to(GPU), 0.1 * torch.randn(rows, 16).to(GPU)
        return count(lambda: divergences(x, [dx] * shifts, head, [0.7, 1.0]))

    first = block(8, 1)
    # The block, its shift, its lengths in h, and whether all of them are finite.
    assert first == {"to host": 3, "wait": 1}
    assert block(100, 1) == first
    assert more(block(8, 3), first) == {"to host": 2 * 2}


def test_a_decoded_step_copies_its_tokens_and_nothing_else(count: Count, decoders: dict[int, Decoder]) -> None:
    prompts = [tuple(range(5, 15))] * 4

    def texts(steps: int, contexts: list[tuple[int, ...]], layers: int = SHALLOW) -> Counter[str]:
        return count(lambda: decode(decoders[layers], contexts, steps, lambda logits, *_: logits.argmax(-1)))

    assert more(texts(9, prompts), texts(4, prompts)) == {"to host": 5}
    assert more(texts(9, prompts, DEEP), texts(4, prompts, DEEP)) == {"to host": 5}
    # With padding the mask comes from the host, and transformers asks whether anything is masked.
    padded = [prompt[index:] for index, prompt in enumerate(prompts)]
    assert more(texts(9, padded), texts(4, padded)) == {"to host": 5, "to device": 5, "wait": 5}


def test_a_layer_of_a_forced_pass_costs_nothing(count: Count, decoders: dict[int, Decoder]) -> None:
    def forced(layers: int, length: int) -> Counter[str]:
        tokens = probe_tokens(decoders[layers], length)
        return count(lambda: run_known(decoders[layers], tokens, 0, by_token_from=None, keep_calls=True))

    # Whether the tokens are known, and a question of transformers.
    assert forced(SHALLOW, 20) == forced(DEEP, 20) == forced(DEEP, 60) == {"to host": 1, "wait": 1}


def test_more_calibration_tokens_cost_few_copies_a_batch_and_layer(count: Count, decoders: dict[int, Decoder]) -> None:
    def calibrated(layers: int, sequences: int) -> Counter[str]:
        spec = CalibrationSpec(source=SHORT_TEXT, sequences=sequences, length=16)
        return count(lambda: calibrate(decoders[layers], spec, "tiny"))

    batches = {n: more(calibrated(n, 24), calibrated(n, 8)) for n in (SHALLOW, DEEP)}
    a_layer = {kind: (batches[DEEP][kind] - batches[SHALLOW][kind]) / (DEEP - SHALLOW) / 4 for kind in batches[DEEP]}
    # The influence of attention, MLP and block; no sum of activations.
    assert a_layer == {"to host": 3, "to device": 0, "wait": 0}


def test_a_variant_is_applied_by_what_it_stores(count: Count, devices: Devices, decoders: dict[int, Decoder]) -> None:
    decoder = decoders[SHALLOW]
    for recipe, parts in (("wanda-50", 1), ("sparsegpt-50", 2), ("gptq-4bit", 1), ("attn-drop-1", 0)):
        variant = pruned(decoder, recipe)[recipe]

        def applied(variant: Variant = variant) -> None:
            with apply_variant(decoder, variant):
                pass

        assert count(applied) == ({"to device": parts * len(variant.changes)} if parts else {}), recipe
    variant = pruned(decoder, "magnitude-50")["magnitude-50"]
    devices.events.clear()
    with apply_variant(decoder, variant):
        copied = sum(event.size for event in devices.events if event.kind == "to device" and "_mask_on" in event.place)
    assert copied == sum(matrix.size for matrix in decoder.matrices.values()) // 8  # a bit a weight


@pytest.mark.third(1)
@pytest.mark.parametrize(("recipe", "budget"), PRUNING.items())
def test_pruning_waits_a_bounded_number_of_times_a_matrix(
    count: Count, decoders: dict[int, Decoder], recipe: str, budget: int
) -> None:
    totals = {layers: count(lambda layers=layers: pruned(decoders[layers], recipe)).total() for layers in decoders}
    matrices = {layers: len(decoder.matrices) for layers, decoder in decoders.items()}
    assert (totals[DEEP] - totals[SHALLOW]) / (matrices[DEEP] - matrices[SHALLOW]) <= budget


def test_a_trial_of_a_search_waits_for_each_item_and_no_layer(count: Count, decoders: dict[int, Decoder]) -> None:
    def trial(layers: int) -> Counter[str]:
        whole = WholeMeasurement(decoders[layers], items_of(decoders[layers], 3, 30))
        return count(lambda: whole.measure(Variant(dropped=("attn.1",))))

    assert trial(DEEP) == trial(SHALLOW)
    assert trial(SHALLOW).total() <= 12
