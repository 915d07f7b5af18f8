"""Versions of all dependencies and status of the native libraries (`vidseg env`)."""

import json as json_format
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Command"]

_PACKAGES = (
    "torch",
    "numpy",
    "av",
    "sqlite-utils",
    "numba",
    "matplotlib",
    "tyro",
    "ray",
    "safetensors",
    "tensorboard",
    "wandb",
    "mlflow-skinny",
    "imgaug",
    "apex",
    "deepspeed",
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
)


@dataclass(frozen=True)
class Command:
    """Print the versions of all dependencies and the status of the native libraries; exit status 1 if one cannot be
    loaded. The CUDA operators may be missing."""

    json: bool = False
    """Print one JSON object instead of lines."""

    def run(self) -> int:
        """Collect and print the versions."""
        facts, sound = _collect()
        if self.json:
            print(json_format.dumps(facts, indent=1))
        else:
            width = max(map(len, facts))
            print("\n".join(f"{name:{width}}  {value}" for name, value in facts.items()))
        return 0 if sound else 1


def _collect() -> tuple[dict[str, Any], bool]:
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    import vidseg
    from vidseg.frames.plane_encoder import encoder_library
    from vidseg.ops.library import NativeLibraryError, load_cuda_library, load_library

    facts: dict[str, Any] = {
        "vidseg": vidseg.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": len(os.sched_getaffinity(0)),
    }
    for package in _PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    sound = True
    libraries: dict[str, Callable[[], object]] = {
        "frames/_encoder": lambda: encoder_library()._name,
        "frames/_frames": lambda: load_library("frames/_frames"),
        "ops/_ops": lambda: load_library("ops/_ops"),
    }
    for name, load in libraries.items():
        try:
            facts[name] = f"loaded from {load()}"
        except NativeLibraryError as error:
            facts[name] = f"NOT LOADED: {error}"
            sound = False
    cuda = load_cuda_library()
    facts["ops/_ops_cuda"] = f"{'NOT LOADED' if cuda.damaged else 'not loaded'}: {cuda.problem}"
    if cuda.problem is None:
        facts["ops/_ops_cuda"] = f"loaded from {cuda.path}"
    if built := cuda.architectures():
        facts["CUDA operators built for"] = f"compute capability {', '.join(built)}; PTX {built[-1]} for later ones"
    sound = sound and not cuda.damaged
    if facts["frames/_frames"].startswith("loaded"):
        from vidseg.frames.native import operators, simd

        facts["frames built with"] = operators.versions()
        try:
            facts["vector instructions"] = simd()
        except (RuntimeError, ValueError) as error:  # the kind depends on torch's version
            facts["vector instructions"] = f"NOT USABLE: {error}"
            sound = False
    import av

    facts["FFmpeg in av"] = ", ".join(
        f"{name} {'.'.join(map(str, number))}" for name, number in av.library_versions.items()
    )
    facts["CUDA"] = f"{torch.version.cuda}, devices: {torch.cuda.device_count()}" if torch.version.cuda else "CPU build"
    return facts, sound
