"""`prunescope init` and `prunescope schema`: the beginning of a study's YAML, and its schema for editors."""

from pathlib import Path

from prunescope.assets.cli import options
from prunescope.assets.cli.output import emit_bytes, log, write_file
from prunescope.pipelines.core.errors import InputError

# Keys with a value are those of a first study of a small model; those after a # show what else there is.
_TEMPLATE = """\
{header}
# `prunescope plan {file}` says what this study would compute and cost, `prunescope run {file}` computes it.
name: {name}
title: {title}
# Each model: a folder with safetensors, a .gguf file, a hub id (org/name) or `embedded`, the package's small model.
models: {models}
# Ways to prune, compared with `dense`, the model itself; `prunescope recipes` lists all.
recipes: {recipes}
# What the variants answer: sets of the package (maths, open, choice), files (.jsonl, .csv, .txt) and single texts.
prompts:
{prompts}
# Texts for perplexity and KL: wikitext2, or a file of your own.
texts:
  - {{source: wikitext2, context: 256, max_tokens: 1024}}
# Tasks with a score. Your own questions: {{data: my-quiz.jsonl, question: FIELD, options: FIELD, answer: FIELD}}.
tasks:
  - {{name: arc_challenge, samples: 16}}
# Text from which recipes measure activations: c4, wikitext2, a file, or embedded (Python's help).
calibration: {{source: c4, sequences: 16, length: 256}}
# Tokens that every variant writes in answer to a prompt.
generation: {{new_tokens: 16}}
# Prompts of each kind that are measured layer by layer; the others at the output only.
measure: {{layer_prompts: 1}}
# dtype: bfloat16
# device: cuda
# memory: {{cuda:0: 20GiB, cpu: 60GiB}}
"""


def init(
    name: str,
    model: options.Models = ("embedded",),
    recipe: options.Recipes = ("magnitude-50", "wanda-50", "wanda-2of4", "attn-drop-4"),
    prompts: list[str] = (),
    force: bool = False,
) -> None:
    """Write the YAML of a new study, with a comment for every key.

    For example:

    - `prunescope init my-study`
    - `prunescope init my-study --model ./my-model --recipe wanda-50 --recipe attn-drop-4 --prompts my-prompts.jsonl`

    Options:
        name: Name of the study, or the path of its new YAML file.
        model: Model to prune, as for `run`.
        recipe: Recipe to compare.
        prompts (FILE): Your own prompts: .jsonl, .csv or .txt, or a shipped set.
        force: Replace an existing file.
    """
    from prunescope.pipelines.core.safe_yaml import parse_yaml
    from prunescope.pipelines.studies import study_of

    path = _path(name, force=force)
    text = _text(path, model, recipe, prompts)
    study_of(parse_yaml(text, str(path)), path)
    write_file(path, text.encode())
    log(f"`prunescope plan {path}` shows what it would compute")


def schema(output: options.Output = None) -> None:
    """Print the JSON schema of a study's YAML. Editors find it by the first line of a study.

    For example: `prunescope schema -o study.schema.json`
    """
    from prunescope.pipelines.studies.schema import schema_text

    emit_bytes(schema_text().encode(), output)


def _path(name: str, *, force: bool) -> Path:
    """Return the file of a new study; refuse one that is taken."""
    from prunescope.pipelines.studies import study_names

    path = Path(name).expanduser()
    if path.suffix not in {".yaml", ".yml"}:
        path = path.with_name(f"{path.name}.yaml") if path.name else path
    if path.stem in study_names():
        raise InputError(f"{path.stem!r} is a study of the package; choose another name, such as my-{path.stem}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    if path.exists() and not force:
        raise InputError(f"{path}: exists already; choose another name, or replace it with --force")
    return path


def _text(path: Path, models: list[str], recipes: list[str], sets: list[str]) -> str:
    """Return the content of a new study's file."""
    from prunescope.pipelines.core.safe_yaml import parse_yaml
    from prunescope.pipelines.recipes import parse_recipe
    from prunescope.pipelines.studies.names import name_from
    from prunescope.pipelines.studies.schema import header

    written = [options.inline_recipe(recipe) for recipe in recipes]
    parsed = [parse_recipe(recipe) for recipe in written]
    fields = [parse_yaml(recipe, "recipe") if recipe.lstrip().startswith("{") else recipe for recipe in written]
    if all(recipe.method != "dense" for recipe in parsed):
        fields.insert(0, "dense")
    entries = [{"source": source} for source in sets] or [
        *({"source": source, "samples": 12} for source in ("maths", "open", "choice")),
        {"text": "Explain in one sentence why the sky is blue."},
    ]
    pruned = sum(recipe.method != "dense" for recipe in parsed)
    return _TEMPLATE.format(
        header=header(path),
        file=path,
        name=_flow(path.stem),
        title=_flow(f"{', '.join(map(name_from, models))}, pruned {pruned} way{'' if pruned == 1 else 's'}"),
        models=_flow(models),
        recipes=_flow(fields),
        prompts="\n".join(f"  - {_flow(entry)}" for entry in entries),
    )


def _flow(value: object) -> str:
    """Return a value as one line of YAML."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()
