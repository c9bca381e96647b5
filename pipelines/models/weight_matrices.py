"""Weight matrices of a sublayer, one by one: linear modules, and each expert's slice of a stacked parameter.

What is pruned in them is `prunescope.pipelines.pruning`'s; which of them a layer has is found in `prunescope.pipelines.models.model_discovery`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from prunescope.pipelines.models.weight_offload import data_of

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Where the matrix stands among a function's arguments; linear's is (out, in), the others' (in, out).
_LINEAR = torch.nn.functional.linear
_SECOND = {
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.mm,
    torch.Tensor.mm,
    torch.bmm,
    torch.Tensor.bmm,
}
_THIRD = {torch.addmm, torch.Tensor.addmm, torch.baddbmm, torch.Tensor.baddbmm}


@dataclass(frozen=True)
class Matrix:
    """One weight matrix: y = W x.

    Attributes:
        name: its module's name in the model; of a stacked parameter the parameter's, with the expert in brackets.
        parameter: the parameter that holds it.
        expert: which slice of a stacked parameter it is; None where it is the parameter.
        is_transposed: stored as (in, out): GPT-2's Conv1D, some experts.
    """

    name: str
    parameter: Tensor
    expert: int | None = None
    is_transposed: bool = False

    @property
    def stored(self) -> Float[Tensor, "rows columns"]:
        """The weight in its own layout, a view; read from disk where it rests there (`turns.present` keeps it)."""
        data = data_of(self.parameter)
        return data if self.expert is None else data[self.expert]

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """The weight with outputs as rows, a view."""
        return self.stored.T if self.is_transposed else self.stored

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        rows, columns = self.parameter.shape[-2:]
        return (columns, rows) if self.is_transposed else (rows, columns)

    @property
    def size(self) -> int:
        """How many weights it has."""
        return self.shape[0] * self.shape[1]

    @property
    def address(self) -> int:
        """Where its first number lies while it is present: the mark by which a product of it is known."""
        data = self.parameter.data
        return (data if self.expert is None else data[self.expert]).data_ptr()


class Products(TorchFunctionMode):
    """Sees every matrix product that is computed while it is entered.

    Experts are no modules: what flows into one of them is seen in the products alone.

    Args:
        see: called with rows x of shape (…, n, in) and the matrix of shape (…, in, out) of each product x·matrix;
            a product with a weight on the left is passed as its transpose.
    """

    def __init__(self, see: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__()
        self._see = see

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 (torch's protocol)
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Passes a function on, after a look at its arguments."""
        kwargs = kwargs or {}
        if func is _LINEAR:
            rows, weight = args[0] if args else kwargs["input"], args[1] if len(args) > 1 else kwargs["weight"]
            self._see(rows, weight.transpose(-1, -2))
        elif func in _SECOND or func in _THIRD:
            left, right = args[-2:] if len(args) >= 2 else (None, None)
            if isinstance(left, Tensor) and isinstance(right, Tensor) and left.dim() >= 2 and right.dim() >= 2:
                self._see(left, right)
                self._see(right.transpose(-1, -2), left.transpose(-1, -2))
        return func(*args, **kwargs)


def is_stored_transposed(operand: Float[Tensor, "... in out"]) -> bool:
    """Whether a product's (in, out) operand lies in memory as it is: the parameter is then stored as (in, out)."""
    return operand.stride(-1) == 1


def matrices_of(
    mixers: Iterable[nn.Module], names: dict[nn.Module, str], products: dict[int, Tensor]
) -> tuple[dict[str, Matrix], tuple[str, ...]]:
    """The weight matrices inside some modules, and the names of stacked parameters that are none.

    Args:
        mixers: the modules.
        names: their names and those of all inside them.
        products: operands (…, in, out) of the products of a run, by address.

    Returns:
        Matrices by name: of linear modules, and of three-dimensional parameters whose slices were read as matrices.
        Parameters of two dimensions outside a linear module (routers, state matrices) and convolutions are left as
        they are. Stacks that no product read are named: a mask for them would be a guess.
    """
    found: dict[str, Matrix] = {}
    unread = []
    for mixer in mixers:
        for module in mixer.modules():
            if isinstance(module, (nn.Linear, Conv1D)):
                found[names[module]] = Matrix(names[module], module.weight, None, isinstance(module, Conv1D))
                continue
            if isinstance(module, _CONVOLUTIONS):
                continue
            for key, parameter in module.named_parameters(recurse=False):
                name = f"{names[module]}.{key}"
                if sum(size > 1 for size in parameter.shape) < 3:
                    continue
                is_transposed = _layout(parameter, products) if parameter.dim() == 3 else None
                if is_transposed is None:
                    unread.append(name)
                    continue
                for expert in range(len(parameter)):
                    each = f"{name}[{expert}]"
                    found[each] = Matrix(each, parameter, expert, is_transposed)
    return found, tuple(unread)


def _layout(parameter: nn.Parameter, products: dict[int, Tensor]) -> bool | None:
    """Whether the slices of a stack are stored as (in, out); None where no product read one."""
    for matrix in parameter.data:
        operand = products.get(matrix.data_ptr())
        if operand is not None:
            is_transposed = is_stored_transposed(operand)
            whole = matrix if is_transposed else matrix.T
            if operand.shape[-2:] == whole.shape:
                return is_transposed
    return None
