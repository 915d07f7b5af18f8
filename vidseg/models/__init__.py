"""Networks: one architecture to a file, a registry of names, loading of published weights."""

from vidseg.models import (  # noqa: F401  (fills the registry)
    asformer,
    asrf,
    block_recurrent,
    c2f_tcn,
    diffact,
    etesvs,
    i3d,
    memory_tcn,
    mobilenet_tsm,
    mstcn,
    mtnet,
    srtg,
    svtas_rl,
    transeger,
    tsn,
)
from vidseg.models._classifier import classifier_name
from vidseg.models._prepare import prepare
from vidseg.models._registry import create_model, list_models, model_task, register_model
from vidseg.models._weights import LoadReport, load_weights, named_for, read_state

__all__ = [
    "LoadReport",
    "classifier_name",
    "create_model",
    "list_models",
    "load_weights",
    "model_task",
    "named_for",
    "prepare",
    "read_state",
    "register_model",
]
