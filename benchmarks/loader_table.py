"""Tables of the loader benchmark: medians of the rounds, ratios, and joined reports."""

import importlib.metadata
import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import hardware

from vidseg.frames.native import versions

__all__ = ["LEGEND", "join_reports", "machine", "medians", "print_ratios", "print_shape", "ratios"]

PUBLISHED = ("published", "imgaug")
LEGEND = """\
CPU ms: CPU time per clip of all processes and threads. wait: fraction of the pass that the consumer waited. extra: peak
memory added by loading (VmHWM; for workers, relative to their parent), MB. shm: peak use of /dev/shm, MB. KB: size of a
frame on disk, with its smaller copies. off: mean distance of the pixels from an exact reference, gray levels of 0..255
(rows that read the JPEGs of the plans). others: share of all cores that other processes used during the pass. spread:
(slowest round - fastest round) / median. n: number of rounds."""
PACKAGES = (
    *("torch", "numpy", "av", "opencv-python-headless", "decord", "decord2", "torchcodec", "spdl", "simplejpeg"),
    *("webdataset", "mosaicml-streaming", "litdata", "imgaug", "nvidia-dali-cuda120"),
)

Row = dict[str, Any]


def medians(measurements: Sequence[Row]) -> list[Row]:
    """Return a row for each shape, preset and loader: medians of its rounds, and the ratio to the published reader."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for one in measurements:
        groups.setdefault((one["shape"], one["augment"], one["row"]), []).append(one)
    rows = []
    for (shape, _, _), rounds in groups.items():
        row = {key: rounds[0].get(key) for key in ("shape", "augment", "row", "what")}
        rows.append(row)
        if "missing" in rounds[-1]:
            row["missing"] = rounds[-1]["missing"]
            continue
        for key in rounds[0]:
            if key not in row:
                row[key] = None if rounds[0][key] is None else statistics.median(one[key] for one in rounds)
        speeds = [one["clips_per_s"] for one in rounds]
        row["spread"] = (max(speeds) - min(speeds)) / statistics.median(speeds)
        row["rounds"] = len(rounds)
        row["frames_per_s"] = row["clips_per_s"] * int(shape.split("x")[1])
    speed = _speeds(rows)
    for row in rows:
        for reference in PUBLISHED:
            other = speed.get((row["shape"], row["augment"], reference))
            if other and "missing" not in row:
                row["of_published"] = row["clips_per_s"] / other
    return rows


def _speeds(rows: Sequence[Row]) -> dict[tuple[str, str, str], float]:
    return {(row["shape"], row["augment"], row["row"]): row["clips_per_s"] for row in rows if "missing" not in row}


def print_shape(key: tuple[str, str], rows: Sequence[Row]) -> None:
    """Print the rows of a shape and preset."""
    title = f"{key[0]} {key[1]}"
    print(f"\n{title:62}{'clips/s':>9}{'/ published':>12}{'CPU ms':>8}{'wait':>6}{'extra':>7}{'shm':>6}", end="")
    print(f"{'KB':>6}{'off':>6}{'others':>7}{'spread':>8}{'n':>3}")
    for row in rows:
        if "missing" in row:
            print(f"{row['what']:62}  not installed: {row['missing']}")
            continue
        ratio = f"{row['of_published']:.2f}" if "of_published" in row else ""
        off = "" if row["off"] is None else f"{row['off']:.2f}"
        size = "" if row["bytes_per_frame"] is None else f"{row['bytes_per_frame'] / 1000:.1f}"
        print(
            f"{row['what']:62}{row['clips_per_s']:>9.1f}{ratio:>12}{row['cpu_ms_per_clip']:>8.2f}"
            f"{row['wait_share']:>6.0%}{row['extra_mb']:>7.0f}{row['shm_mb']:>6.0f}{size:>6}{off:>6}"
            f"{row['others']:>7.0%}{row['spread']:>8.0%}{row['rounds']:>3}",
            flush=True,
        )


def ratios(rows: Sequence[Row]) -> list[Row]:
    """Return the speed of vidseg divided by that of each other row of the same shape and preset."""
    speed, result = _speeds(rows), []
    for row in rows:
        native = speed.get((row["shape"], row["augment"], "native"))
        if native and "missing" not in row and not row["row"].startswith("native"):
            about = {key: row[key] for key in ("shape", "augment")}
            result.append({**about, "ratio": f"vidseg / {row['what']}", "is": native / row["clips_per_s"]})
    for (shape, augment, name), one in speed.items():
        if name == "native-1" and (shape, augment, "native") in speed:
            many = speed[shape, augment, "native"]
            result.append(
                {"shape": shape, "augment": augment, "ratio": "vidseg, all cores / one thread", "is": many / one}
            )
        if name == "native" and augment and (shape, "", "native") in speed:
            plain = speed[shape, "", "native"]
            result.append(
                {"shape": shape, "augment": augment, "ratio": "vidseg, with / without the preset", "is": one / plain}
            )
    return result


def print_ratios(found: Sequence[Row]) -> None:
    """Print ratios."""
    for one in found:
        print(f"{one['shape'] + ' ' + one['augment']:26}{one['ratio']:76}{one['is']:>7.2f}")


def join_reports(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the report of all measurements of several files."""
    reports = [json.loads(path.read_text()) for path in paths]
    return {
        "machines": list(dict.fromkeys(value for report in reports for value in report["machines"])),
        "data": list(dict.fromkeys(value for report in reports for value in report["data"])),
        "measurements": [one for report in reports for one in report["measurements"]],
    }


def machine(cores: int) -> str:
    """Return the hardware and versions."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    shown = f"{hardware()}, {cores} used, Python {platform.python_version()}"
    return f"machine: {shown}\nversions: {', '.join([*found, versions()])}"
