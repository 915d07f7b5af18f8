"""HTML report of a tested run of any task: scores, curves, classes, confusions, mistakes with pictures, commands.

The page is a single file without scripts and external resources; styles, figures and pictures are embedded. It is built
from the file of a test, the score tables and `options.json` of a run, or of each split of a cross-validation.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from vidseg.frames.whole_file import write_text
from vidseg.plots.detection_page import detection_parts
from vidseg.plots.flow_page import flow_parts
from vidseg.plots.frame_label_page import frame_label_parts
from vidseg.plots.page_parts import command_list, page, picture
from vidseg.plots.recognition_page import recognition_parts

__all__ = ["write_report"]

_TRAIN = {
    "recognition": "",
    "segmentation": "segmentation ",
    "streaming": "stream ",
    "detection": "detection ",
    "flow": "flow ",
}
"""Name of each task for `vidseg train`."""


def write_report(
    run: str | Path,
    out: str | Path,
    *,
    notes: Sequence[tuple[str, Sequence[str]]] = (),
    pictures: Sequence[tuple[str, Path]] = (),
    commands: Sequence[str] | None = None,
) -> Path:
    """Write the HTML report of a tested run.

    Args:
        run: folder of a run with `test.json`, of a cross-validation, or the JSON file of one test of a run.
        out: HTML file; an existing file is replaced atomically.
        notes: (heading, paragraphs) of plain text, shown above the commands, such as decisions and next steps.
        pictures: (heading, .png file), shown above the commands.
        commands: commands that repeat the result; None: `vidseg train` and `vidseg test` with the options of the run.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: the run has not been tested.
        ValueError: a file is not a test of a run; the message names the file.
    """
    run, out = Path(run), Path(out)
    files = _tests(run)
    folders, tests = [path.parent for path in files], [_read(path) for path in files]
    first, task = tests[0], tests[0]["task"]
    other = next((file for file, test in zip(files, tests, strict=True) if test["task"] != task), None)
    if other is not None:
        raise ValueError(f"{other}: not a test of {task}, unlike {files[0]}; write one report for each run")
    title = f"{first['network']} on {Path(first['dataset']).name}"
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="muted">{escape(str(folders[0].resolve()))}</p>']
    if len(tests) > 1:
        parts[-1] = f'<p class="muted">{escape(str(run.resolve()))}</p>'
    if task == "recognition":
        parts += recognition_parts(folders[0], first)
    elif task == "detection":
        parts += detection_parts(folders[0], first, suffix=files[0].stem.removeprefix("test"))
    elif task == "flow":
        parts += flow_parts(folders[0], first, suffix=files[0].stem.removeprefix("test"))
    else:
        parts += frame_label_parts(folders, tests)
    for heading, file in pictures:
        parts += [f"<h2>{escape(heading)}</h2>", picture(file, text=heading)]
    for heading, paragraphs in notes:
        parts += [f"<h2>{escape(heading)}</h2>", *(f"<p>{escape(text)}</p>" for text in paragraphs)]
    shown = command_list(_commands(folders, task) if commands is None else commands)
    parts += ["<h2>Commands that repeat this result</h2>", shown] if shown else []
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page(title, parts))
    return out


def _tests(run: Path) -> list[Path]:
    """Return the files of tests of a run, of the splits of a cross-validation, or the given file itself."""
    if run.suffix == ".json" and run.is_file():
        return [run]
    if (run / "test.json").is_file():
        return [run / "test.json"]
    files = sorted(run.glob("*/test.json"))
    if not files:
        raise FileNotFoundError(f"{run}: neither test.json nor <split>/test.json found; train and test the model first")
    return files


def _read(path: Path) -> dict[str, Any]:
    try:
        test = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(test, dict) or test.get("task") not in _TRAIN:
        raise ValueError(f"{path}: not a test of a run; run `vidseg test {path.parent}` again")
    return test


def _commands(folders: Sequence[Path], task: str) -> list[str]:
    """Return the commands that train and test each run again; none for a run without a record."""
    commands = []
    for folder in folders:
        if (folder / "options.json").is_file():
            record, again = shlex.quote(str(folder / "options.json")), shlex.quote(f"{folder}_again")
            commands.append(f"vidseg train {_TRAIN[task]}--config {record} --out {again}")
            commands.append(f"vidseg test {again}")
            commands.append(f"vidseg plot report {again}")
    return commands
