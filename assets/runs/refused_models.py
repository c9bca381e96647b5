"""Isolation of the models of a study from one another: one that cannot be read is a failure, and the others go on."""

import traceback
from collections.abc import Callable, Iterable

from prunescope.assets.execution.error_transport import KINDS, error_line, is_error
from prunescope.assets.runs.outcome import Failure, Listener
from prunescope.pipelines.core.errors import ComputationError, InputError


def refused(models: Iterable[str], check: Callable[[str], object], listener: Listener) -> dict[str, Failure]:
    """Call a function with the name of each model; return the failures of those for which it raises any error.

    The listener receives each failure.

    Raises:
        InputError, WarehouseError, ComputationError: the error of the first model, if every model has one.
    """
    failures, first, n_checked = dict[str, Failure](), None, 0
    for name in models:
        n_checked += 1
        try:
            check(name)
        except BaseException as error:
            if not is_error(error):
                raise
            first = first or (name, error)
            failures[name] = Failure(name, error_line(error), isinstance(error, InputError), traceback.format_exc())
    if first is not None and len(failures) == n_checked:
        name, error = first
        if isinstance(error, (*KINDS.values(), OSError)):
            raise error
        raise ComputationError(f"{name} cannot be read: {error_line(error)}") from error
    for failure in failures.values():
        listener.failed(failure)
    return failures
