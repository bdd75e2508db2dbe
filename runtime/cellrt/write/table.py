"""The table: a row per object, for spreadsheets and for other programs.

Coordinates are those of `Instances`: pixel and voxel centres at integers.
"""

from __future__ import annotations

import csv
import io
from typing import BinaryIO

from cellrt.write.result import Result

_OF_IMAGES = ["id", "class", "score", "y", "x", "area", "y_begin", "x_begin", "y_end", "x_end"]
_OF_VOLUMES = [
    *("id", "class", "score", "z", "y", "x", "volume"),
    *("z_begin", "y_begin", "x_begin", "z_end", "y_end", "x_end"),
]
TABLE_MARKS = tuple(",".join(columns).encode() for columns in (_OF_IMAGES, _OF_VOLUMES))


def write_table(result: Result, file: BinaryIO) -> None:
    """Write a row per object, also for an object of which no pixel is left (area 0)."""
    instances = result.instances
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_OF_VOLUMES if instances.is_volume else _OF_IMAGES)
    columns = (instances.scores.tolist(), instances.points.tolist(), result.areas.tolist(), result.boxes.tolist())
    for index, (score, point, area, box) in enumerate(zip(*columns, strict=True)):
        name = "" if instances.classes is None else result.class_names[int(instances.classes[index])]
        table.writerow([index + 1, name, f"{score:.6f}", *(f"{place:.2f}" for place in point), area, *box])
    file.write(text.getvalue().encode())
