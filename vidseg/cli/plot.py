"""`vidseg plot`: pictures of videos and of runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from vidseg.frames import FrameDatabase

__all__ = ["Command"]


@dataclass(frozen=True)
class Contact:
    """Draw a contact sheet with time codes: of one video, or of a data set with one row for each class."""

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """A frames.db or its folder, or the folder of a data set."""
    out: str | None = None
    """Picture to write; default: contact.png in the present folder."""
    columns: int = 6
    """Frames in a row."""
    rows: int | None = None
    """Rows of the sheet (of a data set: videos); default: a frame a second, 2 to 6 rows (of a data set: 8)."""

    def run(self) -> int:
        """Draw, and print the picture's path."""
        from vidseg.plots import contact_sheet

        videos = self._videos()
        rows = self.rows if len(videos) == 1 else None
        print(contact_sheet(videos, self.out or "contact.png", columns=self.columns, rows=rows))
        return 0

    def _videos(self) -> list[tuple[str, FrameDatabase]]:
        from vidseg.frames import FrameDatabase
        from vidseg.labels import open_dataset

        path = Path(self.path)
        if not (path / "catalog.db").is_file():
            database = FrameDatabase(path)
            return [(database.name, database)]
        first: dict[str, FrameDatabase] = {}
        data = open_dataset(path)
        for index in range(len(data)):
            video = data[index]
            title = data.classes[video.label] if video.label >= 0 else video.name
            if title not in first:
                first[title] = FrameDatabase(video.path)
            if len(first) == (self.rows or 8):
                break
        return list(first.items())


@dataclass(frozen=True)
class Curves:
    """Draw loss and accuracy of a run over its epochs."""

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder that `vidseg train` left."""
    out: str | None = None
    """Picture to write; default: RUN/curves.png."""

    def run(self) -> int:
        """Draw, and print the picture's path."""
        from vidseg.plots import plot_curves

        run = Path(self.run_folder)
        print(plot_curves(run, self.out or run / "curves.png", title=_title(run)))
        return 0


@dataclass(frozen=True)
class Confusion:
    """Draw which class is taken for which, from the last `vidseg test RUN`."""

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder that `vidseg train` left and `vidseg test` has been through."""
    out: str | None = None
    """Picture to write; default: RUN/confusion.png."""

    def run(self) -> int:
        """Draw, and print the picture's path."""
        import json

        from vidseg.plots import plot_confusion

        run = Path(self.run_folder)
        result = run / "test.json"
        if not result.is_file():
            raise FileNotFoundError(f"{result}: not there; run `vidseg test {run}` first")
        report = json.loads(result.read_text())
        out = self.out or run / "confusion.png"
        print(plot_confusion(report["confusion"], report["classes"], out, title=_title(run)))
        return 0


def _title(run: Path) -> str:
    """What the run trained on what, or the name of its folder where its options are not recorded."""
    import json

    if not (run / "options.json").is_file():
        return run.resolve().name
    options = json.loads((run / "options.json").read_text())["options"]
    return f"{options['network']} on {Path(options['dataset']).resolve().name}"


Command = (
    Annotated[Contact, tyro.conf.subcommand("contact")]
    | Annotated[Curves, tyro.conf.subcommand("curves")]
    | Annotated[Confusion, tyro.conf.subcommand("confusion")]
)
