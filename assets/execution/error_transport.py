"""Classes of errors: those kept between processes, and tests for transient, out-of-memory and exit errors."""

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.warehouse.core.errors import WarehouseError

# Errors whose message is meant for the user; they keep their class on the way between processes.
KINDS: dict[str, type[Exception]] = {kind.__name__: kind for kind in (InputError, ComputationError, WarehouseError)}


class RemoteError(Exception):
    """The traceback of an error in another process."""


def is_transient(error: BaseException | None) -> bool:
    """Return whether another attempt may succeed, for example if a store did not answer; never for wrong input."""
    if error is None or isinstance(error, InputError):
        return False
    # The client libraries of object stores raise their own classes and are not imported for this check.
    return (
        isinstance(error, ConnectionError | TimeoutError)
        or _is_named(error, "HTTPClientError")
        or is_transient(error.__cause__)
    )


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether the machine or the accelerator ran out of memory, by the error or one that it was raised from."""
    if error is None:
        return False
    # Torch raises its own class for accelerators only, and is not imported for this check.
    return (
        isinstance(error, MemoryError)
        or _is_named(error, "OutOfMemoryError")
        or any(words in str(error) for words in ("can't allocate memory", "bad_alloc", "Cannot allocate memory"))
        or is_out_of_memory(error.__cause__)
    )


def is_error(raised: BaseException) -> bool:
    """Return whether this is a failure; a request to end the process, such as Ctrl-C, is not one."""
    # A panic in a library written in Rust, such as tokenizers, does not derive from Exception.
    return isinstance(raised, Exception) or _is_named(raised, "PanicException")


def error_line(error: BaseException) -> str:
    """Return the message of an error in one line, with the kind of an unexpected one."""
    message = " ".join(str(error).split())
    return message if isinstance(error, tuple(KINDS.values())) else f"{type(error).__name__}: {message}"


def _is_named(error: BaseException, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(error).__mro__)
