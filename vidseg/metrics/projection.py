"""Projections of feature vectors to the plane: principal components and t-SNE.

"Visualizing Data using t-SNE", van der Maaten and Hinton, JMLR 2008.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["principal_components", "tsne"]


def principal_components(features: Tensor, count: int = 2) -> tuple[Tensor, Tensor]:
    """Project features on the directions of largest variance.

    The sign of each component is chosen so that its largest weight is positive: the result does not depend on the
    linear-algebra library.

    Args:
        features: (N, D), N of at least 2.
        count: number of components, at most min(N, D).

    Returns:
        float64 (N, count) coordinates, and float64 (count,) shares of the total variance; the shares are 0 if all
        features are equal.

    Raises:
        ValueError: the features have another shape, or `count` is out of its range.
    """
    if features.ndim != 2 or len(features) < 2 or not 1 <= count <= min(features.shape):
        raise ValueError(f"features {tuple(features.shape)} and count={count}; expected (N, D) and 1..min(N, D)")
    centered = features.double() - features.double().mean(dim=0)
    _, values, directions = torch.linalg.svd(centered, full_matrices=False)
    directions = directions[:count]
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    directions = directions * torch.where(largest < 0, -1.0, 1.0)
    variances = values**2
    return centered @ directions.T, variances[:count] / variances.sum().clamp(min=1e-300)


def tsne(features: Tensor, *, perplexity: float = 30.0, seed: int = 0) -> Tensor:
    """Project features so that near neighbors stay near, with scikit-learn's t-SNE from a PCA start.

    Args:
        features: (N, D), N of at least 4.
        perplexity: about the number of neighbors of a point; reduced to (N - 1) / 3 for few points.
        seed: seed of the optimization.

    Returns:
        float64 (N, 2).

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: the features have another shape, or there are fewer than 4.
    """
    if features.ndim != 2 or len(features) < 4:
        raise ValueError(f"features {tuple(features.shape)}; t-SNE needs (N, D) with N of at least 4")
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError(
            f"t-SNE needs scikit-learn; install it with `pip install vidseg[analysis]`, or use PCA ({error})"
        ) from error
    chosen = min(perplexity, (len(features) - 1) / 3)
    found = TSNE(perplexity=chosen, init="pca", random_state=seed).fit_transform(features.double().numpy())
    return torch.from_numpy(found).double()
