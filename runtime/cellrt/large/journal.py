"""What is finished so far, in a folder: a run that was interrupted continues there.

``plan.json`` says which run it is: image, model, options, tiles. Each tile that is done has a file of arrays. Every
file appears whole, by renaming. One run uses a folder at a time. Knows nothing of what the arrays mean.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import FileError
from cellrt.write import replacing

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_PLAN, _LOCK = "plan.json", "run.lock"
_OWN = re.compile(r"plan\.json|run\.lock|tile_\d+\.npz|[a-z]+\.bricks|\.cellrt-[0-9a-f]{12}\.(part|old)")
_log = logging.getLogger(__name__)


class Journal:
    """The work folder of one run.

    Parameters
    ----------
    folder : Path
        Created where it does not exist.
    key : dict
        What makes a run the same, as JSON has it.

    Attributes
    ----------
    found : dict or None
        What an earlier run of the same key noted by `begin`.

    Raises
    ------
    FileError
        If the folder holds another run or other files, or cannot be written to.
    """

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.folder = folder
        self._key = json.loads(json.dumps(key, default=repr))  # tuples become lists, as they come back
        self.found: dict[str, Any] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            names = {path.name for path in folder.iterdir()}
            foreign = sorted(name for name in names if not _OWN.fullmatch(name))
            plan = (folder / _PLAN).read_text(encoding="utf-8") if _PLAN in names else None
        except OSError as error:
            raise FileError(
                f"expected a work folder that can be written to, got {folder}: {error.strerror or error}; check its "
                "permissions or choose another with work="
            ) from error
        if foreign or (plan is None and any(name.startswith("tile_") for name in names)):
            raise FileError(
                f"expected an empty work folder or one of this run, got {folder} with {(foreign or sorted(names))[0]}; "
                "choose another with work="
            )
        if plan is not None:
            self.found = self._found_in(plan)

    def begin(self, found: dict[str, Any]) -> None:
        """Note what was found before the first tile; everything after belongs to this run."""
        self.found = found
        with replacing([self.folder / _PLAN]) as (file,):
            file.write(json.dumps({"run": self._key, "found": found}, indent=1).encode())

    def read(self, tile: int) -> dict[str, NDArray[Any]] | None:
        """The arrays of a tile, or None if it is not finished."""
        path = self._path(tile)
        try:
            with np.load(path, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            _log.warning("%s is damaged (%s): the tile is computed again", path, error)
            return None

    def holds(self, tile: int) -> bool:
        """Whether a tile was kept, without reading it."""
        return self._path(tile).exists()

    def write(self, tile: int, *, compress: bool, **arrays: NDArray[Any]) -> None:
        """Keep the arrays of a finished tile, so that they would survive a power failure.

        `FileError` if the disk is full, and the run can go on later.
        """
        save = np.savez_compressed if compress else np.savez
        with replacing([self._path(tile)]) as (file,):
            save(file, **arrays)  # type: ignore[arg-type]  # numpy's stubs take the names for its own options
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # where folders cannot be opened
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def drop(self, tile: int) -> None:
        """Forget a tile."""
        self._path(tile).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder with all that this class writes there; what else there may be stays."""
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                if _OWN.fullmatch(path.name):
                    path.unlink()
            self.folder.rmdir()

    def _found_in(self, plan: str) -> dict[str, Any]:
        """What an earlier run noted, if it was the same run."""
        try:
            content = json.loads(plan)
            key, found = dict(content["run"]), dict(content["found"])
        except (ValueError, KeyError, TypeError) as error:
            raise FileError(f"expected a plan in {self.folder / _PLAN}, got {error!r}; remove the folder") from error
        different = sorted(name for name in {*key, *self._key} if key.get(name) != self._key.get(name))
        if different:
            raise FileError(
                f"expected the work folder {self.folder} of this run, got one of another: {', '.join(different)} "
                "differ; remove it to start anew, repeat the call that made it, or choose another with work="
            )
        return found

    def _path(self, tile: int) -> Path:
        """The file of a tile."""
        return self.folder / f"tile_{tile:06d}.npz"


@contextlib.contextmanager
def journal_for(sink: Any, work: str | Path | None, key: dict[str, Any], *, scratch: bool) -> Iterator[Journal | None]:
    """The work folder of a run, removed when it succeeds, or else when it holds no tile yet.

    Parameters
    ----------
    sink : str, Path or array
        A path has its work folder beside it, ``<sink>.progress``.
    work : str or Path, optional
        Another folder; arrays have one only if it is named.
    key : dict
        As for `Journal`.
    scratch : bool
        Whether the run needs a folder in any case: then a temporary one stands in.

    Yields
    ------
    Journal or None

    Raises
    ------
    FileError
        As `Journal`, or if another run uses the folder just now.
    """
    if work is not None:
        folder = Path(work)
    elif isinstance(sink, (str, os.PathLike)):
        folder = Path(f"{os.fspath(sink)}.progress")
    elif scratch:
        with tempfile.TemporaryDirectory(prefix="cellrt-large-") as temporary:
            yield Journal(Path(temporary), key)
        return
    else:
        yield None
        return
    journal = Journal(folder, key)
    lock = _locked(folder)
    try:
        with lock:
            yield journal
    except BaseException:
        if not any(folder.glob("tile_*")):
            journal.remove()
        raise
    journal.remove()


def _locked(folder: Path) -> BinaryIO:
    """A file that keeps other runs out of a folder until it is closed, or the process ends in whatever way."""
    try:
        file = (folder / _LOCK).open("wb")
    except OSError as error:
        raise FileError(
            f"expected a work folder that can be written to, got {folder}: {error.strerror or error}; check its "
            "permissions or choose another with work="
        ) from error
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise FileError(
            f"expected a work folder that no other run uses, got {folder}; wait for that run, or choose another folder "
            "with work="
        ) from error
    except OSError as error:
        _log.warning("%s cannot be locked (%s): see that no other run uses it", folder, error.strerror or error)
    return file
