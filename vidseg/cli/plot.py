"""Plots of data sets, predictions, runs and trained networks (`vidseg plot`)."""

from __future__ import annotations

from typing import Annotated

import tyro

from vidseg.cli.plot_data import Contact, Detections, Errors, Flow, Labels, Segments
from vidseg.cli.plot_models import Cam, Features, Landscape
from vidseg.cli.plot_runs import Calibration, Confusion, Curves, Report, Speed

__all__ = ["Command"]

Command = (
    Annotated[Contact, tyro.conf.subcommand("contact")]
    | Annotated[Flow, tyro.conf.subcommand("flow")]
    | Annotated[Curves, tyro.conf.subcommand("curves")]
    | Annotated[Confusion, tyro.conf.subcommand("confusion")]
    | Annotated[Calibration, tyro.conf.subcommand("calibration")]
    | Annotated[Speed, tyro.conf.subcommand("speed")]
    | Annotated[Segments, tyro.conf.subcommand("segments")]
    | Annotated[Errors, tyro.conf.subcommand("errors")]
    | Annotated[Detections, tyro.conf.subcommand("detections")]
    | Annotated[Labels, tyro.conf.subcommand("labels")]
    | Annotated[Cam, tyro.conf.subcommand("cam")]
    | Annotated[Features, tyro.conf.subcommand("features")]
    | Annotated[Landscape, tyro.conf.subcommand("landscape")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)
