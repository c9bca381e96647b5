"""Speed and memory of variants, timed alternately with the dense model on random tokens.

Masked and quantized weights are multiplied as dense matrices and take the same time. Only dropped sublayers save time.
"""

import ctypes
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from itertools import groupby
from pathlib import Path
from statistics import median
from sys import maxsize
from typing import Any, Literal, NamedTuple, cast

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.hardware import hardware, proc_value
from prunescope.pipelines.core.progress import SILENT, Progress
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.studies import Study
from prunescope.pipelines.studies.evaluation_specs import SpeedSpec

Clock = Callable[[], float]
Side = Literal["dense", "variant"]


class Run(NamedTuple):
    """Seconds from the start of a run to the end of prefill, the first new token and the last new token."""

    prefill: float
    first: float
    last: float


def check_speed(study: Study, context_length: int) -> None:
    """Refuse runs that exceed the model's context, and runs of a model with offloaded layers.

    Raises:
        InputError: names the run and the fix.
    """
    if study.speed and study.memory is not None:
        raise InputError("speed: `memory` offloads layers, whose loading would be timed; remove one of the two keys")
    for spec in study.speed:
        if spec.length + spec.new_tokens > context_length:
            raise InputError(
                f"speed, {spec.what}: {spec.length + spec.new_tokens} tokens are over the model's context of "
                f"{context_length}; lower `length` or `new_tokens`"
            )


def turns(repeats: int) -> Iterator[tuple[Side, int]]:
    """Yield the sides in the order of their timed runs (A B, B A, A B, …), each with the number of its repeat.

    In this order a drift, such as a processor that warms up, affects both sides equally.
    """
    for repeat in range(repeats):
        sides: tuple[Side, Side] = ("dense", "variant") if repeat % 2 == 0 else ("variant", "dense")
        yield from ((side, repeat) for side in sides)


def speed_rows(
    decoder: Decoder,
    recipe: str,
    variant: Variant,
    specs: Sequence[SpeedSpec],
    progress: Progress = SILENT,
    clock: Clock = time.perf_counter,
) -> pl.DataFrame:
    """Time a variant alternately with the dense model.

    Before it is timed, each side runs once to warm up and once to measure its memory. A noise variant has no rows. Rows
    of the dense model against itself show how far two equal sides differ. The progress advances once per run.

    Raises:
        InputError: the model cannot generate tokens through a cache.
    """
    if not specs or variant.noise is not None:
        return pl.DataFrame()
    refusal = decoder.cache_refusal if decoder.output else f"{type(decoder.model).__name__} has no LM head"
    if refusal is not None:
        raise InputError(f"speed: {refusal}; remove `speed` from the study for this model")
    progress.start(f"speed {recipe}", sum(2 * (spec.repeats + 2) for spec in specs))
    prompts = [_prompts(decoder, spec) for spec in specs]
    runs: defaultdict[tuple[SpeedSpec, Side], list[Run]] = defaultdict(list)
    memory: dict[tuple[SpeedSpec, Side], int | None] = {}
    order = [("dense", None), ("variant", None), *turns(max(spec.repeats for spec in specs))]
    # Two consecutive turns of one side share one change of weights.
    for side, group in groupby(order, key=lambda turn: cast(Side, turn[0])):
        # With `maxsize`, all changed weights are computed before the clock starts.
        patch = nullcontext() if side == "dense" else apply_variant(decoder, variant, max_bytes=maxsize)
        with patch:
            for _, repeat in group:
                for spec, tokens in zip(specs, prompts, strict=True):
                    if repeat is None:
                        run(decoder, tokens, spec.new_tokens, clock)
                        memory[spec, side] = _memory(decoder, variant, side, tokens, spec.new_tokens, clock)
                        progress.advance(2)
                    elif repeat < spec.repeats:
                        runs[spec, side].append(run(decoder, tokens, spec.new_tokens, clock))
                        progress.advance()
    progress.done()
    is_gpu, threads = decoder.device.type == "cuda", torch.get_num_threads()
    about = {
        "machine": torch.cuda.get_device_name(decoder.device) if is_gpu else f"{hardware()}, {threads} threads",
        "sublayers_skipped": 0 if decoder.skips is None else len(variant.dropped),
    }
    rows = [
        about
        | spec.model_dump()
        | _measured(spec, runs[spec, "variant"], memory[spec, "variant"], "")
        | _measured(spec, runs[spec, "dense"], memory[spec, "dense"], "_dense")
        for spec in specs
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


@torch.inference_mode()
def run(decoder: Decoder, prompts: Int[Tensor, "batch length"], new_tokens: int, clock: Clock) -> Run:
    """Run the prompts in one batch and generate tokens one by one, with the model's own head and kernels."""
    head = cast(Any, decoder.model).get_output_embeddings()
    cache = decoder.new_cache()
    start = now(clock, decoder.device)
    states = decoder.hidden(prompts, cache)
    prefill = now(clock, decoder.device)
    tokens = head(states[:, -1]).argmax(dim=-1, keepdim=True)
    first = now(clock, decoder.device)
    for _ in range(new_tokens - 1):
        tokens = head(decoder.hidden(tokens, cache)[:, -1]).argmax(dim=-1, keepdim=True)
    last = now(clock, decoder.device)
    return Run(prefill - start, first - start, last - start)


def now(clock: Clock, device: torch.device) -> float:
    """Wait until the device has finished its work, and return the time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


def _prompts(decoder: Decoder, spec: SpeedSpec) -> Int[Tensor, "batch length"]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, decoder.vocabulary, (spec.batch, spec.length), generator=generator).to(decoder.device)


def _memory(
    decoder: Decoder, variant: Variant, side: Side, prompts: Tensor, new_tokens: int, clock: Clock
) -> int | None:
    """Return the bytes of the weights that run and of a run's own memory; None if that cannot be measured."""
    growth = growth_bytes(lambda: run(decoder, prompts, new_tokens, clock), decoder.device)
    if growth is None:
        return None
    dropped = variant.dropped if side == "variant" and decoder.skips is not None else ()
    unused = {
        parameter
        for sublayer in decoder.sublayers
        if sublayer.label in dropped
        for module in sublayer.mixers
        for parameter in module.parameters()
    }
    tensors = {*decoder.model.parameters(), *decoder.model.buffers()} - unused
    return growth + sum(tensor.nbytes for tensor in tensors)


def growth_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """Call `work` and return its peak memory, less what was in use before.

    On a GPU this counts torch's allocations without its cache. On Linux it counts resident memory of this process:
    freed memory is first returned to the system, because reusing it would not show, and the high-water mark is reset.
    Call `work` once before: one-time allocations of libraries then do not count.

    Returns:
        None if the system does not report it.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with suppress(OSError, AttributeError):  # a C library without malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _kilobytes("VmRSS")
    except (OSError, IndexError):  # another system, or a sandbox that forbids it
        work()
        return None
    work()
    return max(0, _kilobytes("VmHWM") - before) * 1024


def _kilobytes(key: str) -> int:
    return int(proc_value(Path("/proc/self/status"), key).split()[0])


def _measured(spec: SpeedSpec, runs: Sequence[Run], memory: int | None, suffix: str) -> dict[str, float | None]:
    prefill, decode = median(run.prefill for run in runs), median(run.last - run.first for run in runs)
    columns = {
        "prefill_tokens_per_second": spec.batch * spec.length / prefill,
        "decode_tokens_per_second": spec.batch * (spec.new_tokens - 1) / decode,
        "seconds_to_first_token": median(run.first for run in runs),
        "peak_memory_bytes": memory,
    }
    return {f"{name}{suffix}": value for name, value in columns.items()}
