"""Bars of rates: as long as their numbers, in the right colors and panels."""

import numpy as np
import pytest
from PIL import Image

from vidseg.plots import plot_rates

COLORS = {"ours": (0xD9, 0x62, 0x2B), "theirs": (0x2A, 0x78, 0xD6)}


def lengths(path, color) -> list[int]:
    """Lengths in pixels of the bars of a color, from left to right."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    same = np.abs(pixels - np.array(color)).max(axis=-1) <= 12
    row = same[same.sum(axis=1).argmax()].astype(int)
    starts, stops = (np.flatnonzero(np.diff(row, prepend=0, append=0) == step) for step in (1, -1))
    return (stops - starts).tolist()


def test_bars_have_the_length_of_their_rates(tmp_path):
    rates = {"small": {"ours": 400.0, "theirs": 100.0}, "large": {"ours": 30.0, "theirs": 60.0}}
    path = plot_rates(rates, tmp_path / "rates.png", unit="clips/s", ours=["ours"])
    ours, theirs = lengths(path, COLORS["ours"]), lengths(path, COLORS["theirs"])
    assert ours[0] == pytest.approx(4 * theirs[0], rel=0.05)
    assert ours[1] == pytest.approx(theirs[1] / 2, rel=0.05)


def test_settings_without_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a setting without rows"):
        plot_rates({"small": {}}, tmp_path / "rates.png")
    assert not list(tmp_path.iterdir())
