"""`vidseg synth`: videos with known answers."""

import dataclasses
import json as json_format
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from vidseg.convert.synth_options import SynthOptions

__all__ = ["Command"]


@dataclass(frozen=True)
class Command(SynthOptions):
    """Make videos of moving shapes: DST/videos/<class>/<video>.mp4 with DST/labels.csv (label, id, split).

    The classes differ by motion alone; no single frame gives a class away. With --untrimmed also DST/untrimmed/ and
    DST/segments.csv (label, id, time_start, time_end, split). Run again, it adds only what is missing.
    """

    dst: Annotated[Positional[str], arg(metavar="DST")] = dataclasses.field(kw_only=True)
    """Folder to fill: new, empty, or made by this command."""
    workers: int | None = None
    """Processes; default: one for each core."""
    overwrite: bool = False
    """Replace what this command made there with other options."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> int:
        """Make the videos and say how many."""
        from vidseg.convert.synth import synthesize_videos

        options = SynthOptions(**{field.name: getattr(self, field.name) for field in dataclasses.fields(SynthOptions)})
        report = synthesize_videos(self.dst, options, workers=self.workers, overwrite=self.overwrite)
        print(json_format.dumps(dataclasses.asdict(report)) if self.json else report)
        return 0
