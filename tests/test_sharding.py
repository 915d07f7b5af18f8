"""Weights, gradients and optimizer states in slices: equal to one process, and what is refused."""

import math
import multiprocessing

import pytest
import torch
from sharded_ranks import EXACT, HALF, Net, train, train_sharded
from test_distributed import free_port
from test_engine import rows

from vidseg.engine import DeviceOptions
from vidseg.engine.checkpoints import read_checkpoint
from vidseg.engine.sharding import check_sharding, shard_model


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of runs on two processes, and of the same ones on one process."""
    out = tmp_path_factory.mktemp("sharded")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sharded_ranks"])
    port = free_port()
    ranks = [context.Process(target=train_sharded, args=(rank, port, out)) for rank in range(2)]
    for process in ranks:
        process.start()
    for name, options in {"one": EXACT, "bf16_one": {"level": "bf16"}}.items():
        train(out / name, **options)
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
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


STATES = ("state_dict", "trained", "average", "optimizer")


@pytest.mark.parametrize("epoch", [1, 2])
def test_two_processes_with_slices_equal_one(runs, epoch):
    found, expected = (read_checkpoint(runs / f"{name}/net_ep-{epoch:04d}.pth") for name in ("two", "one"))
    for name in STATES:
        assert_close(found[name], expected[name], rtol=1e-6, atol=1e-8)
    for name in ("train_results_s0001.csv", "val_results_s0001.csv"):
        for one, other in zip(rows(runs / "one" / name), rows(runs / "two" / name), strict=True):
            assert other == pytest.approx(one, rel=1e-5)


def test_each_process_holds_a_part_of_every_parameter(runs):
    held = [torch.load(runs / f"held{rank}.pt", weights_only=True) for rank in range(2)]
    for name, parameter in Net().named_parameters():
        rows = parameter.shape[0]
        of_first = parameter.numel() // rows * math.ceil(rows / 2)
        assert [part[name] for part in held] == [of_first, parameter.numel() - of_first]


def test_a_run_that_stopped_within_an_epoch_goes_on_with_any_number_of_processes(runs):
    stopped = read_checkpoint(runs / "stopped_one/net_last.pth")
    assert (stopped["epoch"], stopped["batch"]) == (1, 2)
    train(runs / "stopped_one", **EXACT)
    train(runs / "half_stopped_one", **HALF)
    found = {name: read_checkpoint(runs / f"{name}/net_last.pth") for name in ("two", "stopped", "stopped_one", "half")}
    for name in STATES:  # checkpoints have float32 weights, of these networks in float64
        assert_close(found["stopped"][name], found["two"][name], rtol=1e-5, atol=1e-7)
        assert_close(found["stopped_one"][name], found["stopped"][name], rtol=1e-5, atol=1e-7)
    same = read_checkpoint(runs / "half_stopped/net_last.pth")
    for name in (*STATES, "scaler", "best_values"):
        assert_close(same[name], found["half"][name], rtol=0, atol=0)
    one = read_checkpoint(runs / "half_stopped_one/net_last.pth")
    assert_close(one["scaler"], same["scaler"])
    assert one["best_values"] == pytest.approx(same["best_values"], rel=0.02)


def test_lower_precision(runs):
    found, expected = (read_checkpoint(runs / f"{name}/net_last.pth") for name in ("bf16", "bf16_one"))
    assert_close(found["state_dict"], expected["state_dict"], rtol=0.02, atol=0.01)
    half = read_checkpoint(runs / "half/net_last.pth")
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
