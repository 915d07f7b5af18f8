"""A detection run from its options: trained on features or from pixels, validated after each epoch, tested at the end.

Besides what every run leaves (`vidseg.engine.runs`), the folder holds test.json and predictions.json where the data set
has a test split.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidseg.engine import distributed
from vidseg.engine.dry_run import PlannedEpochs, plan_epochs
from vidseg.engine.initial_weights import load_initial
from vidseg.engine.run_record import run_record
from vidseg.engine.runs import RunFolder, Training, run_folder, start_run, train_run
from vidseg.engine.schedules import filled_schedule, run_schedule
from vidseg.labels import VideoDataset
from vidseg.labels.parts import Parts, choose_parts, chosen_division, class_numbers, video_names
from vidseg.loaders import DetectionLoader, SnippetFrames
from vidseg.losses import create_loss
from vidseg.losses.detection import DetectionLoss
from vidseg.models import InputSpec, create_model, load_weights, model_input_spec, model_task
from vidseg.models._snippets import SnippetDetector, SnippetEncoder
from vidseg.tasks.detection.external_scores import read_external_scores
from vidseg.tasks.detection.options import DetectionOptions, SnippetOptions
from vidseg.tasks.detection.sampled_gradients import SnippetSampling
from vidseg.tasks.detection.task import DetectionTask
from vidseg.tasks.final_test import log_test

__all__ = [
    "build_encoder",
    "build_network",
    "make_loader",
    "make_task",
    "plan_detection",
    "snippet_source",
    "snippet_spec",
    "train_detection",
]

logger = logging.getLogger(__name__)

_TASK = "detection"


def snippet_spec(options: SnippetOptions) -> InputSpec:
    """Return how the encoder sees snippets: its input spec with what the options change.

    Raises:
        ValueError: the encoder is not a recognition network, or not one for RGB.
    """
    if model_task(options.encoder) != "recognition":
        raise ValueError(f"encoder={options.encoder!r} is a network for {model_task(options.encoder)}, not recognition")
    spec = model_input_spec(options.encoder, **options.chosen_options())
    if spec.modality != "rgb":
        raise ValueError(
            f"encoder={options.encoder!r} sees {spec.modality}, and snippets are frames: choose a network for RGB, or "
            "train on features of `vidseg extract-features`"
        )
    names = {"frames": "snippet_frames", "interval": "snippet_interval", "size": "snippet_size"}
    given = {name: getattr(options, option) for name, option in names.items() if getattr(options, option) is not None}
    if "size" in given and spec.resize is not None:
        given["resize"] = round(given["size"] * spec.resize / spec.size)
    return replace(spec, **given)


def build_encoder(options: SnippetOptions) -> SnippetEncoder:
    """Return the encoder of snippets, with its weights if a file is given.

    Raises:
        ValueError: the weights do not fit.
    """
    network = create_model(options.encoder, num_classes=1, **options.chosen_options())
    if options.encoder_weights is not None:
        # The classifier is removed, so weights for any classes will do.
        report = load_weights(network, options.encoder_weights, strict=False, network=options.encoder)
        logger.info("%s: %s", options.encoder_weights, report)
    return SnippetEncoder(network, snippet_spec(options), frozen=options.encoder_frozen)


def build_network(options: DetectionOptions, classes: int, width: int | None) -> nn.Module:
    """Return the network with fresh weights: a detector, or an encoder and a detector.

    Args:
        options: of the run.
        classes: K.
        width: D of the features; None: from pixels.
    """
    encoder = None if width is not None else build_encoder(options.snippets)
    given = options.network.chosen_options()
    width = encoder.out_features if encoder is not None else width
    detector = create_model(options.network.network, num_classes=classes, **{"in_features": width, **given})
    return detector if encoder is None else SnippetDetector(encoder, detector, chunk=options.snippets.chunk)


def snippet_source(data: VideoDataset, options: DetectionOptions, *, train: bool) -> SnippetFrames | None:
    """Return the snippets of videos; None where features come from files."""
    given = options.snippets
    if not given.encoder:
        return None
    spec = snippet_spec(given)
    return SnippetFrames(
        data,
        frames=spec.frames,
        interval=spec.interval,
        count=given.snippets,
        stride=given.snippet_stride,
        places=given.snippet_places,
        size=spec.size,
        resize=spec.resize,
        train=train,
        flip=given.flip,
        seed=options.session.seed,
        threads=options.data.threads,
    )


def make_loader(data: VideoDataset, options: DetectionOptions, *, train: bool) -> DetectionLoader:
    """Return the samples of videos: shuffled batches for training, else in order."""
    given, ranks = options.data, distributed.world_size()
    return DetectionLoader(
        data,
        features=given.features,
        layout=given.layout,
        snippets=snippet_source(data, options, train=train),
        fit=given.fit,
        length=given.columns,
        overlap=given.overlap,
        min_inside=given.min_inside,
        crop=given.crop,
        stride=given.feature_stride,
        clip=given.feature_clip,
        fps=given.feature_fps,
        batch_size=(given.batch_size if train else 1) * ranks,
        train=train,
        left_out=class_numbers(data.classes, given.background),
        seed=options.session.seed,
        rank=distributed.rank(),
        world_size=ranks,
        # Pixels are decoded by threads of their own; one video at a time is enough.
        threads=1 if options.snippets.encoder else given.threads,
    )


def make_task(options: DetectionOptions, classes: list[str], *, class_agnostic: bool) -> DetectionTask:
    """Return the task of a run.

    Args:
        options: of the run.
        classes: class names.
        class_agnostic: whether the network proposes segments without a class; else the file of class scores is not
            read.
    """
    given, scores = options.snippets, options.data.class_scores
    chosen = options.objective.loss_options()
    chosen.setdefault("class_agnostic", class_agnostic)
    loss = create_loss(options.network.network, num_classes=len(classes), **chosen)
    assert isinstance(loss, DetectionLoss)
    return DetectionTask(
        loss,
        suppression=options.suppression,
        protocol=options.data.protocol,
        gradients=given.gradients,
        sampling=SnippetSampling(given.snippet_ratio, given.snippet_strategy, given.unbiased),
        class_scores=None if scores is None or not class_agnostic else read_external_scores(scores, classes),
        class_top=options.data.class_top,
        name=options.network.network,
    )


def _parts(options: DetectionOptions) -> Parts:
    data = options.data
    return choose_parts(
        data.dataset,
        chosen_division(data.dataset, data.split),
        select=data.select,
        validation_share=data.validation_share,
        seed=options.session.seed,
    )


def plan_detection(options: DetectionOptions) -> PlannedEpochs:
    """Return the epochs, steps and learning rates of a run; nothing is computed or written.

    Raises:
        ValueError: options that do not fit the data set.
    """
    model_input_spec(options.network.network)  # an unknown name is refused
    loader = make_loader(_parts(options).train, options, train=True)
    batch_size = options.data.batch_size * distributed.world_size()
    schedule = filled_schedule(options, batches=len(loader), batch_size=batch_size)
    return plan_epochs(
        run_schedule(options, schedule),
        epochs=options.session.epochs,
        counts=lambda _: (len(loader), len(loader)),
        accumulate=options.optimizer.accumulate,
    )


def train_detection(options: DetectionOptions) -> Path:
    """Train a detector on the training split, and test it on the test split; returns the folder of the run.

    Raises:
        FileNotFoundError: there is no catalog, or features are missing.
        FileExistsError: the folder holds a run, and neither resume nor overwrite is given.
        ValueError: a network, split or option that does not exist, or wrong data.
    """
    device = start_run(options)
    data, network = options.data, options.network
    if model_task(network.network) != _TASK:
        raise ValueError(f"{network.network} is a network for {model_task(network.network)}, not for {_TASK}")
    parts = _parts(options)
    out, classes = run_folder(options, data.dataset), list(parts.train.classes)
    folder = RunFolder(out, network.network, options)
    loader = make_loader(parts.train, options, train=True)
    validation = None if parts.validation is None else make_loader(parts.validation, options, train=False)
    tested = None if parts.test is None else make_loader(parts.test, options, train=False)
    torch.manual_seed(options.session.seed)
    model = build_network(options, len(classes), loader.feature_size)
    report = load_initial(model, network, folder)
    detector: Any = getattr(model, "detector", model)
    task = make_task(options, classes, class_agnostic=detector.class_agnostic)
    for each in (loader, validation, tested):  # wrong files of the test show now and not after the training
        if each is not None:
            task.check(model, each)
    record = run_record(
        _TASK,
        options,
        input_spec=snippet_spec(options.snippets) if options.snippets.encoder else model_input_spec(network.network),
        dataset=str(Path(data.dataset).resolve()),
        train=parts.train,
        division=parts.division,
        validation_videos=video_names(parts.validation),
        feature_size=getattr(detector, "in_features", loader.feature_size),
    )
    counts = [0 if part is None else len(part) for part in (parts.train, parts.validation, parts.test)]
    training = Training(
        task=task,
        model=model,
        loader=loader,
        validation=validation,
        record=record,
        summary=(
            f"{counts[0]} training, {counts[1]} validation and {counts[2]} test videos, {len(classes)} classes, "
            f"{loader.table.count} training segments"
        ),
        report=report,
        batch_size=data.batch_size * distributed.world_size(),
    )
    train_run(training, options, out, device=device)
    if parts.test is not None:
        log_test(folder, device, words=lambda test: scores_text(test["scores"]))
    return out


def scores_text(scores: dict[str, Any]) -> str:
    """Return the scores of a test in words."""
    if "map" in scores:
        parts = ", ".join(f"{100 * value:.2f} at {threshold}" for threshold, value in scores["map"].items())
        return f"mAP {100 * scores['average']:.2f} (IoU: {parts})"
    recalls = ", ".join(f"AR@{number} {100 * value:.2f}" for number, value in scores["average_recall"].items())
    return f"{recalls}, AUC {100 * scores['auc']:.2f}"
