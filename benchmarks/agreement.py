"""How far two results agree, in the field's own measures."""

import numpy as np


def matches(labels, others, least=0.9):
    """How many objects both sides have, at an IoU threshold above 0.5, and how many each side has."""
    pairs, overlap = np.unique(labels.ravel().astype(np.int64) << 32 | others.ravel(), return_counts=True)
    first, second = pairs >> 32, pairs & 0xFFFFFFFF
    areas, other_areas = np.bincount(labels.ravel()), np.bincount(others.ravel())
    both = (first > 0) & (second > 0)
    union = areas[first[both]] + other_areas[second[both]] - overlap[both]
    matched = np.count_nonzero(overlap[both] / union >= least)
    found, expected = np.count_nonzero(areas[1:]), np.count_nonzero(other_areas[1:])
    return matched, found, expected


def agree_on_images(pairs):
    """Numbers of cells, average precision at IoU 0.9, pixels that are a cell's on one side only; as a sentence.

    `pairs` of label images; average precision is matched / (matched + unmatched of either side), over all of them.
    """
    matched, found, expected = np.sum([matches(labels, others) for labels, others in pairs], axis=0).tolist()
    pixels = sum(np.count_nonzero((labels > 0) != (others > 0)) for labels, others in pairs)
    precision = matched / max(1, found + expected - matched)
    return f"{found} and {expected} cells, AP {precision:.4f} at IoU 0.9, {pixels} mask pixels differ"


def agree_on_labels(labels, others):
    """The same of one pair."""
    return agree_on_images([(labels, others)])
