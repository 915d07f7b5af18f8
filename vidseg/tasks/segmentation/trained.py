"""A trained segmentation network: labels of features, tests."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidseg.engine.frame_label_report import test_report, write_test
from vidseg.engine.parts import check_disjoint, class_numbers, part_name
from vidseg.engine.trained import TrainedModel, test_name
from vidseg.labels import open_dataset
from vidseg.labels.segmentation_files import check_mapping
from vidseg.models import create_model
from vidseg.tasks.segmentation.cross_validation import make_loader
from vidseg.tasks.segmentation.options import SegmentationOptions
from vidseg.tasks.segmentation.task import SegmentationTask, VideoLabeler

__all__ = ["FrameLabels", "SegmentationModel"]


@dataclass(frozen=True)
class FrameLabels:
    """Predicted labels of one video.

    Attributes:
        labels: int64 (L,) class numbers of the columns.
        probabilities: float32 (K, L).
        classes: class names by number.
        labels_per_column: frame labels for each column.
    """

    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    classes: tuple[str, ...]
    labels_per_column: int = 1

    def frame_labels(self) -> npt.NDArray[np.int64]:
        """Return a class number for each frame label."""
        return self.labels.repeat(self.labels_per_column)

    def segments(self) -> list[tuple[str, int, int]]:
        """Return the segments as (class, first column, column behind the last)."""
        cuts = [0, *(np.flatnonzero(np.diff(self.labels)) + 1).tolist(), len(self.labels)]
        return [
            (self.classes[self.labels[start]], start, stop) for start, stop in itertools.pairwise(cuts) if stop > start
        ]


class SegmentationModel(TrainedModel):
    """A network that labels the frames of whole videos, given as features."""

    task = "segmentation"

    def build(self) -> nn.Module:
        """See `TrainedModel.build`."""
        options = {"in_features": self.source.record.get("feature_size"), **self.source.network_options}
        if options["in_features"] is None:
            raise ValueError(
                f"{self.source.path}: does not hold the width of its features; give it with --network-option "
                "in_features=2048"
            )
        return create_model(self.network, num_classes=len(self.classes), **options)

    def predict(self, source: str | Path | npt.ArrayLike | Tensor, *, layout: str | None = None) -> FrameLabels:
        """Label the columns of a video's features.

        Args:
            source: file <video>.npy, or an array (D, L).
            layout: "DL", or "LD" for rows of frames; None: as the run's features.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: features of another width.
        """
        options = self.options(SegmentationOptions())
        if isinstance(source, (str, Path)):
            path = Path(source)
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file of features")
            try:
                values = torch.from_numpy(np.load(path, allow_pickle=False))
            except (ValueError, TypeError, EOFError) as error:
                raise ValueError(f"{path}: not a NumPy file of features: {error}") from error
        else:
            path, values = Path("the given array"), torch.as_tensor(np.asarray(source))
        if (layout or options.data.layout) == "LD":
            values = values.T
        width = getattr(self.model, "in_features", values.shape[0])
        if values.dim() != 2 or values.shape[0] != width or values.shape[1] == 0:
            raise ValueError(
                f"{path}: features of shape {tuple(values.shape)}, the network takes ({width}, columns); for rows of "
                "frames use layout LD"
            )
        with torch.inference_mode():
            labels, probabilities = VideoLabeler(options.labeling)(
                self.model, values.float().contiguous().to(self.device), seed=options.session.seed
            )
        return FrameLabels(labels.numpy(), probabilities.numpy(), tuple(self.classes), options.data.labels_per_column)

    def test(
        self, *, dataset: str | Path | None = None, split: str | None = None, picture: bool = True
    ) -> dict[str, Any]:
        """Test on the test split of the run's division; leaves test.json and predictions/ in the folder of the run.

        Args:
            dataset: folder of the data set, where it has been moved, with the same classes in the same order.
            split: another split than the division's test split.
            picture: draw the labels of the worst videos.

        Returns:
            The content of test.json.

        Raises:
            ValueError: the mapping or the classes are not those of the run (names file and line), or the weights do not
                belong to a run.
        """
        if not self.source.record:
            raise ValueError(f"{self.source.path}: holds weights alone; a test needs a run or one of its checkpoints")
        record, division = self.source.record, self.source.record["division"]
        options = self.options(SegmentationOptions())
        root = Path(dataset or record["dataset"])
        if (root / "mapping.txt").is_file():
            check_mapping(root / "mapping.txt", self.classes)
        name = split or part_name(division, "test")
        data = open_dataset(root, name)
        if data.classes != self.classes:
            pairs = zip(data.classes, self.classes, strict=False)
            wrong = next((pair for pair in pairs if pair[0] != pair[1]), ("", ""))
            raise ValueError(
                f"{root / 'catalog.db'}: {len(data.classes)} classes, with {wrong[0]!r} in place of {wrong[1]!r}; the "
                f"network has {len(self.classes)}: use the data set that it was trained on"
            )
        if split is None:
            check_disjoint(open_dataset(root, part_name(division, "train")), data, division)
        task = SegmentationTask(
            None,
            options.labeling,
            background=class_numbers(self.classes, options.data.background),
            seed=options.session.seed,
        )
        options = replace(options, data=replace(options.data, dataset=str(root)))
        loader = make_loader(data, options, train=False)
        task.check(self.model, loader)
        result = task.evaluate(self.model, loader, device=self.device, thorough=True)
        path = self.source.path
        report = test_report(
            result, record, dataset=str(root), epoch=self.source.epoch, checkpoint=path.name, split=name
        )
        if self.source.run is not None:
            write_test(self.source.run, report, result, name=test_name(self.source, split or ""), picture=picture)
        return report
