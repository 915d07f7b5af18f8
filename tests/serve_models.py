"""Small models with random weights, as checkpoints of runs, and what the tests of the server share."""

import contextlib
import io
import threading
import time
from pathlib import Path

import torch
from conftest import picture
from PIL import Image

from vidseg import load_trained
from vidseg.engine.options import flat_options
from vidseg.models import InputSpec, create_model
from vidseg.serve import ServeOptions, make_application
from vidseg.serve.running import RunningServer

CLASSES = ["run", "jump", "wave"]
TINY = ("maps=32", "heads=2", "levels=3", "window=5")


def write_checkpoint(
    folder: Path, name: str, *, task: str, network: str, classes=CLASSES, spec: InputSpec, options=None, more=None,
    model=None,
) -> Path:  # fmt: skip
    """A checkpoint as a run writes it."""
    torch.manual_seed(0)
    network_options = dict(options or {})
    if model is None:
        model = create_model(network, num_classes=len(classes), **network_options)
    record = {
        "task": task,
        "network": network,
        "network_options": network_options,
        "input": spec.as_dict(),
        "classes": list(classes),
        "division": "",
        "validation_videos": [],
        "data": {},
        "dataset": "",
        "options": {},
        **(more or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.pth"
    torch.save({"state_dict": model.state_dict(), "record": record, "epoch": 1}, path)
    return path


def recognition(folder: Path, **more) -> Path:
    spec = InputSpec(frames=4, interval=1, size=32)
    return write_checkpoint(
        folder, "clips", task="recognition", network="r3d_18", spec=spec, options={"width": 0.125}, **more
    )


def streaming(folder: Path, *, network: str = "memory_tcn", options: dict | None = None) -> Path:
    spec = InputSpec(frames=4, interval=2, size=32)
    options = options or {"width": 0.25, "layers": 2, "channels": 8}
    return write_checkpoint(
        folder, "stream", task="streaming", network=network, spec=spec, options=options, more={"stride": 8}
    )


def segmentation(folder: Path) -> Path:
    spec = InputSpec(modality="features")
    options = {"in_features": 6}
    return write_checkpoint(
        folder, "segments", task="segmentation", network="mstcn", spec=spec, options=options, more={"feature_size": 6}
    )


@contextlib.contextmanager
def running(store: Path, models: dict[str, Path], *, token: str | None = None, **limits):
    """A server of these checkpoints in a thread: yields its state, whose `url` is its address."""
    loaded = {name: load_trained(path) for name, path in models.items()}
    app = make_application(loaded, ServeOptions(store=str(store), **limits), token=token)
    server = RunningServer(app, graceful_seconds=60)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        app.state.server.url = server.url
        yield app.state.server
    finally:
        server.stop()
        thread.join()


def jpegs(count: int, **size: int) -> list[bytes]:
    """The pictures of `make_video` as JPEGs."""
    found = []
    for index in range(count):
        file = io.BytesIO()
        Image.fromarray(picture(index, **size)).save(file, "jpeg", quality=95)
        found.append(file.getvalue())
    return found


def detection(folder: Path, *, pixels: bool, network: str = "actionformer", options: tuple[str, ...] = TINY) -> Path:
    """A detector of features of width 6 at 4 columns a second, or of snippets of a video."""
    from vidseg.tasks.detection.recipes import recipe_options
    from vidseg.tasks.detection.runs import build_network

    tiny = {"network_option": options, "device": "cpu"}
    encoder = {"encoder": "r3d_18", "encoder_option": ("width=0.125",), "snippet_frames": 4, "snippet_size": 32}
    encoder["snippet_stride"] = 4
    rate = {"feature_stride": 4, "feature_fps": 16.0, "feature_clip": 4}
    chosen = recipe_options("detection", network, dataset="", out="", **tiny, **(encoder if pixels else rate))
    torch.manual_seed(0)
    return write_checkpoint(
        folder, "pixels" if pixels else "columns", task="detection", network=network,
        spec=InputSpec(modality="rgb" if pixels else "features"),
        model=build_network(chosen, len(CLASSES), None if pixels else 6), options=chosen.network.chosen_options(),
        more={"options": flat_options(chosen), "feature_size": None if pixels else 6},
    )  # fmt: skip
