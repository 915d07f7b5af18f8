"""`vidseg search`: hyper-parameter search over any options of `vidseg train`."""

from __future__ import annotations

import dataclasses
import json as json_format
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from vidseg.search import SearchOptions
from vidseg.tasks.flow.options import SHAPES

if TYPE_CHECKING:
    from vidseg.search import SearchSpace, TrainProgram

__all__ = ["Command"]


@dataclass(frozen=True)
class Command(SearchOptions):
    """Search the best values of options of `vidseg train`; prints a table of the best trials and the report's path.

    SPACE is a YAML file with the options that all trials share, the searched options with their values or ranges, and
    the score to improve; see docs/search.md. Each trial is an ordinary run in OUT/trials/<number>. Killed anywhere, the
    same command continues: finished trials are kept, and running ones continue from their checkpoints.
    """

    space: Annotated[Positional[Path], arg(metavar="SPACE.yaml")] = dataclasses.field(kw_only=True)
    """YAML file of the search."""
    data: Annotated[Positional[Path], arg(metavar="DATA")] = dataclasses.field(kw_only=True)
    """Folder of the data set, as for `vidseg train`; for flow also the word shapes."""
    json: bool = False
    """Print the results as one JSON object."""

    def run(self) -> int:
        """Search, repeat, write the report; exit status 1 if no trial is complete."""
        from vidseg.cli.train import searched_program
        from vidseg.search import architecture_parameters, bound_space, read_space

        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(SearchOptions)}
        options = SearchOptions(**values)
        content = read_space(self.space)
        try:
            program = searched_program(str(content.get("program") or ""))
        except ValueError as error:
            raise ValueError(f"{self.space}: {error}") from error
        if self.seed is not None:
            content = {**content, "seed": self.seed}
        declared = None
        if content.get("architecture") is not None:
            try:
                declared = architecture_parameters(str(content["architecture"]))
            except ValueError as error:
                raise ValueError(f"{self.space}: architecture: {error}") from error
        space = bound_space(content, self.space, program, declared=declared)
        if not self.data.is_dir() and not (program.task == "flow" and str(self.data) == SHAPES):
            raise FileNotFoundError(f"{self.data}: no such folder of a data set")
        out = options.folder(self.space, self.data)
        if space.method == "one-shot":
            return self._one_shot(space, program, out)
        from vidseg.search import repeat_best, search, write_search_report

        options = dataclasses.replace(options, jobs=options.jobs or space.jobs)
        results = search(space, self.data, program=program, options=options, out=out)
        repetition = None
        if options.repeat and results.best is not None:
            repetition = repeat_best(results, program, seeds=options.repeat, options=options)
        page = write_search_report(results, out / "report.html", repetition=repetition)
        if self.json:
            content = results.summary() | {"report": str(page)}
            print(json_format.dumps(content | ({} if repetition is None else {"repeat": repetition.summary()})))
        else:
            print(results)
            if repetition is not None:
                print(f"\n{repetition}")
            print(page)
        return 0 if results.complete else 1

    def _one_shot(self, space: SearchSpace, program: TrainProgram, out: Path) -> int:
        """Train a super-network, evaluate its networks, write the report."""
        from vidseg.search import remove_one_shot, search_one_shot, write_search_report

        for name in ("time", "jobs", "repeat", "ray", "cpus_per_trial", "gpus_per_trial"):
            if getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)} has no effect on a one-shot search")
        if self.overwrite:
            remove_one_shot(out)
        space = dataclasses.replace(space, trials=self.trials or space.trials)
        options = program.resolve(program.given(space.options))
        results = search_one_shot(space, self.data, options=options, out=out)
        page = write_search_report(results, out / "report.html")
        print(json_format.dumps(results.summary() | {"report": str(page)}) if self.json else f"{results}\n{page}")
        return 0
