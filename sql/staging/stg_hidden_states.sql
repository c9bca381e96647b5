-- columns:
--   entries: The stream or its shift before the final norm [activation] = state · scale
select list_transform(state, lambda x: x * scale) as entries
from hidden_states
