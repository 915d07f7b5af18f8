"""Plots of what a trained network computes: heat of videos, maps of features, the loss around its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from vidseg.cli.model_options import InputChanges, ModelOptions, load_model
from vidseg.cli.plot_runs import run_title
from vidseg.cli.plot_theme import Themed

__all__ = ["Cam", "Features", "Landscape"]


@dataclass(frozen=True)
class Cam(Themed):
    """Draw where in a video a recognition or streaming network looks, as a picture or a video with labels.

    The heat shows which regions raise the logit of a class: clip by clip for recognition, window by window with the
    network's memory for streaming networks.
    """

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder of a run, a checkpoint, or a file of weights."""
    video: Annotated[Positional[Path], arg(metavar="VIDEO")]
    """Video file."""
    target: Annotated[str | None, arg(name="class")] = None
    """Class to explain; default: the predicted class of each clip, or of each frame."""
    method: Literal["grad-cam", "integrated-gradients"] = "grad-cam"
    """grad-cam: regions of the last feature maps; integrated-gradients: pixels, in more time."""
    layer: str | None = None
    """Grad-CAM: module whose maps are used, such as layer3; default: the last one with maps."""
    steps: int = 32
    """Integrated gradients: points of the integral."""
    out: Path = Path("cam.png")
    """Output file: .png, .pdf or .svg for some frames; .mp4 for the whole video."""
    checkpoint: str | None = None
    """Weights to use; default: the best ones of the run, else its last ones."""
    model: ModelOptions = field(default_factory=ModelOptions)
    input: InputChanges = field(default_factory=InputChanges)

    def draw(self) -> int:
        """Compute, draw, and print the path of the file."""
        from vidseg.engine.explanation import draw_explanation

        trained = load_model(self.run_folder, self.model, self.input, checkpoint=self.checkpoint)
        given = {"target": self.target, "method": self.method, "layer": self.layer, "steps": self.steps}
        if trained.task == "recognition" and (motion := trained.source.record.get("motion")):
            from vidseg.tasks.flow.video_dataset import make_motion_dataset

            with TemporaryDirectory(prefix="vidseg-") as folder:
                make_motion_dataset(self.video, folder, motion)
                found = trained.explain(self.video, motion=folder, **given)
        else:
            found = trained.explain(self.video, **given)
        print(draw_explanation(found, self.out))
        return 0


@dataclass(frozen=True)
class Features(Themed):
    """Plot the pooled features of a recognition network on the videos of a split, colored by class."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of a recognition run, a checkpoint, or a file of weights."""
    method: Literal["pca", "tsne"] = "pca"
    """Projection to the plane: principal components, or t-SNE, which needs `pip install vidseg[analysis]`."""
    perplexity: float = 30.0
    """t-SNE: about the number of neighbors of a point."""
    seed: int = 0
    """t-SNE: seed of the optimization."""
    videos: int | None = None
    """Largest number of videos, evenly spaced in the split; default: all."""
    dataset: str | None = None
    """Another data set than the run's, with the same classes."""
    split: str | None = None
    """Another split than the run's test split."""
    dump: Path | None = None
    """File for features, labels, videos, classes and points, .npz."""
    out: Path | None = None
    """Output file; default: RUN/features.png, or features.png for a file of weights."""
    checkpoint: str | None = None
    """Weights to use; default: the best ones of the run, else its last ones."""
    model: ModelOptions = field(default_factory=ModelOptions)
    input: InputChanges = field(default_factory=InputChanges)

    def draw(self) -> int:
        """Compute, plot, and print the path of the file."""
        import numpy as np

        from vidseg.metrics.projection import principal_components, tsne
        from vidseg.plots import plot_feature_map
        from vidseg.tasks.recognition.feature_map import video_features
        from vidseg.tasks.recognition.trained import RecognitionModel

        if self.dump is not None and self.dump.suffix != ".npz":
            raise ValueError(f"{self.dump}: features are written as .npz")
        trained = load_model(self.run_folder, self.model, self.input, checkpoint=self.checkpoint)
        if not isinstance(trained, RecognitionModel):
            raise ValueError(
                f"{trained.network} is a network for {trained.task}; maps of features are for recognition networks"
            )
        found = video_features(trained, dataset=self.dataset, split=self.split, most=self.videos)
        if self.method == "pca":
            points, shares = principal_components(found.features)
            names = tuple(f"component {number + 1}: {share:.1%} of the variance" for number, share in enumerate(shares))
        else:
            points = tsne(found.features, perplexity=self.perplexity, seed=self.seed)
            names = ("t-SNE 1", "t-SNE 2")
        if self.dump is not None:
            self.dump.parent.mkdir(parents=True, exist_ok=True)
            content: dict[str, Any] = {
                "features": found.features.numpy(),
                "labels": found.labels,
                "videos": np.array(found.videos),
                "classes": np.array(trained.classes),
                "points": points.numpy(),
            }
            np.savez_compressed(self.dump, **content)
        out = self.out or (self.run_folder if self.run_folder.is_dir() else Path()) / "features.png"
        title = f"{trained.network}, {found.split}: {len(found.labels)} videos"
        print(
            plot_feature_map(
                points.numpy(), found.labels, trained.classes, out, axes_names=(names[0], names[1]), title=title
            )
        )
        return 0


@dataclass(frozen=True)
class Landscape(Themed):
    """Plot the loss of a run's network around its weights, along random directions with normalized filters.

    The loss is computed on the same videos for all points. The directions follow from the seed.
    """

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of a run of any task."""
    points: int = 11
    """Points along each direction, odd; two directions take points x points evaluations."""
    span: float = 1.0
    """Largest multiple of a direction; at 1 the change of a filter has the norm of the filter."""
    dimensions: Literal[1, 2] = 2
    """Number of directions."""
    videos: int = 64
    """Number of videos, evenly spaced in the split."""
    seed: int = 0
    """Seed of the directions."""
    dataset: str | None = None
    """Another data set than the run's, with the same classes."""
    split: str | None = None
    """Another split than the run's test split."""
    out: Path | None = None
    """Output file; default: RUN/landscape.png."""
    checkpoint: str | None = None
    """Weights to use; default: the best ones of the run, else its last ones."""
    json: bool = False
    """Print one JSON object with all losses."""
    model: ModelOptions = field(default_factory=ModelOptions)
    input: InputChanges = field(default_factory=InputChanges)

    def draw(self) -> int:
        """Compute, plot, and print the losses and the path of the file."""
        import json

        import numpy as np

        from vidseg.engine.landscape import loss_landscape
        from vidseg.engine.monitors import progress_bar
        from vidseg.plots import plot_landscape

        trained = load_model(self.run_folder, self.model, self.input, checkpoint=self.checkpoint)
        loss = trained.loss_function(videos=self.videos, dataset=self.dataset, split=self.split)
        with progress_bar(self.points**self.dimensions, "points") as bar:
            found = loss_landscape(
                trained.model,
                loss,
                points=self.points,
                span=self.span,
                dimensions=self.dimensions,
                seed=self.seed,
                progress=lambda: bar.update(1),
            )
        folder = self.run_folder if self.run_folder.is_dir() else self.run_folder.parent
        out = self.out or folder / "landscape.png"
        plot_landscape(found.steps, found.losses, out, title=f"loss of {run_title(folder)}")
        if self.json:
            content = {"steps": found.steps.tolist(), "losses": found.losses.tolist(), "center": found.center}
            print(json.dumps({**content, "file": str(out)}))
            return 0
        finite = found.losses[np.isfinite(found.losses)]
        print(f"loss {found.center:.4f} at the weights, {finite.min():.4f} to {finite.max():.4f} on the grid")
        print(out)
        return 0
