"""`vidseg compress`: smaller and faster forms of a trained network."""

from __future__ import annotations

import json as json_format
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from vidseg.cli.model_options import InputChanges, ModelOptions, load_model

if TYPE_CHECKING:
    from vidseg.engine.trained import TrainedModel
    from vidseg.export.pruning import Pruned

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Prune or quantize the network of RUN.

    --prune removes the channels with the smallest weights, so that layers become smaller, and writes a checkpoint. With
    --fine-tune the pruned network is then trained on the data of the run, with its options, into a new run. --quantize
    writes a file whose layers compute with int8, and replays it against the network; with --fine-tune the network is
    trained with values rounded to int8 before, into a new run. `vidseg compare --speed` compares the results.
    """

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder of a run, a checkpoint, or a file of weights."""
    prune: float | None = None
    """Share of channels to remove from each layer whose channels only the next layers read."""
    unstructured: bool = False
    """Set single weights to zero instead; shapes stay, --prune is the share of all weights."""
    multiple: int = 1
    """Keep a multiple of this number of channels, such as 8, which processors compute best."""
    fine_tune: int | None = None
    """Epochs of training after pruning, where weights that are zero stay zero with --unstructured, or with values
    rounded to int8."""
    lr: float | None = None
    """Learning rate of --fine-tune; default: a tenth of the run's."""
    quantize: Literal["int8"] | None = None
    """Type of weights and activations in the written file."""
    to: Literal["onnx", "openvino"] = "onnx"
    """Format of the quantized file; OpenVINO has int8 kernels for convolutions of volumes."""
    dynamic: bool = False
    """Measure the ranges of activations in each call: needs no calibration, leaves convolutions in float32."""
    calibrate: str | None = None
    """Data set for the ranges of activations, as DATA or DATA:VIDEOS; default: 32 training videos of the run."""
    out: Path | None = None
    """File to write, with --fine-tune the folder of the run; default: beside the weights."""
    checkpoint: str | None = None
    """Weights to compress; default: the best ones of the run, else its last ones."""
    json: bool = False
    """Print one JSON object instead of text."""
    model: ModelOptions = field(default_factory=ModelOptions)
    input: InputChanges = field(default_factory=InputChanges)

    def run(self) -> int:
        """Compress, write and print."""
        if (self.prune is None) == (self.quantize is None):
            raise ValueError("choose one of --prune SHARE and --quantize int8; prune first, then quantize the result")
        if self.prune is None and (self.unstructured or self.multiple != 1):
            raise ValueError("--unstructured and --multiple belong to --prune")
        if self.quantize is None and (self.dynamic or self.calibrate is not None or self.to != "onnx"):
            raise ValueError("--dynamic, --calibrate and --to belong to --quantize")
        if self.quantize is not None and self.fine_tune is not None and (self.dynamic or self.calibrate is not None):
            raise ValueError("--dynamic and --calibrate measure ranges after training, --fine-tune measures them in it")
        if self.fine_tune is not None and self.fine_tune < 1:
            raise ValueError(f"fine_tune={self.fine_tune} must be at least 1 epoch")
        trained = load_model(self.run_folder, self.model, self.input, checkpoint=self.checkpoint)
        return self._prune(trained) if self.quantize is None else self._quantize(trained)

    def _quantize(self, trained: TrainedModel) -> int:
        from vidseg.export.quantization import quantize_model
        from vidseg.tasks import load_trained

        folder = None
        if self.fine_tune is None:
            data, videos = _calibration(self.calibrate)
            found = quantize_model(trained, self.out, to=self.to, calibrate=data, videos=videos, dynamic=self.dynamic)
        else:
            from vidseg.export.exporting import export_model

            folder = self._train_quantized(trained)
            found = export_model(load_trained(folder, device=trained.device), to=self.to)
        size = sum(path.stat().st_size for path in found.files)
        if self.json:
            facts = {"path": str(found.path), "bytes": size, "replay": found.replay.as_dict()}
            print(json_format.dumps(facts | ({} if folder is None else {"run": str(folder)})))
        else:
            print(f"replay  {found.replay}\nwrote {found.path}, {size / 1e6:.2f} MB")
        return 0

    def _train_quantized(self, trained: TrainedModel) -> Path:
        """Train with rounded values; returns the folder of the new run."""
        from vidseg.models._quantized import QUANTIZED, quantized_layers

        source = trained.source
        if source.artifact is not None or quantized_layers(trained.model):
            raise ValueError(f"{source.path}: is quantized or exported already; start from the run that it came from")
        return self._train_again(
            trained,
            weights=source.path,
            options=dict(source.network_options) | {QUANTIZED: "int8"},
            out=self.out or source.path.parent / "compressed" / f"{trained.network}_int8",
        )

    def _prune(self, trained: TrainedModel) -> int:
        from vidseg.export.pruning import prune_channels, prune_weights, write_pruned

        assert self.prune is not None
        if self.unstructured:
            pruned = prune_weights(trained, self.prune)
        else:
            pruned = prune_channels(trained, self.prune, multiple=self.multiple)
        path = self._pruned_path(trained)
        write_pruned(trained, pruned, path)
        before, after = pruned.parameters
        what = "weights are zero" if self.unstructured else "channels removed"
        if not self.json:
            print(f"{pruned.removed} of {pruned.candidates} {what}, {before} -> {after} parameters\nwrote {path}")
        folder = None if self.fine_tune is None else self._tune(trained, pruned, path)
        if self.json:
            facts: dict[str, Any] = {"path": str(path), "removed": pruned.removed, "candidates": pruned.candidates}
            print(json_format.dumps({**facts, "parameters": [before, after], "run": folder and str(folder)}))
        elif folder is not None:
            print(folder)
        return 0

    def _pruned_path(self, trained: TrainedModel) -> Path:
        source = trained.source
        name = f"{trained.network}_{'sparse' if self.unstructured else 'pruned'}{round(100 * (self.prune or 0))}.pth"
        if self.fine_tune is not None:
            out = self.out or source.path.parent / "compressed" / name.removesuffix(".pth")
            return out.parent / name if out.name != name else out.with_name(f"start_{name}")
        path = self.out or source.path.parent / "compressed" / name
        if path.suffix != ".pth":
            raise ValueError(f"{path}: the name of a checkpoint must end in .pth")
        return path

    def _tune(self, trained: TrainedModel, pruned: Pruned, path: Path) -> Path:
        from vidseg.export.pruning import pruned_options

        return self._train_again(
            trained,
            weights=path,
            options=pruned_options(trained, pruned),
            out=self.out or path.with_suffix(""),
            keep_zeros=self.unstructured,
        )

    def _train_again(
        self, trained: TrainedModel, *, weights: Path, options: dict[str, Any], out: Path, **more: Any
    ) -> Path:
        """Train with the options of the run, from these weights, for a network with these options."""
        from vidseg.cli.train_runs import train_again

        record = trained.source.record
        if not record.get("dataset"):
            raise ValueError(f"{trained.source.path}: does not belong to a run, so there are no data to fine-tune on")
        changes = {
            "pretrained": str(weights),
            "network_option": tuple(f"{name}={value!r}" for name, value in options.items()),
            "epochs": self.fine_tune,
            "out": str(out),
            **more,
        }
        return train_again(trained.task, record, changes, lr=self.lr)


def _calibration(text: str | None) -> tuple[str | None, int]:
    """Return data set and number of videos of DATA or DATA:VIDEOS."""
    if text is None:
        return None, 32
    data, colon, count = text.rpartition(":")
    if not colon:
        return text, 32
    if not count.isdigit() or int(count) < 1:
        raise ValueError(f"calibrate={text!r}: expected DATA or DATA:VIDEOS, such as data:64")
    return data, int(count)
