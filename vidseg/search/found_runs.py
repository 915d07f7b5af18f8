"""Runs of the networks that a one-shot search found."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.engine.run_record import RECORD, read_record
from vidseg.engine.runs import Training, start_run
from vidseg.labels.json_files import write_json
from vidseg.search.architecture import ArchitectureSpace, Genome
from vidseg.search.one_shot_options import OneShotOptions
from vidseg.search.shared_evaluation import NetworkScorer

__all__ = ["FoundRuns", "run_options"]


def run_options(options: Any, data: str | Path, out: Path, words: tuple[str, ...]) -> Any:
    """Return the options of a run of one network.

    Args:
        options: of the search.
        data: folder of the data set.
        out: folder of the run.
        words: options of the network, as NAME=VALUE words.
    """
    return replace(
        options,
        data=replace(options.data, dataset=str(data)),
        network=replace(options.network, network_option=words),
        session=replace(options.session, out=str(out), resume=False, resume_epoch=-1, overwrite=False),
    )


@dataclass(frozen=True)
class FoundRuns:
    """Writes found networks as ordinary runs with their weights.

    Attributes:
        training: of the super-network.
        architectures: networks of the space.
        scorer: extracts networks.
        options: of the super-network's run.
        settings: of the search.
        epoch: finished epochs of the super-network.
    """

    training: Training
    architectures: ArchitectureSpace
    scorer: NetworkScorer
    options: Any
    settings: OneShotOptions
    epoch: int

    def write(self, genome: Genome, folder: Path, *, score: float) -> None:
        """Write the run of a network, and train it further if the settings say so; an existing run is completed.

        Args:
            genome: architecture.
            folder: of the run.
            score: validation score with the shared weights.
        """
        network, words = self.architectures.network, self.architectures.words(genome)
        options = run_options(self.options, self.options.data.dataset, folder, words)
        options = replace(options, checkpoints=replace(options.checkpoints, run_files="vidseg"))
        chosen = {**self.training.record["network_options"], **self.architectures.options(genome)}
        changed = {"network_option": words, "out": str(folder), "run_files": "vidseg"}
        record: dict[str, Any] = {
            **self.training.record,
            "network_options": chosen,
            "options": {**self.training.record["options"], **changed},
        }
        record = json.loads(json.dumps(record))
        known = (folder / RECORD).is_file()
        if known and read_record(folder)["network_options"] != record["network_options"]:
            shutil.rmtree(folder)  # another version of the program drew other networks
            known = False
        if known and not self.settings.fine_tune:
            return
        state = {
            "epoch": self.epoch,
            "batch": 0,
            "state_dict": self.scorer.extract(genome).cpu().state_dict(),
            "optimizer": {},
            "best": score,
            "record": record,
        }
        if not self.settings.fine_tune:
            CheckpointFolder(folder, network, options.checkpoints).save(state, best=True)
            write_json(folder / RECORD, record)
            return
        start = CheckpointFolder(folder, f"{network}_shared", options.checkpoints)
        start.save(state)
        self._fine_tune(options, start.last, folder, resume=known)

    def _fine_tune(self, options: Any, weights: Path, folder: Path, *, resume: bool) -> None:
        """Train a found network from its shared weights.

        At a lower learning rate than that of the super-network, small networks stay far below a training alone.
        """
        options = replace(
            options,
            network=replace(options.network, pretrained=str(weights), cross_modality=False),
            schedule=replace(options.schedule, warmup_epochs=None, warmup_steps=None),
            session=replace(options.session, epochs=self.settings.fine_tune, max_steps=None, resume=resume),
        )
        if self.training.record["task"] == "segmentation":
            from vidseg.tasks.segmentation.cross_validation import train_split

            train_split(options, self.training.record["division"], folder, device=start_run(options))
        else:
            from vidseg.tasks.recognition.runs import train_recognition

            train_recognition(options)
