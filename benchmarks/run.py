"""Run every comparison, then write the tables and plots. `make bench` calls this."""

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPTS = (
    "kernels_speed",
    "stardist_3d_speed",
    "segment_speed",
    "throughput",
    "overhead",
    "latency",
    "scaling",
    "kernel_limits",
    "large_image",
    "flow_speed",
    "flow_3d_speed",
    "cellpose_speed",
    "footprint",
    "bundled_models",
    "fine_tuning",
    "int8",
)


def main():
    """Run the scripts one after the other, options passed on; stop at the first that fails. Says how long each took."""
    times = {}
    for script in SCRIPTS:
        print(f"== {script}", flush=True)
        start = time.perf_counter()
        subprocess.run([sys.executable, str(HERE / f"{script}.py"), *sys.argv[1:]], check=True)
        times[script] = time.perf_counter() - start
    subprocess.run([sys.executable, str(HERE / "tables.py")], check=True)
    for script, seconds in times.items():
        print(f"{script:<16} {seconds / 60:5.1f} min")
    print(f"{'all':<16} {sum(times.values()) / 60:5.1f} min")


if __name__ == "__main__":
    main()
