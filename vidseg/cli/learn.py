"""`vidseg learn`: from a folder of videos to a tested network and a report."""

from __future__ import annotations

import dataclasses
import json as json_format
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vidseg.learn import LearnOptions

__all__ = ["Command"]


@dataclass(frozen=True)
class Command(LearnOptions):
    """Train and test a network on the videos of a folder, and write OUT/report.html.

    VIDEOS holds class folders, <class>/<video>, or any videos with a label file. The command converts them, makes
    splits, chooses task, network and training for their number, trains, tests, and prints each decision with the option
    that changes it. Killed anywhere, the same command continues; what changed is done again.
    """

    videos: Annotated[Positional[Path], arg(metavar="VIDEOS")] = dataclasses.field(kw_only=True)
    """Folder of the videos."""
    json: bool = False
    """Print the result as one JSON object; decisions go to stderr."""

    def run(self) -> int:
        """Learn; exit status 1 if any video could not be used, each named."""
        from vidseg.learn.learning import learn

        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(LearnOptions)}

        def say(line: str) -> None:
            print(line, file=sys.stderr if self.json else sys.stdout, flush=True)

        result = learn(self.videos, LearnOptions(**values), say=say)
        if self.json:
            print(json_format.dumps(dataclasses.asdict(result), default=str))
        else:
            print("\n".join(["", "What to do next:", *(f"  - {line}" for line in result.advice), ""]))
            print(result.report)
        for one in result.failed:
            print(f"vidseg learn: {one}", file=sys.stderr)
        return 1 if result.failed else 0
