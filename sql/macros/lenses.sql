-- Lens of the layers that is shown first: `normed` where a row has it, because its last layer gives the model's output,
-- else another lens of the rows. An aggregate.
create or replace macro preferred_lens(lens) as if(count_if(lens = 'normed') > 0, 'normed', min(lens));
