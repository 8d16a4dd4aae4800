"""Plots of a result, as SVG: how ours compares in each row, and how cost grows.

Both are drawn from the document that `report.document` makes, and read well on light and on dark pages:
they bring their own background, which follows the reader's preference.
"""

import math
from html import escape

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.faint { fill: #656d76 }
.paper { fill: #ffffff }
.grid { stroke: #d0d7de }
.one { stroke: #656d76; stroke-width: 1.5 }
.time { fill: #0969da; stroke: #0969da }
.cpu { fill: #bc4c00; stroke: #bc4c00 }
.range { stroke-width: 2; opacity: .45 }
.curve { fill: none; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.faint { fill: #9198a1 }
.paper { fill: #0d1117 }
.grid { stroke: #3d444d }
.one { stroke: #9198a1 }
.time { fill: #4493f8; stroke: #4493f8 }
.cpu { fill: #f0883e; stroke: #f0883e }
}
"""


def svg(width, height, title, parts):
    style = STYLE.strip().replace("\n", "")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" aria-label="{escape(title)}">',
            f"<style>{style}</style>",
            f'<rect class="paper" width="{width}" height="{height}" rx="6"/>',
            text(20, 28, title, "title"),
            *parts,
            "</svg>",
            "",
        ]
    )


def text(x, y, content, kind="", anchor="start"):
    kind = f' class="{kind}"' if kind else ""
    anchor = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.0f}" y="{y:.0f}"{kind}{anchor}>{escape(content)}</text>'


def line(x1, y1, x2, y2, kind):
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def dot(x, y, kind):
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'


def diamond(x, y, kind):
    return f'<path class="{kind}" d="M{x - 5:.1f} {y:.1f}l5 -5 5 5 -5 5z"/>'


# The plot of the rows.
WIDTH = 880
LEFT, RIGHT = 460, 765
TOP, LINE = 92, 21
LEAST, MOST = 0.125, 16
MARKS = (0.125, 0.25, 0.5, 1, 2, 4, 8, 16)


def rows(document):
    """How many times as good ours is as each contender: in its figure, and in CPU."""
    compared = [
        (row, name, each)
        for row in document["rows"]
        for name, each in row["contenders"].items()
        if each["ratio"]
    ]
    bottom = TOP + LINE * len(compared)
    parts = [
        dot(26, 47, "time"),
        text(36, 51, "throughput or time, with the range"),
        diamond(272, 47, "cpu"),
        text(282, 51, "CPU of all processes"),
        text(LEFT, 51, "TinyP2P is so many times as good; 1 × is equal", "faint"),
        text(RIGHT + 16, 72, "time · CPU", "faint"),
    ]
    for mark in MARKS:
        parts.append(line(across(mark), TOP - 12, across(mark), bottom - 8, one_or_grid(mark)))
        parts.append(text(across(mark), 72, f"{mark:.3g}", "faint", "middle"))
    before = None
    for number, (row, name, each) in enumerate(compared):
        parts += compared_line(TOP + LINE * number, row, name, each, row is not before)
        before = row
    parts.append(text(20, bottom + 14, footer(document), "faint"))
    return svg(WIDTH, bottom + 28, "TinyP2P against what people use today", parts)


def one_or_grid(mark):
    return "one" if mark == 1 else "grid"


def across(ratio):
    """Where a ratio is; what is beyond the scale is at its end."""
    ratio = min(max(ratio, LEAST), MOST)
    return LEFT + (RIGHT - LEFT) * math.log(ratio / LEAST) / math.log(MOST / LEAST)


def compared_line(y, row, name, each, is_first):
    ratio, cost = each["ratio"], each["cpu_ratio"]
    parts = [text(20, y + 4, row["work"])] if is_first else []
    parts.append(text(LEFT - 14, y + 4, name, "faint", "end"))
    parts.append(line(across(ratio["min"]), y, across(ratio["max"]), y, "time range"))
    shown = f"{ratio['median']:.2f}"
    if cost:
        # Less CPU is better, so the ratio is turned round.
        parts.append(diamond(across(1 / cost["median"]), y, "cpu"))
        shown += f" · {1 / cost['median']:.2f}"
    parts.append(dot(across(ratio["median"]), y, "time"))
    parts.append(text(RIGHT + 16, y + 4, shown))
    return parts


def footer(document):
    machine = document["machine"]
    kind = "quick run, small files; " if document["settings"]["is_quick"] else ""
    return (
        f"{kind}{machine['date']}, {machine['cores']} cores ({machine['processor']}), "
        f"Linux {machine['kernel']}, {document['settings']['rounds']} rounds"
    )


# The plot of growth: panels beside each other.
PANEL_WIDTH, PANEL_HEIGHT, PANEL_TOP = 420, 240, 74

PANELS = (
    ("members", "sent", "idle members", "bytes a second and node"),
    ("files", "first hashing", "files of one byte", "CPU us a file, first hashing"),
)


def growth(document):
    """How cost grows with members and with files."""
    parts = []
    for number, (subject, metric, below, above) in enumerate(PANELS):
        points = [
            (survey["amount"], each["value"])
            for survey in document["surveys"]
            for each in survey["metrics"]
            if survey["subject"] == subject and each["name"] == metric
        ]
        parts += panel(20 + number * PANEL_WIDTH, sorted(points), below, above)
    height = PANEL_TOP + PANEL_HEIGHT + 76
    parts.append(text(20, height - 14, footer(document), "faint"))
    return svg(WIDTH, height, "How cost grows", parts)


def panel(x, points, below, above):
    """Both scales are logarithmic."""
    left, right = x + 56, x + PANEL_WIDTH - 40
    bottom = PANEL_TOP + PANEL_HEIGHT
    parts = [
        text(x, PANEL_TOP - 18, above),
        text((left + right) / 2, bottom + 34, below, "", "middle"),
    ]
    if not points:
        return [
            *parts,
            text((left + right) / 2, PANEL_TOP + 100, "not measured", "faint", "middle"),
        ]
    lowest, highest = decades([value for _, value in points])
    first, last = decades([amount for amount, _ in points])
    right_of = lambda amount: left + (right - left) * share_of(amount, first, last)
    up = lambda value: bottom - PANEL_HEIGHT * share_of(value, lowest, highest)
    for power in range(lowest, highest + 1):
        parts.append(line(left, up(10**power), right, up(10**power), "grid"))
        parts.append(text(left - 6, up(10**power) + 4, f"{10**power:,}", "faint", "end"))
    for power in range(first, last + 1):
        mark = 10**power
        parts.append(text(right_of(mark), bottom + 16, f"{mark:,}", "faint", "middle"))
    corners = " ".join(f"{right_of(amount):.1f},{up(value):.1f}" for amount, value in points)
    parts.append(f'<polyline class="time curve" style="fill:none" points="{corners}"/>')
    for amount, value in points:
        parts.append(dot(right_of(amount), up(value), "time"))
        parts.append(text(right_of(amount), up(value) - 10, f"{value:,.0f}", "", "middle"))
    return parts


def decades(values):
    """The powers of ten around some values, never the same one twice."""
    low = math.floor(math.log10(max(min(values), 1)))
    high = math.ceil(math.log10(max(*values, 1)) + 0.05) if len(values) > 1 else low + 1
    return low, max(high, low + 1)


def share_of(value, first, last):
    return min(max((math.log10(max(value, 1)) - first) / (last - first), 0), 1)
