"""`vidseg list`: the registered networks."""

import json as json_format
from dataclasses import dataclass
from inspect import Parameter
from typing import Annotated, Any

from tyro.conf import Positional, arg

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """List networks with task, parameters and input; for a single network also its options: `vidseg list "srtg_*"`."""

    words: Annotated[Positional[tuple[str, ...]], arg(metavar="[models] [PATTERN]")] = ()
    """Shell pattern of names; default: all."""
    task: str | None = None
    """Only networks for this task: recognition, flow_recognition, segmentation, detection or
    streaming."""
    num_classes: int = 400
    """Number of classes, which affects the number of parameters."""
    json: bool = False
    """Print a JSON list."""

    def run(self) -> int:
        """Print a table, or a JSON list; exit status 1 if no network matches."""
        from vidseg.models import list_models

        patterns = self.words[1:] if self.words[:1] == ("models",) else self.words
        if len(patterns) > 1:
            raise ValueError(
                f"expected one pattern, found {len(patterns)}: {' '.join(patterns)}; quote patterns such as 'srtg_*'"
            )
        names = list_models(patterns[0] if patterns else "*", task=self.task)
        rows = [self._row(name) for name in names]
        print(json_format.dumps(rows, indent=1) if self.json else "\n".join(_table(rows)))
        if len(rows) == 1 and not self.json:
            options = ", ".join(f"{name}={value}" for name, value in rows[0]["options"].items())
            print(f"options: {options or 'none'}")
        return 0 if names else 1

    def _row(self, name: str) -> dict[str, Any]:
        from vidseg.models import model_input_spec, model_options, model_task
        from vidseg.models._profile import count_parameters

        return {
            "name": name,
            "task": model_task(name),
            "parameters": count_parameters(name, num_classes=self.num_classes),
            "input": model_input_spec(name).as_dict(),
            "options": {key: None if value is Parameter.empty else value for key, value in model_options(name).items()},
        }


def _table(rows: list[dict[str, Any]]) -> list[str]:
    cells = [("network", "task", "parameters", "input")]
    for row in rows:
        cells.append((row["name"], row["task"], f"{row['parameters']:,}", _input(row["input"])))
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    if len(cells) == 1:
        return []
    return [
        f"{name:{widths[0]}}  {task:{widths[1]}}  {count:>{widths[2]}}  {seen}" for name, task, count, seen in cells
    ]


def _input(spec: dict[str, Any]) -> str:
    """Return a short description of an input spec."""
    if spec["modality"] == "features":
        return "features"
    unit = "segments" if spec["sampling"] == "segments" else "frames"
    step = f", interval {spec['interval']}" if spec["sampling"] == "dense" and spec["interval"] > 1 else ""
    return f"{spec['frames']} {unit} {spec['size']}x{spec['size']} {spec['modality']}{step}"
