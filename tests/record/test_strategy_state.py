import numpy as np
import pytest
from flwr.serverapp.strategy import Bulyan, FedAdam, FedAvgM

from fedapt.record.plain import NotPlain
from fedapt.record.strategy_state import restore, state_of


class Counting:
    """A strategy that keeps what plain data cannot say."""

    def __init__(self) -> None:
        self.seen = {1}


class Speaking(Counting):
    def state_dict(self) -> dict[str, list[int]]:
        return {"seen": sorted(self.seen)}

    def load_state_dict(self, state: dict[str, list[int]]) -> None:
        self.seen = set(state["seen"])


def test_a_new_strategy_holds_nothing_whatever_its_options() -> None:
    assert state_of(FedAvgM(server_momentum=0.5), FedAvgM(server_momentum=0.5)) == {}
    assert state_of(Bulyan(num_malicious_nodes=1), Bulyan(num_malicious_nodes=1)) == {}


def test_only_what_has_changed_is_kept_and_put_into_a_new_one() -> None:
    used, new = FedAdam(eta=0.3), FedAdam(eta=0.3)
    used.m_t, used.v_t = {"w": np.ones(2, np.float32)}, {"w": np.zeros(2, np.float32)}
    state = state_of(used, FedAdam(eta=0.3))
    assert state.keys() == {"m_t", "v_t"}
    restore(new, state)
    assert vars(new) == vars(used)


@pytest.mark.parametrize("other", [np.array([1, 2], np.float64), np.array([[1, 2]], np.float32), np.array([1, 3], np.float32)])
def test_an_array_of_another_type_shape_or_value_is_a_change(other: np.ndarray) -> None:
    one, fresh = FedAdam(), FedAdam()
    one.m_t, fresh.m_t = {"w": np.array([1, 2], np.float32)}, {"w": other}
    assert state_of(one, fresh).keys() == {"m_t"}


def test_what_cannot_be_saved_is_refused_unless_the_strategy_says_it_plainly() -> None:
    with pytest.raises(NotPlain, match="seen is a set"):
        state_of(Counting(), Counting())
    used, new = Speaking(), Speaking()
    used.seen.add(7)
    restore(new, state_of(used, Speaking()))
    assert new.seen == {1, 7}


def test_a_closure_may_remember_something_and_is_refused() -> None:
    def counting() -> object:
        calls = []
        return lambda replies: calls.append(replies)

    one, other = Counting(), Counting()
    one.seen, other.seen = counting(), counting()
    with pytest.raises(NotPlain, match="seen is a function"):
        state_of(one, other)
