"""Several processes: equal to one with the whole batch, disjoint samples; which GPUs are meant."""

import multiprocessing
import os
import signal
import socket
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from trained import CLIPS, ShuffledClips, fail_as_rank, norm_as_rank, train, train_as_rank
from training_batches import rows

from vidseg.engine import DeviceOptions, distributed
from vidseg.engine.distributed import SyncBatchNorm, choose_gpus, leaving_group, synchronize_norms
from vidseg.engine.event_file import EVENTS, read_events
from vidseg.engine.launch import choose_device


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_two_processes_equal_one(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trained"])
    (tmp_path / "two").mkdir()
    port = free_port()
    ranks = [context.Process(target=train_as_rank, args=(rank, 2, port, tmp_path / "two")) for rank in range(2)]
    for process in ranks:
        process.start()
    loader = ShuffledClips()
    trainer, result = train(tmp_path / "one", exact=True, loader=loader)
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    found = [torch.load(tmp_path / f"two/rank{rank}.pt", weights_only=True) for rank in range(2)]
    # every process its own samples, together those of the one process, batch by batch
    assert not set(found[0]["seen"][: CLIPS // 2]) & set(found[1]["seen"][: CLIPS // 2])
    for start in range(0, CLIPS, 4):
        half = slice(start // 2, start // 2 + 2)
        assert {*found[0]["seen"][half], *found[1]["seen"][half]} == set(loader.seen[start : start + 4])
    for name in ("train_results_s0001.csv", "val_results_s0001.csv"):
        one, two = rows(tmp_path / "one" / name), rows(tmp_path / "two" / name)
        assert [row[:3] for row in one] == [row[:3] for row in two]
        assert [row[3] for row in two] == pytest.approx([row[3] for row in one], rel=1e-5)
    state = trainer.model.state_dict()
    for key, value in state.items():
        assert torch.equal(found[0]["state"][key], found[1]["state"][key]), key
        assert torch.allclose(found[0]["state"][key], value, rtol=1e-5, atol=1e-6), key
    assert torch.equal(found[0]["logits"], found[1]["logits"])  # both have the whole evaluation
    assert torch.allclose(found[0]["logits"], result.logits, rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in (tmp_path / "two").glob("*.pth")) == sorted(
        path.name for path in (tmp_path / "one").glob("*.pth")
    )


def test_events_of_two_processes_are_written_once_also_after_a_kill(tmp_path):
    """Both processes are killed inside the second epoch, the first one while it writes a line."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trained"])

    def run(die, status):
        port = free_port()
        ranks = [context.Process(target=train_as_rank, args=(rank, 2, port, out, False, die)) for rank in range(2)]
        for process in ranks:
            process.start()
        if die:
            train(tmp_path / "one", exact=True)
        for process in ranks:
            process.join(120)
            assert process.exitcode == status

    out = tmp_path / "two"
    out.mkdir()
    run((1, 2), -signal.SIGKILL)
    assert [path.name for path in out.glob("*events*")] == [EVENTS]
    killed = read_events(out)
    assert [event["event"] for event in killed].count("start") == 1 and killed[-1]["done"] == (1, 2)
    with (out / EVENTS).open("ab") as file:
        file.write(b'{"event": "iteration", "ti')
    run(None, 0)
    assert [path.name for path in out.glob("*events*")] == [EVENTS]
    events, expected = read_events(out), read_events(tmp_path / "one")

    def what(events):
        known = ("event", "done", "split", "epoch", "batch", "number", "rate", "path", "numbered")
        return [[event.get(name) for name in known] for event in events if event["event"] not in ("start", "end")]

    assert what(events) == what(expected) and len(expected) > 8
    starts = [event for event in events if event["event"] == "start"]
    assert [event["resumed"] for event in starts] == [False, True] and len({event["run"] for event in starts}) == 1
    assert [event["status"] for event in events if event["event"] == "end"] == ["complete"]


def test_a_process_that_fails_ends_the_others_and_its_error_is_named(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trained"])
    started = []
    for failing in range(2):
        (tmp_path / str(failing)).mkdir()
        port = free_port()
        for rank in range(2):
            started.append(context.Process(target=fail_as_rank, args=(rank, port, tmp_path / str(failing), failing)))
            started[-1].start()
    for process in started:
        process.join(60)
        assert process.exitcode == 1
    for failing in range(2):
        other = 1 - failing
        errors = [(tmp_path / f"{failing}/error{rank}.txt").read_text() for rank in range(2)]
        assert errors[failing] == "ValueError: video 7 is damaged"
        expected = f"OtherProcessError: process {other} ends because process {failing}"
        # Here the first process holds the store; under torchrun the store outlives the processes.
        named = {f"{expected} failed: video 7 is damaged"} | ({f"{expected} has ended"} if failing == 0 else set())
        assert errors[other] in named


def test_a_group_is_aborted_after_an_error_and_destroyed_without_one(monkeypatch):
    calls = []

    class Group:
        def abort(self):
            calls.append("abort")

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: backend)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: calls.append("destroy"))
    monkeypatch.setattr(torch.distributed, "group", SimpleNamespace(WORLD=Group()))
    for backend, expected in (("nccl", ["abort"]), ("gloo", [])):  # noqa: B007
        for error in (ValueError, KeyboardInterrupt):
            with pytest.raises(error), leaving_group():
                raise error
            assert calls == expected
            calls.clear()
        with leaving_group():
            pass
        assert calls == ["destroy"]
        calls.clear()


class OnDevice(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU: numbers read from tensors, and tensors made of numbers."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket
        aten = torch.ops.aten
        waits = (
            aten._local_scalar_dense,
            aten.item,
            aten.is_nonzero,
            aten.lift_fresh,
            aten.nonzero,
            aten.masked_select,
        )
        assert name not in waits, name
        assert name is not aten._to_copy or (options or {}).get("device") is None, "a copy to another device"
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_over_the_group_does_not_wait_for_the_device(monkeypatch, momentum):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    # the other process has no sample
    monkeypatch.setattr(distributed, "sum_over_group", lambda values, group=None: values)
    norm, plain = SyncBatchNorm(4, momentum=momentum), nn.BatchNorm1d(4, momentum=momentum)
    for _ in range(3):
        values = torch.randn(6, 4, 5, requires_grad=True)
        same = values.detach().clone().requires_grad_()
        with OnDevice():
            out = norm(values)
            (out * out.detach().cos()).sum().backward()
        expected = plain(same)
        (expected * expected.detach().cos()).sum().backward()
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(values.grad, same.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.state_dict(), plain.state_dict())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_over_the_group_does_not_wait_for_a_gpu(monkeypatch, momentum):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "sum_over_group", lambda values, group=None: values)
    norm = SyncBatchNorm(8, momentum=momentum).cuda()
    values = torch.randn(4, 8, 5, device="cuda", requires_grad=True)
    norm(values).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        norm(values).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_chosen_gpu_is_the_current_device(monkeypatch):
    """Events and the statistics of memory are those of the current device."""
    chosen = []
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 3)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: chosen[-1] if chosen else 0)
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen.append)
    assert choose_device(DeviceOptions(gpus="2,")) == torch.device("cuda", 2) and chosen == [2]
    assert distributed.process_device("cuda:1") == torch.device("cuda", 1) and chosen == [2, 1]  # as Trainer(device=)
    assert distributed.process_device("cuda") == torch.device("cuda", 1) and chosen == [2, 1, 1]
    assert choose_device(DeviceOptions(gpus="0")) == torch.device("cpu") and chosen == [2, 1, 1]
    with pytest.raises(ValueError, match="cuda:3"):
        distributed.process_device("cuda:3")


def test_batch_norm_over_the_group_takes_the_place_of_the_usual_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4, momentum=0.3), nn.Sequential(nn.BatchNorm3d(4)))
    plain = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4, momentum=0.3), nn.Sequential(nn.BatchNorm3d(4)))
    plain.load_state_dict(model.state_dict())
    model[2][0].eval()
    assert synchronize_norms(model) == 2 and synchronize_norms(model) == 0
    assert isinstance(model[1], SyncBatchNorm) and model[1].momentum == 0.3 and not model[2][0].training
    model.train()
    frames = torch.randn(2, 3, 4, 5, 5)
    assert torch.equal(model(frames), plain(frames))  # one process: the same thing
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(model[1].running_var, plain[1].running_var)


def test_groups_of_processes_share_statistics_of_batch_norm(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trained"])
    port = free_port()
    ranks = [context.Process(target=norm_as_rank, args=(rank, 4, port, tmp_path, 2)) for rank in range(4)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(240)
        assert process.exitcode == 0
    found = [torch.load(tmp_path / f"norm{rank}.pt", weights_only=True) for rank in range(4)]
    for first in (0, 2):
        norm = nn.BatchNorm1d(3)
        values = torch.cat([torch.randn(4, 3, generator=torch.Generator().manual_seed(first + k)) for k in range(2)])
        values.requires_grad_()
        expected = norm(values)
        (expected * torch.arange(3.0)).square().sum().backward()
        for key, both in (("out", expected.detach()), ("gradient", values.grad)):
            assert torch.allclose(torch.cat([found[first][key], found[first + 1][key]]), both, atol=1e-5), key
        for rank in (first, first + 1):
            assert torch.allclose(found[rank]["mean"], norm.running_mean, atol=1e-6)
    assert not torch.allclose(found[0]["mean"], found[2]["mean"])


def test_groups_of_batch_norm_divide_the_processes(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 6)
    assert distributed.norm_group(None) is distributed.norm_group(16) is distributed.norm_group(6) is None
    with pytest.raises(ValueError, match="bn_group_size=4: the number of processes, 6, must be a multiple of it"):
        distributed.norm_group(4)
    with pytest.raises(ValueError, match="bn_group_size=2 has no effect without sync_bn"):
        DeviceOptions(bn_group_size=2)


def test_what_gpus_means():
    assert choose_gpus(None, present=3) == [0, 1, 2]
    assert choose_gpus("2", present=3) == [0, 1]
    assert choose_gpus("0,2", present=3) == [0, 2]
    assert choose_gpus("2,", present=3) == [2]
    assert choose_gpus("0", present=3) == []
    for text, message in {
        "4": "has 3 GPUs",
        "0,7": "has 3 GPUs",
        "one": "such as 4",
        "1,1": "twice",
        ",": "0,1",
    }.items():
        with pytest.raises(ValueError, match=message):
            choose_gpus(text, present=3)


def test_what_gloo_prints_is_not_on_stdout(capfd):
    """Gloo of torch 2.10 prints "Rank 0 is connected to 1 peer ranks" while the group is formed."""
    sys.stdout.write("before\n")
    with distributed._prints_on_stderr():
        os.write(1, b"[Gloo] Rank 0\n")
    sys.stdout.write("after\n")
    assert capfd.readouterr() == ("before\nafter\n", "[Gloo] Rank 0\n")
