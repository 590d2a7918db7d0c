"""Ten digit-like glyphs, each in two forms, as poly-lines and as tables of the distance to the pen's path.

The glyphs are our own. They live in a box of 2 x 2 around the origin, y downwards, and about 0.7 of it is used.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Path = list[tuple[float, float]]

FORMS = 2
REACH = 1.6  # the distance tables cover -REACH .. REACH in both directions
CELLS = 128


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> Path:
    """Return points on an ellipse from `start` to `end`, in degrees clockwise from three o'clock."""
    angles = np.radians(np.linspace(start, end, max(4, round(abs(end - start) / 24) + 1)))
    return [(x + rx * float(np.cos(a)), y + ry * float(np.sin(a))) for a in angles]


GLYPHS: tuple[tuple[list[Path], list[Path]], ...] = (
    ([arc(0, 0, 0.44, 0.68, -90, 270)], [arc(0.02, 0, 0.32, 0.7, -70, 275)]),
    ([[(0.0, -0.7), (0.0, 0.7)]], [[(-0.28, -0.4), (0.05, -0.7), (0.05, 0.68)], [(-0.25, 0.68), (0.35, 0.68)]]),
    (
        [arc(0, -0.32, 0.4, 0.36, 190, 390) + [(-0.42, 0.66), (0.46, 0.66)]],
        [arc(0, -0.36, 0.36, 0.34, 180, 400) + arc(-0.2, 0.5, 0.2, 0.16, 300, 60) + [(0.1, 0.52), (0.5, 0.7)]],
    ),
    (
        [arc(-0.02, -0.34, 0.36, 0.34, 200, 450) + arc(-0.02, 0.34, 0.42, 0.35, 270, 520)],
        [[(-0.36, -0.66), (0.36, -0.66), (-0.04, -0.12)] + arc(-0.06, 0.28, 0.42, 0.4, 275, 510)],
    ),
    (
        [[(-0.3, -0.66), (-0.4, 0.12), (0.44, 0.12)], [(0.24, -0.3), (0.2, 0.7)]],
        [[(0.22, 0.7), (0.22, -0.68), (-0.46, 0.24), (0.48, 0.24)]],
    ),
    (
        [[(0.4, -0.66), (-0.3, -0.66), (-0.34, -0.06)] + arc(-0.02, 0.28, 0.42, 0.4, 235, 500)],
        [[(-0.26, -0.62), (-0.28, -0.1)] + arc(0.0, 0.26, 0.38, 0.42, 240, 510), [(-0.28, -0.6), (0.44, -0.68)]],
    ),
    (
        [[(0.3, -0.7), (-0.1, -0.42), (-0.36, 0.1)] + arc(0.0, 0.32, 0.37, 0.36, 180, -180)],
        [[(-0.3, -0.7), (-0.38, 0.2)] + arc(-0.02, 0.36, 0.36, 0.32, 190, -150)],
    ),
    (
        [[(-0.42, -0.64), (0.42, -0.64), (-0.1, 0.7)]],
        [[(-0.42, -0.5), (-0.38, -0.66), (0.42, -0.62), (0.1, 0.0), (0.0, 0.7)], [(-0.2, 0.04), (0.38, 0.0)]],
    ),
    (
        [arc(0, -0.34, 0.33, 0.33, 90, 450), arc(0, 0.34, 0.39, 0.35, -90, 270)],
        [arc(0, -0.36, 0.32, 0.3, -30, -270) + arc(0, 0.34, 0.38, 0.36, -80, 230) + [(0.28, -0.5)]],
    ),
    (
        [arc(-0.02, -0.32, 0.36, 0.35, 0, -360) + [(0.32, 0.7)]],
        [arc(-0.02, -0.32, 0.36, 0.35, -30, -360) + arc(-0.08, 0.24, 0.42, 0.45, -10, 140)],
    ),
)


def _distance(points: Floats, path: Path) -> Floats:
    """Return the distance of each point (p, 2) to the nearest segment of a path."""
    ends = np.asarray(path, dtype=np.float32)
    start, along = ends[:-1], np.diff(ends, axis=0)
    offset = points[:, None] - start
    share = np.clip((offset * along).sum(-1) / (along * along).sum(-1), 0, 1)
    nearest: Floats = np.linalg.norm(offset - share[..., None] * along, axis=-1).min(axis=1)
    return nearest


@cache
def distance_tables() -> Floats:
    """Return (10 * FORMS, CELLS, CELLS) float32: the distance from each cell's centre to the pen's path.

    Row `FORMS * digit + form` belongs to that form of that digit; a cell is addressed as [y, x].
    """
    centres = (np.arange(CELLS, dtype=np.float32) + 0.5) * (2 * REACH / CELLS) - REACH
    points = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    forms = [form for glyph in GLYPHS for form in glyph]
    tables = [np.minimum.reduce([_distance(points, path) for path in form]) for form in forms]
    return np.stack(tables).reshape(-1, CELLS, CELLS).astype(np.float32)
