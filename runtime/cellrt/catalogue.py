"""Opening models: a path, bytes or the name of a bundled model -> a `StarModel` or a `FlowModel`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cellrt.errors import ModelError
from cellrt.flow_model import FlowModel
from cellrt.manifest import METADATA_KEY, FlowSpec, Manifest
from cellrt.session import Session
from cellrt.star_model import StarModel


def bundled_models() -> dict[str, Path]:
    """Names and files of the models that ship with cellrt."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "models").glob("*.onnx"))}


def load(
    model: str | Path | bytes, *, providers: Sequence[str] | None = None, threads: int | None = None
) -> StarModel | FlowModel:
    """Open a model.

    Parameters
    ----------
    model : path, bytes or str
        An ONNX file written by ``cellrt export``, its content, or the name of a bundled model ("nuclei").
    providers : sequence of str, optional
        Execution providers in order of preference, such as ``["cuda", "cpu"]``; one that does not become active is an
        error. Default: CUDA where the installed ONNX Runtime has it and it works, else the CPU.
    threads : int, optional
        Threads of network and kernels together. Default: all cores that the process may use.

    Returns
    -------
    StarModel or FlowModel
        Whichever the file's manifest asks for: StarDist's networks are star models, Cellpose's are flow models.

    Raises
    ------
    FileError
        If there is no such file.
    ModelError
        If the file is truncated, not an ONNX model, or without cellrt's manifest.
    ProviderError
        If ONNX Runtime is not installed or a provider that was asked for is not available.
    """
    if isinstance(model, str) and not os.path.isfile(model):
        names = bundled_models()
        if model in names:
            model = names[model]
        elif not model.endswith(".onnx"):
            raise ModelError(
                f"expected a model file or one of the bundled models ({', '.join(names) or 'none'}), got {model!r}"
            )
    session = Session(model, providers=providers, threads=threads)
    text = session.metadata.get(METADATA_KEY)
    if text is None:
        source = f"{len(model)} bytes" if isinstance(model, bytes) else str(model)
        raise ModelError(
            f"expected an ONNX file with cellrt's manifest, got {source} without one; export it with: cellrt export"
        )
    manifest = Manifest.from_json(text)
    kind = FlowModel if isinstance(manifest.head, FlowSpec) else StarModel
    return kind(session, manifest, threads=threads or 0)
