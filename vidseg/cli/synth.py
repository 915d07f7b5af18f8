"""Synthetic labeled videos (`vidseg synth`)."""

import dataclasses
import json as json_format
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from vidseg.convert.synth_options import SynthOptions

__all__ = ["Command"]


@dataclass(frozen=True)
class Command(SynthOptions):
    """Write synthetic videos of moving shapes: DST/videos/<class>/<video>.mp4 with DST/labels.csv (label, id, split).

    The classes differ in motion only; single frames carry no information about the class. With --untrimmed, also write
    DST/untrimmed/ and DST/segments.csv (label, id, time_start, time_end, split). A second run writes only missing
    videos.
    """

    dst: Annotated[Positional[str], arg(metavar="DST")] = dataclasses.field(kw_only=True)
    """Output folder: new, empty, or written by this command."""
    workers: int | None = None
    """Number of processes; default: one per core."""
    overwrite: bool = False
    """Replace videos written with other options."""
    flow: bool = False
    """Also write the true optical flow of each video: DST/flow/<class>/<video>.npz, with `flow` (frames, 2, height,
    width) in pixels and `visible`, where it shows in the next frame."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> int:
        """Write the videos and print their number."""
        from vidseg.convert.synth import synthesize_videos

        options = SynthOptions(**{field.name: getattr(self, field.name) for field in dataclasses.fields(SynthOptions)})
        report = synthesize_videos(self.dst, options, workers=self.workers, overwrite=self.overwrite, flow=self.flow)
        print(json_format.dumps(dataclasses.asdict(report)) if self.json else report)
        return 0
