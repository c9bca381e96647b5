"""Models, texts and measurement settings of a study. No torch here."""

from typing import Annotated, Literal, Self, get_args

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from prunescope.pipelines.core.frozen_model import (
    MAX_NEW_TOKENS,
    MAX_TOKENS,
    MAX_TOTAL_TOKENS,
    NAME,
    SOURCE,
    FrozenModel,
)
from prunescope.pipelines.corpora.hub_datasets import TEXT_SOURCE
from prunescope.pipelines.studies.names import with_name


def _variable(name: object) -> object:
    if not (isinstance(name, str) and name.isascii() and name.isidentifier()):
        raise ValueError(f"{name!r} is not a variable of a template: letters, digits and _, the first not a digit")
    return name


# Beyond these bounds a softmax in float32 is useless: one token has all of the probability, or all have the same.
Temperature = Annotated[float, Field(ge=0.01, le=100)]


class ModelSpec(FrozenModel):
    """A dense model; in YAML its source alone is enough.

    Attributes:
        name: name in every table; made from the last part of the source by default.
        source: `embedded:NAME`, a local folder, a GGUF file or a hub id (`org/name[@revision]`).
        template_arguments: further variables of the model's chat template, such as `{enable_thinking: false}`.
    """

    name: NAME = Field(examples=["my-model"])
    source: SOURCE = Field(examples=["embedded"])
    template_arguments: dict[Annotated[str, BeforeValidator(_variable)], JsonValue] = Field(
        default={}, exclude_if=lambda given: not given, examples=[{"enable_thinking": False}]
    )

    @model_validator(mode="before")
    @classmethod
    def _is_named(cls, fields: object) -> object:
        return with_name(fields, "source")


class TextSpec(FrozenModel):
    """A text that both models score, in windows of `context` tokens that begin every `stride` tokens.

    The last `stride` tokens of every window are scored, so each token is scored once, after at least `context` −
    `stride` others. The default is half a window, as in llama.cpp. If `stride` equals `context`, windows do not
    overlap, and the first token of each is not scored. In YAML the source alone is enough.

    Attributes:
        id: name in every table; made from the source by default.
        source: `wikitext2` (the WikiText-2 test text), `embedded` (the help topics of the running Python), or the path
            of a text, JSON or JSONL file.
        context: tokens per window, including the model's first token.
        stride: tokens from one window to the next; None is half the context.
        max_tokens: maximum number of scored tokens, in whole windows from the beginning.
    """

    id: NAME = Field(examples=["my-text"])
    source: TEXT_SOURCE = "wikitext2"
    context: int = Field(default=512, ge=2, le=MAX_TOKENS)
    stride: int | None = Field(default=None, ge=1, le=MAX_TOKENS, examples=[256])
    max_tokens: int = Field(default=4096, ge=1, le=MAX_TOTAL_TOKENS)

    @model_validator(mode="before")
    @classmethod
    def _is_named(cls, fields: object) -> object:
        return with_name(fields, "source", key="id", default="wikitext2")

    @model_validator(mode="after")
    def _windows_follow_each_other(self) -> Self:
        if self.step > self.context:
            raise ValueError(f"`stride` {self.step} is over `context` {self.context}: it would leave tokens out")
        if self.max_tokens < self.scored:
            raise ValueError(f"`max_tokens` {self.max_tokens} is less than one window scores ({self.scored}); raise it")
        return self

    @property
    def step(self) -> int:
        """Return the tokens from one window to the next."""
        return self.context // 2 if self.stride is None else self.stride

    @property
    def scored(self) -> int:
        """Return the number of scored tokens per window."""
        return min(self.step, self.context - 1)

    @property
    def what(self) -> str:
        """Return a description of the source, for messages."""
        return f"text {self.id!r}, source"


class GenerationSpec(FrozenModel):
    """Length of the greedy texts.

    Every variant generates as many steps as the dense model, because steps are compared in pairs.

    Attributes:
        until: with `end`, the steps of a prompt end with the dense model's end-of-text token. With `length` they
            continue after it, but means and medians do not count the steps after it.
        new_tokens: maximum number of tokens.
    """

    until: Literal["end", "length"] = "end"
    new_tokens: int = Field(default=24, ge=1, le=MAX_NEW_TOKENS)


class DecodingSpec(FrozenModel):
    """Sampled texts in addition to the greedy ones; the dense and the pruned model draw with the same Gumbel noise.

    A text ends with its end-of-text token, or after `generation.new_tokens`. The KL of distributions over texts needs
    all tokens, so it is missing if `top_p` is below 1.

    Attributes:
        temperature: temperature of the softmax.
        top_p: tokens are drawn from the smallest set of most likely tokens with at least this probability; 1 is all.
        samples: texts per prompt; at least two, because one does not show how much a prompt's texts differ.
        seed: seed of the noise.
    """

    temperature: Temperature = 0.7
    top_p: float = Field(default=1.0, gt=0, le=1)
    samples: int = Field(default=8, ge=2, le=1024)
    seed: int = Field(default=0, ge=0, lt=2**63)


Trajectory = Literal["teacher_forced", "own_text", "fork", "free_running"]


class MeasureSpec(FrozenModel):
    """Measurement settings.

    Attributes:
        trajectories: texts that the output is measured on: `teacher_forced` (both models read the dense text),
            `own_text` (both read the variant's), `fork` (the dense model after the variant's first different token),
            `free_running` (each reads its own; needs `fork`, without which it says nothing about the model).
        positions: `generated` measures the last prompt token and every generated one, `every` all prompt tokens too.
        cache: whether tokens pass one by one through a key-value cache instead of all at once; the tables agree.
        keep_states: whether to store the residual stream and its shifts in `hidden_states`, 2 bytes per number.
        layer_prompts: number of prompts of each kind, in order, that are measured layer by layer, or `all`; the others
            are measured only at the output.
    """

    positions: Literal["generated", "every"] = "generated"
    temperatures: tuple[Temperature, ...] = (1.0,)
    lenses: tuple[Literal["raw", "normed"], ...] = ("raw", "normed")
    scopes: tuple[Literal["local", "isolated", "propagated", "restored"], ...] = ("local", "propagated")
    trajectories: tuple[Trajectory, ...] = get_args(Trajectory)
    top_k: int = Field(default=10, ge=1, le=100)
    cache: bool = False
    keep_states: bool = False
    layer_prompts: Annotated[int, Field(ge=1, strict=True)] | Literal["all"] = 4

    @model_validator(mode="after")
    def _values_are_unique(self) -> Self:
        for key in ("temperatures", "lenses", "scopes", "trajectories"):
            values = getattr(self, key)
            if not values or len(set(values)) != len(values):
                twice = values and f"has {max(values, key=values.count)!r} more than once; name each value once"
                raise ValueError(f"`{key}` {twice or 'is empty; give at least one value'}")
        if "teacher_forced" not in self.trajectories:
            raise ValueError("`trajectories` needs `teacher_forced`, which the others are compared with; add it")
        if "free_running" in self.trajectories and "fork" not in self.trajectories:
            raise ValueError(
                "`trajectories` has `free_running` without `fork`, which shows what another text costs; add `fork`"
            )
        return self

    @property
    def writes(self) -> bool:
        """Return whether variants generate their own texts."""
        return self.trajectories != ("teacher_forced",)
