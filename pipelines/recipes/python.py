"""The recipe for a pruning method of one's own, in a Python file. Nothing of the file is run here, and no torch."""

import ast
import re
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.frozen_model import SOURCE
from prunescope.pipelines.core.regular_files import local_path, read_regular
from prunescope.pipelines.recipes.base import MaskingRecipe, Reads, spelling

# Functions of which a file defines one, and the largest file in bytes.
FUNCTIONS = ("scores", "weights")
_MAX_BYTES = 100_000


class PythonRecipe(MaskingRecipe):
    """A method of one's own: a Python file with a function that scores or changes one matrix at a time.

    The recipe holds the file's text, so another text is another recipe, and the tables keep the text that was run.

    Attributes:
        file: the file, whose text becomes `code`. It defines `scores(weight, inputs, sparsity)` or
            `weights(weight, inputs, sparsity)`; the latter may come without `sparsity`, `keep`, `block` and `ratios`.
        code: the text itself, in place of `file`.
        statistics: what `inputs` holds: `nothing`; `moments`, the means of the inputs and of their squares; or `gram`,
            the sum of x xᵀ as well.
        group: weights whose scores are compared with each other: the whole `matrix`, each `output` row, or `threshold`,
            as in `wanda`. N:M patterns ignore it.
    """

    SPELLING = spelling(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.py", also_alone=True)
    MAPPING_MEANING: ClassVar[str] = (
        "your own method, in a Python file: `file: my_method.py, sparsity: 0.5`, or its name: my_method.py-50"
    )

    method: Literal["python"] = "python"
    # A moved file is the same method.
    file: SOURCE | None = Field(default=None, exclude=True, examples=["my_method.py"])
    code: str = ""
    statistics: Reads = "moments"
    group: Literal["matrix", "output", "threshold"] = "matrix"

    @classmethod
    def spelled(cls, match: re.Match[str]) -> dict[str, object]:
        """Return the fields that a name such as `my_method.py-50` spells."""
        fields = super().spelled(match)
        return fields | {"method": "python", "file": fields["method"]}

    @model_validator(mode="before")
    @classmethod
    def _read(cls, fields: Any) -> Any:  # noqa: ANN401 (pydantic checks it)
        if not isinstance(fields, dict) or not isinstance(fields.get("file"), str) or fields.get("code"):
            return fields
        try:
            return fields | {"code": read_regular(local_path(fields["file"], "file"), _MAX_BYTES, "a method")}
        except (InputError, OSError) as error:  # pydantic adds the key to a ValueError
            reason = f"{fields['file']}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
            raise ValueError(f"`file` {reason}") from error

    @model_validator(mode="after")
    def _one_pattern(self) -> Self:
        if not self.code:
            raise ValueError("`file` is missing; give a Python file, such as my_method.py")
        place = f"`file` {self.file}" if self.file else "`code`"
        try:
            body = ast.parse(self.code).body
        except (SyntaxError, ValueError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise ValueError(f"{place}{line}: not valid Python: {error.args[0]}") from error
        defined = [node.name for node in body if isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS]
        if len(defined) != 1:
            raise ValueError(
                f"{place}: must define one function, `scores(weight, inputs, sparsity)` or "
                "`weights(weight, inputs, sparsity)`"
            )
        is_free = self.sparsity is None and self.keep is None and self.block is None and self.ratios == "uniform"
        if is_free and defined == ["scores"]:
            raise ValueError(
                "`scores` needs a share: `sparsity: 0.5`, or `keep` and `block`, or a name as my_method.py-50"
            )
        return self if is_free else self.require_pattern()

    @property
    def reads(self) -> Reads:  # type: ignore[override] # a file chooses what other methods fix by class
        """Return the statistics that the function gets."""
        return self.statistics
