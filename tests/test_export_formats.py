"""Exported models compute what their network computes, in every format, and take its place everywhere."""

import json
import re
import zipfile
from dataclasses import replace

import flow_runs
import numpy as np
import pytest
import torch
from export_networks import load_small, shallow_registry
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentation_data import segmentation_dataset
from stream_data import CLASSES, labels_of, write_video
from tiny_stream import TinyStream, registered_tiny_stream
from torch.utils import _pytree as pytree

from vidseg import ops
from vidseg.cli.main import main
from vidseg.export import FORMATS, ExportError, export_model, onnx_format, read_artifact, tensorrt_format
from vidseg.export import artifact as artifact_file
from vidseg.export.artifact import TensorSpec
from vidseg.export.onnx_operators import DECOMPOSITIONS, without_own_operators
from vidseg.export.quantization import quantize_model
from vidseg.export.replay import LIMITS
from vidseg.export.signature import example_inputs
from vidseg.models._streaming import StreamModel, StreamState
from vidseg.tasks import load_trained
from vidseg.tasks.segmentation.cross_validation import cross_validate
from vidseg.tasks.segmentation.recipes import recipe_options

NETWORKS = ["tsn_r18", "r3d_18", "mstcn", "bmn", "tiny_flow"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny_stream():
    with registered_tiny_stream():
        yield


@pytest.fixture(scope="module")
def stream(tiny_stream, tmp_path_factory):
    """A trained streaming network, the same exported, and a folder of videos."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("stream")
    torch.manual_seed(3)
    model = TinyStream(3)
    with torch.no_grad():  # the three features of a frame are its colors
        for layer, scale in ((model.stem, 1 / 16), (model.now, 4.0), (model.past, 0.5)):
            layer.weight.mul_(0.01)
            for color in range(3):
                layer.weight[color, color] += scale
    torch.save(model.state_dict(), folder / "weights.pth")
    words = ["--network", "tiny_stream", "--classes", str(folder / "classes.txt"), "--device", "cpu"]
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    assert main(["export", str(folder / "weights.pth"), *words]) == 0
    write_video(folder / "v.mkv", labels_of(3))
    return folder, words


@pytest.fixture(scope="module")
def labels_run(tmp_path_factory):
    """A run of a segmentation network."""
    root = segmentation_dataset(tmp_path_factory.mktemp("data") / "gtea")
    out = tmp_path_factory.mktemp("runs")
    network = {"network_option": ("layers=2", "maps=8", "stages=2"), "epochs": 1, "validation_share": 0.25}
    options = recipe_options(
        "gtea", "mstcn", dataset=str(root), out=str(out), splits=("split1",), device="cpu", **network
    )
    cross_validate(options)
    return next(path.parent for path in out.rglob("options.json"))


@pytest.fixture
def tiny_flow():
    flow_runs.register()
    yield
    flow_runs.forget()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("tiny_flow")
def test_onnx_computes_the_same(name, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    with shallow_registry():
        trained = load_small(name, tmp_path)
        found = export_model(trained, tmp_path / "model.onnx")
    assert found.replay.ok and found.replay.difference < 1e-4
    assert found.artifact.inputs[0].shape[0] == "batch"
    assert len([size for size in found.artifact.inputs[0].shape if isinstance(size, str)]) >= 2  # and a length
    again = load_trained(tmp_path / "model.onnx")
    assert again.classes == trained.classes and again.input_spec == trained.input_spec
    assert again.network == name and again.facts()["parameters"] == found.artifact.parameters > 0
    assert not list(again.model.parameters())
    inputs = [value for key, value in example_inputs(trained, batch=3).items() if key != "noise"]
    if trained.task == "streaming":
        inputs.insert(1, None)
    with torch.no_grad():
        one, other = again.model(*inputs), trained.model(*inputs)
    assert pytree.tree_structure(one) == pytree.tree_structure(other)
    for value, expected in zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True):
        assert torch.allclose(value.double(), expected.double(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form, precision", [("openvino", "fp32"), ("torch", "fp32"), ("torch", "bf16")])
def test_other_formats_compute_the_same(form, precision, tmp_path):
    if form == "openvino":
        pytest.importorskip("openvino")
        pytest.importorskip("onnxscript")
    trained = load_small("mstcn", tmp_path)
    found = export_model(trained, to=form, precision=precision)
    again = load_trained(found.path)
    features = np.random.default_rng(0).normal(size=(8, 50)).astype(np.float32)
    one, other = again.predict(features), trained.predict(features)
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5 if precision == "fp32" else 0.05)
    assert again.source.artifact.format == form and again.source.artifact.precision == precision


def test_half_precision_keeps_float32_at_its_edges(tmp_path):
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    with shallow_registry():
        found = export_model(load_small("tsn_r18", tmp_path), precision="fp16")
    model = onnx.load(str(found.path))
    kinds = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT}
    assert {value.data_type for value in model.graph.initializer if len(value.dims) > 1} == {onnx.TensorProto.FLOAT16}
    assert 0 < found.replay.difference <= LIMITS["fp16"][0]


@pytest.mark.parametrize("kind", ["onnx", "openvino", "triton", "dynamic"])
def test_weights_beside_the_graph(kind, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    if kind == "openvino":
        pytest.importorskip("openvino")
    trained = load_small("mstcn", tmp_path)
    monkeypatch.setattr(onnx_format, "_INLINE_BYTES", 1000)  # for the 1.5 GB whose file protobuf could not hold
    if kind == "dynamic":
        found = quantize_model(trained, dynamic=True)
    else:
        found = export_model(trained, tmp_path / f"model{FORMATS[kind].suffix}", to=kind)
    assert found.replay.ok
    (tmp_path / "elsewhere").mkdir()
    for path in found.files:
        path.rename(tmp_path / "elsewhere" / path.name)
    path = tmp_path / "elsewhere" / found.path.name
    path = next(path.glob("*/1/model.onnx")) if path.is_dir() else path
    features = np.random.default_rng(0).normal(size=(8, 50)).astype(np.float32)
    one, other = load_trained(path).predict(features), trained.predict(features)
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=0.02 if kind == "dynamic" else 1e-5)
    if kind == "dynamic":  # ONNX Runtime leaves the small tensors of int8 in the file
        return
    beside = path.with_suffix(".bin") if kind == "openvino" else path.with_name(f"{path.name}.data")
    assert beside.stat().st_size > 1000
    beside.unlink()
    with pytest.raises(ValueError, match=re.escape(path.name)):
        load_trained(path)


def test_a_stream_is_labeled_as_by_its_network(stream, capsys):
    folder, words = stream
    for weights in (["weights.pth", *words], ["weights.onnx", "--device", "cpu"]):
        given = ["--weights", str(folder / weights[0]), *weights[1:]]
        assert main(["predict", "--stream", str(folder / "v.mkv"), *given, "--stride", "8", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    one, other = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    assert len(one) > 2 and all("segments" in line for line in one[:-1])
    for first, second in zip(one[:-1], other[:-1], strict=True):
        assert [part["label"] for part in first["segments"]] == [part["label"] for part in second["segments"]]
        assert [part["probability"] for part in first["segments"]] == pytest.approx(
            [part["probability"] for part in second["segments"]], abs=2e-4
        )


def test_an_exported_model_is_tested_like_its_run(labels_run, capsys):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    assert main(["export", str(labels_run), "--device", "cpu", "--videos", "2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    path = labels_run / "export/mstcn.onnx"
    assert printed["path"] == str(path) and printed["replay"]["source"].startswith("2 videos of ")
    results = [load_trained(one, device="cpu").test(picture=False)["scores"] for one in (labels_run, path)]
    assert results[0].pop("cross_entropy") == pytest.approx(results[1].pop("cross_entropy"), rel=1e-5)
    assert results[0] == results[1]
    capsys.readouterr()
    assert main(["test", str(path), "--device", "cpu"]) == 0
    assert "checkpoint: mstcn.onnx" in capsys.readouterr().out
    assert main(["info", str(path)]) == 0
    assert "features float32 (batch, " in capsys.readouterr().out


def test_the_memory_of_a_stream_is_named(stream):
    folder, _ = stream
    artifact = read_artifact(folder / "weights.onnx")
    assert [str(spec) for spec in artifact.inputs] == [
        "clips float32 (batch, 3, frames, 32, 32)",
        "mask float32 (batch, frames)",
        "state_layer0.past float32 (batch, 6)",
    ]
    assert artifact.outputs == ("logits", "neck_logits", "next_layer0.past")
    assert artifact.replay["source"].startswith("random values") and artifact.replay["agreement"] == 1
    assert artifact.classes == CLASSES
    model = load_trained(folder / "weights.onnx").model
    assert isinstance(model, StreamModel)
    clips = torch.randn(2, 3, 4, 32, 32)
    _, state = model(clips)
    alone = model(clips[:1], state.take([0]))[0].logits
    assert torch.allclose(model(clips, state)[0].logits[:, :1], alone, atol=1e-5)
    assert not torch.allclose(model(clips)[0].logits[:, :1], alone, atol=1e-3)
    with pytest.raises(ValueError, match=r"clips has shape \(2, 3, 4, 40, 40\); the exported tiny_stream takes"):
        model(torch.randn(2, 3, 4, 40, 40))
    with pytest.raises(ValueError, match="no gradients"):
        model(clips.requires_grad_())
    with pytest.raises(ValueError, match=r"the state has no 'layer0\.past'"):
        model(clips, StreamState({"other": torch.zeros(2, 6)}))


@pytest.mark.parametrize("value", [float("nan"), 3.0])
def test_a_file_with_a_damaged_weight_is_refused(value, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    write = onnx_format.write

    def damaged(program, artifact, path):
        write(program, artifact, path)
        model = onnx.load(str(path))
        weight = next(one for one in model.graph.initializer if len(one.dims) == 3)
        values = onnx.numpy_helper.to_array(weight).copy()
        values.flat[0] += value
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        onnx.save(model, str(path))

    monkeypatch.setattr(onnx_format, "write", damaged)
    trained = load_small("mstcn", tmp_path)
    with pytest.raises(ExportError, match=r"largest difference .* decisions agree"):
        export_model(trained)
    assert [path.name for path in tmp_path.iterdir()] == ["mstcn.pth"]


def test_a_wrong_model_leaves_no_file(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    trained = load_small("mstcn", tmp_path)
    before = tmp_path / "mstcn.onnx"
    before.write_text("an earlier model")
    broken = dict(DECOMPOSITIONS)
    broken[torch.ops.aten.relu.default] = lambda x: x.clamp(min=0.1)
    monkeypatch.setattr("vidseg.export.onnx_operators.DECOMPOSITIONS", broken)
    with pytest.raises(ExportError, match="largest difference"):
        export_model(trained)
    assert before.read_text() == "an earlier model"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mstcn.onnx", "mstcn.pth"]


def test_wrong_wishes_are_refused(tmp_path):
    trained = load_small("mstcn", tmp_path)
    with pytest.raises(ValueError, match="precision='int4': onnx has fp32 and fp16"):
        export_model(trained, precision="int4")
    with pytest.raises(ValueError, match="onnx has fp32 and fp16; aoti, torch has bf16"):
        export_model(trained, precision="bf16")
    with pytest.raises(ValueError, match="to='caffe' is not one of onnx, "):
        export_model(trained, to="caffe")
    with pytest.raises(ValueError, match=r"must end in \.onnx"):
        export_model(trained, tmp_path / "model.xml")


def test_tensorrt_is_refused_with_what_to_do(tmp_path):
    pytest.importorskip("onnxscript")
    with pytest.raises(ImportError, match="trtexec --onnx"):
        export_model(load_small("mstcn", tmp_path), to="tensorrt")
    assert [path.name for path in tmp_path.iterdir()] == ["mstcn.pth"]


def test_operators_that_tensorrt_lacks_are_named(tmp_path):
    pytest.importorskip("onnxscript")

    class Halves(torch.nn.Module):
        def forward(self, features):
            first, second = features.chunk(2)
            return first - second

    artifact = replace(export_artifact(tmp_path), inputs=(TensorSpec("features", "float32", ("batch", 3)),))
    example = (torch.randn(4, 3),)
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(Halves(), example, dynamic_shapes=dynamic)
    lacking = tensorrt_format.check_operators(onnx_format.make_program(program, artifact).model)
    assert lacking == ["SequenceAt", "SplitToSequence"]
    with pytest.raises(ValueError, match="TensorRT has no SequenceAt, SplitToSequence; use --to onnx"):
        tensorrt_format.write(program, artifact, tmp_path / "model.engine")
    same = torch.export.export(torch.nn.ReLU(), example, dynamic_shapes=dynamic)
    assert tensorrt_format.check_operators(onnx_format.make_program(same, artifact).model) == []


def export_artifact(tmp_path):
    trained = load_small("mstcn", tmp_path)
    return artifact_file.Artifact(
        format="onnx",
        precision="fp32",
        task="segmentation",
        network="mstcn",
        network_options={},
        classes=trained.classes,
        input=trained.input_spec,
        stride=None,
        inputs=(artifact_file.TensorSpec("features", "float32", ("batch", 8, "length")),),
        outputs=("logits",),
        attributes={"in_features": 8},
        parameters=5,
    )


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".xml"])
def test_descriptions_are_read_again(suffix, tmp_path):
    artifact, path = export_artifact(tmp_path), tmp_path / f"model{suffix}"
    if suffix == ".pt2":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/version", "0")
    else:
        path.write_bytes(b"")
    artifact_file.write_artifact(artifact, path)
    assert read_artifact(path) == artifact
    with pytest.raises(ValueError, match="is an exported mstcn, not asformer"):
        load_trained(path, network="asformer")
    with pytest.raises(ValueError, match="has 5 classes, but 1 names"):
        load_trained(path, classes=["one"])


def test_damaged_descriptions_are_refused_by_name(tmp_path):
    artifact, path = export_artifact(tmp_path), tmp_path / "model.onnx"
    path.write_bytes(b"")
    artifact_file.write_artifact(artifact, path)
    whole = path.read_bytes()
    with pytest.raises(FileNotFoundError, match=r"none\.onnx: no such file"):
        read_artifact(tmp_path / "none.onnx")
    for cut in range(1, len(whole) - 1, max(1, len(whole) // 60)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"model\.onnx: "):
            read_artifact(path)
    path.write_bytes(b"\x72\xff\xff\xff\xff\x0f" + whole)  # an entry of 4 GiB
    with pytest.raises(ValueError, match="truncated"):
        read_artifact(path)
    values = json.loads(artifact.to_json())
    wrong = [
        {"inputs": [{"name": "x", "dtype": "object", "shape": [1]}]},
        {"inputs": [{"name": "x", "dtype": "float32", "shape": [-1]}]},
        {"classes": [1]},
        {"outputs": "logits"},
        {"record": {"task": "segmentation"}},
        {"input": {"frames": "many"}},
        {"parameters": None},
        {"more": 1},
        {"stride": "8"},
    ]
    beside = tmp_path / "model.json"
    (tmp_path / "model.xml").write_text("")
    for change in wrong:
        beside.write_text(json.dumps(values | change))
        with pytest.raises(ValueError, match=r"model\.xml: "):
            read_artifact(tmp_path / "model.xml")
    beside.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not JSON"):
        read_artifact(tmp_path / "model.xml")


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    count=st.integers(1, 5),
    total=st.integers(1, 20),
    bins=st.integers(1, 6),
    ratio=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_align1d_in_closed_form(batch, count, total, bins, ratio, seed):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 3, total, generator=draw)
    start = torch.rand(batch * count, generator=draw) * 1.6 * total - 0.3 * total
    stop = start + torch.rand(batch * count, generator=draw) * 2.2 * total - 0.1 * total
    rois = torch.stack([torch.arange(batch).repeat_interleave(count).float(), start, stop], dim=1)
    expected = ops.align1d(x, rois, bins, sampling_ratio=ratio)
    found = DECOMPOSITIONS[torch.ops.vidseg.align1d.default](x, rois, bins, ratio)
    assert torch.allclose(found, expected, atol=2e-4)


def test_cost_volumes_in_standard_operators():
    draw = torch.Generator().manual_seed(0)
    f1, f2 = (torch.randn(2, 5, 7, 9, generator=draw) for _ in range(2))
    table = {
        torch.ops.vidseg.correlation.default: [(4, 4, 1, 1, 1), (4, 4, 1, 1, 2)],
        torch.ops.vidseg.spatial_correlation.default: [(9, 1, 1, 0, 1, 1), (4, 1, 1, 0, 1, 2)],
    }
    for operator, cases in table.items():
        for case in cases:
            assert torch.allclose(DECOMPOSITIONS[operator](f1, f2, *case), operator(f1, f2, *case), atol=1e-5)
    coords = torch.rand(2, 2, 7, 9, generator=draw) * 12 - 2
    lookup = torch.ops.vidseg.correlation_lookup.default
    smaller = f2[:, :, ::2, 1::2].contiguous()
    assert torch.allclose(DECOMPOSITIONS[lookup](f1, smaller, coords, 2), lookup(f1, smaller, coords, 2), atol=1e-5)
    with pytest.raises(ValueError, match="kernel_size=3"):
        DECOMPOSITIONS[torch.ops.vidseg.correlation.default](f1, f2, 4, 4, 3, 1, 1)


def test_an_operator_without_a_form_is_named():
    class Windows(torch.nn.Module):
        def forward(self, x, starts):
            return ops.window_gather(x, starts, 2)

    program = torch.export.export(Windows(), (torch.randn(1, 5, 2), torch.zeros(1, 1, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"vidseg\.window_gather\.default has no form in standard operators"):
        without_own_operators(program)
