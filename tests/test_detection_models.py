"""ETAD and BMN against the published networks, in padded batches, with a classifier, loading of weights."""

import math
from dataclasses import astuple

import pytest
import torch
from golden_vectors import made_input, made_weight, read_vector, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.models import _detection, create_model, list_models, load_weights
from vidseg.models._detection import align_segments, dense_proposals
from vidseg.models._identify import with_names
from vidseg.models._profile import count_cost, input_shape, measure
from vidseg.models.bmn import sampling_weights

SMALL = {
    "etad": {"stages": 2, "roi_size": 8, "maps": 64, "hidden": 32},
    "bmn": {"maps": 16, "hidden": 8, "map_maps": 8},
}
VARIANTS = [
    ("etad", {}),
    ("etad", {"max_duration": 7, "class_agnostic": False}),
    ("bmn", {}),
    ("bmn", {"axes": "duration_start", "max_duration": 9, "class_agnostic": False}),
]
FEATURES, CLASSES = 8, 5
LENGTHS = (20, 13, 1, 17)


def small(name: str, **options):
    torch.manual_seed(3)
    return create_model(name, num_classes=CLASSES, in_features=FEATURES, **(SMALL[name] | options))


def padded_batch(*, extra: int = 0):
    """Features (B, D, L) that hold NaN on padding, and the mask."""
    lengths = torch.tensor(LENGTHS)
    mask = torch.arange(int(lengths.max()) + extra) < lengths[:, None]
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(len(lengths), FEATURES, mask.shape[1], generator=generator, dtype=torch.float64)
    return features.masked_fill(~mask[:, None], math.nan), mask


def published(vector: str, name: str, **options):
    """The network with a vector's weights in double precision, its inputs and the published outputs."""
    spec, expected = read_vector(vector)
    model = create_model(name, num_classes=200, in_features=spec["inputs"][0][1][1], **options)
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == [
        [key, shape] for key, shape, _ in spec["state"]
    ]
    load_weights(model, {key: made_weight(key, shape, dtype) for key, shape, dtype in spec["state"]})
    assert sum(value.numel() for value in model.parameters()) == spec["params"]
    inputs = [made_input(*description[1:]).double() for description in spec["inputs"]]
    return model.double().eval(), inputs, expected


# Published networks


def test_published_values_of_etad():
    model, (features, uniform), expected = published("etad_detector_anet", "etad")
    with torch.no_grad():
        output = model(features, None, uniform.sort(dim=2).values * 128)
        enhanced = model.temporal_enhance(features, None)
    found = output.predictions
    values = [torch.stack([found["starts"], found["ends"]], dim=1)]
    for stage in range(3):
        values += [
            found["proposals"][stage] / 128,
            found["ious"][stage].flatten(0, 1),
            torch.cat([found["regression"][stage], found["bounds"][stage]], dim=2).flatten(0, 1),
        ]
    values += [enhanced, output.segments / 128, found["ious"].mean(dim=0), output.scores[..., 0]]
    errors = [relative_error(value.float(), one) for value, one in zip(values, expected, strict=True)]
    # The number of samples of a segment jumps with its length, so each stage enlarges the rounding of the one before.
    assert max(errors[:4]) < 1e-5 and max(errors) < 2e-4, errors


@pytest.mark.parametrize("vector", ["bmn_small_64x20", "bmn_anet_400x100"])
def test_published_values_of_bmn(vector):
    model, (features,), expected = published(vector, "bmn")
    length = features.shape[2]
    with torch.no_grad():
        found, output = model.forward_map(features), model(features)
    segments = dense_proposals(length, max_duration=None, device=features.device)
    columns, weights = sampling_weights(segments, length=length, axes="start_end")
    matrix = torch.zeros(length, 32, length, length, dtype=torch.float64)
    start, end = (value[:, None, None].expand_as(columns) for value in segments.unbind(dim=1))
    sample = torch.arange(32)[:, None].expand_as(columns)
    matrix.index_put_((columns, sample, start, end - 1), weights, accumulate=True)
    starts, ends = output.predictions["starts"], output.predictions["ends"]
    values = [found, starts, ends, matrix, matrix.sum(dim=0)]
    assert max(relative_error(value.float(), one) for value, one in zip(values, expected, strict=True)) < 1e-6
    # Scores, from the map: start * end * IoU * IoU, with the last column's end for segments that end with the video.
    rows = torch.tensor([[0, 1], [3, 9], [5, length], [0, length]])
    for first, last in rows.tolist():
        (at,) = (segments == torch.tensor([first, last])).all(dim=1).nonzero()[:, 0].tolist()
        score = starts[:, first] * ends[:, min(last, length - 1)] * found[:, :, first, last - 1].prod(dim=1)
        assert torch.allclose(output.scores[:, at, 0], score)
        assert output.segments[0, at].tolist() == [first, last]


def test_published_sizes():
    sizes = [
        ("etad", {}, 10_343_450),
        ("bmn", {}, 4_978_564),
        ("bmn", {"in_features": 2048}, 5_294_980),
        ("bmn", {"axes": "duration_start", "hidden": 128}, 2_782_980),
        ("bmn", {"axes": "duration_start", "hidden": 128, "in_features": 512}, 2_804_484),
    ]
    for name, options, size in sizes:
        with torch.device("meta"):
            model = create_model(name, num_classes=200, **options)
        assert sum(value.numel() for value in model.parameters()) == size


def test_names_and_attributes():
    assert {"etad", "bmn"} <= set(list_models(task="detection"))
    for name in SMALL:
        model = small(name)
        assert (model.class_agnostic, model.in_features, model.num_classes) == (True, FEATURES, CLASSES)
        assert not small(name, class_agnostic=False).class_agnostic


def test_dense_proposals():
    def by_definition(length, longest):
        return [[start, start + size] for size in range(1, longest + 1) for start in range(length - size + 1)]

    for length in (1, 2, 7):
        found = dense_proposals(length, max_duration=None, device=torch.device("cpu"))
        assert found.tolist() == by_definition(length, length)
    assert dense_proposals(7, max_duration=3, device=torch.device("cpu")).tolist() == by_definition(7, 3)
    assert dense_proposals(2, max_duration=3, device=torch.device("cpu")).tolist() == by_definition(2, 2)


def test_bmn_samples_of_the_papers_code():
    """Its segments end with their last column: points from start - margin to start + duration + margin."""
    segments = torch.tensor([[0, 1], [2, 7], [9, 10], [0, 10]])
    columns, weights = sampling_weights(segments, length=10, axes="duration_start")
    for (start, end), places, shares in zip(segments.tolist(), columns, weights, strict=True):
        margin = 0.5 * (end - start)
        points = [start - margin + index * (end - 1 - start + 2 * margin) / 95 for index in range(96)]
        expected = torch.zeros(32, 10, dtype=torch.float64)
        for index, point in enumerate(points):
            for column, share in (
                (math.trunc(point), 1 - math.fmod(point, 1)),
                (math.ceil(point), math.fmod(point, 1)),
            ):
                if 0 <= column < 10:
                    expected[index // 3, column] += share / 3
        found = torch.zeros(32, 10, dtype=torch.float64).scatter_add_(1, places, shares)
        assert torch.allclose(found, expected, atol=1e-12)


# Padded batches


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(0, 6), st.booleans(), st.integers(0, 10_000))
def test_aligned_segments_do_not_depend_on_padding(length, extra, whole, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 3, length, generator=generator, dtype=torch.float64)
    segments = torch.rand(1, 5, 2, generator=generator, dtype=torch.float64) * (length + 6) - 3
    segments = segments.round() if whole else segments
    padding = torch.arange(length + extra)[None, None] >= length
    padded = torch.nn.functional.pad(x, (0, extra))
    for options in ({"extend": 0.5, "shift": 0.0}, {}):
        alone = align_segments(x, segments, 8, **options)
        assert torch.allclose(align_segments(padded, segments, 8, padding=padding, **options), alone, atol=1e-9)


@pytest.mark.parametrize("name, options", VARIANTS)
@pytest.mark.parametrize("training", [False, True])
def test_padded_batch_gives_each_videos_own_result(name, options, training):
    model = small(name, **options).double().train(training)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    features, mask = padded_batch(extra=3)
    output = model(features, mask)
    for video, length in enumerate(LENGTHS):
        alone = model(features[video : video + 1, :, :length])
        own = output.valid[video]
        assert alone.valid.all() and own.sum() == alone.valid.sum()
        assert torch.allclose(output.segments[video, own], alone.segments[0], atol=1e-9)
        assert torch.allclose(output.scores[video, own], alone.scores[0], atol=1e-9)
        assert not output.scores[video, ~own].any()
        for key in ("starts", "ends"):
            both = output.predictions[key][video], alone.predictions[key][0]
            assert torch.allclose(both[0][:length], both[1], atol=1e-9) and not both[0][length:].any()
    assert all(value.isfinite().all() for value in (output.segments, output.scores, *output.predictions.values()))


def test_given_proposals():
    model = small("etad").double().eval()
    features, mask = padded_batch()
    dense = model(features, mask)
    places = [dense.valid[video].nonzero()[:3, 0] for video in range(4)]
    proposals = torch.stack([dense.predictions["proposals"][0, 0, at[[0, -1]]] for at in places])
    proposals = torch.cat([proposals, torch.zeros(4, 1, 2, dtype=torch.float64)], dim=1)
    output = model(features, mask, proposals)
    assert output.valid.tolist() == [[True, True, False]] * 4 and not output.scores[:, 2].any()
    for video, at in enumerate(places):
        assert torch.allclose(output.scores[video, :2], dense.scores[video, at[[0, -1]]], atol=1e-9)
        assert torch.allclose(output.segments[video, :2], dense.segments[video, at[[0, -1]]], atol=1e-9)
    with pytest.raises(ValueError, match=r"proposals must be \(4, N, 2\).*\(4, 3, 3\)"):
        model(features, mask, torch.zeros(4, 3, 3))


@pytest.mark.parametrize("name, options", VARIANTS)
def test_chunks_change_nothing(name, options, monkeypatch):
    model = small(name, **options).double().eval()
    features, mask = padded_batch()
    whole = model(features, mask)
    monkeypatch.setattr(_detection, "_CHUNK", 50)
    with torch.no_grad():
        parts = model(features, mask)
    assert torch.allclose(whole.scores, parts.scores) and torch.allclose(whole.segments, parts.segments)
    assert all(torch.allclose(value, parts.predictions[key]) for key, value in whole.predictions.items())


# The classifier of proposals


@pytest.mark.parametrize("name", SMALL)
def test_class_scores(name):
    agnostic, model = small(name).eval(), small(name, class_agnostic=False).eval()
    load_weights(agnostic, model.state_dict(), strict=False)
    features = torch.randn(2, FEATURES, 12)
    output, alone = model(features), agnostic(features)
    assert output.scores.shape == (*alone.scores.shape[:2], CLASSES)
    assert torch.allclose(output.scores.sum(dim=2, keepdim=True), alone.scores, atol=1e-6)
    instances = torch.tensor([[[0.0, 4.0], [3.0, 9.0]]] * 2)
    trained = model.train()(features, instances=instances)
    assert trained.predictions["class_logits"].shape == (2, 2, CLASSES)
    assert trained.scores.shape == alone.scores.shape
    trained.predictions["class_logits"].square().sum().backward()
    assert all(value.grad.any() for value in model.classifier.parameters())
    with pytest.raises(ValueError, match="class_agnostic=False"):
        agnostic(features, instances=instances)
    with pytest.raises(ValueError, match=r"instances must be \(2, N, 2\)"):
        model(features, instances=instances[0])


def test_the_classifier_sees_the_columns_of_a_segment():
    features = torch.zeros(1, 1, 6)
    features[0, 0, 2:4] = 1
    segments = torch.tensor([[[2.0, 4.0], [0.0, 2.0], [1.0, 3.0]]])
    # One sample in the center of each of the two columns of a segment.
    assert align_segments(features, segments, 2)[:, 0].tolist() == [[1, 1], [0, 0], [0, 1]]


# Weights


def test_weights_with_the_fixed_matrix():
    length = 6
    for axes, other in (("start_end", "duration_start"), ("duration_start", "start_end")):
        model = small("bmn", axes=axes)
        segments = dense_proposals(length, max_duration=None, device=torch.device("cpu"))
        columns, weights = sampling_weights(segments, length=length, axes=axes)
        row, column = model._cells(segments)
        matrix = torch.zeros(length, 32, length, length)
        places = [value[:, None, None].expand_as(columns) for value in (row, column)]
        sample = torch.arange(32)[:, None].expand_as(columns)
        matrix.index_put_((columns, sample, *places), weights.float(), accumulate=True)
        state = {**model.state_dict(), "sample_mask": matrix.reshape(length, -1)}
        report = load_weights(small("bmn", axes=axes), state)
        assert report.left == ("sample_mask",) and report.missing == () and report.filled == 1
        with pytest.raises(ValueError, match=f"trained with axes='{axes}', the network has '{other}'"):
            load_weights(small("bmn", axes=other), state)
        assert with_names(state) == ["bmn"]


def test_weights_of_another_detector_are_named():
    assert with_names(small("etad").state_dict()) == ["etad"]
    with pytest.raises(ValueError, match="the keys of the file are those of etad"):
        load_weights(small("bmn"), small("etad").state_dict())


# Costs


@pytest.mark.parametrize("name", SMALL)
def test_costs(name):
    shape = input_shape(name, in_features=FEATURES, frames=16)
    assert shape == (1, FEATURES, 16) and input_shape(name)[2] == 128
    cost = count_cost(name, shape, num_classes=2, in_features=FEATURES, **SMALL[name])
    model = small(name)
    assert cost.parameters == sum(value.numel() for value in model.parameters()) and cost.macs > 0
    timing = measure(model, torch.randn(shape), rounds=1)
    assert timing.training_bytes > timing.inference_bytes > 0


# What is refused


@pytest.mark.parametrize("name", SMALL)
def test_wrong_input(name):
    model = small(name)
    good = torch.randn(2, FEATURES, 12)
    with pytest.raises(ValueError, match=r"\(B, 8, L\).*\(2, 12, 8\)"):
        model(good.transpose(1, 2))
    with pytest.raises(ValueError, match=r"bool of shape \(2, 12\).*float32"):
        model(good, torch.ones(2, 12))


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("etad", {"roi_size": 18}, "roi_size=18 must be a multiple of 4"),
        ("etad", {"maps": 96}, "maps=96 must be a multiple of 64"),
        ("etad", {"stages": 0}, "stages=0 must be at least 1"),
        ("etad", {"max_duration": 0}, "max_duration=0 must be at least 1"),
        ("etad", {"in_features": 9}, "in_features=9 must be a multiple of 4"),
        ("bmn", {"axes": "end_start"}, "axes='end_start'"),
        ("bmn", {"max_duration": 4}, "requires axes='duration_start'"),
        ("bmn", {"maps": 6}, "maps=6 must be a multiple of 4"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, num_classes=2, **options)


@pytest.mark.parametrize("name", SMALL)
def test_compiled_networks(name):
    model = small(name).eval()
    features = torch.randn(2, FEATURES, 12)
    mask = torch.arange(12) < torch.tensor([[12], [9]])
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for found, expected in zip(astuple(compiled(features, mask)), astuple(model(features, mask)), strict=True):
            if isinstance(found, torch.Tensor):
                assert torch.allclose(found, expected, atol=1e-6)
