"""`vidseg test`: evaluate a trained network of any task."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from vidseg.cli.model_options import InputChanges, ModelOptions, accepted, load_model

if TYPE_CHECKING:
    from vidseg.engine.trained import TrainedModel

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Evaluate the network of RUN on its test split; prints the scores and writes them into the folder of the run.

    A recognition run gets test.json, scores.npz (of every video), classes.csv, confusion.csv, confusion_shares.csv,
    mistakes.csv and mistakes.png; a segmentation or streaming run gets test.json,
    predictions/ and pictures/test.png; a detection run gets test.json, predictions.json and pictures/; a run for
    optical flow gets test.json. A test with other options than the defaults has files of its own, such as
    test_val_10x3.json. RUN may also be a checkpoint or a file of weights; then name the data set with --dataset.
    """

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder that `vidseg train` wrote, a checkpoint, or a file of weights."""
    checkpoint: str | None = None
    """Weights to test; default: the best ones of the run, else its last ones."""
    dataset: str | None = None
    """Another data set than the run's, with the same classes; for flow, a folder of which all pairs are tested."""
    split: str | None = None
    """Another split than the run's test split."""
    clips: int | None = None
    """Recognition: clips of each video, spread over its length, whose scores are averaged; default: 1, the middle."""
    crops: Literal[1, 3, 5, 10] | None = None
    """Recognition: crops of each clip; default: 1, as in validation."""
    clip_positions: Literal["mmaction2", "pyslowfast"] | None = None
    """Recognition: positions of several clips; mmaction2 puts the last one at the end of the video, pyslowfast one step
    before; default: the run's."""
    fuse: Literal["softmax", "logits"] | None = None
    """Recognition: mean of the views' probabilities (softmax) or of their logits; default: softmax."""
    dump: str | None = None
    """Recognition: file for the scores of every video, .npz or .csv; `vidseg score` fuses and scores such files."""
    worst: int | None = None
    """Recognition: wrong predictions to draw, the highest probabilities first; default: 12. 0: no pictures."""
    json: bool = False
    """Print one JSON object instead of the table."""
    model: ModelOptions = field(default_factory=ModelOptions)
    input: InputChanges = field(default_factory=InputChanges)

    def run(self) -> int:
        """Evaluate and print."""
        if self.worst is not None and self.worst < 0:
            raise ValueError(f"worst={self.worst} must be at least 0")
        trained = load_model(self.run_folder, self.model, self.input, checkpoint=self.checkpoint)
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("dataset", "split", "clips", "crops", "clip_positions", "fuse", "dump")
        }
        if trained.task == "recognition":
            given["mistakes"] = self.worst
        elif self.worst == 0 and trained.task != "flow":
            given["picture"] = False
        else:
            given["worst"] = self.worst
        found = trained.test(**accepted(trained.test, given, trained, "this test"))
        if self.json:
            print(json_format.dumps(asdict(found) if is_dataclass(found) else found))  # type: ignore[arg-type]
        else:
            print(found if is_dataclass(found) else _table(trained, found))
        return 0


def _table(trained: TrainedModel, test: dict[str, Any]) -> str:
    """Scores of frame labels, of detections or of flow, as text."""
    if trained.task == "flow":
        pairs = f"{test['pairs']} pairs of {test['dataset']}, {test['split']}"
        return f"{test['text']}\ncheckpoint: {test['checkpoint']}, {pairs}"
    if trained.task == "detection":
        return "\n".join([*test["table"], "", f"checkpoint: {test['checkpoint']}, split: {test['split']}"])
    from vidseg.engine.frame_label_report import CrossValidation, summary_row

    table = CrossValidation(trained.network, test["dataset"], test["select"], [summary_row(test)])
    return f"{table}\ncheckpoint: {test['checkpoint']}, split: {test['split']}"
