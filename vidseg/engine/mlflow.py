"""MLflow: a tracker on a server or in a local database."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidseg.engine.loggers import EpochScores, IterationScores, Logger, Picture, RunStart, SavedCheckpoint, Status

__all__ = ["MlflowLogger"]

_TAG = "vidseg.run"
_MOST = 1000  # metrics of a request
_PARAMETERS, _LONGEST = 100, 500  # parameters of a request, and characters of a value
_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Variables where the environment has none: MLflow's own limits stop training for up to 20 minutes without a network,
which is longer than the other processes of a run wait."""
_STATES = {"complete": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MlflowLogger(Logger):
    """Sends a run to MLflow; its environment variables choose server (MLFLOW_TRACKING_URI) and experiment
    (MLFLOW_EXPERIMENT_NAME, default "vidseg").

    Numbers of iterations are collected and sent with the scores of the epoch, or when there are 1000: one request for
    many iterations. A resumed run continues the same run of MLflow. An active run of the program is not changed.
    """

    def __init__(self) -> None:
        self._client: Any = None
        self._run = ""
        self._numbers: list[Any] = []

    def start(self, run: RunStart) -> None:
        """See `Logger.start`."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        for variable, value in _LIMITS.items():
            os.environ.setdefault(variable, value)
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "vidseg")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        found = self._client.search_runs([experiment], filter_string=f"tags.`{_TAG}` = '{run.run_id}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        folder = run.folder.resolve()
        tags = {_TAG: run.run_id, "folder": str(folder)}
        self._run = self._client.create_run(experiment, run_name=folder.name, tags=tags).info.run_id
        values = {"network": run.name, **run.options}
        parameters = [Param(_plain(key), str(value)[:_LONGEST]) for key, value in values.items()]
        for first in range(0, len(parameters), _PARAMETERS):
            self._client.log_batch(self._run, params=parameters[first : first + _PARAMETERS])

    def iteration(self, iteration: IterationScores) -> None:
        """See `Logger.iteration`."""
        self._add(iteration.numbers(), iteration.number)
        if len(self._numbers) >= _MOST:
            self._send()

    def epoch(self, scores: EpochScores) -> None:
        """See `Logger.epoch`."""
        self._add(scores.numbers(), scores.epoch)
        self._send()

    def picture(self, picture: Picture) -> None:
        """See `Logger.picture`: an artifact of the run."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"epoch_{picture.epoch:04d}.{picture.kind}"
            path.write_bytes(picture.data)
            self._client.log_artifact(self._run, str(path), f"pictures/{picture.name}")

    def checkpoint(self, saved: SavedCheckpoint) -> None:
        """See `Logger.checkpoint`: the file stays where it is, its path becomes a tag."""
        if saved.best:
            self._client.set_tag(self._run, "best checkpoint", f"{saved.path} of epoch {saved.done[0]}")

    def close(self, status: Status, error: str) -> None:
        """See `Logger.close`."""
        if not self._run:
            return
        self._send()
        if error:
            self._client.set_tag(self._run, "error", error[:_LONGEST])
        self._client.set_terminated(self._run, status=_STATES[status])

    def _add(self, numbers: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._numbers += [Metric(_plain(name), value, now, step) for name, value in numbers.items()]

    def _send(self) -> None:
        for first in range(0, len(self._numbers), _MOST):
            self._client.log_batch(self._run, metrics=self._numbers[first : first + _MOST])
        self._numbers = []


def _plain(name: str) -> str:
    """Return the name without characters that MLflow refuses: mAP@0.5 is mAP_0.5."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)
