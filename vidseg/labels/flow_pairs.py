"""Pairs of pictures with true flow in the published folder layouts.

FlyingChairs   [data/]00001_img1.ppm, 00001_img2.ppm, 00001_flow.flo; FlyingChairs_train_val.txt (1 train, 2 test)
Sintel         [training/]clean/<scene>/frame_0001.png, final/..., flow/<scene>/frame_0001.flo
KITTI          [training/]image_2/000000_10.png and 000000_11.png, flow_occ/000000_10.png
your own       as FlyingChairs: <name>_img1.*, <name>_img2.* (ppm, png, jpg) and <name>_flow.flo or .png
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from vidseg.labels.flow_files import FLOW_SUFFIXES, Flow, read_flow, read_picture

__all__ = ["FlowFolder", "FlowPair", "FlowSource", "Passes"]

Passes = Literal["clean", "final", "both"]

_PICTURES = (".ppm", ".png", ".jpg", ".jpeg")
_CHAIRS_SPLITS = ("FlyingChairs_train_val.txt", "chairs_split.txt")
_SINTEL = ("clean", "final")


@dataclass(frozen=True)
class FlowPair:
    """Two pictures and the flow from the first to the second.

    Attributes:
        first: uint8 (H, W, 3), RGB.
        second: uint8 (H, W, 3), RGB.
        flow: float32 (2, H, W), x and y in pixels; zero where it is not known.
        known: bool (H, W), where the flow is known.
        sparse: whether single pixels are known, as from a laser scanner, so that flow must not be interpolated.
    """

    first: npt.NDArray[np.uint8]
    second: npt.NDArray[np.uint8]
    flow: Flow
    known: npt.NDArray[np.bool_]
    sparse: bool = False


class FlowSource(Protocol):
    """Numbered pairs of pictures with true flow."""

    classes: tuple[str, ...]
    """Empty: flow has no classes."""

    def __len__(self) -> int:
        """Number of pairs of an epoch."""

    def pair(self, number: int, epoch: int) -> FlowPair:
        """Return one pair; called by several threads.

        Args:
            number: of the pair.
            epoch: from 0; has an effect on generated pairs only.
        """

    def video_path(self, number: int) -> str:
        """Return the name of a pair, by which a resumed run recognizes its data."""


@dataclass(frozen=True)
class _Files:
    """Files of one pair; pairs of a group show the same scene."""

    first: Path
    second: Path
    flow: Path
    group: str
    split: str = ""


class FlowFolder:
    """The pairs of a folder in one of the layouts of this module.

    Args:
        folder: of the data set.
        passes: Sintel: pictures without (clean) or with (final) motion blur and fog, or both.
        pairs: files of the pairs; None: all of the folder.

    Raises:
        FileNotFoundError: there is no such folder, no pair in it, or a file of a pair is missing; names it.
        ValueError: a file of splits that does not fit the pairs.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, folder: str | Path, *, passes: Passes = "both", pairs: list[_Files] | None = None) -> None:
        self.folder, self.passes = Path(folder), passes
        self.pairs = _find_pairs(self.folder, passes) if pairs is None else pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"FlowFolder({str(self.folder)!r}, {len(self)} pairs)"

    def video_path(self, number: int) -> str:
        """See `FlowSource`."""
        return self.pairs[number].first.relative_to(self.folder).as_posix()

    def pair(self, number: int, epoch: int = 0) -> FlowPair:
        """Read one pair; `epoch` has no effect.

        Raises:
            ValueError: a file is damaged, or the sizes of the three files differ; names them.
        """
        files = self.pairs[number]
        first, second = read_picture(files.first), read_picture(files.second)
        flow, known = read_flow(files.flow)
        if first.shape != second.shape or first.shape[:2] != known.shape:
            sizes = [f"{shape[1]} x {shape[0]}" for shape in (first.shape, second.shape, known.shape)]
            raise ValueError(f"{files.flow}: flow of {sizes[2]} pixels for pictures of {sizes[0]} and {sizes[1]}")
        return FlowPair(first, second, flow, known, sparse=files.flow.suffix == ".png")

    def split(self, share: float, seed: int) -> tuple[FlowFolder, FlowFolder]:
        """Return the training pairs and those that are held out.

        The folder's own file of splits decides where there is one. Otherwise a share of the scenes is held out, drawn
        by the seed: pairs of one scene are on one side.

        Args:
            share: part of the scenes that is held out, in (0, 1).
            seed: of the draw.

        Raises:
            ValueError: one side would be empty.
        """
        held = {pair.group for pair in self.pairs if pair.split == "test"}
        if not held:
            groups = sorted({pair.group for pair in self.pairs})
            order = np.random.default_rng((seed, len(groups))).permutation(len(groups))
            held = {groups[place] for place in order[: max(1, round(share * len(groups)))]}
        sides = [[pair for pair in self.pairs if (pair.group in held) == side] for side in (False, True)]
        if not all(sides):
            raise ValueError(
                f"{self.folder}: {len(sides[0])} training and {len(sides[1])} held-out pairs; a run needs both"
            )
        return (
            FlowFolder(self.folder, passes=self.passes, pairs=sides[0]),
            FlowFolder(self.folder, passes=self.passes, pairs=sides[1]),
        )


def _find_pairs(folder: Path, passes: Passes) -> list[_Files]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of picture pairs with flow")
    for root in (folder, folder / "training"):
        if (root / "flow").is_dir() and any((root / name).is_dir() for name in _SINTEL):
            return _sintel(root, passes)
        if (root / "flow_occ").is_dir() and (root / "image_2").is_dir():
            return _kitti(root)
    for root in (folder, folder / "data"):
        if found := sorted(path for suffix in FLOW_SUFFIXES for path in root.glob(f"*_flow{suffix}")):
            return _named_pairs(folder, root, found)
    raise FileNotFoundError(
        f"{folder}: no pairs with flow; expected <name>_img1.*, <name>_img2.* and <name>_flow.flo as FlyingChairs has "
        "them, or the folders of Sintel (clean, final, flow) or KITTI (image_2, flow_occ)"
    )


def _picture(stem: Path) -> Path:
    found = next((path for suffix in _PICTURES if (path := stem.with_name(stem.name + suffix)).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{stem}: no picture of this name ({', '.join(_PICTURES)}), but there is flow for it")
    return found


def _named_pairs(folder: Path, root: Path, flows: list[Path]) -> list[_Files]:
    splits = _chairs_split(folder, len(flows))
    pairs = []
    for flow, split in zip(flows, splits, strict=True):
        name = flow.stem.removesuffix("_flow")
        first, second = (_picture(root / f"{name}_img{number}") for number in (1, 2))
        pairs.append(_Files(first, second, flow, name, split))
    return pairs


def _chairs_split(folder: Path, count: int) -> list[str]:
    """The split of each pair: one line with 1 (training) or 2 (test) for each, in the order of the names."""
    path = next((folder / name for name in _CHAIRS_SPLITS if (folder / name).is_file()), None)
    if path is None:
        return [""] * count
    lines = path.read_text(encoding="utf-8").split()
    wrong = next((number for number, line in enumerate(lines, 1) if line not in ("1", "2")), None)
    if wrong is not None:
        raise ValueError(f"{path}:{wrong}: {lines[wrong - 1]!r:.40}; expected 1 (training) or 2 (test)")
    if len(lines) != count:
        raise ValueError(f"{path}: {len(lines)} lines for {count} pairs; expected one line for each pair")
    return ["test" if line == "2" else "train" for line in lines]


def _sintel(root: Path, passes: Passes) -> list[_Files]:
    pairs = []
    for name in _SINTEL if passes == "both" else (passes,):
        if not (root / name).is_dir():
            if passes == "both":
                continue
            raise FileNotFoundError(f"{root / name}: no such folder, asked for with passes={passes!r}")
        for flow in sorted((root / "flow").glob("*/frame_*.flo")):
            scene, number = flow.parent.name, flow.stem.removeprefix("frame_")
            if not number.isdigit():
                raise ValueError(f"{flow}: expected a name such as frame_0001.flo")
            following = f"frame_{int(number) + 1:0{len(number)}d}"
            first, second = (_picture(root / name / scene / stem) for stem in (flow.stem, following))
            pairs.append(_Files(first, second, flow, scene))
    if not pairs:
        raise FileNotFoundError(f"{root / 'flow'}: no <scene>/frame_0001.flo in it")
    return pairs


def _kitti(root: Path) -> list[_Files]:
    flows = sorted((root / "flow_occ").glob("*_10.png"))
    if not flows:
        raise FileNotFoundError(f"{root / 'flow_occ'}: no 000000_10.png in it")
    images = root / "image_2"
    return [
        _Files(_picture(images / flow.stem), _picture(images / f"{flow.stem.removesuffix('_10')}_11"), flow, flow.stem)
        for flow in flows
    ]
