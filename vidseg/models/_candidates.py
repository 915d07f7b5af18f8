"""Selection of the best (segment, class) pairs of a detection network's output, before suppression of duplicates.

Shapes: B videos, K classes, M candidates, N proposals.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vidseg.models._detection import DetectionOutput

__all__ = ["Candidates", "top_candidates"]


class Candidates(NamedTuple):
    """Candidates of one video."""

    segments: Tensor
    """(M, 2), start and end in columns of the features."""
    scores: Tensor
    """(M,), from 0 to 1."""
    labels: Tensor
    """int64 (M,), class numbers; 0 if the network is class-agnostic."""


def top_candidates(
    output: DetectionOutput,
    *,
    count: int = 2000,
    minimum_score: float = 0.001,
    minimum_length: float = 0.05,
    groups: Tensor | None = None,
) -> list[Candidates]:
    """Return the candidates with the highest scores of each video, as ActionFormer and TriDet select them.

    Args:
        output: output of a detection network.
        count: largest number of candidates of a group, before short ones are removed; published: 2000 for THUMOS-14 and
            ActivityNet, 5000 for EPIC-Kitchens.
        minimum_score: candidates have higher scores, at least 0.
        minimum_length: candidates are longer, in columns of the features.
        groups: (N,), number of the group of each proposal; the proposals of a group are consecutive. The published code
            selects at each level of the pyramid: groups=output.predictions["points"][:, 1]. None: one group.

    Returns:
        The candidates of each video, ordered by group, then by falling score; equal scores keep the order of proposals
        and classes.

    Raises:
        ValueError: count < 1, minimum_score < 0, or `groups` does not have one entry for each proposal.
    """
    _, proposals, classes = output.scores.shape
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    if minimum_score < 0:
        raise ValueError(f"minimum_score={minimum_score} must be at least 0")
    if groups is not None and groups.shape != (proposals,):
        raise ValueError(f"groups must be ({proposals},), one entry for each proposal, but is {tuple(groups.shape)}")
    sizes = [proposals] if groups is None else torch.unique_consecutive(groups, return_counts=True)[1].tolist()
    scores, pairs, first = [], [], 0
    for part in output.scores.split(sizes, dim=1):
        ordered, places = part.flatten(1).sort(dim=1, descending=True, stable=True)
        scores.append(ordered[:, :count])
        pairs.append(places[:, :count] + first * classes)
        first += part.shape[1]
    score, pair = torch.cat(scores, dim=1), torch.cat(pairs, dim=1)
    if output.segments.dim() == 4:  # one segment for each class
        places, segments = pair, output.segments.flatten(1, 2)
    else:
        places, segments = pair // classes, output.segments
    segments = segments.gather(1, places[..., None].expand(-1, -1, 2))
    kept = (score > minimum_score) & (segments[..., 1] - segments[..., 0] > minimum_length)
    labels = pair % classes
    return [Candidates(segments[row][own], score[row][own], labels[row][own]) for row, own in enumerate(kept)]
