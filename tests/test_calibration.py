"""Calibration of probabilities: expected calibration error by hand, temperatures that are known, and the diagram."""

import json

import numpy as np
import pytest
import torch

from vidseg.cli.main import main
from vidseg.metrics import apply_temperature, fit_temperature, log_loss, reliability
from vidseg.metrics.video_scores import VideoScores, write_scores

CLASSES = ("a", "b", "c")


def test_bins_by_hand():
    """Confidences 0.55 and 0.6 (one right) are in one bin of ten, 0.95 (right) and 0.5 (wrong, an upper edge) alone."""
    shares = torch.tensor([[0.55, 0.45], [0.4, 0.6], [0.95, 0.05], [0.5, 0.5]], dtype=torch.float64)
    found = reliability(shares, torch.tensor([0, 0, 0, 1]), bins=10)
    assert found.counts.tolist() == [0, 0, 0, 0, 1, 2, 0, 0, 0, 1]
    assert found.confidence[[4, 5, 9]].tolist() == pytest.approx([0.5, 0.575, 0.95])
    assert found.accuracy[[4, 5, 9]].tolist() == [0, 0.5, 1] and bool(found.accuracy[0].isnan())
    assert found.ece == pytest.approx((0.5 + 2 * 0.075 + 0.05) / 4) and found.mce == pytest.approx(0.5)
    assert found.edges.tolist() == pytest.approx([number / 10 for number in range(11)])


def test_calibrated_predictions_have_a_small_error():
    """Labels that are drawn from the probabilities; the same ones, sharpened, are overconfident."""
    generator = torch.Generator().manual_seed(0)
    shares = (1.5 * torch.randn(20_000, 3, generator=generator, dtype=torch.float64)).softmax(dim=1)
    labels = torch.multinomial(shares, 1, generator=generator)[:, 0]
    assert reliability(shares, labels).ece < 0.02
    sharp = apply_temperature(shares, 0.4)
    assert reliability(sharp, labels).ece > 0.1
    # Sharpening by 0.4 is undone by 1 / 0.4.
    temperature = fit_temperature(sharp, labels)
    assert temperature == pytest.approx(2.5, rel=0.05)
    assert log_loss(apply_temperature(sharp, temperature), labels) < log_loss(sharp, labels)
    torch.testing.assert_close(apply_temperature(sharp, 2.5), shares)


def test_the_temperature_is_the_minimum_of_the_loss():
    generator = torch.Generator().manual_seed(1)
    shares = torch.randn(60, 4, generator=generator, dtype=torch.float64).softmax(dim=1)
    labels = torch.randint(4, (60,), generator=generator)
    labels[:30] = shares[:30].argmax(dim=1)
    best = fit_temperature(shares, labels)
    losses = [log_loss(apply_temperature(shares, best * factor), labels) for factor in (0.98, 1, 1.02)]
    assert losses[1] < losses[0] and losses[1] < losses[2]
    with pytest.raises(ValueError, match="temperature=0"):
        apply_temperature(shares, 0)


@pytest.mark.parametrize(
    "shares, labels, options, message",
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), {}, r"\(0, 3\)"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), {}, r"labels \(3,\)"),
        (torch.full((2, 2), 0.5), torch.zeros(2, dtype=torch.int64), {"bins": 0}, "bins=0"),
    ],
)
def test_wrong_use(shares, labels, options, message):
    with pytest.raises(ValueError, match=message):
        reliability(shares, labels, **options)


def test_the_command(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    for name, prefix in (("scores", "v"), ("scores_val", "w")):
        shares = torch.randn(200, 3, generator=generator).softmax(dim=1)
        labels = torch.multinomial(shares, 1, generator=generator)[:, 0]
        sharp = apply_temperature(shares, 0.3).float().numpy()
        names = tuple(f"{prefix}{number}" for number in range(200))
        write_scores(tmp_path / f"{name}.npz", VideoScores(names, labels.numpy(), sharp, CLASSES))
    words = ["plot", "calibration", str(tmp_path)]
    assert main([*words, "--validation", str(tmp_path / "scores_val.npz"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    before, after = content["scores"].values()
    assert content["temperature"] > 2 and after["ece"] < before["ece"] and after["log_loss"] < before["log_loss"]
    assert (tmp_path / "calibration.png").stat().st_size > 10_000
    assert main([*words, "--bins", "10"]) == 0
    assert capsys.readouterr().out.startswith("as trained: ECE 0.")
    assert main([*words, "--validation", str(tmp_path / "scores.npz")]) == 2
    assert "200 of its videos are scored too" in capsys.readouterr().err
    unlabeled = VideoScores(("x",), np.array([-1]), np.ones((1, 3), np.float32) / 3, CLASSES)
    write_scores(tmp_path / "unlabeled.csv", unlabeled)
    assert main(["plot", "calibration", str(tmp_path / "unlabeled.csv")]) == 2
    assert "no video has a class" in capsys.readouterr().err
