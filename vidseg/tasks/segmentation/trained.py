"""A trained segmentation network: labels of features, tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tokenize import TokenError

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidseg.engine.frame_label_scores import FrameLabelResult
from vidseg.engine.frame_label_task import FrameLabelModel
from vidseg.labels import VideoDataset
from vidseg.labels.parts import class_numbers
from vidseg.labels.segmentation_files import check_mapping
from vidseg.loaders.transfer import copy_ahead
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


class SegmentationModel(FrameLabelModel):
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
        return self.create(len(self.classes), in_features=options["in_features"])

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
            except (ValueError, TypeError, EOFError, TokenError) as error:  # TokenError: a damaged header
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

    def _inputs(self, data: VideoDataset, root: Path) -> Iterator[list[tuple[Tensor, ...]]]:
        options = self.options(SegmentationOptions())
        options = replace(options, data=replace(options.data, dataset=str(root)))
        for batch in make_loader(data, options, train=False):
            yield [
                (batch.features[..., :: options.labeling.sample_rate], batch.mask[:, :: options.labeling.sample_rate])
            ]

    def evaluate(self, data: VideoDataset, root: Path) -> FrameLabelResult:
        """See `FrameLabelModel.evaluate`; averages over all chunks or offsets of the options.

        Raises:
            ValueError: the mapping.txt of the data set has other classes; names file and line.
        """
        if (root / "mapping.txt").is_file():
            check_mapping(root / "mapping.txt", self.classes)
        options = self.options(SegmentationOptions())
        options = replace(options, data=replace(options.data, dataset=str(root)))
        background = class_numbers(self.classes, options.data.background)
        task = SegmentationTask(None, options.labeling, seed=options.session.seed, background=background)
        loader = make_loader(data, options, train=False)
        copy_ahead(loader, self.device)
        task.check(self.model, loader)
        return task.evaluate(self.model, loader, device=self.device, thorough=True)
