"""Files in: what is read equals what was written, and damaged or foreign files are errors that say what to do."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellrt.errors import CellrtError, FileError
from cellrt.image import as_image
from cellrt.readers import find_images, read, require_for, unique_stems
from cellrt.write import is_output

tifffile = pytest.importorskip("tifffile")
Image = pytest.importorskip("PIL.Image")

VARIETY = Path(__file__).parents[2] / "shared" / "data" / "format_variety" / "images"
PLANE = np.arange(35 * 47, dtype=np.uint16).reshape(35, 47) * 7


def saved(path: Path, array: np.ndarray, **options: object) -> Path:
    """A TIFF."""
    tifffile.imwrite(path, array, **options)
    return path


# ---- TIFF


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "uint32", "float16", "float32", "float64"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"compression": "zlib"}, {"tile": (16, 32)}])
def test_tiff_gives_back_its_pixels(tmp_path: Path, dtype: str, byteorder: str, options: dict[str, object]) -> None:
    array, axes = read(saved(tmp_path / "a.tif", PLANE.astype(dtype), byteorder=byteorder, **options))
    np.testing.assert_array_equal(array, PLANE.astype(dtype))
    assert array.dtype.newbyteorder("=") == dtype
    assert axes == "YX"


@pytest.mark.parametrize(
    ("shape", "options", "axes"),
    [
        ((35, 47, 3), {"photometric": "rgb"}, "YXC"),
        ((3, 35, 47), {"photometric": "rgb", "planarconfig": "separate"}, "CYX"),
        ((2, 35, 47), {"imagej": True, "metadata": {"axes": "CYX"}}, "CYX"),
        ((5, 35, 47), {"imagej": True, "metadata": {"axes": "ZYX"}}, "ZYX"),
        ((4, 5, 2, 35, 47), {"imagej": True, "metadata": {"axes": "TZCYX"}}, "TZCYX"),
        ((4, 35, 47), {"ome": True, "metadata": {"axes": "TYX"}}, "TYX"),
        ((2, 35, 47), {"ome": True, "metadata": {"axes": "CYX"}, "compression": "zlib"}, "CYX"),
        ((1, 1, 35, 47), {"ome": True, "metadata": {"axes": "TCYX"}}, "YX"),
        ((5, 35, 47), {"photometric": "minisblack"}, None),  # pages of what?
    ],
)
def test_tiff_tells_its_axes(
    tmp_path: Path, shape: tuple[int, ...], options: dict[str, object], axes: str | None
) -> None:
    wanted = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    array, got = read(saved(tmp_path / "a.tif", wanted, **options))
    assert got == axes
    np.testing.assert_array_equal(array, wanted.squeeze())


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (1, 1, 3)])
@pytest.mark.parametrize("options", [{}, {"imagej": True}, {"ome": True}, {"compression": "zlib"}])
def test_tiff_of_one_pixel_or_row(tmp_path: Path, shape: tuple[int, ...], options: dict[str, object]) -> None:
    wanted = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    rgb = {"photometric": "rgb"} if len(shape) == 3 else {}
    array, axes = read(saved(tmp_path / "a.tif", wanted, **options, **rgb))
    assert axes == "YXC"[: len(shape)]
    np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"imagej": True}, ["TZCYX", "ZYX", "CYX", "YX", "YXS"]),
        ({"ome": True, "metadata": {"axes": "TZCYX"}}, ["TZCYX", "TCYX", "ZYX", "YX"]),
        ({"metadata": {"axes": "TZCYX"}}, ["TZCYX", "TYX", "YX"]),
        ({}, ["TZCYX", "YX"]),  # what the file calls Q can be named
    ],
)
def test_named_axes_of_length_1_stay(
    tmp_path: Path, options: dict[str, Any], named: list[str], compression: str | None
) -> None:
    path = saved(tmp_path / "a.tif", PLANE.reshape(1, 1, 1, *PLANE.shape), compression=compression, **options)
    for axes in named:
        array, got = read(path, axes)
        assert got == axes
        assert array.shape == tuple({"Y": 35, "X": 47}.get(letter, 1) for letter in axes)
        np.testing.assert_array_equal(as_image(array, axes, n_channels=1)[0], PLANE)


def _set_of_files(folder: Path) -> tuple[Path, Path]:
    """Two OME-TIFFs, each with one channel of an image and the description of both."""
    paths = folder / "c0.ome.tif", folder / "c1.ome.tif"
    ids = ["urn:uuid:00000000-0000-0000-0000-00000000000" + str(c) for c in range(2)]
    data = "".join(
        f'<TiffData FirstC="{c}" FirstT="0" FirstZ="0" IFD="0" PlaneCount="1">'
        f'<UUID FileName="{path.name}">{ids[c]}</UUID></TiffData>'
        for c, path in enumerate(paths)
    )
    for c, path in enumerate(paths):
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{ids[c]}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="47" SizeY="35" '
            'SizeC="2" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0"/><Channel ID="Channel:0:1"/>'
            f"{data}</Pixels></Image></OME>"
        )
        saved(path, PLANE + c, description=xml, metadata=None)
    return paths


def test_an_image_in_several_files_is_refused(tmp_path: Path) -> None:
    first, second = _set_of_files(tmp_path)
    for path in (first, second):
        with pytest.raises(FileError, match="multi-file OME-TIFF is not supported"):
            read(path)
    second.unlink()  # tifffile would fill in zeros
    with pytest.raises(FileError, match="multi-file OME-TIFF is not supported"):
        read(first)


def test_uncompressed_tiff_is_mapped_read_only(tmp_path: Path) -> None:
    array, _ = read(saved(tmp_path / "a.tif", PLANE))
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable


def test_tiff_drops_alpha_and_keeps_palette_indices(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 255, (35, 47, 4), dtype=np.uint8)
    array, axes = read(saved(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"]))
    assert axes == "YXC"
    np.testing.assert_array_equal(array, rgba[..., :3])
    indices = PLANE.astype(np.uint8)
    table = np.random.default_rng(0).integers(0, 65535, (3, 256), dtype=np.uint16)
    array, axes = read(saved(tmp_path / "b.tif", indices, photometric="palette", colormap=table))
    assert axes == "YX"
    np.testing.assert_array_equal(array, indices)


def test_of_several_images_in_a_tiff_the_largest_is_read_unless_there_are_two(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "slide.tif") as writer:
        writer.write(PLANE[:9, :9], metadata=None)
        writer.write(PLANE, metadata=None)
    np.testing.assert_array_equal(read(tmp_path / "slide.tif")[0], PLANE)
    with tifffile.TiffWriter(tmp_path / "two.tif") as writer:
        writer.write(PLANE.astype(np.uint8), metadata=None)
        writer.write(PLANE, metadata=None)
    with pytest.raises(FileError, match=r"expected one image in a file, got 2 .* save each"):
        read(tmp_path / "two.tif")


def test_a_compression_without_decoder_names_the_package(tmp_path: Path) -> None:
    if "imagecodecs" in sys.modules or _installed("imagecodecs"):
        pytest.skip("imagecodecs is installed here")
    Image.fromarray(PLANE.astype(np.uint8)).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    with pytest.raises(FileError, match=r"got LZW in .*lzw\.tif; run: pip install imagecodecs"):
        read(tmp_path / "lzw.tif")


def _installed(name: str) -> bool:
    """Whether a package can be imported."""
    try:
        __import__(name)
    except ImportError:
        return False
    return True


# ---- pictures and arrays


@pytest.mark.parametrize(
    ("mode", "name", "dtype", "axes"),
    [
        ("L", "a.png", "uint8", "YX"),
        ("L", "a.bmp", "uint8", "YX"),
        ("LA", "a.png", "uint8", "YX"),
        ("1", "a.png", "uint8", "YX"),
        ("I;16", "a.png", "uint16", "YX"),
        ("RGB", "a.png", "uint8", "YXC"),
        ("RGB", "a.bmp", "uint8", "YXC"),
        ("RGBA", "a.png", "uint8", "YXC"),
        ("P", "a.png", "uint8", "YXC"),
    ],
)
def test_pictures(tmp_path: Path, mode: str, name: str, dtype: str, axes: str) -> None:
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(PLANE)
    elif mode in ("RGB", "P"):
        image = Image.fromarray(rng.integers(0, 255, (35, 47, 3), dtype=np.uint8)).convert(mode)
    elif mode == "RGBA":
        image = Image.fromarray(rng.integers(0, 255, (35, 47, 4), dtype=np.uint8))
    else:
        image = Image.fromarray(rng.integers(0, 255, (35, 47), dtype=np.uint8)).convert(mode)
    image.save(tmp_path / name)
    array, got = read(tmp_path / name)
    assert (array.dtype, got) == (dtype, axes)
    # alpha is dropped, not blended: compare with the image without it
    wanted = {"RGBA": lambda: np.array(image)[..., :3], "LA": lambda: np.array(image)[..., 0]}
    plain = wanted.get(mode, lambda: np.array(image.convert({"P": "RGB", "1": "L"}.get(mode, mode))))()
    np.testing.assert_array_equal(array, plain)


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 48, dtype=np.uint8)[None].repeat(32, 0)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    array, axes = read(tmp_path / "a.jpg")
    assert (axes, array.dtype) == ("YX", np.uint8)
    assert np.abs(array.astype(int) - smooth).max() < 8


def test_colour_png_of_16_bits_is_refused_rather_than_cut_to_8(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 4, 2, 16, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\1\2" * 12) * 2)
    path = tmp_path / "deep.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    with pytest.raises(FileError, match=r"got 16 bits in several: .* save as TIFF"):
        read(path)


def test_npy_is_mapped_and_has_no_axes_beyond_two(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PLANE)
    array, axes = read(tmp_path / "a.npy")
    assert isinstance(array, np.memmap)
    assert axes == "YX"
    np.testing.assert_array_equal(array, PLANE)
    np.save(tmp_path / "b.npy", np.zeros((3, 4, 5)))
    assert read(tmp_path / "b.npy")[1] is None
    np.save(tmp_path / "c.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(FileError, match=r"expected an array of numbers, got Python objects in .*read_seg.*astype"):
        read(tmp_path / "c.npy")


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    Image.fromarray(PLANE.astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.tif")
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], PLANE.astype(np.uint8))


# ---- bad files


def test_bad_paths_and_foreign_files(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path, "got the folder"),
        (tmp_path / "none.tif", "none.tif: No such file or directory; check the path"),
        (tmp_path / "none.tif" / "a.tif", "check the path"),
    ]:
        with pytest.raises(FileError, match=message):
            read(path)
    for content, message in [
        (b"", "got an empty file"),
        (b"hello world", "expected a TIFF, PNG, JPEG, BMP or .npy file, got .* starts with b'hello wo'"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "export it as TIFF"),
        (b"II*\0", "truncated"),
        (b"II*\0\x08\0\0\0", "truncated"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "with an image, got none"),  # a directory without entries
        (b"MM\0*\0\0\0\x08\0\0\0\0\0\x08", "got a loop"),  # a directory whose next is itself
        (b"BM" + bytes(60), "truncated or damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), "truncated or damaged"),
        (b"\xff\xd8\xff" + bytes(60), "truncated or damaged"),
        (b"\x93NUMPY\1\0" + bytes(60), "truncated or damaged"),
    ]:
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(FileError, match=message):
            read(tmp_path / "bad")


def _files() -> dict[str, tuple[bytes, np.ndarray]]:
    """Small files of every kind with their pixels."""
    files: dict[str, tuple[bytes, np.ndarray]] = {}
    stack = np.random.default_rng(0).integers(0, 999, (3, 12, 17), dtype=np.uint16)
    for name, array, options in [
        ("plain.tif", stack[0], {}),
        ("imagej.tif", stack, {"imagej": True, "metadata": {"axes": "CYX"}}),
        ("ome.tif", stack, {"ome": True, "metadata": {"axes": "CYX"}}),
        ("deflate.tif", stack, {"metadata": {"axes": "CYX"}, "compression": "zlib", "photometric": "minisblack"}),
        ("pages.tif", stack, {"metadata": None, "photometric": "minisblack"}),
        ("tiled.tif", stack, {"photometric": "minisblack", "tile": (16, 16), "bigtiff": True}),
    ]:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, array, **options)
        files[name] = (buffer.getvalue(), array)
    for name in ("gray.png", "gray.bmp"):
        buffer = io.BytesIO()
        Image.fromarray(stack[0].astype(np.uint8)).save(buffer, name[-3:])
        files[name] = (buffer.getvalue(), stack[0].astype(np.uint8))
    buffer = io.BytesIO()
    np.save(buffer, stack)
    files["array.npy"] = (buffer.getvalue(), stack)
    return files


@pytest.mark.parametrize("name", _files())
def test_a_truncated_file_is_an_error_or_lacks_nothing(name: str, tmp_path: Path) -> None:
    content, wanted = _files()[name]
    refused = 0
    for length in range(0, len(content), 1 + len(content) // 150):
        (tmp_path / name).write_bytes(content[:length])
        try:
            array, _ = read(tmp_path / name)
        except FileError:
            refused += 1
        else:
            np.testing.assert_array_equal(array, wanted)
    assert refused > 100


@pytest.mark.parametrize(("module", "package"), [("tifffile", "tifffile"), ("PIL", "pillow")])
def test_a_missing_package_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    saved(tmp_path / "tifffile", PLANE)
    Image.fromarray(PLANE.astype(np.uint8)).save(tmp_path / "pillow", "png")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CellrtError, match=rf'expected {package} .* pip install "cellrt\[io\]"'):
        read(tmp_path / package)
    name = {"tifffile": "a.TIF", "PIL": "a.jpg"}[module]
    with pytest.raises(CellrtError, match=rf"expected {package} "):
        require_for([Path("a.npy"), Path(name)])
    require_for([Path("a.npy"), Path("unknown")])


# ---- arguments -> files, and the names of their outputs


def test_find_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["b.tif", "a.TIFF", "c.png", ".hidden.png", "notes.txt", "b_labels.tif", "b_overlay.png"]
    for name in [*names, "sub/d.tif", "sub/e.npy", "odd[1].tif", "other/notes.txt"]:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    # no images: objects, as Cellpose saves masks beside them
    np.save("a_seg.npy", np.array({"masks": PLANE}, object))
    # known by their content, whatever they are the labels of
    for name in ("c_labels.tif", "x_labels.tif"):
        saved(Path(name), PLANE, metadata={"axes": "YX", "software": "cellrt"}, software="cellrt")

    def found(*arguments: str | Path) -> list[str]:
        return [path.as_posix() for path in find_images(arguments, is_output)]

    assert found("b.tif", "notes.txt") == ["b.tif", "notes.txt"]  # a file is taken at its word
    assert found("c_labels.tif") == ["c_labels.tif"]
    assert found("a_seg.npy") == ["a_seg.npy"]
    assert found(".") == ["a.TIFF", "b.tif", "b_labels.tif", "b_overlay.png", "c.png", "odd[1].tif"]
    assert found(tmp_path / "sub") == [(tmp_path / "sub" / name).as_posix() for name in ("d.tif", "e.npy")]
    assert found("**/*.tif") == ["b.tif", "b_labels.tif", "odd[1].tif", "sub/d.tif"]
    assert found("*") == found(".")  # no folders, nothing that is no image
    assert found("odd[1].tif") == ["odd[1].tif"]
    assert found("c.png", "./c.png", tmp_path / "c.png", "*.png")[:1] == ["c.png"]
    assert len(found("c.png", tmp_path / "c.png")) == 1
    assert found("su?/*") == ["sub/d.tif", "sub/e.npy"]
    for argument, message in [
        ("none.tif", "got none.tif: no such file"),
        ("", "got : no such file"),
        ("*.jpg", r"expected images .* none for the pattern '\*.jpg'"),
        ("*.txt", r"expected images .* none for the pattern"),
        ("su?", r"end it with /\* to mean the files of folders"),
        ("other", "expected images .* none in other"),
    ]:
        with pytest.raises(FileError, match=message):
            find_images([argument], is_output)
    with pytest.raises(FileError, match="at least one image"):
        find_images([], is_output)


def test_unique_stems() -> None:
    def stems(*names: str) -> list[str]:
        return [stem.as_posix() for stem in unique_stems(map(Path, names))]

    assert stems() == []
    assert stems("data/a.tif", "data/b.ome.tif") == ["a", "b"]
    assert stems("a.tif", "a.png", "b.tif") == ["a_tif", "a_png", "b"]
    assert stems("p/1/a.tif", "p/2/a.tif", "p/1/b.tif") == ["1/a", "2/a", "b"]
    assert stems("p/1/a.tif", "p/1/a.png", "p/2/a.tif") == ["1/a", "a_png", "2/a"]
    assert stems("A.tif", "a.png") == ["A_tif", "a_png"]
    assert stems("a.tif", "a.png", "a_tif.tif") == ["a", "a_png", "a_tif_tif"]
    with pytest.raises(FileError, match="different names"):
        unique_stems([Path("a.tif"), Path("A.TIF")])


_name = st.sampled_from(["a", "b", "a_tif", "1", "a.ome"])
_path = st.builds(
    lambda folders, name, extension: Path(*folders, name + extension),
    st.lists(st.sampled_from(["1", "2"]), max_size=2),
    _name,
    st.sampled_from([".tif", ".png"]),
)


@given(st.lists(_path, unique=True, max_size=12))
def test_stems_never_collide_and_stay_below_the_output_folder(paths: list[Path]) -> None:
    try:
        stems = unique_stems(paths)
    except FileError:
        return
    assert len(set(stems)) == len(paths)
    assert not any(stem.is_absolute() or ".." in stem.parts for stem in stems)


# ---- real files


@pytest.mark.skipif(not VARIETY.is_dir(), reason="needs ../shared/data/format_variety")
def test_format_variety() -> None:
    paths = find_images([VARIETY], is_output)
    assert len(paths) == 21
    letters = {"xy": "YX", "xyc": "CYX", "xyz": "ZYX", "xyzc": "ZCYX"}
    for path in paths:
        array, axes = read(path)
        wanted = "YXC" if "rgb" in path.name else letters[path.name.split("_")[0]]
        assert axes == wanted, path.name
        assert array.ndim == len(wanted)
        np.testing.assert_array_equal(array, tifffile.imread(path).reshape(array.shape))
