"""Isolation of the models of a study from one another: one that cannot be read is a failure, and the others go on."""

import dataclasses
import traceback
from collections.abc import Callable

from prunescope.assets.execution.error_transport import KINDS, error_line, is_error
from prunescope.assets.runs.outcome import Failure, Listener, RunResult
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.studies import Study


class RefusedModels:
    """The models of a study that cannot be computed, with their errors."""

    def __init__(self, study: Study, listener: Listener) -> None:
        """Refuse none yet; the listener receives each failure."""
        self.failures: dict[str, Failure] = {}
        self._names, self._listener = [model.name for model in study.models], listener

    def check(self, check: Callable[[str], object]) -> None:
        """Call the check with each remaining model's name, and refuse the models for which it raises any error.

        Raises:
            InputError, WarehouseError, ComputationError: the error of the first model, if none is left.
        """
        errors = []
        for name in self._names:
            if name not in self.failures:
                try:
                    check(name)
                except BaseException as error:
                    if not is_error(error):
                        raise
                    errors.append((name, error, traceback.format_exc()))
        if errors and len(self.failures) + len(errors) == len(self._names):
            name, error, _ = errors[0]
            if isinstance(error, (*KINDS.values(), OSError)):
                raise error
            raise ComputationError(f"{name} cannot be read: {error_line(error)}") from error
        for name, error, trace in errors:
            self.failures[name] = Failure(name, error_line(error), isinstance(error, InputError), trace)
            self._listener.failed(self.failures[name])

    def added_to(self, result: RunResult) -> RunResult:
        """Return the result with these failures before its own."""
        return dataclasses.replace(result, failures=(*self.failures.values(), *result.failures))
