"""Time of a training step of detectors beside their authors' programs, and of soft-NMS beside OpenTAD's.

    git clone https://github.com/happyharrycn/actionformer_release
    git clone https://github.com/dingfengshi/TriDet
    git clone https://github.com/sming256/ETAD
    git clone https://github.com/sming256/OpenTAD
    python benchmarks/detection_steps.py --peers FOLDER_OF_THE_CHECKOUTS [--only etad tridet ...] [--rounds 5] [--json]

A step is the forward pass, the loss, the backward pass, clipping and AdamW, on the sizes of the published settings:
THUMOS-14 (2 videos of 2304 columns, D = 2048) for ActionFormer and TriDet, ActivityNet (16 videos of 128 columns,
D = 512, 495 proposals) for ETAD. vidseg's side pads nothing, as in training. Both sides take the same features and
segments and alternate; the ratio is the median over the rounds of the authors' time / vidseg's. Soft-NMS takes random
candidates of one video, without and with classes; OpenTAD's is its C++ extension, compiled into a temporary folder, and
the selected segments must agree. Without torchvision, the authors' ETAD resamples proposals with `vidseg.ops.align1d`.
A missing checkout is named and left out.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from machine import hardware
from torch import Tensor, nn

import vidseg
from vidseg.losses import DetectionTargets, create_loss
from vidseg.models import create_model
from vidseg.ops import align1d
from vidseg.tasks.detection.suppression import Selected, select_candidates
from vidseg.tasks.detection.suppression_options import SuppressionOptions

Step = Callable[[], object]
FOLDERS = {"actionformer": "actionformer_release", "tridet": "TriDet", "etad": "ETAD", "soft-nms": "OpenTAD"}


@dataclass
class Options:
    """Compare training steps of detectors with the authors' programs."""

    peers: Path
    """Folder of the checkouts."""
    only: tuple[Literal["actionformer", "tridet", "etad", "soft-nms"], ...] = (
        "actionformer",
        "tridet",
        "etad",
        "soft-nms",
    )
    """Rows to measure."""
    rounds: int = 5
    """Number of measurements of each side."""
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Threads of torch."""
    json: bool = False
    """Print one JSON object instead of a table."""


def random_segments(videos: int, length: int, count: int) -> tuple[Tensor, Tensor]:
    """Return segments (B, M, 2) in columns and labels (B, M)."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.rand(videos, count, generator=generator) * 0.8 * length
    lengths = (0.02 + 0.1 * torch.rand(videos, count, generator=generator)) * length
    segments = torch.stack([starts, (starts + lengths).clamp(max=length)], dim=2)
    return segments, torch.randint(0, 20, (videos, count), generator=generator)


def training_step(network: nn.Module, loss_of: Callable[[], Tensor], *, clip: float | None) -> Step:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.05)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of().backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()

    return step


def own_step(name: str, features: Tensor, targets: DetectionTargets, *, clip: float | None) -> Step:
    network = create_model(name, num_classes=20, in_features=features.shape[1]).train()
    loss = create_loss(name, num_classes=20).train()
    mask = torch.ones(features.shape[0], features.shape[2], dtype=torch.bool)
    seeds = list(range(len(features)))

    def loss_of() -> Tensor:
        output = network(features, mask, **loss.model_inputs(targets, mask, seeds=seeds))
        return loss(output, targets, mask, seeds=seeds)

    return training_step(network, loss_of, clip=clip)


@contextlib.contextmanager
def package_of(folder: Path, name: str, **stand_ins: types.ModuleType) -> Iterator[None]:
    """Import the package `name` from a checkout, with modules in place of absent ones; forget all afterwards."""
    sys.path.insert(0, str(folder))
    added = {absent: module for absent, module in stand_ins.items() if not importable(absent)}
    sys.modules |= added
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for module in [one for one in sys.modules if one in added or one.split(".")[0] == name]:
            del sys.modules[module]


def importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError):  # torchvision for another torch fails with RuntimeError
        for module in [one for one in sys.modules if one.split(".")[0] == name]:
            del sys.modules[module]
        return False
    return True


def stand_in(name: str, **values: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(values)
    return module


def point_steps(name: str, folder: Path) -> tuple[Step, Step]:
    """Return the authors' step and vidseg's of ActionFormer or TriDet on THUMOS-14."""
    videos, width, length = 2, 2048, 2304
    features = torch.randn(videos, width, length, generator=torch.Generator().manual_seed(0))
    segments, labels = random_segments(videos, length, 15)
    evaluation = {"nms_1d_cpu": {}, "pandas": {}, "joblib": {"Parallel": None, "delayed": None}}
    absent = {name: stand_in(name, **values) for name, values in evaluation.items()}
    with package_of(folder, "libs", **absent):
        core, modeling = importlib.import_module("libs.core"), importlib.import_module("libs.modeling")
        config = core.load_config(str(folder / "configs" / "thumos_i3d.yaml"))
        network = modeling.make_meta_arch(config["model_name"], **config["model"]).train()
    rows = [
        {
            "video_id": str(row),
            "feats": features[row],
            "segments": segments[row],
            "labels": labels[row],
            "fps": 30.0,
            "duration": 300.0,
            "feat_stride": 4,
            "feat_num_frames": 16,
        }
        for row in range(videos)
    ]
    theirs = training_step(network, lambda: network(rows)["final_loss"], clip=1.0)
    return theirs, own_step(name, features, DetectionTargets(segments, labels), clip=1.0)


def etad_steps(_: str, folder: Path) -> tuple[Step, Step]:
    """Return the authors' step and vidseg's of ETAD on ActivityNet."""
    videos, width, length, proposals = 16, 512, 128, 495
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(videos, width, length, generator=generator)
    segments, labels = random_segments(videos, length, 2)
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign] # their losses call it
    torchvision = stand_in("torchvision", ops=types.SimpleNamespace(roi_align=_roi_align))
    with package_of(folder, "lib", torchvision=torchvision, pandas=stand_in("pandas")):
        detector = importlib.import_module("lib.models.detector.detector")
        losses = importlib.import_module("lib.loss.model_loss")
        misc = importlib.import_module("lib.utils.misc")
        config = types.SimpleNamespace(
            MODEL=types.SimpleNamespace(in_channels=width, roi_size=24, stage=[0.7, 0.8, 0.9]),
            DATASET=types.SimpleNamespace(tscale=length),
            LOSS=types.SimpleNamespace(coef_pem_cls=1, coef_pem_reg=5, coef_pem_bnd=10),
        )
        network, criterion = detector.detector_model(config).train(), losses.TAL_loss(config)
    cells = torch.tensor([(start, end) for start in range(length) for end in range(start + 1, length + 1)]) / length
    chosen = torch.randperm(len(cells), generator=generator)[:proposals]
    anchors = cells[chosen].expand(videos, -1, -1).contiguous()
    relative = segments / length
    edges = torch.arange(length) / length
    starts, ends = (
        torch.stack(
            [
                torch.as_tensor(
                    misc.ioa_with_anchors(
                        torch.stack([one[:, side] - 1.5 / length, one[:, side] + 1.5 / length], dim=1).numpy(),
                        torch.stack([edges, edges + 1 / length], dim=1).numpy(),
                    )
                )
                .max(dim=1)[0]
                .float()
                for one in relative
            ]
        )
        for side in (0, 1)
    )
    boxes = torch.stack(
        [one[torch.as_tensor(misc.iou_with_anchors(one.numpy(), anchors[0].numpy())).argmax(dim=1)] for one in relative]
    )
    theirs = training_step(network, lambda: criterion(network(features, anchors), (starts, ends, boxes))[0], clip=None)
    return theirs, own_step("etad", features, DetectionTargets(segments, labels), clip=None)


def _roi_align(pixels: Tensor, boxes: Tensor, *, output_size: tuple[int, int], aligned: bool) -> Tensor:
    """Resample (B, C, T, 1) over boxes (R, 5) along T, as ETAD calls torchvision's operator."""
    return align1d(pixels[..., 0], boxes[:, [0, 2, 4]], output_size[0]).unsqueeze(3)


def soft_nms_steps(folder: Path, *, by_class: bool) -> tuple[Step, Step]:
    """Return OpenTAD's and vidseg's Gaussian soft-NMS of the candidates of one video."""
    from torch.utils.cpp_extension import load

    source = folder / "opentad" / "models" / "utils" / "post_processing" / "nms"
    sys.modules["nms_1d_cpu"] = load(
        "nms_1d_cpu",
        [str(source / "nms_cpu.cpp")],
        build_directory=tempfile.mkdtemp(),
        extra_cflags=["-O3", "-fopenmp"],
    )
    with package_of(source, "nms"):
        batched_nms = importlib.import_module("nms").batched_nms
    generator = torch.Generator().manual_seed(0)
    starts = torch.rand(2000, generator=generator, dtype=torch.float64) * 200
    lengths = 1 + 20 * torch.rand(2000, generator=generator, dtype=torch.float64)
    segments = torch.stack([starts, starts + lengths], dim=1).float().double()
    scores = torch.rand(2000, generator=generator)
    labels = torch.randint(0, 20 if by_class else 1, (2000,), generator=generator)
    options = SuppressionOptions(nms_by_class=by_class, min_score=0.001, max_detections=200)

    def theirs() -> Any:
        return batched_nms(segments, scores, labels, max_seg_num=200, min_score=0.001, multiclass=by_class, sigma=0.5)

    def ours() -> Selected:
        return select_candidates([Selected(segments, labels, scores)], options, duration=250.0)

    found, expected = ours(), theirs()
    assert torch.allclose(found.segments.float(), expected[0].float(), atol=1e-4), "the selected segments differ"
    assert torch.allclose(found.scores.float(), expected[1].float(), atol=1e-5), "the scores differ"
    return theirs, ours


def compared(name: str, steps: tuple[Step, Step], *, rounds: int) -> dict[str, Any]:
    """Time both sides in turn; the first round warms up."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for side, step in zip(times, steps, strict=True):
            start = time.perf_counter()
            step()
            side.append(time.perf_counter() - start)
    theirs, ours = (side[1:] for side in times)
    ratios = [one / other for one, other in zip(theirs, ours, strict=True)]
    return {
        "row": name,
        "authors_s": statistics.median(theirs),
        "vidseg_s": statistics.median(ours),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def main(options: Options) -> int:
    """Measure and print."""
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.only:
        folder = options.peers / FOLDERS[name]
        if not folder.is_dir():
            print(f"{name}: {folder} not found, left out", file=sys.stderr)
        elif name == "soft-nms":
            for by_class in (False, True):
                steps = soft_nms_steps(folder, by_class=by_class)
                title = "soft-nms, 20 classes" if by_class else "soft-nms"
                rows.append(compared(title, steps, rounds=10 * options.rounds))
        else:
            torch.manual_seed(0)
            steps = etad_steps(name, folder) if name == "etad" else point_steps(name, folder)
            rows.append(compared(name, steps, rounds=options.rounds))
    machine = {
        "machine": f"{hardware()}, {options.threads} threads",
        "versions": f"vidseg {vidseg.__version__}, Python {platform.python_version()}, torch {torch.__version__}",
    }
    if options.json:
        print(json.dumps({**machine, "rows": rows}))
        return 0
    print(machine["machine"], machine["versions"], sep="\n")
    print(f"{'':24}{'authors, ms':>14}{'vidseg, ms':>14}{'ratio':>8}{'lowest':>8}{'highest':>8}")
    for row in rows:
        print(
            f"{row['row']:24}{1e3 * row['authors_s']:14.2f}{1e3 * row['vidseg_s']:14.2f}{row['ratio']:8.2f}"
            f"{min(row['ratios']):8.2f}{max(row['ratios']):8.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
