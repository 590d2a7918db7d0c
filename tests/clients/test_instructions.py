"""fedapt.clients.instructions: what crosses the network in a header is checked when it is read."""

import json
import math

import pytest
from pydantic import ValidationError

from fedapt.clients.instructions import EvaluateReport, Instructions, LayerReport, TrainReport, read_instructions
from fedapt.errors import DamagedData
from fedapt.quant import GridOptions

FIELDS = {"seed": 1, "round": 0, "client": 3, "epochs": 1, "batch": 32, "lr": 0.05, "rounding": "truncate"}
WHOLE = Instructions(**FIELDS, grid=GridOptions(granularity="tensor", headroom=2.0), proximal_mu=0.5)
REPORT = TrainReport(
    samples=70,
    batches={32: 2, 6: 1},
    train_loss=0.25,
    layers={"fc": LayerReport(gavg=3.5, underflow_share=0.5, clip_share=0.0)},
)


def test_instructions_survive_the_header():
    assert read_instructions({"instructions": json.loads(json.dumps(WHOLE.model_dump()))}) == WHOLE


def test_reports_survive_the_header_with_the_sizes_of_batches_as_numbers():
    assert TrainReport.model_validate_json(json.dumps(REPORT.model_dump(mode="json"))) == REPORT
    evaluated = EvaluateReport(samples=3, correct=2, loss=0.5)
    assert EvaluateReport.model_validate_json(evaluated.model_dump_json()) == evaluated


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 1.5), ("seed", "1"), ("round", -1), ("client", -1), ("epochs", -1), ("batch", 0), ("batch", True),
        ("lr", 0.0), ("lr", -0.1), ("lr", math.nan), ("lr", math.inf), ("rounding", "floor"), ("grid", {"headroom": 0.0}),
        ("proximal_mu", -1.0), ("proximal_mu", math.nan), ("momentum", 0.9), ("most_steps", 0), ("link", {"bits": 1}),
    ],
)  # fmt: skip
def test_instructions_that_cannot_be_followed_are_refused_with_the_field(field, value):
    with pytest.raises(DamagedData, match=rf"the message's header is not valid: instructions\.{field}"):
        read_instructions({"instructions": WHOLE.model_dump() | {field: value}})


@pytest.mark.parametrize("field", [*FIELDS, "grid"])
def test_instructions_that_lack_a_field_are_refused(field):
    fields = {name: value for name, value in WHOLE.model_dump().items() if name != field}
    with pytest.raises(DamagedData, match=rf"the message's header is not valid: instructions\.{field}: Field required"):
        read_instructions({"instructions": fields})


def test_work_that_ends_early_is_the_first_batches_of_the_first_epochs():
    told = Instructions(**FIELDS | {"epochs": 2, "batch": 4}, grid=GridOptions())
    found = {most: told.model_copy(update={"most_steps": most}).batches(10) for most in (None, 1, 2, 3, 4, 5, 6, 99)}
    assert found == {
        None: {4: 4, 2: 2}, 1: {4: 1}, 2: {4: 2}, 3: {4: 2, 2: 1}, 4: {4: 3, 2: 1}, 5: {4: 4, 2: 1},
        6: {4: 4, 2: 2}, 99: {4: 4, 2: 2},
    }  # fmt: skip


@pytest.mark.parametrize(("most", "seen"), [(None, 10), (1, 4), (2, 8), (3, 10), (4, 10)])
def test_who_stops_within_an_epoch_has_seen_fewer_samples(most, seen):
    told = Instructions(**FIELDS | {"epochs": 2, "batch": 4}, grid=GridOptions(), most_steps=most)
    assert told.seen(10) == seen


@pytest.mark.parametrize("header", [{}, {"instructions": None}, {"instructions": []}, {"instructions": "train"}])
def test_a_header_without_instructions_is_refused(header):
    with pytest.raises(DamagedData, match="the message's header is not valid: instructions: "):
        read_instructions(header)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("samples", -1), ("samples", 1.5), ("train_loss", math.nan), ("train_loss", math.inf), ("kind", "evaluated"),
        ("batches", {"x": 1}), ("batches", {1: 2**63}), ("samples", 2**63), ("accuracy", 1.0), ("layers", {"fc": {"gavg": 1.0}}),
        ("relative_error", -0.1), ("relative_error", math.inf),
        ("layers", {"fc": {"gavg": -1.0, "underflow_share": 0.0, "clip_share": 0.0}}),
        ("layers", {"fc": {"gavg": math.nan, "underflow_share": 0.0, "clip_share": 0.0}}),
        ("layers", {"fc": {"gavg": 1.0, "underflow_share": 1.01, "clip_share": 0.0}}),
        ("layers", {"fc": {"gavg": 1.0, "underflow_share": 0.0, "clip_share": -0.01}}),
    ],
)  # fmt: skip
def test_a_report_of_impossible_numbers_is_refused(field, value):
    with pytest.raises(ValidationError, match=field):
        TrainReport.model_validate_json(json.dumps(REPORT.model_dump(mode="json") | {field: value}))


@pytest.mark.parametrize(("field", "value"), [("samples", -1), ("correct", -1), ("loss", math.nan), ("kind", "trained")])
def test_an_evaluation_of_impossible_numbers_is_refused(field, value):
    fields = {"samples": 3, "correct": 2, "loss": 0.5} | {field: value}
    with pytest.raises(ValidationError, match=field):
        EvaluateReport.model_validate_json(json.dumps(fields))
