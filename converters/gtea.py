"""GTEA: 28 videos of 7 activities by 4 subjects, 11 classes with `background`, 15 labels a second, 4 splits.

    python converters/gtea.py data/gtea

The folder of the MS-TCN data set (mapping.txt, groundTruth/, splits/, features/) becomes a data set by itself; with
--dataset the labels go to a data set of converted videos.
"""

import sys
from dataclasses import dataclass

from vidseg.cli.converter import SegmentationConverter
from vidseg.cli.main import run_program


@dataclass
class Gtea(SegmentationConverter):
    """GTEA's frame labels to the catalog."""

    rate: float = 15.0
    """Labels a second."""
    background: tuple[str, ...] = ("background",)
    """Classes that are no action."""


if __name__ == "__main__":
    sys.exit(run_program(Gtea))
