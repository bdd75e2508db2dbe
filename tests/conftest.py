"""Where the recorded outputs of the originals are, and the models exported from them.

tests/golden is part of the project. The larger set of recordings lies beside a developer's checkout and is used when it
is there; without it those tests are skipped and say so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Times on a shared machine say nothing about a single example.
settings.register_profile("cellrt", deadline=None)
settings.load_profile("cellrt")

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "stardist"
GOLDEN_3D = ROOT / "tests" / "golden" / "stardist_3d"
GOLDEN_CELLPOSE = ROOT / "tests" / "golden" / "cellpose"
GOLDEN_METRICS = ROOT / "tests" / "golden" / "metrics"
REFERENCE = ROOT.parent / "shared" / "reference" / "stardist"
REFERENCE_CELLPOSE = ROOT.parent / "shared" / "reference" / "cellpose"
DATA = ROOT.parent / "shared" / "data"


def reference_file(*parts: str) -> Path:
    """A file of the large set of recordings, or skip the test."""
    path = REFERENCE.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"the recorded outputs of StarDist are not here ({'/'.join(parts)})")
    return path


def cellpose_reference_file(*parts: str) -> Path:
    """A file of the large set of Cellpose's recordings, or skip the test."""
    path = REFERENCE_CELLPOSE.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"the recorded outputs of Cellpose are not here ({'/'.join(parts)})")
    return path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Export a StarDist folder once per test run; gives the ONNX file."""
    stardist = pytest.importorskip("cellrt_export.stardist", reason="the exporter's requirements are not installed")
    folder = tmp_path_factory.mktemp("models")
    files: dict[Path, Path] = {}

    def export(source: Path) -> Path:
        if source not in files:
            output = folder / f"{len(files)}_{source.name}.onnx"
            stardist.export(source, output)
            files[source] = output
        return files[source]

    return export


@pytest.fixture(scope="session")
def exported_cellpose(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Export a Cellpose file, with the size model that lies beside it, once per test run; gives the ONNX file."""
    cellpose = pytest.importorskip("cellrt_export.cellpose", reason="the exporter's requirements are not installed")
    pytest.importorskip("torch", reason="the weights of Cellpose are read by torch, which is not installed")
    folder = tmp_path_factory.mktemp("cellpose_models")
    files: dict[Path, Path] = {}

    def export(source: Path) -> Path:
        if source not in files:
            output = folder / f"{len(files)}_{source.name}.onnx"
            cellpose.export(source, output, size_model_file=source.with_name(f"{source.name}_size.npy"))
            files[source] = output
        return files[source]

    return export
