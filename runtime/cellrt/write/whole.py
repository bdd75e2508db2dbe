"""Files and folders that appear whole or not at all: written under a temporary name, renamed at the end.

Several appear together or not at all, and older ones of their names are replaced together or not at all. Knows paths;
never what is in the files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from cellrt.errors import FileError

_TEMPORARY = re.compile(r"\.cellrt-[0-9a-f]{12}\.part")
_STALE = 3600  # seconds: nothing under way goes that long without writing


@contextlib.contextmanager
def replacing(paths: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Open a temporary file beside each path; at the end rename them all. After an error everything is as it was."""
    with renaming(paths) as parts, contextlib.ExitStack() as stack:
        yield [stack.enter_context(part.open("wb")) for part in parts]


@contextlib.contextmanager
def renaming(paths: Sequence[Path], folders: Collection[Path] = ()) -> Iterator[list[Path]]:
    """Make an empty temporary file beside each path, or a folder where the path is one of `folders`.

    At the end they are renamed to the paths, all of them; after an error everything is as it was. A file takes the
    place of a file and a folder that of a folder, whatever is in it.

    Raises
    ------
    FileError
        If anything cannot be written or renamed, which may be the writers' `OSError`.
    """
    current = paths[0] if paths else Path()
    temporary: list[Path] = []
    older: list[Path] = []
    renamed: list[tuple[Path, Path]] = []  # each is noted before it is done: undoing what was not done does nothing
    try:
        for current in paths:
            current.parent.mkdir(parents=True, exist_ok=True)
            # a short name of its own: a long one plus an ending could pass the file system's limit
            temporary.append(current.parent / f".cellrt-{uuid.uuid4().hex[:12]}.part")
            if current in folders:
                temporary[-1].mkdir()
            else:
                temporary[-1].touch(exist_ok=False)
        yield temporary
        # First all older files out of the way: one that another program holds open stops us here, nothing replaced.
        for current, part in zip(paths, temporary, strict=True):
            if os.path.lexists(current):
                if current.is_dir() != part.is_dir():
                    code = errno.EISDIR if current.is_dir() else errno.ENOTDIR
                    raise OSError(code, os.strerror(code))
                older.append(part.with_suffix(".old"))
                renamed.append((current, older[-1]))
                os.replace(current, older[-1])
        for current, part in zip(paths, temporary, strict=True):
            renamed.append((part, current))
            os.replace(part, current)
    except BaseException as error:
        # an OSError of the writers above belongs to this block too: the disk is full, the network drive is gone
        for before, after in reversed(renamed):
            with contextlib.suppress(OSError):
                os.replace(after, before)
        remove(temporary)
        if isinstance(error, OSError):
            held = isinstance(error, PermissionError)
            advice = f"close {current.name} in other programs" if held else "free space there"
            raise FileError(
                f"expected to write {', '.join(path.name for path in paths)} into {current.parent}, got: "
                f"{error.strerror or error}; {advice} or choose another folder"
            ) from error
        raise
    remove(older)


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders that a killed run left; a young one may belong to a run under way."""
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            if _TEMPORARY.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    if time.time() - _last_written(path) > _STALE:
                        remove([path])


def _last_written(path: Path) -> float:
    """When a file, or anything in a folder, was last written to; seconds."""
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
    return float(max(entry.lstat().st_mtime for entry in (path, *inside)))


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders, as far as that is possible."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
