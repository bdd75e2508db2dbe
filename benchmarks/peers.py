"""The environments of the originals: one virtual environment each, versions pinned by a constraints file.

`python benchmarks/peers.py` makes those that are missing (StarDist with TensorFlow: about 2 GB). Nothing of them is
ever installed into the project's own environment. CELLRT_PEER_STARDIST may name a Python that already has them.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / "build" / "peers"


def stardist_python():
    """The Python that has StarDist 0.9.2; its environment is made if it is missing."""
    given = os.environ.get("CELLRT_PEER_STARDIST")
    if given:
        return Path(given)
    python = venv_python(FOLDER / "stardist")
    done = FOLDER / "stardist" / "installed"
    if not done.exists():
        print("making the environment of StarDist 0.9.2 (about 2 GB, some minutes)", file=sys.stderr)
        venv.create(FOLDER / "stardist", with_pip=True, clear=True)
        constraints = HERE / "constraints-stardist.txt"
        install(python, "--constraint", constraints, "stardist", "tensorflow-cpu")
        done.touch()  # only now: an interrupted installation is made again
    return python


def install(python, *arguments):
    """pip install, quietly, with the given Python."""
    command = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *arguments]
    subprocess.run([str(part) for part in command], check=True)


def venv_python(folder):
    """The interpreter inside a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


if __name__ == "__main__":
    print(stardist_python())
