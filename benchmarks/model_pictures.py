"""Where do the bundled models fail? Their worst held-out images, as pictures for their cards.

For each model images of least average precision at an overlap of 0.5: the image, the true outlines, and those found:
green where an object matches a true one, magenta where none does. Writes runtime/cellrt/models/pictures/<model>.png.
"""

import numpy as np
from bundled_models import ACCURACY, DATA, FIGURES, held_out
from PIL import Image

import cellrt
from cellrt import metrics

SHOWN, SIDE = 4, 256  # images per model, pixels of each
TRUE, MATCHED, WRONG = (255, 200, 0), (0, 220, 90), (255, 0, 220)


def main():
    """Write a picture for each model."""
    if not DATA.is_dir():
        print("the data sets are not here (../shared/data): nothing to draw")
        return
    folder = FIGURES.parent / "pictures"
    folder.mkdir(exist_ok=True)
    for set_name, name, *_ in ACCURACY:
        model = cellrt.load(name, providers=["cpu"])
        rows = []
        for image, labels in held_out(set_name, name):
            found = model.segment(image).labels
            rows.append((metrics.matching(labels, found, threshold=0.5).accuracy, image, labels, found))
        rows.sort(key=lambda row: row[0])
        columns = [column(image, labels, found) for _, image, labels, found in rows[:SHOWN]]
        Image.fromarray(np.concatenate(columns, 1)).save(folder / f"{name}.png", optimize=True)
        print(f"wrote pictures/{name}.png: AP {', '.join(f'{row[0]:.2f}' for row in rows[:SHOWN])}")


def column(image, labels, found):
    """The image, the truth and what was found, one below the other; the part of it with the most errors."""
    pairs = metrics.matching(labels, found, threshold=0.5).matched_pairs
    wrong = (found > 0) & ~np.isin(found, pairs[:, 1]) | (labels > 0) & ~np.isin(labels, pairs[:, 0])
    starts = [(y, x) for y in steps(labels.shape[0]) for x in steps(labels.shape[1])]
    y, x = max(starts, key=lambda start: wrong[start[0] : start[0] + SIDE, start[1] : start[1] + SIDE].sum())
    part = (slice(y, y + SIDE), slice(x, x + SIDE))
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    low, high = np.percentile(image, (1, 99.8))
    shown = np.clip(255 * (image[(slice(None), *part)] - low) / max(high - low, 1), 0, 255).astype(np.uint8)
    picture[: shown.shape[1], : shown.shape[2]] = np.broadcast_to(np.moveaxis(shown, 0, -1), (*shown.shape[1:], 3))
    truth, result = picture.copy(), picture.copy()
    outline(truth, labels[part], labels[part] > 0, TRUE)
    matches = np.isin(found[part], pairs[:, 1])
    outline(result, found[part], matches, MATCHED)
    outline(result, found[part], ~matches, WRONG)
    frame = np.full((SIDE, 4, 3), 255, np.uint8)
    return np.concatenate([np.concatenate([each, frame], 1) for each in (picture, truth, result)], 0)


def steps(length):
    """Where windows of SIDE pixels may begin."""
    return range(0, max(1, length - SIDE + 1), SIDE // 4)


def outline(picture, labels, chosen, colour):
    """Paint the border pixels of the labels that are chosen."""
    padded = np.pad(labels, 1, mode="edge")
    inner = padded[1:-1, 1:-1]
    border = np.zeros(labels.shape, bool)
    for moved in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        border |= moved != inner
    picture[: labels.shape[0], : labels.shape[1]][border & chosen & (labels > 0)] = colour


if __name__ == "__main__":
    main()
