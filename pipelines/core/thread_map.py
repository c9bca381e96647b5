"""Work that is split over the cores by hand: many short operations are faster side by side than each split over cores.

What the work is belongs to the caller.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item], device: torch.device) -> Iterator[Result]:
    """Results in the order of the items, one item a core; on a GPU one after the other.

    Every item is computed by one thread whatever their number, so the number does not change the result.
    """
    threads = torch.get_num_threads()
    workers = threads if device.type == "cpu" else 1
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(work, items)
    finally:
        torch.set_num_threads(threads)
