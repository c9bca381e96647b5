"""Rows of `text_tokens` written by hand, for `warehouse_builder`."""

import math
from collections.abc import Sequence

from prunescope.warehouse.tables.text_tokens import NAMES
from tests.sql.warehouse_builder import MODEL, Handmade, Row, divergence


def text_token(
    warehouse: Handmade,
    recipe: str,
    position: int,
    kl: float = 0.0,
    *,
    window: int = 0,
    p_dense: float = 0.5,
    p_pruned: float | None = None,
    text: str = "wiki",
    model: str = MODEL,
    **given: object,
) -> None:
    """Add a row from the target's probabilities on both sides; divergences that are not given follow from `kl`."""
    row: Row = {"text_id": text, "text_hash": "0" * 8, "context": 4, "stride": 2, "window_id": window, "token_id": 3}
    row |= {"position": position, "log_p_target_dense": math.log(p_dense)}
    row |= {"log_p_target_pruned": math.log(p_dense if p_pruned is None else p_pruned)}
    measures = divergence(kl, **given)
    warehouse.add("text_tokens", model=model, recipe=recipe, **row, **{name: measures[name] for name in NAMES})


def sampled_text(
    warehouse: Handmade,
    recipe: str,
    prompt: str,
    sample: int,
    hazards: list[float],
    *,
    flips: bool,
    forced: Sequence[float] = (),
    own: Sequence[float] = (),
    top_p: float = 1.0,
) -> None:
    """Add a sampled text of both trajectories.

    Args:
        warehouse: gets the rows.
        recipe: the variant.
        prompt: the prompt.
        sample: number of the sample.
        hazards: the flip probability of every step up to the flip or the end, which is also its KL(dense‖pruned).
        flips: whether the last of them flips.
        forced: KL(dense‖pruned) of the dense text's steps behind the flip; KL(pruned‖dense) is twice that, and total
            variation 0.5.
        own: the same of the variant's text.
        top_p: of the sampling.
    """
    last = len(hazards) - 1
    for trajectory, behind in (("teacher_forced", forced), ("own_text", own)):
        for step, kl in enumerate([*hazards, *behind]):
            is_shared = step <= last
            forced_token = 7 if is_shared or trajectory == "teacher_forced" else None
            own_token = (9 if flips and step == last else 7) if is_shared or trajectory == "own_text" else None
            row: Row = {"trajectory": trajectory, "step": step, "temperature": 0.7, "token_id_dense": forced_token}
            row |= {"token_id_pruned": own_token, "flip_probability": kl if is_shared else None}
            row |= {"total_variation": kl / (2 - kl) if is_shared else 0.5, "kl_dense_pruned_nats": kl}
            row |= {"kl_pruned_dense_nats": 2 * kl, "entropy_dense_nats": 1.0, "entropy_pruned_nats": 1.0}
            warehouse.add("sampled_steps", recipe=recipe, prompt_id=prompt, sample=sample, **row)
    row = {"temperature": 0.7, "top_p": top_p, "text": "t", "token_ids": [7] * (len(hazards) + len(own))}
    row |= {"first_flip_step": last if flips else None, "collapse_step": 2 if flips and sample == 0 else None}
    row |= {"end_step": None, "repeat_rate": 0.0, "distinct_1": 1.0, "distinct_2": 1.0, "answer": "4", "gold": "4"}
    row |= {"is_correct": not flips, "thinking_steps": 0, "thinking_text": None, "thinking_answer": None}
    warehouse.add("sampled_generations", recipe=recipe, prompt_id=prompt, sample=sample, **row)
