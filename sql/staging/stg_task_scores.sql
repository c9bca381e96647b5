-- columns:
--   task_group: Name of the group to which the task belongs, or of the task if it has no group = coalesce(task_group,
--     task)
select coalesce(task_group, task) as task_group
from task_scores
