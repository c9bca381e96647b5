"""Faults over all rooms, injected into a copy of the tree one by one, and the test that catches each.

    python -m tests.benchmarks.mutants [--all] [--list] [NUMBER ...]

Prints a table and ends with 1 where a fault survives. The text that a fault replaces occurs once in its file: where it
no longer does, the fault has to follow the code, and the program says so before it runs anything.
"""

import argparse
import compileall
import importlib
import multiprocessing
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A fault that makes its tests hang counts as caught.
PATIENCE = 300.0
# Exit codes of pytest: an error of its own, wrong arguments, nothing collected.
_NO_TESTS = {3, 4, 5}
# Imports of most tests. Every fault has a process of its own, which would need longer for these than for its tests.
PRELOADED = (
    *("torch", "transformers", "transformers.models.llama.modeling_llama", "polars", "pyarrow.parquet", "duckdb"),
    *("sqlglot", "pydantic", "numba", "scipy.stats", "hypothesis", "altair", "vl_convert", "dagster", "typer"),
    *("rich", "yaml", "xxhash"),
)


@dataclass(frozen=True)
class Fault:
    """A replaced text in one file, and the tests that should catch it.

    Attributes:
        path: the file.
        right: the text in it.
        wrong: the text that replaces it.
        tests: files or single tests, fast ones.
    """

    path: str
    right: str
    wrong: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Noticed:
    """Result of one fault: the test that failed because of it, or an empty name."""

    test: str
    seconds: float


def fault(path: str, right: str, wrong: str, *tests: str) -> Fault:
    return Fault(path, right, wrong, tuple(f"tests/{test}" for test in tests))


MASKS, SCORES, TEXT = (
    "pipelines/pruning/masks.py",
    "pipelines/pruning/methods/scores.py",
    "pipelines/metrics/text_metrics.py",
)
STORE = "warehouse/storage/partition_store.py"
ATTACKED = "warehouse/catalogue/test_sql_process.py::test_an_attack_ends_as_it_must_and_reads_and_writes_nothing_else"
FAULTS = (
    # pipelines: models and what they read
    fault(
        "pipelines/models/file_validation.py",
        "if size != 8 + length + end:",
        "if size < 8 + length + end:",
        "pipelines/models/test_file_validation.py",
    ),
    fault(
        "pipelines/evaluation/tokenization/texts.py",
        "        windows[:, 0] = ids[0]\n",
        "        pass\n",
        "pipelines/evaluation/test_texts.py",
    ),
    fault(
        "pipelines/evaluation/tokenization/texts.py",
        "first = self.text.context - self.text.scored + torch",
        "first = self.text.context - self.text.scored - 1 + torch",
        "pipelines/evaluation/test_texts.py",
    ),
    fault(
        "pipelines/core/scratch_directory.py",
        "is_dead = lock(descriptor) is True",
        "is_dead = True",
        "pipelines/core/test_scratch_directory.py",
    ),
    fault(
        "pipelines/core/safe_yaml.py",
        "    known[id(node)] = math.inf\n",
        "",
        "pipelines/core/test_safe_yaml.py",
    ),
    # pipelines: pruning
    fault(
        MASKS,
        "dropped[crowded] &= ~(tied & (tied.cumsum(dim=1) > spared[:, None]))",
        "pass",
        "pipelines/pruning/test_masks.py",
    ),
    fault(
        MASKS,
        "wins = columns[first] >= columns[second]",
        "wins = columns[first] > columns[second]",
        "pipelines/pruning/test_masks.py",
    ),
    fault(
        SCORES,
        "scores = context.weight.abs().float() * norms(context, recipe.name)\n",
        "scores = context.weight.abs().float()\n",
        "pipelines/pruning/test_scores.py",
    ),
    fault(SCORES, "for dim in (0, 1):", "for dim in (1,):", "pipelines/pruning/test_scores.py"),
    fault(
        "pipelines/pruning/methods/quantization_grid.py",
        "low, high = w.amin(dim=1).clamp(max=0), w.amax",
        "low, high = w.amin(dim=1), w.amax",
        "pipelines/pruning/test_quantization_grid.py",
    ),
    fault(
        "pipelines/pruning/methods/layer_sparsity.py",
        "outliers.sum() / sizes.sum() - outliers / sizes",
        "outliers / sizes - outliers.sum() / sizes.sum()",
        "pipelines/pruning/test_layer_sparsity.py",
    ),
    fault(
        "pipelines/pruning/sampled_masks.py",
        ">> (7 - (positions & 7))",
        ">> (positions & 7)",
        "pipelines/pruning/test_mask_samples.py",
    ),
    # pipelines: metrics and traces
    fault(
        "pipelines/metrics/option_metrics.py",
        "(untied_left * untied_right) ** 0.5",
        "max(untied_left, untied_right)",
        "pipelines/metrics/test_option_metrics.py",
    ),
    fault(
        TEXT,
        "if matched[n] + n >= max(_MIN_LOOP_REPEATS * n, _MIN_LOOP_TOKENS):",
        "if matched[n] + n > max(_MIN_LOOP_REPEATS * n, _MIN_LOOP_TOKENS):",
        "pipelines/metrics/test_text_measures.py",
    ),
    fault(
        "pipelines/metrics/vector_metrics.py",
        "shift - along[:, None] * vector",
        "shift - vector",
        "pipelines/metrics/test_vector_metrics.py",
        "pipelines/metrics/test_option_metrics.py",
    ),
    fault(
        "pipelines/evaluation/traces/text_traces.py",
        "return (((streams / self.step).round() - self.counts) * self.step).float()",
        "return (streams - self.streams()).float()",
        "pipelines/evaluation/traces/test_texts.py",
    ),
    # pipelines: tasks, retrieval, advice, planning
    fault(
        "pipelines/evaluation/tasks/answer_extraction.py",
        r'_IGNORED = (",", r"\$", r"\.$")',
        r'_IGNORED = (",", r"\$")',
        "pipelines/evaluation/tasks/test_answer_extraction.py",
    ),
    fault(
        "pipelines/evaluation/tasks/speculative_decoding.py",
        "is_right = list(tokens) == self._guess[: len(tokens)]",
        "is_right = True",
        "pipelines/evaluation/tasks/test_speculative_decoding.py",
    ),
    fault(
        "pipelines/evaluation/retrieval/pooling.py",
        "whole = torch.where(real[..., None], states.double(), 0.0)",
        "whole = states.double()",
        "pipelines/evaluation/retrieval/test_embedding.py",
    ),
    fault(
        "pipelines/evaluation/retrieval/document_ranking.py",
        "float(-rank)",
        "float(rank)",
        "pipelines/evaluation/retrieval/test_document_ranking.py",
    ),
    fault(
        "pipelines/evaluation/search/search.py",
        "self._effects(swaps, {}, EFFECT_ITEMS)",
        "self._effects(swaps, {}, len(self._items))",
        "pipelines/evaluation/search/test_search.py::test_effects_are_measured_on_the_first_items_and_allocations_on_all",
    ),
    fault(
        "pipelines/evaluation/search/search.py",
        "for seen in (EFFECT_ITEMS, CONTEXT_ITEMS)",
        "for seen in (CONTEXT_ITEMS,)",
        "pipelines/evaluation/search/test_search.py::test_an_exchange_is_accepted_by_the_items_that_did_not_propose_it",
    ),
    fault(
        "pipelines/evaluation/search/splits.py",
        "_POWER = 3.0",
        "_POWER = 2.0",
        "pipelines/evaluation/search/test_splits.py::test_a_split_is_the_optimum_of_a_sum_of_cubes",
    ),
    fault(
        "pipelines/evaluation/search/splits.py",
        "np.sqrt(own * of_sublayer * of_kind)",
        "own",
        "pipelines/evaluation/search/test_splits.py::test_the_effect_of_a_matrix_is_shared_with_its_sublayer_and_its_kind",
    ),
    fault(
        "pipelines/evaluation/search/splits.py",
        "_KEPT = 0.8",
        "_KEPT = 1.0",
        "pipelines/evaluation/search/test_splits.py::test_effects_are_drawn_together_and_keep_their_sum",
    ),
    fault(
        "pipelines/evaluation/search/trials.py",
        "least = 1e-3 *",
        "least = 1e-30 *",
        "pipelines/evaluation/search/test_effects.py::test_an_effect_follows_no_other_one_and_no_item_next_to_zero",
    ),
    fault(
        "pipelines/evaluation/search/treatments.py",
        "found[label, treatment] *= drawn[label] / before[label]",
        "pass",
        "pipelines/evaluation/search/test_search_methods.py::test_a_drop_changes_by_as_much_as_the_matrices_of_its_sublayer",
    ),
    fault(
        "pipelines/evaluation/search/allocation.py",
        "(is_single | (self.group[first] < self.group[second]))",
        "(self.group[first] < self.group[second])",
        "pipelines/evaluation/search/test_allocation.py::"
        "test_pairs_are_all_better_choices_with_one_or_two_changes_the_cheapest_first",
    ),
    fault(
        "pipelines/pruning/layerwise.py",
        "self.sparsities[part if part in self.sparsities else label]",
        "self.sparsities.get(label, 0.5)",
        "pipelines/pruning/test_mixed.py::test_each_matrix_is_that_of_its_own_treatment_alone_and_others_stay_dense",
    ),
    fault(
        "pipelines/evaluation/search/strategies.py",
        "max(0.0, total + float(costs[choice].sum()))",
        "total + float(costs[choice].sum())",
        "pipelines/evaluation/search/test_search.py::test_gains_that_add_up_to_more_than_the_whole_predict_no_negative_kl",
    ),
    # pipelines: charts and explorer
    fault(
        "pipelines/reporting/charts/display_text.py",
        '_INVISIBLE = {"Cc", "Cf",',
        '_INVISIBLE = {"Cc",',
        "pipelines/reporting/charts/test_display_text.py",
    ),
    fault(
        "pipelines/reporting/explorer/comparisons.py",
        "if variants[n][0] == variants[m][0])",
        "if variants[n][0])",
        "pipelines/reporting/explorer/test_documents.py::test_a_file_holds_pairs_of_neighbouring_variants",
    ),
    # warehouse
    fault(
        "pipelines/core/atomic_write.py",
        "        temporary.unlink(missing_ok=True)\n        raise",
        "        raise",
        "warehouse/storage/test_atomic_write.py",
    ),
    fault(
        "warehouse/storage/row_hash.py",
        "codes[index] = known.setdefault(text, len(known))",
        "codes[index] = index",
        "warehouse/storage/test_row_hash.py",
    ),
    fault(
        "warehouse/storage/provenance.py",
        "if path.parts[-1 - len(folders) : -1] != folders:",
        "if not folders:",
        "warehouse/storage/test_damage.py",
    ),
    fault(
        "warehouse/storage/location.py",
        "if not stat.S_ISREG(mode):",
        "if not mode:",
        "warehouse/storage/test_damage.py",
    ),
    fault(
        "warehouse/storage/path_names.py",
        'if encoded.endswith("."):',
        'if encoded.endswith(".."):',
        "warehouse/storage/test_path_names.py",
    ),
    fault(
        STORE,
        "return is_same and not footer.violations and fits",
        "return is_same and fits",
        "warehouse/storage/test_partition_store.py",
    ),
    fault(
        STORE,
        'for name, own in (("model", model), ("recipe", recipe)):',
        'for name, own in (("model", model),):',
        "warehouse/storage/test_partition_store.py",
    ),
    fault(
        "warehouse/quality/checks.py",
        "if distinct != rows.num_rows:",
        "if distinct > rows.num_rows:",
        "warehouse/quality/test_checks.py",
    ),
    fault(
        "warehouse/schema/migrations.py",
        "if migration.to > version]",
        "if migration.to >= version]",
        "warehouse/schema/test_migrations.py",
    ),
    fault(
        "warehouse/maintenance/garbage_collection.py",
        "if row is None or provenance is None or provenance.fingerprint[:16] != path.stem:",
        "if row is None or provenance is None:",
        "warehouse/maintenance/test_garbage_collection.py",
    ),
    fault(
        "warehouse/catalogue/sql_worker.py",
        "int(setup.gibibytes * (1 + _UNCOUNTED) * (1 << 30))",
        "(1 << 50)",
        "warehouse/catalogue/test_sql_process.py::test_the_kernel_limits_the_memory",
    ),
    fault(
        "warehouse/catalogue/sql_worker.py",
        'signal.ITIMER_REAL, request["seconds"]',
        "signal.ITIMER_REAL, 1000",
        "warehouse/catalogue/test_sql_process.py::test_a_statement_ends_with_its_time_after_its_parent",
    ),
    fault(
        "warehouse/catalogue/sql_worker.py",
        "BEGIN TRANSACTION READ ONLY",
        "BEGIN TRANSACTION",
        f"{ATTACKED}[explain_analyze_drop_view_models]",
    ),
    fault(
        "warehouse/storage/object_store.py",
        'if mode != "rb":',
        "if not mode:",
        f"{ATTACKED}[explain_analyze_copy_select_1_to_warehouse_x_parquet]",
    ),
    fault(
        "warehouse/catalogue/sql_worker.py",
        "(depth or not keeps_times)",
        "depth > 0",
        "warehouse/core/test_formats.py::test_what_python_or_arrow_cannot_hold_is_text",
    ),
    fault(
        "warehouse/catalogue/database.py",
        """        "enable_external_access = false",
        "disabled_filesystems = 'LocalFileSystem'",
""",
        "",
        f"{ATTACKED}[from_read_text_outside_secret_txt]",
    ),
    fault(
        "warehouse/catalogue/database.py",
        '        "lock_configuration = true",\n',
        "",
        "warehouse/catalogue/test_sql_worker.py",
    ),
    fault(
        "warehouse/export/rounding.py",
        "quantize(Decimal(1), ROUND_HALF_EVEN)",
        'quantize(Decimal(1), "ROUND_DOWN")',
        "warehouse/export/test_rounding.py",
    ),
    # sql
    fault(
        "sql/macros/verdict.sql",
        "when writing = 'holds' and choosing = 'holds' then 'holds'",
        "when writing = 'holds' or choosing = 'holds' then 'holds'",
        "sql/test_variant_verdict.py",
    ),
    fault(
        "sql/explorer/kinds.sql",
        "wilson_interval(count(texts.first_flip_step), count(*))",
        "wilson_interval(count(texts.collapse_step), count(*))",
        "pipelines/reporting/explorer/test_documents.py",
    ),
    fault(
        "sql/marts/output/kld_summary.sql",
        "max(over_tokens.kl_quantiles[3]) as kl_noise_p95_nats",
        "max(over_tokens.kl_quantiles[2]) as kl_noise_p95_nats",
        "sql/test_kld_summary.py",
        "sql/test_noise_and_isolated.py",
    ),
    fault(
        "sql/intermediate/variant_temperatures.sql",
        "row(abs(temperature - 1), temperature)",
        "row(temperature, temperature)",
        "sql/test_marts.py",
    ),
    fault(
        "sql/marts/variants/mask_overlap.sql",
        "bit_count(one.kept | other.kept) as any_kept",
        "bit_count(one.kept & other.kept) as any_kept",
        "sql/test_mask_overlap.py",
    ),
    fault(
        "sql/questions/q11_first_flip.sql",
        "and generations.first_flip_step = flips.step",
        "and generations.first_flip_step <= flips.step",
        "sql/test_questions_generation.py",
    ),
    fault(
        "sql/questions/q17_ranking_lost.sql",
        "options.is_argmax_same and options.kendall_tau < 1 - 1e-6",
        "options.kendall_tau < 1 - 1e-6",
        "sql/test_questions_generation.py",
        "sql/test_questions_tasks.py",
        "sql/test_questions_variants.py",
    ),
    fault(
        "sql/marts/noise/noise_floor.sql",
        "(transitions.scope = 'propagated' or transitions.is_changed)",
        "transitions.is_changed",
        "sql/test_noise_and_isolated.py::test_the_noise_floor_is_the_largest_quantile_of_any_noise_variant",
    ),
    fault(
        "sql/macros/verdict.sql",
        "list_position(['score', 'graded',",
        "list_position(['graded', 'score',",
        "sql/test_variant_verdict.py",
    ),
    fault(
        "sql/marts/layers/first_divergent_layer.sql",
        "min(step) filter (where is_flip) as step",
        "max(step) filter (where is_flip) as step",
        "sql/test_marts.py",
        "sql/test_questions_generation.py",
    ),
    fault(
        "sql/questions/q12_flip_to_collapse.sql",
        "when pruned.collapse_step >= pruned.first_flip_step then",
        "when pruned.collapse_step > pruned.first_flip_step then",
        "sql/test_questions_generation.py",
    ),
    fault(
        "sql/questions/q14_before_and_after_the_answer.sql",
        "when curve.is_after_answer then 'after'",
        "when curve.is_after_answer then 'before'",
        "sql/test_questions_generation.py",
    ),
    fault(
        "sql/macros/paired.sql",
        "(tests - place + 1) * p",
        "(tests - place) * p",
        "sql/test_macros.py",
        "sql/test_task_comparisons.py",
    ),
    # assets
    fault(
        "assets/planning/fingerprints.py",
        'return found | {"recipe_hash": recipe.hash} | needed',
        "return found | needed",
        "assets/planning/test_fingerprints.py",
    ),
    fault(
        "assets/publishing/origin_guard.py",
        'if _PORT.sub("", host) not in self._hosts or headers',
        "if headers",
        "assets/interface/test_interface.py::test_the_interface_answers_to_its_own_host_names_only",
    ),
    fault(
        "assets/planning/work_plan.py",
        "for recipe in (None, *study.recipes)",
        "for recipe in study.recipes",
        "assets/planning/test_work_plan.py::test_an_empty_warehouse_needs_everything",
    ),
    fault(
        "assets/watching/watch_list.py",
        "if values.count(value) > 1}",
        "if values.count(value) > 2}",
        "assets/watching/test_watch_list.py::test_a_list_that_is_wrong_is_refused_by_name",
    ),
    fault(
        "assets/execution/error_transport.py",
        "isinstance(cause, ConnectionError | TimeoutError)",
        "isinstance(cause, ConnectionError)",
        "assets/execution/test_engines.py::test_only_transient_errors_are_retried",
    ),
    fault(
        "assets/execution/error_transport.py",
        ', "bad_alloc",',
        ",",
        "assets/execution/test_engines.py::test_the_memory_error_of_every_library_is_recognised",
    ),
    fault(
        "pipelines/core/log_progress.py",
        "if self._clock() >= self._next:",
        "if self._clock() >= 0:",
        "assets/execution/test_engines.py::test_a_log_gets_its_first_line_at_once_and_then_one_every_five_seconds",
    ),
    fault(
        "assets/execution/partition_preview.py",
        "indices = [index * (rows.height - 1)",
        "indices = [index * (rows.height - 2)",
        "assets/defs/test_partition_preview.py",
    ),
    fault(
        "assets/execution/ray/pool.py",
        'for node in nodes if node["Alive"]]',
        "for node in nodes]",
        "assets/execution/test_ray.py::test_a_worker_takes_a_whole_machine_without_gpus_and_its_share_of_one_with_them",
    ),
    fault(
        "assets/cli/output.py",
        'STDERR.print(escape_control(message, keep="\\n\\t")',
        "STDERR.print(message",
        "assets/cli/test_output.py",
    ),
)


class _First:
    """A plugin of pytest that records the first failing test."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: object) -> None:
        if getattr(report, "failed", False) and not self.name:
            self.name = str(getattr(report, "nodeid", ""))

    def pytest_collectreport(self, report: object) -> None:
        self.pytest_runtest_logreport(report)


def _test(tree: Path, tests: list[str], told: Connection) -> None:
    """Run some tests of the tree in this process, which has imported none of our modules."""
    import pytest

    sys.dont_write_bytecode = True
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    os.chdir(tree)
    ours = {"", str(ROOT), str(ROOT / ".src")}
    sys.path[:] = [str(tree / ".src"), str(tree), *(entry for entry in sys.path if entry not in ours)]
    for name in [name for name in sys.modules if name.partition(".")[0] in {"tests", "prunescope"}]:
        del sys.modules[name]
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    first = _First()
    # pytest cannot rewrite the asserts of plugins that are imported already, and warns of it; no fault is in them.
    options = [
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    ]
    code = pytest.main([*options, *tests], plugins=[first])
    told.send((int(code), first.name))


def run(tree: Path, tests: tuple[str, ...], *, everything: bool, patience: float = PATIENCE) -> tuple[int | None, str]:
    """Return the exit code of pytest, None after a timeout, and the first test that failed."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    chosen = [*tests, *([] if everything else ["-m", "not exhaustive"])]
    process = multiprocessing.get_context("fork").Process(target=_test, args=(tree, chosen, writer))
    process.start()
    writer.close()
    try:
        found: tuple[int | None, str] = reader.recv() if reader.poll(patience) else (None, "it ran too long")
    except EOFError:
        found = (None, "the process ended")
    process.kill()
    process.join()
    return found


def apply(tree: Path, each: Fault) -> str:
    """Inject a fault; return the earlier contents of the file."""
    file = tree / each.path
    before = file.read_text(encoding="utf-8")
    file.write_text(before.replace(each.right, each.wrong), encoding="utf-8")
    return before


def absent(tree: Path) -> list[str]:
    """Return the faults whose text is missing or not unique in its file."""
    found = []
    for number, each in enumerate(FAULTS, start=1):
        file = tree / each.path
        times = file.read_text(encoding="utf-8").count(each.right) if file.exists() else 0
        if times != 1:
            found.append(f"{number}: {each.path} holds {times} times, not once: {each.right.strip()}")
        found += [f"{number}: there is no {test}" for test in each.tests if not (tree / test.split("::")[0]).exists()]
    return found


def copied(folder: Path) -> Path:
    """Copy the files of the tree, compiled so that a changed file is recompiled by its contents."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tree = folder / "tree"
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():  # a link of `.src` stays a link, into the copy
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    by_contents = py_compile.PycInvalidationMode.CHECKED_HASH
    for room in ("assets", "pipelines", "warehouse", "tests"):
        compileall.compile_dir(tree / room, quiet=2, invalidation_mode=by_contents)
    return tree


def main() -> int:
    """Inject the named faults, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", type=int, metavar="NUMBER", help="only these faults")
    parser.add_argument("--all", action="store_true", help="with the tests marked `exhaustive`")
    parser.add_argument("--list", action="store_true", help="show the faults and end")
    arguments = parser.parse_args()
    say = sys.stdout.write
    if gone := absent(ROOT):
        sys.stderr.write("\n".join(["these faults have to follow the code:", *gone, ""]))
        return 2
    chosen = [
        (number, each) for number, each in enumerate(FAULTS, start=1) if number in (arguments.numbers or range(99))
    ]
    if arguments.list:
        say("".join(f"{number:3} {each.path}: {each.right!r} -> {each.wrong!r}\n" for number, each in chosen))
        return 0
    for name in PRELOADED:
        importlib.import_module(name)
    survived = 0
    with tempfile.TemporaryDirectory(prefix="prunescope-mutants-") as folder:
        tree = copied(Path(folder))
        sound = tuple(dict.fromkeys(test for _, each in chosen for test in each.tests))
        code, test = run(tree, sound, everything=arguments.all, patience=PATIENCE * len(chosen))
        if code != 0:
            sys.stderr.write(f"without any fault the tests fail: {test or code}\n")
            return 2
        for number, each in chosen:
            began, before = time.monotonic(), apply(tree, each)
            code, test = run(tree, each.tests, everything=arguments.all)
            (tree / each.path).write_text(before, encoding="utf-8")
            if code in _NO_TESTS:
                sys.stderr.write(f"fault {number}: pytest ended with {code}, so no test has run\n")
                return 2
            survived += code == 0
            by = "SURVIVED" if code == 0 else test.removeprefix("tests/")
            say(f"{number:3} {each.path:42} {time.monotonic() - began:5.0f} s  {by}\n")
            sys.stdout.flush()
    say(f"{len(chosen) - survived} of {len(chosen)} faults were noticed\n")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
