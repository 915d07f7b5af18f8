"""Memory of batches and threads of loaders: who may reuse a block, and how many threads decode."""

import os

import pytest
import torch

from vidseg.loaders.memory import BatchMemory
from vidseg.loaders.threads import default_threads


def test_a_block_is_reused_when_its_tensor_is_gone():
    memory = BatchMemory()
    first = memory.empty((4, 5), torch.float32)
    place, view = first.data_ptr(), first[1:]
    del first
    other = memory.empty((4, 5), torch.float32)
    assert other.data_ptr() != place  # the view still holds the block
    del view
    assert memory.empty((4, 5), torch.float32).data_ptr() == place


def test_page_locked_memory_is_reused_by_torch_alone(monkeypatch):
    """A copy to a device that is queued still reads a block whose tensor is gone; only torch's allocator knows."""
    made = []

    def empty(*shape, pin_memory=False, **options):
        made.append(pin_memory)
        return torch.zeros(*shape, **options)

    monkeypatch.setattr(torch, "empty", empty)
    memory = BatchMemory(pin=True)
    for _ in range(3):
        tensor = memory.empty((4, 5), torch.uint8)
        assert tensor.shape == (4, 5) and tensor.dtype == torch.uint8
        del tensor
    assert made == [True] * 3
    memory.clear()


@pytest.mark.parametrize("processes, share", [("1", 1), ("2", 2), ("64", 64)])
def test_processes_of_a_machine_share_its_cores(monkeypatch, processes, share):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert default_threads() == max(1, 16 // share)
