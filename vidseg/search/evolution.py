"""Evolution over architectures: NSGA-II with integer genes, deterministic for a seed.

"A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE Transactions on Evolutionary Computation 6(2),
2002.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from vidseg.clips.draws import uniform

__all__ = ["dominated_area", "evolve", "pareto_front"]

Genome = tuple[int, ...]
Scores = tuple[float, ...]
"""One number for each objective; higher is better."""
_ATTEMPTS = 500
"""Drawn architectures in a row that are all known or refused before the evolution ends."""


def pareto_front(scores: Sequence[Scores]) -> list[int]:
    """Return the places of the entries that no other entry dominates, ascending; of equal entries the first.

    Args:
        scores: entries; higher is better. An entry dominates another one if it is at least as good in every number and
            better in one.
    """
    front = []
    for place, own in enumerate(scores):
        dominated = any(
            all(a >= b for a, b in zip(other, own, strict=True)) and (other != own or number < place)
            for number, other in enumerate(scores)
            if number != place
        )
        if not dominated:
            front.append(place)
    return front


def dominated_area(points: Sequence[tuple[float, float]], *, worst: tuple[float, float]) -> float:
    """Return the area between the points and the worst point that the points dominate; higher is better.

    Args:
        points: two scores each; points below `worst` in one of them count as none.
        worst: point from which the area is measured.
    """
    area, height = 0.0, worst[1]
    for first, second in sorted(points, reverse=True):
        if first > worst[0] and second > height:
            area += (first - worst[0]) * (second - height)
            height = second
    return area


def evolve(
    sizes: Sequence[int],
    evaluate: Callable[[Genome], Scores | None],
    *,
    trials: int,
    population: int,
    seed: int,
    first: Sequence[Genome] = (),
) -> dict[Genome, Scores]:
    """Search for architectures with good scores.

    Args:
        sizes: number of values of each gene.
        evaluate: returns the scores of an architecture, None if it is refused; called once for each architecture.
        trials: number of architectures that are evaluated; refused ones do not count.
        population: number of parents of a generation, and of architectures that are drawn at random in the beginning.
        seed: of all draws.
        first: architectures that are evaluated first.

    Returns:
        The evaluated architectures in their order. Fewer than `trials` if the space has no more.
    """
    found: dict[Genome, Scores] = {}
    known: set[Genome] = set()

    def visit(genome: Genome) -> bool:
        if genome in known:
            return False
        known.add(genome)
        scores = evaluate(genome)
        if scores is not None:
            found[genome] = scores
        return scores is not None

    for genome in first:
        if len(found) < trials:
            visit(genome)
    generation = 0
    while len(found) < trials:
        parents = _selected(found, population) if len(found) >= min(population, trials) else []
        born = 0
        for attempt in range(_ATTEMPTS):
            draws = uniform(seed, generation, [attempt], purpose="evolution", count=4 + 3 * len(sizes))[0].tolist()
            born += visit(_child(parents, draws, sizes) if parents else _random(draws, sizes))
            if len(found) == trials or (parents and born == population) or (not parents and len(found) == population):
                break
        else:
            if born == 0 and parents:  # every architecture near the parents is known: draw anywhere
                parents = []
                fresh = [
                    _random(row, sizes)
                    for row in uniform(
                        seed, generation, range(_ATTEMPTS), purpose="evolution again", count=len(sizes)
                    ).tolist()
                ]
                born = sum(visit(genome) for genome in fresh if len(found) < trials)
            if born == 0:
                break
        generation += 1
    return found


def _random(draws: Sequence[float], sizes: Sequence[int]) -> Genome:
    return tuple(int(draw * size) for draw, size in zip(draws, sizes, strict=False))


def _child(parents: Sequence[Genome], draws: Sequence[float], sizes: Sequence[int]) -> Genome:
    """Cross two parents, the better of two each, and change about one gene."""
    count = len(parents)
    mother = parents[min(int(draws[0] * count), int(draws[1] * count))]
    father = parents[min(int(draws[2] * count), int(draws[3] * count))]
    genes = []
    for place, size in enumerate(sizes):
        take, change, where = draws[4 + 3 * place : 7 + 3 * place]
        gene = mother[place] if take < 0.5 else father[place]
        if size > 1 and change < 1 / len(sizes):
            gene = _changed(gene, size, where)
        genes.append(gene)
    return tuple(genes)


def _changed(gene: int, size: int, where: float) -> int:
    """Return another value of a gene: a neighbor in half of the draws, as lists of values are mostly in order."""
    if where < 0.25:
        return gene - 1 if gene > 0 else gene + 1
    if where < 0.5:
        return gene + 1 if gene < size - 1 else gene - 1
    return (gene + 1 + int((2 * where - 1) * (size - 1))) % size


def _selected(found: Mapping[Genome, Scores], count: int) -> list[Genome]:
    """Return the best architectures, best first: by front, and within a front by distance to their neighbors."""
    left, chosen = list(found), list[Genome]()
    while left and len(chosen) < count:
        front = [left[place] for place in pareto_front([found[genome] for genome in left])]
        distances = _distances([found[genome] for genome in front])
        order = sorted(range(len(front)), key=lambda place: (-distances[place], place))
        chosen += [front[place] for place in order]
        left = [genome for genome in left if genome not in front]
    return chosen[:count]


def _distances(scores: Sequence[Scores]) -> list[float]:
    """Return the crowding distance of each entry of a front (section III-B of the paper)."""
    total = [0.0] * len(scores)
    for column in range(len(scores[0])):
        order = sorted(range(len(scores)), key=lambda place: (scores[place][column], place))
        low, high = scores[order[0]][column], scores[order[-1]][column]
        total[order[0]] = total[order[-1]] = math.inf
        for before, place, after in zip(order, order[1:], order[2:], strict=False):
            if high > low:
                total[place] += (scores[after][column] - scores[before][column]) / (high - low)
    return total
