"""Checkpoints: everything that a run needs to go on, in files that are there whole or not at all.

`<name>_ep-%04d.pth` after that many epochs, `<name>_last.pth` the most recent, `<name>_best.pth` the one with the best
score on held-out videos. Weights that are not finite are never written, and the checksums of a file are compared before
it is read. All hold a dict that `torch.load(..., weights_only=True)` reads:

| entry | content |
| --- | --- |
| `epoch` | finished epochs |
| `batch` | finished batches of the next one |
| `state_dict` | weights, float32 |
| `optimizer`, `scaler` | states of the optimizer and of the loss scale |
| `loader` | position of the loader |
| `sums` | scores of the epoch so far |
| `best` | best score so far, or None |
| `random` | seed of the run; with epoch and batch it decides everything random |
| `schedule` | options of schedule and optimizer, length of the run |
| `record` | what the caller added: options, classes, versions |

With `run_files="experiment"` the last two are `ckpt.pth.tar` and `ckpt_best.pth.tar`, and there are no numbered ones.
They have the entries `step`, `arch` and `best_prec1` (percent) as well, and the weights have the prefix `module.`, so
that training code of that format reads them.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidseg.engine.options import CheckpointOptions
from vidseg.models._torch_file import read_torch_file

__all__ = ["CheckpointFolder", "find_non_finite", "read_checkpoint", "save_checkpoint"]

_WRAPPED = "module."  # prefix that DataParallel adds to the names of weights


def find_non_finite(state: Mapping[str, Any]) -> str | None:
    """Return the name of the first tensor of a state dict with values that are not finite, or None.

    A tensor of zeros and negative infinities alone is a mask, and counts as finite.
    """
    for name, value in state.items():
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            continue
        if not bool(value.isfinite().all()) and not bool(((value == 0) | (value == -math.inf)).all()):
            return name
    return None


def save_checkpoint(path: Path, content: Mapping[str, Any], *, names: Sequence[Path] = ()) -> None:
    """Write a checkpoint under another name, on the disk to the last byte, and rename it.

    Args:
        path: the file.
        content: plain data and tensors.
        names: further names of the file; it has them before it has its own, so that a run that is killed in between and
            resumed from `path` makes them again.

    Raises:
        ValueError: a weight is not finite; an existing file is unchanged.
        OSError: the disk is full or the folder cannot be written; an existing file is unchanged.
    """
    for part in ("state_dict", "trained"):
        name = find_non_finite(content.get(part) or {})
        if name is not None:
            raise ValueError(f"{path}: {name} is not finite, so the checkpoint is not written")
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            try:
                torch.save(dict(content), file)
            except RuntimeError as error:  # torch's, for every error of the disk
                disk = error.__context__
                if not isinstance(disk, OSError):
                    raise
                reason = f"{disk.strerror}; checkpoints of earlier steps are unchanged"
                raise OSError(disk.errno, reason, str(path)) from error
            file.flush()
            os.fsync(file.fileno())
        for further in names:
            _same_file(temporary, further)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of a run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds weights only, is damaged, or is no checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    content = read_torch_file(path)
    missing = {"epoch", "state_dict", "optimizer"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise ValueError(
            f"{path}: a run cannot go on from it, it has no {', '.join(sorted(missing))}; "
            "its weights may serve as --pretrained-3d"
        )
    found: dict[str, Any] = dict(content)
    if found["state_dict"] and all(key.startswith(_WRAPPED) for key in found["state_dict"]):
        found["state_dict"] = {key.removeprefix(_WRAPPED): value for key, value in found["state_dict"].items()}
    return found


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        folder: of the run; made when something is saved.
        name: of the network.
        options: how many are kept.
    """

    def __init__(self, folder: str | Path, name: str, options: CheckpointOptions | None = None):
        self.folder, self.name = Path(folder), name
        self.options = options or CheckpointOptions()

    @property
    def as_experiment(self) -> bool:
        """Whether the files have the names and entries of `run_files="experiment"`."""
        return self.options.run_files == "experiment"

    @property
    def last(self) -> Path:
        """Path of the most recent checkpoint."""
        return self.folder / ("ckpt.pth.tar" if self.as_experiment else f"{self.name}_last.pth")

    @property
    def best(self) -> Path:
        """Path of the checkpoint with the best score on held-out videos."""
        return self.folder / ("ckpt_best.pth.tar" if self.as_experiment else f"{self.name}_best.pth")

    def numbered(self, epoch: int) -> Path:
        """Path of the checkpoint after `epoch` epochs."""
        return self.folder / f"{self.name}_ep-{epoch:04d}.pth"

    def found(self) -> list[Path]:
        """The numbered checkpoints that are there, by epoch."""
        pattern = re.compile(re.escape(self.name) + r"_ep-(\d{4,})\.pth")
        matches = {path: pattern.fullmatch(path.name) for path in self.folder.glob("*.pth")}
        return sorted((path for path, match in matches.items() if match), key=lambda path: int(matches[path][1]))  # type: ignore[index]

    def newest(self) -> Path | None:
        """The checkpoint to go on from: the last one, else the numbered one of the latest epoch, else None."""
        if self.last.is_file():
            return self.last
        numbered = self.found()
        return numbered[-1] if numbered else None

    def save(self, content: Mapping[str, Any], *, numbered: bool = False, best: bool = False) -> None:
        """Write the last checkpoint; it becomes a numbered one and the best one as well, without being written again.

        Killed anywhere in between, the folder holds whole files, and the resumed run completes them.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        names = [self.best] if best else []
        if self.as_experiment:
            numbered, content = False, {**content, **self._published(content)}
        if numbered:  # behind the best one: a run without a last checkpoint continues from a numbered one
            names.append(self.numbered(int(content["epoch"])))
        save_checkpoint(self.last, content, names=names)
        if numbered and self.options.keep is not None:
            for path in self.found()[: -self.options.keep]:
                path.unlink()

    def _published(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The entries that training code of `run_files="experiment"` reads."""
        best = content.get("best")
        return {
            "step": content.get("steps", 0),
            "arch": self.name,
            "best_prec1": 100.0 * best if isinstance(best, (int, float)) else 0.0,
            "state_dict": {f"{_WRAPPED}{key}": value for key, value in content["state_dict"].items()},
        }

    def complete(self) -> None:
        """Give the newest checkpoint the name of the last one too, which a killed process may not have come to."""
        newest = self.newest()
        if newest is not None and newest != self.last:
            _same_file(newest, self.last)

    def remove_leftovers(self) -> None:
        """Delete what processes left that were killed while they wrote."""
        for pattern in (f".{self.name}_*.pth.*", ".ckpt*.pth.tar.*"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def remove_all(self) -> None:
        """Delete the checkpoints of an earlier run."""
        for path in (*self.found(), self.last, self.best):
            path.unlink(missing_ok=True)


def _same_file(source: Path, target: Path) -> None:
    """Let `target` be the file that `source` is: a second name, or a copy where the disk has no hard links."""
    temporary = _temporary(target)
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:  # FAT, some network disks
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")
