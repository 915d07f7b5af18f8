"""`vidseg predict`: classes of video files, labels of features, actions in long videos, optical flow."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from vidseg.cli.model_options import InputChanges, ModelOptions, accepted, load_model
from vidseg.cli.parsing import Prepared

if TYPE_CHECKING:
    from vidseg.tasks.detection.trained import DetectionModel
    from vidseg.tasks.flow.trained import FlowModel
    from vidseg.tasks.recognition.trained import Predictions, RecognitionModel
    from vidseg.tasks.segmentation.trained import SegmentationModel

__all__ = ["Command", "prepare"]


_WRITES = {
    "dump": ("recognition",),
    "draw": ("recognition", "detection", "flow"),
    "out": ("segmentation", "detection", "flow"),
    "min_score": ("detection",),
}
"""Options of what is printed and written, and the tasks that have them."""
_MIN_SCORE = 0.3


@dataclass(frozen=True)
class Command:
    """Predict the classes of video files, labels of features, actions in long videos, or the optical flow of a video.

    A recognition network prints the likeliest classes of a video file, or of each file in a folder. A segmentation
    network prints the segments of a file of features, or of each file <video>.npy in a folder. A detection network
    prints start, stop, class and score of the actions in a video file, or in its features. A network for optical flow
    prints the mean length of the motion and writes the flow of each frame to the next. `vidseg predict --stream
    VIDEO|CAMERA|-` labels the frames of one video as they arrive, with a streaming or a recognition network; `vidseg
    predict --stream --help` shows its options.
    """

    source: Annotated[Positional[Path], arg(metavar="SOURCE")]
    """Video file, folder of videos, or for recognition a data set with frame databases; for segmentation, and for
    detection from features, a file of features <video>.npy or a folder of them."""
    weights: str
    """Folder of a run, one of its checkpoints, or a file of weights."""
    clips: int | None = None
    """Recognition: clips of each video, spread over its length, whose scores are averaged; default: 1, the middle."""
    crops: Literal[1, 3, 5, 10] | None = None
    """Recognition: crops of each clip; default: 1."""
    fuse: Literal["softmax", "logits"] | None = None
    """Recognition: mean of the views' probabilities (softmax) or of their logits; default: softmax."""
    top: int | None = None
    """Recognition: number of classes to print; default: 5."""
    dump: str | None = None
    """Recognition: file for the scores of every video, .npz or .csv; `vidseg score` fuses such files."""
    draw: Path | None = None
    """Recognition and detection: folder to write the videos to with their classes drawn in. Flow: folder for videos of
    the flow in colors."""
    out: Path | None = None
    """Segmentation: folder to write <video>.txt to, with the class name of a frame in each line. Detection: file to
    write: .json (ActivityNet's form), .csv, .srt or .vtt (subtitles), .png (a time line). Flow: folder to write
    <video>/frame_00001.flo to, for each frame the flow to the next one."""
    min_score: float | None = None
    """Detection: smallest score to print, draw and put into subtitles; default: 0.3."""
    seconds: float | None = None
    """Detection from features: duration of the video; default: from the rate of the run's features."""
    layout: Literal["DL", "LD"] | None = None
    """Features: DL: a column is a time step; LD: a row is a time step; default: as the run's features."""
    threads: int | None = None
    """Decoding threads; default: one for each core."""
    json: bool = False
    """Print a JSON list instead of a table."""
    model: ModelOptions = field(default_factory=ModelOptions)
    input: InputChanges = field(default_factory=InputChanges)

    def run(self) -> int:
        """Predict and print; exit status 1 if a file could not be read."""
        if not self.source.exists():
            raise FileNotFoundError(f"{self.source}: no such file or folder")
        trained: Any = load_model(self.weights, self.model, self.input)
        if trained.task == "streaming":
            words = f"vidseg predict --stream {self.source} --weights {self.weights}"
            raise ValueError(f"{trained.network} is a streaming network; use {words}")
        for name, tasks in _WRITES.items():
            if trained.task not in tasks and getattr(self, name) is not None:
                option = name.replace("_", "-")
                raise ValueError(
                    f"--{option}: {trained.network} is a network for {trained.task}, not for {' or '.join(tasks)}"
                )
        names = ("clips", "crops", "fuse", "top", "layout", "threads", "seconds")
        given = {name: getattr(self, name) for name in names}
        chosen = accepted(trained.predict, given, trained, "this prediction")
        if trained.task == "detection":
            return self._actions(trained, chosen)
        if trained.task == "flow":
            return self._flow(trained)
        return self._segments(trained, chosen) if trained.task == "segmentation" else self._classes(trained, chosen)

    def _classes(self, trained: RecognitionModel, options: dict[str, Any]) -> int:
        from vidseg.metrics.video_scores import check_suffix, write_scores
        from vidseg.tasks.recognition.trained import draw_prediction

        if self.dump is not None:
            check_suffix(self.dump)
        found = self._found(trained, options)
        print(json_format.dumps([asdict(video) for video in found.videos]) if self.json else found)
        if self.dump is not None:
            write_scores(self.dump, found.scores)
        if self.draw is not None:
            root = self.source if self.source.is_dir() else self.source.parent
            for video in found.videos:
                draw_prediction(video, (self.draw / Path(video.video).relative_to(root)).with_suffix(".mp4"))
        return 1 if found.failed else 0

    def _found(self, trained: RecognitionModel, options: dict[str, Any]) -> Predictions:
        """Predict; the motion of video files is computed first, as for the run."""
        motion = trained.source.record.get("motion")
        if not motion or (self.source / "catalog.db").is_file():
            return trained.predict(self.source, **options)
        from tempfile import TemporaryDirectory

        from vidseg.tasks.flow.video_dataset import make_motion_dataset

        with TemporaryDirectory(prefix="vidseg-") as folder:
            failed = make_motion_dataset(self.source, folder, motion, workers=self.threads)
            found = trained.predict(folder, **options)
            root = self.source if self.source.is_dir() else self.source.parent
            files = [path for path in root.rglob("*") if path.is_file()]
            named = {path.relative_to(root).with_suffix("").as_posix(): path for path in files}
            videos = []
            for video in found.videos:
                name = Path(video.video).relative_to(Path(folder) / "jpg").as_posix().removeprefix("unlabeled/")
                videos.append(replace(video, video=str(named.get(name, self.source / name))))
        return replace(found, videos=tuple(videos), failed=failed)

    def _segments(self, trained: SegmentationModel, options: dict[str, Any]) -> int:
        from vidseg.labels.segmentation_files import write_frame_labels

        files = sorted(self.source.glob("*.npy")) if self.source.is_dir() else [self.source]
        if not files:
            raise FileNotFoundError(f"{self.source}: no file of features <video>.npy in it")
        rows: list[dict[str, Any]] = []
        failed = 0
        for path in files:
            try:
                found = trained.predict(path, **options)
            except ValueError as error:
                if len(files) == 1:
                    raise
                print(f"vidseg predict: {error}", file=sys.stderr)
                failed += 1
                continue
            labels = found.frame_labels()
            segments = [
                {"label": name, "start": start * found.labels_per_column, "stop": stop * found.labels_per_column}
                for name, start, stop in found.segments()
            ]
            rows.append({"video": path.stem, "frames": len(labels), "segments": segments})
            if self.out is not None:
                self.out.mkdir(parents=True, exist_ok=True)
                write_frame_labels(self.out / f"{path.stem}.txt", labels, list(found.classes))
        if self.json:
            print(json_format.dumps(rows, ensure_ascii=False))
        else:
            for row in rows:
                text = ", ".join(f"{each['label']} {each['start']}-{each['stop']}" for each in row["segments"])
                print(f"{row['video']}  {text}")
        return 1 if failed else 0

    def _flow(self, trained: FlowModel) -> int:
        import numpy as np

        from vidseg.labels.flow_files import write_flo
        from vidseg.tasks.flow.trained import draw_video_flow
        from vidseg.videos import VideoError
        from vidseg.videos.listing import find_jobs

        files = [Path(job.source) for job in find_jobs(self.source).jobs] if self.source.is_dir() else [self.source]
        rows: list[dict[str, Any]] = []
        failed = 0
        for path in files:
            lengths = []
            try:
                for number, flow in enumerate(trained.video_flow(path), 1):
                    lengths.append(float(np.hypot(*flow).mean()))
                    if self.out is not None:
                        (self.out / path.stem).mkdir(parents=True, exist_ok=True)
                        write_flo(self.out / path.stem / f"frame_{number:05d}.flo", flow)
            except (VideoError, ValueError, OSError) as error:
                if len(files) == 1:
                    raise
                print(f"vidseg predict: {error}", file=sys.stderr)
                failed += 1
                continue
            if self.draw is not None:
                draw_video_flow(trained, path, (self.draw / path.name).with_suffix(".mp4"))
            rows.append({"video": str(path), "frames": len(lengths), "mean_pixels": sum(lengths) / len(lengths)})
        if self.json:
            print(json_format.dumps(rows, ensure_ascii=False))
        else:
            print("\n".join(f"{row['video']}  {row['frames']} frames  {row['mean_pixels']:.2f} pixels" for row in rows))
        return 1 if failed else 0

    def _actions(self, trained: DetectionModel, options: dict[str, Any]) -> int:
        from vidseg.tasks.detection.trained import draw_detections, write_predictions

        smallest = _MIN_SCORE if self.min_score is None else self.min_score
        files = trained.find_sources(self.source)
        found, failed = [], 0
        for path in files:
            try:
                found.append(trained.predict(path, **options))
            except (ValueError, OSError) as error:
                if len(files) == 1:
                    raise
                print(f"vidseg predict: {error}", file=sys.stderr)
                failed += 1
                continue
            if self.draw is not None:
                draw_detections(found[-1].above(smallest), path, (self.draw / path.name).with_suffix(".mp4"))
        if self.json:
            rows = [{**asdict(one), "detections": [row._asdict() for row in one.detections]} for one in found]
            print(json_format.dumps(rows, ensure_ascii=False))
        else:
            print("\n".join(str(one.above(smallest)) for one in found))
        if self.out is not None:
            write_predictions(self.out, found, trained.classes, min_score=smallest)
        return 1 if failed else 0


def prepare(words: list[str], name: str | None = None) -> Prepared:
    """Return what a command line asks for: `vidseg predict`, or `vidseg predict --stream`."""
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--stream=") else [word])]
    if "--stream" not in words:
        return Prepared("", Command, None, words)
    from vidseg.cli.predict_stream import Command as StreamCommand

    return Prepared("--stream", StreamCommand, None, [word for word in words if word != "--stream"])
