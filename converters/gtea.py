"""GTEA: 28 videos of 7 activities by 4 subjects; 11 classes including `background`, 15 labels per second, 4 splits.

    python converters/gtea.py data/gtea

The folder of the MS-TCN data set (mapping.txt, groundTruth/, splits/, features/) itself becomes a data set; with
--dataset the labels are written to a data set of converted videos.
"""

import sys
from dataclasses import dataclass

from vidseg.cli.converter import SegmentationConverter
from vidseg.cli.main import run_program


@dataclass
class Gtea(SegmentationConverter):
    """Write GTEA's frame labels to the catalog."""

    rate: float = 15.0
    """Labels per second."""
    background: tuple[str, ...] = ("background",)
    """Background classes."""


if __name__ == "__main__":
    sys.exit(run_program(Gtea))
