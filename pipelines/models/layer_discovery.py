"""Discovery of a layer's attention and MLP and of how each adds to the stream, proved by running them again."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.metrics.rounding import distance, is_same, is_sum
from prunescope.pipelines.models.decoder import Layer
from prunescope.pipelines.models.forward_probe import (
    ForwardRecorder,
    ModuleIO,
    multipliers,
    numbers_of,
    same_memory,
)
from prunescope.pipelines.models.module_calls import call_with_state, entered, first_tensor, hooks, stream_of
from prunescope.pipelines.models.sublayer import (
    Branch,
    Kind,
    Sublayer,
    SublayerCall,
    has_matrix,
    watch_all,
    without_residual,
)
from prunescope.pipelines.models.weight_matrices import Products, matrices_of
from prunescope.pipelines.models.weight_offload import on_device


def find_layer(index: int, module: nn.Module, run: ForwardRecorder, *, may_norm_stream: bool = False) -> Layer:
    """Find one layer's sublayers and prove them, from the probe `run`.

    `may_norm_stream` accepts post-norm layers, whose norms produce the next stream. Their contributions are exact only
    to the rounding of a stream, which is too coarse for traces.

    Raises:
        InputError: names the layer, or the module in it, and what could not be proved.
    """
    with on_device(module):
        call = run.call_of(module)
        if not torch.equal(call.input, call.input_copy):
            raise InputError(f"{run.names[module]}: overwrites its input stream; refused")
        mixers = [child for child in _children(module, run) if has_matrix(child)]
        if not mixers:
            raise InputError(f"{run.names[module]}: has no module with weights that is called once per pass; refused")
        branches = _post_norm_branches(module, run) if may_norm_stream else None
        if branches is None:
            branches = _prove_sum(module, mixers, run)
        operands = _product_operands(module, call)
        is_mixing = {branch: _mixes_positions(branch, run) for branch in branches}
        if len(set(is_mixing.values())) < 2:
            present = ", ".join(run.names[mixer] for branch in branches for mixer in branch.mixers)
            missing = "MLP next to" if any(is_mixing.values()) else "attention or recurrence next to"
            raise InputError(f"{run.names[module]}: has no {missing} {present}; layers of one sublayer are refused")

        def sublayer(kind: Kind) -> Sublayer:
            own = tuple(branch for branch in branches if is_mixing[branch] == (kind == "attn"))
            own_mixers = [mixer for branch in own for mixer in branch.mixers]
            matrices, unread = matrices_of(own_mixers, run.names, operands)
            name = " + ".join(run.names[mixer] for mixer in own_mixers)
            chains = (module for branch in own for module in branch.chain)
            modules = {run.names[inner]: inner for module in chains for inner in module.modules()}
            return Sublayer(index, kind, name, module, own, matrices, unread, modules)

        attn, mlp = sublayer("attn"), sublayer("mlp")
        return Layer(module, attn, mlp, is_parallel=_prove_runs(module, attn, mlp, run))


def _product_operands(layer: nn.Module, call: ModuleIO) -> dict[int, Tensor]:
    """Return the operands of the layer's matrix products by address; a batched operand gives one entry per matrix."""
    operands: dict[int, Tensor] = {}

    def observe(_: Tensor, operand: Tensor) -> None:
        for matrix in operand if operand.dim() == 3 else [operand]:
            operands.setdefault(matrix.data_ptr(), matrix)

    args, kwargs = call.arguments
    with Products(observe):
        layer(*args, **kwargs)
    return operands


def _children(layer: nn.Module, run: ForwardRecorder) -> list[nn.Module]:
    """Return the layer's children that were called once, in the order of their calls."""
    called = [child for child in layer.children() if run.once(child) is not None]
    return sorted(called, key=lambda child: run.call_of(child).order)


def _sources(mixer: nn.Module, layer: nn.Module, run: ForwardRecorder) -> Iterator[tuple[Branch, Tensor]]:
    """Yield candidates for a mixer's branch: its own output, then the outputs of modules that read only it.

    Each comes with its contribution over the probe tokens, with multiplier 1.
    """
    call = run.call_of(mixer)
    key = _residual_key(mixer, call)
    if key is not None:
        args, kwargs = without_residual(call.arguments, key)[0]
        yield Branch((mixer,), residual=key), first_tensor(mixer(*args, **kwargs))
        return
    chain: tuple[nn.Module, ...] = (*_feeding(mixer, layer, run), mixer)
    yield Branch(chain), call.result
    while True:
        last = run.call_of(chain[-1])
        readers = (
            child
            for child in _children(layer, run)
            if not has_matrix(child) and same_memory(run.call_of(child).input, last.output_tensor)
        )
        following = next((child for child in readers if child not in chain), None)
        if following is None:
            return
        chain = (*chain, following)
        yield Branch(chain), run.call_of(following).result


def _feeding(mixer: nn.Module, layer: nn.Module, run: ForwardRecorder) -> tuple[nn.Module, ...]:
    """Return the chain of modules before a mixer, starting with another mixer that feeds only this one (OPT's MLP)."""
    chain: list[nn.Module] = []
    state = run.call_of(mixer).input
    for child in reversed(_children(layer, run)):
        call = run.call_of(child)
        if child is not mixer and same_memory(call.output_tensor, state):
            chain.insert(0, child)
            state = call.input
    # Modules before the first mixer belong to the norm that reads the stream.
    while chain and not has_matrix(chain[0]):
        del chain[0]
    return tuple(chain)


def _residual_key(mixer: nn.Module, call: ModuleIO) -> int | str | None:
    """Return the key of the argument that a module adds unchanged to its output, as in BLOOM; None if there is none."""
    args, kwargs = call.arguments
    candidates: list[tuple[int | str, object]] = [*enumerate(args), *kwargs.items()]
    for key, value in candidates:
        if not isinstance(value, Tensor) or value is call.input or value.shape != call.result.shape:
            continue
        (own_args, own_kwargs), residual = without_residual(call.arguments, key)
        if is_sum(call.result, [first_tensor(mixer(*own_args, **own_kwargs)), residual]):
            return key
    return None


def _prove_sum(layer: nn.Module, mixers: list[nn.Module], run: ForwardRecorder) -> list[Branch]:
    """Return the branches whose contributions and the stream sum to the layer's output."""
    stream, total = run.call_of(layer).input_copy, run.call_of(layer).result
    known = run.numbers | numbers_of(vars(layer))
    choices = list(product(*([*_sources(mixer, layer, run), None] for mixer in mixers)))
    # First try that all mixers add. Fewer add only if one mixer feeds another.
    choices.sort(key=lambda choice: sum(source is None for source in choice))
    for with_multipliers in (False, True):
        for choice in choices:
            used = [source for source in choice if source is not None]
            feeding = {module for branch, _ in used for module in branch.chain[:-1]}
            unused = {mixer for mixer, source in zip(mixers, choice, strict=True) if source is None}
            if not used or not unused <= feeding or feeding & {branch.chain[-1] for branch, _ in used}:
                continue
            added = [value for _, value in used]
            estimates = (multipliers(total, stream, added, numbers) for numbers in (known, set[float]()))
            for factors in filter(None, estimates) if with_multipliers else [[1.0] * len(used)]:
                scaled = [value * factor for value, factor in zip(added, factors, strict=True)]
                if is_sum(total, [stream, *scaled]):
                    return [
                        replace(branch, multiplier=factor) for (branch, _), factor in zip(used, factors, strict=True)
                    ]
    for child in _children(layer, run):
        if not has_matrix(child) and is_same(run.call_of(child).result, total, run.rounding.get(child, 0.0)):
            raise InputError(
                f"{run.names[layer]}: {run.names[child]} norms the stream itself (post-norm), "
                "so there is no stream in which contributions add up; refused"
            )
    returned = ", ".join(run.names[mixer] for mixer in mixers)
    raise InputError(
        f"{run.names[layer]}: the stream plus constant multiples of what {returned} return does not rebuild its "
        "output; refused"
    )


def _post_norm_branches(layer: nn.Module, run: ForwardRecorder) -> list[Branch] | None:
    """Return the branches of a post-norm layer, whose norms each read the stream plus a contribution, or None.

    Norms and contributions may be at any depth: in BERT the norms are inside the modules that hold the matrices.
    """
    inner = [module for module in layer.modules() if module is not layer and run.once(module) is not None]
    inner.sort(key=lambda module: run.call_of(module).order)
    norms = [module for module in inner if not has_matrix(module) and any(True for _ in module.parameters())]
    branches, stream, state = list[Branch](), run.call_of(layer).input, run.call_of(layer).input_copy
    for norm in norms:
        call = run.call_of(norm)
        added = (module for module in inner if is_sum(call.input_copy, [state, run.call_of(module).result]))
        chain = _chain_from(stream, next(added, None), inner, run)
        if chain is None or call.output_tensor is None:
            continue
        branches.append(Branch((*chain, norm), is_post_norm=True))
        stream, state = call.output_tensor, call.result
    return branches if branches and torch.equal(state, run.call_of(layer).result) else None


def _chain_from(
    stream: Tensor, last: nn.Module | None, inner: list[nn.Module], run: ForwardRecorder
) -> list[nn.Module] | None:
    """Return the modules from the stream up to `last`, each called on the output of the one before, or None."""
    chain = [] if last is None else [last]
    while chain and not same_memory(run.call_of(chain[0]).input, stream):
        first = run.call_of(chain[0])
        # `inner` is in the order of calls, so the outermost of nested modules comes first.
        feeding = (module for module in inner if same_memory(run.call_of(module).output_tensor, first.input))
        chain = [before, *chain] if (before := next(feeding, None)) is not None and before not in chain else []
    return chain or None


def _mixes_positions(branch: Branch, run: ForwardRecorder) -> bool:
    """Return whether the output at the last position depends on other tokens, as in attention but not in an MLP."""
    call = run.call_of(branch.chain[0])
    changed = call.input_copy.clone()
    rows = changed.view(-1, changed.shape[-1])
    rows[:-1] = rows[:-1].flip(-1) * 2 + 1
    outputs = []
    for state in (call.input_copy, changed):
        value = call_with_state(branch.chain[0], *call.arguments, state)
        for module in branch.chain[1:]:
            is_norm_of_stream = branch.is_post_norm and module is branch.chain[-1]
            value = first_tensor(module(value + state if is_norm_of_stream else value))
        outputs.append(value.reshape(-1, value.shape[-1]))
    same, other = outputs
    rounding = _rounding([branch], run)
    _require_same(same, run.call_of(branch.chain[-1]).result, run.names[branch.chain[0]], rounding)
    return not is_same(other[-1], same[-1], rounding)


def _rounding(branches: Iterable[Branch], run: ForwardRecorder) -> float:
    """Return how far rounding moves the branches' contributions: the largest distance of any module in them."""
    return max(run.rounding.get(module, 0.0) for branch in branches for module in branch.chain)


def _require_same(again: Tensor, truth: Tensor, name: str, rounding: float) -> None:
    if not is_same(again, truth, rounding):
        raise InputError(
            f"{name}: called again on the same stream, it adds something else "
            f"({distance(again, truth):.1e} of its length); refused"
        )


class _Run(NamedTuple):
    """A repeated run of a layer: its output, and its sublayers' contributions and calls."""

    output: Tensor
    added: dict[str, Tensor]
    calls: dict[str, SublayerCall]


def _prove_runs(module: nn.Module, attn: Sublayer, mlp: Sublayer, probe: ForwardRecorder) -> bool:
    """Run the layer again, whole and without sublayers, and return whether it is parallel.

    In a parallel layer the MLP reads the stream without attention's contribution.

    Raises:
        InputError: a sublayer adds something else when called again, attention depends on the MLP, or the layer adds
            something with both sublayers dropped.
    """
    call, name = probe.call_of(module), probe.names[module]

    def run(*dropped: Sublayer, shift: Tensor | None = None) -> _Run:
        added, calls = dict[str, Tensor](), {each.label: list[SublayerCall]() for each in (attn, mlp)}

        def observe(label: str, value: Tensor) -> Tensor | None:
            added[label] = value
            return None if shift is None or label == mlp.label else value + shift

        handles = watch_all((attn, mlp), observe)
        handles += [handle for each in (attn, mlp) for handle in each.record_calls(calls[each.label])]
        with entered(sublayer.dropped() for sublayer in dropped), hooks(*handles):
            args, kwargs = call.arguments
            output = first_tensor(module(*args, **kwargs))
        return _Run(output, added, {label: recorded[0] for label, recorded in calls.items()})

    whole = run()
    for sublayer in (attn, mlp):
        again, added = sublayer.recompute(whole.calls[sublayer.label]), whole.added[sublayer.label]
        _require_same(again, added, sublayer.name, _rounding(sublayer.parts, probe))
    if not is_sum(call.result, [call.input_copy, *whole.added.values()]):
        raise InputError(f"{name}: called again on the same stream, it returns something else; refused")
    if not is_same(run(mlp).added[attn.label], whole.added[attn.label], _rounding(attn.parts, probe)):
        raise InputError(
            f"{attn.name}: reads what {mlp.name} adds; only attention before the MLP is supported; refused"
        )
    if not torch.equal(run(attn, mlp).output, call.input_copy):
        raise InputError(f"{name}: without its sublayers it still changes the stream; refused")
    # A shift as large as the stream changes the input of every module that reads attention's contribution.
    inputs = (each.calls[mlp.label].parts[0] for each in (run(shift=call.input_copy), whole))
    return torch.equal(*(stream_of(*arguments) for arguments in inputs))
