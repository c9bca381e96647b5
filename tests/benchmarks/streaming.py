"""Cost of layers that are read from disk as they run: ratios to the same model on its device.

Run by `python -m tests.benchmarks.streaming [MODEL [DEVICE=SIZE ...]]`; prints JSON. SmolLM2-135M with no layer that
stays, unless a folder and limits are given. With limits such as `cuda:0=8GiB cuda:1=8GiB` it is the check of a machine
with several GPUs: `states_apart` must be 0 where they are alike.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import platformdirs
import torch
from torch import Tensor

from prunescope.pipelines.core.peak_memory import growth_bytes
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.forward_probe import distance
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.sources import locate
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.statistics import calibration_tokens
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from prunescope.pipelines.studies.memory_limits import parse_limits
from tests.greedy_decoding import decode_greedily

SPEC = CalibrationSpec(source="c4", sequences=8, length=512, documents="joined")
NEW_TOKENS = 8


def works(decoder: Decoder) -> dict[str, Callable[[], object]]:
    """Return passes over many tokens, where products outweigh reading, and tokens one by one, where they do not."""
    tokens = calibration_tokens(decoder.tokenizer, SPEC)
    prompt = tuple(probe_tokens(decoder, 64)[0].tolist())
    return {
        "4096_tokens": lambda: [decoder.hidden(batch.to(decoder.device)) for batch in tokens.split(4)],
        "wanda-50": lambda: prune(decoder, parse_recipe("wanda-50"), tokens=tokens),
        "tokens_written": lambda: decode_greedily(decoder, [prompt], NEW_TOKENS),
    }


def measured(folder: Path, memory: Mapping[str, int] | None) -> tuple[dict[str, float], int | None, Tensor]:
    """Return seconds of each task, bytes of loading, and the last states of a few tokens."""
    loaded: list[Decoder] = []
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    growth = growth_bytes(lambda: loaded.append(load_decoder(folder, memory=memory)), device)
    decoder, seconds = loaded[0], {}
    for name, work in works(decoder).items():
        work()
        start = time.perf_counter()
        work()
        seconds[name] = time.perf_counter() - start
    return seconds, growth, decoder.hidden(probe_tokens(decoder, 64)).cpu()


def main() -> None:
    """Measure both, one after the other in this process."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else locate("embedded", platformdirs.user_cache_path("prunescope"))
    limits = parse_limits(sys.argv[2:]) or {}
    (whole, whole_bytes, truth), (parted, parted_bytes, states) = (measured(folder, each) for each in (None, limits))
    told = {
        "limits": limits,
        "times_as_long": {name: parted[name] / seconds for name, seconds in whole.items()},
        "bytes_to_load": {"whole": whole_bytes, "streamed": parted_bytes},
        "states_apart": distance(states, truth),
    }
    sys.stdout.write(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
