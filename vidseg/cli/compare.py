"""`vidseg compare`: scores of several tested runs side by side."""

from __future__ import annotations

import json as json_format
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Compare tested runs of one task on the same videos.

    Prints the scores of every run, and for the first run against each other one: differences of the scores with
    their significance, videos that only one run classifies correctly, and gains of classes. The difference in top-1 has
    an exact McNemar test and a paired bootstrap interval over videos; frame accuracy and edit score have bootstrap
    intervals; mAP has no test. Runs that were tested on other videos or classes are refused.
    """

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN RUN ...")]
    """Folders of runs that `vidseg test` has evaluated, or JSON files of tests."""
    out: Path | None = None
    """File for the gains by class: .csv for all runs; .png, .pdf or .svg for the second run against the first."""
    json: bool = False
    """Print one JSON object instead of the tables."""

    def run(self) -> int:
        """Compare, print, and write the gains."""
        from vidseg.engine.comparison import compare_runs, write_gains

        found = compare_runs(self.runs)
        if self.out is not None:
            if self.out.suffix == ".csv":
                write_gains(self.out, found)
            else:
                from vidseg.plots import plot_class_gains

                pair = found.pairs[0]
                title = f"{pair.run} minus {next(iter(found.scores))}"
                plot_class_gains(pair.class_gains, self.out, title=title, unit=f"gain in {pair.class_score}")
        print(json_format.dumps(found.summary(), ensure_ascii=False) if self.json else found)
        return 0
