"""fedapt.data.glyphs: distance tables of ten digits."""

import numpy as np
import pytest

from fedapt.data.glyphs import CELLS, FORMS, GLYPHS, REACH, arc, distance_tables


def at(table, x, y):
    """Return the entry of the cell that holds a place in the glyph's box."""
    column, row = (int((value + REACH) * CELLS / (2 * REACH)) for value in (x, y))
    return table[row, column]


CELL = 2 * REACH / CELLS


def test_there_is_a_table_for_each_form_of_each_digit():
    assert len(GLYPHS) == 10 and all(len(forms) == FORMS for forms in GLYPHS)
    assert distance_tables().shape == (10 * FORMS, CELLS, CELLS) and distance_tables().dtype == np.float32


def test_a_one_is_a_vertical_line():
    one = distance_tables()[FORMS * 1]
    assert at(one, 0.5, 0.0) == pytest.approx(0.5, abs=CELL)
    assert at(one, -1.0, 0.6) == pytest.approx(1.0, abs=CELL)
    assert at(one, 0.3, -1.1) == pytest.approx(0.5, abs=CELL)  # 0.3 beside and 0.4 above its upper end at -0.7


def test_a_zero_is_empty_inside():
    zero = distance_tables()[0]
    assert at(zero, 0.0, 0.0) == pytest.approx(0.44, abs=0.03)
    assert at(zero, 0.44, 0.0) < 2 * CELL


def test_no_pen_leaves_the_box():
    points = np.array([point for forms in GLYPHS for form in forms for path in form for point in path])
    assert np.abs(points).max() <= 0.75


def test_an_arc_runs_clockwise_from_three_o_clock():
    points = arc(1.0, 2.0, 3.0, 4.0, 0, 90)
    assert points[0] == pytest.approx((4.0, 2.0)) and points[-1] == pytest.approx((1.0, 6.0))
