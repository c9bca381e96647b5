"""Ratios of the measure's speed, all in one run: against torch's own functions, and against the matrix product alone.

Run by `make bench`; prints JSON. Sizes are SmolLM2-135M's head, states are random; no test asserts a time.
"""

import json
import platform
import sys
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from pipelines.metrics.divergence import divergence
from pipelines.metrics.heads import Head
from pipelines.metrics.rows import Workspace

ROWS, WIDTH, VOCABULARY, REPEATS = 150, 576, 49152, 5


def naive(h: torch.Tensor, moved: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    """The same measures one by one, from whole logits of both sides, as a script would."""
    z, z2 = h @ weight.T, moved @ weight.T
    log_p, log_q = functional.log_softmax(z, -1), functional.log_softmax(z2, -1)
    p, q = log_p.exp(), log_q.exp()
    log_m = ((p + q) / 2).log()
    weighted = [p, p * p / (p * p).sum(-1, keepdim=True), torch.full_like(p, 1 / p.shape[-1])]
    dz = z2 - z
    results = [functional.cosine_similarity(a, b, dim=-1) for a, b in ((h, moved), (z, z2), (p, q))]
    results += [a.norm(dim=-1) for a in (h, moved - h, z, dz, p, q - p)]
    results += [(w * dz * dz).sum(-1) - (w * dz).sum(-1) ** 2 for w in weighted]
    results += [
        functional.kl_div(b, a, log_target=True, reduction="none").sum(-1) for a, b in ((log_p, log_q), (log_q, log_p))
    ]
    results += [functional.kl_div(log_m, a, log_target=True, reduction="none").sum(-1) for a in (log_p, log_q)]
    results += [(p - q).abs().sum(-1), -(p * log_p).sum(-1), -(q * log_q).sum(-1)]
    top, top2 = z.topk(5), z2.topk(5)
    results += [(z2 > z2.gather(1, top.indices[:, :1])).sum(-1), (z > z.gather(1, top2.indices[:, :1])).sum(-1)]
    return results


def best(work: Callable[[], object]) -> float:
    """Shortest of several runs, in seconds, after one that does not count."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    """Measures and prints."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator) * 0.05
    h = torch.randn(ROWS, WIDTH, generator=generator)
    shift = torch.randn(ROWS, WIDTH, generator=generator) * 0.1
    head, workspace = Head(weight), Workspace.of(weight, 1)
    with torch.inference_mode():
        engine = best(lambda: divergence(h, shift, head, [1.0], workspace=workspace))
        by_hand = best(lambda: naive(h, h + shift, weight))
        product = best(lambda: torch.cat([h, shift]) @ weight.T)
    result = {
        "records": ROWS,
        "records_per_second": round(ROWS / engine, 1),
        "times_naive_torch": round(by_hand / engine, 2),
        "times_matrix_product": round(engine / product, 2),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
