"""What Ray itself reads from the environment, in this process and in those that it starts. Imported before Ray."""

from __future__ import annotations

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Ray would start a task again without end that was stopped because its machine ran out of memory.
os.environ.setdefault("RAY_task_oom_retries", "5")
# On a machine that has much else to do its first server may need more than half a minute.
os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "120")
# pip and uv try a bad connection again by themselves; a name that does not exist stays one.
os.environ.setdefault("RUNTIME_ENV_RETRY_TIMES", "1")
# Pages about each lost process; whoever gives up its task says so.
os.environ.setdefault(
    "RAY_DEDUP_LOGS_SKIP_REGEX", r"A worker died or was killed|^Task \S+ failed|worker\(s\) were killed"
)
