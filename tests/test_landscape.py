"""The loss around weights and the map of features: norms, known values, and weights that stay as they were."""

import numpy as np
import pytest
import torch
from torch import nn

from vidseg.engine.landscape import filter_direction, loss_landscape
from vidseg.metrics.projection import principal_components, tsne
from vidseg.plots import plot_feature_map, plot_landscape


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.Flatten(), nn.Linear(32, 5))


def test_directions_have_the_norms_of_the_filters():
    model = network()
    direction = filter_direction(model, seed=3)
    assert list(direction) == ["0.weight", "3.weight"]  # no bias, no norm
    for name, values in direction.items():
        weights = dict(model.named_parameters())[name]
        torch.testing.assert_close(values.flatten(1).norm(dim=1), weights.detach().flatten(1).norm(dim=1))
    again, other = filter_direction(network(), seed=3), filter_direction(network(), seed=4)
    assert torch.equal(direction["0.weight"], again["0.weight"])
    assert not torch.allclose(direction["0.weight"], other["0.weight"])


def test_a_parabola_is_found():
    """The loss |w - w0|^2 is a * s^2 along one direction, and a sum of squares along two."""
    model = nn.Linear(6, 3, bias=False).double()
    start = model.weight.detach().clone()

    def loss():
        return float(((model.weight.detach() - start) ** 2).sum())

    found = loss_landscape(model, loss, points=5, span=2, dimensions=1)
    size = float((start**2).sum())  # a direction has the norm of the weights
    np.testing.assert_allclose(found.steps, [-2, -1, 0, 1, 2])
    np.testing.assert_allclose(found.losses, size * found.steps**2, rtol=1e-6, atol=1e-12)
    plane = loss_landscape(model, loss, points=3)
    assert plane.losses.shape == (3, 3) and plane.center == plane.losses[1, 1] == 0
    np.testing.assert_allclose([plane.losses[1, 0], plane.losses[0, 1]], size, rtol=1e-6)  # each direction alone
    # Columns are the first direction: that of a line with the same seed.
    shown = []
    loss_landscape(model, lambda: shown.append(model.weight.detach().clone()) or 0.0, points=3, dimensions=1, seed=1)
    loss_landscape(model, lambda: shown.append(model.weight.detach().clone()) or 0.0, points=3, seed=1)
    torch.testing.assert_close(torch.stack(shown[3 + 3 : 3 + 6]), torch.stack(shown[:3]), rtol=0, atol=0)


def test_weights_are_the_same_bits_afterwards():
    model = network().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clips = torch.randn(2, 3, 4, 4, 4)

    def loss():
        return float(model(clips).square().mean())

    one, other = loss_landscape(model, loss, points=3, seed=2), loss_landscape(model, loss, points=3, seed=2)
    np.testing.assert_array_equal(one.losses, other.losses)
    assert not np.array_equal(one.losses, loss_landscape(model, loss, points=3, seed=3).losses)
    assert one.center == loss()

    def failing():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        loss_landscape(model, failing, points=3)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for wrong in ({"points": 4}, {"points": 1}, {"span": 0.0}, {"dimensions": 3}):
        with pytest.raises(ValueError, match="expected an odd number of points"):
            loss_landscape(model, loss, **wrong)


def test_the_picture_of_a_landscape(tmp_path):
    steps = np.linspace(-1, 1, 5)
    bowl = steps[:, None] ** 2 + steps**2
    for name, losses in (("line", steps**2), ("bowl", bowl), ("steep", 10 ** (3 * bowl)), ("flat", np.ones((5, 5)))):
        assert plot_landscape(steps, losses, tmp_path / f"{name}.png").stat().st_size > 5_000
    bowl[0, 0] = np.inf
    assert plot_landscape(steps, bowl, tmp_path / "hole.png").is_file()
    with pytest.raises(ValueError, match="0 finite"):
        plot_landscape(steps, np.full(5, np.nan), tmp_path / "x.png")


def test_principal_components():
    """Points on a plane of a larger space: distances are kept, and two components hold all variance."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(40, 2, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 1.0])
    basis = torch.linalg.qr(torch.randn(10, 2, generator=generator, dtype=torch.float64))[0]
    points, shares = principal_components(flat @ basis.T + 5)
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(flat, flat), atol=1e-6, rtol=1e-6)
    assert float(shares.sum()) == pytest.approx(1) and shares[0] > shares[1] and points.mean(dim=0).abs().max() < 1e-9
    again = principal_components((flat @ basis.T + 5).flip(0))[0].flip(0)
    torch.testing.assert_close(again, points)
    with pytest.raises(ValueError, match="count=11"):
        principal_components(torch.zeros(20, 10), 11)


def test_tsne_keeps_groups_together():
    try:
        import sklearn.manifold  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"pip install vidseg\[analysis\]"):
            tsne(torch.zeros(8, 3))
        return
    groups = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)) + 20 * (torch.arange(20) % 2)[:, None]
    points = tsne(groups, seed=1)
    apart = torch.cdist(points, points)
    same = (torch.arange(20)[:, None] - torch.arange(20)) % 2 == 0
    assert apart[same].max() < apart[~same].min() and torch.equal(points, tsne(groups, seed=1))


@pytest.mark.parametrize("classes", [3, 30, 200])
def test_maps_of_few_and_many_classes(tmp_path, classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=400)
    names = [f"class {number}" for number in range(classes)]
    path = plot_feature_map(rng.normal(size=(400, 2)), labels, names, tmp_path / "map.png", title="run")
    assert path.stat().st_size > 20_000
    with pytest.raises(ValueError, match=r"points \(3, 3\)"):
        plot_feature_map(np.zeros((3, 3)), labels[:3], names, tmp_path / "x.png")
