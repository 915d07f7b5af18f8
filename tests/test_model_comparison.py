"""Comparison of models over the tasks: one table of networks and their exported models, with the operations of both."""

import pytest
from detection_data import detection_dataset
from segmentation_data import segmentation_dataset
from stream_data import stream_dataset, tiny_options

from vidseg.export import export_model, model_comparison
from vidseg.export.model_comparison import compare_models
from vidseg.tasks import load_trained
from vidseg.tasks.detection.recipes import recipe_options as detection_options
from vidseg.tasks.detection.runs import train_detection
from vidseg.tasks.segmentation.cross_validation import cross_validate
from vidseg.tasks.segmentation.recipes import recipe_options as segmentation_options
from vidseg.tasks.streaming.runs import train_streaming


def segmentation_run(folder):
    root = segmentation_dataset(folder / "gtea")
    options = segmentation_options(
        "gtea",
        "mstcn",
        dataset=str(root),
        out=str(folder / "runs"),
        splits=("split1",),
        network_option=("layers=2", "maps=8", "stages=2"),
        epochs=2,
        validation_share=0.25,
        pictures=False,
        device="cpu",
    )
    cross_validate(options)
    return next(path.parent for path in (folder / "runs").rglob("options.json"))


def detection_run(folder):
    root = detection_dataset(folder / "data", train=6, test=2)
    options = detection_options(
        "detection",
        "bmn",
        dataset=str(root),
        out=str(folder / "run"),
        network_option=("hidden=16", "class_agnostic=False"),
        length=16,
        epochs=1,
        validation_share=0.25,
        batch_size=3,
        pictures=False,
        device="cpu",
    )
    return train_detection(options)


def streaming_run(folder):
    root = stream_dataset(folder / "data", videos=4, train=3)
    options = tiny_options(
        root / "data", folder / "run", "memory_tcn", epochs=1, network_option=("width=0.1", "layers=1")
    )
    return train_streaming(options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, score, forms",
    [
        (segmentation_run, "accuracy", {"onnx": "onnxruntime", "openvino": "openvino"}),
        (detection_run, "mAP", {"onnx": "onnxruntime"}),
        (streaming_run, "accuracy", {"openvino": "openvino"}),
    ],
)
def test_runtimes_of_a_task_side_by_side(make, score, forms, tmp_path, monkeypatch):
    """test_compress.py compares networks for recognition."""
    pytest.importorskip("onnxscript")
    for package in forms.values():
        pytest.importorskip(package)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    # In this process: test_compress.py measures in others.
    monkeypatch.setattr(model_comparison, "_measured_apart", model_comparison._measured)
    run = make(tmp_path)
    trained = load_trained(run)
    files = [export_model(trained, to=form, videos=2).path for form in forms]
    found = compare_models([run, *files], videos=2, batches=(1, 2), rounds=3)
    first, *others = found.models
    assert [one.format for one in others] == [f"{form} fp32" for form in forms]
    assert score.lower() in next(iter(first.scores)).lower(), first.scores
    assert first.operations > 1000 and first.parameters > 100
    for one in others:
        assert (one.operations, one.parameters) == (first.operations, first.parameters)
        assert one.scores == pytest.approx(first.scores, abs=1e-3) and one.agreement > 0.99
    for file, one in zip(files, others, strict=True):  # others of the same stem are in the folder
        weights = file.with_suffix(".bin") if file.suffix == ".xml" else file
        assert one.size == file.stat().st_size + (weights.stat().st_size if weights != file else 0)
        assert one.size > 4 * first.parameters * 0.9
    for one in found.models:
        assert [(each.batch, each.threads) for each in one.latencies] == [(1, 1), (2, 1)]
        assert all(0 < each.p50 <= each.p95 and each.memory >= 0 for each in one.latencies)
    assert str(found).count("\n") == 1 + len(found.models)
