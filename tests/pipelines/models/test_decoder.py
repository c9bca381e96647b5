"""Structure is found and proved on several architectures, and what cannot be proved is refused by name."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipelines.errors import ComputationError, InputError
from pipelines.models.decoder import Decoder
from pipelines.models.load import load_decoder
from pipelines.models.structure import discover
from pipelines.pruning.variant import Variant, applied
from tests.tiny_models import ARCHITECTURES, save_tiny


@pytest.fixture(scope="module", params=ARCHITECTURES)
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return load_decoder(save_tiny(tmp_path_factory.mktemp("models") / request.param, request.param))


TOKENS = torch.tensor([[5, 77, 9, 120, 5, 33, 250, 8, 8, 61, 2, 17, 4, 99, 180, 41, 7, 63, 12, 11]])


def logits(decoder: Decoder) -> torch.Tensor:
    with torch.no_grad():
        return decoder.model(input_ids=TOKENS, use_cache=False).logits[0]


def test_stream_norm_and_head_rebuild_the_logits(decoder: Decoder) -> None:
    streams = []
    handle = decoder.final_norm.register_forward_pre_hook(lambda _, args: streams.append(args[0]))
    decoder.hidden(TOKENS)
    handle.remove()
    torch.testing.assert_close(decoder.head.logits(streams[0][0]), logits(decoder), rtol=1e-4, atol=1e-4)


def test_a_dropped_sublayer_equals_a_model_whose_output_projection_is_zero(decoder: Decoder) -> None:
    for layer in decoder.layers:
        for sublayer in (layer.attn, layer.mlp):
            projection = list(sublayer.linears.values())[-1]
            before = {name: value.clone() for name, value in projection.named_parameters()}
            with torch.no_grad():
                for parameter in projection.parameters():
                    parameter.zero_()
            zeroed = logits(decoder)
            with torch.no_grad():
                for name, parameter in projection.named_parameters():
                    parameter.copy_(before[name])
            with applied(decoder, Variant(dropped=(sublayer.label,))):
                dropped = logits(decoder)
            torch.testing.assert_close(dropped, zeroed, rtol=1e-5, atol=1e-5)
            assert not torch.allclose(dropped, logits(decoder))


@pytest.mark.parametrize("dropped", [(), ("attn.0",), ("attn.0", "mlp.0", "attn.2"), ("mlp.1",)])
def test_decoding_through_the_cache_equals_one_pass_even_when_the_first_attention_is_dropped(
    decoder: Decoder, dropped: tuple[str, ...]
) -> None:
    with applied(decoder, Variant(dropped=dropped)):
        whole = decoder.hidden(TOKENS)
        cache = CountedCache()
        parts = [decoder.hidden(part, cache) for part in (TOKENS[:, :7], *TOKENS[:, 7:].split(1, dim=1))]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)


def test_dense_weights_and_forwards_are_back_after_a_variant_even_after_a_failure(decoder: Decoder) -> None:
    before = logits(decoder)
    name, linear = next(iter(decoder.layers[0].mlp.linears.items()))
    shape = linear.weight.T.shape if type(linear).__name__ == "Conv1D" else linear.weight.shape
    variant = Variant(masks={name: torch.zeros(shape, dtype=torch.bool)}, dropped=("attn.1",))

    def interrupted() -> None:
        with applied(decoder, variant):
            assert not torch.allclose(logits(decoder), before)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(logits(decoder), before)


def test_a_soft_capped_head_is_refused_by_name(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "capped", "gemma3_text", final_logit_softcapping=1.0)
    with pytest.raises(InputError, match=r"lm_head: logits are not head × norm"):
        load_decoder(folder)


def test_a_layer_that_adds_something_else_is_refused_by_name(tiny_folder: Path) -> None:
    good = load_decoder(tiny_folder)
    layer = good.layers[1].module

    class Twice(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.self_attn, self.mlp, self.inner = inner.self_attn, inner.mlp, [inner]

        def forward(self, hidden_states: torch.Tensor, **kwargs: object) -> torch.Tensor:
            return self.inner[0](hidden_states, **kwargs) * 2

    good.model.model.layers = nn.ModuleList([Twice(layer), Twice(layer)])
    with pytest.raises(InputError, match=r"model\.layers\.0: stream \+ attention \+ MLP does not rebuild"):
        discover(good.model, good.tokenizer, good.folder)


def test_weights_of_another_architecture_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "no-such-model"}))
    with pytest.raises(InputError, match="transformers cannot load it"):
        load_decoder(folder)
    folder = save_tiny(tmp_path / "missing")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"mlp\.up_proj\.weight"):
        load_decoder(folder)


def test_damaged_weights_and_missing_devices_are_told_apart_from_an_unknown_structure(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ComputationError, match=r"model\.layers\.1\.mlp\.down_proj: NaN or infinite"):
        load_decoder(folder)
    with pytest.raises(InputError, match="cuda:99"):
        load_decoder(folder, device="cuda:99")
