"""The classifier of a network: its input are the extracted features, and fine-tuning trains it at a higher rate."""

from torch import nn

__all__ = ["classifier_name"]


def classifier_name(model: nn.Module) -> str | None:
    """Return the name of the classifier: the attribute `classifier_name` of the network, else its last linear layer.

    Args:
        model: any network, not wrapped.

    Returns:
        Path of the layer in the network; None for a network without the attribute and without a linear layer.
    """
    declared: str | None = getattr(model, "classifier_name", None)
    if declared is not None:
        return declared
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return layers[-1] if layers else None
