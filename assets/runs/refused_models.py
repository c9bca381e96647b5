"""Isolation of the models of a study from one another: one that cannot be read is a failure, and the others go on."""

import traceback
from collections.abc import Callable, Sequence

from prunescope.assets.execution.error_transport import KINDS, error_line, is_error
from prunescope.assets.runs.outcome import Failure, Listener
from prunescope.pipelines.core.errors import ComputationError, InputError


def refused(models: Sequence[str], check: Callable[[str], object], listener: Listener) -> dict[str, Failure]:
    """Call a function with the name of each model; return the failures of those for which it raises any error.

    The listener receives each failure.

    Raises:
        InputError, WarehouseError, ComputationError: the error of the first model, if every model has one.
    """
    failures, errors = dict[str, Failure](), list[BaseException]()
    for name in models:
        try:
            check(name)
        except BaseException as error:
            if not is_error(error):
                raise
            errors.append(error)
            failures[name] = Failure(name, error_line(error), isinstance(error, InputError), traceback.format_exc())
    if errors and len(errors) == len(models):
        if isinstance(errors[0], (*KINDS.values(), OSError)):
            raise errors[0]
        raise ComputationError(f"{models[0]} cannot be read: {error_line(errors[0])}") from errors[0]
    for failure in failures.values():
        listener.failed(failure)
    return failures
