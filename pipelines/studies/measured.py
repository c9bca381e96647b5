"""What a study measures on whole models beside prompts and texts: tasks and speed. No torch here.

How it is done is told by `pipelines.tasks` and `pipelines.speed`.
"""

from pydantic import Field

from pipelines.pruning.recipes.base import NAME
from pipelines.studies.part import Part


class TaskSpec(Part):
    """A task that every variant is scored on, by lm-evaluation-harness.

    Attributes:
        name: name in every table; also what is asked, where there is no `definition`.
        definition: a shipped task (`arc_challenge`, `openbookqa`, `boolq`, `wikitext2`, `gsm8k`, `humaneval`), the
            name of a task or group of lm-eval (`lm_eval:NAME` where a shipped one has the same name), or the path of
            a YAML in lm-eval's form.
        data: a file in the form of the shipped task's own, which it takes the place of; None is the small subset that
            travels with the package.
        samples: the first so many are asked; None asks all.
        shots: worked examples in front of every question; None as the definition says.
        seed: of the draw of worked examples; the harness's own by default.
        max_new_tokens: at most so many tokens are written; None as the definition says.
        context: tokens of a window of a text that is read; None is the model's whole context.
    """

    name: NAME
    definition: str | None = Field(default=None, min_length=1)
    data: str | None = Field(default=None, min_length=1)
    samples: int | None = Field(default=None, ge=1)
    shots: int | None = Field(default=None, ge=0)
    seed: int = Field(default=1234, ge=0, lt=2**63)
    max_new_tokens: int | None = Field(default=None, ge=1)
    context: int | None = Field(default=None, ge=2)

    @property
    def asked(self) -> str:
        """What the task is asked by: its definition, else its name."""
        return self.definition or self.name


class SpeedSpec(Part):
    """How fast every variant reads and writes, timed in turn with the dense model.

    Attributes:
        batch: sequences that run together.
        length: tokens of every prompt; they are drawn at random, for speed does not depend on which they are.
        new_tokens: tokens that every sequence writes, the first one among them.
        repeats: timings of each side, of which the median counts.
    """

    batch: int = Field(default=1, ge=1)
    length: int = Field(default=128, ge=1)
    new_tokens: int = Field(default=32, ge=2)
    repeats: int = Field(default=5, ge=1)

    @property
    def what(self) -> str:
        """How messages call it."""
        return f"batch {self.batch}, length {self.length}, new_tokens {self.new_tokens}"
