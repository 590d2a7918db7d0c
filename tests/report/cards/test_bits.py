import numpy as np
import pytest

from fedapt.report.cards import bits
from fedapt.results import Run, read_run
from tests.report.example import LAYERS, Example


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(Example(rounds=3).write(tmp_path_factory.mktemp("runs")))


def test_the_map_of_bits_has_a_line_a_layer_and_a_column_a_round(run: Run) -> None:
    heat = bits.layer_bits(run).figure.data[0]
    assert (list(heat.y), list(heat.x), heat.z.shape) == (LAYERS, [1, 2, 3], (4, 3))


def test_each_group_has_a_view_of_what_its_own_clients_held(run: Run) -> None:
    plot = bits.layer_bits(run)
    views = {view.label: view.traces[0]["z"] for view in plot.views}
    assert list(views) == ["all groups", *(group["group"] for group in run.summary["groups"] if group["updates"])]
    # In round 2 every board has 6 + 2 * (layer + 2) // 12 bits, and stm32h7 two bits less.
    assert views["jetson-nano"][:, 2].tolist() == [6, 6, 6, 6]
    assert views["stm32h7"][:, 2].tolist() == [4, 4, 4, 4]


def test_one_scale_of_colours_holds_all_groups(run: Run) -> None:
    plot = bits.layer_bits(run)
    cells = np.concatenate([view.traces[0]["z"].ravel() for view in plot.views])
    heat = plot.figure.data[0]
    assert heat.zmin == np.nanmin(cells) and heat.zmax >= np.nanmax(cells)


def test_a_long_run_shows_every_nth_round_of_the_map(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits, "MOST_CELLS", 40)
    assert list(bits.layer_bits(run).figure.data[0].x) == [1, 3]
