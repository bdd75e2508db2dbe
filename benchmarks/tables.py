"""results/*.json -> the tables here, in the project's README.md and in the models' cards, between their markers.

Only committed results are read; nothing is measured. `--check` writes nothing and fails if a table is out of date.
"""

import argparse
import json
import sys
from pathlib import Path

from harness import RESULTS, ROOT
from peers import TITLES

MOST_TIME = 1 / 3  # of a full-width network's, asked of the bundled models
MODELS = ROOT / "runtime" / "cellrt" / "models"
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


def accuracy_rows(rows):
    """Table lines of average precision."""
    yield "| held-out images | images | objects | AP at 0.5 | 0.7 | 0.9 | mean 0.5-0.9 | AP at 0.5, mean of images |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        ap = row["ap"]
        yield (
            f"| {row['what']} | {row['images']} | {row['objects']} | **{ap[0]:.3f}** | {ap[4]:.3f} | {ap[8]:.3f} "
            f"| **{row['mean_ap']:.3f}** | {row['ap50_by_image']:.3f} |"
        )


def card(name):
    """What a model's card says of its accuracy and speed."""
    rows = _rows("bundled_models")
    ours = [row | {"what": row["what"].split(", ", 1)[1]} for row in rows if row.get("model") == name and "ap" in row]
    if name == "nuclei":
        ours += [row for row in rows if row.get("model") == "star_torch"]
    lines = [*accuracy_rows(ours), ""]
    for row in rows:
        if row.get("model") == name and "share" in row:
            share = row["share"]
            lines.append(
                f"- {row['what'].split(': ')[1]}: {seconds(row['seconds']['median'])} on {row['threads']} threads, "
                f"{share['median']:.2f} of the time of a full-width StarDist network in the same run "
                f"({share['min']:.2f} to {share['max']:.2f}; asked: {MOST_TIME:.2f})"
            )
    return "\n".join(lines)


def overview():
    """What the project's README says of the models."""
    rows = _rows("bundled_models")
    timed = {row["model"]: row for row in rows if "share" in row and not row["options"]}
    lines = [
        "| | held-out images | AP at 0.5 | mean 0.5-0.9 | 1024 x 1024, 2 cores | of full-width StarDist's time |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "ap" in row and (row["what"].endswith("as they are") or row["model"] == "star_torch"):
            time = timed.get(row["model"])
            speed = "- | -" if time is None else f"{seconds(time['seconds']['median'])} | {time['share']['median']:.2f}"
            name = (
                "StarDist's torch port"
                if time is None
                else f"[`{row['model']}`](runtime/cellrt/models/{row['model']}.md)"
            )
            lines.append(
                f"| {name} | {row['images']} of {row['set']} | {row['ap'][0]:.3f} | {row['mean_ap']:.3f} | {speed} |"
            )
    return "\n".join(lines)


def _rows(name):
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def sections():
    """Files, the markers in them, and what belongs between."""
    yield Path(__file__).with_name("README.md"), "bench", tables(details=True)
    yield ROOT / "README.md", "bench", tables(details=False)
    if _rows("bundled_models"):
        yield ROOT / "README.md", "models", overview()
        for path in sorted(MODELS.glob("*.md")):
            yield path, "accuracy", card(path.stem)
    if rows := _rows("fine_tuning"):
        yield Path(__file__).with_name("README.md"), "fine-tuning", "\n".join(accuracy_rows(rows))


def replaced(text, marker, content):
    """The text with `content` between its markers, or None if it has none."""
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    if begin not in text or end not in text:
        return None
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"


def main():
    """Write, or check, all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a table is out of date")
    check = parser.parse_args().check
    stale = []
    for path, marker, content in sections():
        text = path.read_text() if path.exists() else ""
        new = replaced(text, marker, content)
        if new is None:
            print(f"{path.relative_to(ROOT)} has no markers for {marker}: left alone")
        elif new != text:
            stale.append(path)
            if not check:
                path.write_text(new)
    if check and stale:
        sys.exit(f"out of date, run benchmarks/tables.py: {', '.join(str(path.relative_to(ROOT)) for path in stale)}")


if __name__ == "__main__":
    main()
