-- What was each recipe measured on, and what must match to compare two recipes?
-- grain: one row per kind × recipe × unit.
-- key: kind, recipe, unit
-- inputs: provenance, text_tokens, task_samples, generations, decoding_steps
-- parameters: $1 the model; $2 the recipes
-- how to read: a unit of kind dense is the hash of the dense weights with their dtype. conditions must be equal on both
--   sides: hash, context and stride of a text, the text of a prompt.
-- reason: a difference between two recipes means something only if both were measured in the same way.
with forced as (
    select model, recipe, prompt_id
    from decoding_steps
    where model = $1 and list_contains($2, recipe) and trajectory = 'teacher_forced'
)

select
    'dense' as kind,
    recipe,
    coalesce(json_extract_string(inputs_json, '$.weight_hash'), '') || ' ' || dtype as unit,
    null as conditions
from provenance
where
    model = $1 and list_contains($2, recipe)
    and table_name in ('text_tokens', 'decoding_steps', 'task_samples')

union

select
    'text' as kind,
    recipe,
    text_id as unit,
    [text_hash, cast(context as varchar), cast(stride as varchar)] as conditions
from text_tokens
where model = $1 and list_contains($2, recipe)

union

select
    'task' as kind,
    recipe,
    task as unit,
    null as conditions
from task_samples
where model = $1 and list_contains($2, recipe)

union

select
    'prompt' as kind,
    generations.recipe,
    generations.prompt_id as unit,
    [generations.prompt_text] as conditions
from generations
semi join forced using (model, recipe, prompt_id)
where generations.model = $1 and list_contains($2, generations.recipe)
order by all
