"""fedapt.selection: the exam that every rule takes, and the arithmetic of each by hand."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedapt.seeding import numpy_stream
from fedapt.selection import SELECTORS
from fedapt.selection.data_size import DataSize
from fedapt.selection.draw import weighted
from fedapt.selection.energy_aware import EnergyAware
from fedapt.selection.history import History
from fedapt.selection.power_of_choice import PowerOfChoice
from fedapt.selection.selection import Candidate
from fedapt.selection.uniform import Uniform
from fedapt.selection.utility import Utility
from tests.selection.conftest import candidate

EXAM = pytest.mark.parametrize("kind", SELECTORS)
FIGURES = st.none() | st.floats(0, 1e6)
HISTORIES = st.just(History()) | st.builds(
    History, times=st.integers(1, 99), last_round=st.integers(0, 40), loss=FIGURES, time_s=FIGURES, energy_j=FIGURES
)
CANDIDATES = st.lists(
    st.builds(Candidate, st.integers(0, 999), st.integers(1, 10**6), st.none() | st.floats(0, 1), HISTORIES),
    unique_by=lambda candidate: candidate.client,
    max_size=12,
)

GOLDEN = [
    (0, range(100), 10, 0, [6, 8, 19, 21, 27, 57, 58, 78, 91, 93]),
    (0, range(100), 10, 1, [10, 23, 32, 38, 45, 58, 64, 67, 80, 81]),
    (7, [0, 2, 3, 5, 8, 9, 11], 3, 4, [5, 8, 9]),
]


def stream(number=0):
    return numpy_stream(3, "cohort", number)


def shares(rule, candidates, count, draws=4000, round=0):
    """Return how often each set of clients was chosen."""
    return Counter(tuple(rule.choose(candidates, count, round, stream(number))) for number in range(draws))


def within(found, draws, probability, sigmas=4.5):
    """Return whether a count of successes is as near to its mean as chance leaves it: by chance 1 of 150,000 is not."""
    return abs(found - draws * probability) <= sigmas * math.sqrt(draws * probability * (1 - probability))


@EXAM
def test_a_rule_is_chosen_by_its_kind_alone_and_keeps_its_options(kind):
    rule = SELECTORS[kind]()
    assert rule.kind == kind and SELECTORS[kind].__doc__
    assert SELECTORS[kind].model_validate(rule.model_dump()) == rule
    with pytest.raises(ValidationError):
        SELECTORS[kind].model_validate({"no_such_option": 1})


@EXAM
@given(candidates=CANDIDATES, count=st.integers(1, 14), round=st.integers(0, 50))
def test_a_rule_chooses_as_many_as_asked_for_or_all_and_nobody_twice(kind, candidates, count, round):
    chosen = SELECTORS[kind]().choose(candidates, count, round, stream(round))
    assert chosen == sorted(set(chosen)) and len(chosen) == min(count, len(candidates))
    assert set(chosen) <= {candidate.client for candidate in candidates}


@EXAM
@given(candidates=CANDIDATES, count=st.integers(1, 14), round=st.integers(0, 50), order=st.randoms(use_true_random=False))
def test_the_same_stream_chooses_the_same_clients_whatever_their_order(kind, candidates, count, round, order):
    shuffled = list(candidates)
    order.shuffle(shuffled)
    one = SELECTORS[kind]().choose(candidates, count, round, stream(round))
    assert SELECTORS[kind]().choose(shuffled, count, round, stream(round)) == one


@EXAM
def test_rounds_differ_where_nothing_is_known_of_anybody(kind):
    candidates = [candidate(client) for client in range(30)]
    rounds = {tuple(SELECTORS[kind]().choose(candidates, 5, 0, stream(number))) for number in range(20)}
    assert len(rounds) > 15


def test_uniform_gives_the_cohorts_that_fedapt_always_gave():
    """From `numpy_stream(seed, "cohort", round).choice(sorted(clients), size, replace=False)`, written down in November 2026."""
    for seed, clients, size, number, expected in GOLDEN:
        candidates = [candidate(client) for client in clients]
        assert Uniform().choose(candidates, size, number, numpy_stream(seed, "cohort", number)) == expected


def test_data_size_draws_one_after_another_in_proportion_to_samples():
    """Weights 1, 2, 3: P{0, 1} = 1/6 2/5 + 2/6 1/4 = 0.15, P{0, 2} = 1/6 3/5 + 3/6 1/3 = 4/15, the rest is P{1, 2}."""
    found = shares(DataSize(), [candidate(0, 100), candidate(1, 200), candidate(2, 300)], 2)
    assert within(found[0, 1], 4000, 0.15) and within(found[0, 2], 4000, 4 / 15) and within(found[1, 2], 4000, 7 / 12)


def test_weights_of_nought_come_last_and_only_if_they_must():
    for number in range(50):
        drawn = weighted(stream(number), [0.0, 1e-300, 0.0, 5.0], 3)
        assert set(drawn[:2]) == {1, 3} and drawn[2] in (0, 2)
    assert {weighted(stream(number), [0.0, 0.0], 1)[0] for number in range(50)} == {0, 1}


def test_power_of_choice_takes_the_highest_losses_and_first_of_all_those_never_asked():
    candidates = [candidate(0, loss=0.5), candidate(1, loss=2.5), candidate(2), candidate(3, loss=2.0), candidate(4, loss=1.0)]
    rule = PowerOfChoice(candidates=5)
    assert rule.choose(candidates, 1, 9, stream()) == [2]
    assert rule.choose(candidates, 2, 9, stream()) == [1, 2]
    assert rule.choose(candidates, 3, 9, stream()) == [1, 2, 3]


def test_power_of_choice_takes_a_client_that_never_answered_for_an_ordinary_one():
    """The median of 1, 2 and 3 is 2: behind 3, and level with 2."""
    candidates = [candidate(0, loss=1.0), candidate(1, loss=2.0), candidate(2, loss=3.0), candidate(3, time_s=None)]
    found = shares(PowerOfChoice(candidates=4), candidates, 2, draws=400)
    assert set(found) == {(1, 2), (2, 3)} and within(found[1, 2], 400, 0.5)


def test_power_of_choice_looks_at_d_candidates_drawn_by_samples():
    """d = 2, samples and losses 1, 2, 3: the higher loss of two wins, so client 1 if {0, 1} is drawn, else client 2."""
    candidates = [candidate(0, 1, loss=1.0), candidate(1, 2, loss=2.0), candidate(2, 3, loss=3.0)]
    found = shares(PowerOfChoice(), candidates, 1)
    assert set(found) == {(1,), (2,)} and within(found[1,], 4000, 0.15)


def test_power_of_choice_with_no_more_candidates_than_places_is_data_size():
    candidates = [candidate(client, client + 1, loss=float(client)) for client in range(9)]
    for number in range(20):
        expected = DataSize().choose(candidates, 4, 0, stream(number))
        assert PowerOfChoice(candidates=4).choose(candidates, 4, 0, stream(number)) == expected


def test_the_utility_of_a_client_is_that_of_the_paper():
    """Round 3 is R = 4. First: |B| loss = 200, the highest; L = 3; 1 + sqrt(0.1 ln 4 / 3) = 1.21497.

    Second: 50 / 200, L = 1, sqrt(0.1 ln 4) = 0.37233, and twice as slow as wanted: (0.25 + 0.37233) / 4 = 0.15558.
    Third: asked in round 1, no answer: sqrt(0.1 ln 4 / 2) = 0.26328.
    """
    known = [
        candidate(0, 100, loss=2.0, last_round=2, time_s=10.0),
        candidate(1, 50, loss=1.0, last_round=0, time_s=40.0),
        candidate(2, 70, last_round=1),
    ]
    found = Utility(clip_quantile=1.0, duration_s=20.0).utilities(known, 3)
    assert found == pytest.approx([1.21497, 0.15558, 0.26328], abs=1e-5)


def test_utility_clips_what_is_far_above_the_others():
    """Statistical utilities 10, 20 .. 90 and 10,000, whose 0.5 quantile is 55: all above count as 1, and 10 as 10/55."""
    known = [candidate(client, 10, loss=float(client + 1)) for client in range(9)] + [candidate(9, 10, loss=1000.0)]
    found = Utility(clip_quantile=0.5).utilities(known, 0)
    assert found == pytest.approx([min((client + 1) * 10 / 55, 1.0) for client in range(9)] + [1.0])


def test_utility_wants_the_median_duration_unless_told_otherwise():
    known = [candidate(client, 10, loss=1.0, time_s=float(time_s)) for client, time_s in enumerate((1, 2, 3, 4, 6))]
    assert Utility().utilities(known, 0) == pytest.approx([1, 1, 1, 9 / 16, 1 / 4])
    assert Utility(slowness=0.0).utilities(known, 0) == [1.0] * 5


def test_utility_explores_less_from_round_to_round_down_to_a_share():
    rule = Utility()
    assert [rule.exploring(round) for round in (0, 10, 1000)] == pytest.approx([0.9, 0.9 * 0.98**10, 0.2])
    candidates = [candidate(client, loss=1.0) for client in range(20)] + [candidate(client) for client in range(20, 40)]
    for round, explored in ((0, {9}), (10, {7, 8}), (1000, {2})):
        chosen = rule.choose(candidates, 10, round, stream())
        assert sum(client >= 20 for client in chosen) in explored


def test_utility_explores_its_share_also_where_clients_are_asked_one_by_one():
    known, new = [candidate(client, loss=1.0) for client in range(5)], [candidate(client) for client in range(5, 10)]
    found = shares(Utility(explore=0.2), [*known, *new], 1)
    assert within(sum(found[client,] for client in range(5, 10)), 4000, 0.2)


def test_utility_explores_as_far_as_there_is_anything_to_explore_or_to_exploit():
    known, new = [candidate(client, loss=1.0) for client in range(10)], [candidate(client) for client in range(10, 20)]
    assert set(Utility().choose([*known, new[0]], 5, 0, stream())) & {10} == {10}
    assert sum(client >= 10 for client in Utility(explore=0.0).choose([*known[:2], *new], 5, 0, stream())) == 3


def test_utility_draws_in_proportion_from_those_above_the_cut_off():
    """One place: 1.0 is the cut-off, 0.96 is above 0.95 of it, 0.9 is not. The first has 1 / 1.96."""
    known = [candidate(0, 100, loss=1.0), candidate(1, 96, loss=1.0), candidate(2, 90, loss=1.0)]
    found = shares(Utility(clip_quantile=1.0), known, 1)
    assert set(found) == {(0,), (1,)} and within(found[0,], 4000, 1 / 1.96)


def test_energy_aware_asks_a_half_full_client_a_quarter_as_often_and_an_empty_one_not_at_all():
    """Weights 1 on the mains, 1 full, 0.25 half full, 0 empty: 4/9, 4/9 and 1/9."""
    candidates = [candidate(0), candidate(1, charge=1.0), candidate(2, charge=0.5), candidate(3, charge=0.0)]
    found = shares(EnergyAware(), candidates, 1)
    assert set(found) == {(0,), (1,), (2,)}
    assert within(found[0,], 4000, 4 / 9) and within(found[1,], 4000, 4 / 9) and within(found[2,], 4000, 1 / 9)


def test_energy_aware_spares_those_below_a_charge_until_there_is_no_other():
    candidates = [candidate(client, charge=charge) for client, charge in enumerate((0.3, 0.31, 0.9, 0.1))]
    rule = EnergyAware(spare=0.3)
    assert set(shares(rule, candidates, 2, draws=50)) == {(1, 2)}
    assert set(shares(rule, candidates, 3, draws=50)) == {(0, 1, 2), (1, 2, 3)}


def test_energy_aware_with_a_power_of_nought_is_uniform_over_all_that_have_any_charge():
    candidates = [candidate(0, charge=1.0), candidate(1, charge=0.01)]
    assert within(shares(EnergyAware(power=0.0), candidates, 1)[0,], 4000, 0.5)


def test_a_rule_changes_no_global_random_state():
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    for kind in SELECTORS:
        SELECTORS[kind]().choose([candidate(client) for client in range(9)], 3, 0, stream())
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
