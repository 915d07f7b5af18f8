"""Networks: one architecture per file, the registry of their names, and loading of weights.

The names below are imported on first use, so importing `InputSpec` does not import torch. Every module of this package
whose name has no leading underscore defines an architecture; the registry imports these modules, and each module
registers its networks.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidseg.models._adapters import add_adapters, merge_adapters
    from vidseg.models._classifier import classifier_name, freeze_backbone
    from vidseg.models._flow import FlowOutput, window_flow
    from vidseg.models._input_spec import InputSpec
    from vidseg.models._prepare import prepare
    from vidseg.models._registry import (
        create_model,
        input_options,
        list_models,
        model_options,
        model_search_space,
        model_task,
        register_model,
    )
    from vidseg.models._registry import input_spec as model_input_spec
    from vidseg.models._search_space import ModelSearchSpace, Sharing
    from vidseg.models._weight_file import read_state
    from vidseg.models._weights import LoadReport, load_weights, named_for

_HOME = {
    "FlowOutput": ("_flow", "FlowOutput"),
    "InputSpec": ("_input_spec", "InputSpec"),
    "LoadReport": ("_weights", "LoadReport"),
    "ModelSearchSpace": ("_search_space", "ModelSearchSpace"),
    "Sharing": ("_search_space", "Sharing"),
    "add_adapters": ("_adapters", "add_adapters"),
    "classifier_name": ("_classifier", "classifier_name"),
    "create_model": ("_registry", "create_model"),
    "freeze_backbone": ("_classifier", "freeze_backbone"),
    "input_options": ("_registry", "input_options"),
    "list_models": ("_registry", "list_models"),
    "load_weights": ("_weights", "load_weights"),
    "merge_adapters": ("_adapters", "merge_adapters"),
    "model_input_spec": ("_registry", "input_spec"),
    "model_options": ("_registry", "model_options"),
    "model_search_space": ("_registry", "model_search_space"),
    "model_task": ("_registry", "model_task"),
    "named_for": ("_weights", "named_for"),
    "prepare": ("_prepare", "prepare"),
    "read_state": ("_weight_file", "read_state"),
    "register_model": ("_registry", "register_model"),
    "window_flow": ("_flow", "window_flow"),
}

__all__ = [
    "FlowOutput",
    "InputSpec",
    "LoadReport",
    "ModelSearchSpace",
    "Sharing",
    "add_adapters",
    "classifier_name",
    "create_model",
    "freeze_backbone",
    "input_options",
    "list_models",
    "load_weights",
    "merge_adapters",
    "model_input_spec",
    "model_options",
    "model_search_space",
    "model_task",
    "named_for",
    "prepare",
    "read_state",
    "register_model",
    "window_flow",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vidseg.models' has no attribute {name!r}")
    module, attribute = _HOME[name]
    home = importlib.import_module(f"vidseg.models.{module}")
    if name == "register_model":
        home.discover()  # registers the built-in names, so that a duplicate raises at once
    return getattr(home, attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
