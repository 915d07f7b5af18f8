"""Detection in two processes equals one with their samples in its batches, on features and from pixels."""

import json
import multiprocessing

import pytest
import torch
from detection_data import detection_dataset
from detection_ranks import CASES, as_rank, run_case
from test_distributed import free_port

import vidseg
from vidseg.cli.main import main
from vidseg.convert.synth import synthesize_videos
from vidseg.convert.synth_options import SynthOptions


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Features, videos, and what two processes left."""
    root = tmp_path_factory.mktemp("ranks")
    features = detection_dataset(root / "features", train=4, test=3)
    videos = SynthOptions(videos=0, untrimmed=6, frames=16, width=48, height=36, test_share=0.34)
    synthesize_videos(root / "synth", videos, workers=1)
    vidseg.convert_videos(root / "synth/untrimmed", root / "pixels", workers=1)
    assert main(["labels", "segments", str(root / "pixels"), str(root / "synth/segments.csv")]) == 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["detection_ranks"])
    port = free_port()
    ranks = [context.Process(target=as_rank, args=(rank, port, features, root / "pixels", root)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(250)
        assert process.exitcode == 0
    return features, root / "pixels", root


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(folders, tmp_path, name):
    features, pixels, root = folders
    two = [torch.load(root / f"rank{rank}.pt", weights_only=True)[name] for rank in range(2)]
    one = run_case(name, features, pixels, tmp_path / "one", 2)
    for key, value in one["state"].items():
        assert torch.equal(two[0]["state"][key], two[1]["state"][key])
        torch.testing.assert_close(two[0]["state"][key], value, rtol=1e-4, atol=2e-5)
    assert two[0]["scores"] == two[1]["scores"]
    expected, found = json.loads(one["scores"]), json.loads(two[0]["scores"])
    score = "average" if "average" in expected else "auc"
    assert found[score] == pytest.approx(expected[score], abs=0.02)
