"""Search for hyper-parameters and architectures: many training runs, each chosen from the results of the earlier ones.

The names below are imported on first use, so importing this package imports neither torch nor Optuna.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidseg.search.architecture import architecture_parameters
    from vidseg.search.elastic import SuperNetwork
    from vidseg.search.one_shot import remove_one_shot, search_one_shot
    from vidseg.search.one_shot_options import OneShotOptions
    from vidseg.search.parameter import Parameter
    from vidseg.search.program import TrainProgram
    from vidseg.search.repeating import Repetition, repeat_best
    from vidseg.search.report import write_search_report
    from vidseg.search.results import SearchResults, TrialResult, read_results
    from vidseg.search.search_options import SearchOptions
    from vidseg.search.searching import search
    from vidseg.search.space import SearchSpace
    from vidseg.search.space_file import bound_space, read_space

_HOME = {
    "OneShotOptions": "one_shot_options",
    "Parameter": "parameter",
    "Repetition": "repeating",
    "SearchOptions": "search_options",
    "SearchResults": "results",
    "SearchSpace": "space",
    "SuperNetwork": "elastic",
    "TrainProgram": "program",
    "TrialResult": "results",
    "architecture_parameters": "architecture",
    "bound_space": "space_file",
    "read_results": "results",
    "read_space": "space_file",
    "remove_one_shot": "one_shot",
    "repeat_best": "repeating",
    "search": "searching",
    "search_one_shot": "one_shot",
    "write_search_report": "report",
}

__all__ = [
    "OneShotOptions",
    "Parameter",
    "Repetition",
    "SearchOptions",
    "SearchResults",
    "SearchSpace",
    "SuperNetwork",
    "TrainProgram",
    "TrialResult",
    "architecture_parameters",
    "bound_space",
    "read_results",
    "read_space",
    "remove_one_shot",
    "repeat_best",
    "search",
    "search_one_shot",
    "write_search_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"vidseg.search.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
