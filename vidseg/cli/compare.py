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

    With --speed the arguments are models in any form: runs, checkpoints, and files of `vidseg export` and `vidseg
    compress`. Each is tested, its decisions are compared with those of the first one, and latency and memory are
    measured on the CPU.
    """

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN RUN ...")]
    """Folders of runs that `vidseg test` has evaluated, or JSON files of tests; with --speed runs, checkpoints and
    exported models."""
    speed: bool = False
    """Compare models: scores, agreement, size, operations, latency and memory."""
    dataset: str | None = None
    """With --speed: data set to test on; default: that of the run."""
    split: str | None = None
    """With --speed: split to test on; default: the test split."""
    batches: tuple[int, ...] = (1, 8)
    """With --speed: batch sizes to measure."""
    threads: tuple[int, ...] = (1,)
    """With --speed: numbers of threads to measure."""
    rounds: int = 20
    """With --speed: calls of each measurement."""
    out: Path | None = None
    """File for the gains by class: .csv for all runs; .png, .pdf or .svg for the second run against the first."""
    json: bool = False
    """Print one JSON object instead of the tables."""

    def run(self) -> int:
        """Compare, print, and write the gains."""
        if self.speed:
            return self._compare_models()
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

    def _compare_models(self) -> int:
        from vidseg.export.model_comparison import compare_models

        found = compare_models(
            self.runs,
            dataset=self.dataset,
            split=self.split,
            batches=self.batches,
            threads=self.threads,
            rounds=self.rounds,
        )
        if self.out is not None:
            from vidseg.plots.model_scatter import plot_models

            score = next(iter(found.models[0].scores))
            first = found.models[0].latencies[0]
            plot_models(
                [f"{Path(one.source).stem} ({one.format})" for one in found.models],
                [one.latencies[0].p50 for one in found.models],
                [one.scores[score] for one in found.models],
                [float(one.size) for one in found.models],
                self.out,
                score=score,
                latency=f"median latency, batch {first.batch}, threads {first.threads}, ms",
                title=found.task,
            )
        print(json_format.dumps(found.as_dict()) if self.json else found)
        return 0
