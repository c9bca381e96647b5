"""Trajectories against an independent float64 model: the variant's own text, and the fork that one token makes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.traces.trace_session import TraceSession
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.studies import Study, load_study
from tests.pipelines import tiny_study
from tests.pipelines.evaluation.traces.float64_reference import Llama64, measures64
from tests.pipelines.evaluation.traces.test_session import variant_of

STEPS = 12
TEXTS = ("2+2?", "Why ⏎ 😀?", "A", "b c d e f", "one two", "?", "0 0 0", "Tell me all")


def study_of(trajectories: tuple[str, ...] = ("teacher_forced", "own_text", "fork"), **generation: object) -> Study:
    prompts = [{"id": f"p{n}", "kind": "open", "text": text} for n, text in enumerate(TEXTS)]
    measure = {"trajectories": trajectories, "scopes": ["propagated"], "lenses": ["normed"], "layer_prompts": 3}
    return tiny_study.study_of(prompts=prompts, generation={"new_tokens": STEPS} | generation, measure=measure)


@pytest.fixture(scope="module")
def magnitude(decoder: Decoder) -> Variant:
    return variant_of(decoder, "magnitude-50")


@pytest.fixture(scope="module")
def traced(decoder: Decoder, magnitude: Variant) -> dict[str, pl.DataFrame]:
    return TraceSession(decoder, "tiny", study_of()).trace("magnitude-50", magnitude)


class Both:
    """Both models in float64, without a cache, one token after another."""

    def __init__(self, folder: Path, variant: Variant, decoder: Decoder) -> None:
        self.model = Llama64.load(folder)
        self.changed = {
            name.removesuffix(".weight"): variant.changes[name].weight(decoder.matrices[name].weight).double()
            for name in variant.changes
        }
        self.dropped = set(variant.dropped)

    def states(self, tokens: list[int], *, is_pruned: bool) -> torch.Tensor:
        given = (self.changed, self.dropped) if is_pruned else ({}, set())
        last = f"mlp.{self.model.layers - 1}"
        return self.model.norm(self.model.streams(tokens, *given)[last][1], "model.norm.weight")

    def write(
        self, prompt: list[int], begun: list[int], ends: frozenset[int], least: int, *, is_pruned: bool
    ) -> list[int]:
        text = list(begun)
        while len(text) < STEPS and not (len(text) >= least and any(token in ends for token in text)):
            text.append(int((self.states(prompt + text, is_pruned=is_pruned)[-1] @ self.model.head.T).argmax()))
        return text


def cut(tokens: list[int], ends: frozenset[int]) -> list[int]:
    return next((tokens[: n + 1] for n, token in enumerate(tokens) if token in ends), tokens)


def expected(both: Both, prompt: list[int], ends: frozenset[int]) -> dict[str, object]:
    """Return texts, flip, and the KL of every step by trajectory, from the definitions."""
    dense = both.write(prompt, [], ends, 0, is_pruned=False)
    own = cut(both.write(prompt, [], ends, len(dense), is_pruned=True), ends)
    flip = next((n for n, (a, b) in enumerate(zip(dense, own, strict=False)) if a != b), None)

    def kl(one: list[int], other: list[int], steps: int, *, is_pruned: bool) -> list[float]:
        first, count = len(prompt) - 1, slice(len(prompt) - 1, len(prompt) - 1 + steps)
        sides = both.states(prompt + one, is_pruned=False), both.states(prompt + other, is_pruned=is_pruned)
        assert first >= 0
        return measures64(*(side[count] for side in sides), both.model.head, 1.0)["kl_dense_pruned_nats"].tolist()

    found: dict[str, object] = {"own": own, "flip": flip, "own_text": kl(own, own, len(own), is_pruned=True)}
    if flip is not None:
        fork = both.write(prompt, [*dense[:flip], own[flip]], ends, flip + 1, is_pruned=False)
        found |= {"fork_text": fork, "fork": kl(dense, fork, min(len(dense), len(fork)), is_pruned=False)}
    return found


@pytest.mark.parametrize("variant_name", ["magnitude-50", "attn-drop-1", "dense"])
@pytest.mark.parametrize("is_ended", [False, True])
def test_own_text_and_fork_equal_slow_float64_passes(
    decoder: Decoder, tiny_folder: Path, variant_name: str, is_ended: bool
) -> None:
    variant = variant_of(decoder, variant_name)
    if is_ended:  # tokens that the texts have end them, at other steps of the dense text, the variant's and the fork
        plain = TraceSession(decoder, "tiny", study_of()).trace(variant_name, variant)["generations"]
        chosen = [plain["token_ids"][0][3], plain["token_ids"][3][6]]
        chosen += [ids[8] for ids in plain["token_ids_fork"].drop_nulls().to_list()[:2]]
        decoder = replace(decoder, end_ids=frozenset(chosen))
    session = TraceSession(decoder, "tiny", study_of())
    tables = session.trace(variant_name, variant)
    both, flips = Both(tiny_folder, variant, decoder), 0
    for dense, row in zip(session._prompts, tables["generations"].iter_rows(named=True), strict=True):
        right = expected(both, list(dense.prompt.ids), decoder.end_ids)
        steps = tables["decoding_steps"].filter(prompt_id=row["prompt_id"]).sort("step")
        own, fork, forced = (steps.filter(trajectory=name) for name in ("own_text", "fork", "teacher_forced"))
        assert row["first_flip_step"] == right["flip"]
        assert own["token_id_pruned"].to_list() == right["own"]
        np.testing.assert_allclose(own["kl_dense_pruned_nats"], right["own_text"], rtol=1e-3, atol=1e-8)
        shared = len(own) if right["flip"] is None else right["flip"] + 1
        columns = ["token_id_dense", "kl_dense_pruned_nats", "margin_dense", "norm_dh"]
        assert own[:shared].select(columns).equals(forced[:shared].select(columns)), "one context, computed once"
        if right["flip"] is None:
            assert fork.is_empty()
            assert row["token_ids_fork"] is row["text_fork"] is row["is_correct_fork"] is None
            continue
        flips += 1
        assert row["token_ids_fork"] == right["fork_text"]
        assert fork["token_id_pruned"].to_list() == right["fork_text"][: len(fork)]
        np.testing.assert_allclose(fork["kl_dense_pruned_nats"], right["fork"], rtol=1e-3, atol=1e-8)
        assert fork["kl_dense_pruned_nats"][:shared].to_list() == [0.0] * shared
        assert len(fork) == len(right["fork"])
        # What the dense model would write on the variant's text, behind the flip.
        again = both.states([*dense.prompt.ids, *right["own"]], is_pruned=False)[len(dense.prompt.ids) - 1 : -1]
        assert own["token_id_dense"].to_list() == (again @ both.model.head.T).argmax(-1).tolist()
    assert (flips == 0) == (variant_name == "dense")


def test_the_dense_model_reads_no_prompt_again_if_its_keys_fit(
    decoder: Decoder, magnitude: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, passes = Decoder.hidden, list[tuple[int, ...]]()

    def counted(self: Decoder, tokens: torch.Tensor, *args: object) -> torch.Tensor:
        passes.append(tuple(tokens.shape))
        return hidden(self, tokens, *args)

    monkeypatch.setattr(Decoder, "hidden", counted)
    tables, behind = [], []
    session = TraceSession(decoder, "tiny", study_of())
    size = sum(keys.nbytes + values.nbytes for keys, values in session._texts._known[0])
    length = session._texts._known[0][0][0].shape[1]
    total = sum(len(dense.prompt.ids) + STEPS for dense in session._prompts) * size // length
    for budget in (total, total - 1):
        monkeypatch.setattr("prunescope.pipelines.evaluation.traces.greedy_texts.KEPT_BYTES", budget)
        session = TraceSession(decoder, "tiny", study_of())
        passes.clear()
        tables.append(session.trace("magnitude-50", magnitude))
        # The variant reads the prompts in the first pass; the three layered ones run in passes of one row.
        behind.append([shape for shape in passes[1:] if min(shape) > 1])
    assert [len(shapes) for shapes in behind] == [0, 1]
    kept, read = tables
    assert kept["generations"].equals(read["generations"])
    for trajectory in ("teacher_forced", "own_text", "fork"):
        both = [frames["decoding_steps"].filter(trajectory=trajectory) for frames in (kept, read)]
        assert both[0]["token_id_dense"].equals(both[1]["token_id_dense"])
        for name in ("kl_dense_pruned_nats", "norm_dh", "entropy_pruned_nats"):
            np.testing.assert_allclose(both[0][name], both[1][name], rtol=1e-3, atol=1e-6)


def test_top_tokens_of_the_own_text_are_those_of_its_steps(traced: dict[str, pl.DataFrame]) -> None:
    tops = traced["top_tokens"].filter(trajectory="own_text", rank=1).sort("prompt_id", "step")
    steps = traced["decoding_steps"].filter(trajectory="own_text").sort("prompt_id", "step")
    for side in ("dense", "pruned"):
        assert tops.filter(side=side)["token_id"].to_list() == steps[f"token_id_{side}"].to_list()
    assert set(traced["top_tokens"]["trajectory"]) == {"teacher_forced", "own_text"}


@pytest.mark.parametrize("until", ["end", "length"])
def test_a_first_token_that_ends_the_text_leaves_one_step_of_both(
    decoder: Decoder, magnitude: Variant, traced: dict[str, pl.DataFrame], until: str
) -> None:
    flipped = traced["generations"].filter(first_flip_step=0)
    token = flipped["token_ids"][0][0]
    ending = replace(decoder, end_ids=frozenset({token}))
    tables = TraceSession(ending, "tiny", study_of(until=until)).trace("magnitude-50", magnitude)
    row = tables["generations"].row(by_predicate=pl.col("prompt_id") == flipped["prompt_id"][0], named=True)
    assert (row["text"], row["text_fork"], row["token_ids_fork"]) == ("", "", [token])
    steps = tables["decoding_steps"].filter(prompt_id=flipped["prompt_id"][0])
    assert [len(steps.filter(trajectory=name)) for name in ("own_text", "fork")] == [1, 1]


def test_only_what_is_asked_is_measured(decoder: Decoder, magnitude: Variant, traced: dict[str, pl.DataFrame]) -> None:
    for asked in (("teacher_forced", "own_text"), ("teacher_forced", "fork")):
        tables = TraceSession(decoder, "tiny", study_of(asked)).trace("m", magnitude)
        assert set(tables["decoding_steps"]["trajectory"]) == set(asked)
        assert tables["generations"]["text_fork"].is_null().all() == ("fork" not in asked)
        assert tables["generations"]["text"].equals(traced["generations"]["text"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "texts: [wikitext2]\nmeasure: {trajectories: [teacher_forced, own_text]}",
            "own_text needs texts of `prompts`",
        ),
        (
            "prompts: [{id: a, text: b}]\ngeneration: {new_tokens: 1}\nmeasure: {trajectories: [teacher_forced, fork]}",
            "fork measures after the first token, but `generation.new_tokens` is 1",
        ),
        ("prompts: [{id: a, text: b}]\nmeasure: {trajectories: [own_text]}", "needs `teacher_forced`"),
        (
            "prompts: [{id: a, text: b}]\nmeasure: {trajectories: [teacher_forced, free_running]}",
            "`free_running` without `fork`",
        ),
    ],
)
def test_a_study_that_asks_for_what_cannot_be_measured_is_refused(tmp_path: Path, lines: str, message: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(f"name: s\nmodels: [embedded]\nrecipes: [dense]\n{lines}\n")
    with pytest.raises(InputError, match=message) as refused:
        load_study(str(file))
    assert "\n" not in str(refused.value)
