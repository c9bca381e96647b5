"""Tests of noise variants: they move the dense model's output by rounding and change no state."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.evaluation.traces.activation_capture import run_known
from prunescope.pipelines.evaluation.traces.trace_session import TraceSession
from prunescope.pipelines.models import module_calls
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant, load_variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.pruning.variant_row import variant_row
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import GenerationSpec, ModelSpec, Prompt, Study
from tests.greedy_decoding import decode_greedily
from tests.tiny_models import save_tiny

KINDS = ("bfloat16", "batch")
TIED = ("gemma3_text", "gpt2")
TOKENS = torch.arange(3, 43)[None]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def decoder(request: pytest.FixtureRequest, tiny_decoder: Callable[[str], Decoder]) -> Decoder:
    return tiny_decoder(request.param)


def state_of(decoder: Decoder) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in decoder.model.state_dict().items()}


def unchanged(decoder: Decoder, before: dict[str, torch.Tensor]) -> bool:
    after = decoder.model.state_dict()
    return all(after[name].dtype == value.dtype and torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_dense_model_is_restored_bit_for_bit_even_after_an_error(decoder: Decoder, kind: str) -> None:
    before, head = state_of(decoder), decoder.head.weight.clone()
    dense = decoder.hidden(TOKENS)
    with apply_variant(decoder, Variant(noise=kind)):
        decoder.hidden(TOKENS)
        assert torch.equal(decoder.head.weight, head), "the head stays in float32"
    assert unchanged(decoder, before)
    with pytest.raises(InputError), apply_variant(decoder, Variant(noise=kind)):
        decoder.hidden(TOKENS + 1000)  # beyond the vocabulary
    assert unchanged(decoder, before)
    assert not decoder.is_rounded
    assert all("forward" not in vars(module) for module in decoder.model.modules())
    assert torch.equal(decoder.hidden(TOKENS), dense)


def test_in_bfloat16_the_body_computes_in_bfloat16_and_buffers_stay(decoder: Decoder) -> None:
    buffers = {name: buffer.clone() for name, buffer in decoder.model.named_buffers()}
    with apply_variant(decoder, Variant(noise="bfloat16")):
        assert decoder.hidden(TOKENS).dtype == torch.bfloat16
        assert {p.dtype for p in decoder.trunk.parameters()} == {torch.bfloat16}
        assert all(torch.equal(buffer, buffers[name]) for name, buffer in decoder.model.named_buffers())
        assert decoder.head.norm is not None
        assert decoder.head.norm.weight is not None
        assert decoder.head.norm.weight.dtype == decoder.head.weight.dtype == torch.float32


@pytest.mark.parametrize("architecture", TIED)
def test_a_tied_embedding_is_rounded_below_and_not_in_the_head(architecture: str, tmp_path: Path) -> None:
    decoder = load_decoder(save_tiny(tmp_path / architecture, architecture, tie_word_embeddings=True))
    embedding = decoder.model.get_input_embeddings().weight
    assert embedding.data_ptr() == decoder.head.weight.data_ptr()
    kept = decoder.head.weight.clone()
    with apply_variant(decoder, Variant(noise="bfloat16")):
        assert embedding.dtype == torch.bfloat16
        assert torch.equal(decoder.head.weight, kept)
    assert embedding.data_ptr() == decoder.head.weight.data_ptr()


def test_in_bfloat16_contributions_sum_to_the_rounded_stream(decoder: Decoder) -> None:
    finals: list[torch.Tensor] = []
    handle = decoder.final_norm.register_forward_pre_hook(lambda _, args: finals.append(args[0]))
    with apply_variant(decoder, Variant(noise="bfloat16")):
        capture = run_known(decoder, TOKENS, 0, by_token_from=None, keep_calls=False)
        (decoded,) = decode_greedily(decoder, [(5, 9, 77)], 4)
    handle.remove()
    rebuilt = capture.streams[0] + sum(capture.added.values())
    torch.testing.assert_close(rebuilt, finals[0][0].float(), rtol=1e-6, atol=1e-5)
    assert set(capture.streams) == set(range(len(decoder.layers)))
    assert torch.equal(decoded.streams, torch.stack([final[0, -1].double() for final in finals[1:]]))


def test_a_reordered_product_differs_only_by_rounding(decoder: Decoder) -> None:
    # More rows alone change nothing where a kernel treats each row alike, and a floor of zero is none.
    many = torch.arange(3, 43).repeat(8, 3)[:, :100]
    dense = decoder.hidden(many)
    with apply_variant(decoder, Variant(noise="batch")):
        noisy = decoder.hidden(many)
    assert (noisy != dense).float().mean() > 0.3
    torch.testing.assert_close(noisy, dense, rtol=1e-4, atol=1e-5)


def test_reordered_weights_are_permuted_once(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    turned: list[int] = []
    flip = torch.Tensor.flip
    monkeypatch.setattr(torch.Tensor, "flip", lambda self, *axes: turned.append(self.data_ptr()) or flip(self, *axes))
    weights = {matrix.address for matrix in decoder.matrices.values()}
    with apply_variant(decoder, Variant(noise="batch")):
        once = decoder.hidden(torch.tensor([[5, 9, 77]]))
        again = decoder.hidden(torch.tensor([[5, 9, 77]]))
    assert torch.equal(once, again)
    assert sorted(pointer for pointer in turned if pointer in weights) == sorted(weights)
    assert {matrix.address for matrix in decoder.matrices.values()} == weights


def test_decoding_in_another_order_uses_the_same_kernel(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    products: dict[str, int] = {}
    plain = module_calls.product
    for noise in (None, "batch"):
        count: list[int] = []
        monkeypatch.setattr(module_calls, "product", lambda *args, count=count: count.append(1) or plain(*args))
        with apply_variant(decoder, Variant(noise=noise)):
            decode_greedily(decoder, [(5, 9, 77)], 2)
        products[str(noise)] = len(count)
    assert products["None"] == products["batch"]
    # GPT-2's matrices are convolutions, which torch multiplies.
    assert bool(products["None"]) is (decoder.model.config.model_type != "gpt2")


@pytest.mark.parametrize("kind", KINDS)
def test_a_noise_variant_needs_no_statistics_and_loads_from_its_file(
    decoder: Decoder, kind: str, tmp_path: Path
) -> None:
    recipe = parse_recipe(f"noise-{kind}")
    variant = prune(decoder, recipe)
    assert (variant.noise, variant.masks, variant.dropped) == (kind, {}, ())
    assert variant.hash not in {Variant().hash, *(Variant(noise=other).hash for other in KINDS if other != kind)}
    variant.save(tmp_path / "v.safetensors", recipe, "weights")
    assert load_variant(tmp_path / "v.safetensors", "weights") == variant
    row = variant_row(decoder, "tiny", recipe, variant, None, 1, 1.0).row(0, named=True)
    assert (row["method"], row["sparsity"], row["parameters_removed"], row["sublayers_changed"]) == ("noise", 0, 0, 0)
    assert not any(variant.changed(sublayer) for sublayer in decoder.sublayers)


def test_a_kind_of_noise_from_another_version_is_a_failure_and_not_the_dense_model(decoder: Decoder) -> None:
    with pytest.raises(ComputationError, match="'float8'"), apply_variant(decoder, Variant(noise="float8")):
        pass


@pytest.mark.parametrize("cache", [False, True])
def test_noise_moves_whole_runs_and_no_single_sublayer(decoder: Decoder, cache: bool) -> None:
    study = Study(
        name="s",
        models=(ModelSpec(name="tiny", source="/x"),),
        recipes=("dense",),
        prompts=(Prompt(id="a", kind="open", text="Why is the sky blue?"),),
        generation=GenerationSpec(new_tokens=5),
        measure={"cache": cache},
    )
    session = TraceSession(decoder, "tiny", study)
    for kind, least, most in (("bfloat16", 1e-9, 1e-1), ("batch", 1e-16, 1e-6)):
        tables = session.trace(f"noise-{kind}", Variant(noise=kind))
        rows = tables["layer_transitions"]
        local, whole = (rows.filter(pl.col("scope") == scope) for scope in ("local", "propagated"))
        assert not rows["is_changed"].any()
        assert (local["norm_dh"] == 0).all()
        assert (local["kl_dense_pruned_nats"] == 0).all()
        assert least <= whole["kl_dense_pruned_nats"].min() <= whole["kl_dense_pruned_nats"].max() <= most
        steps = tables["decoding_steps"]
        assert set(steps["trajectory"].unique()) >= {"teacher_forced", "own_text", "free_running"}
        # The emitted token is the top token of the row's own distribution, rounding of the sums included.
        sure = steps.filter(pl.min_horizontal("margin_dense", "margin_pruned") > 1e-3)
        assert (sure["is_top1_same"] == (sure["token_id_dense"] == sure["token_id_pruned"])).all()
    assert not decoder.is_rounded
