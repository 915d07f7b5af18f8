"""`vidseg extract-flow`: optical flow, motion vectors or residuals of a data set, in databases beside its frames."""

from __future__ import annotations

import dataclasses
import json as json_format
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vidseg.tasks.flow.extraction_options import ExtractFlowOptions

__all__ = ["Command"]


@dataclass(frozen=True, kw_only=True)
class Command(ExtractFlowOptions):
    """Compute the motion of each frame of a data set: jpg/<class>/<video>/flow.db beside frames.db.

    The methods raft_basic, raft_small, liteflownet3, fastflownet, dis and tvl1 write flow.db, motion-vectors writes
    motion.db, residual writes residual.db. Run the same command again to resume; finished videos are kept.
    """

    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Folder of a data set with frame databases, or of video files."""
    out: Path | None = None
    """Folder of the databases, for a folder of video files."""
    split: str | None = None
    """Extract the videos of this split only."""
    videos: Path | None = None
    """Folder of the video files that a data set was converted from, if they were moved; for motion-vectors and
    residual."""
    json: bool = False
    """Print the full report as JSON instead of a summary."""

    def run(self) -> int:
        """Extract and print the report; exit status 1 if any video failed or is damaged."""
        from vidseg.tasks.flow.extraction import extract_flow

        names = [one.name for one in dataclasses.fields(ExtractFlowOptions)]
        options = ExtractFlowOptions(**{name: getattr(self, name) for name in names})
        report = extract_flow(self.data, options, out=self.out, split=self.split, videos=self.videos)
        print(json_format.dumps(report.as_dict(), indent=1) if self.json else report)
        if self.json:
            for outcome in report.outcomes:
                if outcome.problem is not None:
                    print(f"vidseg extract-flow: {outcome.source}: {outcome.problem}", file=sys.stderr)
        return 0 if report.ok else 1
