"""Optimizers and their parameter groups."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vidseg.engine.apex import apex_optimizer, missing_optimizers
from vidseg.engine.options import OptimizerOptions
from vidseg.engine.precision import Precision
from vidseg.engine.sharding import is_slice
from vidseg.models import classifier_name

__all__ = [
    "FINE_TUNE",
    "OptimizerFactory",
    "classifier_names",
    "make_optimizer",
    "optimizer_of_run",
    "parameter_groups",
    "set_rates",
]

logger = logging.getLogger(__name__)

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
"""Makes an optimizer from parameter groups."""

FINE_TUNE = {"convolution": 0.6, "recurrent": 0.5, "transposed": 0.2, "classifier": 1.0}
"""Multipliers of the learning rate in fine-tuning; other layers have that of a convolution."""

_KINDS: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
    ("transposed", (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)),
    ("recurrent", (nn.RNNBase,)),
    ("convolution", (nn.Module,)),
)
_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


def classifier_names(model: nn.Module) -> set[str]:
    """Return the names of the classifier's parameters, see `vidseg.models.classifier_name`; without a classifier, those
    of the last convolution."""
    name = classifier_name(model)
    if name is None:
        kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        name = next((name for name, module in reversed(list(model.named_modules())) if isinstance(module, kinds)), None)
    if name is None:
        return set()
    return {f"{name}.{own}" for own, _ in model.get_submodule(name).named_parameters()}


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    decay_all: bool = True,
    fine_tune: bool = False,
    fresh: Collection[str] = (),
    backbone_lr: float = 1.0,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups with `name`, `params`, `lr_mult` and `weight_decay`.

    Args:
        model: every trainable parameter is put into exactly one group.
        weight_decay: penalty of the groups that have one.
        decay_all: also of biases and of the scales of norms.
        fine_tune: multiply learning rates by `FINE_TUNE`.
        fresh: names of parameters that no checkpoint filled; they keep the whole rate.
        backbone_lr: multiplier of the rate for parameters whose names begin with "backbone.".
        layer_decay: multiplier of the rate from each layer to the one before it, for a model with `layer_of` and
            `num_layers` (`vidseg.models._transformer.VideoTransformer`): layer i has layer_decay^(num_layers - i).

    Raises:
        ValueError: the model has no trainable parameter, or no `layer_of` for `layer_decay`.
    """
    classifier = classifier_names(model)
    layer_of = getattr(model, "layer_of", None)
    if layer_decay != 1 and layer_of is None:
        raise ValueError(
            f"layer_decay={layer_decay}: {type(model).__name__} does not number its layers; use a transformer such as "
            "videomae_base, or fine_tune"
        )
    groups: dict[tuple[str, bool, bool, int | None], dict[str, Any]] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        kind = next(name for name, types in _KINDS if isinstance(module, types))
        for short, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{short}" if prefix else short
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            decayed = decay_all or not (isinstance(module, _NORMS) or "bias" in short)
            layer = kind
            if not fine_tune:
                layer = "all"
            elif name in classifier or name in fresh:
                layer = "classifier"
            slow = backbone_lr != 1 and name.startswith("backbone.")
            title = f"backbone, {layer}" if slow else layer
            number, share = None, 1.0
            if layer_decay != 1 and layer_of is not None:
                number = layer_of(name)
                title, share = f"{title}, layer {number}", layer_decay ** (model.num_layers - number)
            members = groups.setdefault(
                (layer, decayed, slow, number),
                {
                    "name": title if decayed else f"{title}, no decay",
                    "params": [],
                    "lr_mult": (FINE_TUNE[layer] if fine_tune else 1.0) * (backbone_lr if slow else 1.0) * share,
                    "weight_decay": weight_decay if decayed else 0.0,
                },
            )["params"]
            members.append(parameter)
    if not groups:
        raise ValueError("the model has no trainable parameter")
    return list(groups.values())


def make_optimizer(
    groups: Iterable[dict[str, Any]], options: OptimizerOptions, *, rate: float
) -> torch.optim.Optimizer:
    """Make the optimizer of the options over groups from `parameter_groups`.

    Raises:
        ImportError: apex's optimizers are asked for and not installed.
    """
    groups = list(groups)
    own: dict[str, Any] = {"lr": rate}
    if options.optimizer == "sgd":
        own |= {"momentum": options.momentum, "nesterov": options.nesterov and options.momentum > 0}
    else:
        own |= {"betas": (options.momentum, 0.999)}
    if options.implementation == "apex":
        factory = apex_optimizer("FusedSGD" if options.optimizer == "sgd" else "FusedAdam")
        if options.optimizer == "adam":
            own |= {"adam_w_mode": False}
        try:
            made: torch.optim.Optimizer = factory(groups, **own)
        except RuntimeError as error:  # installed without the extensions
            raise missing_optimizers(error) from error
        return made
    first = groups[0]["params"][0]
    # On a GPU the fused step also looks at the loss scale's overflow flag there, so the loop need not wait for it.
    if options.implementation == "fused" or (
        options.implementation == "auto" and first.is_cuda and not is_slice(first)  # which has no fused SGD
    ):
        own["fused"] = True
    factories = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return factories[options.optimizer](groups, **own)


def optimizer_of_run(
    model: nn.Module,
    given: torch.optim.Optimizer | OptimizerFactory | None,
    options: OptimizerOptions,
    *,
    precision: Precision,
    rate: float,
    fine_tune: bool = False,
    fresh: Collection[str] = (),
) -> torch.optim.Optimizer:
    """Prepare a model for its precision, and return the optimizer.

    Args:
        model: cast in place.
        given: optimizer over the model's parameters, or a function that makes one; None: that of the options.
        options: kind of the optimizer, and multipliers of the learning rate.
        precision: opt level; O2 gives the optimizer master copies.
        rate: learning rate of an optimizer of the options.
        fine_tune: see `parameter_groups`.
        fresh: see `parameter_groups`.

    Raises:
        ImportError: apex's optimizers are asked for and not installed.
        ValueError: an optimizer over parameters that the opt level changes, or a model without trainable parameters.
    """
    if isinstance(given, torch.optim.Optimizer):
        if precision.level in ("O2", "O3"):
            raise ValueError(
                f"opt_level={precision.level!r} changes the parameters: give the optimizer as a function that "
                "makes it from parameter groups"
            )
        precision.prepare(model, given.param_groups)
        return given
    groups = parameter_groups(
        model,
        weight_decay=options.weight_decay,
        decay_all=options.decay_all,
        fine_tune=fine_tune,
        fresh=fresh,
        backbone_lr=options.backbone_lr,
        layer_decay=options.layer_decay,
    )
    groups = precision.prepare(model, groups)
    for group in groups:
        values = sum(parameter.numel() for parameter in group["params"])
        logger.debug("group %s: %d values at %g of the rate", group["name"], values, group["lr_mult"])
    if given is None:
        return make_optimizer(groups, options, rate=rate)
    made = given([{"params": group["params"]} for group in groups])
    for group, own in zip(made.param_groups, groups, strict=False):
        group.setdefault("lr_mult", own["lr_mult"])
    return made


def set_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group to `rate` times its multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_mult", 1.0)
