"""Speeds of this machine at the four kinds of work that a study is made of, measured within two seconds.

`cost_model` turns them into the seconds that `prunescope plan` shows.
"""

import itertools
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from prunescope.pipelines.core.device import workers_on
from prunescope.pipelines.metrics.divergence import divergences
from prunescope.pipelines.metrics.heads import Head
from prunescope.pipelines.metrics.logit_blocks import BLOCK_ROWS, Workspace, product
from prunescope.pipelines.models.meta_model import Shape

# Numbers of a matrix that is measured: far beyond a core's own cache, soon filled.
_PRODUCT, _STREAMED = 2**24, 2**26
_NARROW, _ROWS = 16, 8
_SECONDS = 0.15


@dataclass(frozen=True)
class Machine:
    """Measured speeds, all cores together.

    Attributes:
        head: floating-point operations a second of the LM head's product, float32, in the engine's blocks.
        body: the same of the layers' products in the study's type, a prompt of tokens at a time.
        memory: bytes of weights a second that decoding token by token reads.
        vocabulary: logits a second that the engine measures at one temperature, products apart.
        workers: sublayers that are measured at once.
    """

    head: float
    body: float
    memory: float
    vocabulary: float
    workers: int


@torch.inference_mode()
def measured(shape: Shape, dtype: torch.dtype, device: str, tokens: int, temperatures: int) -> Machine:
    """Measures this machine.

    Args:
        shape: of the model that is planned for; matrices larger than some cache are cut to it.
        dtype: type of the layers.
        device: cpu or cuda.
        tokens: length of a typical prompt with its answer.
        temperatures: how many.
    """
    workers = workers_on(device)
    words = max(1, min(shape.vocabulary, _PRODUCT // shape.width))
    head = torch.full((words, shape.width), 0.01, device=device)
    states = torch.full((BLOCK_ROWS, shape.width), 0.01, device=device)
    products = _rate(lambda: product(states, head), 2 * BLOCK_ROWS * words * shape.width, workers)

    outputs, inputs = shape.largest_matrix
    matrix = torch.full((max(1, min(outputs, _PRODUCT // inputs)), inputs), 0.01, dtype=dtype, device=device)
    prompt = torch.full((max(1, tokens), inputs), 0.01, dtype=dtype, device=device)
    body = _rate(lambda: prompt @ matrix.T, 2 * prompt.numel() * matrix.shape[0], 1)

    streamed = torch.full((_STREAMED // dtype.itemsize // 4096, 4096), 0.01, dtype=dtype, device=device)
    token = torch.full((4096, 1), 0.01, dtype=dtype, device=device)
    memory = _rate(lambda: streamed @ token, streamed.numel() * dtype.itemsize, 1)
    vocabulary = _vocabulary_rate(shape.vocabulary, device, temperatures, workers)
    return Machine(head=products, body=body, memory=memory, vocabulary=vocabulary, workers=workers)


def _vocabulary_rate(vocabulary: int, device: str, temperatures: int, workers: int) -> float:
    """Two shifts beside their dense side through the engine itself, with a head too narrow to cost anything."""
    generator = torch.Generator().manual_seed(0)
    weight, x, *shifts = (
        torch.randn(rows, _NARROW, generator=generator).to(device) for rows in (vocabulary, _ROWS, _ROWS, _ROWS)
    )
    head, softmaxes = Head(weight), [1 + index / 10 for index in range(temperatures)]
    spaces = [Workspace() for _ in range(workers)]

    def work() -> None:
        space = spaces.pop()
        divergences(x, shifts, head, softmaxes, workspace=space)
        spaces.append(space)

    return _rate(work, 3 * _ROWS * vocabulary * temperatures, workers)


def _rate(work: Callable[[], Tensor | None], amount: float, workers: int) -> float:
    """Amount a second, with so many workers of one thread each side by side, or one of all threads.

    The fastest call of each worker counts: what else runs on the machine is not its limit.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            running = [pool.submit(_fastest, work) for _ in range(workers)]
            return sum(amount / each.result() for each in running)
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _fastest(work: Callable[[], Tensor | None]) -> float:
    best, until = math.inf, time.perf_counter() + _SECONDS
    # The first call pays for what the others find done: pages, threads, kernels.
    for call in itertools.count():
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
        if call and time.perf_counter() > until:
            break
    return max(best, 1e-9)
