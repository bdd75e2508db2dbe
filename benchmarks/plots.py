"""Figures as SVG, written out of text: curves of time against size, and what the stages of a run take.

They are read in light and dark pages alike (the colours follow the reader's setting) and have the same bytes for the
same figures. `tables.py` writes and checks them. Knows shapes and text; never what was measured: see `tables.figures`.
"""

import math
from html import escape

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 76, 120, 48, 60  # what surrounds the axes
STYLE = """
text { font: 13px sans-serif; fill: #1f2328 }
.title { font-weight: bold; font-size: 15px }
.small { font-size: 11px; fill: #59636e }
.page { fill: #ffffff }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.axis { stroke: #59636e; stroke-width: 1 }
.ink0 { fill: #0969da; stroke: #0969da }
.ink1 { fill: #bc4c00; stroke: #bc4c00 }
.ink2 { fill: #1a7f37; stroke: #1a7f37 }
.ink3 { fill: #8250df; stroke: #8250df }
.ink4 { fill: #9a6700; stroke: #9a6700 }
.line { fill: none; stroke-width: 2 }
.bar { stroke: none }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc }
.small { fill: #9198a1 }
.page { fill: #0d1117 }
.grid { stroke: #3d444d }
.axis { stroke: #9198a1 }
.ink0 { fill: #4493f8; stroke: #4493f8 }
.ink1 { fill: #f0883e; stroke: #f0883e }
.ink2 { fill: #3fb950; stroke: #3fb950 }
.ink3 { fill: #ab7df8; stroke: #ab7df8 }
.ink4 { fill: #d29922; stroke: #d29922 }
.line { fill: none }
.bar { stroke: none }
}
""".strip()


def curves(title, x_label, y_label, series, x_ticks):
    """Curves on logarithmic axes.

    Parameters
    ----------
    title, x_label, y_label : str
        The labels name the units.
    series : list of (str, list of (float, float))
        Names, and points (x, y), both above 0. At most five.
    x_ticks : list of (float, str)
        Where the axis is marked, and with what. The y axis has marks at 1, 2 and 5 of every power of ten.
    """
    xs = [x for _, points in series for x, _ in points] + [x for x, _ in x_ticks]
    ys = [y for _, points in series for _, y in points]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    y_ticks = _steps(min(ys), max(ys))
    x_of = _scale(min(xs), max(xs), LEFT, right)
    y_of = _scale(y_ticks[0], y_ticks[-1], bottom, TOP)
    parts = []
    for x, text in x_ticks:
        at = _number(x_of(x))
        parts.append(f'<line class="grid" x1="{at}" y1="{TOP}" x2="{at}" y2="{bottom}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 20}" text-anchor="middle">{escape(text)}</text>')
    for y in y_ticks:
        at = _number(y_of(y))
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{at}" x2="{right}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{_number(y_of(y) + 4)}" text-anchor="end">{y:g}</text>')
    parts.append(f'<path class="axis line" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    parts.append(f'<text x="{(LEFT + right) // 2}" y="{HEIGHT - 14}" text-anchor="middle">{escape(x_label)}</text>')
    middle = (TOP + bottom) // 2
    parts.append(
        f'<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">{escape(y_label)}</text>'
    )
    for index, (name, points) in enumerate(series):
        ends = [(_number(x_of(x)), _number(y_of(y))) for x, y in sorted(points)]
        parts.append(f'<polyline class="line ink{index}" points="{" ".join(f"{x},{y}" for x, y in ends)}"/>')
        parts += [_mark(index, x, y) for x, y in ends]
        x, y = ends[-1]
        parts.append(f'<text x="{float(x) + 10:g}" y="{float(y) + 4:g}">{escape(name)}</text>')
    return _document(title, parts, HEIGHT)


def bars(title, x_label, stages, rows):
    """A stacked bar per row, in shares of its own sum.

    Parameters
    ----------
    title, x_label : str
    stages : sequence of str
        Names of the parts; at most five.
    rows : list of (str, sequence of float, str)
        What was measured, the parts' amounts, and what is written below the bar.
    """
    left, right = 40, WIDTH - 40
    bottom = TOP + 40 + 84 * len(rows)
    parts = []
    x = left
    for index, stage in enumerate(stages):
        parts.append(f'<rect class="bar ink{index}" x="{x}" y="{TOP}" width="14" height="14"/>')
        parts.append(f'<text x="{x + 20}" y="{TOP + 12}">{escape(stage)}</text>')
        x += 40 + 8 * len(stage)
    marks = [(percent, _number(left + (right - left) * percent / 100)) for percent in range(0, 101, 20)]
    for percent, at in marks:
        parts.append(f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{percent}</text>')
    parts.append(f'<text x="{(left + right) // 2}" y="{bottom + 42}" text-anchor="middle">{escape(x_label)}</text>')
    for row, (name, amounts, below) in enumerate(rows):
        y = TOP + 40 + 84 * row
        parts.append(f'<text x="{left}" y="{y + 12}">{escape(name)}</text>')
        parts += [f'<line class="grid" x1="{at}" y1="{y + 16}" x2="{at}" y2="{y + 48}"/>' for _, at in marks]
        begin, total = float(left), sum(amounts)
        for index, amount in enumerate(amounts):
            width = (right - left) * amount / total
            parts.append(
                f'<rect class="bar ink{index}" x="{_number(begin)}" y="{y + 20}" width="{_number(width)}" height="24"/>'
            )
            begin += width
        parts.append(f'<text class="small" x="{left}" y="{y + 62}">{escape(below)}</text>')
    return _document(title, parts, bottom + BOTTOM)


def _document(title, parts, height):
    """The whole file."""
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'role="img">\n<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style>\n'
        f'<rect class="page" width="{WIDTH}" height="{height}"/>\n'
        f'<text class="title" x="{WIDTH // 2}" y="28" text-anchor="middle">{escape(title)}</text>\n{body}\n</svg>\n'
    )


def _scale(least, most, begin, end):
    """A function from amounts to places, in equal steps per factor."""
    low, span = math.log(least), math.log(most) - math.log(least)
    return lambda value: begin + (math.log(value) - low) / (span or 1) * (end - begin)


def _steps(least, most):
    """1, 2 and 5 of the powers of ten, from the last that is not above `least` to the first not below `most`."""
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    steps = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    first = max(index for index, step in enumerate(steps) if step <= least)
    last = min((index for index, step in enumerate(steps) if step >= most and index > first), default=len(steps) - 1)
    return steps[first : last + 1]


def _mark(index, x, y):
    """A point of a curve: a circle or a square, so that curves differ without colour."""
    if index % 2 == 0:
        return f'<circle class="ink{index}" cx="{x}" cy="{y}" r="4"/>'
    return f'<rect class="ink{index}" x="{float(x) - 4:g}" y="{float(y) - 4:g}" width="8" height="8"/>'


def _number(value):
    """A place, to a tenth of a pixel."""
    return f"{value:.1f}"
