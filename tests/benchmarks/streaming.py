"""Cost of layers that are read from disk as they run: ratios to the same model on its device.

Run by `python -m tests.benchmarks.streaming [MODEL [DEVICE=SIZE ...]]`. SmolLM2-135M with no layer that stays, unless
a folder and limits are given. With limits such as `cuda:0=8GiB cuda:1=8GiB` it is the check of a machine with several
GPUs: the states must be 0 apart if these are alike.
"""

import sys
from collections.abc import Mapping

import torch
from torch import Tensor

from prunescope.pipelines.evaluation.speed import growth_bytes
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.forward_probe import distance
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.statistics import calibration_tokens
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from prunescope.pipelines.studies.memory_limits import parse_limits
from tests.benchmarks.measuring import Table, Work, decoder_of, seconds
from tests.greedy_decoding import decode_greedily

SPEC = CalibrationSpec(source="c4", sequences=8, length=512, documents="joined")
NEW_TOKENS = 8


def works(decoder: Decoder) -> dict[str, Work]:
    """Return passes over many tokens, where products outweigh reading, and tokens one by one, where they do not."""
    tokens = calibration_tokens(decoder.tokenizer, SPEC)
    prompt = tuple(probe_tokens(decoder, 64)[0].tolist())
    return {
        "a pass over 4,096 tokens": lambda: [decoder.hidden(batch.to(decoder.device)) for batch in tokens.split(4)],
        "wanda-50": lambda: prune(decoder, parse_recipe("wanda-50"), tokens=tokens),
        "writing token by token": lambda: decode_greedily(decoder, [prompt], NEW_TOKENS),
    }


def measured(source: str, memory: Mapping[str, int] | None) -> tuple[dict[str, float], int | None, Tensor]:
    """Return seconds of each work in its second run, bytes of loading, and the last states of a few tokens."""
    loaded = list[Decoder]()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    growth = growth_bytes(lambda: loaded.append(decoder_of(source, torch.get_num_threads(), memory=memory)), device)
    spent = {name: [seconds(work) for _ in range(2)][1] for name, work in works(loaded[0]).items()}
    return spent, growth, loaded[0].hidden(probe_tokens(loaded[0], 64)).cpu()


def main() -> None:
    """Measure both, one after the other in this process."""
    source, limits = sys.argv[1] if len(sys.argv) > 1 else "embedded", parse_limits(sys.argv[2:]) or {}
    (whole, whole_bytes, truth), (parted, parted_bytes, states) = (measured(source, each) for each in (None, limits))
    table = Table()
    for name, spent in whole.items():
        table.add(f"{name}: times as long as on the device", parted[name] / spent)
    table.add("bytes to load the whole", str(whole_bytes))
    table.add("bytes to load what stays", str(parted_bytes))
    table.add("states apart", distance(states, truth), most=0)
    table.print()


if __name__ == "__main__":
    main()
