"""What a study measures on whole models beside prompts and texts: speed. No torch here.

How it is measured is told by `pipelines.speed`.
"""

from pydantic import Field

from pipelines.studies.part import Part


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
