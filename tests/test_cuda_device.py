"""The test device: what it refuses, counts and limits, as CUDA does."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.cuda_device import CudaTensor, Devices, cuda_devices


@pytest.fixture
def devices() -> Iterator[Devices]:
    with cuda_devices(1 << 20, 1 << 20) as own:
        yield own


HOST = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x: x + HOST,
        lambda x: HOST @ x.T,
        lambda x: torch.cat([x, HOST]),
        lambda x: torch.where(HOST > 1, x, x),
        lambda x: x.to("cuda:1") * x,
        lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.long)),
        lambda x: HOST[torch.tensor([0], device="cuda:0")],
        lambda x: x.index_put_((torch.tensor([0]),), HOST[:1]),
        lambda x: x.masked_fill(HOST > 1, 0),
        lambda x: nn.functional.embedding(torch.tensor([0]), x),
        lambda x: torch.equal(x, HOST),
        lambda x: torch.stack([x.sum(), HOST.sum()]),
        lambda x: HOST.sum().add_(x.sum()),
        lambda x: torch.sum(x, (0, 1), out=torch.zeros(())),
        lambda x: x.index_select(0, torch.tensor(0)),
        lambda x: x.uniform_(generator=torch.Generator()),
        lambda x: torch.multinomial(x + 1, 1, generator=torch.Generator()),
        lambda x: x.numpy(),
        torch.from_numpy,
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_operands_of_two_devices_and_arrays_are_refused(
    devices: Devices, mixed: Callable[[Tensor], object], inference: bool
) -> None:
    refusal = r"same device|device type for generator|numpy\(\) is not supported|expected np.ndarray"
    with torch.inference_mode(inference), pytest.raises((RuntimeError, TypeError), match=refusal):
        mixed(HOST.to("cuda:0"))


def test_numbers_and_indices_of_the_host_are_accepted_as_by_cuda(devices: Devices) -> None:
    x = HOST.to("cuda:0")
    assert (x + torch.tensor(1.0)).tolist() == (HOST + 1).tolist()
    assert x[torch.tensor([1])].tolist() == HOST[1:].tolist()
    assert x[:, [0, 2]].tolist() == HOST[:, [0, 2]].tolist()
    x[x > 3] = 0
    assert x.sum().item() == 6
    assert (x.device, x.dtype, x.T.is_contiguous()) == (torch.device("cuda:0"), torch.float32, False)


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda x: x.cpu(), {"to host": 1}),
        (lambda x: x.tolist(), {"to host": 1}),
        (lambda x: x.to("cuda:1"), {"between devices": 1}),
        (lambda x: torch.tensor([1, 2], device="cuda:0"), {"to device": 1}),
        (lambda x: x.sum().item(), {"wait": 1}),
        (lambda x: bool((x > 0).any()), {"wait": 1}),
        (lambda x: int(x[0, 0]), {"wait": 1}),
        (lambda x: x.nonzero(), {"wait": 1}),
        (lambda x: x.nonzero(as_tuple=True), {"wait": 1}),
        (lambda x: torch.where(x > 0), {"wait": 1}),
        (lambda x: torch.linalg.eigh(x @ x.T), {"wait": 1}),
        (lambda x: x.repeat_interleave(x[0].long(), 1), {"wait": 1}),
        (lambda x: x[x > 0], {"wait": 1}),
        (lambda x: x[torch.tensor([0, 1])], {"to device": 1}),
        (lambda x: torch.cuda.synchronize(), {"wait": 1}),
        (lambda x: x.masked_fill(x > 0, 0), {}),
        (lambda x: x.masked_fill_(x > 0, 0).to(torch.float64), {}),
        (lambda x: x.index_put_((x > 0,), torch.tensor(0.0)), {}),
        (lambda x: torch.zeros(3, device="cuda:0").to(x), {}),
        (lambda x: (x @ x.T).softmax(-1).topk(2).values.cumsum(0), {}),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_copies_and_waits_are_counted_and_nothing_else(
    devices: Devices, work: Callable[[Tensor], object], expected: dict[str, int], inference: bool
) -> None:
    x = HOST.to("cuda:0")
    devices.events.clear()
    with torch.inference_mode(inference):
        work(x)
    assert devices.kinds() == expected


def test_memory_is_counted_by_storage_freed_and_limited(devices: Devices) -> None:
    x = torch.zeros(1000, device="cuda:0")
    view, other = x[10:].view(-1, 10), x.to("cuda:1")
    assert devices.allocated == [4000, 4000]
    del x
    assert devices.allocated == [4000, 4000]
    del view, other
    assert (devices.allocated, devices.peak) == ([0, 0], [4000, 4000])
    assert torch.cuda.mem_get_info("cuda:1") == (1 << 20, 1 << 20)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        torch.zeros(1 << 19, device="cuda:0")
    assert devices.allocated == [0, 0]


def test_modules_move_and_their_weights_can_be_swapped(devices: Devices) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).requires_grad_(False)
    expected = module(HOST)
    parameters = list(module.parameters())
    module.to("cuda:0")
    assert [id(each) for each in module.parameters()] == [id(each) for each in parameters]
    assert all(isinstance(each, CudaTensor) for each in parameters)
    assert torch.equal(module(HOST.to("cuda:0")).cpu(), expected)
    weight = module[0].weight
    before, weight.data = weight.data, torch.zeros(4, 3, device="cuda:0")
    assert not weight.any()
    weight.data = before.cpu()
    assert weight.device.type == "cpu"
    weight.data = before
    assert torch.equal(module(HOST.to("cuda:0")).cpu(), expected)


def test_streams_and_events_exist(devices: Devices) -> None:
    with torch.cuda.stream(torch.cuda.Stream("cuda:1")):
        torch.cuda.Event().record()
    torch.cuda.current_stream().synchronize()


def test_a_copy_of_a_tensor_is_its_own(devices: Devices) -> None:
    x = HOST.to("cuda:0")
    other = copy.deepcopy({"x": x})["x"]
    other.zero_()
    assert (x.sum().item(), other.device) == (15, x.device)
