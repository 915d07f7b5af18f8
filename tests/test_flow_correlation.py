"""RAFT's correlations on demand against those of all pairs: flows, gradients, memory, precision, export."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_ops_rules import MIB

from vidseg.models import create_model
from vidseg.models.raft import NETWORKS, all_pairs, look_up

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def one_thread():
    """The loops of small operations here are slow when threads wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def twins(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The network with both kinds of correlations and the same weights."""
    torch.manual_seed(0)
    networks = [create_model(name, iterations=2, correlation=way) for way in ("all_pairs", "on_demand")]
    networks[1].load_state_dict(networks[0].state_dict())
    return networks[0], networks[1]


# Pictures whose coarsest correlations have 2 rows of 3 columns, one row of one column, and none at all.
@pytest.mark.parametrize("size", [(128, 192), (64, 68), (40, 33)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_flows_and_gradients_are_equal(name, size):
    first, second = torch.rand(2, 3, *size), torch.rand(2, 3, *size)
    results = []
    for network in twins(name):
        network.train()
        flow = network(first, second).flow
        flow.square().mean().backward()
        results.append((flow.detach(), [value.grad for value in network.parameters() if value.grad is not None]))
    (flow, gradients), (other, others) = results
    assert float(flow.abs().max()) > 0.1 and len(gradients) == len(others) > 20
    torch.testing.assert_close(other, flow, rtol=0, atol=1e-4 * float(flow.abs().max()))
    largest = max(float(grad.abs().max()) for grad in gradients)
    for got, want in zip(others, gradients, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-3 * largest)


GROWTH = """
import sys, torch
sys.path.insert(0, "tests")
from test_ops_rules import peak_growth
from vidseg.models import create_model
way, height, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
network = create_model("raft_small", correlation=way)
features, positions = torch.rand(2, 1, 8, height, width), torch.rand(1, 2, height, width) * width
network._correlations(*features[..., :16, :16])(positions[..., :16, :16], 3)  # the first call may load code
print(peak_growth(lambda: network._correlations(*features)(positions, 3)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be measured here")
def test_memory_is_linear_in_the_pixels():
    def growth(way: str, height: int, width: int) -> int:
        """Of a process of its own: this one has freed memory that would be used again."""
        command = [sys.executable, "-c", GROWTH, way, str(height), str(width)]
        return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    for height, width in ((96, 128), (192, 256)):
        windows = 4 * 49 * height * width * 4  # bytes of the result; its parts have as many
        assert growth("on_demand", height, width) < 2 * windows + 24 * MIB
    assert growth("all_pairs", 48, 64) > 3 * (48 * 64) ** 2  # of 4 bytes; 9.7 GB at 192 x 256


def test_correlations_in_half_precision():
    """Correlations are computed in float32, as those of all pairs."""
    network = create_model("raft_small", iterations=2, correlation="on_demand").eval()
    pair = torch.rand(2, 1, 3, 64, 96)
    with torch.no_grad():
        expected = network(*pair).flow
        with torch.autocast("cpu", torch.bfloat16):
            flow = network(*pair).flow
    assert flow.dtype == torch.float32
    assert float((flow - expected).norm() / expected.norm()) < 0.1


def test_the_network_is_exported():
    network = create_model("raft_small", iterations=2, correlation="on_demand").eval()
    pair = tuple(torch.rand(2, 1, 3, 64, 96))
    program = torch.export.export(network, pair)
    torch.testing.assert_close(program.module()(*pair).flow, network(*pair).flow)


def test_both_look_ups_agree():
    torch.manual_seed(0)
    first, second = torch.randn(2, 2, 16, 13, 18)
    positions = torch.rand(2, 2, 13, 18) * 24 - 4
    network = create_model("raft_small", correlation="on_demand")
    expected = look_up(all_pairs(first, second), positions, 3)
    torch.testing.assert_close(network._correlations(first, second)(positions, 3), expected, rtol=1e-4, atol=1e-5)


def test_an_unknown_kind_of_correlations():
    with pytest.raises(ValueError, match="correlation='some' must be 'all_pairs' or 'on_demand'"):
        create_model("raft_small", correlation="some")
