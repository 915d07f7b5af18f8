"""Linear probe: the features of every video once, from a frozen network, and a linear classifier fitted to them.

The classifier becomes the last layer of the network, so that the folder is a run like any other: `vidseg test`,
`predict` and `train --pretrained` take it.

Shapes: N clips, D feature width, K classes.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.engine.initial_weights import load_initial
from vidseg.engine.monitors import ScoreTable, progress_bar
from vidseg.engine.motion_input import motion_sources
from vidseg.engine.options import CheckpointOptions, NetworkOptions, RunOptions
from vidseg.engine.run_record import run_record
from vidseg.engine.runs import RunFolder, start_run
from vidseg.labels import VideoDataset
from vidseg.labels.counting import counted
from vidseg.metrics import top_k_hits
from vidseg.models import InputSpec, classifier_name
from vidseg.tasks.recognition.data import choose_splits, evaluation_loader, mirrored
from vidseg.tasks.recognition.feature_extraction import clip_outputs
from vidseg.tasks.recognition.options import InputOptions, ProbeOptions, RecognitionData, RecognitionOptions
from vidseg.tasks.recognition.runs import build_network, network_options, run_input

__all__ = ["ProbeOptions", "fit_classifier", "train_probe"]

logger = logging.getLogger(__name__)

_ITERATIONS = 200


def train_probe(options: ProbeOptions) -> Path:
    """Fit a linear classifier to the features of a frozen network; returns the folder of the run.

    Source: Alain and Bengio, Understanding intermediate layers using linear classifier probes (2016).

    Raises:
        FileExistsError: the folder holds a run, and `overwrite` is not given.
        FileNotFoundError: there are no such weights.
        ValueError: options that do not fit the network or the data set, or a network without a linear classifier.
    """
    if not options.pretrained:
        raise ValueError("pretrained: name the weights whose features are used")
    out = options.out or f"results/{Path(options.dataset).resolve().name}/{options.network}_probe"
    full = RecognitionOptions(
        data=RecognitionData(dataset=options.dataset, batch_size=options.batch_size, mirror=options.mirror),
        network=NetworkOptions(
            options.network, options.network_option, options.pretrained, cross_modality=options.cross_modality
        ),
        input=InputOptions(
            modality=options.modality,
            stack=options.stack,
            frames=options.frames,
            interval=options.interval,
            size=options.size,
        ),
        session=RunOptions(epochs=1, seed=options.seed, out=out, overwrite=options.overwrite),
        checkpoints=CheckpointOptions(),
    )
    full = replace(full, devices=replace(full.devices, device=options.device))
    device = start_run(full)
    splits = choose_splits(full.data, seed=options.seed)
    torch.manual_seed(options.seed)
    model = build_network(full.network, splits.train.num_classes, full.input)
    folder = RunFolder(Path(out), options.network, full)
    folder.check_free()
    report = load_initial(model, full.network, folder)
    logger.info("%s: %s", options.pretrained, report)
    name = classifier_name(model)
    classifier = None if name is None else model.get_submodule(name)
    if not isinstance(classifier, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        raise ValueError(f"{options.network} has no linear classifier, so there are no features to probe")
    spec = run_input(full, folder, report)
    model = model.to(device).eval()
    train = _features(
        model, classifier, splits.train, full.data, spec, device, clips=options.clips, mirror=options.mirror
    )
    held_out = _features(model, classifier, splits.validation, full.data, spec, device)
    weight, bias, penalty = fit_classifier(train, held_out, splits.train.num_classes, penalties=options.penalties)
    with torch.no_grad():
        classifier.weight.copy_(weight.reshape(classifier.weight.shape))
        if classifier.bias is None:
            raise ValueError(f"{options.network}: its classifier has no bias, so a probe cannot be written into it")
        classifier.bias.copy_(bias)
    scores = {kind: _scores(weight, bias, *part) for kind, part in (("train", train), ("val", held_out))}
    logger.info(
        "probe: penalty %g, %.4f of the training clips, %.4f of %s right", penalty, scores["train"][0],
        scores["val"][0], counted(len(held_out[1]), "validation video"),
    )  # fmt: skip
    dataset = str(Path(options.dataset).resolve())
    record = run_record(
        "recognition",
        full,
        input_spec=spec,
        dataset=dataset,
        train=splits.train,
        network_options=network_options(full.network, full.input),
        motion=motion_sources(splits.train, spec),
    )
    folder.prepare(record)
    for kind, values in scores.items():
        ScoreTable(Path(out) / f"{kind}_results_s0001.csv", ["Top1", "Top5", "Loss"]).append(1, values)
    state = {key: value.cpu() for key, value in model.state_dict().items()}
    content = {"epoch": 1, "state_dict": state, "optimizer": {}, "best": scores["val"][0], "record": record}
    CheckpointFolder(out, options.network).save(content, best=True)
    return Path(out)


def fit_classifier(
    train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], classes: int, *, penalties: tuple[float, ...]
) -> tuple[Tensor, Tensor, float]:
    """Fit a linear classifier by multinomial logistic regression with L-BFGS, in float64.

    Features are standardized for the fit; the returned weights take them as they are.

    Args:
        train: float32 (N, D) and int64 (N,).
        held_out: the same of the videos that choose the penalty; of equal accuracies the lower loss decides.
        classes: K.
        penalties: L2 penalties to try.

    Returns:
        Weights float32 (K, D), biases float32 (K,), and the penalty.
    """
    features, labels = train[0].double(), train[1]
    mean, std = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
    standard = (features - mean) / std
    best: tuple[tuple[float, float], Tensor, Tensor, float] | None = None
    for penalty in penalties:
        weight, bias = _minimized(standard, labels, classes, penalty)
        plain = weight / std
        plain, offset = plain.float(), (bias - plain @ mean).float()
        top1, _, cost = _scores(plain, offset, *held_out)
        if best is None or (top1, -cost) > best[0]:
            best = ((top1, -cost), plain, offset, penalty)
    assert best is not None
    return best[1:]


def _minimized(features: Tensor, labels: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights (K, D) and biases (K,) of the least cross entropy with an L2 penalty on the weights."""
    weight = torch.zeros(classes, features.shape[1], dtype=features.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=features.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features, weight, bias), labels) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def _scores(weight: Tensor, bias: Tensor, features: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Top-1, top-5 and cross entropy of a linear classifier."""
    logits = F.linear(features, weight, bias)
    hits = [top_k_hits(logits, labels, count).double().mean().item() for count in (1, 5)]
    return hits[0], hits[1], F.cross_entropy(logits, labels).item()


def _features(
    model: nn.Module,
    classifier: nn.Module,
    data: VideoDataset,
    options: RecognitionData,
    spec: InputSpec,
    device: torch.device,
    *,
    clips: int = 1,
    mirror: bool = False,
) -> tuple[Tensor, Tensor]:
    """Features float32 (N, D) and labels int64 (N,) of clips of every video."""
    loader = evaluation_loader(data, options, spec, batch_size=options.batch_size or 1, clips=clips)
    features, labels = [], []
    shown = progress_bar(len(loader), "batches")
    with loader, shown as bar, torch.inference_mode(), clip_outputs(model, classifier) as outputs:
        for batch in loader:
            valid, labeled = batch.valid.cpu(), batch.labels.cpu()
            clips_shown = batch.to(device).inputs
            for view in (clips_shown, mirrored(clips_shown, spec)) if mirror else (clips_shown,):
                features.append(outputs(view)[valid])
                labels.append(labeled[valid])
            bar.update(1)
    return torch.cat(features).clone(), torch.cat(labels)
