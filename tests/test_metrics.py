"""Scores of classification against their definitions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidseg.metrics import confusion_matrix, top_k_hits


@given(st.integers(1, 9), st.integers(1, 7), st.integers(1, 8), st.integers(0, 10_000))
def test_hits_are_ranks_below_k(batch, classes, k, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=generator)
    labels = torch.randint(classes, (batch,), generator=generator)
    ranks = [
        sorted(range(classes), key=lambda c: -row[c]).index(int(label))
        for row, label in zip(logits, labels, strict=True)
    ]
    assert top_k_hits(logits, labels, k).tolist() == [rank < k for rank in ranks]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=30))
def test_confusions_are_counts(pairs):
    labels = torch.tensor([true for true, _ in pairs], dtype=torch.int64)
    predictions = torch.tensor([predicted for _, predicted in pairs], dtype=torch.int64)
    counts = confusion_matrix(labels, predictions, 5)
    assert counts.tolist() == [[pairs.count((true, predicted)) for predicted in range(5)] for true in range(5)]


def test_wrong_use():
    with pytest.raises(ValueError, match=r"logits \(2, 3\), labels \(3,\) and k=1; expected"):
        top_k_hits(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match=r"0\.\.2"):
        confusion_matrix(torch.tensor([0]), torch.tensor([3]), 3)
    with pytest.raises(ValueError, match=r"labels \(1,\) and predictions \(2,\) differ in shape"):
        confusion_matrix(torch.tensor([0]), torch.tensor([0, 1]), 3)
