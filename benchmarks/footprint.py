"""How big is the installation, and how long until the first cell? A fresh environment with cellrt and its needs only.

Builds the wheel, installs it with numpy and onnxruntime into a new virtual environment, and starts new processes in
it. Cold means a new process; the files may be in the system's cache. The original's environment is measured beside it.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

import numpy as np
import peers
import scenes
from harness import ROOT, Report, arguments, scratch, summary

FOLDER = ROOT / "build" / "footprint"
IMPORT = """
import time
start = time.perf_counter()
import {module}
done = time.perf_counter()
{module}.{name}
print(done - start, time.perf_counter() - start)
"""
OURS = """
import sys, time
start = time.perf_counter()
import numpy, cellrt
model = cellrt.load(sys.argv[1], providers=["cpu"], threads=int(sys.argv[4]))
cells = model.segment(numpy.load(sys.argv[3]))
print(time.perf_counter() - start, len(cells.scores))
"""
ORIGINAL = """
import contextlib, pathlib, sys, time
start = time.perf_counter()
with contextlib.redirect_stdout(sys.stderr):
    import numpy
    from csbdeep.utils import normalize
    from stardist.models import StarDist2D
    folder = pathlib.Path(sys.argv[2])
    model = StarDist2D(None, name=folder.name, basedir=str(folder.parent))
    image = normalize(numpy.load(sys.argv[3]), 1, 99.8)
    labels, details = model.predict_instances(image, show_tile_progress=False)
print(time.perf_counter() - start, len(details["prob"]))
"""


def fresh_environment():
    """The wheel in a new environment; returns its Python. The wheel's own build uses the project's environment."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(FOLDER),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    wheel = next(FOLDER.glob("cellrt-*.whl"))
    venv.create(FOLDER / "venv", with_pip=True)
    python = peers.venv_python(FOLDER / "venv")
    peers.install(python, "--constraint", ROOT / "constraints.txt", f"{wheel}[cpu]")
    return python, wheel.stat().st_size / 1e6


def installed_megabytes(python):
    """MB (1e6 bytes) of each top-level folder that the interpreter can import; the installer itself is not counted."""
    code = "import sysconfig; print(sysconfig.get_paths()['platlib'])"
    packages = Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    sizes = {}
    for entry in packages.iterdir():
        if entry.name.split("-")[0].lower() in ("pip", "setuptools", "wheel", "_distutils_hack", "pkg_resources"):
            continue
        files = [path for path in entry.rglob("*") if path.is_file()] if entry.is_dir() else [entry]
        name = entry.name.split("-")[0].split(".")[0].lower()
        sizes[name] = sizes.get(name, 0) + sum(path.stat().st_size for path in files) / 1e6
    return sizes


def time_of(python, code, *parameters):
    """What a new process prints, as numbers; and its whole wall time."""
    environment = dict(os.environ) | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [str(python), "-I", "-c", code, *map(str, parameters)]  # -I: what is installed, nothing from outside
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    wall = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{python} failed: {done.stderr[-2000:]}")
    return [float(word) for word in done.stdout.split()], wall


def main():
    """Measure sizes once, times several times, the two sides in turn."""
    options = arguments(__doc__.splitlines()[0]).parse_args()
    repeats = options.repeats or 5
    report = Report("footprint", "How big is the installation, and how long until the first cell?")
    from cellrt_export import stardist as exporter

    python, wheel_megabytes = fresh_environment()
    original = peers.python_of("stardist")
    code = (
        "import json, importlib.metadata as m; "
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    )
    for side, interpreter in (("cellrt", python), ("stardist", original)):
        found = subprocess.run([interpreter, "-c", code], check=True, capture_output=True, text=True).stdout
        names = ("cellrt", "numpy", "onnxruntime") if side == "cellrt" else ("stardist", "tensorflow_cpu", "keras")
        report.contents["versions"][side] = {key: value for key, value in json.loads(found).items() if key in names}

    sizes, original_sizes = installed_megabytes(python), installed_megabytes(original)
    largest = dict(sorted(((name, round(size, 1)) for name, size in sizes.items()), key=lambda item: -item[1])[:8])
    report.add(
        {
            "what": "installed, everything",
            "value": sum(sizes.values()),
            "unit": "MB",
            "target": "below 200",
            "largest": largest,
            "wheel_megabytes": round(wheel_megabytes, 2),
            "stardist": round(sum(original_sizes.values())),
        }
    )

    threads = max(options.threads)
    times = {"import": ([], []), "use": ([], []), "first": ([], [])}
    with scratch() as folder:
        stardist_folder, report.contents["model"] = scenes.model_folder(folder)
        model, image = f"{folder}/model.onnx", f"{folder}/image.npy"
        exporter.export(stardist_folder, model)
        pixels, report.contents["image"] = scenes.microscope_image((512, 512))
        np.save(image, pixels)
        for index in range(repeats + 1):  # the first round fills the file cache and writes byte code
            counts = []
            for side, interpreter, module, name, whole in (
                (0, python, "cellrt", "load", OURS),
                (1, original, "stardist.models", "StarDist2D", ORIGINAL),
            ):
                (imported, used), _ = time_of(interpreter, IMPORT.format(module=module, name=name))
                (_, n_cells), wall = time_of(interpreter, whole, model, stardist_folder, image, threads)
                counts.append(int(n_cells))
                if index:
                    times["import"][side].append(imported)
                    times["use"][side].append(used)
                    times["first"][side].append(wall)
    for key, what, target in (
        ("import", "import (cellrt; stardist.models)", "below 0.15"),
        ("use", "import and first use of a name, which loads numpy", "-"),
        ("first", "first label of 512 x 512: start, import, load, segment", "below 2"),
    ):
        ours, theirs = (summary(values) for values in times[key])
        report.add(
            {
                "what": what,
                "value": ours["median"],
                "unit": "s",
                "target": target,
                "cellrt": ours,
                "stardist": theirs["median"],
                "stardist_all": theirs,
            }
        )
    report.contents["cells"] = counts
    report.write()


if __name__ == "__main__":
    main()
