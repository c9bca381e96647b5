"""Tests of planned costs against manual values, and against torch's counts on a tiny model."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from prunescope.pipelines.core.device import available_bytes
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tasks.loading import load_tasks
from prunescope.pipelines.evaluation.tokenization.prompts import tokenize_prompts
from prunescope.pipelines.evaluation.traces.trace_session import TraceSession
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.meta_model import Shape, load_meta_model, shape_of
from prunescope.pipelines.models.token_cache import ROOM
from prunescope.pipelines.planning.machine_speed import measure_machine
from prunescope.pipelines.planning.memory import memory_items
from prunescope.pipelines.planning.task_workload import task_sizes
from prunescope.pipelines.planning.workload import Machine, TaskSize, Work, Workload
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import Recipe, parse_recipe
from prunescope.pipelines.studies import DecodingSpec, GenerationSpec, MeasureSpec, ModelSpec, Prompt, Study, TextSpec
from prunescope.pipelines.studies.evaluation_specs import SpeedSpec, TaskSpec
from tests.tiny_models import save_tiny, tiny_tokenizer

# Two layers of width 8 with 2 heads of 4, one key-value head, an MLP of 12, 50 words, an untied head.
SHAPE = Shape(
    layers=2,
    width=8,
    vocabulary=50,
    parameters=2 * (64 + 2 * 32 + 64 + 3 * 96 + 16) + 8 + 2 * 400,
    body=2 * (64 + 2 * 32 + 64 + 3 * 96 + 16) + 8 + 400,
    active=2 * (64 + 2 * 32 + 64 + 3 * 96),
    prunable=2 * (64 + 2 * 32 + 64 + 3 * 96),
    largest_sublayer=3 * 96,
    largest_matrix=(12, 8),
    attention_width=8,
    cache_width=8,
)
STEPS = 3
# A row times the head; the same with the measurement of its logits at one temperature; one pass over both prompts.
ONCE, ROW, WHOLE = 2 * 50 * 8, 50 * (2 * 8 + 750), 2 * (8 + 10) * 960 + 64 * (8**2 + 10**2)
# Reading all weights for as many tokens as a text has: a byte takes as long as 12 operations.
WEIGHTS = 12 * STEPS * (960 * 4 + 50 * 8 * 4)


def study(dtype: str = "float32", **measure: object) -> Study:
    return Study(
        name="s",
        models=(ModelSpec(name="tiny", source="/nowhere"),),
        recipes=("dense",),
        prompts=(Prompt(id="a", kind="open", text="?"), Prompt(id="b", kind="choice", text="?", options=("A", "B"))),
        texts=(TextSpec(id="t", context=6, stride=4),),
        generation=GenerationSpec(new_tokens=STEPS),
        measure=MeasureSpec(**measure),
        dtype=dtype,
    )


def load(prompts: tuple[int, ...] = (5, 7), **keys: object) -> Workload:
    return Workload(study(**keys), SHAPE, prompts, [3], workers=2)


def items(memory: dict[str, dict[str, int]]) -> dict[str, int]:
    """Return the items of all phases together."""
    return {item: size for phase in memory.values() for item, size in phase.items()}


def alone(name: str) -> tuple[Recipe, list[Recipe]]:
    """Return a recipe as the only one of its trace group."""
    recipe = parse_recipe(name)
    return recipe, [recipe]


def llama(folder: Path, **changes: object) -> Path:
    """Write a config, a tokenizer and a weight file that has only a header."""
    sizes = {
        "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 50, "tie_word_embeddings": False, "max_position_embeddings": 512,
    }  # fmt: skip
    AutoConfig.for_model("llama", **(sizes | changes)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    header = json.dumps({"w": {"dtype": "F32", "shape": [99], "data_offsets": [0, 396]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder


def test_the_sizes_of_a_llama_are_those_counted_by_hand(tmp_path: Path) -> None:
    assert shape_of(load_meta_model(llama(tmp_path))) == SHAPE


def test_a_tied_embedding_is_counted_once_and_stays_in_the_body(tmp_path: Path) -> None:
    shape = shape_of(load_meta_model(llama(tmp_path, tie_word_embeddings=True)))
    assert shape.parameters == shape.body == SHAPE.body


def test_a_token_costs_only_its_routed_experts(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "mixtral", hidden_size=8, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=50, num_local_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    # Attention, the router and 2 of 8 experts of three matrices each.
    assert shape_of(load_meta_model(tmp_path)).active == 3 * (64 + 2 * 32 + 64 + 8 * 8 + 2 * 3 * 96)


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss", "qwen3_moe", "gpt2", "llama"])
def test_the_matrices_of_a_plan_are_those_that_pruning_finds(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / architecture, architecture)
    matrices, shape = load_decoder(folder).matrices.values(), shape_of(load_meta_model(folder))
    assert shape.prunable == sum(matrix.size for matrix in matrices)
    assert math.prod(shape.largest_matrix) == max(matrix.size for matrix in matrices)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "gemma3_text", "qwen3"])
def test_a_pass_costs_what_torch_counts(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / architecture, architecture)
    decoder, shape = load_decoder(folder), shape_of(load_meta_model(folder))
    decoder.model.set_attn_implementation("eager")  # torch counts no fused attention on a CPU
    with FlopCounterMode(display=False) as counter:
        decoder.hidden(torch.arange(3, 33)[None])
    expected = Workload(study(), shape, [30], [3], workers=1).forward(30)
    assert expected == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_a_forward_pass_by_hand() -> None:
    # Two operations a weight and token; scores and values over the square of tokens, in every layer.
    assert load().forward(10) == 2 * 10 * 960 + 2 * (2 * 2 * 10 * 10 * 8)
    assert load().forward(10, sequences=3) == 3 * load().forward(10)


def test_temperatures_add_logits_but_no_head_products() -> None:
    rows = 2 * (STEPS + 1) * 4  # positions of two prompts, four sublayers
    # Both sides of four trajectories of two prompts, and again of the two whose tokens are stored; and the tokens that
    # the variant and the dense model write.
    steps, written = 2 * (4 + 2) * 2 * STEPS, (4 + 4) * STEPS * ONCE + 2 * WEIGHTS
    wanda, drop = parse_recipe("wanda-50"), parse_recipe("attn-drop-1")
    for temperatures in ((1.0,), (0.5, 1.0, 2.0)):
        work = load(temperatures=temperatures).work("traces", wanda)
        # Two lenses, two scopes.
        assert work.head == (4 * rows + steps) * (ROW + (len(temperatures) - 1) * 50 * 750) + written
    assert load(lenses=("normed",)).work("traces", drop).head == (rows / 4 + rows + steps) * ROW + written
    assert load(scopes=("local",)).work("traces", drop).head == (2 * rows / 4 + steps) * ROW + written


def test_the_dense_side_is_computed_once_for_all_that_are_traced_together() -> None:
    recipes = [parse_recipe(f"magnitude-{percent}") for percent in range(10, 15)]
    written = 4 * STEPS * ONCE + WEIGHTS
    assert load().work("traces", None, 3).head == 3 * 2 * 32 * ROW + written
    read = load().forward(5) + load().forward(7)
    assert load().work("traces", None, 3).layers == 2 * WHOLE + read + 4 * STEPS * 2 * 960
    dense = load().work("traces", parse_recipe("dense"))
    assert dense.head == written + 2 * (4 + 2) * 2 * STEPS * ROW
    assert dense.layers == 2 * WHOLE + read + 4 * STEPS * 2 * 960  # it runs like any variant
    one = memory_items(load(), recipes[0], recipes[:1], 0)
    five = memory_items(load(), recipes[0], recipes[:5], 0)
    for item in ("masks, a bit per weight", "shifts of the stream", "rows of the variants"):
        sizes = [items(held)[item] for held in (one, five)]
        assert sizes[1] == 5 * sizes[0] > 0, item


def test_noise_costs_the_passes_of_the_dense_model() -> None:
    # A variant's pass and its sublayers in the dense context are in float64, which takes twice as long.
    pruned = load().work("traces", parse_recipe("wanda-50"))
    for name in ("noise-bfloat16", "noise-batch"):
        assert pruned.layers - load().work("traces", parse_recipe(name)).layers == 2 * WHOLE


def test_single_swaps_cost_the_layers_above_them() -> None:
    for name, passes, sublayers in (("wanda-50", 4 / 2, 4), ("attn-drop-1", 1, 1), ("noise-batch", 4 / 2, 4)):
        recipe, without = parse_recipe(name), load(scopes=("local", "propagated"))
        swapped = load(scopes=("local", "isolated", "propagated")).work("traces", recipe)
        assert swapped.layers - without.work("traces", recipe).layers == passes * WHOLE
        assert swapped.head - without.work("traces", recipe).head == 2 * 2 * (STEPS + 1) * sublayers * ROW


def test_a_mixture_costs_the_sublayers_that_it_treats() -> None:
    tokens = study().calibration.sequences * study().calibration.length
    whole = load().forward(study().calibration.length, study().calibration.sequences)

    def mixture(treatments: str, predecessors: str = "pruned") -> Recipe:
        fields = f"{{name: m, method: mixed, predecessors: {predecessors}, treatments: {{{treatments}}}}}"
        return parse_recipe(fields)

    both = "attn.0: sparsegpt-30, mlp.0: drop, attn.1: wanda-50, mlp.1: gptq-4bit"
    # Two inputs of an attention are 8 wide; those of an MLP 8 and 12. A recipe that reads any counts all.
    gram = 3 * 8**2 + 12**2
    for treatments, predecessors, passes, grams in (
        ("attn.0: sparsegpt-30, attn.1: wanda-50", "pruned", 2, 2 * gram),
        (both, "pruned", 2, 2 * gram),
        (both, "dense", 1, 2 * gram),
        ("attn.0: wanda-50, mlp.0: rtn-4bit", "dense", 0, 0),
        ("attn.0: drop, mlp.0: rtn-4bit", "pruned", 0, 0),
    ):
        found = load().work("variants", mixture(treatments, predecessors))
        assert found == Work(passes * whole, tokens * grams), treatments
    one, all_alike = mixture("mlp.1: sparsegpt-30"), parse_recipe("sparsegpt-30")
    held = {
        recipe.name: items(memory_items(load(), recipe, [recipe], 0))
        for recipe in (one, all_alike, mixture("attn.1: drop").model_copy(update={"name": "dropped"}))
    }
    # A layer at a time, in float64 and float32.
    assert held["m"]["Gram matrices of a layer"] == held["sparsegpt-30"]["Gram matrices of a layer"] == 12 * gram
    assert held["dropped"]["Gram matrices of a layer"] == held["dropped"]["masks, a bit per weight"] == 0
    swapped = load(scopes=("isolated",))
    assert swapped.work("traces", mixture(both)) == swapped.work("traces", all_alike)
    two = mixture("attn.0: drop, mlp.1: rtn-4bit")
    assert swapped.work("traces", all_alike).head - swapped.work("traces", two).head == 2 * 2 * (STEPS + 1) * 2 * ROW


def test_texts_cost_one_pass_and_one_head_product_per_side() -> None:
    # Three windows of 6 tokens, of which 4 are scored.
    read = load().forward(6, sequences=3)
    assert load().work("texts", None) == Work(read)
    assert load(temperatures=(0.5, 1.0)).work("texts", parse_recipe("dense")) == Work(read, head=2 * 12 * ROW)


def test_timing_costs_two_warm_ups_and_its_repeats_on_both_sides() -> None:
    timed = study().model_copy(update={"speed": (SpeedSpec(batch=4, length=30, new_tokens=10, repeats=3),)})
    work, (recipe, group) = Workload(timed, SHAPE, (5, 7), [3], workers=2), alone("magnitude-50")
    read = 2 * 5 * work.forward(30, sequences=4)
    rounds = 2 * 5 * 9
    written = rounds * (4 * ONCE + 12 * (960 * 4 + 50 * 8 * 4))
    assert work.work("speed", recipe) == Work(read + rounds * 4 * 2 * 960, written)
    assert memory_items(work, recipe, group, 0)["decoded"]["key-value cache"] == 4 * (30 + 10 + ROOM) * 8 * 2 * 4
    assert work.work("speed", parse_recipe("noise-batch")) == load().work("speed", recipe) == Work()


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_written_task_costs_texts_of_a_share_of_their_limit_and_forks_from_their_middle(
    is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 65 * (10 + 30) * 8 * 2 * 4  # keys and values of the contexts, after which the forks begin
    monkeypatch.setattr("prunescope.pipelines.planning.workload.KEPT_CONTEXT_BYTES", size - (not is_kept))
    task, tokens = TaskSize("w", "greedy", 65, (10,) * 65, shared=30, new_tokens=6), 0.4 * 6
    chosen = TaskSize("c", "letter", 2, (8, 8), long_tokens=5, reads=4)
    work, pruned = replace(load(), tasks=(task, chosen)), parse_recipe("magnitude-50")
    for recipe, texts, passes in ((parse_recipe("dense"), 1, 1), (pruned, 1.5, 2)):
        found = work.work("tasks", recipe)
        assert work.kept_context_bytes == size * is_kept
        reads = 1 if is_kept else passes
        # So many contexts are two batches, each of which runs what they share once.
        read = texts * 2 * tokens * 12 * (960 * 4 + 50 * 8 * 4)
        answers = reads * (65 * work.forward(10) + 2 * work.forward(30)) + texts * 65 * tokens * 2 * 960
        assert found.layers == pytest.approx(answers + 2 * work.forward(8) + 2 * 5 * 960, rel=1e-12)
        assert found.head == pytest.approx((texts * 65 * tokens + 4) * ONCE + read, rel=1e-12)
    # Noise, and a model in bfloat16, compute nothing in float64.
    short, bfloat16 = replace(work, tasks=(task, replace(chosen, long_tokens=0))), study("bfloat16")
    noise = parse_recipe("noise-batch")
    assert work.work("tasks", noise) == short.work("tasks", noise) != work.work("tasks", pruned)
    assert work.work("tasks", pruned) != short.work("tasks", pruned)
    assert replace(work, study=bfloat16).work("tasks", pruned) == replace(short, study=bfloat16).work("tasks", pruned)


@pytest.mark.parametrize("name", ["boolq", "humaneval_choice"])
def test_the_options_of_a_question_share_its_passes_under_all_scorings(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunescope.pipelines.planning.task_workload.PASS_TOKENS", 10**6)
    tasks = load_tasks((TaskSpec(name=name, samples=1),))
    first, *others = task_sizes(tasks, tiny_tokenizer(), 100_000)
    asked = [map(str, one.args[:2]) for loaded in tasks for one in loaded.task.instances]
    rows = [tuple(tiny_tokenizer()(text, add_special_tokens=False).input_ids for text in pair) for pair in asked]
    fed = {(*context, *option)[:-1] for context, option in rows}
    shared = next(place for place, ids in enumerate(zip(*fed, strict=False)) if len(set(ids)) > 1)
    assert first.contexts == (shared + sum(len(row) - shared for row in fed),)
    is_long = any(len(option) > 16 for _, option in rows)
    assert first.long_tokens == sum(first.contexts) * is_long
    # What all texts begin with is read once per token.
    reads = {
        (place, token, () if place < shared else (*context, *option)[:-1])
        for context, option in rows
        for place, token in enumerate(option, len(context) - 1)
    }
    assert first.reads == len(reads)
    assert [(size.contexts, size.reads) for size in others] == [((), 0)] * (len(tasks) - 1)


def test_worked_examples_before_questions_to_write_on_are_counted_once() -> None:
    (loaded,) = load_tasks((TaskSpec(name="gsm8k", samples=3, shots=2),))
    (size,) = task_sizes([loaded], tiny_tokenizer(), 100_000)

    def tokens(text: str) -> list[int]:
        return tiny_tokenizer()(text, add_special_tokens=False).input_ids

    whole = [tokens(str(instance.args[0])) for instance in loaded.task.instances]
    shared = next(place for place, ids in enumerate(zip(*whole, strict=False)) if len(set(ids)) > 1)
    assert size.shared == shared > 100
    assert size.contexts == tuple(len(ids) - shared for ids in whole)


def test_a_text_that_is_scored_whole_is_read_in_windows() -> None:
    (loaded,) = load_tasks((TaskSpec(name="wikitext2", samples=1, context=64),))
    (size,) = task_sizes([loaded], tiny_tokenizer(), 100_000)
    *whole, last = size.contexts
    assert set(whole) == {64}
    assert 0 < last <= 64
    assert size.reads == sum(size.contexts) > 1000


def test_keys_of_the_dense_texts_are_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = "prunescope.pipelines.planning.workload.KEPT_BYTES"
    size = (5 + STEPS + 7 + STEPS) * 8 * 2 * 4
    for most, kept in ((size, size), (size - 1, 0)):
        monkeypatch.setattr(limit, most)
        held = items(memory_items(load(), *alone("magnitude-50"), 0))
        assert held["keys and values of the dense texts"] == kept
    monkeypatch.setattr(limit, size)
    assert load(trajectories=("teacher_forced",)).kept_bytes == 0


def test_decoding_counts_the_texts_of_the_variant_and_of_the_dense_model_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    magnitude = parse_recipe("magnitude-50")
    # Two passes in float64, the prompts, whose keys the dense model keeps, and the tokens of these eight texts.
    read = load().forward(5) + load().forward(7)
    assert load().work("traces", magnitude).layers == 4 * WHOLE + read + (4 + 4) * STEPS * 2 * 960
    fork = load(trajectories=("teacher_forced", "fork")).work("traces", magnitude)
    assert fork.layers == 4 * WHOLE + read + (4 + 2) * STEPS * 2 * 960
    assert load(trajectories=("teacher_forced",)).work("traces", magnitude).layers == 4 * WHOLE
    monkeypatch.setattr("prunescope.pipelines.planning.workload.KEPT_BYTES", 0)
    assert load().work("traces", magnitude).layers == 4 * WHOLE + 2 * read + (4 + 4) * STEPS * 2 * 960


def test_further_prompts_cost_no_layers_and_texts_decode_in_batches() -> None:
    asked = tuple(Prompt(id=f"p{index}", kind="open", text="?") for index in range(100))
    spec = DecodingSpec(samples=2)
    many = study(layer_prompts=3).model_copy(update={"prompts": asked, "decoding": spec})
    work, recipe = Workload(many, SHAPE, [5] * 100, [3], workers=2), parse_recipe("wanda-50")
    assert work.positions == 3 * (STEPS + 1)
    few = memory_items(work, *alone("wanda-50"), 0)
    # Two passes in float64, which takes twice as long; 200 texts are four batches, greedy or sampled.
    passes, reads = 2 * 2 * 3 * work.forward(5 + STEPS), 100 * work.forward(5)
    assert work.work("traces", recipe).layers == passes + reads + (200 + 200) * STEPS * 2 * 960
    written = 200 * STEPS * ONCE + 4 * WEIGHTS
    assert work.work("sampling", None).head == written
    # The variant writes texts and reads the dense ones, and the dense model reads the variant's.
    measured = 2 * 200 * STEPS * (4 * ONCE + 750 * 50)
    assert work.work("sampling", recipe).head == 3 * written + measured
    held = items(few)
    assert held["key-value cache"] == 64 * (5 + STEPS + ROOM) * 8 * 2 * 4
    assert held["final streams of the variant"] == 20 * 200 * STEPS * 8
    # Prompts in float64 and in 4 bytes, and 12 scored tokens of texts.
    assert held["dense final streams"] == (16 * 100 + 4 * 200) * STEPS * 8 + 12 * 8 * 4
    assert load().work("sampling", recipe) == load().work("sampling", None) == Work()


def test_layers_and_head_have_speeds_of_their_own() -> None:
    machine, each = Machine(layers=1e3, head=1e4), [Work(layers=2e6), Work(head=2e6)]
    assert [work.seconds(machine) for work in each] == [2000, 200]
    assert sum(each, Work()) == Work(2e6, 2e6)
    assert sum(each, Work()).seconds(machine) == 2200


def test_every_phase_holds_what_is_always_in_memory() -> None:
    phases = memory_items(load(), *alone("wanda-50"), 1000)
    always = dict.fromkeys(["process and libraries", "weights in float32", "dense final streams"])
    assert all(always.keys() <= held.keys() for held in phases.values())
    assert "key-value cache" in phases["decoded"].keys() - phases["measured"].keys()


def test_memory_of_weights_masks_and_head_by_hand() -> None:
    in_bfloat16 = items(memory_items(load(dtype="bfloat16"), *alone("wanda-50"), 1000))
    assert in_bfloat16["process and libraries"] == 1000
    assert in_bfloat16["weights in bfloat16"] == 2 * SHAPE.parameters
    assert in_bfloat16["head in float32"] == 4 * 50 * 8
    applied = memory_items(load(), *alone("wanda-50"), 0)["applied"]
    assert (applied["pruned weights"], applied["masks, a bit per weight"]) == (4 * 960, 120)
    decoded = memory_items(load(), *alone("wanda-50"), 0)["decoded"]
    assert decoded["key-value cache"] == 4 * (10 + ROOM) * 8 * 2 * 4
    assert decoded["pruned weights"] == applied["pruned weights"]
    assert items(memory_items(load(), *alone("wanda-50"), 0))["head in float32"] == 0
    # Eight positions through two lenses, and two workers: both sides' logits, z − max z, a copy.
    traced = memory_items(load(), *alone("dense"), 0)["measured"]
    assert traced["logits of a block"] == 2 * 4 * (2 * 8) * 50 * 4
    # 2 × 76 positions of layers are two blocks of 76, 2 × 74 steps two of 74, 144 scored tokens of texts one block.
    longer = study().model_copy(update={"generation": GenerationSpec(new_tokens=37)})
    held = memory_items(Workload(longer, SHAPE, (5, 7), [36], workers=2), *alone("dense"), 0)
    assert held["measured"]["logits of a block"] == 2 * 4 * 76 * 50 * 4
    assert held["compared"]["logits of a block of texts"] == 2 * 4 * 144 * 50 * 4
    noise = items(memory_items(load(), *alone("noise-bfloat16"), 0))
    assert noise["weights rounded to bfloat16"] == 2 * SHAPE.body


def test_only_one_layer_from_disk_is_in_memory() -> None:
    layers = 4 * (2 * (64 + 2 * 32 + 64 + 3 * 96 + 16) + 8)

    def limited(size: int) -> Workload:
        return replace(load(), study=study().model_copy(update={"memory": {"cpu": size}}))

    streamed = limited(1000)
    held = items(memory_items(streamed, *alone("wanda-50"), 0))
    # Embedding and head, the layers that stay, and the layer on its turn.
    assert held["weights in float32"] == 4 * 2 * 400 + 1000 + max(layers // 2, 2 * 4 * 3 * 96)
    whole = memory_items(limited(layers), *alone("wanda-50"), 0)
    assert whole == memory_items(load(), *alone("wanda-50"), 0)


def test_buffered_rows_are_counted_as_in_the_session(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    outline = load_meta_model(folder)
    lengths = [len(prompt.ids) for prompt in tokenize_prompts(study(), outline.tokenizer, 512)]
    planned = Workload(study(), shape_of(outline), lengths, [3], workers=1).bytes_per_variant
    assert planned == TraceSession(load_decoder(folder), "tiny", study()).bytes_per_variant


def test_dense_states_and_calls_take_the_memory_of_a_real_session(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    decoder, outline = load_decoder(folder), load_meta_model(folder)
    session = TraceSession(decoder, "tiny", study())
    lengths = [len(prompt.ids) for prompt in tokenize_prompts(study(), outline.tokenizer, 512)]
    held = memory_items(Workload(study(), shape_of(outline), lengths, [3], workers=1), *alone("dense"), 0)
    expected = items(held)
    captures = [dense.capture for dense in session._prompts]
    kept = [t for capture in captures for t in (*capture.streams.values(), *capture.added.values())]
    assert sum(tensor.untyped_storage().nbytes() for tensor in kept) == expected["dense states of the prompts"]


def test_a_seven_billion_model_in_bfloat16_is_planned_from_its_config_alone(tmp_path: Path) -> None:
    folder = llama(
        tmp_path, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256,
    )  # fmt: skip
    shape = shape_of(load_meta_model(folder))
    assert shape.parameters == 8_030_261_248  # what Llama 3 8B publishes
    whole = Workload(study("bfloat16"), shape, [40, 60], [3], workers=8)
    phases = {name: memory_items(whole, *alone(name), 0).values() for name in ("attn-drop-8", "wanda-50")}
    peaks = {name: max(sum(held.values()) for held in each) / 2**30 for name, each in phases.items()}
    # 15 GiB of weights and 2 of a float32 head; a masked variant makes its weights layer by layer and keeps bits.
    assert 17 < peaks["attn-drop-8"] < 20
    assert 18 < peaks["wanda-50"] < 24
    assert whole.forward(1000) == pytest.approx(2 * 1000 * 6.98e9, rel=0.1)


def test_other_models_than_decoders_are_refused(tmp_path: Path) -> None:
    outline = load_meta_model(llama(tmp_path))
    outline.config.num_hidden_layers = 5
    with pytest.raises(InputError, match="list of 5 decoder layers"):
        shape_of(outline)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(InputError, match="transformers cannot load it"):
        load_meta_model(tmp_path)


def test_a_machine_is_measured_in_positive_numbers_and_its_threads_are_left_alone() -> None:
    threads = torch.get_num_threads()
    machine = measure_machine(SHAPE, torch.float32, "cpu", tokens=8)
    assert min(machine) > 0
    assert min(measure_machine(SHAPE, torch.bfloat16, "cpu", tokens=8)) > 0
    assert torch.get_num_threads() == threads
    assert 2**20 < available_bytes("cpu") < 2**50


def test_an_applied_and_removed_variant_leaves_no_weights_behind(tmp_path: Path) -> None:
    decoder = load_decoder(save_tiny(tmp_path / "tiny"))
    shape = shape_of(load_meta_model(tmp_path / "tiny"))
    from prunescope.pipelines.pruning.apply import prune

    variant = prune(decoder, parse_recipe("magnitude-50"))
    assert (
        sum(bits.nbytes for change in variant.changes.values() if (bits := change.bits) is not None)
        == shape.prunable // 8
    )
    before = {id(p): p.data_ptr() for p in decoder.trunk.parameters()}
    with apply_variant(decoder, variant):
        fresh = [p for p in decoder.trunk.parameters() if p.data_ptr() != before[id(p)]]
        assert sum(p.nbytes for p in fresh) == 4 * shape.prunable
    assert {id(p): p.data_ptr() for p in decoder.trunk.parameters()} == before


def test_pruning_costs_the_calibration_passes_of_its_recipes() -> None:
    one = load().work("calibration", None).layers
    dense = "{name: dense-wanda, method: wanda, sparsity: 0.5, predecessors: dense}"
    tokens = load().study.calibration.sequences * load().study.calibration.length
    gram = tokens * 2 * (3 * 8**2 + 12**2)
    for name, passes, grams in (
        ("magnitude-50", 0, 0),
        ("wanda-50", 2, 0),
        (dense, 0, 0),  # the table activation_stats has its norms
        ("attn-drop-1+sparsegpt-50", 2, 1),
        ("gptq-4bit", 2, 1),
        ("wanda-50+dsnot", 4, 0),
        ("block-drop-1-iterative", 1, 0),
        ("block-drop-1-greedy", 1, 0),  # two blocks, half of the layers above each
    ):
        assert load().work("variants", parse_recipe(name)) == Work(passes * one, grams * gram), name
    # Of its own tokens, twice as many, it measures what the table has of the study's.
    for name, passes in (("wanda-50", 2), (dense, 1), ("attn-drop-1", 1)):
        recipe = parse_recipe(name)
        twice = load().study.calibration.model_copy(update={"sequences": 2 * load().study.calibration.sequences})
        own = recipe.model_copy(update={"calibration": twice})
        assert load().work("variants", own).layers == passes * 2 * one, name
        exact = own.model_copy(update={"calibration": twice.model_copy(update={"dtype": "float32"})})
        assert load(dtype="bfloat16").work("variants", exact) == Work(head=passes * 2 * one), name
    held = items(memory_items(load(), parse_recipe("sparsegpt-50"), [parse_recipe("dense")], 0))
    assert held["streams of the calibration tokens"] == 4 * 8 * tokens
    assert held["Gram matrices of a layer"] == 12 * (3 * 8**2 + 12**2)


def test_a_training_costs_forward_and_backward_passes() -> None:
    one, spec = load().work("calibration", None).layers, load().study.calibration
    updates = 40 * 4
    for weights, passes in ((False, 2), (True, 3)):
        recipe = parse_recipe(
            f"{{name: m, method: composed, parts: [magnitude-50, {{method: distill, weights: {weights}}}]}}"
        )
        found = load().work("variants", recipe)
        assert found.layers == pytest.approx(passes * updates / spec.sequences * one)
        assert found.head == 6 * updates * spec.length * load().head_size
        held = items(memory_items(load(), recipe, [parse_recipe("dense")], 0))
        assert held["states of all layers for a gradient"] == 512 * (3 * 12 + 8 * 8) * 2 * 4
        assert held["trained weights"] == 20 * load().shape.prunable * weights
    plain = items(memory_items(load(), parse_recipe("magnitude-50+affine"), [parse_recipe("dense")], 0))
    assert plain["states of all layers for a gradient"] == plain["trained weights"] == 0


def test_a_repair_costs_passes_of_both_models_and_of_its_changed_sublayers() -> None:
    one = load().work("calibration", None).layers
    tokens = load().study.calibration.sequences * load().study.calibration.length
    for name, passes, products in (
        ("magnitude-50+affine", 2 + 2, 0),
        ("attn-drop-1+affine", 2 + 1 / 2, 0),  # one of two layers
        ("block-drop-1+linear-4", 2 + 2 / 2, 2),
    ):
        # The Gram matrix of each dropped sublayer's inputs, and their products with what is missing.
        assert load().work("variants", parse_recipe(name)) == Work(passes * one, products * 2 * tokens * 8**2), name
    plain, repaired = (
        items(memory_items(load(), parse_recipe(name), [parse_recipe("dense")], 0))
        for name in ("block-drop-1", "block-drop-1+linear-4")
    )
    key = "streams of the calibration tokens"
    assert repaired[key] == 5 * plain[key] == 5 * 4 * 8 * tokens
    assert repaired["Gram matrices of a layer"] > plain["Gram matrices of a layer"] == 0
