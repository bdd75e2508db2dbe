"""Run every comparison, then write the tables. `make bench` calls this."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main():
    """Run the scripts one after the other, options passed on; stop at the first that fails."""
    for script in (
        "kernels_speed",
        "kernel_limits",
        "segment_speed",
        "flow_speed",
        "cellpose_speed",
        "footprint",
        "bundled_models",
        "fine_tuning",
    ):
        print(f"== {script}", flush=True)
        subprocess.run([sys.executable, str(HERE / f"{script}.py"), *sys.argv[1:]], check=True)
    subprocess.run([sys.executable, str(HERE / "tables.py")], check=True)


if __name__ == "__main__":
    main()
