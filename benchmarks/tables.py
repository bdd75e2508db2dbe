"""results/*.json -> the tables in README.md here and in the project's README.md, between their markers.

Only committed results are read; nothing is measured. `--check` writes nothing and fails if a table is out of date.
"""

import argparse
import json
import sys
from pathlib import Path

from harness import RESULTS, ROOT
from peers import TITLES

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
SCRIPTS = ("kernels_speed", "segment_speed", "flow_speed", "cellpose_speed", "footprint")


def seconds(value):
    """A time with two or three digits and a fitting unit."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def ratio(value):
    """A ratio with two or three digits."""
    return f"{value:.0f}x" if value >= 20 else f"{value:.1f}x"


def speed_rows(results, details):
    """Table lines of everything that both sides did; without `details`, of several sizes the largest only."""
    yield "| | against | threads | theirs | cellrt | faster (smallest to largest of the pairs) | goal | agreement |"
    yield "|---|---|---|---|---|---|---|---|"
    for result in results:
        for row in result["rows"]:
            if "ratio" in row and (details or result["name"] != "flow_speed" or "2048 x 2048" in row["what"]):
                times = " | ".join(seconds(row[side]["seconds"]["median"]) for side in (row["peer"], "cellrt"))
                extremes = f"{ratio(row['ratio']['min'])} to {ratio(row['ratio']['max'])}"
                yield (
                    f"| {row['what']} | {TITLES[row['peer']]} | {row['threads']} | {times} "
                    f"| **{ratio(row['ratio']['median'])}** ({extremes}) | {row['target']} | {row['agreement']} |"
                )


def size_rows(results):
    """Table lines of memory, installation and start."""
    yield "| | against | theirs | cellrt | goal |"
    yield "|---|---|---|---|---|"
    for result in results:
        for row in result["rows"]:
            if "ratio" in row:
                continue
            peer = TITLES[row.get("peer", "stardist")]
            if row["unit"] == "x":
                theirs, ours = f"{row['peer_megabytes']} MB", f"{row['cellrt_megabytes']} MB"
                target = f"{row['target']} of theirs ({row['value']:.2f})"
            elif row["unit"] == "MB":
                theirs, ours, target = f"{row['stardist']} MB", f"{row['value']:.0f} MB", f"{row['target']} MB"
            else:
                theirs, ours = seconds(row["stardist"]), seconds(row["value"])
                target = row["target"] if row["target"] == "-" else f"{row['target']} s"
            yield f"| {row['what']} | {peer} | {theirs} | **{ours}** | {target} |"


def conditions(results):
    """One sentence per script: machine, versions, load, inputs."""
    for result in results:
        machine, load = result["machine"], result["load_average"]
        told = ("stardist", "tensorflow-cpu", "tensorflow_cpu", "cellpose", "torch", "cellrt", "onnxruntime")
        found = [pair for side in result["versions"].values() for pair in side.items()]
        versions = ", ".join(f"{name} {version}" for name, version in found if name in told)
        inputs = "".join(f"; {result[key]}" for key in ("model", "image") if key in result)
        yield (
            f"- `{result['name']}.py`, {result['date']}: {machine['processor']}, {machine['cores']} cores, "
            f"{machine['system']}; {versions}; load average {load['before'][0]:.1f} before, {load['after'][0]:.1f} "
            f"after, niceness {result['niceness']}, {result['stolen_share']:.0%} of the time taken by the host{inputs}."
        )


def tables(details):
    """The Markdown between the markers; with `details`, also where it was measured."""
    results = [
        json.loads((RESULTS / f"{name}.json").read_text()) | {"name": name}
        for name in SCRIPTS
        if (RESULTS / f"{name}.json").exists()
    ]
    lines = [*speed_rows(results, details), "", *size_rows(results)]
    if details:
        lines += ["", *conditions(results)]
    return "\n".join(lines)


def replaced(text, content):
    """The text with `content` between its markers, or None if it has none."""
    if BEGIN not in text or END not in text:
        return None
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{content}\n{END}{rest.split(END, 1)[1]}"


def main():
    """Write, or check, both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a table is out of date")
    check = parser.parse_args().check
    stale = []
    for path, details in ((Path(__file__).with_name("README.md"), True), (ROOT / "README.md", False)):
        text = path.read_text() if path.exists() else ""
        new = replaced(text, tables(details))
        if new is None:
            print(f"{path.relative_to(ROOT)} has no {BEGIN} ... {END}: left alone")
        elif new != text:
            stale.append(path)
            if not check:
                path.write_text(new)
    if check and stale:
        sys.exit(f"out of date, run benchmarks/tables.py: {', '.join(str(path.relative_to(ROOT)) for path in stale)}")


if __name__ == "__main__":
    main()
