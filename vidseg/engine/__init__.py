"""Training and evaluation: the loop, its monitors, its files.

`TrainOptions` is importable without torch, for the commands' help; the rest is loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vidseg.engine.options import TrainOptions

if TYPE_CHECKING:
    from vidseg.engine.evaluation import Evaluation, evaluate
    from vidseg.engine.recognition import TestReport, test_run, train_run
    from vidseg.engine.trainer import Trainer

__all__ = ["Evaluation", "TestReport", "TrainOptions", "Trainer", "evaluate", "test_run", "train_run"]

_HOME = {
    "Evaluation": "evaluation",
    "TestReport": "recognition",
    "Trainer": "trainer",
    "evaluate": "evaluation",
    "test_run": "recognition",
    "train_run": "recognition",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"vidseg.engine.{_HOME[name]}"), name)
    raise AttributeError(f"module 'vidseg.engine' has no attribute {name!r}")
