"""Pictures of dashboards: each panel's query results as they are, drawn as SVG in the places that Grafana gives them."""

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

import grafana

COLUMN, UNIT, GAP = 60, 28, 4
MARGIN = 12
HEADER = 56
# Of a panel: its title, the axis at its left, and one line of the legend.
TITLE, AXIS, LINE = 24, 66, 15
LEGEND_LINES = 3
CHARACTER = 5.9
# Told apart also by those who see no red or green: after Okabe and Ito, then darker.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7a6f00", "#5b3a8c", "#7f7f7f", "#1b5e57", "#a3443f", "#274b8f")
STYLE = """
text{font:11px system-ui,'DejaVu Sans',sans-serif;fill:#52585f}
.h{font-size:20px;font-weight:600;fill:#1f2328}.r{font-size:14px;font-weight:600;fill:#1f2328}
.t{font-size:12px;font-weight:600;fill:#1f2328}.n{fill:#8a9099}.v{font-size:26px;font-weight:600}
.p{fill:#fff;stroke:#dfe2e6}.g{stroke:#eceef0}.l{fill:none;stroke-width:1.4;stroke-linejoin:round}
"""


@dataclass(frozen=True)
class Box:
    """A place of the picture, in pixels."""

    x: float
    y: float
    width: float
    height: float


def board_svg(board, looks, start, end):
    """A dashboard with what `looks` has for its panels between two times."""
    # As many points as can be told apart.
    step = max(1, round((end - start) / 75))
    placed = grafana.laid_out(board)
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in placed)
    width, height = grafana.WIDTH * COLUMN + 2 * MARGIN, HEADER + bottom * UNIT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"><style>{STYLE}</style>',
        f'<rect width="{width}" height="{height}" fill="#f4f5f7"/>',
        label(MARGIN, 28, board.title, "h"),
        label(MARGIN, 46, f"{board.description} A rehearsal of {end - start:.0f} s.", "n"),
    ]
    rows = iter(board.rows)
    for place in placed:
        grid = place["gridPos"]
        box = Box(MARGIN + grid["x"] * COLUMN, HEADER + grid["y"] * UNIT, grid["w"] * COLUMN - GAP, grid["h"] * UNIT - GAP)
        if place["type"] == "row":
            row = next(rows)
            panels = iter(row.panels)
            parts.append(label(box.x, box.y + 19, row.title, "r"))
            if row.is_closed():
                parts.append(label(box.x + 9 * (len(row.title) + 2), box.y + 19, f"{len(row.panels)} panels, closed: {row.panels[0].empty}", "n"))
            continue
        panel = next(panels)
        found = [(legend, points) for _, series in looks.panel(panel, step, end) for legend, _, points in series]
        parts += panel_parts(panel, box, found, start, end, step)
    return "\n".join((*parts, "</svg>\n"))


def panel_parts(panel, box, found, start, end, step):
    yield f'<rect class="p" x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="3"/>'
    yield label(box.x + 8, box.y + 16, panel.title, "t")
    if not found:
        reason = panel.empty or next((query.empty for query in panel.queries if query.empty), "")
        yield label(box.x + box.width / 2, box.y + box.height / 2, "No data" + (f": {reason}" if reason else ""), "n", "middle")
    elif panel.kind == "stat":
        yield from stat_parts(panel, box, found[0][1], start, end)
    else:
        yield from graph_parts(panel, box, found, start, end, step)


def stat_parts(panel, box, points, start, end):
    """The last value, over a small curve of all."""
    peak = max(value for _, value in points) or 1
    area = Box(box.x + 1, box.y + box.height * 0.55, box.width - 2, box.height * 0.43)
    at = [(area.x + (when - start) / (end - start) * area.width, area.y + area.height * (1 - max(value, 0) / peak)) for when, value in points]
    path = " ".join(f"{x:.0f},{y:.0f}" for x, y in at)
    floor = area.y + area.height
    yield f'<polygon fill="{COLOURS[0]}" fill-opacity=".15" points="{at[0][0]:.0f},{floor:.0f} {path} {at[-1][0]:.0f},{floor:.0f}"/>'
    yield f'<text class="v" x="{box.x + box.width / 2:.0f}" y="{box.y + 56}" text-anchor="middle" style="fill:{COLOURS[0]}">{text_of(points[-1][1], panel.unit)}</text>'


def graph_parts(panel, box, found, start, end, step):
    lines, drawn = legend_lines([legend for legend, _ in found], box.width - 16)
    area = Box(box.x + AXIS, box.y + TITLE + 4, box.width - AXIS - 12, box.height - TITLE - 26 - len(lines) * LINE)
    curves = stacked(found) if panel.stacked else [(points, None) for _, points in found]
    values = [value for upper, _ in curves for _, value in upper]
    low, high, ticks = axis(0 if not panel.signed else min(values), max(values), panel.unit)

    def place(when, value):
        return area.x + (when - start) / (end - start) * area.width, area.y + area.height * (1 - (value - low) / (high - low))

    for tick in ticks:
        y = place(start, tick)[1]
        yield f'<line class="g" x1="{area.x}" x2="{area.x + area.width}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield label(area.x - 5, y + 4, text_of(tick, panel.unit, ticks[-1]), "", "end")
    for second in range(0, int(end - start) + 1, 15 if end - start <= 120 else 60):
        yield label(place(start + second, low)[0], area.y + area.height + 14, f"{second} s", "n", "middle")
    for index, (upper, lower) in reversed(list(enumerate(curves))):
        colour = COLOURS[index % len(COLOURS)]
        for piece in pieces(upper, step):
            at = [place(when, value) for when, value in piece]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
            if lower:
                below = {when: value for when, value in lower}
                back = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(when, below[when]) for when, _ in reversed(piece)))
                yield f'<polygon fill="{colour}" fill-opacity=".35" points="{path} {back}"/>'
            if len(at) == 1:
                yield f'<circle fill="{colour}" cx="{at[0][0]:.1f}" cy="{at[0][1]:.1f}" r="1.6"/>'
            else:
                yield f'<polyline class="l" stroke="{colour}" points="{path}"/>'
    y = box.y + box.height - len(lines) * LINE + 6
    for line in lines:
        for index, x, text in line:
            colour = COLOURS[index % len(COLOURS)]
            yield f'<rect x="{box.x + 8 + x:.0f}" y="{y - 5:.0f}" width="10" height="3" fill="{colour}"/>'
            yield label(box.x + 22 + x, y, text)
        y += LINE
    if drawn < len(found):
        yield label(box.x + box.width - 8, box.y + 16, f"and {len(found) - drawn} more", "n", "end")


def stacked(found):
    """Upper and lower edge of each series, one upon the other; a series without a value at some time counts as 0 there."""
    times = sorted({when for _, points in found for when, _ in points})
    lower = dict.fromkeys(times, 0.0)
    curves = []
    for _, points in found:
        own = dict(points)
        upper = {when: lower[when] + own.get(when, 0.0) for when in times}
        curves.append((list(upper.items()), list(lower.items())))
        lower = upper
    return curves


def pieces(points, step):
    """A series in pieces without gaps."""
    piece = points[:1]
    for before, point in zip(points, points[1:]):
        if point[0] - before[0] > 1.5 * step:
            yield piece
            piece = []
        piece.append(point)
    if piece:
        yield piece


def legend_lines(legends, width):
    """Lines of (number, x, text), and how many legends found a place."""
    lines, x = [[]], 0
    for index, legend in enumerate(legends):
        text = legend if len(legend) <= 48 else legend[:47] + "…"
        wide = 28 + len(text) * CHARACTER
        if x and x + wide > width:
            if len(lines) == LEGEND_LINES:
                return lines, index
            lines.append([])
            x = 0
        lines[-1].append((index, x, text))
        x += wide
    return lines, len(legends)


def axis(low, high, unit):
    """Ends of an axis and its ticks: four or five round steps."""
    if unit == "percentunit" and 0.8 < high <= 1:
        return 0, 1, (0, 0.25, 0.5, 0.75, 1)
    high = high if high > low else low + 1
    # Sizes are round in powers of 1024.
    scale = 1024 ** int(math.log(high, 1024)) if unit == "bytes" and high >= 1024 else 1
    low, high = low / scale, high / scale
    raw = (high - low) / 4
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * round_step for round_step in (1, 2, 2.5, 5, 10) if size * round_step >= raw)
    first = math.floor(low / step)
    last = math.ceil(high / step - 1e-9)
    return first * step * scale, last * step * scale, tuple(number * step * scale for number in range(first, last + 1))


def text_of(value, unit, largest=None):
    """A value as Grafana writes it; all ticks of an axis in the unit of the largest."""
    largest = abs(value if largest is None else largest)
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if unit in ("s", "ms", "µs"):
        factor = {"s": 1, "ms": 1e-3, "µs": 1e-6}[unit]
        names = ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"))
        size, name = next(((size, name) for size, name in names if largest * factor >= size * (2 if size > 1 else 1)), names[-1])
        return f"{value * factor / size:.3g} {name}" if value else "0"
    if unit in ("bytes", "Bps"):
        steps = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")) if unit == "bytes" else ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1, "B/s"))
        size, name = next(((size, name) for size, name in steps if largest >= size), steps[-1])
        return f"{value / size:.3g} {name}" if value else "0"
    size, name = next(((size, name) for size, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")) if largest >= size), (1, ""))
    number = f"{value / size:.3g}{name}" if value else "0"
    return number + {"reqps": " req/s", "cps": " c/s"}.get(unit, "")


def label(x, y, text, kind="", anchor=""):
    style = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.0f}" y="{y:.0f}"{style}>{escape(str(text))}</text>'
