"""The losses that a study will be able to tell from the tolerance of a verdict, before anything is computed."""

import math
from collections.abc import Mapping, Sequence

from prunescope.pipelines.core.verdict_rule import MIN_UNITS, TOLERANCE
from prunescope.pipelines.planning.workload import TaskSize
from prunescope.pipelines.studies import Study

_Z = 1.959963984540054
# Standard deviation over prompts of the share of changed tokens if a tenth changes, as measured on
# SmolLM2-135M-Instruct with texts of 24 tokens (study `demo`, attn-drop-4).
SPREAD_OF_PROMPTS = 0.1


def verdict_power(study: Study, tasks: Sequence[TaskSize]) -> list[str]:
    """Return for each thing that a verdict judges which losses the study will call tolerated, and which not.

    A share of answers or texts is compared with the tolerance as by Wilson's interval, whose end is at the tolerance
    if the share is t ∓ z √(t (1 − t) / n); the share of changed tokens as by Student's t over prompts.
    """
    questions = sum(prompt.kind == "choice" for prompt in study.prompts)
    graded = sum(prompt.gold is not None and prompt.answer_pattern is not None for prompt in study.prompts)
    written = sum(task.samples for task in tasks if task.scoring == "greedy")
    chosen = sum(task.samples for task in tasks if task.scoring in {"full_text", "letter"})
    is_cut = study.decoding is not None and study.decoding.top_p < 1
    is_written = set(study.measure.trajectories) != {"teacher_forced"}
    return [
        _kind("same tokens", {"prompts": len(study.prompts)}, SPREAD_OF_PROMPTS),
        _kind("right answers in writing", {"answers": written, "graded prompts": graded * is_written}),
        _kind("right answers in choosing", {"answers": chosen, "questions": questions}),
        _kind("alive", {"texts": len(study.prompts) * is_written}),
        *(["sequence KL will be empty: it needs texts drawn from all tokens (`top_p: 1`)"] if is_cut else []),
    ]


def _kind(kind: str, evidence: Mapping[str, int], spread: float = math.sqrt(TOLERANCE * (1 - TOLERANCE))) -> str:
    enough = {unit: count for unit, count in evidence.items() if count >= MIN_UNITS}
    if not enough:
        counts = " and ".join(f"{count} of the {MIN_UNITS} {unit}" for unit, count in evidence.items())
        return f"{kind} will not be judged: it has {counts} that a verdict needs"
    parts = []
    for unit, count in enough.items():
        margin = _Z * spread / math.sqrt(count)
        low = f"a loss tolerated up to {TOLERANCE - margin:.1%}" if margin < TOLERANCE else "no loss tolerated"
        parts.append(f"{count} {unit} can call {low}, and one too large from {TOLERANCE + margin:.1%} on")
    all_right = ", if the dense model is right on all of them" if kind.startswith("right") else ""
    return f"{kind}: {'; '.join(parts)}{all_right}"
