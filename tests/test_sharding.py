"""Weights, gradients and optimizer states in slices: equal to one process, and what is refused."""

import math
import multiprocessing
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sharded_ranks import EXACT, HALF, SINGLE, Net, train, train_deepspeed, train_sharded
from test_distributed import free_port
from training_batches import rows

from vidseg.engine import DeviceOptions
from vidseg.engine.checkpoints import read_checkpoint
from vidseg.engine.deepspeed import DeepSpeedPrecision, read_settings
from vidseg.engine.precision import make_precision
from vidseg.engine.sharding import check_sharding, shard_model


def started(target, *arguments):
    """Two processes that have been started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sharded_ranks"])
    port = free_port()
    ranks = [context.Process(target=target, args=(rank, port, *arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    return ranks


def join(ranks):
    for process in ranks:
        process.join(240)
        assert process.exitcode == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of runs on two processes, and of the same ones on one process."""
    out = tmp_path_factory.mktemp("sharded")
    ranks = started(train_sharded, out)
    for name, options in {"one": EXACT, "bf16_one": {"level": "bf16"}, "single_one": SINGLE}.items():
        train(out / name, **options)
    join(ranks)
    return out


def assert_close(found, expected, **tolerance):
    """Compare two states, with tensors at any depth."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_close(found[name], expected[name], **tolerance)
    elif isinstance(expected, (list, tuple)):
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, **tolerance)
    elif isinstance(expected, str):
        assert found == expected
    else:
        torch.testing.assert_close(found, expected, equal_nan=True, **tolerance)


def last(runs, *names):
    """The last checkpoints of runs."""
    return [read_checkpoint(runs / f"{name}/net_last.pth") for name in names]


STATES = ("state_dict", "trained", "average", "optimizer")


@pytest.mark.parametrize("epoch", [1, 2])
def test_two_processes_with_slices_equal_one(runs, epoch):
    found, expected = (read_checkpoint(runs / f"{name}/net_ep-{epoch:04d}.pth") for name in ("exact", "one"))
    for name in STATES:
        assert_close(found[name], expected[name], rtol=1e-6, atol=1e-8)
    for name in ("train_results_s0001.csv", "val_results_s0001.csv"):
        for one, other in zip(rows(runs / "one" / name), rows(runs / "exact" / name), strict=True):
            assert other == pytest.approx(one, rel=1e-5)


def test_each_process_holds_a_part_of_every_parameter(runs):
    held = [torch.load(runs / f"held{rank}.pt", weights_only=True) for rank in range(2)]
    for name, parameter in Net().named_parameters():
        rows = parameter.shape[0]
        of_first = parameter.numel() // rows * math.ceil(rows / 2)
        assert [part[name] for part in held] == [of_first, parameter.numel() - of_first]


def test_a_run_that_stopped_within_an_epoch_goes_on_with_any_number_of_processes(runs):
    left = read_checkpoint(runs / "exact_left/net_last.pth")
    assert (left["epoch"], left["batch"]) == (1, 2)
    train(runs / "exact_left", **EXACT)
    whole, two, one = last(runs, "exact", "exact_stopped", "exact_left")
    for name in STATES:  # checkpoints have float32 weights, of these networks in float64
        assert_close(two[name], whole[name], rtol=1e-5, atol=1e-7)
        assert_close(one[name], whole[name], rtol=1e-5, atol=1e-7)
    train(runs / "half_left", **HALF)
    whole, two, one = last(runs, "half", "half_stopped", "half_left")
    for name in (*STATES, "scaler", "best_values"):
        assert_close(two[name], whole[name], rtol=0, atol=0)
    assert_close(one["scaler"], whole["scaler"])
    assert one["best_values"] == pytest.approx(whole["best_values"], rel=0.02)


def test_lower_precision(runs):
    found, expected, half = last(runs, "bf16", "bf16_one", "half")
    assert_close(found["state_dict"], expected["state_dict"], rtol=0.02, atol=0.01)
    assert half["scaler"]["scale"] == 2.0**16 and half["scaler"]["_growth_tracker"] == 4  # four steps, no overflow
    for state in half["optimizer"]["state"].values():
        assert state["exp_avg"].dtype == torch.float32


def test_what_slices_exclude_is_refused():
    cases = [
        ({}, "O2", {}, "opt_level='O2'.*bf16"),
        ({"compile": True}, "O0", {}, "compile"),
        ({"channels_last": True}, "O0", {}, "channels_last"),
        ({"amp": "apex"}, "O0", {}, "amp='apex'"),
        ({}, "O0", {"implementation": "fused"}, "implementation='fused'"),
        ({}, "O0", {"one_backward": False}, "several backward passes"),
    ]
    for devices, level, more, message in cases:
        with pytest.raises(ValueError, match=message):
            check_sharding(DeviceOptions(shard=True, **devices), level, **more)
    check_sharding(DeviceOptions(shard=True), "bf16")
    scale = torch.nn.Module()
    scale.number = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ValueError, match="number is a single number"):
        shard_model(scale, torch.device("cpu"))


# DeepSpeed


STAND_IN = Path(__file__).parent / "fake_deepspeed"


@pytest.mark.parametrize("package", ["stand-in", "deepspeed"])
def test_deepspeed_trains_what_one_process_trains_and_resumes(package, runs, tmp_path):
    stages = (0,)
    if package == "deepspeed":
        pytest.importorskip("deepspeed")
        stages = (0, 1, 2)
    join(started(train_deepspeed, tmp_path, STAND_IN if package == "stand-in" else None, stages))
    (one,) = last(runs, "single_one")
    for stage in stages:
        whole, resumed, left = last(tmp_path, *(f"stage{stage}{name}" for name in ("", "_stopped", "_left")))
        assert (left["epoch"], left["batch"]) == (1, 2)
        for name in ("state_dict", "trained", "average"):
            assert_close(whole[name], one[name], rtol=1e-3, atol=1e-5)
            assert_close(resumed[name], whole[name], rtol=0, atol=0)
        assert ("processes" in whole["optimizer"]) is (stage > 0)
    train(tmp_path / "stage0_left", **SINGLE)  # without divided states, any engine goes on
    assert_close(last(tmp_path, "stage0_left")[0]["state_dict"], one["state_dict"], rtol=1e-3, atol=1e-5)


def test_what_deepspeed_excludes_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="needs its JSON file"):
        DeviceOptions(engine="deepspeed")
    with pytest.raises(ValueError, match="needs its JSON file"):
        DeviceOptions(deepspeed_config="zero.json")
    with pytest.raises(ValueError, match="excludes shard"):
        DeviceOptions(engine="deepspeed", deepspeed_config="zero.json", shard=True)
    with pytest.raises(ValueError, match=r"opt_level='O2'.*O0 or bf16"):
        DeepSpeedPrecision("O2", torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ImportError, match="pip install deepspeed, or use shard"):
        DeepSpeedPrecision("O0", torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(initialize=print))
    with pytest.raises(ValueError, match="torchrun"):
        DeepSpeedPrecision("O0", torch.device("cpu"))
    run = {"accumulate": 3, "world_size": 2, "clip_norm": None}
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        read_settings(tmp_path / "absent.json", **run)
    for content, message in (
        ("[]", "holds list"),
        ('{"optimizer": {"type": "Adam"}}', "use --optimizer"),
        ('{"bf16": {"enabled": true}}', "use --opt-level bf16"),
        ('{"zero_optimization": {"stage": 3}}', "stage 3, expected 0, 1 or 2"),
        ('{"zero_optimization": [3]}', r"stage \[3\], expected"),
        ('{"train_batch_size": 5}', "use --batch-size"),
        ('{"gradient_accumulation_steps": 5}', "gradient_accumulation_steps is 5, by the options of the run it is 3"),
    ):
        (tmp_path / "zero.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_settings(tmp_path / "zero.json", **run)
    (tmp_path / "zero.json").write_text('{"bf16": {"enabled": false}, "zero_optimization": {"stage": 2}}')
    settings = read_settings(tmp_path / "zero.json", **run)
    assert settings["zero_optimization"] == {"stage": 2} and settings["train_batch_size"] == 6
    optimizer = torch.optim.SGD([torch.zeros(1)])
    divided = {"stage": 1, "processes": [{}, {}]}
    with pytest.raises(ValueError, match="continue with --engine deepspeed"):
        make_precision("O0", torch.device("cpu")).load_optimizer(optimizer, divided)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    engine = SimpleNamespace(initialize=lambda **options: (torch.nn.Module(),))
    monkeypatch.setitem(sys.modules, "deepspeed", engine)
    precision = DeepSpeedPrecision("O0", torch.device("cpu"))
    for stage in (0, 1, 2):
        precision.attach(torch.nn.Module(), optimizer, {"zero_optimization": {"stage": stage}})
        with pytest.raises(ValueError, match=f"stage 1 on 2 processes, here it is stage {stage} on 3"):
            precision.load_optimizer(optimizer, divided)
