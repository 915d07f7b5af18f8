"""`vidseg list`: the models there are."""

import json as json_format
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """List what has names: `vidseg list models "srtg_*"`."""

    what: Annotated[Positional[Literal["models"]], arg(metavar="models")]
    """What to list."""
    pattern: Annotated[Positional[str], arg(metavar="PATTERN")] = "*"
    """Only names that fit this shell pattern."""
    task: str | None = None
    """Only networks for this task: recognition, flow_recognition, segmentation or streaming."""
    json: bool = False
    """Print a JSON list."""

    def run(self) -> int:
        """Print the names; exit status 1 if none fits."""
        from vidseg.models import list_models

        names = list_models(self.pattern, task=self.task)
        print(json_format.dumps(names) if self.json else "\n".join(names))
        return 0 if names else 1
