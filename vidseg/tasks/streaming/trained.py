"""A trained streaming network: tests; `vidseg.live` labels streams with it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from vidseg.clips.windows import WindowShape
from vidseg.engine.frame_label_report import test_report, write_test
from vidseg.engine.parts import check_disjoint, class_numbers, part_name
from vidseg.engine.trained import TrainedModel, test_name
from vidseg.labels import open_dataset
from vidseg.models import InputSpec
from vidseg.tasks.streaming.options import StreamingOptions
from vidseg.tasks.streaming.runs import build_network, make_loader, network_options, resolved_input, window_shape
from vidseg.tasks.streaming.task import StreamingTask

__all__ = ["StreamingModel"]


class StreamingModel(TrainedModel):
    """A network that labels frames window by window, from pixels.

    Keyword arguments of `vidseg.load_trained` change its windows: stride, frames, interval, size, mean, std.
    """

    task = "streaming"

    def build(self) -> nn.Module:
        """See `TrainedModel.build`."""
        options = self.source.network_options
        if not self.source.record:
            spec = self.default_input()
            options = network_options(options, self.network, spec, self.classes)
        return build_network(self.network, len(self.classes), options)

    def change_input(self, spec: InputSpec, changes: Mapping[str, Any]) -> InputSpec:
        """See `TrainedModel.change_input`."""
        unknown = changes.keys() - {"stride", "frames", "interval", "size", "mean", "std"}
        if unknown:
            raise ValueError(f"{self.network}: its windows have no {', '.join(sorted(unknown))}")
        stride = changes.get("stride")
        if stride is None and not {"frames", "interval"} & changes.keys():
            stride = self.source.record.get("stride")
        changed = resolved_input(changes, spec)
        self.shape: WindowShape = window_shape(changed, stride)
        return changed

    def test(
        self, *, dataset: str | Path | None = None, split: str | None = None, picture: bool = True
    ) -> dict[str, Any]:
        """Test on the test split of the run's division; leaves test.json and predictions/ in the folder of the run.

        Args:
            dataset: folder of the data set, where it has been moved, with the same classes.
            split: another split than the division's test split.
            picture: draw the labels of the worst videos.

        Returns:
            The content of test.json.

        Raises:
            ValueError: the data set has other classes, or no test split.
        """
        record, division = self.source.record, self.source.record.get("division", "")
        options = self.options(StreamingOptions())
        root = dataset or record.get("dataset") or options.data.dataset
        if not root:
            raise ValueError(f"{self.source.path}: does not belong to a run; name the data set to test on")
        name = split or part_name(division, "test")
        data = open_dataset(root, name)
        if list(data.classes) != self.classes:
            raise ValueError(f"{data}: its classes {data.classes} are not those of the network, {self.classes}")
        train = part_name(division, "train")
        if split is None and train in data.splits:
            check_disjoint(open_dataset(root, train), data, division)
        options = replace(options, data=replace(options.data, dataset=str(root)))
        task = StreamingTask(background=class_numbers(self.classes, options.data.background))
        with closing(make_loader(data, options, self.input_spec, self.shape, train=False)) as loader:
            result = task.evaluate(self.model, loader, device=self.device)
        path = self.source.path
        report = test_report(
            result, record, dataset=str(root), epoch=self.source.epoch, checkpoint=path.name, split=name
        )
        if self.source.run is not None:
            write_test(self.source.run, report, result, name=test_name(self.source, split or ""), picture=picture)
        return report
