"""What kind of failure an error is: the user's, the arithmetic's, the memory's, or one that can pass by itself.

What is done about it is the caller's business.
"""

from collections.abc import Iterator

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.warehouse.core.errors import WarehouseError

# Errors that a person can act on; they keep their kind on the way between processes.
KINDS: dict[str, type[Exception]] = {kind.__name__: kind for kind in (InputError, ComputationError, WarehouseError)}


class TransientError(Exception):
    """What may go well another time without anybody mending anything."""


class WorkerLostError(TransientError):
    """A worker ended in the middle of a part: killed, out of memory, or never started."""


def is_transient(error: BaseException) -> bool:
    """Whether to try again: a worker was lost, or storage did not answer. Wrong input and arithmetic never pass."""
    # Object stores raise what their client does, which is only imported where one is used.
    return any(
        isinstance(one, TransientError | ConnectionError | TimeoutError) or _is_named(one, "HTTPClientError")
        for one in _causes(error)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is short, the machine's or the accelerator's."""
    # Torch has a type of its own for accelerators only, and is not imported for it here.
    return any(
        isinstance(one, MemoryError)
        or _is_named(one, "OutOfMemoryError")
        or any(words in str(one) for words in ("can't allocate memory", "bad_alloc", "Cannot allocate memory"))
        for one in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it was raised from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _is_named(error: BaseException, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(error).__mro__)
