"""Tests of pruning under a memory limit far below the size of the weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import save_tiny

LIMITED = """
import json, re, resource, sys
from pathlib import Path
import torch
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.layer_checkpoints import discard
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.pruning.pruning_inputs import Unfinished
from prunescope.pipelines.pruning.variant import load_variant

folder, out, headroom = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
decoder = load_decoder(folder)
recipe = parse_recipe("sparsegpt-50")
tokens = torch.arange(2 * 64).reshape(2, 64)


def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def limit(more):
    resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + more, resource.RLIM_INFINITY))


# Load libraries and compile kernels first; their memory does not depend on the model's size.
first = parse_recipe("{name: first, method: sparsegpt, sparsity: 0.5, modules: ['*.0.*.q_proj']}")
prune(decoder, first, tokens=tokens)
# The weights are mapped from their file: the system counts them already and can drop them at any time. From here on
# whatever is made counts: a private copy of the weights would not fit.
private = status("RssAnon")
# A tenth of the limit is too small for one layer, so the limit has an effect.
limit(headroom // 10)
refused = ""
try:
    prune(decoder, recipe, tokens=tokens)
except (MemoryError, RuntimeError) as error:
    refused = str(error)
limit(headroom)
variant = prune(decoder, recipe, tokens=tokens, unfinished=Unfinished(out / "work", "weights"))
written = sum(path.stat().st_size for path in (out / "work").rglob("*.safetensors"))
limit(headroom + written)  # the changes are mapped from their files while the variant's own is written
variant.save(out / "variant.safetensors", recipe, "weights")
discard(out / "work")
limit(headroom + written)  # reading maps the file, which the system counts whole
again = load_variant(out / "variant.safetensors", "weights")
print(json.dumps({
    "refused": refused,
    "changed": len(again.changes),
    "written": written,
    "private": status("RssAnon") - private,
    "weights": (folder / "model.safetensors").stat().st_size,
}))
"""


@pytest.fixture(scope="module")
def many_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model with 136 MB of weights, nearly all of them in 40 layers."""
    return save_tiny(
        tmp_path_factory.mktemp("models") / "many",
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=40,
        num_key_value_heads=4,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.exhaustive  # a real limit of the system, in processes of their own
def test_a_model_is_pruned_within_a_limit_far_below_its_weights(many_layers: Path, tmp_path: Path) -> None:
    headroom = 40 * 2**20
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(many_layers), str(tmp_path), str(headroom)],
        cwd=Path(__file__).parents[3],
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "PATH": ""},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["weights"] > 3 * headroom
    assert found["written"] > headroom, "the changes are more than fits, and still did not pile up"
    assert found["changed"] == 40 * 7
    assert not (tmp_path / "work").exists()
    assert "memory" in found["refused"].lower()
