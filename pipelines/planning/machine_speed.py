"""Measurement, within two seconds, of this machine's speed at the four kinds of work in a study."""

import itertools
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from prunescope.pipelines.core.device import workers_on
from prunescope.pipelines.metrics.cpu_matmul import product
from prunescope.pipelines.metrics.divergence import divergences
from prunescope.pipelines.metrics.logit_blocks import BLOCK_ROWS, Workspace
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.pipelines.models.meta_model import Shape

# Numbers in a measured matrix: far more than a core's cache holds, yet quick to fill.
_PRODUCT_SIZE, _STREAM_SIZE = 2**24, 2**26
# Width and rows of the head whose product costs next to nothing.
_NARROW, _ROWS = 16, 8
_SECONDS = 0.15


@dataclass(frozen=True)
class Machine:
    """Measured speeds, all cores together.

    Attributes:
        head: floating-point operations per second of the LM head's product, in float32 and in blocks of BLOCK_ROWS.
        body: floating-point operations per second of the layers' products in the study's dtype, one prompt at a time.
        memory: bytes of weights per second that token-by-token decoding reads.
        vocabulary: logits per second measured at one temperature, without the head product.
    """

    head: float
    body: float
    memory: float
    vocabulary: float


# For ratios of costs where no machine is measured: two cores of a server, from the stages of the study `demo` on them,
# and the order of magnitude of a GPU of a data center.
_CORES = Machine(head=150e9, body=110e9, memory=20e9, vocabulary=200e6)
_GPU = Machine(head=30e12, body=100e12, memory=1.5e12, vocabulary=10e9)


def typical_machine(device: str) -> Machine:
    """Return the speeds of a typical machine with such a device."""
    return _GPU if device.startswith("cuda") else _CORES


@torch.inference_mode()
def measure_machine(shape: Shape, dtype: torch.dtype, device: str, tokens: int, temperatures: int) -> Machine:
    """Measure the speeds of this machine.

    Args:
        shape: sizes of the planned model; larger matrices are cut to `_PRODUCT_SIZE` numbers.
        dtype: type of the layers.
        device: cpu or cuda.
        tokens: length of a typical prompt with its answer.
        temperatures: number of temperatures.
    """

    def filled(rows: int, columns: int, of: torch.dtype = dtype) -> Tensor:
        return torch.full((max(1, rows), columns), 0.01, dtype=of, device=device)

    workers = workers_on(device)
    head = filled(min(shape.vocabulary, _PRODUCT_SIZE // shape.width), shape.width, torch.float32)
    states = filled(BLOCK_ROWS, shape.width, torch.float32)
    outputs, inputs = shape.largest_matrix
    matrix, prompt = filled(min(outputs, _PRODUCT_SIZE // inputs), inputs), filled(tokens, inputs)
    streamed, token = filled(_STREAM_SIZE // dtype.itemsize // 4096, 4096), filled(4096, 1)
    return Machine(
        head=_rate(lambda: product(states, head), 2 * BLOCK_ROWS * head.numel(), workers),
        body=_rate(lambda: prompt @ matrix.T, 2 * prompt.numel() * matrix.shape[0], 1),
        memory=_rate(lambda: streamed @ token, streamed.nbytes, 1),
        vocabulary=_vocabulary_rate(shape.vocabulary, device, temperatures, workers),
    )


def _vocabulary_rate(vocabulary: int, device: str, temperatures: int, workers: int) -> float:
    """Measure `divergence` on two shifts and their dense side, with a head too narrow to cost anything."""
    generator = torch.Generator().manual_seed(0)
    weight, x, *shifts = (
        torch.randn(rows, _NARROW, generator=generator).to(device) for rows in (vocabulary, _ROWS, _ROWS, _ROWS)
    )
    head, softmaxes = OutputHead(weight), [1 + index / 10 for index in range(temperatures)]
    workspaces = [Workspace() for _ in range(workers)]

    def work() -> None:
        workspace = workspaces.pop()
        divergences(x, shifts, head, softmaxes, workspace=workspace)
        workspaces.append(workspace)

    return _rate(work, 3 * _ROWS * vocabulary * temperatures, workers)


def _rate(work: Callable[[], Tensor | None], amount: float, workers: int) -> float:
    """Return the amount per second of several workers in parallel, which share torch's threads.

    The fastest call of each worker counts, because other processes on the machine slow the rest.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            running = [pool.submit(_fastest, work) for _ in range(workers)]
            return sum(amount / future.result() for future in running)
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _fastest(work: Callable[[], Tensor | None]) -> float:
    best, until = math.inf, time.perf_counter() + _SECONDS
    # A second call always follows: the first also allocates pages, starts threads and loads kernels.
    for call in itertools.count():
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
        if call and time.perf_counter() > until:
            break
    return max(best, 1e-9)
