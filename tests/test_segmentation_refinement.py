"""From the outputs of segmentation networks to labels, against the published steps; resized features."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_vectors import FOLDER, made_input, read_vector, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.loaders.feature_resize import resize_features
from vidseg.models._refinement import (
    boundary_peaks,
    median_filter,
    predict,
    purge_short_segments,
    refine_by_boundaries,
    relabel_short_segments,
    restore_frames,
    smooth_probabilities,
)
from vidseg.models._segmentation import SegmentationOutput
from vidseg.models.c2f_tcn import average_chunks

POST = json.loads((FOLDER / "segmentation_postprocess.json").read_text())


def frames_of(runs: list[list[int]]) -> torch.Tensor:
    return torch.tensor([label for label, count in runs for _ in range(count)])


def runs_of(labels: torch.Tensor) -> list[list[int]]:
    values, counts = labels.unique_consecutive(return_counts=True)
    return [list(run) for run in zip(values.tolist(), counts.tolist(), strict=True)]


def made_scores(spec: dict, labels: torch.Tensor) -> torch.Tensor:
    noise = made_input(spec["shape"], spec["kind"], spec["seed"])[0]
    return noise * spec.get("scale", 1.0) + spec["gain"] * F.one_hot(labels, len(noise)).T


@pytest.mark.parametrize("case", POST["asrf_refinement"])
def test_asrf_refinement_is_the_published_one(case):
    labels, expected = frames_of(case["labels"]), case["expected"]
    logits = made_scores(case["scores"], labels)
    spec = case["boundary_logits"]
    changes = F.pad((labels.diff() != 0).float(), (1, 0))
    noise = made_input(spec["shape"], spec["kind"], spec["seed"])[0, 0]
    boundaries = noise + spec["gain"] * changes + spec["offset"]
    assert boundary_peaks(boundaries.sigmoid(), threshold=case["threshold"]).tolist() == expected["peaks"]
    output = SegmentationOutput(logits[None, None], boundaries[None, None, None])
    assert runs_of(predict(output, refine=False)[0]) == expected["before"]
    assert runs_of(predict(output, threshold=case["threshold"])[0]) == expected["refined"]
    plain = logits.argmax(dim=0)
    assert runs_of(relabel_short_segments(plain, max_frames=6, ends="published")) == expected["relabeled_theta_6"]
    smooth = smooth_probabilities(logits.softmax(dim=0), kernel=15, sigma=1)
    assert runs_of(smooth.argmax(dim=0)) == expected["smoothed_kernel_15_sigma_1"]


@pytest.mark.parametrize("case", POST["diffact"])
def test_diffact_post_processing_is_the_published_one(case):
    labels, expected = frames_of(case["labels"]), case["expected"]
    probabilities = made_scores(case["probabilities"]["logits"], labels).softmax(dim=0)
    if case["median_size"]:
        probabilities = median_filter(probabilities, case["median_size"])
    assert runs_of(probabilities.argmax(dim=0)) == expected["argmax"]
    restored = restore_frames(probabilities.argmax(dim=0), frames=case["full_length"], sample_rate=case["sample_rate"])
    assert runs_of(restored) == expected["restored"]
    if case["purge"]:
        purged = purge_short_segments(restored, max_frames=case["purge"], ends="published")
        assert runs_of(purged) == expected["purged"]


@pytest.mark.parametrize("case", POST["c2f_test_time_augmentation"])
def test_averaged_chunks_are_the_published_ones(case):
    runs = [
        (made_input(part["shape"], part["kind"], part["seed"]) * part["scale"]).softmax(dim=0)
        for part in case["inputs"]
    ]
    chunks = [part["chunk"] for part in case["inputs"]]
    mean = average_chunks(runs, chunks, frames=case["length"], weights=case["weights"])
    assert runs_of(mean.argmax(dim=0)) == case["expected"]


def test_ties_between_boundaries():
    logits = torch.tensor([[-1.0, -5.0, 0.0, 0.0], [-2.0, -3.0, 0.0, 9.0]])
    assert refine_by_boundaries(logits[:, :2], torch.zeros(2)).tolist() == [1, 1]  # sums -6 and -5: the larger one
    assert refine_by_boundaries(logits, torch.tensor([0.0, 0.0, 0.9, 0.0])).tolist() == [1, 1, 1, 1]


def test_peaks():
    scores = torch.tensor([0.1, 0.9, 0.2, 0.6, 0.6, 0.1, 0.4, 0.3, 0.9])
    assert boundary_peaks(scores).tolist() == [0, 1]
    assert boundary_peaks(scores, threshold=0.3).tolist() == [0, 1, 6]
    assert boundary_peaks(scores[:1]).tolist() == [0] == boundary_peaks(scores[:2]).tolist()


def test_short_segments():
    labels = frames_of([[4, 2], [1, 5], [2, 1], [3, 3], [1, 1], [5, 2]])
    assert runs_of(relabel_short_segments(labels, max_frames=2)) == [[4, 2], [1, 6], [3, 6]]
    assert runs_of(purge_short_segments(labels, max_frames=2)) == [[1, 7], [3, 4], [5, 1], [1, 2]]
    assert runs_of(purge_short_segments(labels, max_frames=1, ends="published")) == [
        [4, 2], [1, 5], [3, 4], [5, 1], [1, 1], [5, 1],
    ]  # fmt: skip
    alone = frames_of([[7, 3]])
    for change in (relabel_short_segments, purge_short_segments):
        for ends in ("exact", "published"):
            assert change(alone, max_frames=5, ends=ends).tolist() == [7, 7, 7]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 5), st.booleans())
def test_labels_keep_their_number(labels, limit, exact):
    ends = "exact" if exact else "published"
    tensor = torch.tensor(labels)
    for change in (relabel_short_segments, purge_short_segments):
        changed = change(tensor, max_frames=limit, ends=ends)
        assert len(changed) == len(labels) and set(changed.tolist()) <= set(labels)
        if min(count for _, count in runs_of(tensor)) > limit + 1:
            assert torch.equal(changed, tensor)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9))
def test_restored_frames_take_the_nearest_sample(frames, rate):
    samples = max(1, frames // rate)
    places = [number * rate + rate // 2 for number in range(samples)]
    nearest = [min(range(samples), key=lambda n: abs(places[n] - frame)) for frame in range(frames)]
    assert restore_frames(torch.arange(samples), frames=frames, sample_rate=rate).tolist() == nearest
    with pytest.raises(ValueError, match="do not fit"):
        restore_frames(torch.arange(samples + 2), frames=frames, sample_rate=rate)


def test_medians():
    values = torch.tensor([[5.0, 1.0, 4.0, 2.0, 3.0]])
    assert median_filter(values, 3).tolist() == [[5.0, 4.0, 2.0, 3.0, 3.0]]
    assert torch.equal(median_filter(values, 1), values)
    for size in (2, 11, 30):  # wider than the video: repeated backwards again and again
        mirrored = np.pad(values.numpy(), ((0, 0), (size // 2, (size - 1) // 2)), mode="symmetric")
        expected = [sorted(mirrored[0, at : at + size])[size // 2] for at in range(5)]
        assert median_filter(values, size).tolist() == [expected]
    with pytest.raises(ValueError, match="size=0"):
        median_filter(values, 0)
    with pytest.raises(ValueError, match="kernel=10"):
        smooth_probabilities(values, kernel=10)
    with pytest.raises(ValueError, match="5 frames"):
        smooth_probabilities(values, kernel=11)


# Resized features


def test_resized_features_are_the_published_ones():
    spec, expected = read_vector("feature_resize_128")
    for (_, shape, kind, seed), value in zip(spec["inputs"], expected, strict=True):
        features = made_input(shape, kind, seed)[None]
        assert relative_error(resize_features(features, half=True)[0], value) < 1e-6
        assert 1e-5 < relative_error(resize_features(features)[0], value) < 1e-3  # what rounding to float16 does


def test_resizing_features():
    ramp = torch.arange(8.0).expand(2, 3, 8)
    assert torch.allclose(resize_features(ramp, frames=4)[1, 2], torch.tensor([0.5, 2.5, 4.5, 6.5]))
    assert torch.equal(resize_features(ramp, frames=8), ramp)
    assert torch.equal(resize_features(torch.ones(1, 1, 1), frames=5), torch.ones(1, 1, 5))
