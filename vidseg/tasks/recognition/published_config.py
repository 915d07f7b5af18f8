"""The config.yaml of a published code base for TSN, TSM and SlowFast (its README is seed 004): one nested mapping under
`common:`, translated to the options of a recognition run.

`KEYS` has every key of the format. A key's value becomes an option directly, or `_Reader` combines several keys.
docs/training.md says what each key does here.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["KEYS", "is_published_config", "published_config_options"]

logger = logging.getLogger(__name__)

KEYS: dict[str, str | None] = {
    "model.type": None,
    "model.backbone": None,
    "model.num_segments": None,
    "model.num_class": "num_classes",
    "model.dropout": None,
    "model.pretrained": None,
    "model.kwargs.bn_group_size": None,
    "model.kwargs.bn_sync_stats": None,
    "model.kwargs.t": None,
    "augmentation.input_size": "size",
    "augmentation.test_resize": "resize",
    "augmentation.colorjitter": "color_jitter",
    "augmentation.random_erasing": "random_erasing",
    "augmentation.mix_up": "mixup",
    "val_dense": None,
    "workers": None,
    "batch_size": "process_batch_size",
    "lr_scheduler.type": None,
    "lr_scheduler.base_lr": None,
    "lr_scheduler.warmup_lr": None,
    "lr_scheduler.warmup_steps": "warmup_steps",
    "lr_scheduler.min_lr": None,
    "lr_scheduler.max_iter": "max_steps",
    "lr_scheduler.lr_steps": "lr_steps",
    "lr_scheduler.lr_mults": "lr_factor",
    "label_smooth": "label_smoothing",
    "no_wd": None,
    "momentum": "momentum",
    "weight_decay": "weight_decay",
    "nesterov": "nesterov",
    "val_freq": None,
    "print_freq": "log_every",
    "train_root": "train_root",
    "train_source": None,
    "val_root": "val_root",
    "val_source": None,
}
"""Key -> the option that has its value; None for keys that are combined with others or converted."""

ELSEWHERE = {
    "evaluate": "`vidseg test RUN` evaluates",
    "load_path": "--pretrained FILE starts from weights",
    "recover": "--resume continues a run",
    "fp16": "--opt-level O1 computes in float16",
    "fp16_normal_bn": "batch norm is float32 in O1 and O2",
    "static_loss_scale": "the loss scale is dynamic",
    "dynamic_loss_scale": "the loss scale is always dynamic",
    "sync": "gradients are always exchanged during the backward pass",
    "fake": "--dry-run prints the schedule",
    "fuse_prob": "`vidseg test --fuse` averages views",
    "fusion_list": "`vidseg score A.npz B.npz` fuses scores",
}
"""Settings of the published programs that are not options of a run here, and what to use instead."""

_NETWORKS = {
    "resnet18": "r18",
    "resnet34": "r34",
    "resnet50": "r50",
    "resnet101": "r101",
    "resnet152": "r152",
    "mobilenetv2": "mobilenet_v2",
}
_SLOWFAST = {"resnet50": "slowfast_r50_4x16", "resnet101": "slowfast_r101_8x8"}
_WEIGHTS = {
    "resnet18": ("resnet18-5c106cde.pth", "resnet18-f37072fd.pth"),
    "resnet34": ("resnet34-333f7ec4.pth", "resnet34-b627a593.pth"),
    "resnet50": ("resnet50-19c8e357.pth", "resnet50-0676ba61.pth"),
    "resnet101": ("resnet101-5d3b4d8f.pth", "resnet101-63fe2227.pth"),
    "resnet152": ("resnet152-b121ed2d.pth", "resnet152-394f9c45.pth"),
    "mobilenetv2": ("mobilenet_v2-b0353104.pth", "mobilenet_v2-7ebf99e0.pth"),
}
"""Names of torchvision's ImageNet weights, the older first."""
_EXPANSION = 6
_NEVER = 10**9


def is_published_config(content: Mapping[str, Any]) -> bool:
    """Return whether the content of a YAML file has this format."""
    return isinstance(content.get("common"), Mapping)


def published_config_options(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the options of a recognition run, by flat names, that a config.yaml describes.

    Args:
        content: of the file.
        path: of the file; its folder is the folder of the run.

    Raises:
        ValueError: a key that does not exist, or a value that has no meaning.
        FileNotFoundError: pretrained weights, or a list of videos, is not there.
    """
    for key in content:
        if key != "common":
            raise ValueError(f"{path}: the key {key!r} beside `common`; the format has all keys under `common`")
    return _Reader(dict(_flat(content["common"], path)), path).options()


def _flat(part: Mapping[str, Any], path: Path, above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every value; refuses keys that do not exist."""
    for name, value in part.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping):
            if not any(known.startswith(f"{key}.") for known in KEYS):
                raise ValueError(f"{path}: {_unknown(key)}")
            yield from _flat(value, path, f"{key}.")
        elif key in ELSEWHERE:
            logger.warning("%s: common.%s has no meaning in a file of options: %s", path, key, ELSEWHERE[key])
        elif key in KEYS or above == "model.kwargs.":
            own = [known.rpartition(".")[2] for known in KEYS if known.startswith("model.kwargs.")]
            if key not in KEYS and difflib.get_close_matches(str(name), own, n=1, cutoff=0.75):
                raise ValueError(f"{path}: {_unknown(key)}")
            yield key, value
        elif value is not None or not any(known.startswith(f"{key}.") for known in KEYS):  # an empty section
            raise ValueError(f"{path}: {_unknown(key)}")


def _unknown(key: str) -> str:
    names = {known.rpartition(".")[2]: known for known in KEYS}
    close = [names[name] for name in difflib.get_close_matches(key.rpartition(".")[2], names, n=1)]
    close = close or difflib.get_close_matches(key, KEYS, n=1)
    hint = f"; did you mean 'common.{close[0]}'?" if close else f"; the keys are {', '.join(KEYS)}"
    return f"there is no key 'common.{key}'{hint}"


class _Reader:
    """The values of one file.

    Args:
        values: by dotted key.
        path: of the file.
    """

    def __init__(self, values: dict[str, Any], path: Path) -> None:
        self.values, self.path = values, path

    def options(self) -> dict[str, Any]:
        """Return the options by flat names."""
        rates = self._rates()
        found = {
            option: self.values[key]
            for key, option in KEYS.items()
            if option is not None and self.values.get(key) is not None
        }
        found |= {"run_files": "experiment", "tensorboard": True, "out": str(self.path.parent), "optimizer": "sgd"}
        found |= self._network() | self._norms() | rates | self._intervals() | self._lists()
        if self.values.get("no_wd") is not None:
            found["decay_all"] = not self._flag("no_wd")
        if self.values.get("workers") is not None:
            found["threads"] = max(1, int(self.values["workers"]))
        return found

    def _error(self, key: str, text: str) -> ValueError:
        return ValueError(f"{self.path}: common.{key}={self.values.get(key)!r} {text}")

    def _flag(self, key: str) -> bool:
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self._error(key, "is not true or false")
        return value

    def _nothing(self, key: str, reason: str) -> None:
        """Log that a key has no effect."""
        if self.values.get(key) is not None:
            logger.warning("%s: common.%s=%r has no effect: %s", self.path, key, self.values[key], reason)

    def _network(self) -> dict[str, Any]:
        kind = self.values.get("model.type")
        if kind not in ("tsn", "tsm", "slowfast"):
            raise self._error("model.type", "is not one of tsn, tsm, slowfast")
        known = _SLOWFAST if kind == "slowfast" else _NETWORKS
        backbone = str(self.values.get("model.backbone")).replace("_", "").lower()
        if backbone not in known:
            raise self._error("model.backbone", f"is not one of {', '.join(known)}, which model.type={kind} has")
        found: dict[str, Any] = {"network": known[backbone] if kind == "slowfast" else f"{kind}_{known[backbone]}"}
        dense = self._flag("val_dense")
        if kind == "slowfast":
            self._nothing("model.num_segments", f"{found['network']} has 32 frames, 2 apart")
        else:
            found |= {"sampling": "segments", "geometry": "multi_scale"}
            if self.values.get("model.num_segments") is not None:
                found["frames"] = self.values["model.num_segments"]
        if dense:
            found |= {"val_frames": 25, "val_crops": 10} if kind == "tsn" else {"val_clips": 10, "val_crops": 3}
        options = []
        if self.values.get("model.dropout") is not None:
            options.append(f"dropout={self.values['model.dropout']}")
        for key, value in self.values.items():
            if key.startswith("model.kwargs.") and key not in KEYS:
                options.append(f"{key.rpartition('.')[2]}={value!r}")
        expansion = self.values.get("model.kwargs.t")
        if expansion is not None and backbone != "mobilenetv2":
            self._nothing("model.kwargs.t", f"it is the expansion of mobilenetv2, and the backbone is {backbone}")
        elif expansion not in (None, _EXPANSION):
            raise self._error("model.kwargs.t", f"is not {_EXPANSION}, the expansion of the published MobileNetV2")
        if options:
            found["network_option"] = options
        weights = self.values.get("model.pretrained")
        if isinstance(weights, str):
            found["pretrained"] = weights
        elif weights and kind == "slowfast":
            self._nothing("model.pretrained", f"{found['network']} has no ImageNet weights; --pretrained names a file")
        elif weights:
            found["pretrained"] = self._weights(backbone)
        return found

    def _weights(self, backbone: str) -> str:
        """The file of ImageNet weights in a folder `pretrained` here, beside the file, or above it."""
        folders = [Path(), *self.path.resolve().parents]
        for folder in folders:
            for name in _WEIGHTS[backbone]:
                if (folder / "pretrained" / name).is_file():
                    return str(folder / "pretrained" / name)
        raise FileNotFoundError(
            f"{self.path}: common.model.pretrained is true, but there is no pretrained/{_WEIGHTS[backbone][0]} in the "
            f"current folder, in {self.path.parent} or above it; put torchvision's ImageNet weights there, name a file "
            "(pretrained: FILE), or set pretrained: False"
        )

    def _norms(self) -> dict[str, Any]:
        size = self.values.get("model.kwargs.bn_group_size")
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise self._error("model.kwargs.bn_group_size", "is not a number of processes")
        shared = self._flag("model.kwargs.bn_sync_stats")
        if size in (None, 1):
            if shared:
                self._nothing("model.kwargs.bn_sync_stats", "bn_group_size is 1, so no statistics are shared")
            return {}
        return {"sync_bn": True, "bn_group_size": size}  # running statistics are those of the group, too

    def _rates(self) -> dict[str, Any]:
        """The warm-up rises from base_lr to warmup_lr, which is the highest rate."""
        kind = self.values.get("lr_scheduler.type")
        if kind is None and not any(key.startswith("lr_scheduler.") for key in self.values):
            return {}
        if kind not in ("COSINE", "STEP"):
            raise self._error("lr_scheduler.type", "is not COSINE or STEP")
        if self.values.get("lr_scheduler.max_iter") is None:
            raise ValueError(f"{self.path}: common.lr_scheduler.max_iter is missing; it is the length of the run")
        base = self._number("lr_scheduler.base_lr")
        found: dict[str, Any] = {"schedule": "cosine" if kind == "COSINE" else "steps", "lr": base}
        if self.values.get("lr_scheduler.warmup_steps"):
            found |= {"warmup_start": base, "lr": self._number("lr_scheduler.warmup_lr")}
            if found["lr"] < base:
                logger.warning(
                    "%s: the warm-up falls from base_lr=%g to warmup_lr=%g; in this format warmup_lr is the highest "
                    "rate", self.path, base, found["lr"],
                )  # fmt: skip
        else:
            found["warmup_steps"] = 0
            self._nothing("lr_scheduler.warmup_lr", "without warmup_steps the highest rate is base_lr")
        if kind == "COSINE":
            found["lr_end"] = self.values.get("lr_scheduler.min_lr") or 0.0
            for key in ("lr_scheduler.lr_steps", "lr_scheduler.lr_mults"):
                self._nothing(key, "type is COSINE")
            self.values = {key: value for key, value in self.values.items() if not key.startswith("lr_scheduler.lr_")}
        else:
            self._nothing("lr_scheduler.min_lr", "type is STEP")
        return found

    def _number(self, key: str) -> float:
        try:
            return float(self.values[key])  # YAML reads 1e-3 as text
        except KeyError:
            raise ValueError(f"{self.path}: common.{key} is missing") from None
        except (TypeError, ValueError):
            raise self._error(key, "is not a number") from None

    def _intervals(self) -> dict[str, Any]:
        """Validation and checkpoints every val_freq iterations and at the end, not at ends of epochs."""
        every = self.values.get("val_freq")
        if every is None:
            return {}
        return {"test_every_steps": every, "checkpoint_every": every, "test_every": _NEVER}

    def _lists(self) -> dict[str, Any]:
        found = {}
        for part in ("train", "val"):
            given = self.values.get(f"{part}_source")
            if given is None:
                continue
            names = given if isinstance(given, list) else [given]
            if not names or not all(isinstance(name, str) for name in names):
                raise self._error(f"{part}_source", "is not a list file, or a list of them")
            found[f"{part}_lists"] = [str(self._existing(name, f"{part}_source")) for name in names]
        return found

    def _existing(self, name: str, key: str) -> Path:
        """A file relative to the current folder, else to the folder of the config.yaml."""
        for path in (Path(name), self.path.parent / name):
            if path.is_file():
                return path
        raise FileNotFoundError(f"{name}: no such file, given with common.{key} in {self.path}")
