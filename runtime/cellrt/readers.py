"""Files in: image files -> arrays, command-line arguments -> image files and the names of their outputs.

The content decides what a file is, not its name. What passes the door is whole: a truncated, empty or foreign file is a
`FileError`, never an array with pixels missing. Nothing here knows of models; `image.as_image` makes sense of the axes.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import CellrtError, FileError

EXTENSIONS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".npy")  # what a folder is searched for
_SIGNATURES = {
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",  # BigTIFF
    b"MM\0+": "tiff",
    b"\x89PNG\r\n\x1a\n": "picture",
    b"\xff\xd8\xff": "picture",  # JPEG
    b"BM": "picture",  # BMP
    b"\x93NUMPY": "npy",
}
_PACKAGES = {".tif": "tifffile", ".tiff": "tifffile", ".png": "PIL", ".jpg": "PIL", ".jpeg": "PIL", ".bmp": "PIL"}
_AXES = set("TZCSYX")  # the letters that image.as_image knows
_CODECS = "run: pip install imagecodecs, or save it without compression"
_log = logging.getLogger(__name__)


def read(path: str | Path, axes: str | None = None) -> tuple[NDArray[Any], str | None]:
    """Read an image file: TIFF (also OME, ImageJ, BigTIFF), PNG, JPEG, BMP or NumPy's .npy.

    Parameters
    ----------
    path : str or Path
        The file.
    axes : str, optional
        What the caller knows the axes to be, a letter each. Axes of length 1 that are not among them are dropped, and
        those that are stay. Default: as the file tells, without axes of length 1.

    Returns
    -------
    array
        The pixels as stored. Uncompressed TIFF and .npy are mapped into memory, read-only, in the file's byte order.
        Colour tables: a TIFF keeps its indices (ImageJ stores lookup tables for display that way), a picture becomes
        RGB. Alpha is dropped; one bit per pixel becomes uint8 0 and 255 in a picture.
    axes : str or None
        Those that were named; else a letter per axis, such as "YX", "YXC", "CYX", "TZCYX"; None where the file does not
        tell.

    Raises
    ------
    FileError
        If the path does not exist or is a folder, or the file is empty, truncated, of an unknown format, compressed in
        a way that cannot be read, holds several images, or is one of several files that hold an image together.
    CellrtError
        If the package for this format is not installed.
    """
    path = Path(path)
    if path.is_dir():
        raise FileError(f"expected an image file, got the folder {path}; name the files in it")
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise FileError(f"expected an image file, got {path}: {_reason(error)}; check the path") from error
    if not head:
        raise FileError(f"expected an image, got an empty file: {path}; write or copy it again")
    kind = next((kind for signature, kind in _SIGNATURES.items() if head.startswith(signature)), None)
    if kind is None:
        raise FileError(
            f"expected a TIFF, PNG, JPEG, BMP or .npy file, got {path}, which starts with {head[:8]!r}; "
            "export it as TIFF from the program that wrote it"
        )
    try:
        if kind == "tiff":
            return _read_tiff(path, axes)
        array, found = _read_picture(path) if kind == "picture" else _read_npy(path)
        return array, axes or found
    except (CellrtError, MemoryError):
        raise
    except ImportError as error:  # tifffile looks for some codecs only when it meets them
        raise FileError(f"expected a compression that can be read, got {path}: {error}; {_CODECS}") from error
    except Exception as error:  # decoders raise anything on damaged files: struct.error, zlib.error, IndexError, ...
        raise FileError(
            f"expected a whole image, got {path}: {_reason(error)}; the file is truncated or damaged, "
            "write or copy it again"
        ) from error


def find_images(
    arguments: Iterable[str | Path], is_output: Callable[[Path], bool], *, with_masks: bool = False
) -> list[Path]:
    """Image files that files, folders and patterns stand for, in the order of the arguments.

    A file is taken as it is. A folder stands for the files in it (not in its subfolders) that end in one of
    `EXTENSIONS`, sorted by name, without hidden ones, without those that cellrt wrote, which `is_output` knows, and
    without .npy files of Python objects; those that Cellpose saves masks in are taken if `with_masks`. A pattern
    (``plate/**/*.tif``) stands for the files of this kind that match. A file that occurs twice is taken once.

    Raises
    ------
    FileError
        If an argument stands for no file.
    """
    found: dict[str, Path] = {}
    for argument in arguments:
        path = Path(argument)
        if os.path.isdir(argument):  # not of the path, which makes a folder of an empty argument
            images = _only_images(_files_of(path), is_output, with_masks)
            advice = f"in {path}; name a subfolder, or a pattern such as 'folder/**/*.tif'"
        elif os.path.exists(argument):  # before patterns: a file may be called image[1].tif
            images, advice = [path], ""
        elif glob.has_magic(str(argument)):
            matches = map(Path, sorted(glob.glob(str(argument), recursive=True)))
            images = _only_images((match for match in matches if match.is_file()), is_output, with_masks)
            advice = f"for the pattern {str(argument)!r}; check it, and end it with /* to mean the files of folders"
        else:
            raise FileError(f"expected an image file, a folder or a pattern, got {argument}: no such file; check it")
        if not images:
            raise FileError(f"expected images ({' '.join(EXTENSIONS)}), got none {advice}")
        for image in images:
            found.setdefault(os.path.abspath(image), image)
    if not found:
        raise FileError("expected at least one image, got none; name a file, a folder or a pattern")
    return list(found.values())


def unique_stems(paths: Iterable[Path]) -> list[Path]:
    """For each image the name of its outputs without their endings, all different: no image overwrites another's.

    That is the file's name without its extension: ``cell``. Images that would share a name are told apart by their
    extension (``cell_tif``, ``cell_png``), else by their folder below the one common to all (``well_A/cell``). Upper
    and lower case count as the same, as Windows and macOS have it.

    Raises
    ------
    FileError
        If two images cannot be told apart.
    """
    files = [Path(os.path.abspath(path)) for path in paths]
    common = Path(os.path.commonpath([file.parent for file in files])) if files else Path()
    plain = [stem_of(file) for file in files]
    typed = [f"{stem}_{file.suffix[1:].lower()}" for stem, file in zip(plain, files, strict=True)]
    folders = [file.parent.relative_to(common) for file in files]
    ladder = [
        [Path(stem) for stem in plain],
        [Path(stem) for stem in typed],
        [folder / stem for folder, stem in zip(folders, plain, strict=True)],
        [folder / stem for folder, stem in zip(folders, typed, strict=True)],
    ]
    step = [0] * len(files)
    while True:
        stems = [ladder[at][i] for i, at in enumerate(step)]
        count = Counter(str(stem).casefold() for stem in stems)
        clashing = [i for i, stem in enumerate(stems) if count[str(stem).casefold()] > 1]
        if not clashing:
            return stems
        for i in clashing:
            step[i] += 1
            if step[i] == len(ladder):
                raise FileError(f"expected images with different names, got {files[i]} twice; segment them one by one")


def require(name: str) -> ModuleType:
    """Import an optional package, or raise a `CellrtError` that says how to install it."""
    try:
        return __import__(name)
    except ImportError as error:
        package, extra = {"PIL": ("pillow", "io"), "zarr": ("zarr", "screen")}.get(name, (name, "io"))
        raise CellrtError(
            f'expected {package} to be installed for this file format, got {error}; run: pip install "cellrt[{extra}]"'
        ) from error


def require_for(paths: Iterable[Path]) -> None:
    """Raise a `CellrtError` unless the packages are there that files of these names need: before hours of work."""
    for package in {_PACKAGES.get(path.suffix.lower()) for path in paths} - {None}:
        require(str(package))


def _reason(error: BaseException) -> str:
    """The error in a few words, without the path that the message names already."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{error}" or type(error).__name__


def stem_of(path: Path) -> str:
    """Name without extension; of cell.ome.tif without both."""
    return path.stem[:-4] if path.stem.lower().endswith(".ome") else path.stem


def _files_of(folder: Path) -> list[Path]:
    """The files of a folder that are not hidden, sorted."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise FileError(f"expected a folder, got {folder}: {_reason(error)}; check its permissions") from error


def _only_images(paths: Iterable[Path], is_output: Callable[[Path], bool], with_masks: bool) -> list[Path]:
    """Those whose name ends as an image's, without cellrt's own outputs and masks that Cellpose's program saved."""
    named = (path for path in paths if path.name.lower().endswith(EXTENSIONS))
    wanted = (path for path in named if (with_masks and path.name.endswith("_seg.npy")) or not _holds_objects(path))
    return [path for path in wanted if not is_output(path)]


def _holds_objects(path: Path) -> bool:
    """Whether a .npy file holds Python objects, such as Cellpose's `_seg.npy` beside its image; no image does."""
    if path.suffix.lower() != ".npy":
        return False
    with contextlib.suppress(OSError), path.open("rb") as file:
        return b"'descr': '|O'" in file.read(128)
    return False


def _read_npy(path: Path) -> tuple[NDArray[Any], str | None]:
    """NumPy's own format: it has no axes."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "Python objects" not in str(error):
            raise
        raise FileError(
            f"expected an array of numbers, got Python objects in {path}; masks of Cellpose (_seg.npy) are read by "
            "cellrt.seg_file.read_seg, other objects become numbers before they are saved: array.astype('float32')"
        ) from error
    return array, "YX" if array.ndim == 2 else None


def _read_picture(path: Path) -> tuple[NDArray[Any], str | None]:
    """PNG, JPEG or BMP."""
    require("PIL")
    from PIL import Image

    with path.open("rb") as file:
        head = file.read(26)
        # Pillow reads colour PNGs of 16 bits as 8 bits. Of a 12-bit camera's range that leaves 16 levels: refuse.
        if head.startswith(b"\x89PNG") and head[24:26] in (b"\x10\x02", b"\x10\x04", b"\x10\x06"):
            raise FileError(
                f"expected a PNG with 8 bits, or 16 bits in one channel, got 16 bits in several: {path}; save as TIFF"
            )
        file.seek(0)
        try:
            with Image.open(file) as image:
                if image.mode in ("1", "L", "LA"):
                    return np.array(image.convert("L")), "YX"
                if image.mode.startswith("I"):
                    array = np.array(image)
                    return (array.astype(np.uint16) if array.dtype == np.int32 else array), "YX"
                return np.array(image.convert("RGB")), "YXC"
        except Image.DecompressionBombError as error:
            raise FileError(f"expected a smaller picture, got {path}: {error}; save it as TIFF") from error


def _read_tiff(path: Path, named: str | None) -> tuple[NDArray[Any], str | None]:
    """TIFF: the largest series, mapped where its pixels lie in one block."""
    tifffile = require("tifffile")
    with path.open("rb") as file:
        _check_directories(file, path)
    with tifffile.TiffFile(path) as tif:
        series = max(tif.series, key=lambda one: one.size, default=None)
        if series is None or not {"Y", "X"} <= set(series.axes) or series.size == 0:
            raise FileError(f"expected a TIFF with an image, got none in {path}; write or copy it again")
        others = [one.shape for one in tif.series if one is not series]
        # A slide comes with a thumbnail and a picture of its label: the large one is meant. Equals are ambiguous.
        if any(np.prod(shape) == series.size for shape in others):
            raise FileError(
                f"expected one image in a file, got {len(tif.series)} in {path}; save each in a file of its own"
            )
        if others:
            _log.info("%s: read the largest of %d images, %s", path, len(tif.series), series.shape)
        # tifffile fills in zeros for the files of a set that it does not find, and of a whole set every file is all
        if any(page is None or page.parent is not tif for page in series.pages):
            raise FileError(
                f"expected an image in one file, got {path}, which is part of a set: multi-file OME-TIFF is not "
                "supported; save the image as one file"
            )
        array, axes = _pixels(tif, series, path), series.get_axes(squeeze=False)
        if "S" in axes and series.keyframe.photometric == tifffile.PHOTOMETRIC.RGB:
            array = array[(slice(None),) * axes.index("S") + (slice(3),)]  # samples after RGB are alpha
    for axis in reversed(range(array.ndim)):
        surplus = named is None or (axes[axis] not in named and array.ndim > len(named))
        if array.shape[axis] == 1 and axes[axis] not in "YX" and surplus:
            array, axes = array.squeeze(axis), axes[:axis] + axes[axis + 1 :]
    if named is not None:
        return array, named
    if "C" not in axes:
        axes = axes.replace("S", "C")
    return array, axes if set(axes) <= _AXES else None


def _pixels(tif: Any, series: Any, path: Path) -> NDArray[Any]:
    """The pixels of a series, with all its axes."""
    size, shape = path.stat().st_size, series.get_shape(squeeze=False)
    if series.dataoffset is not None:
        dtype = np.dtype(series.dtype).newbyteorder(tif.byteorder)
        if series.dataoffset + series.size * dtype.itemsize > size:
            raise FileError(f"expected a whole image, got {path}, which is truncated; write or copy it again")
        return np.memmap(path, dtype, "r", series.dataoffset, shape)
    from tifffile import COMPRESSION, PREDICTOR, TIFF

    page = series.keyframe
    if page.compression not in TIFF.DECOMPRESSORS:
        name = _name(COMPRESSION, page.compression)
        raise FileError(f"expected a TIFF without compression, or with deflate, got {name} in {path}; {_CODECS}")
    if page.predictor not in TIFF.UNPREDICTORS:
        name = _name(PREDICTOR, page.predictor)
        raise FileError(f"expected a TIFF without predictor, or a horizontal one, got {name} in {path}; {_CODECS}")
    for page in series.pages:
        for begin, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            if begin + count > size:
                raise FileError(f"expected a whole image, got {path}, which is truncated; write or copy it again")
    array: NDArray[Any] = series.asarray()
    return array.reshape(shape)


def _name(names: Any, code: int) -> str:
    """The name that a number stands for in one of tifffile's lists."""
    return names(code).name if code in set(names) else f"number {code}"


def _check_directories(file: BinaryIO, path: Path) -> None:
    """Raise unless the chain of image directories is whole, and with it every value that a directory points to.

    tifffile leaves out what it cannot find with no more than a log message: of a truncated file with two channels it
    would read one, or both without knowing that they are channels.
    """
    size = os.fstat(file.fileno()).st_size
    order = "<" if file.read(2) == b"II" else ">"
    big = file.read(2) in (b"+\0", b"\0+")
    word, half = ("u8", "u8") if big else ("u4", "u2")
    tag = np.dtype([("code", order + "u2"), ("type", order + "u2"), ("count", order + word), ("value", order + word)])
    sizes = np.zeros(1 << 16, np.uint64)
    sizes[1:19] = (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)  # bytes of a value of each type

    def take(position: int, dtype: np.dtype[Any], count: int = 1) -> NDArray[Any]:
        """`count` values at a position of the file."""
        if position + count * dtype.itemsize > size:
            raise FileError(f"expected a whole TIFF, got {path}, which is truncated; write or copy it again")
        file.seek(position)
        return np.frombuffer(file.read(count * dtype.itemsize), dtype)

    link, head = np.dtype(order + word), np.dtype(order + half)
    directory = int(take(8 if big else 4, link)[0])
    seen: set[int] = set()
    while directory not in seen and (directory > 0 or not seen):
        seen.add(directory)
        n_tags = int(take(directory, head)[0])
        tags = take(directory + head.itemsize, tag, n_tags)
        lengths = sizes[tags["type"]] * np.minimum(tags["count"], size + 1)
        elsewhere = lengths > link.itemsize  # a short value is in the tag itself
        if np.any(elsewhere & (np.minimum(tags["value"], size) + lengths > size)):
            raise FileError(f"expected a whole TIFF, got {path}, which is truncated; write or copy it again")
        directory = int(take(directory + head.itemsize + n_tags * tag.itemsize, link)[0])
    if directory > 0:
        raise FileError(f"expected a chain of images, got a loop in {path}; write or copy it again")
