"""Division of items into batches."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")


def batched(items: Iterable[_T], fits: Callable[[list[_T], _T], bool]) -> Iterator[list[_T]]:
    """Yield consecutive items as batches; an item that does not fit into the current batch begins a new one."""
    batch: list[_T] = []
    for item in items:
        if batch and not fits(batch, item):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
