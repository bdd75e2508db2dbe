"""A whole training run: sets of images -> a network, its thresholds, its ONNX file; resumable after a kill.

The folder of a run gets `run.json` (its options), `split.json` (what was held out), `last.pt` (to resume), `best.pt`
(the best network so far on held-out images) and, at the end, the model in its original's format, the ONNX file and
`metrics.json`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cellrt.errors import CellrtError, ModelError
from cellrt.session import Session
from cellrt_export.summary import ExportSummary
from cellrt_export.training.data import Sample, read_set, split
from cellrt_export.training.evaluate import IOUS, Score
from cellrt_export.training.loop import Plan, Task, save, train
from cellrt_export.training.sampling import Sampler

log = logging.getLogger(__name__)

# Of maps in torch and ONNX Runtime, relative to max(1, magnitude), by how weights are stored. Rounded to float16 they
# moved single rays by 3 % on noise, 1 % on images, and no object: the limit is for graphs that compute something else.
_LARGEST_DIFFERENCE = {"fp32": 1e-3, "fp16": 0.1}


class Kind(Protocol):
    """What a run needs to know of a kind of network: `star.StarKind` or `flow.FlowKind`."""

    @property
    def n_channels(self) -> int: ...
    def normalise(self, pixels: NDArray[Any]) -> NDArray[np.float32]: ...
    def drawn(self, n: int, seed: int) -> list[Sample]: ...
    def task(self, sampler: Sampler, samples: Sequence[Sample]) -> Task[Any]: ...
    def quick(self, net: Any, samples: Sequence[Sample]) -> list[Score]: ...
    def scores(self, net: Any, samples: Sequence[Sample]) -> list[Score]: ...
    def choose(self, means: Sequence[float], scores: Sequence[Score]) -> int: ...
    def thresholds(self) -> dict[str, float]: ...
    def maps(self, net: Any, batch: NDArray[np.float32]) -> NDArray[np.float32]: ...
    def publish(
        self,
        net: Any,
        folder: Path,
        name: str,
        thresholds: Mapping[str, float],
        *,
        licence: str | None,
        description: str,
        precision: str,
    ) -> ExportSummary: ...


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images of one kind, with masks."""

    images: Path
    """Folder."""
    masks: Path
    """Folder; may be the same."""
    share: float = 1.0
    """Patches are drawn from sets in proportion to this."""
    validation: float = 0.15
    """Share of the images that are held out, by clusters."""


@dataclass(frozen=True)
class Outcome:
    """What a run gave."""

    model: Path
    """The ONNX file."""
    thresholds: Mapping[str, float]
    scores: Mapping[str, Score]
    """Of the held-out images of each set."""
    summary: ExportSummary


def run(
    kind: Kind,
    sets: Sequence[ImageSet],
    plan: Plan,
    output: Path,
    *,
    name: str | None = None,
    licence: str | None = None,
    description: str = "",
    precision: str = "fp32",
    n_drawn: int = 0,
    drawn_share: float = 0.2,
    split_seed: int = 0,
    quick: int = 18,
) -> Outcome:
    """Train a network and write it to a folder.

    Parameters
    ----------
    kind : StarKind or FlowKind
    sets : sequence of ImageSet
    plan : Plan
    output : path
        Folder of the run; if an interrupted run of the same options is there, it goes on.
    name : str, optional
        What the model is called. Default: the folder's name.
    licence, description : str, optional
        Licence of the weights; what the model finds, in a few words.
    precision : "fp32" or "fp16"
        How the ONNX file stores weights.
    n_drawn, drawn_share : int, float
        Synthetic images to add as a further set, and their share.
    split_seed : int
        Decides which clusters are held out.
    quick : int
        Held-out images per set by which checkpoints are compared; all of them choose thresholds in the end.

    Raises
    ------
    CellrtError
        If images or masks cannot be used, the folder holds a run of other options, or no image is left to train on.
    ModelError
        If the exported file does not compute what the network does.
    """
    if precision not in _LARGEST_DIFFERENCE:
        raise CellrtError(
            f"expected precision to be one of {', '.join(_LARGEST_DIFFERENCE)}, got {precision!r}; choose one; "
            "cellrt export makes int8 of the trained network"
        )
    name = name or output.resolve().name
    output.mkdir(parents=True, exist_ok=True)
    _require_same_options(output / "run.json", kind, sets, plan, n_drawn, drawn_share, split_seed)
    divided = []
    for s in sets:
        samples = read_set(s.images, s.masks, n_channels=kind.n_channels, normalise=kind.normalise)
        divided.append(split(samples, fraction=s.validation, seed=split_seed))
    training = [d[0] for d in divided]
    validation: dict[str, list[Sample]] = {}
    for d in divided:
        if d[1]:
            validation.setdefault(_name(d), []).extend(d[1])
    if not all(training):
        raise CellrtError("expected images to train on in every set, got all of one held out; lower --validation")
    names = {"training": _names(training), "validation": _names(validation.values())}
    _write(output / "split.json", names)

    shares = [s.share for s in sets]
    drawn = kind.drawn(n_drawn, seed=0) if n_drawn else []
    if drawn:
        shares = [share * (1 - drawn_share) / sum(shares) for share in shares] + [drawn_share]
    task = kind.task(Sampler([*training, drawn] if drawn else training, shares), training[0])
    few = {key: samples[:: max(1, len(samples) // quick)] for key, samples in validation.items()}
    best_file = output / "best.pt"

    def validate(net: torch.nn.Module, step: int) -> float:
        if not few:
            save(best_file, {"net": net.state_dict(), "step": step})
            return float(step)
        scores = {key: max(kind.quick(net, samples), key=lambda s: s.mean) for key, samples in few.items()}
        mean = float(np.mean([s.mean for s in scores.values()]))
        best = torch.load(best_file, weights_only=True)["mean"] if best_file.exists() else -1.0
        found = ", ".join(f"{key} {s.precision[0]:.3f} at 0.5, mean {s.mean:.3f}" for key, s in scores.items())
        log.info("step %d: %s%s", step, found, " (best)" if mean > best else "")
        if mean > best:
            save(best_file, {"net": net.state_dict(), "step": step, "mean": mean})
        return mean

    net, _ = train(task, plan, checkpoint=output / "last.pt", at_checkpoint=validate)
    best = torch.load(best_file, weights_only=True)
    net.load_state_dict(best["net"])
    net = net.to("cpu").eval()

    scores, thresholds = _best_thresholds(kind, net, validation)
    summary = kind.publish(net, output, name, thresholds, licence=licence, description=description, precision=precision)
    difference = _difference(kind, net, summary.output, _LARGEST_DIFFERENCE[precision])
    metrics = {"step": best["step"], "thresholds": dict(thresholds), "ious": IOUS, "torch_against_onnx": difference}
    counted = {key: asdict(s) | {"mean": s.mean, "images": len(validation[key])} for key, s in scores.items()}
    _write(output / "metrics.json", metrics | {"validation": counted})
    return Outcome(summary.output, thresholds, scores, summary)


def _best_thresholds(
    kind: Kind, net: torch.nn.Module, validation: Mapping[str, Sequence[Sample]]
) -> tuple[dict[str, Score], Mapping[str, float]]:
    """The scores of each set at the thresholds that are best for all of them, and those thresholds."""
    if not validation:
        return {}, kind.thresholds()
    grids = {key: kind.scores(net, samples) for key, samples in validation.items()}
    means = [float(np.mean([s.mean for s in column])) for column in zip(*grids.values(), strict=True)]
    chosen = kind.choose(means, next(iter(grids.values())))
    scores = {key: grid[chosen] for key, grid in grids.items()}
    return scores, next(iter(scores.values())).thresholds


def _difference(kind: Kind, net: torch.nn.Module, model: Path, most: float) -> float:
    """Largest difference of the maps in torch and in ONNX Runtime, relative to max(1, magnitude); refused if large."""
    batch = np.random.default_rng(0).random((1, kind.n_channels, 128, 160), np.float32)
    ours = kind.maps(net, batch)
    theirs = Session(str(model), providers=["cpu"]).run(batch)["maps"]
    difference = float((np.abs(ours - theirs) / np.maximum(1, np.abs(ours))).max())
    if not difference <= most:
        raise ModelError(
            f"expected {model} to compute what was trained, got maps that differ by {difference:.2g}; report it"
        )
    return difference


def _require_same_options(path: Path, kind: Kind, sets: Sequence[ImageSet], plan: Plan, *others: float) -> None:
    """Write what the run was asked for, or raise if it goes on and was asked for something else."""
    options = json.loads(json.dumps({"kind": repr(kind), "sets": repr(sets), "plan": asdict(plan), "others": others}))
    if path.exists() and (before := json.loads(path.read_text(encoding="utf-8"))) != options:
        changed = ", ".join(key for key in options if before.get(key) != options[key])
        raise CellrtError(
            f"expected the options of the run in {path.parent}, got other {changed}; give the same ones to go on, or "
            "another folder to begin anew"
        )
    _write(path, options)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """JSON, under another name first."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1), encoding="utf-8")
    part.replace(path)


def _name(divided: tuple[list[Sample], list[Sample]]) -> str:
    """Of a set: what precedes the slash in its samples' names."""
    return (divided[0] + divided[1])[0].name.split("/")[0]


def _names(sets: Any) -> list[str]:
    return [sample.name for samples in sets for sample in samples]
