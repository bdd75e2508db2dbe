"""results/*.json -> the tables here, in the project's README.md and in the models' cards, between their markers; plots.

Only committed results are read; nothing is measured. `--check` writes nothing and fails if a table or a plot is out of
date.
"""

import argparse
import json
import sys

import plots
from harness import HERE, RESULTS, ROOT
from peers import TITLES as PEERS

MOST_TIME = 1 / 3  # of a full-width network's, asked of the bundled models
MODELS = ROOT / "runtime" / "cellrt" / "models"
TITLES = PEERS | {"loop": "cellrt, one by one"}
SCRIPTS = (
    "kernels_speed",
    "stardist_3d_speed",
    "segment_speed",
    "throughput",
    "flow_speed",
    "flow_3d_speed",
    "cellpose_speed",
    "footprint",
    "overhead",
    "latency",
    "scaling",
    "kernel_limits",
    "large_image",
    "large_volume",
    "large_flow_volume",
)
STAGES = ("read", "normalise", "network", "decode", "write")  # of `Stream.profile`

# What the project's README shows: how a row's `what` begins, by script. Of several thread counts the largest.
HIGHLIGHTS = (
    ("segment_speed", "segment 512"),
    ("segment_speed", "segment 2048"),
    ("throughput", ""),
    ("kernels_speed", "NMS"),
    ("kernels_speed", "painting"),
    ("stardist_3d_speed", "3D NMS"),
    ("stardist_3d_speed", "segment 31 x 122"),
    ("flow_speed", "whole post-processing of flows, 2048"),
    ("flow_3d_speed", "whole post-processing"),
    ("flow_3d_speed", "segment"),
    ("cellpose_speed", "segment"),
    ("footprint", "installed"),
    ("footprint", "import (cellrt"),
    ("footprint", "first label"),
)


def seconds(value):
    """A time with two or three digits and a fitting unit."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def ratio(value):
    """A ratio with two or three digits."""
    return f"{value:.0f}x" if value >= 20 else f"{value:.1f}x"


def speed_rows(rows):
    """Table lines of everything that both sides did."""
    yield "| | against | threads | theirs | cellrt | faster (smallest to largest of the pairs) | goal | agreement |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        if "ratio" in row:
            times = " | ".join(seconds(row[side]["seconds"]["median"]) for side in (row["peer"], "cellrt"))
            extremes = f"{ratio(row['ratio']['min'])} to {ratio(row['ratio']['max'])}"
            yield (
                f"| {row['what']} | {TITLES[row['peer']]} | {row['threads']} | {times} "
                f"| **{ratio(row['ratio']['median'])}** ({extremes}) | {row['target']} | {row['agreement']} |"
            )


def sizes_of(row):
    """Theirs, ours and the goal of a row of memory, installation or start; None if it is of another kind."""
    if "cellrt_megabytes" in row:
        target = f"{row['target']} of theirs ({row['value']:.2f})"
        return f"{row['peer_megabytes']} MB", f"{row['cellrt_megabytes']} MB", target
    if "stardist" not in row or "ratio" in row:
        return None
    if row["unit"] == "MB":
        return f"{row['stardist']} MB", f"{row['value']:.0f} MB", f"{row['target']} MB"
    target = row["target"] if row["target"] == "-" else f"{row['target']} s"
    return seconds(row["stardist"]), seconds(row["value"]), target


def size_rows(rows):
    """Table lines of memory, installation and start."""
    yield "| | against | theirs | cellrt | goal |"
    yield "|---|---|---|---|---|"
    for row in rows:
        if found := sizes_of(row):
            theirs, ours, target = found
            yield f"| {row['what']} | {TITLES[row.get('peer', 'stardist')]} | {theirs} | **{ours}** | {target} |"


AMOUNTS = {"%": "{:.1%}", "x": "{:.2f}x", "MB": "{:.0f} MB"}  # other units stand behind three digits


def amount(row):
    """What a row measured, with its unit."""
    if row["unit"] == "s":
        return seconds(row["value"])
    return AMOUNTS.get(row["unit"], f"{{:.3g}} {row['unit']}").format(row["value"]).strip()


def other_rows(rows):
    """Table lines of what is measured against the machine, or one thread against two."""
    yield "| | threads | | goal |"
    yield "|---|---|---|---|"
    for row in rows:
        if "value" in row and not ({"ratio", "quantiles", "sizes"} & row.keys() or sizes_of(row)):
            yield f"| {row['what']} | {row.get('threads', '')} | **{amount(row)}** | {row['target']} |"


def latency_rows(rows):
    """Table lines of one image again and again."""
    yield "| one image again and again | threads | median | 90 % within | 99 % within | slowest | load | first call |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        if "quantiles" in row:
            found = " | ".join(seconds(row["quantiles"][percent]) for percent in ("50", "90", "99", "100"))
            opening = f"{seconds(row['load_seconds'])} | {seconds(row['first_seconds'])}"
            yield f"| {row['what']} | {row['threads']} | {found} | {opening} |"


def scaling_rows(rows):
    """Table lines of time against size."""
    yield "| | against | smallest | largest | threads | slope of the logarithms | goal |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        if "sizes" in row:
            ends = [f"{row['sizes'][k]:,}: {seconds(row['seconds'][k]['median'])}" for k in (0, -1)]
            yield (
                f"| {row['what']} | {row['against']} | {ends[0]} | {ends[1]} | {row['threads']} "
                f"| **{row['value']:.2f}** | {row['target']} |"
            )


def conditions(results):
    """One sentence per script: machine, versions, load, inputs."""
    for result in results:
        machine, load = result["machine"], result["load_average"]
        told = ("stardist", "tensorflow-cpu", "tensorflow_cpu", "cellpose", "torch", "cellrt", "onnxruntime")
        found = [pair for side in result["versions"].values() for pair in side.items()]
        versions = ", ".join(f"{name} {version}" for name, version in found if name in told)
        took = f", {result['minutes']:.1f} minutes" if "minutes" in result else ""
        inputs = "".join(f"; {result[key]}" for key in ("model", "image") if key in result)
        yield (
            f"- `{result['name']}.py`, {result['date']}{took}: {machine['processor']}, {machine['cores']} cores, "
            f"{machine['system']}; {versions}; load average {load['before'][0]:.1f} before, {load['after'][0]:.1f} "
            f"after, niceness {result['niceness']}, {result['stolen_share']:.0%} of the time taken by the host{inputs}."
        )


def results():
    """What the scripts found, by name, as far as they ran."""
    paths = [(name, RESULTS / f"{name}.json") for name in SCRIPTS]
    return [json.loads(path.read_text()) | {"name": name} for name, path in paths if path.exists()]


def tables():
    """All that was measured and where, for the README here."""
    found = results()
    rows = [row for result in found for row in result["rows"]]
    blocks = [
        [*lines]
        for lines in (speed_rows(rows), size_rows(rows), other_rows(rows), latency_rows(rows), scaling_rows(rows))
    ]
    pictures = [f"![{title}](plots/{name}.svg)" for name, (title, _) in figures().items()]
    blocks = (
        [block for block in blocks if len(block) > 2] + [[picture] for picture in pictures] + [[*conditions(found)]]
    )
    return "\n\n".join("\n".join(block) for block in blocks)


def highlights():
    """The rows that a user decides by, for the project's README: times with the memory that they took."""
    by_name = {result["name"]: result["rows"] for result in results()}
    lines = ["| | against | theirs | cellrt | | agreement |", "|---|---|---|---|---|---|"]
    for name, begin in HIGHLIGHTS:
        rows = by_name.get(name, [])
        for index, row in enumerate(rows):
            if not row["what"].startswith(begin) or row.get("peer") == "loop":
                continue
            peer = TITLES[row.get("peer", "stardist")]
            if "ratio" not in row:
                if found := sizes_of(row):
                    gain = ratio(row["stardist"] / row["value"])
                    lines.append(f"| {row['what']} | {peer} | {found[0]} | {found[1]} | **{gain}** | |")
                continue
            if row["threads"] < max(other["threads"] for other in rows if "ratio" in other):
                continue
            sides = [seconds(row[side]["seconds"]["median"]) for side in (row["peer"], "cellrt")]
            memory = rows[index + 1] if index + 1 < len(rows) else {}
            if "cellrt_megabytes" in memory:  # it follows the row that it belongs to
                sides = [f"{side}, {size}" for side, size in zip(sides, sizes_of(memory)[:2], strict=True)]
            gain = f"**{ratio(row['ratio']['median'])}**"
            lines.append(f"| {row['what']} | {peer} | {sides[0]} | {sides[1]} | {gain} | {row['agreement']} |")
    return "\n".join(lines)


def figures():
    """Titles and contents of the plots, by name, of what was measured already."""
    by_name = {result["name"]: result["rows"] for result in results()}
    found = {}
    for row in by_name.get("scaling", []):
        if "peer_seconds" in row:
            points = [
                (name, list(zip(row["sizes"], [taken["median"] for taken in times], strict=False)))
                for name, times in ((TITLES[row["peer"]], row["peer_seconds"]), ("cellrt", row["seconds"]))
            ]
            title = f"Segmenting one image on {row['threads']} threads"
            ticks = [(pixels, f"{round(pixels**0.5)}²") for pixels in row["sizes"]]
            figure = plots.curves(title, "size of the image, pixels", "time, seconds", points, ticks)
            found["time_against_size"] = (title, figure)
    bars = []
    for row in by_name.get("throughput", []):
        if "stages" in row:
            each = [row["stages"][stage] / row["images"] for stage in STAGES]
            told = " · ".join(f"{stage} {seconds(taken)}" for stage, taken in zip(STAGES, each, strict=True))
            passed = seconds(row["stages"]["passed"] / row["images"])
            bars.append((row["stages_of"], each, f"per image: {told}; {passed} pass"))
    if bars:
        title = "What the stages of a stream take"
        found["stages"] = (title, plots.bars(title, "share of the time of all stages, %", STAGES, bars))
    return found


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


def int8_rows(rows):
    """Table lines of 8 bits against float32."""
    yield (
        "| | images, objects | threads | float32 | int8 | faster | AP at 0.5, int8 against float32 | 0.9 "
        "| on the masks at 0.5: float32 | int8 | file |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        before, after = (seconds(row["seconds"][name]["median"]) for name in ("fp32", "int8"))
        spread = f"{row['ratio']['min']:.2f}x to {row['ratio']['max']:.2f}x"
        ap, masks, sizes = row["ap"], row["ap50_on_truth"], row["file_megabytes"]
        yield (
            f"| {row['what']} | {row['images']}, {row['objects'][0]} and {row['objects'][1]} | {row['threads']} "
            f"| {before} | {after} | **{row['ratio']['median']:.2f}x** ({spread}) | **{ap[0]:.3f}** | {ap[1]:.3f} "
            f"| {masks[0]:.3f} | {masks[1]:.3f} | {sizes[0]:.1f} MB, {sizes[1]:.1f} MB |"
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
    """Files, the markers in them, and what belongs between; without a marker, the whole file."""
    yield HERE / "README.md", "bench", tables()
    yield ROOT / "README.md", "bench", highlights()
    for name, (_, content) in figures().items():
        yield HERE / "plots" / f"{name}.svg", None, content
    if _rows("bundled_models"):
        yield ROOT / "README.md", "models", overview()
        for path in sorted(MODELS.glob("*.md")):
            yield path, "accuracy", card(path.stem)
    if rows := _rows("fine_tuning"):
        yield HERE / "README.md", "fine-tuning", "\n".join(accuracy_rows(rows))
    if rows := _rows("int8"):
        told = conditions([json.loads((RESULTS / "int8.json").read_text()) | {"name": "int8"}])
        yield HERE / "README.md", "int8", "\n".join([*int8_rows(rows), "", *told])


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
        new = content if marker is None else replaced(text, marker, content)
        if new is None:
            print(f"{path.relative_to(ROOT)} has no markers for {marker}: left alone")
        elif new != text:
            stale.append(path)
            if not check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(new)
    if check and stale:
        sys.exit(f"out of date, run benchmarks/tables.py: {', '.join(str(path.relative_to(ROOT)) for path in stale)}")


if __name__ == "__main__":
    main()
