"""Quantization-aware training: rounded values, ranges, resume and ranks in the loop, files with the trained scales."""

import json
import multiprocessing
import signal

import numpy as np
import pytest
import torch
from shapes import shapes_dataset
from test_distributed import free_port
from torch import nn
from trained import ShuffledClips, network, train, train_and_die, train_as_rank

from vidseg.cli.main import main
from vidseg.engine import OptimizerOptions, Trainer
from vidseg.models import _quantized as quantized
from vidseg.models import create_model, model_options
from vidseg.models._quantized import input_scale, quantize_layers, quantized_layers, update_ranges
from vidseg.tasks import load_trained


def trained_layer(layer, x):
    """The layer with rounded values and the range of one batch."""
    quantize_layers(layer).train()
    layer(x)
    update_ranges([layer])
    return layer


@pytest.mark.parametrize("compiled", [False, True])
def test_values_are_rounded_and_gradients_are_not(compiled, monkeypatch):
    torch.manual_seed(0)
    x, layer = torch.randn(6, 5), nn.Linear(5, 3)
    own = layer.weight.detach().clone()
    trained_layer(layer, x)
    assert layer.input_range.tolist() == [float(x.min()), float(x.max())]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    step = (x.max() - x.min()) / 255
    zero = (-x.min() / step).round()
    inputs = torch.cat([torch.tensor([[-9.0, 9.0, -9.0, 9.0, 9.0]]), x]).requires_grad_()  # the first row is outside
    levels = ((inputs.detach() / step).round() + zero).clamp(0, 255) - zero
    scale = own.abs().amax(dim=1, keepdim=True) / 127
    weight = (own / scale).round() * scale
    found = layer.eval()(inputs)
    assert torch.allclose(found, levels * step @ weight.T + layer.bias, atol=1e-6)
    assert int((levels.unique()).numel()) > 10 and not torch.allclose(weight, own, atol=1e-5)
    found.sum().backward()
    assert not bool(inputs.grad[0].any())
    inside = (levels > -zero) & (levels < 255 - zero)  # without the ends, whose values are up to half a step outside
    assert torch.allclose(inputs.grad[inside], weight.sum(dim=0).expand(7, -1)[inside], atol=1e-6)
    parameter = dict(layer.named_parameters())["weight"]
    assert torch.equal(parameter, own)
    assert torch.allclose(parameter.grad, (levels * step).sum(dim=0).expand(3, -1), atol=1e-5)


def test_ranges_follow_steps_and_not_evaluation():
    layer = quantize_layers(nn.Linear(2, 2)).train()
    for values in ([1.0, 2.0], [-4.0, 8.0]):  # two batches of one step
        layer(torch.tensor([values]))
    update_ranges([layer])
    assert layer.input_range.tolist() == [-4.0, 8.0]
    layer(torch.tensor([[0.0, 28.0]]))
    update_ranges([layer])
    assert layer.input_range.tolist() == pytest.approx([-3.8, 9.0])
    update_ranges([layer])  # not called since
    with quantized.constant_ranges(layer):
        layer(torch.tensor([[0.0, 100.0]]))
    layer.eval()(torch.tensor([[0.0, 100.0]]))
    update_ranges([layer])
    assert layer.input_range.tolist() == pytest.approx([-3.8, 9.0])


def test_layers_keep_their_kind_and_names():
    model = create_model("videomae_base", num_classes=3, width=0.125, layers=1, quantized="int8")
    plain = create_model("videomae_base", num_classes=3, width=0.125, layers=1)
    names = {name.removesuffix("input_range") for name in model.state_dict() if name.endswith("input_range")}
    assert set(model.state_dict()) - {f"{name}input_range" for name in names} == set(plain.state_dict())
    kinds = {type(module).__name__ for module in quantized_layers(model).values()}
    assert len(kinds) > 2 and "quantized" not in model_options("videomae_base")
    with pytest.raises(ValueError, match="quantized='int4' must be 'int8'"):
        create_model("r3d_18", num_classes=3, width=0.125, quantized="int4")


def test_a_killed_run_continues_inside_an_epoch(tmp_path):
    """Ranges, average of the weights and all else as if nothing had happened."""
    options = {"quantized": True, "optimizer": OptimizerOptions(ema=0.5)}
    whole, _ = train(tmp_path / "whole", epochs=3, **options)
    process = multiprocessing.get_context("spawn").Process(
        target=train_and_die, args=(tmp_path / "killed", (1, 2), True), kwargs={"epochs": 3, **options}
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    resumed, _ = train(tmp_path / "killed", epochs=3, **options)
    for part, other in ((whole.model, resumed.model), (whole.average, resumed.average)):
        one, two = part.state_dict(), other.state_dict()
        one, two = one.get("average", one), two.get("average", two)
        assert all(torch.equal(one[name], two[name]) for name in one)
    names = [name for name in whole.model.state_dict() if name.endswith("input_range")]
    assert len(names) > 20
    average = whole.average.weights()
    assert any(not torch.equal(average[name], whole.model.state_dict()[name]) for name in names)


def test_ranges_and_norms_are_constant_in_the_last_part(tmp_path):
    def state(epochs, **options):
        trainer, _ = train(tmp_path / "run", epochs=epochs, quantized=True, **options)
        return {
            name: value.clone()
            for name, value in trainer.model.state_dict().items()
            if name.endswith(("input_range", "conv1.weight"))
        }

    one = state(1, resume=False, optimizer=OptimizerOptions(freeze_ranges=1.0))
    two = state(2, optimizer=OptimizerOptions(freeze_ranges=0.5))
    three = state(3, optimizer=OptimizerOptions(freeze_ranges=1.0))
    for name in one:
        changed = name.endswith("weight")
        assert torch.equal(one[name], two[name]) != changed, name
        assert not torch.equal(two[name], three[name]), name


def test_two_processes_have_the_ranges_of_one(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trained"])
    (tmp_path / "two").mkdir()
    port = free_port()
    ranks = [context.Process(target=train_as_rank, args=(rank, 2, port, tmp_path / "two", True)) for rank in range(2)]
    for process in ranks:
        process.start()
    trainer, _ = train(tmp_path / "one", exact=True, quantized=True)
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    found = [torch.load(tmp_path / f"two/rank{rank}.pt", weights_only=True)["state"] for rank in range(2)]
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(found[0][name], found[1][name]), name
        if name.endswith("input_range"):  # values on the border of two levels may differ
            assert torch.allclose(found[0][name], value, rtol=0.05, atol=0.02), name


@pytest.mark.parametrize(
    "options, message",
    [
        ({"opt_level": "O2"}, "opt_level='O2': a network with quantized='int8' trains with O0, O1 or bf16"),
        ({"freeze_backbone": True}, "freeze_backbone does not work with quantized='int8'"),
        ({"quantized": False, "optimizer": OptimizerOptions(freeze_ranges=0.5)}, "freeze_ranges=0.5 has no effect"),
    ],
)
def test_contradictions_are_named(options, message, tmp_path):
    options = {"quantized": True, **options}
    model = quantize_layers(network()) if options.pop("quantized") else network()
    with pytest.raises(ValueError, match=message):
        Trainer(model, ShuffledClips(), device="cpu", **options)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a network with ranges of two batches, and batch norms whose scales have both signs."""
    torch.manual_seed(0)
    model = create_model("r3d_18", num_classes=3, width=0.125, quantized="int8").train()
    for _ in range(2):
        model(torch.randn(2, 3, 4, 32, 32))
        update_ranges(quantized_layers(model).values())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias, std=0.1)
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save(model.state_dict(), path)
    return path


def load(path, **options):
    return load_trained(
        path,
        network="r3d_18",
        network_options={"width": 0.125, "quantized": "int8"} | options,
        classes=list("abc"),
        frames=4,
        size=32,
        resize=32,
    )


@pytest.mark.slow
@pytest.mark.parametrize("form, suffix", [("onnx", ".onnx"), ("openvino", ".xml")])
def test_files_have_exactly_the_trained_scales(weights, tmp_path, form, suffix):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip({"onnx": "onnxruntime"}.get(form, form))
    from vidseg.export import export_model

    trained = load(weights)
    found = export_model(trained, tmp_path / f"net{suffix}", to=form)
    assert found.artifact.precision == "int8" and found.replay.agreement >= 0.95
    assert sum(file.stat().st_size for file in found.files) < 0.6 * weights.stat().st_size
    assert load_trained(found.path).network == "r3d_18"
    if form != "onnx":
        return
    graph = onnx.load(found.path).graph
    values = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    rounding = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    layers = list(quantized_layers(trained.model).values())
    expected = {(float(scale), int(zero)) for scale, zero in (input_scale(layer.input_range) for layer in layers)}
    assert {(float(values[node.input[1]]), int(values[node.input[2]])) for node in rounding} == expected
    assert not [node for node in graph.node if node.op_type == "BatchNormalization"]
    restoring = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    stored = [values[node.input[0]] for node in restoring if node.input[0] in values]
    assert len(stored) == len(layers) and all(value.dtype == np.int8 for value in stored)
    assert all(np.abs(value.reshape(len(value), -1)).max(axis=1).min() == 127 for value in stored)


def test_what_a_quantized_network_is_not(weights, tmp_path):
    from vidseg.export import export_model
    from vidseg.export.pruning import prune_channels
    from vidseg.export.quantization import quantize_model

    trained = load(weights)
    with pytest.raises(ValueError, match=r"is trained for int8 and has no fp16 form"):
        export_model(trained, tmp_path / "net.onnx", precision="fp16")
    with pytest.raises(ValueError, match=r"is trained for int8, which onnx, openvino, triton express, not aoti"):
        export_model(trained, tmp_path / "net.pt2", to="aoti")
    with pytest.raises(ValueError, match=r"is trained for int8; write it with `vidseg export`"):
        quantize_model(trained, tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"is trained for int8; prune the run that it came from"):
        prune_channels(trained, 0.5)
    for layer in quantized_layers(trained.model).values():
        layer.input_range.zero_()
    with pytest.raises(ValueError, match=r"no ranges of activations: train it first"):
        export_model(trained, tmp_path / "net.onnx")


@pytest.mark.slow
def test_a_run_is_trained_for_int8(tmp_path, capsys):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    data = shapes_dataset(tmp_path, videos=16, frames=8)
    words = ["train", str(data), "--network", "r3d_18", "--network-option", "width=0.125", "--frames", "4"]
    words += ["--size", "32", "--batch-size", "4", "--device", "cpu", "--epochs", "1", "--warmup-epochs", "0"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    out = tmp_path / "int8"
    words = ["compress", str(tmp_path / "run"), "--quantize", "int8", "--fine-tune", "2", "--out", str(out), "--json"]
    assert main([*words, "--device", "cpu"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["run"] == str(out) and facts["path"] == str(out / "export/r3d_18_int8.onnx")
    record = json.loads((out / "options.json").read_text())
    assert record["network_options"] == {"width": 0.125, "quantized": "int8"}
    tuned, before = load_trained(out), load_trained(tmp_path / "run")
    assert tuned.source.epoch in (1, 2) and len(quantized_layers(tuned.model)) == 21
    assert set(before.model.state_dict()) < set(tuned.model.state_dict())
    assert main(["train", str(data), "--resume", "--epochs", "3", "--out", str(out), "--device", "cpu"]) == 0
    assert main(["test", facts["path"]]) == 0
