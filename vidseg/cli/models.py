"""`vidseg models`, also spelled `vidseg list`: the registered networks, their cost, and what is published of them."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict, dataclass
from inspect import Parameter
from typing import Annotated, Any

from tyro.conf import Positional, arg

__all__ = ["Command", "describe_input"]


@dataclass(frozen=True)
class Command:
    """List networks with task, parameters, multiply-adds, input, published score and file: `vidseg models "tsm_*"`.

    For a single network, also its options and all of its publications. A file is used by `vidseg train --pretrained`
    with the name in front of it, from the folder VIDSEG_CACHE, else from torch.hub's folder of checkpoints.
    """

    pattern: Annotated[Positional[str], arg(metavar="[PATTERN]")] = "*"
    """Shell pattern of names in quotes, such as "srtg_*"."""
    task: str | None = None
    """Only networks for this task: recognition, segmentation, detection, streaming or flow."""
    num_classes: int = 400
    """Number of classes, which affects the numbers of parameters and multiply-adds; others than 400 are counted now,
    which takes seconds for each network. No effect on optical-flow networks."""
    json: bool = False
    """Print a JSON list."""

    def run(self) -> int:
        """Print a table, or a JSON list; exit status 1 if no network matches."""
        from vidseg.models import list_models

        names = list_models(self.pattern, task=self.task)
        rows = [self._row(name) for name in names]
        if self.json:
            print(json_format.dumps(rows, indent=1))
        elif rows:
            print("\n".join(_table(rows)))
        if len(rows) == 1 and not self.json:
            options = ", ".join(f"{name}={value}" for name, value in rows[0]["options"].items())
            print(f"options: {options or 'none'}")
            print("\n".join(_publications(rows[0]["published"])))
        return 0 if names else 1

    def _row(self, name: str) -> dict[str, Any]:
        from vidseg.models import model_input_spec, model_options, model_task
        from vidseg.models._counts import cost_of
        from vidseg.models._published import published_weights

        parameters, macs = cost_of(name, num_classes=self.num_classes)
        return {
            "name": name,
            "task": model_task(name),
            "parameters": parameters,
            "mega_macs": macs,
            "input": model_input_spec(name).as_dict(),
            "options": {key: None if value is Parameter.empty else value for key, value in model_options(name).items()},
            "published": [asdict(one) | {"file": one.file} for one in published_weights(name)],
        }


def _table(rows: list[dict[str, Any]]) -> list[str]:
    cells = [("network", "task", "parameters", "GMAC", "input", "published score", "SHA-256", "file")]
    for row in rows:
        first = row["published"][0] if row["published"] else None
        score = "" if first is None or not first["score"] else f"{first['data']}: {first['score']} ({first['source']})"
        cells.append(
            (
                row["name"],
                row["task"],
                f"{row['parameters']:,}",
                f"{row['mega_macs'] / 1000:.2f}",
                describe_input(row["input"]),
                score,
                first["sha256"] if first else "",
                first["address"] if first else "",
            )
        )
    widths = [max(len(line[column]) for line in cells) for column in range(7)]
    lines = []
    for line in cells:
        parts = [
            f"{text:>{width}}" if column in (2, 3) else f"{text:{width}}"
            for column, (text, width) in enumerate(zip(line, widths, strict=False))
        ]
        lines.append("  ".join([*parts, line[7]]).rstrip())
    return lines


def _publications(published: list[dict[str, Any]]) -> list[str]:
    lines = []
    for one in published:
        score = f"{one['score']} ({one['source']})" if one["score"] else one["source"]
        lines.append(f"published, {one['data']}: {score}")
        if one["address"]:
            lines.append(
                f"    --pretrained {one['data']}  {one['address']}  SHA-256 {one['sha256'] or 'not published'}"
            )
    return lines or ["published: nothing known"]


def describe_input(spec: dict[str, Any]) -> str:
    """Return a short description of an input spec."""
    if spec["modality"] == "features":
        return "features"
    unit = "segments" if spec["sampling"] == "segments" else "frames"
    step = f", interval {spec['interval']}" if spec["sampling"] == "dense" and spec["interval"] > 1 else ""
    return f"{spec['frames']} {unit} {spec['size']}x{spec['size']} {spec['modality']}{step}"
