"""The page of all networks, from the registry and the published weights that the library knows."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

from vidseg.cli.models import Command, describe_input

__all__ = ["zoo_page"]

TITLES = {
    "recognition": "Action recognition",
    "segmentation": "Segmentation of features",
    "streaming": "Segmentation of streams",
    "detection": "Temporal action detection",
    "flow": "Optical flow",
}


def zoo_page() -> str:
    """Return one table per task: network, cost, input, options, published scores and weights."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        Command(json=True).run()
    rows = json.loads(printed.getvalue())
    lines = [
        "# Model zoo",
        "",
        "`vidseg models` prints these tables. GMAC are multiply-adds of one input of the given shape with 400 classes.",
        "Networks for features are counted with 2048 features and 1000 columns (detection: 128). Published scores are",
        "those of the named source, not measured here. `vidseg.load_weights` and `--pretrained` read these files.",
        "",
    ]
    for task, title in TITLES.items():
        lines += [
            f"## {title}",
            "",
            "| network | parameters | GMAC | input | options |",
            "| --- | ---: | ---: | --- | --- |",
        ]
        lines += [_network(row) for row in rows if row["task"] == task] + [""]
        published = [line for row in rows if row["task"] == task for line in _published(row)]
        if published:
            lines += ["| network | data | published score | source | weights |", "| --- | --- | --- | --- | --- |"]
            lines += [*published, ""]
    return "\n".join(lines)


def _network(row: dict[str, Any]) -> str:
    options = ", ".join(f"`{name}={value}`" for name, value in row["options"].items())
    cost = f"{row['parameters']:,} | {row['mega_macs'] / 1000:.2f}"
    return f"| `{row['name']}` | {cost} | {describe_input(row['input'])} | {options} |"


def _published(row: dict[str, Any]) -> list[str]:
    lines = []
    for one in row["published"]:
        weights = f"[file]({one['address']})" if one["address"] else ""
        if one["sha256"]:
            weights += f" SHA-256 `{one['sha256'][:12]}`"
        lines.append(f"| `{row['name']}` | {one['data']} | {one['score']} | {one['source']} | {weights} |")
    return lines
