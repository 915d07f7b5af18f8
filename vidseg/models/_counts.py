"""Parameters and multiply-adds of the registered networks at their own input, for tables.

Counting all networks takes minutes, so the counts are stored: `python benchmarks/model_counts.py --write` writes this
file. A network that is not in it is counted when it is asked for; tests count some of the stored ones again.
"""

from vidseg.models._profile import count_cost, input_shape
from vidseg.models._registry import input_spec, model_task

__all__ = ["COUNTS", "cost_of", "count_network"]

_CLASSES = 400

# network: (parameters, multiply-adds of one sample), 400 classes
COUNTS: dict[str, tuple[int, int]] = {}


def cost_of(name: str, *, num_classes: int = _CLASSES) -> tuple[int, int]:
    """Return parameters and multiply-adds of the network called `name`, from the table if it has them.

    Args:
        name: registered name.
        num_classes: K; others than 400 are counted.

    Raises:
        ValueError: no network is registered under this name.
    """
    if num_classes == _CLASSES and name in COUNTS:
        return COUNTS[name]
    return count_network(name, num_classes=num_classes)


def count_network(name: str, *, num_classes: int = _CLASSES) -> tuple[int, int]:
    """Count parameters and multiply-adds of one sample at the input spec of the network.

    Networks for features are counted on 2048 features and 1000 columns (detection: 128), streaming networks on 32
    frames of 224x224.

    Args:
        name: registered name.
        num_classes: K.
    """
    spec, task = input_spec(name), model_task(name)
    shape = input_shape(name)
    if spec.modality != "features" and task != "streaming":
        shape = (1, shape[1], spec.frames, spec.size, spec.size)
    options = {"in_features": 2048} if task in ("segmentation", "detection") else {}
    cost = count_cost(name, shape, num_classes=num_classes, **options)
    return cost.parameters, cost.macs
