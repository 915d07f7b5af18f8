"""Opt levels on the CPU: types of weights and arithmetic, loss scale, master weights."""

import pytest
import torch
from torch import nn
from training_batches import Batch, Batches, constant, linear, rows

from vidseg.engine import Trainer
from vidseg.engine.checkpoints import read_checkpoint
from vidseg.engine.precision import make_precision

CPU = torch.device("cpu")


class Clips(Batches):
    """Two batches of small clips of two classes."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        labels = torch.tensor([0, 1, 0, 1])
        frames = [torch.randn(4, 3, 4, 16, 16, generator=generator) + labels.view(4, 1, 1, 1, 1) for _ in range(2)]
        self.batches, self.epochs = [Batch(clips, labels) for clips in frames], []


class Small(nn.Module):
    """Every kind of layer of the library's networks, once."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 8, 3, stride=2, padding=1), nn.BatchNorm3d(8)
        self.lstm, self.fc = nn.LSTM(8, 8), nn.Linear(8, 2)

    def forward(self, frames):
        x = torch.relu(self.norm(self.conv(frames))).mean((3, 4))
        return self.fc((x * self.lstm(x.permute(2, 0, 1))[0].permute(1, 2, 0)).mean(2))


def small() -> nn.Module:
    torch.manual_seed(0)
    return Small()


def types_seen(model: nn.Module) -> dict[str, set[torch.dtype]]:
    """Types that come out of each kind of layer, filled while the model runs."""
    seen: dict[str, set[torch.dtype]] = {}

    def note(module, _, output):
        first = output[0] if isinstance(output, tuple) else output
        seen.setdefault(type(module).__name__, set()).add(first.dtype)

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(note)
    return seen


HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    "level, weights, norms, arithmetic, recurrent, scale",
    [
        ("O0", SINGLE, SINGLE, SINGLE, SINGLE, None),
        ("O1", SINGLE, SINGLE, HALF, SINGLE, 65536.0),
        ("O2", HALF, SINGLE, HALF, HALF, 65536.0),
        ("O3", HALF, HALF, HALF, HALF, None),
        ("bf16", SINGLE, SINGLE, BRAIN, SINGLE, None),
    ],
)
def test_a_run_at_each_level(tmp_path, caplog, level, weights, norms, arithmetic, recurrent, scale):
    caplog.set_level("INFO", "vidseg")
    model = small()
    seen = types_seen(model)
    trainer = Trainer(model, Clips(), validation=Clips(), opt_level=level, schedule=constant(0.02))
    result = trainer.fit(3, tmp_path)
    assert {model.conv.weight.dtype, model.fc.weight.dtype} == {weights}
    assert {model.norm.weight.dtype, model.norm.running_var.dtype} == {norms}
    assert seen["Conv3d"] == seen["Linear"] == {arithmetic} and seen["LSTM"] == {recurrent}
    assert result.logits.dtype == SINGLE
    # it learns, and in float32 what is stored is exact
    losses = [row[3] for row in rows(tmp_path / "train_results_s0001.csv")]
    assert losses[-1] < losses[0]
    state = read_checkpoint(tmp_path / "model_last.pth")
    assert {value.dtype for value in state["state_dict"].values() if value.is_floating_point()} == {SINGLE}
    buffers = {entry["momentum_buffer"].dtype for entry in state["optimizer"]["state"].values()}
    assert buffers == ({HALF} if level == "O3" else {SINGLE})
    lines = [record.getMessage() for record in caplog.records if "Batch [" in record.getMessage()]
    assert all((f"scale = {scale:g}" in line) if scale else "scale" not in line for line in lines)


def test_levels_agree_with_float32(tmp_path):
    losses = {}
    for level in ("O0", "O1", "O2", "bf16"):
        Trainer(small(), Clips(), opt_level=level, schedule=constant(0.02)).fit(2, tmp_path / level)
        losses[level] = [row[3] for row in rows(tmp_path / level / "train_results_s0001.csv")]
    assert losses["O1"] == pytest.approx(losses["O0"], rel=5e-3)
    assert losses["O2"] == pytest.approx(losses["O0"], rel=1e-2)
    assert losses["bf16"] == pytest.approx(losses["O0"], rel=3e-2)


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_an_overflow_leaves_its_step_out_and_halves_the_scale(level):
    model = linear(dropout=0)
    precision = make_precision(level, CPU)
    groups = precision.prepare(model, [{"params": list(model.parameters())}])
    optimizer = torch.optim.SGD(groups, lr=0.5)
    before = precision.weights(model)["2.weight"].clone()
    precision.backward(model[2].weight.float().sum() * float("inf"))
    precision.step(model, optimizer, clip_norm=None)
    assert torch.equal(precision.weights(model)["2.weight"], before) and precision.scale().item() == 32768
    precision.backward(model[2].weight.float().sum() * 1e-4)
    norm = precision.step(model, optimizer, clip_norm=1.0)
    assert norm.item() == pytest.approx(1e-4 * 6, rel=1e-2)  # of the true gradient, not of the scaled one
    assert torch.allclose(precision.weights(model)["2.weight"], before - 0.5e-4, atol=1e-7)
    precision.check_scale(1.0)
    with pytest.raises(RuntimeError, match="not finite at a loss scale of 1e-06; opt_level='bf16'"):
        precision.check_scale(1e-6)


def test_master_weights_gather_small_steps():
    """Steps too small for float16 add up in the float32 copies."""
    model = nn.Linear(4, 1, bias=False)
    nn.init.ones_(model.weight)
    precision = make_precision("O2", CPU)
    optimizer = torch.optim.SGD(precision.prepare(model, [{"params": list(model.parameters())}]), lr=1e-4)
    for _ in range(20):  # the first one overflows at the first scale, 65536, and is left out
        precision.backward(model(torch.ones(1, 4)).float().sum())
        precision.step(model, optimizer, clip_norm=None)
    assert precision.weights(model)["weight"].tolist() == [[pytest.approx(0.9981, abs=1e-6)] * 4]
    assert model.weight.dtype == HALF and model.weight[0, 0].item() == pytest.approx(0.9981, abs=5e-4)
    other = nn.Linear(4, 1, bias=False)
    resumed = make_precision("O2", CPU)
    resumed.prepare(other, [{"params": list(other.parameters())}])
    resumed.load_weights(other, precision.weights(model))
    assert torch.equal(resumed.weights(other)["weight"], precision.weights(model)["weight"])


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_resuming_keeps_scale_and_master_weights(tmp_path, level):
    whole = Trainer(small(), Clips(), opt_level=level, schedule=constant(0.02))
    whole.fit(2, tmp_path / "whole")
    Trainer(small(), Clips(), opt_level=level, schedule=constant(0.02)).fit(1, tmp_path / "parts")
    Trainer(small(), Clips(), opt_level=level, schedule=constant(0.02)).fit(2, tmp_path / "parts", resume=True)
    states = [read_checkpoint(tmp_path / name / "model_last.pth") for name in ("whole", "parts")]
    assert all(
        torch.equal(states[0]["state_dict"][key], states[1]["state_dict"][key]) for key in whole.model.state_dict()
    )
    assert states[0]["scaler"] == states[1]["scaler"]


def test_unknown_levels_are_refused():
    with pytest.raises(ValueError, match="opt_level='01' is not one of O0, O1, O2, O3, bf16"):
        make_precision("01", CPU)


@pytest.mark.parametrize("level", ["O1", "bf16"])
def test_gradients_of_clips_of_two_frames(level):
    """oneDNN's own bfloat16 kernel gives NaN here."""
    torch.manual_seed(0)
    conv, frames = nn.Conv3d(16, 16, 3, padding=1), torch.randn(4, 16, 2, 4, 4)
    expected = torch.autograd.grad(conv(frames).square().sum(), conv.weight)[0]
    precision = make_precision(level, CPU)
    precision.prepare(conv, [{"params": list(conv.parameters())}])
    with precision.forward():
        loss = conv(frames).float().square().sum()
    found = torch.autograd.grad(loss, conv.weight)[0]
    assert ((found - expected).norm() / expected.norm()).item() < 0.01
    assert not torch.is_autocast_enabled("cpu")
