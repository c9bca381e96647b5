"""Tests of noise variants: they move the dense model's output by rounding and change no state."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from transformers import AutoModelForCausalLM

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.evaluation.traces.activation_capture import run_known
from prunescope.pipelines.evaluation.traces.trace_session import TraceSession
from prunescope.pipelines.models import module_calls
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.float64_pass import cast_floats
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant, load_variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.pruning.variant_row import variant_row
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import Study
from tests.greedy_decoding import decode_greedily
from tests.pipelines.tiny_study import study_of
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
    assert torch.equal(decoded.streams, torch.stack([final[0, -1].double() for final in finals[-4:]]))


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


def study(**measure: object) -> Study:
    return study_of(generation={"new_tokens": 5}, measure={"positions": "every"} | measure)


@pytest.mark.parametrize("cache", [False, True])
def test_noise_moves_whole_runs_and_every_sublayer_by_rounding(decoder: Decoder, cache: bool) -> None:
    session = TraceSession(decoder, "tiny", study(cache=cache, positions="generated"))
    for kind, least, most in (("bfloat16", 1e-9, 1e-1), ("batch", 1e-16, 1e-6)):
        tables = session.trace(f"noise-{kind}", Variant(noise=kind))
        rows = tables["layer_transitions"]
        assert rows["is_changed"].all()
        for scope in ("local", "propagated"):
            kl = rows.filter(pl.col("scope") == scope)["kl_dense_pruned_nats"]
            # In GPT-2's raw lens a shift that is the same in all numbers may round to none.
            assert least <= kl.median() <= kl.max() <= most, (kind, scope)
        steps = tables["decoding_steps"]
        assert set(steps["trajectory"].unique()) >= {"teacher_forced", "own_text", "free_running"}
        # The emitted token is the top token of the row's own distribution, rounding of the sums included.
        read = steps.filter(pl.col("trajectory") != "fork")  # which is made to take a token
        sure = read.filter(pl.min_horizontal("margin_dense", "margin_pruned") > 1e-3)
        assert (sure["is_top1_same"] == (sure["token_id_dense"] == sure["token_id_pruned"])).all()
    assert not decoder.is_rounded


def test_sublayers_of_a_model_in_bfloat16_are_reordered_in_bfloat16(tmp_path: Path) -> None:
    decoder = load_decoder(save_tiny(tmp_path / "tiny"), "bfloat16")
    session = TraceSession(decoder, "tiny", study(scopes=("local", "propagated", "isolated", "restored")))
    rows = session.trace("noise-batch", Variant(noise="batch"))["layer_transitions"]
    largest = dict(rows.group_by("scope").agg(pl.col("kl_dense_pruned_nats").max()).iter_rows())
    assert largest.keys() == {"local", "propagated", "isolated", "restored"}
    assert all(0 < kl < 0.1 for kl in largest.values()), largest


def contributions(model: Any, tokens: torch.Tensor, kinds: tuple[str, str]) -> dict[tuple[int, str], torch.Tensor]:
    """Return what each sublayer of a plain model of transformers adds, and stop there: no code of ours."""
    found: dict[tuple[int, str], torch.Tensor] = {}
    layers = model.model.layers if hasattr(model, "model") else model.transformer.h
    for index, layer in enumerate(layers):
        for kind, name in zip(("attn", "mlp"), kinds, strict=True):

            def keep(_: object, __: object, output: Any, key: tuple[int, str] = (index, kind)) -> None:
                found[key] = (output[0] if isinstance(output, tuple) else output)[0].double()

            getattr(layer, name).register_forward_hook(keep)
    model(tokens)
    return found


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize(
    ("architecture", "kinds"), [("llama", ("self_attn", "mlp")), ("gpt2", ("attn", "mlp"))], ids=["llama", "gpt2"]
)
@torch.inference_mode()
def test_a_sublayer_alone_is_the_one_of_a_model_in_bfloat16_on_the_dense_stream(
    architecture: str, kinds: tuple[str, str], cache: bool, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    session = TraceSession(decoder, "tiny", study(cache=cache, scopes=("local", "isolated")))
    rows = session.trace("noise-bfloat16", Variant(noise="bfloat16"))["layer_transitions"]
    tokens = session._prompts[0].tokens
    dense = AutoModelForCausalLM.from_pretrained(decoder.folder, dtype=torch.float64)
    exact = contributions(dense, tokens, kinds)
    for layer in range(len(decoder.layers)):
        for kind, name in zip(("attn", "mlp"), kinds, strict=True):
            mixed = AutoModelForCausalLM.from_pretrained(decoder.folder, dtype=torch.float64)
            body = mixed.model.layers if hasattr(mixed, "model") else mixed.transformer.h
            getattr(body[layer], name).to(torch.bfloat16).register_forward_pre_hook(
                lambda _, args, kwargs: (cast_floats(args, torch.bfloat16), cast_floats(kwargs, torch.bfloat16)),
                with_kwargs=True,
            )
            getattr(body[layer], name).register_forward_hook(lambda *call: cast_floats(call[2], torch.float64))
            rounded = contributions(mixed, tokens, kinds)[layer, kind]
            shift = rounded - exact[layer, kind]
            own = rows.filter(layer=layer, sublayer=kind)
            local = own.filter(scope="local", lens="raw").sort("position")
            isolated = own.filter(scope="isolated", lens="normed").sort("position")
            p, q = (model(tokens).logits[0].log_softmax(-1) for model in (dense, mixed))
            kl = (p.exp() * (p - q)).sum(-1)
            for found, expected in ((local["norm_dh"], shift.norm(dim=-1)), (isolated["kl_dense_pruned_nats"], kl)):
                # Few numbers round to their other neighbour, because the sums before them have another order.
                error = (torch.tensor(found).double() / expected - 1).abs()
                assert error.median() < 5e-3
                assert error.max() < 0.6
    last = rows.filter(layer=len(decoder.layers) - 1, sublayer="mlp").sort("lens", "position")
    assert_frame_equal(*(last.filter(scope=each).drop("scope") for each in ("local", "isolated")), rel_tol=1e-3)
