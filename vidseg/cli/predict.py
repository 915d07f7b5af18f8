"""`vidseg predict`: what a trained network says about video files."""

import json as json_format
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

__all__ = ["Command", "prepare"]


@dataclass(frozen=True)
class Command:
    """Name the likeliest classes of a video file, or of all in a folder.

    `vidseg predict --stream VIDEO|CAMERA|-` labels the frames of one video while they arrive, with a streaming
    network; `vidseg predict --stream --help` shows its options.
    """

    source: Annotated[Positional[str], arg(metavar="VIDEO_OR_FOLDER")]
    """Video file, or folder of videos."""
    weights: str
    """Folder of a run, one of its checkpoints, or a file of weights with --network and --classes."""
    network: str | None = None
    """Name of the network; default: that of the run."""
    classes: str | None = None
    """Text file with the name of a class in each line; default: those of the run."""
    clip_length: int | None = None
    """Frames of a clip; default: as the run was evaluated, like the next three."""
    clip_size: int | None = None
    """Height and width of a clip in pixels."""
    interval: int | None = None
    """Step from one frame of a clip to the next."""
    color: str | None = None
    """Order of the channels: rgb or bgr."""
    clips: int = 1
    """Clips of each video, spread over its length, whose scores are averaged."""
    crops: int = 1
    """Crops of each clip: 1, 3, 5 or 10."""
    top: int = 5
    """Number of classes."""
    draw: str | None = None
    """Folder to write the videos to with their classes drawn in."""
    json: bool = False
    """Print a JSON list instead of a table."""

    def run(self) -> int:
        """Predict and print; exit status 1 if a file could not be read."""
        from vidseg.tasks.recognition.predict import draw_prediction, predict_videos

        changes: dict[str, Any] = {"clip_length": self.clip_length, "clip_size": self.clip_size, "color": self.color}
        changes["val_frame_interval"] = None if self.interval is None else (self.interval,)
        names = None if self.classes is None else Path(self.classes).read_text().split("\n")
        found = predict_videos(
            self.source,
            self.weights,
            network=self.network,
            classes=None if names is None else [name.strip() for name in names if name.strip()],
            changes={name: value for name, value in changes.items() if value is not None},
            clips=self.clips,
            crops=self.crops,
            top=self.top,
        )
        print(json_format.dumps([asdict(video) for video in found.videos]) if self.json else found)
        if self.draw is not None:
            root = Path(self.source) if Path(self.source).is_dir() else Path(self.source).parent
            for video in found.videos:
                draw_prediction(video, (Path(self.draw) / Path(video.video).relative_to(root)).with_suffix(".mp4"))
        return 1 if found.failed else 0


def prepare(words: list[str], name: str | None = None) -> tuple[str, type[Any], None, list[str]]:
    """What a command line asks for: its name, its command, no defaults but the command's own, and the words left."""
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--stream=") else [word])]
    if "--stream" not in words:
        return "", Command, None, words
    from vidseg.cli.predict_stream import Command as StreamCommand

    return "--stream", StreamCommand, None, [word for word in words if word != "--stream"]
