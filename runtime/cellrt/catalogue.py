"""Opening models: a path, bytes or the name of a bundled model -> a model of the right kind; what ships here."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellrt.errors import ModelError
from cellrt.manifest import METADATA_KEY, FlowSpec, Manifest, Star3DSpec
from cellrt.memory import MemoryLimit, parse
from cellrt.session import Providers, Session

if TYPE_CHECKING:
    from cellrt.flow_model import FlowModel
    from cellrt.star_model import StarModel
    from cellrt.star_model_3d import StarModel3D

_FOLDER = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Figures:
    """What was measured of a bundled model, by cellrt's own benchmark; the model's card has more."""

    set: str  # of the images, which the model was not trained on
    images: int
    ap50: float  # average precision, tp / (tp + fp + fn) over all objects, at an intersection over union of 0.5
    mean_ap: float  # mean over 0.5, 0.55, ..., 0.9
    side: int  # pixels: of the square image whose time was taken
    seconds: float  # for `segment`, median
    threads: int
    full_width_seconds: float  # of a StarDist network of the usual width, in the same run


def bundled_models() -> dict[str, Path]:
    """Names and files of the models that ship with cellrt; a card, NAME.md, lies beside each file."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.onnx"))}


def bundled_figures() -> dict[str, Figures]:
    """What was measured of the models that ship with cellrt, by name."""
    path = _FOLDER / "models.json"
    if not path.is_file():
        return {}
    return {name: Figures(**figures) for name, figures in json.loads(path.read_text(encoding="utf-8")).items()}


def find(model: str | Path) -> Path:
    """The file of a model: a path as it is, and of a bundled model ("nuclei") that which ships with cellrt.

    Raises `ModelError` for a name that is neither a file's nor a bundled model's; a path that ends in ".onnx" is never
    taken for a name.
    """
    if isinstance(model, str) and not os.path.isfile(model):
        names = bundled_models()
        if model in names:
            return names[model]
        if not model.endswith(".onnx"):
            raise ModelError(
                f"expected a model file or one of the bundled models ({', '.join(names) or 'none'}), got {model!r}"
            )
    return Path(model)


def load(
    model: str | Path | bytes,
    *,
    providers: Providers | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
) -> StarModel | FlowModel | StarModel3D:
    """Open a model.

    Parameters
    ----------
    model : path, bytes or str
        An ONNX file written by ``cellrt export``, its content, or the name of a bundled model ("nuclei").
    providers : sequence of str or (str, mapping), optional
        Execution providers in order of preference, such as ``["cuda", "cpu"]``: "cpu", "cuda", "tensorrt", "openvino",
        "coreml", "directml", or ONNX Runtime's names, with its options as a pair, ``("cuda", {"device_id": 1})``, or
        in the text, "cuda:device_id=1". One that does not become active is an error. Default: CUDA where the installed
        ONNX Runtime has it and it works, else the CPU.
    threads : int, optional
        Threads of network and kernels together. Default: all cores that the process may use.
    memory : int or str, optional
        About how much the process may hold at the peak while it segments one image: bytes, or a text such as "500MB",
        "1.5GB" or "800MiB". The network then runs on tiles of a size that keeps to it, or `segment` says what the
        least is. Counted are Python with this package and ONNX Runtime, the model, the image and its results, and the
        network on a CPU; not whatever else the process holds. The cells are the same, apart from float rounding in
        the network and what ``tiles="large"`` of a flow model changes. Default: at most about 1.3 GB for a network of
        the usual width.

    Returns
    -------
    StarModel, StarModel3D or FlowModel
        Whichever the file's manifest asks for: StarDist's networks are star models, of images or of volumes, Cellpose's
        are flow models.

    Raises
    ------
    FileError
        If there is no such file.
    ModelError
        If the file is truncated, not an ONNX model, or without cellrt's manifest.
    ProviderError
        If ONNX Runtime is not installed or a provider that was asked for is not available.
    CellrtError
        If `memory` is no size.
    """
    if memory is not None:
        memory = parse(memory)
    if not isinstance(model, bytes):
        model = find(model)
    session = Session(model, providers=providers, threads=threads)
    text = session.metadata.get(METADATA_KEY)
    if text is None:
        source = f"{len(model)} bytes" if isinstance(model, bytes) else str(model)
        raise ModelError(
            f"expected an ONNX file with cellrt's manifest, got {source} without one; export it with: cellrt export"
        )
    manifest = Manifest.from_json(text)
    limit = None
    if memory is not None:
        limit = MemoryLimit.of(memory, manifest.memory, kind=manifest.head.kind, n_bytes=_size(model))
    # here: a program needs one of these, and none before it opens a model
    if isinstance(manifest.head, FlowSpec):
        from cellrt.flow_model import FlowModel

        return FlowModel(session, manifest, threads=threads or 0, memory=limit)
    if isinstance(manifest.head, Star3DSpec):
        from cellrt.star_model_3d import StarModel3D

        return StarModel3D(session, manifest, threads=threads or 0, memory=limit)
    from cellrt.star_model import StarModel

    return StarModel(session, manifest, threads=threads or 0, memory=limit)


def _size(model: Path | bytes) -> int:
    """Bytes of a model, with those of the weights that lie beside it."""
    if isinstance(model, bytes):
        return len(model)
    weights = model.with_name(f"{model.name}.data")
    return model.stat().st_size + (weights.stat().st_size if weights.is_file() else 0)
