from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from fedapt.clients.instructions import EvaluateReport
from fedapt.clients.precision.policy import Wish
from fedapt.errors import DamagedData
from fedapt.grid.wishes import Learned
from fedapt.record.checkpoint import Checkpoint

STATE = Checkpoint(
    {"conv1.weight": np.array([[1.5, -0.0]], np.float32)},
    {"m_t": {"conv1.weight": np.array([1e-300])}, "round": 3},
    "",
    {
        '{"kind":"apt"}#7': Learned(
            Wish({"conv1": 6}, "why", {"conv1": 2.0}, {"sums": {"conv1": np.ones(2)}}), {"conv1": 0.1 + 0.2}
        )
    },
    {7: EvaluateReport(samples=3, correct=2, loss=0.1)},
    {7: 0.1 + 0.2},
    {"clients": {7: {"left": np.ones(2, np.float32)}}},
)


def test_a_checkpoint_comes_back_to_the_last_bit() -> None:
    back = Checkpoint.from_files(STATE.files())
    assert back.model["conv1.weight"].tobytes() == STATE.model["conv1.weight"].tobytes()
    assert back.strategy["m_t"]["conv1.weight"].tolist() == [1e-300] and back.strategy["round"] == 3
    assert (back.scores, back.batteries) == (STATE.scores, STATE.batteries)
    assert back.gateway["clients"][7]["left"].tolist() == [1.0, 1.0]
    (wish,), (kept,) = back.wishes.values(), STATE.wishes.values()
    assert wish.wish.memory["sums"]["conv1"].tolist() == [1.0, 1.0] and wish.gavg == kept.gavg
    assert (wish.wish.bits, wish.wish.why, wish.wish.sensitivity) == (kept.wish.bits, "why", {"conv1": 2.0})


def test_its_bytes_are_those_of_its_values() -> None:
    assert STATE.files() == Checkpoint.from_files(STATE.files()).files()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", b""),
        ("state.json", b"[]"),
        ("state.json", b"{}"),
        ("state.json", b"[" * 100_000),
        ("state.json", b'{"model": {"$": "os.system"}}'),
        ("state.json", b'{"model": {"$": "array", "name": "nowhere"}}'),
        ("state.safetensors", b""),
        ("state.safetensors", bytes(8)),
        ("state.safetensors", b"\x80\x04\x95 a pickle"),
    ],
)
def test_anything_else_is_one_sentence(name: str, content: bytes) -> None:
    with pytest.raises(DamagedData, match=r"^the state of a round cannot be read \(.*\)$"):
        Checkpoint.from_files(STATE.files() | {name: content})


def test_a_score_that_no_client_can_report_is_refused() -> None:
    files = STATE.files()
    wrong = load(files["state.safetensors"]) | {"scores.correct": np.array([-1])}
    with pytest.raises(DamagedData):
        Checkpoint.from_files(files | {"state.safetensors": save(wrong)})


def test_a_battery_without_a_finite_level_is_refused() -> None:
    files = STATE.files()
    for level in (np.array([np.nan]), np.array([1]), np.array([1.0, 2.0]), np.array(1.0)):
        wrong = load(files["state.safetensors"]) | {"batteries.level_j": level}
        with pytest.raises(DamagedData):
            Checkpoint.from_files(files | {"state.safetensors": save(wrong)})


def test_clients_without_scores_and_batteries_come_back() -> None:
    none = replace(STATE, scores={}, batteries={})
    assert Checkpoint.from_files(none.files()).scores == {} == Checkpoint.from_files(none.files()).batteries
