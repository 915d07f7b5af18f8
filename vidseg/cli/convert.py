"""Conversion between video files and frame databases (`vidseg convert`, `dataset2database`)."""

import dataclasses
import json as json_format
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from vidseg.convert.convert_options import ConvertOptions

__all__ = ["Command"]


@dataclass(frozen=True)
class Command(ConvertOptions):
    """Convert videos to frame databases: DST/jpg/<class>/<video>/frames.db, listed in DST/catalog.db.

    SRC is a folder of videos (<class>/<video> or flat), of folders with numbered JPEG frames, or of frame databases; a
    single one of these; or a CSV with a column "path", or with label, id, time_start and time_end. Run the same command
    again to resume an interrupted conversion; finished videos are kept.

    With --store video, each database holds a video stream instead of JPEGs, for small disks.

    With --to jpeg or --to video, SRC is a frame database or a data set of frame databases, which is exported to DST.
    With --modality flow, --to jpeg writes the files flow_x_00001.jpg and flow_y_00001.jpg that TSN reads, --to npy one
    array for each video, --to flo one .flo file for each frame.
    """

    src: Annotated[Positional[str], arg(metavar="SRC")] = dataclasses.field(kw_only=True)
    """Source of the conversion."""
    dst: Annotated[Positional[str], arg(metavar="DST")] = dataclasses.field(kw_only=True)
    """Output folder: the data set to create or extend."""
    to: Literal["database", "jpeg", "video", "npy", "flo"] = "database"
    """Output format."""
    modality: Literal["rgb", "flow", "motion", "residual"] = "rgb"
    """What an export reads: frames, or the optical flow, motion vectors or residuals of `vidseg extract-flow`."""
    json: bool = False
    """Print the full report as JSON instead of a summary."""

    def run(self) -> int:
        """Convert; return exit status 1 if any video failed or is damaged."""
        forms = ("database", "jpeg", "video") if self.modality == "rgb" else ("jpeg", "npy", "flo")
        if self.to not in forms:
            raise ValueError(f"--to {self.to}: --modality {self.modality} has the forms {', '.join(forms)}")
        if self.modality != "rgb":
            from vidseg.convert.flow_export import export_flow  # imports torch, which a conversion does not need

            print(export_flow(self.src, self.dst, form=self.to, modality=self.modality, overwrite=self.overwrite))
            return 0
        if self.to != "database":
            from vidseg.convert.export import export_frames

            print(export_frames(self.src, self.dst, form=self.to, overwrite=self.overwrite))
            return 0
        from vidseg.convert import convert_videos

        options = ConvertOptions(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(ConvertOptions)}
        )
        report = convert_videos(self.src, self.dst, options=options)
        print(json_format.dumps(report.as_dict(), indent=1) if self.json else report)
        return 0 if report.ok else 1
