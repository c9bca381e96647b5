"""`prunescope checkpoint` and `prunescope prune`: pruned models as Hugging Face folders."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from prunescope.assets.cli import completion, options
from prunescope.assets.cli.output import log
from prunescope.assets.cli.progress_bars import RichProgress
from prunescope.assets.instance import settings
from prunescope.pipelines.core.errors import InputError
from prunescope.warehouse.core.errors import DamagedFileError

if TYPE_CHECKING:
    from prunescope.pipelines.pruning.checkpoints.model_card import CheckpointResult
    from prunescope.pipelines.recipes.calibration import CalibrationSpec
    from prunescope.warehouse.storage.location import Place

# Column of variant_summary or kld_summary → its name on the model card.
_ON_PROMPTS = {
    "kl_teacher_forced_median_nats": "median KL(dense‖pruned) on the prompts, teacher forced, nats",
    "kl_own_text_median_nats": "median KL(dense‖pruned) on the variant's own texts, nats",
    "top1_agreement": "same most likely token, teacher forced, share of steps",
    "first_flip_step_median": "median step of the first token that differs",
}
_ON_TEXTS = {
    "ppl_dense": "perplexity on {text}, dense",
    "ppl_pruned": "perplexity on {text}, pruned",
    "kl_median_nats": "median KL(dense‖pruned) on {text}, nats",
}


def _limits(memory: list[str]) -> dict[str, int] | None:
    """Return the memory of each device in bytes; None without any."""
    from prunescope.pipelines.studies.memory_limits import parse_limits

    try:
        return parse_limits(memory)
    except ValueError as error:
        raise InputError(f"--memory: {error}") from error


def checkpoint(
    context: typer.Context,
    variant: options.Variant,
    folder: Path,
    shrink: options.Shrink = False,
    model_source: str | None = None,
    memory: options.DeviceMemory = (),
) -> None:
    """Write a variant of the warehouse as a Hugging Face folder that transformers opens without Prunescope.

    The folder has config, safetensors, tokenizer, generation config and a model card with the recipe and its measured
    scores. It is loaded with plain transformers, and deleted unless its logits equal the variant's. Dropped blocks
    are removed.

    For example:

    - `prunescope checkpoint smollm2-135m@wanda-50 ./smollm2-wanda`
    - `prunescope checkpoint mine@block-drop-4 ./shorter --shrink`

    `hf upload USER/NAME DIR --private` then uploads it to the Hugging Face hub.

    Options:
        folder (DIR): Output directory; must be new or empty.
        model_source (MODEL): Current location of the dense model, if it moved after the run.
    """
    from prunescope.pipelines.models.sources import identify, locate
    from prunescope.pipelines.pruning.checkpoints.output_directory import require_free
    from prunescope.warehouse.storage.partition_store import Store
    from prunescope.warehouse.storage.path_names import path_safe
    from prunescope.warehouse.tables import TABLES

    require_free(folder)
    limits = _limits(memory)
    store = Store(options.existing(context))
    [(model, name)] = options.variants_of(store.root, [variant])
    row = store.read(TABLES["variants"], model, name).to_pylist()[0]
    provenance = store.provenance(TABLES["variants"], model, name)
    if provenance is None or row["method"] in {"dense", "noise"}:
        raise InputError(f"{model}@{name}: nothing was pruned in it; there is nothing to write")
    source = model_source or store.read(TABLES["models"], model, None)["source"][0].as_py()
    with RichProgress() as bars:
        try:
            dense_folder = locate(source, settings.cache_folder(), bars)
        except InputError as error:
            raise InputError(f"{error}; give the dense model's current location with --model-source") from error
        weight_hash = provenance.inputs["weight_hash"]
        if identify(dense_folder, settings.cache_folder()).weight_hash != weight_hash:
            raise InputError(
                f"{source}: these are not the weights of {model}@{name}; give their location with --model-source"
            )
        from prunescope.pipelines.models.load import load_decoder
        from prunescope.pipelines.pruning.checkpoints.export_checkpoint import export
        from prunescope.pipelines.pruning.checkpoints.model_card import About
        from prunescope.pipelines.pruning.variant import load_variant

        bars.start("read the variant and its scores", 1)
        file = f"_variants/{path_safe(model)}/{path_safe(name)}/{provenance.fingerprint[:16]}.safetensors"
        pruned = load_variant(store.local_file(file, settings.cache_folder()), weight_hash)
        if pruned.hash != row["variant_hash"]:
            raise DamagedFileError(f"{store.root / file}: not the variant in table variants; run its study again")
        calibration = {"SHA-256 of its tokens": row["calibration_hash"]} if row["calibration_hash"] else {}
        recipe = (name, row["method"], row["parameters_json"], calibration)
        about = About(model, source, weight_hash, *recipe, _scores(store.root, model, name), row["variant_hash"])
        bars.start("load the dense model", 1)
        decoder = load_decoder(dense_folder, provenance.dtype, memory=limits)
        result = export(decoder, pruned, folder, about, shrink=shrink, progress=bars)
        _log_result(result)


def prune(
    model: str,
    recipe: Annotated[str, typer.Option("--recipe", "-r", autocompletion=completion.recipes)],
    output: Annotated[Path, typer.Option("--output", "-o")],
    calibration: str = "c4",  # as in a study
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str = "auto",
    memory: options.DeviceMemory = (),
    shrink: options.Shrink = False,
    allow_python: options.AllowPython = False,
) -> None:
    """Prune a model and write it as a Hugging Face folder, without measurements and without a warehouse.

    After an interruption, the same command continues after the layers that are finished; they are stored next to DIR.

    For example:

    - `prunescope prune ./my-model -r wanda-2of4 -o ./my-model-2of4`
    - `prunescope prune org/name -r block-drop-4 -o ./shorter --calibration "{source: wikitext2, sequences: 32}"`

    Options:
        model: A folder with safetensors, a .gguf file, a hub id, or `embedded:NAME`.
        recipe (RECIPE): A name that `prunescope recipes` lists, or the path of a .yaml file with a recipe.
        output (DIR): Output directory; must be new or empty.
        calibration (SOURCE): `c4`, `wikitext2`, a text, JSON or JSONL file, `hf:NAME[:CONFIG]:SPLIT[:COLUMN]`, or
            `embedded`, the help topics of the Python that runs; or the keys of a study's `calibration`: source,
            sequences, length, seed, documents, template, dtype. The recipe's own keys override them.
        dtype: Dtype of the model: float32, bfloat16 or float16.
        device: auto, cpu, cuda or cuda:N.
    """
    from prunescope.pipelines.models.embedded import PREFIX
    from prunescope.pipelines.models.sources import identify, locate
    from prunescope.pipelines.pruning.checkpoints.output_directory import (
        explained_write_errors,
        require_free,
        unfinished_directory,
    )
    from prunescope.pipelines.recipes import RepairRecipe, parse_recipe, require_python, steps
    from prunescope.pipelines.studies.memory_limits import DEVICE

    require_free(output)
    parsed = parse_recipe(options.inline_recipe(recipe))
    require_python([parsed], is_allowed=allow_python)
    if parsed.method in {"dense", "noise"}:
        raise InputError(f"recipe {parsed.name} prunes nothing; choose another one")
    if any(isinstance(step, RepairRecipe) and step.rank for step in steps(parsed)):
        raise InputError(f"recipe {parsed.name}: no checkpoint holds a linear map; write affine in place of linear")
    own = {} if parsed.calibration is None else parsed.calibration.model_dump(exclude_unset=True)
    spec = _calibration(calibration).model_copy(update=own)
    if not re.match(DEVICE, device):
        raise InputError(f"--device {device!r}: choose auto, cpu, cuda or cuda:N")
    limits = _limits(memory)
    with unfinished_directory(output) as scratch, RichProgress() as bars:
        cache = settings.cache_folder()
        model_folder = locate(model, cache, bars)
        identity = identify(model_folder, cache)
        from prunescope.pipelines.models.load import load_decoder
        from prunescope.pipelines.pruning import apply
        from prunescope.pipelines.pruning.calibration.statistics import calibrate, calibration_tokens, require_context
        from prunescope.pipelines.pruning.calibration.statistics import calibration_dtype as passing_dtype
        from prunescope.pipelines.pruning.checkpoints.export_checkpoint import export
        from prunescope.pipelines.pruning.checkpoints.model_card import About, public_source
        from prunescope.pipelines.pruning.pruning_inputs import Unfinished

        bars.start("load the model", 1)
        decoder = load_decoder(model_folder, dtype, device, limits)
        if parsed.is_calibrated:
            require_context(spec, decoder.context_length)
        statistics: dict[str, Any] = {}
        if parsed.needs:
            measured = calibrate(decoder, spec, model_folder.name, bars)
            statistics = {need: getattr(measured, need) for need in parsed.needs}
        tokens = calibration_tokens(decoder.tokenizer, spec) if parsed.is_calibrated else None
        with explained_write_errors(output):
            variant = apply.prune(
                decoder,
                parsed,
                **statistics,
                tokens=tokens,
                progress=bars,
                dtype=passing_dtype(spec),
                unfinished=Unfinished(scratch, identity.weight_hash),
                cache=cache,
            )
        calibrated = spec.model_dump() if parsed.is_calibrated else {}
        if calibrated:
            calibrated["source"] = public_source(spec.source)
        name = Path(model.removeprefix(PREFIX).partition("@")[0]).name.removesuffix(".gguf")
        about = About(name, model, identity.weight_hash, parsed.name, parsed.method, parsed.parameters_json, calibrated)
        result = export(decoder, variant, output, about, shrink=shrink, progress=bars)
    _log_result(result)


def _calibration(text: str) -> "CalibrationSpec":
    """Return the calibration of a source, or of a mapping of the keys that a study's `calibration` has."""
    from pydantic import ValidationError

    from prunescope.pipelines.core.validation_errors import first_problem
    from prunescope.pipelines.recipes.calibration import CalibrationSpec

    keys = options.mapping(text, "--calibration") if text.lstrip().startswith("{") else {"source": text}
    try:
        return CalibrationSpec.model_validate(keys)
    except ValidationError as error:
        raise InputError(f"--calibration: {first_problem(error, CalibrationSpec, keys)}") from error


def _scores(location: "Place", model: str, recipe: str) -> list[tuple[str, str]]:
    """Return the verdict and the measured scores of a variant, as name and text."""
    from prunescope.pipelines.reporting.explorer.verdicts import reason
    from prunescope.warehouse.catalogue.database import connected
    from prunescope.warehouse.catalogue.queries import variant_values

    values = variant_values(location, f"{model}@{recipe}")
    verdict = [("verdict", f"{values['verdict']}: {reason(values)}")] if values.get("verdict") else []
    numbers = [(label, values.get(name)) for name, label in _ON_PROMPTS.items()]
    query = (
        f"SELECT text_id, {', '.join(_ON_TEXTS)} FROM kld_summary WHERE model = $model AND recipe = $recipe ORDER BY 1"  # noqa: S608 - ours
    )
    with connected(location) as connection:
        for text, *row in connection.sql(query, params={"model": model, "recipe": recipe}).fetchall():
            numbers += [(label.format(text=text), value) for label, value in zip(_ON_TEXTS.values(), row, strict=True)]
    return verdict + [(name, f"{value:.4g}") for name, value in numbers if value is not None]


def _log_result(result: "CheckpointResult") -> None:
    for note in result.notes:
        log(note)
    log(f"wrote {result.folder}: {result.parameters:,} parameters, {result.bytes / 1e6:,.1f} MB; {result.proof}")
