"""Order of timed runs and the columns from their times, with a fake clock."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation import speed
from prunescope.pipelines.evaluation.speed import check_speed, growth_bytes, speed_rows, turns
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.module_calls import hooks
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.studies import Study
from prunescope.pipelines.studies.evaluation_specs import SpeedSpec
from prunescope.warehouse.tables import TABLES

CPU = torch.device("cpu")
BLOCK = Variant(dropped=("attn.1", "mlp.1"))
SPEC = SpeedSpec(batch=3, length=8, new_tokens=5, repeats=3)


@dataclass
class Ticking:
    """A clock that advances by the configured seconds of the current side, and records that side.

    A run reads it four times: at its start, after the prompts, after the first token, after the last.
    """

    decoder: Decoder
    seconds: dict[str, tuple[float, float, float]]
    sides: list[str] = field(default_factory=list)
    slow: dict[int, float] = field(default_factory=dict)
    time: float = 100.0

    def __call__(self) -> float:
        side = "variant" if "forward" in vars(self.decoder.layers[1].module) else "dense"
        run, reading = divmod(len(self.sides), 4)
        self.sides.append(side)
        if reading:
            self.time += self.seconds[side][reading - 1] * self.slow.get(run, 1.0)
        return self.time

    @property
    def runs(self) -> str:
        """Return the side of every run; A is the dense one."""
        assert all(len(set(self.sides[start : start + 4])) == 1 for start in range(0, len(self.sides), 4))
        return "".join("A" if side == "dense" else "B" for side in self.sides[::4])


def test_both_sides_warm_up_twice_and_then_alternate(decoder: Decoder) -> None:
    clock = Ticking(decoder, dict.fromkeys(("dense", "variant"), (1.0, 1.0, 1.0)))
    speed_rows(decoder, "block-drop-1", BLOCK, [SPEC], clock=clock)
    assert clock.runs == "AABB" + "ABBAAB"
    assert [side[0] for side, _ in turns(4)] == ["d", "v", "v", "d", "d", "v", "v", "d"]


def test_a_row_holds_the_medians_of_both_sides(decoder: Decoder) -> None:
    times = {"dense": (2.0, 0.5, 4.0), "variant": (1.0, 0.25, 3.0)}
    slow = {0: 50.0, 3: 70.0, 5: 9.0, 7: 0.1}  # a warm-up, a watched run, a run of the variant, one of the dense model
    clock = Ticking(decoder, times, slow=slow)
    rows = speed_rows(decoder, "block-drop-1", BLOCK, [SPEC], clock=clock)
    assert {*rows.columns, "model", "recipe"} == {column.name for column in TABLES["speed"].columns}
    row = rows.row(0, named=True)
    assert {name: row[name] for name in SpeedSpec.model_fields} == SPEC.model_dump()
    # 3 × 8 prompt tokens; 3 × 4 tokens after the first of each sequence.
    assert (row["prefill_tokens_per_second_dense"], row["prefill_tokens_per_second"]) == (12.0, 24.0)
    assert (row["decode_tokens_per_second_dense"], row["decode_tokens_per_second"]) == (3.0, 4.0)
    assert (row["seconds_to_first_token_dense"], row["seconds_to_first_token"]) == (2.5, 1.25)
    assert row["sublayers_skipped"] == 2
    assert row["machine"].endswith(f"{torch.get_num_threads()} threads")


def test_every_run_reads_the_prompts_once_and_skips_dropped_layers(decoder: Decoder) -> None:
    calls: Counter[tuple[str, int]] = Counter()

    def count(name: str) -> Callable[..., None]:
        return lambda module, args: calls.update([(name, args[0].shape[1])])

    kept, gone = (decoder.layers[index].module.input_layernorm for index in (0, 1))
    both = [kept.register_forward_pre_hook(count("kept")), gone.register_forward_pre_hook(count("dropped"))]
    two = [SPEC, SpeedSpec(batch=1, length=4, new_tokens=2, repeats=1)]
    with hooks(*both):
        rows = speed_rows(decoder, "block-drop-1", BLOCK, two)
    # SPEC is run 5 times a side, the other 3 times; each writes its first token from the prompt.
    assert calls == {
        ("kept", 8): 10,
        ("dropped", 8): 5,
        ("kept", 4): 6,
        ("dropped", 4): 3,
        ("kept", 1): 10 * 4 + 6,
        ("dropped", 1): 5 * 4 + 3,
    }
    assert rows["length"].to_list() == [8, 4]
    assert rows.select("prefill_tokens_per_second", "decode_tokens_per_second_dense").min_horizontal().min() > 0


def test_memory_is_that_of_the_remaining_weights_and_of_a_run(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter([1000, 600])
    monkeypatch.setattr(speed, "growth_bytes", lambda work, device: work() and next(taken))
    row = speed_rows(decoder, "block-drop-1", BLOCK, [SPEC]).row(0, named=True)
    weights = sum(p.numel() * 4 for p in decoder.model.parameters()) + sum(b.nbytes for b in decoder.model.buffers())
    assert row["peak_memory_bytes_dense"] == weights + 1000
    block = decoder.layers[1]
    assert row["peak_memory_bytes"] == weights - 4 * (block.attn.size + block.mlp.size) + 600
    monkeypatch.setattr(speed, "growth_bytes", lambda work, device: None)
    assert speed_rows(decoder, "dense", Variant(), [SPEC])["peak_memory_bytes"].to_list() == [None]


def test_memory_growth_is_the_peak_of_one_run() -> None:
    size = 48 * 2**20

    def work() -> None:
        for _ in range(3):  # one after the other: the peak is one of them
            torch.ones(size // 4)

    for _ in range(2):
        assert 0.95 * size < (growth_bytes(work, CPU) or 0) < 1.5 * size  # the kernel counts in batches
    assert (growth_bytes(lambda: None, CPU) or 0) < size / 8


def test_noise_and_zero_repeats_are_not_timed(decoder: Decoder) -> None:
    def never() -> float:
        raise AssertionError("timed")

    for variant, specs in ((BLOCK, []), (Variant(noise="batch"), [SPEC])):
        assert speed_rows(decoder, "r", variant, specs, clock=never).rows() == []


def test_a_model_without_a_cache_is_refused(decoder: Decoder) -> None:
    refused = replace(decoder, cache_refusal="Llama does not run through a cache")
    with pytest.raises(InputError, match="speed: Llama does not run through a cache; remove `speed` from"):
        speed_rows(refused, "dense", Variant(), [SPEC])


def test_runs_beyond_the_context_are_refused_before_anything_runs(tmp_path: Path) -> None:
    parts = {"models": [{"name": "a", "source": "b"}], "recipes": ["dense"], "prompts": []}
    prompts = [{"id": "p", "kind": "open", "text": "Why?"}]
    study = Study(name="s", **(parts | {"prompts": prompts}), speed=[SpeedSpec(length=96, new_tokens=32)])
    check_speed(study, 128)
    with pytest.raises(InputError, match="length 96, new_tokens 32: 128 tokens are over the model's context of 127"):
        check_speed(study, 127)
