"""Many machines: Ray's own cluster of two nodes on this one."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from fedapt.errors import SetupError
from fedapt.grid.ray_session import join_ray
from fedapt.scenario import Engine


def nodes(folder, loss):
    """Run `two_nodes` with a Ray of its own, and return what it printed last."""
    command = [sys.executable, "-m", "tests.grid.two_nodes", str(folder), loss]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=Path(__file__).parents[2])
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_node_lost_in_mid_round_costs_one_attempt_and_no_bit(tmp_path):
    result = nodes(tmp_path, "one")
    assert result["same_bits"] and result["ok"] == 12
    assert len(result["lost"]) == 1 and result["lost"][0].startswith("its worker died: ")


@pytest.mark.slow
def test_when_all_nodes_are_lost_the_run_fails_after_the_grace_and_is_resumed_to_the_same_bits(tmp_path):
    result = nodes(tmp_path, "all")
    assert result["error"].startswith("no worker is left, and none came in 5 s: its worker died: ")
    assert result["exit_code"] == 5 and result["ray_left_running"]
    assert 1 <= result["committed"] < result["rounds"] == 12
    assert result["same_bits"]


@pytest.mark.slow
def test_a_cluster_is_joined_by_its_address_with_a_worker_a_cpu_over_all_nodes_and_one_that_leaves_costs_no_bit(tmp_path):
    result = nodes(tmp_path, "join")
    assert result["workers"] == result["nodes"] == 2
    assert result["same_bits"] and result["ok"] == 12
    assert len(result["lost"]) == 1


def test_where_no_cluster_is_joining_one_is_one_sentence():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(SetupError, match=f"engine.address {address}: no Ray cluster can be joined there"):
            join_ray(address)


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "somewhere", ""])
def test_an_address_is_auto_or_that_of_a_node(address):
    assert Engine(address="auto").address == "auto" and Engine(address="10.0.0.1:6379").address == "10.0.0.1:6379"
    with pytest.raises(ValidationError, match="`auto` or host:port"):
        Engine(address=address)
