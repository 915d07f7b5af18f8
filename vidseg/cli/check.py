"""Verification, upgrade and repair of frame databases (`vidseg check`)."""

import json as json_format
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Verify every database of frames or flow below PATH by decoding all rows; exit status 1 if any has a fault."""

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """A frames.db, flow.db, motion.db or residual.db, or a folder with databases at any depth."""
    index: bool = False
    """Upgrade databases of dataset2database 1.2 in place: integer key, frames in order, metadata. Temporary files of
    interrupted conversions are deleted."""
    repair: bool = False
    """Rewrite faulty databases with the frames that can be decoded, write missing n_frames files, and delete temporary
    files of interrupted conversions."""
    json: bool = False
    """Print one JSON object instead of text."""

    def run(self) -> int:
        """Verify the databases, apply the requested changes and print the report."""
        from vidseg.convert.checking import check_databases

        report = check_databases(self.path, index=self.index, repair=self.repair)
        print(json_format.dumps(report.as_dict(), indent=1) if self.json else report)
        return 0 if report.ok else 1
