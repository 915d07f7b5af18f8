"""Recognition: from class folders or a label file to a tested network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidseg.engine.distributed import process_device
from vidseg.engine.option_words import named_values
from vidseg.engine.options import flat_options, options_from
from vidseg.engine.run_record import RECORD, read_record
from vidseg.labels import open_dataset
from vidseg.labels.counting import counted
from vidseg.learn.advice import next_steps
from vidseg.learn.choices import choose_network, choose_training, default_size, option_words
from vidseg.learn.facts import measure_facts
from vidseg.learn.learning import Learned, Progress, content_of, convert_source, divide
from vidseg.models import InputSpec, model_input_spec
from vidseg.models._published import find_published, networks_of
from vidseg.plots.curves import best_scores, read_run
from vidseg.plots.run_page import write_report
from vidseg.tasks import load_trained
from vidseg.tasks.recognition.options import RecognitionOptions
from vidseg.tasks.recognition.probe import ProbeOptions, train_probe
from vidseg.tasks.recognition.runs import check_network, train_recognition

__all__ = ["learn_recognition", "train_network"]


def learn_recognition(progress: Progress) -> Learned:
    """Do the steps of recognition; see `vidseg.learn.learning.learn`."""
    found, options = progress.found, progress.options
    root = progress.data
    network = chosen_network(progress, videos=len(found.listing.jobs), classes=len(found.classes))
    size = default_size(options, round(0.6 * len(found.listing.jobs)), network["spec"])
    labeled = found.labels is not None
    source = found.labels if found.labels is not None else found.videos
    convert_source(progress, source, root, name="convert", size=size, videos=found.videos if labeled else None)
    splits = divide(progress, root, sorted({job.split for job in found.listing.jobs if job.split is not None}))
    run = train_network(progress, root, network, train=splits["train"])
    tested = "test" if "test" in splits else "val"
    progress.command("test", run)
    reports = _test(progress, run, root, tested=tested, splits=list(splits))
    report = reports[tested]
    facts = _facts(progress, run, root, reports, tested=tested)
    advice = next_steps(facts, pretrained=options.pretrained is not None, out=str(run))
    page = progress.out / "report.html"
    progress.command("plot", "report", run)
    notes = [("What to do next", advice), ("Decisions", progress.choices.lines)]
    if progress.failed:
        notes.append(("Videos that could not be read", progress.failed))
    inputs = [reports, notes, progress.commands]
    progress.step(
        "report", inputs, lambda _: {"page": str(write_report(run, page, notes=notes, commands=progress.commands))},
        files=(page,),
    )  # fmt: skip
    scores = {"top1": report["top1"], "top5": report["top5"], "mean_class_accuracy": report["mean_class_accuracy"]}
    progress.say(f"test: top-1 {report['top1']:.4f} of {counted(report['videos'], 'video')}")
    return Learned("recognition", progress.out, run, page, scores, progress.failed, progress.commands, advice)


def chosen_network(progress: Progress, *, videos: int, classes: int) -> dict[str, Any]:
    """Return the network as options of `vidseg train`, and its input as "spec".

    Raises:
        FileNotFoundError: published weights that are not on this machine.
        ValueError: no recognition network has this name, or the network of the weights is not known.
    """
    options = progress.options
    known: list[str] = []
    if options.pretrained is not None and options.network is None:
        known = networks_of(options.pretrained)
    chosen = choose_network(options, round(0.6 * videos), classes, known, progress.choices)
    check_network(chosen["network"])
    if options.pretrained is not None:
        find_published(options.pretrained, chosen["network"])  # refused before anything is converted
    spec = model_input_spec(chosen["network"], **named_values(chosen["network_option"]))
    return {**chosen, "spec": spec}


def train_network(
    progress: Progress,
    root: Path,
    network: Mapping[str, Any],
    *,
    train: int,
    run: Path | None = None,
    name: str = "train",
) -> Path:
    """Train the recognition network: a probe on frozen features first where there are published weights.

    Args:
        progress: of the command.
        root: folder of the data set of clips.
        network: result of `chosen_network`.
        train: number of training videos.
        run: folder of the run; None: OUT/run.
        name: of the step.

    Returns:
        The folder of the better run on the validation videos.
    """
    options, data = progress.options, open_dataset(root)
    spec = network["spec"] if options.pretrained is not None else None
    values = choose_training(
        options,
        {key: network[key] for key in ("network", "network_option")},
        videos=train,
        lengths=data.frames.tolist(),
        classes=data.classes,
        spec=spec,
        choices=progress.choices,
    )
    content = content_of(root, splits=True)
    probe = progress.out / "probe"
    if options.pretrained is not None:
        _probe(progress, root, values, content, probe)
        if not options.fine_tune:
            return probe
        values["pretrained"] = str(probe / f"{values['network']}_best.pth")
    run = run or progress.out / "run"
    words = option_words({**values, "out": run})
    progress.command("train", root, *words)
    base = flat_options(RecognitionOptions()) | {"dataset": str(root), "out": str(run)}
    options_from({**base, **values}, defaults=RecognitionOptions())  # an unknown option is refused before training

    def work(continued: bool) -> dict[str, Any]:
        start = {"resume": True} if continued and (run / RECORD).is_file() else {"overwrite": True}
        train_recognition(options_from({**base, **values, **start}, defaults=RecognitionOptions()))
        return {"validation": best_scores(run)}

    trained = progress.step(name, [values, content, str(run)], work, files=(run / RECORD,))
    if options.pretrained is not None:
        before = best_scores(probe)
        after = trained["validation"]
        if before is not None and after is not None and before["top1"] > after["top1"]:
            progress.say(
                f"the probe is better on the validation videos ({before['top1']:.4f}) than the fine-tuned network "
                f"({after['top1']:.4f}) and is tested"
            )
            return probe
    return run


def _probe(progress: Progress, root: Path, values: Mapping[str, Any], content: Any, probe: Path) -> None:
    options = progress.options
    chosen = ProbeOptions(
        dataset=str(root),
        network=values["network"],
        network_option=tuple(values["network_option"]),
        pretrained=str(options.pretrained),
        out=str(probe),
        mirror=values["mirror"],
        size=options.size,
        frames=options.frames,
        interval=options.interval,
        seed=options.seed,
        device=options.device,
        overwrite=True,
    )
    kept = {key: value for key, value in vars(chosen).items() if key not in ("dataset", "overwrite")}
    progress.command("probe", root, *option_words(kept))

    def work(_: bool) -> dict[str, Any]:
        train_probe(chosen)
        return {"validation": best_scores(probe)}

    result = progress.step("probe", [vars(chosen), content], work, files=(probe / RECORD,))
    progress.say(f"probe: {result['validation']['top1']:.4f} of the validation videos")


def _test(progress: Progress, run: Path, root: Path, *, tested: str, splits: list[str]) -> dict[str, Any]:
    """Test on the test videos, and on the others for the advice; returns the contents of the reports by split."""

    def work(_: bool) -> dict[str, Any]:
        trained = load_trained(run, device=process_device(progress.options.device))
        trained.test()
        for name in splits:
            if name != tested:
                trained.test(split=name, mistakes=0)
        return {}

    files = {name: run / ("test.json" if name == tested else f"test_{name}.json") for name in splits}
    inputs = [str(run), read_record(run), best_scores(run), content_of(root, splits=True)]
    progress.step("test", inputs, work, files=tuple(files.values()))
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items()}


def _facts(progress: Progress, run: Path, root: Path, reports: Mapping[str, Any], *, tested: str) -> Any:
    spec = InputSpec.from_dict(read_record(run)["input"])
    clip = spec.frames * spec.interval if spec.sampling == "dense" else spec.frames
    _, rows = read_run(run, "train")
    epoch = reports[tested]["epoch"]
    return measure_facts(
        open_dataset(root),
        open_dataset(root, "train"),
        reports,
        tested=tested,
        clip=clip,
        size=spec.size,
        failed=progress.failed,
        best_epoch=None if epoch is None or len(rows) < 2 else (int(epoch), len(rows)),
    )
