"""Cellpose's `_seg.npy`: what we write its program can read, what it writes we read, and nothing in a file is run."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import pickle
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellrt.errors import FileError
from cellrt.heads.flow import from_labels
from cellrt.safe_pickle import RefusedPickle, load_npy
from cellrt.seg_file import read_seg
from cellrt.write import is_output, write

RANDOM = np.random.default_rng(0)
LABELS = np.zeros((12, 15), np.int32)
LABELS[1:5, 2:7] = 1
LABELS[6:11, 0:4] = 2
LABELS[5:9, 4:9] = 3
LABELS[0, 14] = 4
OUTLINES = np.where(np.isin(LABELS, (1, 2, 3)), LABELS, 0)
OUTLINES[2:4, 3:6] = OUTLINES[7:10, 1:3] = OUTLINES[6:8, 5:8] = 0
OUTLINES[0, 14] = 4
MAPS = RANDOM.normal(0, 3, (3, 12, 15)).astype(np.float32)
CELLS = from_labels(LABELS, 4)


def as_cellpose_loads_it(path: Path) -> dict[str, Any]:
    """The dict, through pickle itself: for files of this test only."""
    content: dict[str, Any] = np.load(path, allow_pickle=True).item()
    return content


def pickled(content: object, protocol: int = 4) -> bytes:
    """A .npy file as `numpy.save` writes it, of any protocol."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    whole = np.empty((), object)
    whole[()] = content
    pickle.dump(whole, file, protocol)
    return file.getvalue()


def npy(program: bytes) -> bytes:
    """A .npy file with pickle instructions written by hand."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    return file.getvalue() + program


def of_cellpose(**changes: object) -> dict[str, Any]:
    """What Cellpose's program saves of one plane after somebody deleted mask 3."""
    masks = np.where(LABELS == 3, 0, LABELS).astype(np.uint16)
    flows = [
        np.zeros((1, 12, 15, 3), np.uint8),
        np.zeros((1, 12, 15), np.uint8),
        MAPS[np.newaxis, :2],
        MAPS[np.newaxis, 2],
    ]
    return {
        "outlines": np.where(LABELS == 3, 0, OUTLINES).astype(np.uint16),
        "colors": np.full((4, 3), 7, np.uint8),
        "masks": masks,
        "chan_choose": [2, 1],
        "filename": "C:\\images\\é.tif",
        "flows": flows,
        "ismanual": np.array([False, True, False, False]),
        "manual_changes": [["11/22/2026, 09:30:00", "removed mask", [[np.int64(5), 6], [7, 8]]]],
        "model_path": 0,
        "flow_threshold": 0.4,
        "cellprob_threshold": np.float32(-1),
        "normalize_params": {"lowhigh": None, "percentile": [1.0, 99.0], "normalize": True, "invert": False},
        "restore": None,
        "ratio": 1.0,
        "zdraw": list(-1 * np.ones(3, np.int16)),
        "diameter": 17.25,
    } | changes


# ---- written by us


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    (path,) = write(CELLS, tmp_path / "cell", ["seg"], maps=MAPS, channels=(2, 1), diameter=17.5, source="a/cell.tif")
    assert path.name == "cell_seg.npy"
    seg = read_seg(path)
    np.testing.assert_array_equal(seg.labels, LABELS)
    np.testing.assert_array_equal(seg.outlines, OUTLINES)
    np.testing.assert_array_equal(seg.maps, MAPS)
    assert seg.labels.dtype == np.int32
    assert seg.filename == os.path.abspath("a/cell.tif")
    assert seg.diameter == 17.5
    assert seg.is_manual.tolist() == [False] * 4
    assert not seg.labels.flags.writeable
    assert repr(seg) == f"SegFile(4 masks in 12 x 15 pixels of {seg.filename!r})"


def test_what_is_written_has_the_keys_and_shapes_of_cellpose(tmp_path: Path) -> None:
    (path,) = write(CELLS, tmp_path / "cell", ["seg"], maps=MAPS, channels=(2, 1), diameter=17.5, source="cell.tif")
    content = as_cellpose_loads_it(path)
    wanted = ["chan_choose", "diameter", "filename", "flows", "ismanual", "masks", "outlines", "software"]
    assert sorted(content) == wanted
    for key, array in (("masks", LABELS), ("outlines", OUTLINES)):
        assert content[key].dtype == np.uint16
        np.testing.assert_array_equal(content[key], array)
        content[key] += 1  # the program renumbers in place
    assert content["chan_choose"] == [2, 1]
    assert (content["ismanual"].dtype, content["ismanual"].shape) == (bool, (4,))
    assert type(content["diameter"]) is float
    shapes = [(1, 12, 15, 3), (1, 12, 15), (1, 2, 12, 15), (1, 12, 15), (3, 12, 15)]
    assert [flow.shape for flow in content["flows"]] == shapes
    assert [flow.dtype.name for flow in content["flows"]] == ["uint8", "uint8", "float32", "float32", "float32"]
    np.testing.assert_array_equal(content["flows"][2][0], MAPS[:2])
    np.testing.assert_array_equal(content["flows"][3][0], MAPS[2])


def test_the_pictures_of_flow_and_logit(tmp_path: Path) -> None:
    (path,) = write(CELLS, tmp_path / "cell", ["seg"], maps=MAPS)
    flow_picture, logit_picture = as_cellpose_loads_it(path)["flows"][:2]

    def stretched(plane: np.ndarray) -> np.ndarray:
        low, high = np.percentile(plane.astype(float), [1, 99])
        return np.clip((plane - low) / (high - low), 0, 1)

    assert np.abs(logit_picture[0] - np.floor(stretched(MAPS[2]) * 255)).max() <= 1
    length = stretched(np.hypot(*MAPS[:2].astype(float)))
    for y, x in np.ndindex(LABELS.shape):
        dy, dx = MAPS[:2, y, x].astype(float)
        angle = np.arctan2(dx, dy) + np.pi
        hue = [127.5 * length[y, x] * (1 + np.cos(angle + 2 * np.pi / 3 * channel)) for channel in range(3)]
        assert np.abs(flow_picture[0, y, x] - np.floor(hue)).max() <= 1


def test_without_maps_the_program_gets_what_it_begins_with(tmp_path: Path) -> None:
    (path,) = write(CELLS, tmp_path / "cell", ["seg"])
    content = as_cellpose_loads_it(path)
    assert content["flows"] == [[], [], [], [], [[]]]
    assert content["chan_choose"] == [0, 0]
    assert content["filename"] == ""
    assert np.isnan(content["diameter"])
    seg = read_seg(path)
    assert (seg.maps, seg.diameter, seg.filename) == (None, None, "")


def test_maps_at_another_resolution_are_resized(tmp_path: Path) -> None:
    level = np.full((3, 5, 9), 2.5, np.float32)
    level[:, :, 5:] = 0
    (path,) = write(CELLS, tmp_path / "cell", ["seg"], maps=level)
    flows = as_cellpose_loads_it(path)["flows"]
    assert flows[4].shape == (3, 12, 15)
    assert (flows[4][:, :, :8] == 2.5).all()
    assert not flows[4][:, :, 10:].any()
    assert not flows[1][0, :, 10:].any()


def test_more_labels_than_uint16_holds(tmp_path: Path) -> None:
    for n, dtype in ((65_534, np.uint16), (65_535, np.uint32)):
        labels = np.zeros((300, 220), np.int32)
        labels.reshape(-1)[:n] = np.arange(1, n + 1)
        (path,) = write(from_labels(labels, n), tmp_path / "cell", ["seg"])
        content = as_cellpose_loads_it(path)
        assert content["masks"].dtype == content["outlines"].dtype == dtype
        np.testing.assert_array_equal(read_seg(path).labels, labels)
        np.testing.assert_array_equal(read_seg(path).outlines, labels)


def test_only_names_that_every_numpy_has(tmp_path: Path) -> None:
    (path,) = write(CELLS, tmp_path / "cell", ["seg"], maps=MAPS, source="cell.tif")
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        strings = [str(argument) for opcode, argument, _ in pickletools.genops(file) if "UNICODE" in opcode.name]
    # a name is a module and what is in it: numpy.ndarray and numpy.dtype, never numpy.core or numpy._core
    assert {"numpy", "ndarray", "dtype"} <= set(strings)
    assert not any("numpy." in text or "reconstruct" in text for text in strings)


def test_a_corrected_file_is_not_a_result_that_may_be_replaced(tmp_path: Path) -> None:
    (path,) = write(CELLS, tmp_path / "cell", ["seg"], maps=MAPS)
    assert is_output(path)
    content = as_cellpose_loads_it(path)
    path.write_bytes(pickled(of_cellpose(flows=content["flows"])))  # the program makes a dict of its own
    assert not is_output(path)
    path.write_bytes(pickled({"masks": LABELS, "filename": "software cellrt"}))
    assert not is_output(path)


# ---- written by Cellpose


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_files_of_cellpose(tmp_path: Path, protocol: int, module: bytes) -> None:
    whole = pickled(of_cellpose(), protocol)
    for name in (b"multiarray", b"numeric"):  # with its length where the protocol writes that
        for other in (b"numpy.core", b"numpy._core"):
            old, new = other + b"." + name, module + b"." + name
            whole = whole.replace(bytes([len(old)]) + old, bytes([len(new)]) + new).replace(b"c" + old, b"c" + new)
    if protocol == 4:  # frames have lengths too: leave them out, as Python itself may
        whole = whole.replace(whole[whole.index(b"\x80\x04") + 2 :][:9], b"", 1)
    path = tmp_path / "cell_seg.npy"
    path.write_bytes(whole)
    assert module + b"." in whole
    seg = read_seg(path)
    np.testing.assert_array_equal(seg.labels, np.where(LABELS == 3, 0, LABELS))
    assert seg.is_manual.tolist() == [False, True, False, False]
    assert seg.filename == "C:\\images\\é.tif"
    assert seg.diameter == 17.25
    np.testing.assert_array_equal(seg.maps, MAPS)
    cells = from_labels(seg.labels, int(seg.labels.max()))
    assert [len(polygon) > 0 for polygon in cells.polygons()] == [True, True, False, True]  # the gap stays


@pytest.mark.parametrize(
    ("changes", "key", "wanted"),
    [
        ({"diameter": np.nan}, "diameter", None),  # Cellpose 4
        ({"diameter": np.float64(30)}, "diameter", 30.0),
        ({"diameter": None}, "diameter", None),
        ({"filename": pathlib.PurePosixPath("/images/a.tif")}, "filename", str(Path("/images/a.tif"))),
        ({"outlines": [[[1, 2], [3, 4]]]}, "outlines", None),  # the first versions listed points
        ({"ismanual": np.zeros(0, bool)}, "is_manual", np.zeros(0, bool)),
        ({"ismanual": [True, False]}, "is_manual", np.array([True, False])),
        ({"flows": [[], [], [], [], [[]]]}, "maps", None),
        ({"flows": []}, "maps", None),
        ({"flows": [None, None, None, [], MAPS.astype(np.float64)]}, "maps", MAPS),
        ({"flows": [None, None, MAPS[np.newaxis, :2], MAPS[np.newaxis, 2, 1:]]}, "maps", None),
        ({"masks": LABELS[np.newaxis].astype(np.uint32)}, "labels", LABELS),
        ({"masks": np.asfortranarray(LABELS), "outlines": LABELS}, "labels", LABELS),
        ({"masks": LABELS.astype(">i8") - 1, "outlines": LABELS}, "labels", LABELS),  # -1 was background once
    ],
)
def test_what_differs_between_versions(tmp_path: Path, changes: dict[str, object], key: str, wanted: object) -> None:
    path = tmp_path / "cell_seg.npy"
    path.write_bytes(pickled(of_cellpose(**changes)))
    got = getattr(read_seg(path), key)
    if isinstance(wanted, np.ndarray):
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == wanted.dtype
    else:
        assert got == wanted


def test_keys_that_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "cell_seg.npy"
    np.save(path, np.array({"masks": LABELS}, object))
    seg = read_seg(path)
    np.testing.assert_array_equal(seg.labels, LABELS)
    assert (seg.outlines, seg.filename, seg.diameter, seg.maps, len(seg.is_manual)) == (None, "", None, None, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"img": LABELS, "outlines": LABELS}, "expected a dict with 'masks' .* got one with img, outlines in"),
        ({}, "got one with nothing"),
        ([LABELS], "expected a dict with 'masks' .* got another"),
        ({"masks": LABELS.astype(np.float32)}, r"expected masks as a label image .* got float32 \(12, 15\); save"),
        ({"masks": [1, 2]}, "expected masks as a label image .* got list"),
        ({"masks": np.zeros((0, 4), np.uint16)}, r"got uint16 \(0, 4\)"),
        ({"masks": np.zeros((2, 3, 4, 5), np.uint16)}, r"expected masks \(Y, X\) or .* got shape \(2, 3, 4, 5\); save"),
        ({"masks": LABELS - 2}, "expected masks from 0 to 2147483647 .* got -2 to 2; number them again"),
        ({"masks": LABELS.astype(np.uint64) << np.uint64(40)}, "got 0 to "),
        ({"masks": LABELS, "outlines": LABELS[1:]}, r"expected outlines of shape \(12, 15\) .* got \(11, 15\)"),
    ],
)
def test_contents_that_are_no_masks(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "cell_seg.npy"
    path.write_bytes(pickled(content))
    with pytest.raises(FileError, match=message):
        read_seg(path)


def test_paths_and_files_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "cell_seg.npy"
    with pytest.raises(FileError, match=r"cell_seg.npy: No such file or directory; check the path"):
        read_seg(path)
    with pytest.raises(FileError, match="check the path"):
        read_seg(tmp_path)
    np.save(path, LABELS)
    with pytest.raises(FileError, match=r"got .*cell_seg.npy: it holds an array of int32 and shape \(12, 15\), not a"):
        read_seg(path)
    for content, message in ((b"", "it is no .npy file"), (b"\x93NUMPY", "truncated"), (b"hello world", "no .npy")):
        path.write_bytes(content)
        with pytest.raises(FileError, match=f"{message}.*; save it again with Cellpose or cellrt"):
            read_seg(path)


# ---- nothing is run


class Calls:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


TRACE: list[str] = []


def leave_a_trace(*_: object) -> str:
    """What must never be called."""
    TRACE.append("run")
    return "x"


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Calls(os.system, "true"), r"(posix|nt)\.system"),
        (Calls(eval, "1"), r"(builtins|__builtin__)\.eval"),
        (Calls(getattr, "x", "upper"), r"(builtins|__builtin__)\.getattr"),
        (Calls(leave_a_trace), r"test_seg_file\.leave_a_trace"),
        (Calls(np.loadtxt, "/etc/passwd"), r"numpy.*\.loadtxt"),
        (Calls(np.memmap, "/etc/passwd"), r"numpy\.memmap"),
        (Calls(bytearray, 5), r"(builtins|__builtin__)\.bytearray"),
    ],
    ids=lambda value: "" if isinstance(value, Calls) else value,
)
def test_functions_are_refused_and_not_called(tmp_path: Path, call: Calls, name: str, protocol: int) -> None:
    path = tmp_path / "cell_seg.npy"
    for content in (call, {"masks": LABELS, "other": [(1, call)]}, {"masks": np.array([call], object)}):
        path.write_bytes(pickled(content, protocol))
        with pytest.raises(FileError, match=f"got .*: it (asks for {name}|uses the instruction [A-Z]+, which plain)"):
            read_seg(path)
    assert TRACE == []


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"(S'true'\nios\nsystem\n.", "instruction (STRING|INST)"),
        (b"(cos\nsystem\nVtrue\no.", "asks for os.system"),
        (b"cnumpy\nndarray\n)\x81.", "instruction NEWOBJ"),
        (b"cnumpy\ndtype\n)}\x92.", "instruction NEWOBJ_EX"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"Pname\n.", "instruction PERSID"),
        (b"Vname\nQ.", "instruction BINPERSID"),
        (b"\x80\x05\x97.", "instruction NEXT_BUFFER"),
        (b"cnumpy\ndtype\n(Vx\nNtR.", "asks for the dtype 'x'"),
        (b"cnumpy\ndtype\n(VV40000000\nNtR.", "asks for the dtype"),
        (b"cnumpy\ndtype\n(Vu2\nNNt(I3\nV|\nNV(a)\ntb.", "truncated or damaged"),
        (b"cnumpy\ndtype\n(Vu2\ntR(I3\nV|\nN(Va\ntNtb.", "structured dtype"),
        (b"cnumpy\ndtype\n}b.", "truncated or damaged"),  # state for a name
        (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\ntR(I1\n(I1\ntVx\nI0\nVx\ntb.",
            "truncated or damaged",
        ),
        (b"Vnumpy\nVdtype\n\x93.", "truncated or damaged"),  # a name is no array
        (b"](Vos\nVsystem\n\x93e.", "asks for os.system"),
        (b"(](e\x93.", "truncated or damaged"),
        (b"]\x94h\x00a.", "too deep"),  # a list that is in itself
        (b"]" * 100 + b"a" * 99 + b".", "too deep"),
        (b"}(](Vx\nu.", "truncated or damaged"),
        (b"}(]Vx\nu.", "neither strings nor numbers"),
        (b"}(Vx\nu.", "truncated or damaged"),  # a key without a value
        (b"\x8e" + struct.pack("<Q", 1 << 40) + b"xx.", "truncated or damaged"),  # more bytes than there are
        (b"\x95" + struct.pack("<Q", 1 << 60) + b"N.", "damaged"),
        (b"\x8b" + struct.pack("<i", -5) + b".", "truncated or damaged"),
        (b"Nr\xff\xff\xff\xff.", "truncated or damaged"),  # a memo of 4 billion places, in CPython's own machine
        (b"g5\n.", "truncated or damaged"),
        (b"I" + b"9" * 10_000 + b"\n.", "truncated or damaged"),
        (b"0.", "truncated or damaged"),
        (b"t.", "truncated or damaged"),
        (b"(.", "truncated or damaged"),
        (b"NN.", "truncated or damaged"),
        (b"N.", "truncated or damaged"),
        (b".", "truncated or damaged"),
        (b"\xff.", "truncated or damaged"),
    ],
)
def test_programs_written_by_hand(tmp_path: Path, program: bytes, message: str) -> None:
    path = tmp_path / "cell_seg.npy"
    path.write_bytes(npy(program))
    with pytest.raises(RefusedPickle, match=message):
        load_npy(path)


def test_an_array_needs_all_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    whole = pickled(np.arange(6, dtype=np.uint16).reshape(2, 3))
    for side in (1, 4, 255):
        path.write_bytes(whole.replace(b"K\x02K\x03\x86", bytes([75, side, 75, 3, 0x86])))
        with pytest.raises(RefusedPickle, match="truncated or damaged"):
            load_npy(path)
    path.write_bytes(whole)
    np.testing.assert_array_equal(load_npy(path), [[0, 1, 2], [3, 4, 5]])


def test_lists_that_hold_each_other_many_times_are_read_once(tmp_path: Path) -> None:
    content: list[Any] = ["end"]
    for _ in range(20):
        content = [content] * 100
    (tmp_path / "a.npy").write_bytes(pickled(content))
    got = load_npy(tmp_path / "a.npy")
    for _ in range(20):
        assert isinstance(got, list)
        assert len(got) == 100
        got = got[0]
    assert got == ["end"]


def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path) -> None:
    (path,) = write(CELLS, tmp_path / "cell", ["seg"], maps=MAPS[:, :2, :3], source="cell.tif")
    for whole in (path.read_bytes(), pickled(of_cellpose(flows=[]))):
        for length in (*range(0, len(whole), 61), len(whole) - 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(FileError):
                read_seg(path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_file_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, damage: Any) -> None:
    whole = bytearray(pickled(of_cellpose(flows=[])))
    for place, value in damage:
        whole[place % len(whole)] = value
    path = tmp_path_factory.getbasetemp() / "damaged_seg.npy"
    path.write_bytes(whole)
    with contextlib.suppress(FileError):
        assert read_seg(path).labels.ndim == 2


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False)
    | st.text(max_size=9)
    | st.binary(max_size=9)
    | st.sampled_from([np.float64(0.5), np.int16(-3), np.str_("é"), np.True_]),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@settings(max_examples=50)
@given(plain, st.sampled_from([2, 3, 4]))
def test_plain_data_is_read_as_pickle_reads_it(
    tmp_path_factory: pytest.TempPathFactory, content: object, protocol: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "plain.npy"
    path.write_bytes(pickled(content, protocol))
    got = load_npy(path)
    assert repr(got) == repr(content)


@pytest.mark.parametrize("dtype", ["b1", "i1", "u8", ">i4", "f2", "<f8", "S3", "U5", ">U2", "O"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 3)])
def test_arrays_of_every_kind(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = RANDOM.integers(0, 9, shape).astype(dtype)
    for given_array in (array, np.asfortranarray(array), array[..., ::-1] if array.ndim else array):
        (tmp_path / "a.npy").write_bytes(pickled([given_array]))
        got = load_npy(tmp_path / "a.npy")
        assert isinstance(got, list)
        np.testing.assert_array_equal(got[0], given_array)
        assert got[0].dtype == array.dtype
        assert not got[0].flags.writeable
