"""Time of each sublayer in a decoding step, by a clock that modules move on."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import pytest

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.search.step_time import step_milliseconds
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.module_calls import hooks


class Clock:
    """Seconds that pass only where something adds them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_steps_and_some_slow_ones_do_not_count(decoder: Decoder) -> None:
    clock, calls = Clock(), list[None]()

    def passes(*_: object) -> None:
        calls.append(None)
        # The first call is the context's, the next three are untimed.
        clock.now += 0.002 if len(calls) > 4 and len(calls) % 6 else 90.0

    with hooks(decoder.layers[1].module.mlp.down_proj.register_forward_hook(passes)):
        found = step_milliseconds(decoder, clock)
    assert found.pop("mlp.1") == pytest.approx(2)
    assert set(found.values()) == {0}
    assert len(calls) == 35


def test_time_inside_a_sublayer_is_its_own_and_time_between_is_of_none(decoder: Decoder) -> None:
    clock = Clock()
    with ExitStack() as stack:
        for index, layer in enumerate(decoder.layers):
            for module, taken in (
                (layer.module.self_attn.o_proj, 0.001 * (index + 1)),
                (layer.module.mlp.down_proj, 0.1 * (index + 1)),
                (layer.module.input_layernorm, 5.0),
            ):

                def hook(*_: object, taken: float = taken) -> None:
                    clock.now += taken

                stack.enter_context(hooks(module.register_forward_hook(hook)))
        found = step_milliseconds(decoder, clock)
    truth = {f"{kind}.{layer}": size * (layer + 1) for layer in range(3) for kind, size in (("attn", 1), ("mlp", 100))}
    assert found == pytest.approx(truth)


def test_a_real_clock_gives_every_sublayer_some_time(tiny_decoder: Callable[[str], Decoder]) -> None:
    for name in ("gpt_neox", "olmo2", "mixtral", "falcon_h1"):
        decoder = tiny_decoder(name)
        found = step_milliseconds(decoder)
        assert found.keys() == {sublayer.label for sublayer in decoder.sublayers}, name
        assert min(found.values()) > 0, name


def test_models_that_cannot_be_timed_are_refused(decoder: Decoder) -> None:
    with pytest.raises(InputError, match="`memory` offloads layers"):
        step_milliseconds(replace(decoder, is_streamed=True))
    with pytest.raises(InputError, match="no cache here; choose another `budget`"):
        step_milliseconds(replace(decoder, cache_refusal="no cache here"))
