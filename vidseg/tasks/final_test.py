"""The test of a run at the end of its training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from vidseg.engine import distributed
from vidseg.engine.runs import RunFolder
from vidseg.tasks import load_trained

__all__ = ["log_test"]

logger = logging.getLogger(__name__)


def log_test(folder: RunFolder, device: torch.device, *, words: Callable[[dict[str, Any]], str]) -> None:
    """Test the model of a run on its test split, and append the scores to the log of the run.

    Args:
        folder: folder of the run, which has been trained.
        device: device to compute on.
        words: returns the scores in words from the result of `TrainedModel.test`.
    """
    with folder.log(append=True):
        test = load_trained(folder.path, device=device).test(picture=folder.options.monitors.pictures)
        if distributed.is_first():
            logger.info("test of epoch %s: %s", test["epoch"], words(test))
