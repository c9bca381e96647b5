"""The benchmark of GPUs where there is none."""

import pytest
import torch

from tests.benchmarks import gpu


def test_without_a_cuda_device_the_benchmark_says_so_in_a_line_and_exits_with_two(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2
    written = capsys.readouterr()
    assert (written.out, written.err.count("\n")) == ("", 1)
    assert "CUDA" in written.err


@pytest.mark.exhaustive  # only `make bench-gpu` needs it
def test_a_study_is_compared_with_that_of_the_cpu(tiny_folder):
    figures = gpu.study_figures(tiny_folder, torch.device("cpu"))
    assert figures["seconds"] > 0
    assert len(figures["largest_difference_from_the_cpu"]) > 10
    assert {each["relative"] for each in figures["largest_difference_from_the_cpu"].values()} == {0.0}


def test_its_figures_come_from_the_kernels_that_run_on_a_device_beside_numbas(monkeypatch):
    monkeypatch.setattr(gpu, "RUNS", 1)
    figures = gpu.kernel_figures(300, [0.7, 1.0], torch.device("cpu"), rows=3)
    assert set(figures) == {"vocabulary", "temperatures", "rows", "torch"}
    assert figures["torch"]["records_per_second"] > 0
    assert 0 < figures["torch"]["largest_difference_from_numba"]["relative"] < 1e-3
