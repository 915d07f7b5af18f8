"""Training and evaluation: the loop, its monitors, its files.

The options are importable without torch, for the commands' help; the rest is loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vidseg.engine.options import (
    CheckpointOptions,
    DataOptions,
    DeviceOptions,
    EvaluationOptions,
    MonitorOptions,
    NetworkOptions,
    OptimizerOptions,
    RunOptions,
    ScheduleOptions,
    TrainOptions,
)

if TYPE_CHECKING:
    from vidseg.engine.runs import train_run
    from vidseg.engine.schedules import Schedule
    from vidseg.engine.task import Position, Task
    from vidseg.engine.trainer import Trainer
    from vidseg.tasks.recognition.evaluation import Evaluation, evaluate
    from vidseg.tasks.recognition.report import TestReport, test_run
    from vidseg.tasks.recognition.task import RecognitionTask
    from vidseg.tasks.streaming.runs import train_stream
    from vidseg.tasks.streaming.task import StreamTrainer, label_streams

__all__ = [
    "CheckpointOptions",
    "DataOptions",
    "DeviceOptions",
    "Evaluation",
    "EvaluationOptions",
    "MonitorOptions",
    "NetworkOptions",
    "OptimizerOptions",
    "Position",
    "RecognitionTask",
    "RunOptions",
    "Schedule",
    "ScheduleOptions",
    "StreamTrainer",
    "Task",
    "TestReport",
    "TrainOptions",
    "Trainer",
    "evaluate",
    "label_streams",
    "test_run",
    "train_run",
    "train_stream",
]

_HOME = {
    "Evaluation": "evaluation",
    "Position": "task",
    "RecognitionTask": "recognition",
    "Schedule": "schedules",
    "StreamTrainer": "streaming",
    "Task": "task",
    "TestReport": "testing",
    "Trainer": "trainer",
    "evaluate": "evaluation",
    "label_streams": "streaming",
    "test_run": "testing",
    "train_run": "runs",
    "train_stream": "stream_runs",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"vidseg.engine.{_HOME[name]}"), name)
    raise AttributeError(f"module 'vidseg.engine' has no attribute {name!r}")
