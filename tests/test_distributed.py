"""Several processes: equal to one with the whole batch, disjoint samples; which GPUs are meant."""

import multiprocessing
import socket

import pytest
import torch
from test_engine import rows
from torch import nn
from trained import CLIPS, ShuffledClips, train, train_as_rank

from vidseg.engine.distributed import SyncBatchNorm, choose_gpus, synchronize_norms


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
