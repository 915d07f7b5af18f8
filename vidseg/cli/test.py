"""`vidseg test`: evaluate a trained network."""

import dataclasses
import json as json_format
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from vidseg.engine import TestReport

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Evaluate the run in the folder RUN on its held-out videos: scores by class, confusions, mistakes.

    Leaves test.json, mistakes.csv and mistakes.png in the folder. A split's run of a segmentation program is tested as
    its recipe says, and leaves test.json, predictions/ and pictures/test.png.
    """

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder that `vidseg train` left."""
    checkpoint: str | None = None
    """Weights to test; default: the best ones of the run, else its last ones."""
    dataset: str | None = None
    """Another data set than the run's, with the same classes."""
    split: str | None = None
    """Another split than the run's held-out videos."""
    clips: int = 1
    """Clips of each video, spread over its length, whose scores are averaged; 1: the central one."""
    crops: int = 1
    """Crops of each clip: 1 (as in the run's evaluation), 3, 5 or 10."""
    fuse: Literal["softmax", "logits"] = "softmax"
    """What is averaged over the views of a video: probabilities or logits."""
    worst: int = 12
    """Wrong answers to draw, the surest first; 0: none."""
    json: bool = False
    """Print one JSON object instead of the table; RUN/test.json holds the same."""

    def run(self) -> int:
        """Evaluate and print."""
        from vidseg.engine import test_run

        options = Path(self.run_folder) / "options.json"
        if options.is_file() and json_format.loads(options.read_text()).get("task") == "segmentation":
            return self._segmentation()
        report = test_run(
            self.run_folder,
            checkpoint=self.checkpoint,
            dataset=self.dataset,
            split=self.split,
            clips=self.clips,
            crops=self.crops,
            fuse=self.fuse,
        )
        if self.worst:
            self._draw(report)
        print(json_format.dumps(dataclasses.asdict(report)) if self.json else report)
        return 0

    def _segmentation(self) -> int:
        """Test a split's run of a segmentation program."""
        from vidseg.cli.train_segmentation import draw_evaluation
        from vidseg.tasks.segmentation.cross_validation import test_split
        from vidseg.tasks.segmentation.report import CrossValidation, summary_row

        if self.split is not None or (self.clips, self.crops) != (1, 1):
            raise ValueError(f"{self.run_folder}: a segmentation run has no clips or crops, and tests its own split")
        found = test_split(self.run_folder, dataset=self.dataset, checkpoint=self.checkpoint, draw=draw_evaluation)
        table = CrossValidation(found["model"], found["dataset"], found["select"], [summary_row(found)])
        print(json_format.dumps(found) if self.json else table)
        return 0

    def _draw(self, report: "TestReport") -> None:
        """A row of frames for each of the surest mistakes."""
        from vidseg.frames import FrameDatabase
        from vidseg.plots import contact_sheet

        found = [(mistake, Path(report.dataset) / mistake.video / "frames.db") for mistake in report.mistakes]
        rows = [
            (f"{mistake.true}\nas {mistake.predicted}\n{mistake.probability_predicted:.0%}", FrameDatabase(path))
            for mistake, path in found[: self.worst]
            if path.is_file()  # a data set of video files has none
        ]
        if rows:
            contact_sheet(rows, Path(self.run_folder) / "mistakes.png")
