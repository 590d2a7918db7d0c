import pytest

from fedapt.report.cards import costs

GROUPS = [
    {"group": "<b>pi</b>", "updates": 4, "energy_compute_j": 1500.0, "energy_movement_j": 500.0, "energy_radio_j": 0.0},
    {"group": "mcu", "updates": 0, "energy_compute_j": 250.0, "energy_movement_j": 0.0, "energy_radio_j": 0.0},
]


def test_energy_is_seen_whole_in_shares_and_for_an_update() -> None:
    plot = costs.energy(GROUPS)
    total, shares, each = plot.views
    assert [list(bar.x) for bar in plot.figure.data] == [[1.5, 0.25], [0.5, 0.0]]
    assert [trace["x"].tolist() for trace in shares.traces] == [[0.75, 1.0], [0.25, 0.0]]
    # 1500 J and 500 J over 4 updates, in joules; a group without updates is shown whole.
    assert [list(trace["x"]) for trace in each.traces] == [[375.0, 250.0], [125.0, 0.0]]
    assert (total.label, shares.label, each.label) == ("total", "shares", "an update")


def test_a_share_tells_its_joules() -> None:
    hover = costs.energy(GROUPS).views[1].traces[0]["customdata"]
    assert hover[0] == "&lt;b&gt;pi&lt;/b&gt;<br>compute 75.0 %: 1.50 kJ"


@pytest.mark.parametrize("count", [1, 9])
def test_any_number_of_groups_can_be_drawn(count: int) -> None:
    groups = [{"group": f"g{n}", "downlink_bytes": 0, "uplink_bytes": n} for n in range(count)]
    assert costs.traffic(groups).figure.layout.height > 100


def test_a_group_that_spent_nothing_at_all_can_be_drawn() -> None:
    idle = [{"group": "g", "updates": 0, "energy_compute_j": 0.0, "energy_movement_j": 0.0, "energy_radio_j": 0.0}]
    assert len(costs.energy(idle).figure.data) == 0
