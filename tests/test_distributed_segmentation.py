"""Segmentation in two processes equals one with their videos in its batches: streams and features, from the loss to
whole runs, however unequal the videos are."""

import csv
import json
import multiprocessing

import pytest
import torch
from segmentation_data import segmentation_dataset
from segmentation_ranks import CASES, FEATURE_NETWORKS, as_rank, feature_run, stream_case, stream_run
from stream_data import stream_dataset
from streams import LENGTHS
from test_distributed import free_port

from vidseg.engine.distributed import SyncBatchNorm, silent_norms, synchronize_norms
from vidseg.losses.shared import divisor, shared_batch
from vidseg.losses.terms import truncated_mse, video_mean


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Features, videos, and what two processes left."""
    root = tmp_path_factory.mktemp("ranks")
    features = segmentation_dataset(root / "gtea")
    stream_dataset(root, videos=6, train=5)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["segmentation_ranks"])
    port = free_port()
    ranks = [context.Process(target=as_rank, args=(rank, port, features, root / "data", root)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(200)
        assert process.exitcode == 0
    return features, root / "data", root


@pytest.fixture(scope="module")
def found(folders):
    return [torch.load(folders[2] / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_alike(one, two, **tolerance):
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.allclose(value, two[key], **tolerance), key


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)), ids=[" ".join(case) for case in CASES])
def test_streams(found, folders, tmp_path, number):
    one, two = stream_case(tmp_path, *CASES[number]), [rank["streams"][number] for rank in found]
    assert_alike(two[0]["state"], two[1]["state"], rtol=0, atol=0)
    assert_alike(one["state"], two[0]["state"], rtol=1e-9, atol=1e-12)
    # every process its own videos, together those of the one process, group by group
    assert [sorted([*first, *second]) for first, second in zip(two[0]["seen"], two[1]["seen"], strict=True)] == [
        sorted(videos) for videos in one["seen"]
    ]
    assert {video for videos in one["seen"] for video in videos} == set(range(len(LENGTHS)))
    # the scores of the table are those of all videos; they are summed in float32
    tables = [rows(out / "train_results_s0001.csv") for out in (tmp_path, folders[2] / f"two_case{number}")]
    for expected, got in zip(*tables, strict=True):
        assert float(got["Acc"]) == pytest.approx(float(expected["Acc"]), abs=1e-9)
        assert float(got["Loss"]) == pytest.approx(float(expected["Loss"]), rel=1e-6)


@pytest.mark.parametrize("case", ["norms", "feature norms"])
def test_statistics_of_norms_are_shared(found, case):
    """Norms that see the videos of one process are evaluated and saved with the mean over the processes."""
    first, second = (rank[case] for rank in found)
    assert not torch.allclose(first["own"], second["own"], rtol=1e-3)
    for entry in ("evaluated", "kept"):
        assert torch.equal(first[entry], second[entry])
        assert torch.allclose(first[entry], (first["own"] + second["own"]) / 2, rtol=1e-6)


def test_averaged_statistics_of_norms_are_shared(found):
    """The moving average that is evaluated is that of the checkpoint, in each process."""
    first, second = (rank["averaged norms"] for rank in found)
    assert not torch.allclose(first["own"], second["own"], rtol=1e-3)
    assert torch.equal(first["evaluated"], second["evaluated"])
    assert torch.equal(first["kept"], second["kept"]) and torch.equal(first["kept"], first["evaluated"])


@pytest.mark.parametrize("model", FEATURE_NETWORKS)
def test_features(found, folders, tmp_path, model):
    """Three training videos in batches of two, of which the last, of one video, is left out."""
    seen = feature_run(folders[0], tmp_path, model, FEATURE_NETWORKS[model], 2)
    two = [rank["features"][model] for rank in found]
    assert [sorted([*first, *second]) for first, second in zip(*two, strict=True)] == [sorted(one) for one in seen]
    assert [len(videos) for videos in two[1]] == [1, 1]
    one, other = tmp_path / "split1", folders[2] / f"two_{model}" / "split1"
    states = [torch.load(run / f"{model}_last.pth", weights_only=True)["state_dict"] for run in (one, other)]
    assert_alike(*states, rtol=1e-4, atol=1e-5)
    for name in ("train_results_s0001.csv", "validation.csv"):
        for expected, got in zip(rows(one / name), rows(other / name), strict=True):
            assert [float(value) for value in got.values()] == pytest.approx(
                [float(value) for value in expected.values()], rel=1e-3
            ), name
    tests = [json.loads((run / "test.json").read_text()) for run in (one, other)]
    assert [video["name"] for video in tests[0]["videos"]] == [video["name"] for video in tests[1]["videos"]]
    assert tests[1]["scores"]["acc"] == pytest.approx(tests[0]["scores"]["acc"], abs=1.0)


def test_a_run_of_streams(folders, tmp_path):
    """Norms over all processes, memory, validation over both, test."""
    stream_run(folders[1], tmp_path, 4)
    other = folders[2] / "two_streams"
    states = [torch.load(run / "memory_tcn_last.pth", weights_only=True)["state_dict"] for run in (tmp_path, other)]
    means = [name for name in states[0] if name.endswith("running_mean")]
    assert torch.allclose(states[0][means[0]], states[1][means[0]], rtol=1e-4, atol=1e-5)  # of the first convolution
    for name in means:  # rounding grows from layer to layer, as norms divide by small deviations
        variances = [state[name.replace("mean", "var")] for state in states]
        assert ((states[0][name] - states[1][name]).abs() / variances[0].sqrt()).max() < 0.01, name
        assert torch.allclose(*variances, rtol=0.01), name
    # Adam's first step is the rate, whatever the gradient, so that rounding may turn the smallest of them round.
    changes = torch.cat(
        [(states[0][key] - value).flatten() for key, value in states[1].items() if "running" not in key]
    )
    assert changes.abs().max() <= 2.1e-3 and (changes.abs() > 1e-4).double().mean() < 0.2
    (expected,), (got,) = rows(tmp_path / "train_results_s0001.csv"), rows(other / "train_results_s0001.csv")
    assert [float(value) for value in got.values()] == pytest.approx(
        [float(value) for value in expected.values()], rel=1e-3
    )
    tests = [json.loads((run / "test.json").read_text()) for run in (tmp_path, other)]
    assert [video["name"] for video in tests[1]["videos"]] == ["v5"]
    assert tests[0]["scores"]["frames"] == tests[1]["scores"]["frames"]


# The parts


def test_means_over_a_shared_batch():
    """Of three videos with 4, 2 and 0 frames, two in one process."""
    values, valid = torch.arange(12.0).reshape(1, 3, 4), torch.arange(4) < torch.tensor([[4], [2], [0]])
    logits = torch.randn(1, 3, 5, 4)
    whole = video_mean(values, valid), truncated_mse(logits, valid)
    parts = []
    for rows_of in (slice(0, 2), slice(2, 3)):
        counts = {2: torch.tensor(1.5), 1: torch.tensor(1.5), 4: torch.tensor(2.0), 0: torch.tensor(2.0)}
        with shared_batch(lambda count, counts=counts: counts[int(count)]):
            parts.append(
                (video_mean(values[:, rows_of], valid[rows_of]), truncated_mse(logits[:, rows_of], valid[rows_of]))
            )
    for index, expected in enumerate(whole):
        assert torch.allclose((parts[0][index] + parts[1][index]) / 2, expected)
    assert divisor(torch.tensor(0)) == 1 and divisor(torch.tensor(3)) == 3


def test_norms_that_are_silent_keep_their_statistics():
    plain, synchronized = torch.nn.BatchNorm1d(3), torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3))
    assert synchronize_norms(synchronized) == 2
    synchronized[1].eval()
    with silent_norms(torch.nn.ModuleList([plain, synchronized])):
        plain(torch.randn(4, 3))
        assert synchronized[0].silent and not synchronized[1].silent
    assert not plain.running_mean.any() and plain.training
    assert isinstance(synchronized[0], SyncBatchNorm) and not synchronized[0].silent and not synchronized[1].training
