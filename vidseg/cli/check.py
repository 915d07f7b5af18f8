"""`vidseg check`: verify frame databases, upgrade or repair them."""

import json as json_format
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Verify every frame database below PATH by decoding all of its frames; exit status 1 if any has a fault."""

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """A frames.db, or a folder with databases anywhere below."""
    index: bool = False
    """Bring databases of dataset2database 1.2 to the present form, in place: key, frame order, metadata."""
    repair: bool = False
    """Rewrite faulty databases with the frames that can be decoded, write missing n_frames files, and remove what
    killed conversions left behind."""
    json: bool = False
    """Print one JSON object instead of text."""

    def run(self) -> int:
        """Check, and do what was asked."""
        from vidseg.convert.checking import check_databases

        report = check_databases(self.path, index=self.index, repair=self.repair)
        print(json_format.dumps(report.as_dict(), indent=1) if self.json else report)
        return 0 if report.ok else 1
