"""A network that computes as any smaller network of its search space, with a part of its own weights.

"Slimmable Neural Networks", ICLR 2019, arXiv 1812.08928; "Once-for-All", ICLR 2020, arXiv 1908.09791. Each tensor of a
smaller network is the first part of a tensor of the largest network. A smaller network computes with the code of the
registered network, so its results equal those of that network with copies of the weights.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vidseg.models import create_model, model_search_space
from vidseg.models._search_space import Sharing

__all__ = ["SuperNetwork"]

_KEPT = 128
"""Smaller networks without values that are kept between calls."""


class SuperNetwork(nn.Module):
    """The largest network of a search space; parameters and state dict are those of this network.

    Attributes that this class does not have are those of the largest network.

    Args:
        model: the largest network.
        network: its registered name.
        options: the options that it was created with, `in_features` included.
        num_classes: K.

    Raises:
        ValueError: the network does not declare how smaller networks share its weights.
    """

    def __init__(self, model: nn.Module, network: str, options: Mapping[str, Any], *, num_classes: int) -> None:
        super().__init__()
        sharing = model_search_space(network).sharing
        if sharing is None:
            raise ValueError(f"{network} does not declare how smaller networks share its weights; train each alone")
        self._sharing: Sharing = sharing
        # Not a submodule: its parts are the parts of this module, so that they keep their names.
        self.__dict__["_largest"] = model
        self._modules, self._parameters, self._buffers = model._modules, model._parameters, model._buffers
        self._network, self._options, self._classes = network, dict(options), num_classes
        self._active: dict[str, Any] | None = None
        self._parts_of: dict[str, bool] = {}
        self._templates: OrderedDict[str, tuple[nn.Module, dict[str, str], dict[str, str]]] = OrderedDict()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_largest"], name)

    def train(self, mode: bool = True) -> SuperNetwork:
        """See `nn.Module.train`."""
        super().train(mode)
        self._largest.train(mode)
        return self

    def use(self, options: Mapping[str, Any] | None) -> None:
        """Compute as the network with these options from now on; None: as the largest one.

        Args:
            options: options that differ from those of the largest network.

        Raises:
            ValueError: the network is not a part of the largest one.
        """
        self._active = None if options is None else dict(options)
        if self._active is not None:
            self._template(self._active)

    def contains(self, options: Mapping[str, Any]) -> bool:
        """Return whether the network with these options exists and is a part of the largest one.

        Args:
            options: see `use`.
        """
        key = json.dumps(dict(options), sort_keys=True)
        if key not in self._parts_of:
            try:
                self._template(dict(options))
            except ValueError:
                self._parts_of[key] = False
            else:
                self._parts_of[key] = True
        return self._parts_of[key]

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the output of the network that `use` has chosen; arguments are those of the network."""
        if self._active is None:
            return self._largest(*inputs, **named)
        template, modules, tensors = self._template(self._active)
        own = dict(self.named_modules())
        for name, module in template.named_modules():
            module.training = own[modules[name]].training
        return functional_call(template, self._parts(template, tensors), inputs, named)

    def values(self, options: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return copies of the weights and statistics of a smaller network, by its own names.

        Args:
            options: see `use`.
        """
        template, _, tensors = self._template(dict(options))
        with torch.no_grad():
            parts = self._parts(template, tensors)
            return {name: parts[name].clone(memory_format=torch.contiguous_format) for name in template.state_dict()}

    def extract(self, options: Mapping[str, Any]) -> nn.Module:
        """Return a smaller network as an ordinary network with copies of the weights, on the same device.

        Args:
            options: see `use`.
        """
        model = self._create(options)
        values = self.values(options)
        model.load_state_dict(values)
        device = next(iter(values.values())).device
        return model.to(device).train(self.training)

    def _create(self, options: Mapping[str, Any]) -> nn.Module:
        return create_model(self._network, num_classes=self._classes, **{**self._options, **options})

    def _template(self, options: dict[str, Any]) -> tuple[nn.Module, dict[str, str], dict[str, str]]:
        """The smaller network without values, and the names of its modules and tensors in the largest network."""
        key = json.dumps(options, sort_keys=True)
        if key in self._templates:
            self._templates.move_to_end(key)
            return self._templates[key]
        with torch.device("meta"):
            template = self._create(options)
        complete = {**self._options, **options}

        def source(name: str) -> str:
            return self._sharing.source(name, complete, self._options)

        largest = {**dict(self._largest.named_parameters()), **dict(self._largest.named_buffers())}
        modules = dict(self.named_modules())
        tensors = {}
        for name, value in (*template.named_parameters(), *template.named_buffers()):
            tensors[name] = source(name)
            whole = largest.get(tensors[name])
            if whole is None or whole.dim() != value.dim() or any(map(int.__gt__, value.shape, whole.shape)):
                has = "has none" if whole is None else f"has {list(whole.shape)}"
                raise ValueError(
                    f"{self._network} with {options} is not a part of the largest network: {name} has the shape "
                    f"{list(value.shape)}, the largest network {has}"
                )
        names = {name: source(name) if name else "" for name, _ in template.named_modules()}
        missing = [name for name in names.values() if name not in modules]
        if missing:
            raise ValueError(f"{self._network} with {options} is not a part of the largest network: no {missing[0]}")
        self._templates[key] = template, names, tensors
        if len(self._templates) > _KEPT:
            self._templates.popitem(last=False)
        return self._templates[key]

    def _parts(self, template: nn.Module, tensors: Mapping[str, str]) -> dict[str, Tensor]:
        """The tensors of a smaller network: views of those of the largest one."""
        largest = {**dict(self._largest.named_parameters()), **dict(self._largest.named_buffers())}
        shapes = {name: value.shape for name, value in (*template.named_parameters(), *template.named_buffers())}
        return {name: self._part(name, largest[source], shapes[name]) for name, source in tensors.items()}

    def _part(self, name: str, whole: Tensor, shape: torch.Size) -> Tensor:
        if whole.shape == shape:
            return whole
        count = next((count for part, count in self._sharing.joined.items() if f".{part}." in f".{name}."), 1)
        if count > 1 and whole.dim() > 1:
            pieces = whole.unflatten(1, (count, -1))[: shape[0], :, : shape[1] // count]
            whole = pieces.flatten(1, 2)
        return whole[tuple(map(slice, shape))]
