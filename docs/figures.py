"""Draw the figures of docs/explanation/scores.md again:  python docs/figures.py"""

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "explanation" / "figures"
SIDE, GAP = 200, 20
REAL, DRAWN, GREY = "#7a8896", "#d9662b", "#444"
Points = list[tuple[float, float]]


def cloud(centre: tuple[float, float], spread: float, n: int, seed: int) -> Points:
    """`n` points around `centre`, all in 0 to 1."""
    points = np.random.default_rng(seed).normal(centre, spread, size=(n, 2)).clip(0.03, 0.97)
    return [(float(x), float(y)) for x, y in points]


def panel(number: int, title: str, real: Points, drawn: Points, marks: str = "") -> str:
    """One square of a figure: real pictures grey, drawn ones orange."""
    left = number * (SIDE + GAP)
    dots = [
        f'<circle cx="{x * SIDE:.1f}" cy="{y * SIDE:.1f}" r="4" fill="{colour}" fill-opacity="0.8"/>'
        for colour, points in ((REAL, real), (DRAWN, drawn))
        for x, y in points
    ]
    frame = f'<rect width="{SIDE}" height="{SIDE}" fill="#fff" stroke="#ccc"/>'
    text = f'<text x="{SIDE / 2}" y="{SIDE + 18}" text-anchor="middle" font-size="13" fill="{GREY}">{title}</text>'
    return f'<g transform="translate({left},0)">{frame}{marks}{"".join(dots)}{text}</g>'


def write(name: str, panels: list[str], height: int = SIDE + 28) -> None:
    """Write the panels side by side as `name`.svg."""
    width = len(panels) * (SIDE + GAP) - GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-4 -4 {width + 8} {height + 8}" font-family="sans-serif">'
    (FOLDER / f"{name}.svg").write_text(f"{head}{''.join(panels)}</svg>\n", encoding="utf-8")


def circles(points: Points, radius: float) -> str:
    """The neighbourhoods of `points`."""
    return "".join(
        f'<circle cx="{x * SIDE:.1f}" cy="{y * SIDE:.1f}" r="{radius * SIDE:.1f}" fill="{REAL}" fill-opacity="0.12"/>'
        for x, y in points
    )


def interval(number: int, title: str, low: float, high: float) -> str:
    """One row of the figure of intervals: a bar from `low` to `high`, both 0 to 1, beside the line of no change."""
    y, middle = 16 + 34 * number, 220
    bar = f'<line x1="{low * 440:.0f}" x2="{high * 440:.0f}" y1="{y}" y2="{y}" stroke="{DRAWN}" stroke-width="5"/>'
    dot = f'<circle cx="{(low + high) * 220:.0f}" cy="{y}" r="6" fill="{DRAWN}"/>'
    line = f'<line x1="{middle}" x2="{middle}" y1="{y - 17}" y2="{y + 17}" stroke="{GREY}" stroke-dasharray="3 3"/>'
    return f'{line}{bar}{dot}<text x="460" y="{y + 5}" font-size="13" fill="{GREY}">{title}</text>'


def main() -> None:
    """All figures."""
    FOLDER.mkdir(exist_ok=True)
    real = cloud((0.5, 0.5), 0.14, 30, 0)
    far, near = cloud((0.22, 0.2), 0.09, 30, 1), cloud((0.52, 0.48), 0.14, 30, 2)
    write("distance", [panel(0, "base: far from the style", real, far), panel(1, "adapted: near", real, near)])
    collapsed = cloud((0.5, 0.5), 0.03, 30, 3)
    panels = [
        panel(0, "near and varied", real, near),
        panel(1, "near, but always the same", real, collapsed),
    ]
    write("variety", panels)
    few, marks = real[:14], circles(real[:14], 0.12)
    panels = [panel(0, "precision: in a circle", few, far[:8] + near[:10], marks)]
    write("overlap", [*panels, panel(1, "coverage: circles that are hit", few, collapsed[:12], marks)])
    copy = [(x + 0.012, y + 0.012) for x, y in real[:2]]
    write(
        "copies",
        [panel(0, "new pictures", real, near), panel(1, "two copies of training pictures", real, near[:20] + copy)],
    )
    rows = [("better: all of it on the good side", 0.55, 0.85), ("undecided: no change is possible", 0.38, 0.72)]
    rows += [("worse: all of it on the bad side", 0.12, 0.42)]
    write("words", ["".join(interval(i, *row) for i, row in enumerate(rows)), "", "", ""], 105)


if __name__ == "__main__":
    main()
