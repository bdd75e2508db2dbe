"""`cellrt evaluate`: files of predicted and of true labels -> how well they agree, as a table, JSON and CSV.

Files belong together by their names without extension and without what programs add to the name of an image (`_labels`,
`_cp_masks`, `_masks`, `_seg`). Knows files and measures; `cli` prints.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cellrt
from cellrt import metrics, readers, seg_file, write
from cellrt.errors import CellrtError, FileError

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(9))  # intersections over union
_DETECTED = 0.5  # intersection over union at which F1 and panoptic quality are told
_ENDINGS = ("_labels", "_cp_masks", "_masks", "_seg")


@dataclass(frozen=True)
class Row:
    """What was found of one image, or of all: the scores at `_DETECTED`, then at every threshold."""

    name: str
    files: dict[str, str]  # "truth" and "predicted"; none for all images together
    scores: tuple[metrics.Scores, ...]
    shared: int  # numerator and denominator of the aggregated Jaccard index
    covered: int

    def measures(self) -> dict[str, Any]:
        """The figures by name; NaN where there is no object in truth or prediction."""
        detected, *rest = self.scores
        undefined = math.nan if detected.n_true + detected.n_pred == 0 else 0.0
        precisions = [scores.accuracy + undefined for scores in rest]
        return {
            "n_true": detected.n_true,
            "n_pred": detected.n_pred,
            **{f"AP@{scores.threshold:g}": ap for scores, ap in zip(rest, precisions, strict=True)},
            "mean AP": sum(precisions) / len(precisions),
            f"F1@{_DETECTED:g}": detected.f1 + undefined,
            f"PQ@{_DETECTED:g}": detected.panoptic_quality + undefined,
            "AJI": self.shared / self.covered if self.covered else math.nan,
        }


@dataclass(frozen=True)
class Evaluation:
    """All images that could be compared, by name, and what kept others from it."""

    rows: tuple[Row, ...]
    problems: tuple[str, ...]

    def pooled(self) -> Row:
        """The figures of the objects of all images together."""
        scores = [
            metrics.pool_scores(one, by_image=False) for one in zip(*(row.scores for row in self.rows), strict=True)
        ]
        shared, covered = (sum(getattr(row, name) for row in self.rows) for name in ("shared", "covered"))
        return Row("pooled", {}, tuple(scores), shared, covered)


def evaluate(predicted: Sequence[Path], truth: Sequence[Path], thresholds: Sequence[float]) -> Evaluation:
    """Compare the files of two lists that `find` gave, name by name."""
    readers.require_for([*predicted, *truth])
    by_name = {"predicted": _by_name(predicted), "true": _by_name(truth)}
    rows, problems = [], []
    for name in sorted({*by_name["predicted"], *by_name["true"]}):
        try:
            files = _partners({kind: paths.get(name, []) for kind, paths in by_name.items()})
            rows.append(_compare(name, files["true"], files["predicted"], thresholds))
        except (CellrtError, OSError) as error:
            problems.append(f"{name}: {error}")
    return Evaluation(tuple(rows), tuple(problems))


def find(arguments: Iterable[str]) -> list[Path]:
    """The label images that files, folders and patterns stand for, without cellrt's pictures of outlines."""
    others = ("_labels.tif", seg_file.SUFFIX)
    return readers.find_images(
        arguments, lambda path: write.is_output(path) and not path.name.endswith(others), with_masks=True
    )


def table(evaluation: Evaluation) -> list[str]:
    """Lines for people: a row for each image, and one for all."""
    rows = [*evaluation.rows, evaluation.pooled()]
    width = max(len(row.name) for row in rows)
    headings = [name.replace("n_true", "true").replace("n_pred", "found") for name in rows[0].measures()]
    lines = [f"{'':<{width}} {''.join(f' {heading:>7}' for heading in headings)}"]
    for row in rows:
        values = "".join(f" {_for_people(value):>7}" for value in row.measures().values())
        lines.append(f"{row.name:<{width}} {values}")
    return lines


def save(evaluation: Evaluation, json_file: Path | None, csv_file: Path | None) -> None:
    """Write the report in the formats that have a file; all of them or none."""
    formats = {_as_json: json_file, _as_csv: csv_file}
    wanted = {form: path for form, path in formats.items() if path is not None}
    with write.replacing(list(wanted.values())) as files:
        for form, file in zip(wanted, files, strict=True):
            file.write(form(evaluation).encode())


def check_outputs(outputs: Sequence[Path], inputs: Iterable[Path]) -> None:
    """Raise if a report would take the place of a label image, or of another report."""
    for output in outputs:
        clash = [path for path in inputs if output.exists() and path.samefile(output)]
        if clash or [path.resolve() for path in outputs].count(output.resolve()) > 1:
            raise FileError(f"expected files of their own for the reports, got {output}; choose other names")


def _as_json(evaluation: Evaluation) -> str:
    """The report for programs, with the counts at every threshold."""

    def entry(row: Row) -> dict[str, Any]:
        counts = {name: [getattr(scores, name) for scores in row.scores[1:]] for name in ("tp", "fp", "fn")}
        measures = {name: None if math.isnan(value) else value for name, value in row.measures().items()}
        return {"name": row.name, **row.files, **measures, **counts}

    content = {
        "program": f"cellrt {cellrt.__version__}",
        "thresholds": [scores.threshold for scores in evaluation.rows[0].scores[1:]],
        "images": [entry(row) for row in evaluation.rows],
        "pooled": entry(evaluation.pooled()),
        "problems": evaluation.problems,
    }
    return json.dumps(content, indent=2) + "\n"


def _as_csv(evaluation: Evaluation) -> str:
    """The report for spreadsheets: a row for each image."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["name", "truth", "predicted", *evaluation.rows[0].measures()])
    for row in evaluation.rows:
        values = ["" if math.isnan(value) else round(value, 6) for value in row.measures().values()]
        rows.writerow([row.name, *row.files.values(), *values])
    return text.getvalue()


def _for_people(value: float) -> str:
    """A count, or a rate with three digits."""
    if isinstance(value, int):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.3f}"


def _by_name(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Files by the name of the image that they are of; an image that lies beside its labels is left out."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(_name(path), []).append(path)
    return {
        name: [path for path in same if _name(path) != readers.stem_of(path)] or same for name, same in found.items()
    }


def _name(path: Path) -> str:
    """The file's name without extension and ending."""
    stem = readers.stem_of(path)
    ending = next((ending for ending in _ENDINGS if stem.endswith(ending)), "")
    return stem.removesuffix(ending)


def _partners(found: dict[str, list[Path]]) -> dict[str, Path]:
    """The one file of each kind ("predicted", "true") out of those of one name, or an error that says what is wrong."""
    for kind, paths in found.items():
        if not paths:
            others = ", ".join(str(path) for others in found.values() for path in others)
            raise FileError(
                f"expected {kind} labels for {others}, got no file of that name; rename it, or leave that out"
            )
        if len(paths) > 1:
            raise FileError(
                f"expected one file of {kind} labels, got {', '.join(map(str, paths))}; name one of them, or a pattern"
            )
    return {kind: path for kind, (path,) in found.items()}


def _compare(name: str, truth: Path, predicted: Path, thresholds: Sequence[float]) -> Row:
    """The row of one image."""
    true_labels, labels = _read(truth), _read(predicted)
    scores = metrics.matching(true_labels, labels, threshold=(_DETECTED, *thresholds))
    shared, covered = metrics.aggregated_jaccard_pixels(true_labels, labels)
    return Row(name, {"truth": str(truth), "predicted": str(predicted)}, scores, shared, covered)


def _read(path: Path) -> NDArray[Any]:
    """A label image of any format."""
    if path.name.endswith(seg_file.SUFFIX):
        return seg_file.read_seg(path).labels
    labels, axes = readers.read(path)
    if axes is not None and "C" in axes:
        raise FileError(
            f"expected a label image with one number per pixel, got {axes} {np.shape(labels)} in {path}; save it in "
            "grey, as TIFF or PNG"
        )
    return labels
