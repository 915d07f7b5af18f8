"""Speed of networks beside the modules of their authors: forward and backward passes in one run.

    python benchmarks/model_peers.py [--peers FOLDER] [--networks slowfast_r50_4x16 "x3d_*"] [--quick] [--json FILE]

Both modules have the same weights and get the same clips. Their logits are compared in evaluation mode first, then
their passes alternate, with the order changed every round. A ratio is the median over the rounds of the time of the
peer divided by that of the network of vidseg: above 1, vidseg is faster. Peers are installed packages or source trees
in FOLDER, which is not changed:

    git clone https://github.com/facebookresearch/pytorchvideo FOLDER/pytorchvideo    (needs fvcore and iopath)
    git clone https://github.com/mit-han-lab/temporal-shift-module FOLDER/temporal-shift-module
    git clone https://github.com/piergiaj/pytorch-i3d FOLDER/pytorch-i3d

The transformers' peers are the modules of the package transformers, with their scaled-dot-product attention where they
have one.

The program names the peers that it does not find and continues with the others.
"""

import argparse
import contextlib
import fnmatch
import importlib
import io
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from machine import hardware
from torch import Tensor, nn

from vidseg.models import create_model, load_weights

Row = dict[str, Any]
Shape = tuple[int, int, int]
CLASSES = 400


class AbsentError(Exception):
    """A module of a peer cannot be imported."""


@dataclass(frozen=True)
class Peer:
    """Module that computes the same as a network of vidseg.

    Attributes:
        source: name of the publication.
        build: function of (frames, height, width) that returns the module, or raises AbsentError.
        clip: frames, height and width of the published training clips.
        quick: the same for a quick run.
        options: options of the network of vidseg.
        arguments: arguments of the module for clips (B, 3, T, H, W), given the network of vidseg.
        logits: logits (B, K) from the output of the module.
        weights: state dict of the module, as `load_weights` takes it.
        grid: the network of vidseg has the options `frames` and `size`, which are those of the clips.
    """

    source: str
    build: Callable[[Shape], nn.Module]
    clip: Shape
    quick: Shape
    options: Mapping[str, Any] = field(default_factory=dict)
    arguments: Callable[[nn.Module, Tensor], tuple[Any, ...]] = lambda _, clips: (clips,)
    logits: Callable[[Any, Tensor], Tensor] = lambda output, _: output
    weights: Callable[[nn.Module], Mapping[str, Tensor]] = lambda module: module.state_dict()
    grid: bool = False


def imported(name: str) -> ModuleType:
    """Import a module of a peer."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever foreign code raises while it is imported
        raise AbsentError(
            f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error


# torchvision


def torchvision_video(name: str) -> Peer:
    def build(_: Shape) -> nn.Module:
        return getattr(imported("torchvision.models.video"), name)(num_classes=CLASSES)

    return Peer("torchvision", build, (16, 112, 112), (8, 56, 56))


def torchvision_image(name: str) -> Peer:
    """An image network on all frames, with averaged logits."""

    def build(_: Shape) -> nn.Module:
        options = {"dropout": 0.0} if name == "mobilenet_v2" else {}
        return getattr(imported("torchvision.models"), name)(num_classes=CLASSES, **options)

    return Peer(
        "torchvision, frame by frame",
        build,
        (8, 224, 224),
        (4, 64, 64),
        {"dropout": 0.0},
        arguments=lambda _, clips: (clips.transpose(1, 2).flatten(0, 1),),
        logits=lambda output, clips: output.unflatten(0, (len(clips), -1)).mean(dim=1),
    )


# PyTorchVideo


def resnet_of_pytorchvideo(name: str, frames: int) -> Peer:
    def build(clip: Shape) -> nn.Module:
        pooled = clip[0] // (1 if name == "slow_r50" else 2)
        kernel = (pooled, -(-clip[1] // 32), -(-clip[2] // 32))
        source = imported("pytorchvideo.models.resnet").create_resnet
        three, one = (3, 1, 1), (1, 1, 1)
        kernels = {
            "slow_r50": (one, one, three, three),
            "c2d_r50": (one, one, one, one),
            "i3d_r50": (three, [three, one], [three, one], [one, three]),
        }[name]
        return source(
            model_num_class=CLASSES,
            dropout_rate=0.0,
            stem_conv_kernel_size=(5 if name == "i3d_r50" else 1, 7, 7),
            stage1_pool=None if name == "slow_r50" else nn.MaxPool3d,
            stage_conv_a_kernel_size=kernels,
            head_pool_kernel_size=kernel,
        )

    return Peer("PyTorchVideo", build, (frames, 224, 224), (4, 64, 64), {"dropout": 0.0})


def slowfast_of_pytorchvideo(depth: int, frames: int, alpha: int, kernel: int) -> Peer:
    def build(clip: Shape) -> nn.Module:
        side = (-(-clip[1] // 32), -(-clip[2] // 32))
        return imported("pytorchvideo.models.slowfast").create_slowfast(
            model_depth=depth,
            model_num_class=CLASSES,
            dropout_rate=0.0,
            slowfast_channel_reduction_ratio=(8,),
            slowfast_fusion_conv_kernel_size=(kernel, 1, 1),
            slowfast_fusion_conv_stride=(alpha, 1, 1),
            head_pool_kernel_sizes=((clip[0] // alpha, *side), (clip[0], *side)),
        )

    return Peer(
        "PyTorchVideo",
        build,
        (frames, 224, 224),
        (16, 64, 64),
        {"dropout": 0.0},
        arguments=lambda model, clips: (list(model.pathways(clips)),),  # type: ignore[operator]
    )


def x3d_of_pytorchvideo(clip: Shape, depth: float) -> Peer:
    def build(clip: Shape) -> nn.Module:
        return imported("pytorchvideo.models.x3d").create_x3d(
            input_clip_length=clip[0],
            input_crop_size=clip[1],
            model_num_class=CLASSES,
            dropout_rate=0.0,
            depth_factor=depth,
        )

    return Peer("PyTorchVideo", build, clip, (4, 96, 96), {"dropout": 0.0})


# transformers


def of_transformers(kind: str, clip: Shape, **sizes: int) -> Peer:
    """A module `<kind>ForVideoClassification`, without V-JEPA 2's predictor.

    Args:
        kind: prefix of the names of its classes.
        clip: frames, height and width of the published clips.
        **sizes: fields of its configuration.
    """

    def build(shape: Shape) -> nn.Module:
        source = imported("transformers")
        names = ("frames_per_clip", "crop_size") if kind == "VJEPA2" else ("num_frames", "image_size")
        predictor = {"pred_num_hidden_layers": 1} if kind == "VJEPA2" else {}
        attention = {} if kind == "Timesformer" else {"attn_implementation": "sdpa"}
        grid = dict(zip(names, shape[:2], strict=True))
        config = getattr(source, f"{kind}Config")(num_labels=CLASSES, **grid, **sizes, **predictor, **attention)
        return getattr(source, f"{kind}ForVideoClassification")(config)

    quick = (8, 64, 64)
    return Peer(
        "transformers",
        build,
        clip,
        quick,
        {} if kind == "VJEPA2" else {"drop_path": 0.0},
        arguments=lambda _, clips: (clips.transpose(1, 2).contiguous(),),
        logits=lambda output, _: output.logits,
        weights=lambda module: {key: value for key, value in module.state_dict().items() if ".predictor." not in key},
        grid=kind != "VJEPA2",
    )


# Other authors


def tsm_of_its_authors(base: str) -> Peer:
    def build(clip: Shape) -> nn.Module:
        source = imported("ops.models")
        with contextlib.redirect_stdout(io.StringIO()):
            return source.TSN(
                CLASSES,
                clip[0],
                "RGB",
                base_model=base,
                dropout=1e-9,  # 0 leads to another head
                pretrain=None,
                is_shift=True,
                partial_bn=False,
                print_spec=False,
            )

    return Peer(
        "mit-han-lab/temporal-shift-module",
        build,
        (8, 224, 224),
        (4, 64, 64),
        {"dropout": 0.0},
        arguments=lambda _, clips: (clips.transpose(1, 2).flatten(1, 2).contiguous(),),
    )


def i3d_of_pytorch_i3d() -> Peer:
    def build(_: Shape) -> nn.Module:
        return imported("pytorch_i3d").InceptionI3d(CLASSES, dropout_keep_prob=0.0)

    return Peer(
        "piergiaj/pytorch-i3d",
        build,
        (16, 224, 224),
        (16, 224, 224),
        {"dropout": 0.0},
        logits=lambda output, _: output.mean(dim=2),
    )


PEERS: dict[str, Peer] = {
    "torchvision_r3d_18": torchvision_video("r3d_18"),
    "torchvision_mc3_18": torchvision_video("mc3_18"),
    "torchvision_r2plus1d_18": torchvision_video("r2plus1d_18"),
    "tsn_r18": torchvision_image("resnet18"),
    "tsn_r50": torchvision_image("resnet50"),
    "tsn_mobilenet_v2": torchvision_image("mobilenet_v2"),
    "tsm_r50": tsm_of_its_authors("resnet50"),
    "slow_r50_8x8": resnet_of_pytorchvideo("slow_r50", 8),
    "c2d_r50": resnet_of_pytorchvideo("c2d_r50", 8),
    "i3d_r50": resnet_of_pytorchvideo("i3d_r50", 8),
    "slowfast_r50_4x16": slowfast_of_pytorchvideo(50, 32, 8, 5),
    "slowfast_r50_8x8": slowfast_of_pytorchvideo(50, 32, 4, 7),
    "slowfast_r101_8x8": slowfast_of_pytorchvideo(101, 32, 4, 5),
    "x3d_xs": x3d_of_pytorchvideo((4, 160, 160), 2.2),
    "x3d_s": x3d_of_pytorchvideo((13, 160, 160), 2.2),
    "x3d_m": x3d_of_pytorchvideo((16, 224, 224), 2.2),
    "x3d_l": x3d_of_pytorchvideo((16, 312, 312), 5.0),
    "i3d_rgb": i3d_of_pytorch_i3d(),
    "videomae_small": of_transformers(
        "VideoMAE", (16, 224, 224), hidden_size=384, num_attention_heads=6, intermediate_size=1536
    ),
    "videomae_base": of_transformers("VideoMAE", (16, 224, 224)),
    "videomae_large": of_transformers(
        "VideoMAE",
        (16, 224, 224),
        hidden_size=1024,
        num_attention_heads=16,
        intermediate_size=4096,
        num_hidden_layers=24,
    ),
    "vjepa2_large": of_transformers("VJEPA2", (16, 256, 256)),
    "vjepa2_huge": of_transformers("VJEPA2", (16, 256, 256), hidden_size=1280, num_hidden_layers=32),
    "timesformer_base": of_transformers("Timesformer", (8, 224, 224)),
}
"""Peers by the name of the network of vidseg. A function returns a row, so a family has one entry for each size."""


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(call: Callable[[], Tensor], device: torch.device, *, backward: bool) -> float:
    began = now(device)
    score = call()
    if backward:
        score.float().square().mean().backward()
    return now(device) - began


def compare(name: str, peer: Peer, *, batch: int, quick: bool, rounds: int, device: torch.device) -> Row:
    """Measure a network and its peer."""
    torch.manual_seed(0)
    frames, height, width = peer.quick if quick else peer.clip
    theirs = peer.build((frames, height, width)).to(device)
    grid = {"frames": frames, "size": height} if peer.grid else {}
    ours = create_model(name, num_classes=CLASSES, **peer.options, **grid).to(device)
    report = load_weights(ours, dict(peer.weights(theirs)), strict=False, network=name)
    if report.missing or report.left:
        raise ValueError(f"{name}: {peer.source} has other weights: {report}")
    clips = torch.randn(batch, 3, frames, height, width, device=device)
    calls: dict[str, Callable[[], Tensor]] = {
        "vidseg": lambda: ours(clips),
        "peer": lambda: peer.logits(theirs(*peer.arguments(ours, clips)), clips),
    }
    ours.eval(), theirs.eval()
    with torch.no_grad():
        logits = {key: call().flatten(1) for key, call in calls.items()}
    difference = float((logits["vidseg"] - logits["peer"]).norm() / logits["peer"].norm())
    row: Row = {"network": name, "peer": peer.source, "clips": [batch, frames, height, width], "difference": difference}
    for kind in ("inference", "training"):
        training = kind == "training"
        ours.train(training), theirs.train(training)
        times: dict[str, list[float]] = {key: [] for key in calls}
        with torch.set_grad_enabled(training):
            for turn in range(rounds + 1):
                for key in sorted(calls, reverse=turn % 2 == 1):
                    times[key].append(seconds(calls[key], device, backward=training))
        pairs = list(zip(times["vidseg"], times["peer"], strict=True))[1:]  # the first round warms up
        row[f"{kind}_ms"] = statistics.median(own for own, _ in pairs) * 1e3
        row[f"peer_{kind}_ms"] = statistics.median(other for _, other in pairs) * 1e3
        row[f"{kind}_ratio"] = statistics.median(other / own for own, other in pairs)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder of source trees of peers")
    parser.add_argument("--networks", nargs="+", default=["*"], help="patterns of names of networks")
    parser.add_argument("--batch-size", type=int, default=2, help="clips per batch")
    parser.add_argument("--rounds", type=int, default=7, help="number of measured passes of each module")
    parser.add_argument("--quick", action="store_true", help="use small clips")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="number of threads of PyTorch")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.peers is not None:
        if not options.peers.is_dir():
            parser.error(f"--peers: {options.peers} is not a folder")
        sys.path += [str(path) for path in (options.peers, *sorted(options.peers.iterdir())) if path.is_dir()]
    names = [name for name in PEERS if any(fnmatch.fnmatch(name, pattern) for pattern in options.networks)]
    if not names:
        parser.error(f"--networks: none of {', '.join(PEERS)} matches {' '.join(options.networks)}")
    machine = {
        "machine": hardware(),
        "torch": torch.__version__,
        "threads": options.threads,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    rows, absent = [], {}
    measured = {"batch": options.batch_size, "quick": options.quick, "rounds": options.rounds, "device": device}
    for name in names:
        try:
            row = compare(name, PEERS[name], **measured)
            rows.append(row)
            ratios = "inference {inference_ratio:.2f}, training {training_ratio:.2f}".format(**row)
            print(f"{name}: ratio {ratios}", flush=True)
        except AbsentError as error:
            absent[name] = str(error)
    for name, reason in absent.items():
        print(f"{name}: {PEERS[name].source} is absent ({reason})")
    print("\n| network | peer | clips | inference ms | ratio | training ms | ratio | difference |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    line = "| {network} | {peer} | {size} | {inference_ms:.1f} | {inference_ratio:.2f} | {training_ms:.1f} "
    line += "| {training_ratio:.2f} | {difference:.0e} |"
    for row in rows:
        print(line.format(size="x".join(map(str, row["clips"])), **row))
    if options.json:
        options.json.write_text(json.dumps({**machine, "rows": rows, "absent": absent}, indent=1) + "\n")


if __name__ == "__main__":
    main()
