"""`vidseg export`: write a trained model for another runtime, and compare it with the network."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from vidseg.cli.model_options import InputChanges, ModelOptions, load_model

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Write the network of RUN for another runtime.

    The written model is replayed against the network with videos of the run's test data. The command prints the largest
    difference and the share of equal decisions, and fails without leaving a file if they exceed a limit. `vidseg
    predict`, `test` and `predict --stream` accept the file in place of a run.
    """

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder of a run, a checkpoint, or a file of weights."""
    to: Literal["onnx", "openvino", "aoti", "torch", "tensorrt", "triton"] = "onnx"
    """Format: onnx (ONNX Runtime), openvino, aoti (compiled by AOTInductor), torch (graph of torch.export), tensorrt,
    or triton (model repository)."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Type in which the model computes; its inputs and outputs are float32. bf16: aoti and torch only."""
    out: Path | None = None
    """File to write, for triton a folder; default: RUN/export/<network> with the suffix of the format."""
    checkpoint: str | None = None
    """Weights to export; default: the best ones of the run, else its last ones."""
    fixed_length: bool = False
    """Fix the number of frames or columns as trained; the graph is smaller, and more runtimes optimize it."""
    videos: int = 8
    """Videos of the test data to replay."""
    json: bool = False
    """Print one JSON object instead of text."""
    model: ModelOptions = field(default_factory=ModelOptions)
    input: InputChanges = field(default_factory=InputChanges)

    def run(self) -> int:
        """Export; exit status 1 if the model computes something else than the network."""
        if self.videos < 1:
            raise ValueError(f"videos={self.videos} must be at least 1")
        from vidseg.export import export_model

        trained = load_model(self.run_folder, self.model, self.input, checkpoint=self.checkpoint)
        found = export_model(
            trained,
            self.out,
            to=self.to,
            precision=self.precision,
            fixed_length=self.fixed_length,
            videos=self.videos,
        )
        if self.json:
            facts = {
                "path": str(found.path),
                "files": [str(path) for path in found.files],
                "inputs": [asdict(one) for one in found.artifact.inputs],
                "outputs": found.artifact.outputs,
                "replay": found.replay.as_dict(),
            }
            print(json_format.dumps(facts))
            return 0
        for spec in found.artifact.inputs:
            print(f"input   {spec}")
        print(f"output  {', '.join(found.artifact.outputs)}")
        print(f"replay  {found.replay}")
        for path in found.files:
            print(f"wrote {path}", file=sys.stdout)
        return 0
