"""Speed of the representation engine against the machine's own floor and the published script, and its memory.

Run by `python -m tests.benchmarks.engine`. The embedded model, 25 prompt tokens and 64 new ones, 60 sublayers, float32.
The floor is two matrix products, and one exp and one multiply-add-sum per side, over as many logits.
"""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from prunescope.pipelines.evaluation.traces.activation_capture import stream_after
from prunescope.pipelines.evaluation.traces.trace_session import TraceSession, _local_shifts
from prunescope.pipelines.metrics.cpu_matmul import product
from prunescope.pipelines.metrics.divergence import divergence
from prunescope.pipelines.metrics.logit_blocks import Workspace
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.pipelines.metrics.thread_map import in_parallel
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import Study, load_study
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.storage.provenance import Provenance
from prunescope.warehouse.tables import TABLES
from tests.benchmarks.measuring import ROOT, Table, Work, decoder_of, in_turns, seconds

STEPS, SUBLAYERS, WIDTH, VOCABULARY = 64, 60, 576, 49152
# The published layer-wise comparison on this model, float32, two cores: 59 to 66 s.
PUBLISHED_SECONDS = 66.0
TEMPERATURES = (0.3, 0.5, 0.7, 1.0, 1.3)
# The whole is that of two quiet cores of an Emerald Rapids; the others are ratios of one run.
MOST_TIMES_FLOOR, MOST_TIMES_ONE_TEMPERATURE, MOST_SECONDS = 1.35, 1.3, 5.0
Pair = tuple[Tensor, Tensor]


def each(work: Callable[[Pair], object], pairs: Iterable[Pair]) -> None:
    """Measure every pair on one core, as the session does."""
    for _ in in_parallel(work, pairs, torch.device("cpu")):
        pass


def floor_pass(buffers: Pair) -> None:
    """Run one exp and one multiply-add-sum over as many numbers as both sides' logits, in cache."""
    values, out = buffers
    for row in range(len(values)):
        torch.exp(values[row], out=out[row])
        torch.dot(values[row], out[row])


def works(pairs: list[Pair], head: OutputHead) -> dict[str, Work]:
    """Return the engine with one temperature and with several, and the parts of the floor."""
    of_thread = threading.local()

    def measure(pair: Pair, temperatures: tuple[float, ...]) -> None:
        if not hasattr(of_thread, "workspace"):
            of_thread.workspace = Workspace()
        divergence(*pair, head, temperatures, workspace=of_thread.workspace)

    def products(rows: int) -> None:
        groups = [pairs[start : start + rows // STEPS] for start in range(0, len(pairs), rows // STEPS)]
        stacked = [tuple(torch.cat(side) for side in zip(*group, strict=True)) for group in groups]
        each(lambda pair: [product(side, head.weight) for side in pair], stacked)  # type: ignore[arg-type]

    with torch.inference_mode(mode=False):
        logits = torch.randn(2 * STEPS, VOCABULARY)
        buffers = [(logits, torch.empty_like(logits))] * SUBLAYERS
    return {
        "engine": lambda: each(lambda pair: measure(pair, (1.0,)), pairs),
        "five temperatures": lambda: each(lambda pair: measure(pair, TEMPERATURES), pairs),
        "products of 64 rows": lambda: products(64),
        "products of 256 rows": lambda: products(256),
        "passes": lambda: each(floor_pass, buffers),
    }


def peak_mib(tokens: int) -> float:
    """Return the peak memory of a process that measures so many rows of one sublayer, less the rows themselves."""
    script = (
        "import resource, torch; from prunescope.pipelines.metrics.divergence import divergence; "
        "from prunescope.pipelines.metrics.output_head import OutputHead; torch.manual_seed(0); "
        "torch.set_num_threads(1); "
        f"head = OutputHead(torch.randn({VOCABULARY}, {WIDTH}) * 0.1); x = torch.randn({tokens}, {WIDTH}); "
        "found = divergence(x, x * 0.1, head, [1.0]); "
        "rows = sum(v.nbytes for v in found.values()) + 2 * x.nbytes; "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - rows / 2**20)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def stored_bytes(rows: pl.DataFrame) -> int:
    """Return the size of the rows as a partition of the warehouse."""
    provenance = Provenance(
        "", "bench", "bench", "magnitude-50", {}, "", {}, 0, "cpu", "float32", 0.0, "2000-01-01T00:00:00"
    )
    with tempfile.TemporaryDirectory() as folder:
        named = rows.with_columns(model=pl.lit("bench"), recipe=pl.lit("magnitude-50"))
        Store(Path(folder)).write(TABLES["layer_transitions"], named, provenance, "bench", "magnitude-50")
        return sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))


def measured_study() -> Study:
    """Return the demo with one prompt and only the measures of the floor."""
    demo = load_study("demo")
    # The last prompt token predicts step 0, so that the first 63 new ones make 64 measured positions.
    generation = demo.generation.model_copy(update={"new_tokens": STEPS - 1})
    only = {"lenses": ("raw",), "scopes": ("local",), "trajectories": ("teacher_forced",)}
    measure = demo.measure.model_copy(update=only)
    return demo.model_copy(update={"prompts": demo.prompts[:1], "generation": generation, "measure": measure})


def main() -> None:
    """Measure and print."""
    decoder, study, table = decoder_of(), measured_study(), Table()
    variant = prune(decoder, parse_recipe("magnitude-50"))
    sessions, frames = list[TraceSession](), list[pl.DataFrame]()

    def whole() -> None:
        sessions.append(TraceSession(decoder, "bench", study))
        frames.append(sessions[-1].trace("magnitude-50", variant)["layer_transitions"])

    whole()  # kernels compile
    table.add("records", len(frames[0]))
    spent = seconds(whole)
    table.add("the measure of a study, with its dense side, s", spent, most=MOST_SECONDS)
    table.add("the published script's seconds over it", PUBLISHED_SECONDS / spent)
    with torch.inference_mode():
        (dense,) = sessions[-1]._prompts
        shifts = [_local_shifts(part, variant, [(dense.capture, dense.first)])[0] for part in decoder.sublayers]
        streams = [stream_after(decoder, dense.capture, part) for part in decoder.sublayers]
        found = in_turns(works(list(zip(streams, shifts, strict=True)), decoder.head))
    floor = found["passes"] + min(found["products of 64 rows"], found["products of 256 rows"])
    table.add("engine, s", found["engine"])
    table.add("engine over the floor", found["engine"] / floor, most=MOST_TIMES_FLOOR)
    table.add(
        "five temperatures over one", found["five temperatures"] / found["engine"], most=MOST_TIMES_ONE_TEMPERATURE
    )
    for tokens in (64, 512, 2048):
        table.add(f"peak memory with {tokens} tokens, MiB", peak_mib(tokens))
    table.add("bytes per record in Parquet", stored_bytes(frames[0]) / len(frames[0]))
    table.print()


if __name__ == "__main__":
    main()
