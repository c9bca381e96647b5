-- columns:
--   task_group: Name of the group that brought the task, its own if it is of none = coalesce(task_group, task)
select coalesce(task_group, task) as task_group
from task_scores
