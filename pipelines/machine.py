"""What this machine gives: free memory, and its speed at the four kinds of work that a study is made of.

Measured within two seconds on numbers of no meaning; what the speeds are used for is told in `pipelines.planning`.
"""

import itertools
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipelines.metrics.blocks import BLOCK_ROWS, Workspace, product
from pipelines.metrics.divergence import divergence
from pipelines.metrics.heads import Head
from pipelines.models.outline import Shape

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


def workers_on(device: str) -> int:
    """How many sublayers are measured at once: one a core, one on a GPU."""
    return 1 if device.startswith("cuda") else torch.get_num_threads()


def chosen_device(device: str) -> str:
    """The device that a study's setting means here."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def available_bytes(device: str) -> int | None:
    """Memory that a new computation may fill: of the GPU, else what the system says and this process's group allows.

    None where neither Linux nor CUDA tells.
    """
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        free = [int(told["MemAvailable"].split()[0]) * 1024]
    except (OSError, KeyError, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError, KeyError):  # no such group, or one without a limit (`max`)
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        # Files that were read are counted until somebody needs their room.
        free.append(limit - used + int(counts["inactive_file"]))
    return min(free)


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
        divergence(x, shifts, head, softmaxes, workspace=space)
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
