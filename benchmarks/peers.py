"""The environments of the originals: one virtual environment each, versions pinned by a constraints file.

`python benchmarks/peers.py` makes those that are missing (about 2 GB each). Nothing of them is ever installed into the
project's own environment. CELLRT_PEER_STARDIST, CELLRT_PEER_CELLPOSE3 and CELLRT_PEER_CELLPOSE4 may name a Python that
has one already.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / "build" / "peers"

# What pip is asked for, one call after the other. torch first, so that its build for CPUs is taken; Cellpose 4 names
# torchvision, which it needs for training only, so its own dependencies are named here.
PEERS = {
    "stardist": (["stardist", "tensorflow-cpu"],),
    "cellpose3": (["torch"], ["cellpose", "torch"]),
    "cellpose4": (
        ["torch"],
        [
            "torch",
            "numpy",
            "scipy",
            "natsort",
            "tifffile",
            "tqdm",
            "opencv-python-headless",
            "fastremap",
            "imagecodecs",
            "roifile",
        ],
        ["fill-voids", "segment-anything"],
        ["--no-deps", "cellpose"],
    ),
}
TITLES = {"stardist": "StarDist 0.9.2", "cellpose3": "Cellpose 3.1.1.3", "cellpose4": "Cellpose 4.2.1.1"}


def python_of(peer):
    """The Python that has an original; its environment is made if it is missing."""
    given = os.environ.get(f"CELLRT_PEER_{peer.upper()}")
    if given:
        return Path(given)
    folder = FOLDER / peer
    python = venv_python(folder)
    done = folder / "installed"
    if not done.exists():
        print(f"making the environment of {TITLES[peer]} (about 2 GB, some minutes)", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        for packages in PEERS[peer]:
            install(python, "--constraint", HERE / f"constraints-{peer}.txt", *packages)
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
    for name in PEERS:
        print(python_of(name))
