"""What every task shares: the training loop, its options, its files, and trained models.

The options are importable without torch, for the commands' help; other names are loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vidseg.engine.options import (
    CheckpointOptions,
    DeviceOptions,
    EvaluationOptions,
    MonitorOptions,
    NetworkOptions,
    OptimizerOptions,
    RunOptions,
    ScheduleOptions,
    TrainOptions,
)
from vidseg.engine.published_recipe import Recipe

if TYPE_CHECKING:
    from vidseg.engine.event_file import read_events
    from vidseg.engine.loggers import Logger
    from vidseg.engine.runs import RunFolder
    from vidseg.engine.schedules import Schedule
    from vidseg.engine.task import BatchResult, Position, Task
    from vidseg.engine.trained import TrainedModel
    from vidseg.engine.trainer import Trainer

__all__ = [
    "BatchResult",
    "CheckpointOptions",
    "DeviceOptions",
    "EvaluationOptions",
    "Logger",
    "MonitorOptions",
    "NetworkOptions",
    "OptimizerOptions",
    "Position",
    "Recipe",
    "RunFolder",
    "RunOptions",
    "Schedule",
    "ScheduleOptions",
    "Task",
    "TrainOptions",
    "TrainedModel",
    "Trainer",
    "read_events",
]

_HOME = {
    "BatchResult": "task",
    "Logger": "loggers",
    "Position": "task",
    "RunFolder": "runs",
    "Schedule": "schedules",
    "Task": "task",
    "TrainedModel": "trained",
    "Trainer": "trainer",
    "read_events": "event_file",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"vidseg.engine.{_HOME[name]}"), name)
    raise AttributeError(f"module 'vidseg.engine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
