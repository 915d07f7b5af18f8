"""Exported detectors from pixels and streaming networks in the commands: export, predict, --stream, test, serve."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from serve_models import streaming
from stream_data import labels_of, write_video

import vidseg
from vidseg.cli.main import main
from vidseg.convert.synth import synthesize_videos
from vidseg.convert.synth_options import SynthOptions
from vidseg.serve import Client
from vidseg.tasks.detection.recipes import recipe_options
from vidseg.tasks.detection.runs import train_detection

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A run of a detector that was trained from pixels, the same exported, and a video."""
    folder = tmp_path_factory.mktemp("pixels")
    made = SynthOptions(videos=0, untrimmed=4, frames=24, width=64, height=48, test_share=0.5)
    synthesize_videos(folder, made, workers=1)
    vidseg.convert_videos(folder / "untrimmed", folder / "data", workers=1)
    assert main(["labels", "segments", str(folder / "data"), str(folder / "segments.csv")]) == 0
    options = recipe_options(
        "detection", "etad", dataset=str(folder / "data"), out=str(folder / "out"), epochs=1, pictures=False,
        device="cpu", validation_share=0.5, batch_size=2, encoder="r3d_18", encoder_option=("width=0.125",),
        snippet_frames=4, snippet_size=32, snippet_stride=8, warmup_epochs=0.0, min_inside=0.2,
        network_option=("maps=64", "hidden=32", "roi_size=8", "stages=1", "class_agnostic=False"),
        loss_option=("stage_ious=(0.7,)", "ratio=0.3"), fit="whole",
    )  # fmt: skip
    run = train_detection(options)
    assert main(["export", str(run), "--device", "cpu", "--videos", "1"]) == 0
    return run, run / "export/etad.onnx", sorted((folder / "untrimmed").glob("*.mp4"))[0]


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """A streaming network, the same exported, and a video."""
    folder = tmp_path_factory.mktemp("stream")
    path = streaming(folder, network="etesvs", options={"width": 0.25, "layers": 2, "channels": 8})
    assert main(["export", str(path), "--device", "cpu"]) == 0
    write_video(folder / "v.mkv", labels_of(3))
    return path, path.with_suffix(".onnx"), folder / "v.mkv"


def printed(words, capsys):
    capsys.readouterr()
    assert main([*words, "--device", "cpu"]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_detector_finds_the_same_actions(detector, tmp_path, capsys):
    run, exported, video = detector
    found = []
    for number, weights in enumerate((run, exported)):
        out = tmp_path / f"{number}.json"
        printed(["predict", str(video), "--weights", str(weights), "--out", str(out), "--min-score", "0"], capsys)
        (rows,) = json.loads(out.read_text())["results"].values()
        found.append(rows)
    assert len(found[0]) == len(found[1]) > 3
    for one, other in zip(*found, strict=True):
        assert one["label"] == other["label"] and one["score"] == pytest.approx(other["score"], abs=1e-4)
        assert one["segment"] == pytest.approx(other["segment"], abs=1e-3)
    scores = [json.loads(printed(["test", str(path), "--json"], capsys))["scores"] for path in (run, exported)]
    assert scores[0] == scores[1] and scores[0]["videos"] == 2


def test_a_stream_is_labeled_the_same(stream, capsys):
    path, exported, video = stream
    lines = []
    for weights in (path, exported):
        text = printed(["predict", "--stream", str(video), "--weights", str(weights), "--json"], capsys)
        lines.append([json.loads(line)["segments"] for line in text.splitlines() if "segments" in json.loads(line)])
    assert len(lines[0]) == len(lines[1]) > 1
    for one, other in zip(*lines, strict=True):
        assert [part["label"] for part in one] == [part["label"] for part in other]
        assert [part["probability"] for part in one] == pytest.approx([part["probability"] for part in other], abs=1e-3)


def test_exported_models_are_served(detector, stream, tmp_path):
    words = ["serve", f"actions={detector[1]}", f"labels={stream[1]}", "--port", "0", "--store", str(tmp_path / "s")]
    command = [sys.executable, "-m", "vidseg.cli.main", *words, "--compute-threads", "1", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as server:
        try:
            address = server.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), address
            with Client(address.rstrip("/")) as client:
                actions = client.predict(detector[2], model="actions", min_score=0.001)["detections"]
                segments = client.predict(stream[2], model="labels")["segments"]
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=120) == 128 + signal.SIGTERM
    expected = vidseg.load_trained(detector[0]).predict(detector[2]).above(0.001).detections
    assert [row["label"] for row in actions] == [row.label for row in expected] and expected
    assert [row["score"] for row in actions] == pytest.approx([row.score for row in expected], abs=1e-4)
    named = [name for name, _, _ in vidseg.load_trained(stream[0]).predict(stream[2]).segments()]
    assert [row["label"] for row in segments] == named
