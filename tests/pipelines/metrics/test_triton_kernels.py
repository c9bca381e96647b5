"""The kernels of GPUs without a GPU: in Triton's interpreter against numba and float64, and compiled for GPUs."""

import atexit
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunescope.pipelines.metrics import logit_blocks
from prunescope.pipelines.metrics.divergence import divergence
from prunescope.pipelines.metrics.output_head import OutputHead
from tests.examples import examples
from tests.pipelines.metrics.logit_samples import (
    ORDER,
    RANKING,
    SEEDS,
    SHIFT,
    TEMPERATURES,
    WITHOUT_SHIFT_ZERO,
    assert_matches,
    assert_same_columns,
    identity_head,
    logits_and_shift,
    on_grid,
    sum_columns,
)
from tests.pipelines.metrics.reference import divergence_reference

ROOT = Path(__file__).parents[3]
# Where the Makefile installs it; with a CUDA build of torch it is in the environment itself.
TRITON = ROOT / ".venv" / "triton"
pytestmark = pytest.mark.skipif(
    find_spec("triton") is None and not (TRITON / "triton").exists(),
    reason="Triton is not installed: `make test` installs it on Linux, for x86-64 and aarch64",
)

DENSE = st.sampled_from(["normal", "ties", "one_hot", "uniform", "huge", "zeros", "enormous"])
# One step of the kernels' loops is at most 1,024 tokens.
SIZES = st.sampled_from([2, 3, 129, 1100, 2063])
Arrays = dict[str, np.ndarray]


# In a process of its own, whose compiler tells at its end of objects that it has not freed.
COMPILE = """
import sys, triton
from triton.backends.compiler import GPUTarget
from prunescope.pipelines.metrics import triton_kernels
backend, architecture, threads = sys.argv[1:]
target = GPUTarget(backend, int(architecture) if backend == "cuda" else architecture, int(threads))
for kernel in (triton_kernels._dense, triton_kernels._shift):
    types = dict.fromkeys(kernel.arg_names, "*fp32") | {"size": "i32", "temperatures": "i32", "STEP": "constexpr"}
    types |= {"tops_at": "*i64", "dense_at": "*fp64", "scalars_at": "*fp64"}
    signature = {name: types[name] for name in kernel.arg_names}
    source = triton.compiler.ASTSource(kernel, signature, {"STEP": 1024})
    binaries = triton.compile(source, target=target, options=triton_kernels.OPTIONS).asm
    print(kernel.__name__, *({"cubin", "hsaco"} & binaries.keys()))
"""


def start_interpreter() -> None:
    """Prepare the process in which Triton was imported with TRITON_INTERPRET=1, for tensors of the CPU."""
    np.seterr(all="ignore")  # a GPU warns neither of a number beyond float32 that is not selected
    torch.set_num_threads(1)
    atexit.register(os._exit, 0)  # else it would list objects that Triton does not free
    logit_blocks.kernels_for = lambda _: "triton"


def interpreted_sums(z: np.ndarray, dz: np.ndarray, temperatures: list[float]) -> Arrays:
    from prunescope.pipelines.metrics.triton_kernels import dense_sums

    dense, shift_sums = dense_sums(torch.from_numpy(z), temperatures)
    return sum_columns(dense, shift_sums(torch.from_numpy(dz)))


def interpreted_divergence(x: np.ndarray, dx: np.ndarray, head: np.ndarray, temperatures: list[float]) -> Arrays:
    return divergence(torch.from_numpy(x), torch.from_numpy(dx), OutputHead(torch.from_numpy(head)), temperatures)


@pytest.fixture(scope="module")
def interpret() -> Iterator[Callable[..., Arrays]]:
    """Call a function of this module in a process of its own: Triton reads the variable when it is imported."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), start_interpreter) as process:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            patch.syspath_prepend(TRITON)
            process.submit(start_interpreter).result()  # this starts the process
        yield lambda function, *arguments: process.submit(function, *arguments).result()
    identity_head.cache_clear()


@settings(max_examples=examples(30))
@given(DENSE, SHIFT, SIZES, SEEDS, TEMPERATURES)
def test_interpreted_kernels_give_the_columns_of_the_compiled_ones(interpret, dense, shift, size, seed, temperature):
    z, dz = logits_and_shift(dense, shift, 2, size, seed)
    columns = interpret(interpreted_sums, z.numpy(), dz.numpy(), [temperature, 1.0])
    if dense == "enormous":  # a rounding error of the logits; the reference below has its bound
        del columns["identity_residual_nats"]
    assert_same_columns(columns, divergence(z, dz, identity_head(size), [temperature, 1.0]))
    for name, values in columns.items():
        assert (values >= 0).all() or name.startswith(("par_", "kappa", "identity")), name
        assert shift != "zero" or name not in WITHOUT_SHIFT_ZERO or not values.any(), name


@settings(max_examples=examples(24))
@given(DENSE, SHIFT, SIZES, SEEDS, TEMPERATURES)
def test_a_measure_by_the_interpreted_kernels_matches_the_float64_reference(
    interpret, dense, shift, size, seed, temperature
):
    z, dz = logits_and_shift(dense, shift, 1, size, seed)
    measured = interpret(interpreted_divergence, z.numpy(), dz.numpy(), np.eye(size, dtype=np.float32), [temperature])
    skip = frozenset(RANKING) if shift in ("tiny", "parallel") else frozenset()
    truth = divergence_reference(z, dz, identity_head(size, torch.float64), temperature)
    assert_matches(measured, truth, temperature, skip=skip)


def test_a_measure_of_three_temperatures_by_the_interpreted_kernels_matches_the_compiled_ones(interpret) -> None:
    draw = torch.Generator().manual_seed(3)
    weight, x, dx = (torch.randn(n, 24, generator=draw) for n in (1300, 2, 2))
    # The float32 product of so small a shift is not exact enough: its rows are computed again in float64.
    shift, temperatures = torch.stack([dx[0], 1e-7 * dx[1]]), [0.3, 0.7, 1.0]
    measured = interpret(interpreted_divergence, x.numpy(), shift.numpy(), weight.numpy(), temperatures)
    for name, values in divergence(x, shift, OutputHead(weight), temperatures).items():
        atol = 1e-5 if name.startswith(("entropy", "margin", "identity", "kappa")) else 1e-8
        np.testing.assert_allclose(measured[name], values, rtol=1e-3, atol=atol, err_msg=name)


def test_a_pruned_z_far_shorter_than_the_dense_one_keeps_its_direction(interpret) -> None:
    z, rest = torch.randn(2, 2, 1100, generator=torch.Generator().manual_seed(0))
    dz = 2.0**-16 * on_grid(rest) - z
    columns = interpret(interpreted_sums, z.numpy(), dz.numpy(), [1.0])
    after = z.double() + dz.double()
    cosine = torch.cosine_similarity(z.double(), after)
    np.testing.assert_allclose(1 - columns["one_minus_cos_z"][0], cosine, rtol=1e-3)


def test_equal_tokens_a_whole_step_apart_go_by_their_ids(interpret) -> None:
    z, dz = torch.zeros(1, 2100), torch.zeros(1, 2100)
    z[0, [3, 3 + 1024]], dz[0, [5, 5 + 1024]] = 2.0, 3.0
    columns = interpret(interpreted_sums, z.numpy(), dz.numpy(), [1.0])
    compiled = divergence(z, dz, identity_head(2100), [1.0])
    for name in ORDER:
        np.testing.assert_allclose(columns[name], compiled[name], rtol=1e-6, err_msg=name)
    assert (columns["rank_of_dense_top1"], columns["rank_of_pruned_top1"]) == (3, 7)


@pytest.mark.parametrize("shift", [0.01, 0.13, 2.0])
def test_the_angle_of_two_tokens_follows_its_closed_form(interpret, shift: float) -> None:
    columns = interpret(interpreted_sums, np.ones((1, 2), np.float32), np.float32([[shift, -shift]]), [1.0])
    # p = (½, ½) and q − p = ±½ tanh(shift), across p.
    assert columns["one_minus_cos_p"] == pytest.approx(1 - 1 / np.sqrt(1 + np.tanh(shift) ** 2), rel=1e-4)


@pytest.mark.parametrize(
    ("backend", "architecture", "threads"),
    [
        pytest.param("cuda", "90", 32, marks=pytest.mark.exhaustive),  # the interpreter runs them above
        pytest.param("cuda", "75", 32, marks=pytest.mark.exhaustive),
        pytest.param("hip", "gfx942", 64, marks=pytest.mark.exhaustive),
    ],
)
def test_both_kernels_compile_for_gpus_that_are_not_here(backend, architecture, threads, tmp_path) -> None:
    environment = os.environ | {
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT / ".src", TRITON))),
    }
    command = [sys.executable, "-c", COMPILE, backend, architecture, str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    binary = {"cuda": "cubin", "hip": "hsaco"}[backend]
    assert re.findall(r"\w+", done.stdout) == ["_dense", binary, "_shift", binary]
