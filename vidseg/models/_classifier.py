"""The classifier of a network: its input are the extracted features, and fine-tuning trains it at a higher rate."""

from torch import nn

__all__ = ["classifier_name", "freeze_backbone", "head_names"]


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


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that are trained with a frozen backbone.

    Args:
        model: any network, not wrapped.

    Returns:
        The attribute `head_modules` of the network, else everything beside its module `backbone`, else its classifier;
        nothing for a network that does not end with a linear classifier.
    """
    declared: tuple[str, ...] = getattr(model, "head_modules", ())
    if declared:
        return declared
    children = dict(model.named_children())
    if "backbone" in children:
        return tuple(
            name
            for name, child in children.items()
            if name != "backbone" and next(child.parameters(), None) is not None
        )
    name = classifier_name(model)
    own = [name for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None]
    last = name is not None and "." not in name and own[-1] == name
    return (name,) if name is not None and (last or hasattr(model, "classifier_name")) else ()


def freeze_backbone(model: nn.Module) -> tuple[str, ...]:
    """Let only the head of a network be trained, see `head_names`; no gradient of other parameters is computed.

    Args:
        model: any network, not wrapped.

    Returns:
        Names of the modules of the head.

    Raises:
        ValueError: the network does not end with a classifier.
    """
    names = head_names(model)
    if not names:
        raise ValueError(
            f"freeze_backbone: {type(model).__name__} has no classifier behind a backbone, so nothing is left to train"
        )
    prefixes = tuple(f"{name}." for name in names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(prefixes))
    return names
