"""An independent Llama in float64, without code of the package, and the measures of its states."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from prunescope.pipelines.metrics.output_head import OutputHead
from tests.pipelines.metrics.reference import divergence_reference

# Measures that change with the order of two nearly equal tokens, or whose terms cancel.
_LEFT_OUT = ("is_", "topk", "rank", "p_pruned_top1", "identity", "kappa")


@dataclass
class Llama64:
    """A Llama in float64; masked weights are given by name, dropped sublayers by label."""

    weights: dict[str, torch.Tensor]
    heads: int
    groups: int
    theta: float
    eps: float
    layers: int

    @classmethod
    def load(cls, folder: Path) -> "Llama64":
        config = AutoConfig.from_pretrained(folder)
        weights = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
        return cls(
            weights,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.rope_parameters["rope_theta"],
            config.rms_norm_eps,
            config.num_hidden_layers,
        )

    @property
    def head(self) -> torch.Tensor:
        return self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt() * self.weights[name]

    def attn(self, x: torch.Tensor, layer: int, changed: dict[str, torch.Tensor]) -> torch.Tensor:
        base = f"model.layers.{layer}.self_attn"
        x = self.norm(x, f"model.layers.{layer}.input_layernorm.weight")
        length = len(x)
        q, k, v = (
            self._linear(x, f"{base}.{part}_proj", changed).reshape(length, -1, self._width(x)).transpose(0, 1)
            for part in "qkv"
        )
        q, k = self._rotate(q), self._rotate(k)
        k, v = (part.repeat_interleave(self.heads // self.groups, dim=0) for part in (k, v))
        scores = q @ k.transpose(1, 2) / self._width(x) ** 0.5
        scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(length, -1)
        return self._linear(mixed, f"{base}.o_proj", changed)

    def mlp(self, x: torch.Tensor, layer: int, changed: dict[str, torch.Tensor]) -> torch.Tensor:
        base = f"model.layers.{layer}.mlp"
        x = self.norm(x, f"model.layers.{layer}.post_attention_layernorm.weight")
        gate = self._linear(x, f"{base}.gate_proj", changed)
        inner = gate * torch.sigmoid(gate) * self._linear(x, f"{base}.up_proj", changed)
        return self._linear(inner, f"{base}.down_proj", changed)

    def sublayer(
        self, x: torch.Tensor, label: str, changed: dict[str, torch.Tensor], dropped: set[str]
    ) -> torch.Tensor:
        kind, layer = label.split(".")
        if label in dropped:
            return torch.zeros_like(x)
        return (self.attn if kind == "attn" else self.mlp)(x, int(layer), changed)

    def streams(
        self, tokens: list[int], changed: dict[str, torch.Tensor] | None = None, dropped: set[str] | None = None
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return the stream before and after every sublayer."""
        x = self.weights["model.embed_tokens.weight"][tokens]
        found = {}
        for layer in range(self.layers):
            for label in (f"attn.{layer}", f"mlp.{layer}"):
                after = x + self.sublayer(x, label, changed or {}, dropped or set())
                found[label] = (x, after)
                x = after
        return found

    def _linear(self, x: torch.Tensor, name: str, changed: dict[str, torch.Tensor]) -> torch.Tensor:
        return x @ changed.get(name, self.weights[f"{name}.weight"]).T

    def _width(self, x: torch.Tensor) -> int:
        return x.shape[-1] // self.heads

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        width = x.shape[-1]
        # Frequencies are float32 in every implementation of rotary embeddings, so they are part of the model.
        frequency = 1.0 / (self.theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width))
        angle = (torch.arange(x.shape[1], dtype=torch.float32)[:, None] * frequency).double().repeat(1, 2)
        half = torch.cat([-x[..., width // 2 :], x[..., : width // 2]], dim=-1)
        return x * angle.cos() + half * angle.sin()


def measures64(h: torch.Tensor, h2: torch.Tensor, head: torch.Tensor, temperature: float) -> dict[str, np.ndarray]:
    """Return the measures between two states, (n, width) each, from their definitions, and the largest logit."""
    found = divergence_reference(h, h2 - h, OutputHead(head), temperature)
    measures = {name: values.numpy() for name, values in found.items() if not name.startswith(_LEFT_OUT)}
    return measures | {"largest_logit": (h @ head.T).abs().amax(-1).numpy()}
