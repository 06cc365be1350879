"""What Ray Tune and Ray Train read from the environment. Imported before them.

Light: every trial process imports it.
"""

from __future__ import annotations

import os

import study.ray_environment  # noqa: F401 - and what Ray itself reads

os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one prints a box even when told to be silent
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000000")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("TUNE_WARN_THRESHOLD_S", "60")
# `run` has its own handler: the first Ctrl-C ends the study between two reports.
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"

# How long Ray waits for the machines of some number of workers. It then looks anew how many there may be, and waits
# again: for how long in all is not limited (see `train_workers`).
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
# How often the controller takes reports: by default every two seconds, whatever an epoch takes.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
# A process for each trial that only watches for machines about to be taken away.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
# Trials have their own idea of where they are, and nobody reads these metrics.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
