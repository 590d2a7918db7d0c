"""The ClientApp of a SuperNode lets a scenario's faults happen, and kills nobody's process."""

import pytest
from flwr.app import Context, RecordDict

from fedapt.deploy import flower_app
from fedapt.grid.inline import Inline
from fedapt.grid.visit import ByMessage
from fedapt.scenario import dump_scenario
from tests.grid.conftest import same_bits, scenario
from tests.grid.play import play


def nodes(path):
    """SuperNodes without a network: the app, in this process, with the context that a SuperNode would give it."""

    def app(message, context):
        where = {"partition-id": context.node_config["partition-id"]}
        return flower_app.client(message, Context(1, 1, where, RecordDict(), {"scenario": str(path)}))

    return lambda enrolment: Inline(ByMessage(app))


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("crash", "failed", "its worker crashed (faults.crash)"),
        ("hang", "failed", "its worker hung (faults.hang)"),
        ("drop", "dropped", "it dropped out (faults.drop)"),
        ("nan", "rejected", "non-finite in "),
    ],
)
def test_a_fault_fails_the_client_once_and_no_process(fault, status, reason, tmp_path):
    wanted = scenario(faults={fault: 1.0})
    (tmp_path / "a.yaml").write_text(dump_scenario(wanted))
    _, rows, _ = play(wanted, nodes(tmp_path / "a.yaml"), rounds=1, cohort=[1, 2])
    assert [(row.client, row.attempt, row.status) for row in rows] == [(1, 1, status), (2, 1, status)]
    assert all(row.reason.startswith(reason) for row in rows)


def test_without_faults_a_supernode_gives_the_bits_of_inline(tmp_path):
    (tmp_path / "a.yaml").write_text(dump_scenario(scenario()))
    model, rows, _ = play(scenario(), nodes(tmp_path / "a.yaml"), rounds=1, cohort=[1, 2])
    expected, plain, _ = play(scenario(), rounds=1, cohort=[1, 2])
    assert same_bits(model, expected) and rows == plain
