"""How far two results agree, in the field's own measures."""

import numpy as np


def average_precision(labels, others, least=0.9):
    """Average precision at an IoU threshold above 0.5: matched / (matched + unmatched of either side)."""
    pairs, overlap = np.unique(labels.ravel().astype(np.int64) << 32 | others.ravel(), return_counts=True)
    first, second = pairs >> 32, pairs & 0xFFFFFFFF
    areas, other_areas = np.bincount(labels.ravel()), np.bincount(others.ravel())
    both = (first > 0) & (second > 0)
    union = areas[first[both]] + other_areas[second[both]] - overlap[both]
    matched = np.count_nonzero(overlap[both] / union >= least)
    found, expected = np.count_nonzero(areas[1:]), np.count_nonzero(other_areas[1:])
    return matched / max(1, found + expected - matched)


def agree_on_labels(labels, others):
    """Numbers of cells, average precision at IoU 0.9, pixels that are a cell's on one side only; as a sentence."""
    precision = average_precision(labels, others)
    pixels = np.count_nonzero((labels > 0) != (others > 0))
    counts = [np.count_nonzero(np.bincount(side.ravel())[1:]) for side in (labels, others)]
    return f"{counts[0]} and {counts[1]} cells, AP {precision:.4f} at IoU 0.9, {pixels} mask pixels differ"
