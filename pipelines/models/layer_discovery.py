"""Finds attention and MLP of one layer, in what form each adds to the stream, and proves it by running them again.

The layer's place in the model is `structure.py`'s; the forms that are known are `sublayer.Part`'s.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.decoder import Layer
from prunescope.pipelines.models.forward_probe import (
    ForwardRecorder,
    ModuleIO,
    distance,
    is_close,
    is_sum,
    multipliers,
    numbers_of,
    same_memory,
)
from prunescope.pipelines.models.module_calls import call_with_state, first_tensor, hooks, stream_of
from prunescope.pipelines.models.sublayer import Branch, Kind, See, Sublayer, SublayerCall, has_matrix, without_residual
from prunescope.pipelines.models.weight_matrices import Products, matrices_of
from prunescope.pipelines.models.weight_offload import on_device

Names = dict[nn.Module, str]


@dataclass(frozen=True)
class _Source:
    """A module whose output may be added to the stream: one with matrices, or what only passes its output on.

    Attributes:
        chain: the modules up to and with it, as in `Branch`.
        added: what it would add with multiplier 1, over the probe.
        residual: as in `Branch`.
    """

    chain: tuple[nn.Module, ...]
    added: Tensor
    residual: int | str | None = None


def find_layer(
    index: int,
    module: nn.Module,
    run: ForwardRecorder,
    names: Names,
    known: set[float],
    *,
    may_norm_stream: bool = False,
) -> Layer:
    """Finds and proves one layer, whose weights are present meanwhile.

    Args:
        index: its number.
        module: the layer.
        run: what its modules read and returned in the probe.
        names: of all modules.
        known: numbers of the model's config, among which a multiplier may be.
        may_norm_stream: whether a layer whose norms make the next stream (post-norm) is taken. What it adds is then
            known to the rounding of a stream only, too coarse for traces.

    Raises:
        InputError: names the layer, or the module in it, and what could not be proved.
    """
    with on_device(module):
        return _find_layer(index, module, run, names, known, may_norm_stream=may_norm_stream)


def _find_layer(
    index: int, module: nn.Module, run: ForwardRecorder, names: Names, known: set[float], *, may_norm_stream: bool
) -> Layer:
    seen = cast(ModuleIO, run.once(module))
    if not torch.equal(seen.given, seen.state):
        raise InputError(f"{names[module]}: overwrites the stream that it is given; refused")
    mixers = _mixers(module, run)
    if not mixers:
        raise InputError(f"{names[module]}: has no module with weights that is called once a pass; refused")
    parts = _post_norm_parts(module, seen, run) if may_norm_stream else None
    if parts is None:
        sources = [list(_sources(mixer, module, run)) for mixer in mixers]
        parts = _prove_sum(module, seen, mixers, sources, run, names, known)
    products = _products(module, seen)
    mixing = {part: _mixes_positions(part, run, names) for part in parts}
    if len(set(mixing.values())) < 2:
        found = ", ".join(names[mixer] for part in parts for mixer in part.mixers)
        lacking = "MLP beside" if any(mixing.values()) else "attention or recurrence beside"
        raise InputError(f"{names[module]}: has no {lacking} {found}; layers of one sublayer are refused")

    def sublayer(kind: Kind) -> Sublayer:
        own = tuple(part for part in parts if mixing[part] == (kind == "attn"))
        inside = [mixer for part in own for mixer in part.mixers]
        matrices, unread = matrices_of(inside, names, products)
        name = " + ".join(names[mixer] for mixer in inside)
        modules = {names[each]: each for mixer in inside for each in mixer.modules()}
        return Sublayer(index, kind, name, module, own, matrices, unread, modules)

    attn, mlp = sublayer("attn"), sublayer("mlp")
    return Layer(module, attn, mlp, is_parallel=_prove_runs(module, seen, attn, mlp, names))


def _products(layer: nn.Module, seen: ModuleIO) -> dict[int, Tensor]:
    """Operands of the layer's matrix products, by address; of a batch of matrices, each."""
    found: dict[int, Tensor] = {}

    def note(_: Tensor, operand: Tensor) -> None:
        for matrix in operand if operand.dim() == 3 else [operand]:
            found.setdefault(matrix.data_ptr(), matrix)

    args, kwargs = seen.call
    with Products(note):
        layer(*args, **kwargs)
    return found


def _children(layer: nn.Module, run: ForwardRecorder) -> list[nn.Module]:
    """The layer's modules that were called once, in the order of their calls."""
    called = [child for child in layer.children() if run.once(child) is not None]
    return sorted(called, key=lambda child: cast(ModuleIO, run.once(child)).order)


def _mixers(layer: nn.Module, run: ForwardRecorder) -> list[nn.Module]:
    return [child for child in _children(layer, run) if has_matrix(child)]


def _sources(mixer: nn.Module, layer: nn.Module, run: ForwardRecorder) -> Iterator[_Source]:
    """What may be added on a mixer's account: its own output, then that of modules right behind it."""
    seen = cast(ModuleIO, run.once(mixer))
    key = _residual_key(mixer, seen)
    if key is not None:
        args, kwargs = without_residual(seen.call, key)[0]
        yield _Source((mixer,), first_tensor(mixer(*args, **kwargs)), key)
        return
    chain: tuple[nn.Module, ...] = (*_before(mixer, layer, run), mixer)
    yield _Source(chain, cast(Tensor, seen.result))
    while True:
        last = cast(ModuleIO, run.once(chain[-1]))
        behind = [
            child
            for child in _children(layer, run)
            if not has_matrix(child) and same_memory(cast(ModuleIO, run.once(child)).given, last.returned)
        ]
        behind = [child for child in behind if child not in chain]
        if not behind:
            return
        chain = (*chain, behind[0])
        yield _Source(chain, cast(Tensor, cast(ModuleIO, run.once(behind[0])).result))


def _before(mixer: nn.Module, layer: nn.Module, run: ForwardRecorder) -> tuple[nn.Module, ...]:
    """Modules of the layer that only feed a mixer, another mixer first: OPT's MLP lies flat in its layer."""
    chain: list[nn.Module] = []
    given = cast(ModuleIO, run.once(mixer)).given
    for child in reversed(_children(layer, run)):
        seen = cast(ModuleIO, run.once(child))
        if child is not mixer and same_memory(seen.returned, given):
            chain.insert(0, child)
            given = seen.given
    # What stands before the first mixer is the norm that reads the stream.
    while chain and not has_matrix(chain[0]):
        del chain[0]
    return tuple(chain)


def _residual_key(mixer: nn.Module, seen: ModuleIO) -> int | str | None:
    """The argument that a module adds to its output as it is: a stream passed along (BLOOM)."""
    args, kwargs = seen.call
    output = cast(Tensor, seen.result)
    candidates: list[tuple[int | str, object]] = [*enumerate(args), *kwargs.items()]
    for key, value in candidates:
        if not isinstance(value, Tensor) or value is seen.given or value.shape != output.shape:
            continue
        (own_args, own_kwargs), residual = without_residual(seen.call, key)
        if is_sum(output, [first_tensor(mixer(*own_args, **own_kwargs)), residual]):
            return key
    return None


def _prove_sum(
    layer: nn.Module,
    seen: ModuleIO,
    mixers: list[nn.Module],
    sources: list[list[_Source]],
    run: ForwardRecorder,
    names: Names,
    known: set[float],
) -> list[Branch]:
    """The parts whose contributions, with the stream, make up the layer's output."""
    stream, total = seen.state, cast(Tensor, seen.result)
    known = known | numbers_of(vars(layer))
    choices = list(product(*([*each, None] for each in sources)))
    # All mixers adding first: fewer only where one feeds another.
    choices.sort(key=lambda choice: sum(source is None for source in choice))
    for numbers in (False, True):
        for choice in choices:
            used = [source for source in choice if source is not None]
            feeding = {module for source in used for module in source.chain[:-1]}
            unused = {mixer for mixer, source in zip(mixers, choice, strict=True) if source is None}
            if not used or not unused <= feeding or feeding & {source.chain[-1] for source in used}:
                continue
            for factors in _factors(total, stream, used, known) if numbers else [[1.0] * len(used)]:
                scaled = [source.added * factor for source, factor in zip(used, factors, strict=True)]
                if is_sum(total, [stream, *scaled]):
                    return [
                        Branch(source.chain, factor, source.residual)
                        for source, factor in zip(used, factors, strict=True)
                    ]
    raise InputError(_why_no_sum(layer, total, mixers, run, names))


def _post_norm_parts(layer: nn.Module, seen: ModuleIO, run: ForwardRecorder) -> list[Branch] | None:
    """The parts of a layer that is a row of norms, each of the stream plus what modules made of it; None for others.

    Norms and what they add may lie at any depth: BERT's stand inside the modules that hold the matrices.
    """
    inside = [module for module in layer.modules() if module is not layer and run.once(module) is not None]
    inside.sort(key=lambda module: cast(ModuleIO, run.once(module)).order)
    norms = [module for module in inside if not has_matrix(module) and any(True for _ in module.parameters())]
    parts, given, state = list[Branch](), seen.given, seen.state
    for norm in norms:
        own = cast(ModuleIO, run.once(norm))
        added = (
            each for each in inside if is_sum(own.state, [state, cast(Tensor, cast(ModuleIO, run.once(each)).result)])
        )
        chain = _chain_from(given, next(added, None), inside, run)
        if chain is None:
            continue
        parts.append(Branch((*chain, norm), is_post_norm=True))
        given, state = cast(Tensor, own.returned), cast(Tensor, own.result)
    return parts if parts and torch.equal(state, cast(Tensor, seen.result)) else None


def _chain_from(
    stream: Tensor, last: nn.Module | None, inside: list[nn.Module], run: ForwardRecorder
) -> list[nn.Module] | None:
    """The modules between a stream and what is added to it, each called on what the one before returned."""
    chain = [] if last is None else [last]
    while chain and not same_memory(cast(ModuleIO, run.once(chain[0])).given, stream):
        first = cast(ModuleIO, run.once(chain[0]))
        # The outermost comes first: it was called before those in it.
        feeding = (each for each in inside if same_memory(cast(ModuleIO, run.once(each)).returned, first.given))
        chain = [before, *chain] if (before := next(feeding, None)) is not None and before not in chain else []
    return chain or None


def _factors(total: Tensor, stream: Tensor, used: list[_Source], known: set[float]) -> list[list[float]]:
    added = [source.added for source in used]
    estimates = [multipliers(total, stream, added, known), multipliers(total, stream, added, set())]
    return [estimate for estimate in estimates if estimate is not None]


def _why_no_sum(layer: nn.Module, total: Tensor, mixers: list[nn.Module], run: ForwardRecorder, names: Names) -> str:
    here, found = names[layer], ", ".join(names[mixer] for mixer in mixers)
    for child in _children(layer, run):
        seen = cast(ModuleIO, run.once(child))
        if not has_matrix(child) and is_close(cast(Tensor, seen.result), total):
            return (
                f"{here}: {names[child]} norms the stream itself (post-norm), "
                "so there is no stream in which contributions add up; refused"
            )
    return f"{here}: the stream plus constant multiples of what {found} return does not rebuild its output; refused"


def _mixes_positions(part: Branch, run: ForwardRecorder, names: Names) -> bool:
    """Whether the output at the last position depends on other tokens: attention's does, an MLP's does not."""
    seen = cast(ModuleIO, run.once(part.chain[0]))
    args, kwargs = seen.call
    changed = seen.state.clone()
    rows = changed.view(-1, changed.shape[-1])
    rows[:-1] = rows[:-1].flip(-1) * 2 + 1
    outputs = []
    for state in (seen.state, changed):
        value = call_with_state(part.chain[0], args, kwargs, state)
        for module in part.chain[1:]:
            value = first_tensor(module(value + state if part.is_post_norm and module is part.chain[-1] else value))
        outputs.append(value.reshape(-1, value.shape[-1]))
    same, other = outputs
    _require_again(same, cast(Tensor, cast(ModuleIO, run.once(part.chain[-1])).result), names[part.chain[0]])
    return not is_close(other[-1], same[-1])


def _require_again(again: Tensor, truth: Tensor, name: str) -> None:
    if not is_close(again, truth):
        raise InputError(
            f"{name}: called again on the same stream it adds something else "
            f"({distance(again, truth):.1e} of its length); refused"
        )


def _prove_runs(module: nn.Module, seen: ModuleIO, attn: Sublayer, mlp: Sublayer, names: Names) -> bool:
    """Runs the layer again, whole and without one sublayer; whether the MLP reads the stream before attention.

    Raises:
        InputError: a sublayer adds something else when called again, attention depends on the MLP, or something is
            added with both sublayers dropped.
    """

    def run(*dropped: Sublayer, moved: Tensor | None = None) -> _Run:
        found = _Run()
        with ExitStack() as stack:
            for each in dropped:
                stack.enter_context(each.dropped())
            for each in (attn, mlp):
                shift = moved if each is attn else None
                stack.enter_context(hooks(*each.watch(found.keep(each, shift))))
                stack.enter_context(hooks(*each.keep_calls(found.calls.setdefault(each.label, []))))
            args, kwargs = seen.call
            found.output = first_tensor(module(*args, **kwargs))
        return found

    whole = run()
    for each in (attn, mlp):
        _require_again(each.replay(whole.calls[each.label][0]), whole.added[each.label], each.name)
    if not is_sum(cast(Tensor, seen.result), [seen.state, *whole.added.values()]):
        raise InputError(f"{names[module]}: called again on the same stream it returns something else; refused")
    if not is_close(run(mlp).added[attn.label], whole.added[attn.label]):
        raise InputError(f"{attn.name}: reads what {mlp.name} adds; only attention before the MLP is known; refused")
    if not torch.equal(run(attn, mlp).output, seen.state):
        raise InputError(f"{names[module]}: without its sublayers it still changes the stream; refused")
    # Moved by as much as the stream is long, what attention adds is seen by whatever reads it.
    moved = run(moved=seen.state)
    return torch.equal(moved.read_by(mlp), whole.read_by(mlp))


class _Run:
    """One more run of a layer: what its sublayers added, how they were called, what came out."""

    def __init__(self) -> None:
        self.added: dict[str, Tensor] = {}
        self.calls: dict[str, list[SublayerCall]] = {}
        self.output = torch.empty(0)

    def keep(self, sublayer: Sublayer, moved: Tensor | None) -> See:
        """A callback for `watch` that moves the contribution if asked to."""

        def see(value: Tensor) -> Tensor | None:
            self.added[sublayer.label] = value
            return None if moved is None else value + moved

        return see

    def read_by(self, sublayer: Sublayer) -> Tensor:
        """The state that its first module was called on."""
        return stream_of(*self.calls[sublayer.label][0].parts[0])
