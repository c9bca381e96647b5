"""The individual weight matrices of a sublayer: linear modules, and each expert's slice of a stacked parameter."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from prunescope.pipelines.models.weight_offload import data_of

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Functions that multiply their last two arguments.
_PRODUCTS = {
    *(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__),
    *(torch.mm, torch.Tensor.mm, torch.bmm, torch.Tensor.bmm),
    *(torch.addmm, torch.Tensor.addmm, torch.baddbmm, torch.Tensor.baddbmm),
}


@dataclass(frozen=True)
class Matrix:
    """One weight matrix: y = W x.

    The name is that of its module. A slice of a stacked parameter is named after the parameter, with the number of the
    `expert` in brackets. `is_transposed` means stored as (in, out), as in GPT-2's Conv1D and some experts.
    """

    name: str
    parameter: Tensor
    expert: int | None = None
    is_transposed: bool = False

    @property
    def stored(self) -> Float[Tensor, "rows columns"]:
        """Return a view of the weight as stored; outside `on_device`, a weight on disk is read at every access."""
        data = data_of(self.parameter)
        return data if self.expert is None else data[self.expert]

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """Return a view of the weight with outputs as rows."""
        return self.stored.T if self.is_transposed else self.stored

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of outputs and inputs."""
        rows, columns = self.parameter.shape[-2:]
        return (columns, rows) if self.is_transposed else (rows, columns)

    @property
    def size(self) -> int:
        """Return the number of weights."""
        return self.shape[0] * self.shape[1]

    @property
    def address(self) -> int:
        """Return the address of its first number, which identifies its products inside `on_device`."""
        data = self.parameter.data
        return (data if self.expert is None else data[self.expert]).data_ptr()


class Products(TorchFunctionMode):
    """Context that observes every matrix product.

    Experts are not modules, so only products show their inputs. `observe` is called for each product x·matrix with the
    rows x (…, n, in) and the matrix (…, in, out). It is also called with the transpose of a product of two tensors,
    because the left one may be the weight.
    """

    def __init__(self, observe: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__()
        self._observe = observe

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 (torch's protocol)
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Observe the function's arguments, then call it."""
        kwargs = kwargs or {}
        if func in (torch.nn.functional.linear, torch.ops.mkldnn._linear_pointwise):
            rows, weight = args[0] if args else kwargs["input"], args[1] if len(args) > 1 else kwargs["weight"]
            self._observe(rows, weight.transpose(-1, -2))
        elif func in _PRODUCTS:
            left, right = args[-2:] if len(args) >= 2 else (None, None)
            if isinstance(left, Tensor) and isinstance(right, Tensor) and left.dim() >= 2 and right.dim() >= 2:
                self._observe(left, right)
                self._observe(right.transpose(-1, -2), left.transpose(-1, -2))
        return func(*args, **kwargs)


def matrices_of(
    mixers: Iterable[nn.Module], names: dict[nn.Module, str], products: dict[int, Tensor]
) -> tuple[dict[str, Matrix], tuple[str, ...]]:
    """Return the weight matrices inside some modules, and the names of stacks that no product read as matrices.

    `names` has these modules and all modules inside them. `products` has the operands (…, in, out) of a run's products,
    by address. The matrices are those of linear modules and the slices of three-dimensional parameters that a product
    read. Convolutions and two-dimensional parameters outside a linear module (routers, state matrices) are omitted.
    Stacks that no product read cannot be masked, because their layout is unknown.
    """
    matrices: dict[str, Matrix] = {}
    unread = []
    for mixer in mixers:
        for module in mixer.modules():
            if isinstance(module, (nn.Linear, Conv1D)):
                matrices[names[module]] = Matrix(names[module], module.weight, None, isinstance(module, Conv1D))
                continue
            if isinstance(module, CONVOLUTIONS):
                continue
            for key, parameter in module.named_parameters(recurse=False):
                name = f"{names[module]}.{key}"
                if sum(size > 1 for size in parameter.shape) < 3:
                    continue
                is_transposed = _is_transposed(parameter, products) if parameter.dim() == 3 else None
                if is_transposed is None:
                    unread.append(name)
                    continue
                for expert in range(len(parameter)):
                    slice_name = f"{name}[{expert}]"
                    matrices[slice_name] = Matrix(slice_name, parameter, expert, is_transposed)
    return matrices, tuple(unread)


def _is_transposed(parameter: nn.Parameter, products: dict[int, Tensor]) -> bool | None:
    """Return whether the slices of a stack are stored as (in, out), or None if no product read one."""
    for matrix in parameter.data:
        operand = products.get(matrix.data_ptr())
        if operand is not None:
            is_transposed = operand.stride(-1) == 1  # the (in, out) operand is contiguous as stored
            whole = matrix if is_transposed else matrix.T
            if operand.shape[-2:] == whole.shape:
                return is_transposed
    return None
