"""An independent Llama in float64, and the measures directly from their definitions; no code of the package."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig


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
    """Return the measures between two states, (n, width) each, from their definitions in float64."""
    z, z2 = (torch.cat([h, h2]) @ head.T).split(len(h))  # reading the head once takes half as long as twice
    log_p, log_q = (torch.log_softmax(each / temperature, -1) for each in (z, z2))
    p, q = log_p.exp(), log_q.exp()
    m = (p + q) / 2
    dz = z2 - z

    def variance(weight: torch.Tensor) -> torch.Tensor:
        weight = weight / weight.sum(-1, keepdim=True)
        mean = (weight * dz).sum(-1, keepdim=True)
        return (weight * (dz - mean) ** 2).sum(-1)

    result = {}
    for space, a, b in (("h", h, h2), ("z", z, z2), ("p", p, q)):
        length = a.norm(dim=-1)
        along = (a * (b - a)).sum(-1) / length**2
        across = (b - a - along[:, None] * a).norm(dim=-1)
        result[f"norm_{space}"] = length
        result[f"norm_d{space}"] = (b - a).norm(dim=-1)
        result[f"par_rel_{space}"] = along
        result[f"orth_rel_{space}"] = across / length
        result[f"one_minus_cos_{space}"] = 1 - (a * b).sum(-1) / length / b.norm(dim=-1)
    result["t1_h"] = result["orth_rel_h"] ** 2 / 2
    result["t1_z"] = result["orth_rel_z"] ** 2 / 2
    result["var_p_dz"], result["var_r_dz"] = variance(p), variance(p * p)
    result["var_q_dz"], result["var_rq_dz"] = variance(q), variance(q * q)
    result["var_uniform_dz"] = variance(torch.ones_like(p))
    result["t2_p"] = result["var_r_dz"] / (2 * temperature**2)
    result["t3_kl_nats"] = result["var_p_dz"] / (2 * temperature**2)
    result["kl_dense_pruned_nats"] = (p * (log_p - log_q)).sum(-1)
    result["kl_pruned_dense_nats"] = (q * (log_q - log_p)).sum(-1)
    result["js_nats"] = ((p * (log_p - m.log())).sum(-1) + (q * (log_q - m.log())).sum(-1)) / 2
    result["total_variation"] = (p - q).abs().sum(-1) / 2
    result["entropy_dense_nats"], result["entropy_pruned_nats"] = -(p * log_p).sum(-1), -(q * log_q).sum(-1)
    result["p_dense_top1_dense"] = p.max(-1).values
    result["p_dense_top1_pruned"] = q.gather(-1, p.argmax(-1, keepdim=True))[:, 0]
    best, best2 = z.topk(2).values, z2.topk(2).values
    result["margin_dense"], result["margin_pruned"] = best[:, 0] - best[:, 1], best2[:, 0] - best2[:, 1]
    result["largest_logit"] = z.abs().amax(-1)
    return {name: values.numpy() for name, values in result.items()}
