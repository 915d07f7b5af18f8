"""Training on a GPU: R3D-18 from frame databases at every opt level against the CPU, NCCL, DALI."""

import pytest
import torch
from clip_data import clip_dataset
from training_batches import constant, rows

from vidseg import ClipLoader
from vidseg.engine import Trainer, distributed
from vidseg.models import create_model

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
OPTIONS = {"frames": 4, "size": 64, "batch_size": 4, "seed": 0}
# Relative difference of a loss; half types round every layer.
TOLERANCE = {"O0": 1e-3, "O1": 0.05, "O2": 0.05, "O3": 0.1, "bf16": 0.1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return clip_dataset(tmp_path_factory.mktemp("databases"))


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def losses(data, device: str, opt_level: str, out, epochs: int = 2) -> list[float]:
    """Train for a few batches; return the mean loss of each epoch."""
    torch.manual_seed(0)
    model = create_model("r3d_18", num_classes=2)
    with ClipLoader(data, **OPTIONS) as loader:
        Trainer(model, loader, opt_level=opt_level, device=device, schedule=constant(0.001)).fit(epochs, out)
    return [row[3] for row in rows(out / "train_results_s0001.csv")]


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory) -> list[float]:
    return losses(data, "cpu", "O0", tmp_path_factory.mktemp("cpu"))


@pytest.mark.parametrize("opt_level", TOLERANCE)
def test_losses_are_those_of_the_cpu(opt_level, data, expected, tmp_path):
    assert losses(data, "cuda", opt_level, tmp_path) == pytest.approx(expected, rel=TOLERANCE[opt_level])


def test_one_process_with_nccl(data, expected, tmp_path, monkeypatch):
    if not torch.distributed.is_nccl_available():
        pytest.skip("this build of torch has no NCCL")
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_PORT": 29511}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    try:
        assert distributed.join_group() == torch.device("cuda", 0)
        assert torch.distributed.get_backend() == "nccl"
        values = torch.ones(3, device="cuda")
        torch.distributed.all_reduce(values)
        assert values.tolist() == [1.0, 1.0, 1.0]
        assert losses(data, "cuda", "O0", tmp_path) == pytest.approx(expected, rel=TOLERANCE["O0"])
    finally:
        distributed.leave_group()


def test_dali_decodes_on_the_gpu(data):
    pytest.importorskip("nvidia.dali")
    from vidseg.loaders.dali_backend import TOLERANCE as PIXELS

    options = {**OPTIONS, "dtype": torch.uint8, "train": False}
    with ClipLoader(data, **options) as native, ClipLoader(data, backend="dali", device="cuda", **options) as dali:
        for ours, theirs in zip(native, dali, strict=True):
            assert theirs.frames.is_cuda
            difference = (ours.frames.float() - theirs.frames.cpu().float()).abs()
            assert float(difference.mean()) <= PIXELS
