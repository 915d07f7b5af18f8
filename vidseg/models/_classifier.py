"""Which layer of a network is its classifier: what fine-tuning trains faster, and whose input are the features."""

from torch import nn

__all__ = ["classifier_name"]


def classifier_name(model: nn.Module) -> str | None:
    """Name of the classifier: what the network says (`classifier_name`), else its last linear layer.

    Returns:
        None for a network that says nothing and has no linear layer.
    """
    said: str | None = getattr(model, "classifier_name", None)
    if said is not None:
        return said
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return layers[-1] if layers else None
