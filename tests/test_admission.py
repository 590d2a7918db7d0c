"""Promise 3: no update reaches an aggregate unless it was admitted; every rejection is named and charged."""

import functools
import io
import json
import math
import pickle
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import torch
from flwr.app import Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedapt.admission import Admission, admit_size, norm_of
from fedapt.clients.adaptation import Adaptation
from fedapt.clients.app import answer, payload
from fedapt.clients.instructions import EvaluateReport, Instructions
from fedapt.clients.link import Link
from fedapt.clients.samples import FILTERS
from fedapt.cost.planner import Plan
from fedapt.errors import DamagedData
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.inline import Inline
from fedapt.grid.visit import ByMessage, Task, down, receive
from fedapt.quant import GridOptions
from fedapt.quant.wire import QuantisedModel, digest_of, quantise_arrays, to_bytes
from tests.grid.conftest import enrolled, same_bits, scenario
from tests.grid.play import initial, play
from tests.invariants import Fault, Played, assert_contained
from tests.quant.forge import allocating_less_than, saved

LIAR = 2
CLIENTS = range(4)


class Lying(Inline):
    """`lie(reply, request)` gives the bytes, or the message, with which one client answers instead."""

    def __init__(self, enrolment, lie, liars=(LIAR,)):
        honest = enrolment.workshop.open().app

        def app(request, context):
            reply = honest(request, context)
            if context.node_id not in liars:
                return reply
            said = lie(payload(reply), request)
            return said if isinstance(said, Message) else answer(request, said)

        super().__init__(ByMessage(app))


def changed(change):
    """Return a lie that lets `change(tensors, header)` change a reply; its digest is right again."""

    def lie(reply, request):
        (length,) = struct.unpack_from("<Q", reply)
        header = json.loads(json.loads(reply[8 : 8 + length])["__metadata__"]["fedapt"])
        tensors = {name: values.copy() for name, values in safetensors.numpy.load(reply).items()}
        change(tensors, header)
        text = json.dumps({name: header[name] for name in sorted(header)} | {"digest": "0" * 64}, separators=(",", ":"))
        return saved(tensors, text)

    return lie


def tensor(name, make):
    """Return a lie about one tensor; None takes it away."""

    def change(tensors, header):
        made = make(tensors.pop(name)) if name in tensors else make(None)
        if made is not None:
            tensors[name] = made

    return changed(change)


def told(block, **fields):
    """Return a lie about some fields of the report, or of what it answers."""
    return changed(lambda tensors, header: header[block].update(fields))


def of_layer(name, **fields):
    return changed(lambda tensors, header: header["report"]["layers"][name].update(fields))


def put(value, count=1):
    def make(values):
        values.flat[:count] = value
        return values

    return make


def renamed(tensors, header):
    tensors["dense3.bias"] = tensors.pop("dense2.bias")


def without_layer(tensors, header):
    del header["layers"]["conv2"]
    for part in ("codes", "scale", "zero"):
        del tensors[f"conv2.{part}"]


def transposed(tensors, header):
    header["layers"]["dense2"] = [4, 64, 10]
    for part in ("scale", "zero"):
        tensors[f"dense2.{part}"] = np.resize(tensors[f"dense2.{part}"], 64)


def reshaped(tensors, header):
    header["layers"]["conv2"] = [4, 32, 9, 4, 4]


def one_scale(tensors, header):
    for part in ("scale", "zero"):
        tensors[f"conv2.{part}"] = tensors[f"conv2.{part}"][:1]


def at_eight_bits(tensors, header):
    header["layers"]["conv2"][0] = 8
    tensors["conv2.codes"] = np.zeros(4608, np.uint8)


def as_float(tensors, header):
    header["layers"]["conv1"][0] = 32
    tensors["conv1.weight"] = np.zeros((16, 1, 3, 3), np.float32)
    for part in ("codes", "scale", "zero"):
        del tensors[f"conv1.{part}"]


def with_bits(bits):
    return changed(lambda tensors, header: header["layers"].update(conv2=[bits, 32, 16, 3, 3]))


TENSORS = {
    "NaN in a scale": (tensor("conv2.scale", put(math.nan, 12)), r"^non-finite in conv2\.scale \(12 values\)$"),
    "inf in a zero": (tensor("conv1.zero", put(math.inf)), r"^non-finite in conv1\.zero \(1 values\)$"),
    "NaN in a float": (tensor("dense2.bias", put(math.nan, 3)), r"^non-finite in dense2\.bias \(3 values\)$"),
    "a scale of 0": (tensor("conv1.scale", put(0.0)), "^layer conv1: scales must be positive, normal and finite"),
    "a negative scale": (tensor("conv1.scale", put(-0.1)), "^layer conv1: scales must be positive"),
    "a denormal scale": (tensor("conv1.scale", put(1e-40)), "^layer conv1: scales must be positive"),
    "a zero off the grid": (tensor("conv1.zero", put(16.0)), r"^layer conv1: zeros must be whole numbers in 0\.\.15"),
    "a shape that broadcasts": (
        tensor("dense2.bias", lambda values: values[:1]),
        r"^dense2\.bias: expected shape \(10,\), got \(1,\)$",
    ),
    "no dimension": (
        tensor("dense2.bias", lambda values: values[:1].reshape(())),
        r"^dense2\.bias: expected shape \(10,\), got \(\)$",
    ),
    "transposed": (changed(transposed), r"^dense2\.weight: expected shape \(10, 64\), got \(64, 10\)$"),
    "of the same size": (changed(reshaped), r"^conv2\.weight: expected shape \(32, 16, 3, 3\), got \(32, 9, 4, 4\)$"),
    "one scale for all channels": (changed(one_scale), r"^conv2\.scale: expected shape \(32,\), got \(1,\)$"),
    "a missing float": (tensor("dense2.bias", lambda values: None), r"^dense2\.bias is missing from the reply$"),
    "missing codes": (tensor("conv2.codes", lambda values: None), r"^layer conv2: `conv2\.codes` is missing from the message$"),
    "a missing layer": (changed(without_layer), "^conv2 is missing from the reply$"),
    "a renamed float": (changed(renamed), r"^dense2\.bias is missing from the reply$"),
    "an extra tensor": (
        tensor("extra", lambda values: np.ones(2, np.float32)),
        "^extra came back, and the model has none of that name$",
    ),
    "another dtype": (
        tensor("dense2.bias", lambda values: values.astype(np.float64)),
        r"^dense2\.bias: expected float32 numbers, got torch\.float64$",
    ),
    "codes of 16 bits each": (tensor("conv2.codes", lambda values: values.astype(np.uint16)), "^layer conv2: needs uint8 codes"),
    "more bits": (changed(at_eight_bits), "^conv2: sent at 4 bits, came back at 8$"),
    "a float layer": (changed(as_float), "^conv1: sent at 4 bits, came back at 32$"),
    "1 bit": (with_bits(1), r"^layer conv2: cannot have shape \[32, 16, 3, 3\] at 1 bits$"),
    "17 bits": (with_bits(17), r"^layer conv2: cannot have shape \[32, 16, 3, 3\] at 17 bits$"),
    "a byte too few": (
        tensor("conv2.codes", lambda values: values[:-1]),
        "^layer conv2: needs 2304 bytes for 4608 codes at 4 bits, got 2303$",
    ),
    "a byte too many": (tensor("conv2.codes", lambda values: np.append(values, np.uint8(0))), "at 4 bits, got 2305$"),
    "larger than can be summed": (tensor("dense2.bias", put(1e7)), r"^dense2\.bias: an update of 1e\+07 is beyond"),
    "larger than can be squared": (tensor("dense2.bias", put(1e30)), r"^the update's norm is 1e\+30, beyond"),
    "beyond float32": (tensor("dense2.bias", put(-3.4e38)), "^the update's norm is .*: training diverged; lower lr$"),
}

REPORTS = {
    "a negative number of samples": (
        told("report", samples=-1),
        r"^report\.samples: Input should be greater than or equal to 0$",
    ),
    "one sample too many": (told("report", samples=150), "^reports 150 samples, and 149 are registered$"),
    "10^15 samples": (told("report", samples=10**15), "^reports 1000000000000000 samples, and 149 are registered$"),
    "NaN samples": (told("report", samples=math.nan), r"^report\.samples: Input should be a valid integer"),
    "half a sample": (told("report", samples=0.5), r"^report\.samples: Input should be a valid integer"),
    "samples in words": (told("report", samples="149"), r"^report\.samples: Input should be a valid integer$"),
    "steps without end": (told("report", batches={"16": 10**7}), "^reports 10000000 steps, at most 10 were asked for$"),
    "a step too many": (told("report", batches={"16": 10, "1": 1}), "^reports 11 steps, at most 10 were asked for$"),
    "a sample too many in steps": (told("report", batches={"16": 10}), "^reports training on 160 samples, at most 149 were"),
    "larger batches": (
        told("report", batches={"17": 1}),
        "^reports 1 batches of 17 samples, asked for were batches of up to 16$",
    ),
    "steps that are given back": (told("report", batches={"16": -3}), "^reports -3 batches of 16 samples"),
    "empty batches": (told("report", batches={"0": 1}), "^reports 1 batches of 0 samples"),
    "a NaN loss": (told("report", train_loss=math.nan), r"^non-finite in report\.train_loss$"),
    "an infinite loss": (told("report", train_loss=math.inf), r"^non-finite in report\.train_loss$"),
    "a loss that spoils sums": (told("report", train_loss=1e308), r"^reports a train_loss of 1e\+308, at most 3\.4e\+38"),
    "steps without a loss": (told("report", train_loss=None), "^reports 10 steps and no train_loss$"),
    "a NaN gavg": (of_layer("conv2", gavg=math.nan), r"^non-finite in report\.layers\.conv2\.gavg$"),
    "a gavg that spoils the wish": (of_layer("conv2", gavg=1e300), r"^reports a gavg of 1e\+300 in conv2, at most 1e\+12"),
    "a share above 1": (of_layer("conv2", clip_share=1.5), r"^report\.layers\.conv2\.clip_share: Input should be less than"),
    "a layer that is none": (
        changed(lambda tensors, header: header["report"]["layers"].update(x=header["report"]["layers"]["conv1"])),
        "^reports on a coded layer x, of which the model has none$",
    ),
    "negative joules": (told("report", energy_j=-5.0), r"^report\.energy_j is no part of a report$"),
    "another kind": (told("report", kind="evaluated"), r"^report\.kind: Input should be 'trained'$"),
    "half a report": (changed(lambda tensors, header: header["report"].pop("samples")), r"^report\.samples is missing$"),
    "no report": (changed(lambda tensors, header: header.pop("report")), "^report: Input should be an object$"),
    "a deep report": (
        changed(lambda tensors, header: header.update(report=nested(600))),
        "^report: Invalid JSON: recursion limit",
    ),
}


def nested(depth):
    return functools.reduce(lambda inner, _: [inner], range(depth), [])


class Canary:
    """Unpickling one creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def zipped(data):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model", data)
    return file.getvalue()


def numpy_objects(canary):
    file = io.BytesIO()
    np.save(file, np.array([Canary(canary)]), allow_pickle=True)
    return file.getvalue()


def yaml_tag(canary):
    return f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{canary}']]".encode()


UNKNOWN = "^the message is not one of fedapt's: "


def speaking(protocol):
    return changed(lambda tensors, header: header.update(protocol=protocol))


ON_ITS_WAY = "^the message was changed on its way"
MESSAGES = {
    "nothing": (lambda reply, request: b"", UNKNOWN),
    "cut short": (lambda reply, request: reply[:-1], ON_ITS_WAY),
    "a byte more": (lambda reply, request: reply + b"\0", ON_ITS_WAY),
    "a flipped bit": (lambda reply, request: reply[:-9] + bytes([reply[-9] ^ 4]) + reply[-8:], ON_ITS_WAY),
    "a newer protocol": (speaking(4), "^client speaks v4, server v3: upgrade the server$"),
    "an older protocol": (speaking(2), "^client speaks v2, server v3: upgrade the client$"),
    "the question": (lambda reply, request: payload(request), "^reply_to: Input should be an object$"),
    "another client's name": (told("reply_to", client=5), "^sent by client 5 under the name of client 2$"),
    "a round to come": (told("reply_to", round=7), "^the reply is to round 7, and this is round 0$"),
    "another run": (told("reply_to", digest="ab" * 32), "^the reply is not to the message of this run: it names digest 'abab"),
    "no origin": (changed(lambda tensors, header: header.pop("reply_to")), "^reply_to: Input should be an object$"),
    "oversize": (lambda reply, request: reply + bytes(10**6), r"^the reply has \d+ bytes, at most \d+ can answer a message of"),
    "a zip bomb": (lambda reply, request: zipped(bytes(10**7)), UNKNOWN),
    "a page of HTML": (lambda reply, request: b"<html>502 Bad Gateway</html>" * 20, UNKNOWN),
}


def with_canary(path):
    """Return payloads that create a file wherever they are executed."""
    return [pickle.dumps(Canary(path)), numpy_objects(path), zipped(pickle.dumps(Canary(path))), yaml_tag(path)]


@functools.cache
def absent(rounds=1, precision=4):
    """Return the run in which the liar takes no part."""
    wanted = scenario() if precision == 4 else adaptive()
    return Played(*play(wanted, rounds=rounds, cohort=[client for client in CLIENTS if client != LIAR])[:2])


def adaptive():
    clients = scenario().clients.model_dump(mode="json", exclude={"groups"})
    return scenario(clients=clients | {"method": {"precision": "apt"}})


def with_liar(lie, rounds=1, wanted=None, **options):
    return Played(
        *play(wanted or scenario(), lambda enrolment: Lying(enrolment, lie), rounds=rounds, cohort=CLIENTS, **options)[:2]
    )


@pytest.mark.parametrize(("lie", "sentence"), (TENSORS | REPORTS | MESSAGES).values(), ids=(TENSORS | REPORTS | MESSAGES))
def test_a_bad_update_is_named_and_charged_and_changes_nothing_else(lie, sentence):
    played = with_liar(lie)
    assert_contained(played, absent(), {(0, LIAR, 1): Fault("rejected", sentence)})
    honest = next(row for row in with_liar(lambda reply, request: reply).rows if row.client == LIAR)
    rejected = next(row for row in played.rows if row.client == LIAR)
    assert (rejected.steps, rejected.macs) == (honest.steps, honest.macs) and honest.steps == 10


def test_nothing_that_comes_is_executed(tmp_path):
    for data in with_canary(tmp_path / "canary"):
        played = with_liar(lambda reply, request, data=data: data)
        assert_contained(played, absent(), {(0, LIAR, 1): Fault("rejected", UNKNOWN)}, tmp_path / "canary")


def test_an_answer_without_fedapts_record_is_rejected_and_charged():
    played = with_liar(lambda reply, request: Message(RecordDict(), reply_to=request))
    assert_contained(played, absent(), {(0, LIAR, 1): Fault("rejected", "the other side is not fedapt's$")})


def test_strategies_that_see_every_update_see_no_bad_one():
    for name in ("larger than can be squared", "beyond float32"):
        played = with_liar(TENSORS[name][0], linear=False)
        reference = Played(*play(scenario(), linear=False, rounds=1, cohort=[0, 1, 3])[:2])
        assert_contained(played, reference, {(0, LIAR, 1): Fault("rejected", "^the update's norm is")})


def test_a_replay_of_an_older_round_is_late_and_charged():
    kept = []

    def replay(reply, request):
        kept.append(reply)
        return kept[0]

    played = with_liar(replay, rounds=2)
    first, second = (row for row in played.rows if row.client == LIAR)
    assert first.status == "ok" and second.status == "rejected" and second.macs == first.macs
    assert second.reason == "round 0 is closed: the reply is late, this is round 1"


def test_a_reply_under_another_clients_name_counts_once():
    kept = {}

    def stolen(reply, request):
        kept.setdefault("reply", reply)
        return kept["reply"]

    transport = functools.partial(Lying, lie=stolen, liars=(1, LIAR))
    model, rows, _ = play(scenario(), transport, rounds=1, cohort=CLIENTS)
    fault = Fault("rejected", "^sent by client 1 under the name of client 2$")
    assert_contained(Played(model, rows), absent(), {(0, LIAR, 1): fault})


def test_a_reply_to_another_run_is_rejected():
    kept = []
    with_liar(lambda reply, request: kept.append(reply) or reply, wanted=scenario(seed=1))
    played = with_liar(lambda reply, request: kept[0])
    assert_contained(played, absent(), {(0, LIAR, 1): Fault("rejected", "^the reply is not to the message of this run")})


def test_what_is_rejected_does_not_reach_the_wish():
    lie = of_layer("conv2", gavg=1e13)
    played = with_liar(lie, rounds=3, wanted=adaptive())
    faults = {(number, LIAR, 1): Fault("rejected", "gavg") for number in range(3)}
    assert_contained(played, absent(3, "apt"), faults)
    assert played.rows[0].layer_bits != played.rows[-1].layer_bits


@pytest.mark.parametrize("linear", [True, False])
def test_an_update_of_no_samples_is_admitted_and_has_no_weight(linear):
    played = with_liar(told("report", samples=0), linear=linear)
    reference = Played(*play(scenario(), linear=linear, rounds=1, cohort=[0, 1, 3])[:2])
    assert_contained(played, reference, {(0, LIAR, 1): Fault("ok", "^$")})


@pytest.mark.parametrize("linear", [True, False])
def test_a_round_in_which_no_update_has_weight_gives_the_strategy_nothing(linear):
    wanted = scenario(strategy="median")
    transport = functools.partial(Lying, lie=told("report", samples=0), liars=CLIENTS)
    model, rows, _ = play(wanted, transport, rounds=1, cohort=CLIENTS, linear=linear)
    assert same_bits(model, initial(wanted, enrolled(wanted)))
    assert [(row.status, row.samples, row.macs > 0) for row in rows] == [("ok", 0, True)] * 4


def test_a_client_that_did_less_than_told_is_charged_what_it_says():
    played = with_liar(told("report", batches={"16": 3}))
    row = next(row for row in played.rows if row.client == LIAR)
    assert (row.status, row.steps) == ("ok", 3)


def test_what_a_client_says_can_neither_reach_a_terminal_nor_fill_the_ledger():
    def raising(reply, request):
        raise ValueError("\x1b[2J\n" + "x" * 3000)

    fault = Fault("failed", r"^ValueError:  \[2J x+\.\.\.$", trained=False)
    assert_contained(with_liar(raising), absent(), {(0, LIAR, 1): fault})
    hidden = tensor("\x1b[2J", lambda values: np.ones(1, np.float32))
    fault = Fault("rejected", "cannot be a name: at most 200 characters, all of them printable$")
    assert_contained(with_liar(hidden), absent(), {(0, LIAR, 1): fault})


@pytest.mark.parametrize("beyond", ["reject", "flag"])
def test_the_norm_rule_rejects_or_flags(beyond):
    plain = Played(*play(scenario(), rounds=1, cohort=CLIENTS)[:2])
    limit = {"max_norm": 1e-3, "beyond": beyond}
    model, rows, _ = play(scenario(admission=limit), rounds=1, cohort=CLIENTS)
    assert all(row.reason.startswith("the update's norm is ") for row in rows)
    assert all(row.reason.endswith(", beyond admission.max_norm 0.001") for row in rows)
    assert {row.status for row in rows} == {"rejected" if beyond == "reject" else "ok"}
    assert same_bits(model, plain.model) == (beyond == "flag")
    assert [row.macs for row in rows] == [row.macs for row in plain.rows]


def test_the_norm_is_over_all_weights():
    update = {"a": np.float32([[3.0, 0.0]]), "b": np.float32([-4.0]), "c": np.float32(12.0)}
    assert norm_of(update) == 13.0


TOLD = Instructions(seed=0, round=3, client=5, epochs=2, batch=4, lr=0.1, rounding="stochastic", grid=GridOptions())
ARRAYS = {"fc.weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), "fc.bias": np.zeros(3, np.float32)}
LAYER = {"gavg": 0.5, "underflow_share": 0.25, "clip_share": 0.0}
TRAINED = {"kind": "trained", "samples": 7, "batches": {"4": 2}, "train_loss": 0.5, "layers": {"fc": LAYER}}


def task(kind="train"):
    return Task(kind, Plan({"fc": 5}, 4), TOLD, samples=7, held_out=3, admission=Admission())


def reply_with(report, kind="train", **header):
    """Return the outcome of a reply with this report, to a task of a small model."""
    start, message = down(ARRAYS, task(kind))
    model = start if kind == "train" else QuantisedModel({}, {})
    reply = to_bytes(model, {"report": report, "reply_to": {"round": 3, "client": 5, "digest": digest_of(message)}} | header)
    return receive(ARRAYS, start, task(kind), message, reply, ExactSum())


ADAPTING = TOLD.model_copy(update={"adaptation": Adaptation(every=1, highest={"fc": 7})})


def adapted(bits, segments, told=ADAPTING, **report):
    """Return the outcome of a reply of a client that was sent 5 bits and may go up to 7."""
    wanted = replace(task(), instructions=told)
    start, message = down(ARRAYS, wanted)
    end = quantise_arrays(ARRAYS, {"fc": bits}, GridOptions(), "nearest", torch.Generator())
    parts = [{"bits": [width], "batches": batches} for width, batches in segments]
    header = {
        "report": TRAINED | {"segments": parts} | report,
        "reply_to": {"round": 3, "client": 5, "digest": digest_of(message)},
    }
    return receive(ARRAYS, start, wanted, message, to_bytes(end, header), None)


@pytest.mark.parametrize("bits", [2, 4, 6, 7])
def test_a_client_that_was_allowed_to_may_come_back_at_other_bits(bits):
    outcome = adapted(bits, [(5, {"4": 1}), (6, {"4": 1})])
    assert (outcome.status, outcome.bits) == ("ok", {"fc": bits})
    assert [(part.bits, part.batches) for part in outcome.segments] == [([5], {4: 1}), ([6], {4: 1})]
    start = down(ARRAYS, replace(task(), instructions=ADAPTING))[0]
    end = quantise_arrays(ARRAYS, {"fc": bits}, GridOptions(), "nearest", torch.Generator()).dequantised()["fc.weight"]
    np.testing.assert_array_equal(outcome.update["fc.weight"], end - start.dequantised()["fc.weight"])


STEPS = [(5, {"4": 2})]


@pytest.mark.parametrize(("bits", "segments", "told", "sentence"), [
    (6, [], TOLD, "fc: sent at 5 bits, came back at 6"),
    (8, STEPS, ADAPTING, "fc: came back at 8 bits, allowed were 2 to 7"),
    (32, STEPS, ADAPTING, "fc: came back at 32 bits, allowed were 2 to 7"),
    (5, STEPS, TOLD, "reports training at other bits, and was not asked to adapt any"),
    (5, [(8, {"4": 2})], ADAPTING, "reports training at [8] bits, at most [7] were allowed"),
    (5, [(1, {"4": 2})], ADAPTING, "report.segments.0.bits.0: Input should be greater than or equal to 2"),
    (5, [(5, {"4": 3}), (6, {"4": -1})], ADAPTING, "reports no step at [6] bits"),
    (5, [(5, {"4": 2}), (6, {})], ADAPTING, "reports no step at [6] bits"),
    (5, [(5, {"4": 1})], ADAPTING, "reports other batches than those at all its widths together"),
    (5, [], ADAPTING, "reports other batches than those at all its widths together"),
    (5, [(5, {"4": 1})] * 5, ADAPTING, "reports 5 sets of widths, at most 4 were possible"),
])  # fmt: skip
def test_widths_that_were_not_asked_for_are_rejected(bits, segments, told, sentence):
    outcome = adapted(bits, segments, told)
    assert (outcome.status, outcome.reason, outcome.report, outcome.bits) == ("rejected", sentence, None, {})


def test_a_rejected_update_is_charged_at_the_widths_that_it_reports():
    outcome = adapted(8, [(5, {"4": 1}), (7, {"4": 1})])
    assert outcome.status == "rejected" and outcome.spent == {4: 2}
    assert [part.bits for part in outcome.segments] == [[5], [7]]


def test_the_size_of_a_reply_is_bounded_by_the_highest_widths():
    arrays = {"fc.weight": np.ones((100, 1000), np.float32)}
    wide = TOLD.model_copy(update={"adaptation": Adaptation(every=1, highest={"fc": 16})})
    narrow, wanted = (replace(task(), instructions=told) for told in (TOLD, wide))
    start, message = down(arrays, wanted)
    reply = to_bytes(quantise_arrays(arrays, {"fc": 16}, GridOptions(), "nearest", torch.Generator()), {})
    admit_size(wanted, message, reply, start)
    admit_size(wanted, message, message, start)
    with pytest.raises(DamagedData, match=r"^the reply has \d+ bytes, at most \d+ can answer"):
        admit_size(narrow, message, reply, start)


def test_what_was_asked_for_is_the_batches_of_all_epochs():
    assert TOLD.batches(7) == {4: 2, 3: 2} and TOLD.batches(8) == {4: 4} and TOLD.batches(3) == {3: 2} and TOLD.batches(0) == {}


def test_an_honest_evaluation_is_admitted():
    report = {"kind": "evaluated", "samples": 3, "correct": 2, "loss": 0.25}
    assert reply_with(report, "evaluate").report == EvaluateReport(**report)


@pytest.mark.parametrize(("field", "value", "sentence"), [
    ("samples", 4, "reports 4 evaluated samples, and 3 are registered"),
    ("correct", 4, "reports 4 correct answers of 3"),
    ("loss", 1e300, "reports a loss of 1e+300, at most 3.4e+38 is possible"),
    ("kind", "trained", "report.kind: Input should be 'evaluated'"),
])  # fmt: skip
def test_an_impossible_evaluation_is_rejected(field, value, sentence):
    outcome = reply_with({"kind": "evaluated", "samples": 3, "correct": 2, "loss": 0.25} | {field: value}, "evaluate")
    assert (outcome.status, outcome.reason, outcome.report, outcome.spent) == ("rejected", sentence, None, {})


def test_a_plausible_report_is_what_a_rejected_update_is_charged_by():
    start, message = down(ARRAYS, task())
    wrong = QuantisedModel(start.weights, {"fc.bias": start.floats["fc.bias"][:1]})
    header = {"report": TRAINED, "reply_to": {"round": 3, "client": 5, "digest": digest_of(message)}}
    outcome = receive(ARRAYS, start, task(), message, to_bytes(wrong, header), ExactSum())
    assert outcome.status == "rejected" and outcome.spent == {4: 2}
    assert reply_with(TRAINED | {"samples": 8}).spent == {4: 2, 3: 2}


def test_an_oversize_reply_is_refused_before_it_is_looked_at():
    start, message = down(ARRAYS, task())
    reply = struct.pack("<Q", 10**8) + b"[" * 10**8
    with allocating_less_than(100_000):
        outcome = receive(ARRAYS, start, task(), message, reply, None)
    assert outcome.reason.startswith("the reply has 100000008 bytes, at most ")


def test_a_deep_model_leaves_room_for_its_report():
    layers = {f"block.{number}.attention.projection": 32 for number in range(200)}
    arrays = {f"{name}.weight": np.ones((1, 1), np.float32) for name in layers}
    wanted = Task("train", Plan(dict.fromkeys(layers, 2), 4), TOLD, 7, 3, Admission())
    start, message = down(arrays, wanted)
    layer = {"gavg": 0.12345678901234567, "underflow_share": 0.12345678901234567, "clip_share": 1.2345678901234567e-05}
    report = TRAINED | {"layers": dict.fromkeys(layers, layer)}
    header = {"report": report, "reply_to": {"round": 3, "client": 5, "digest": digest_of(message)}}
    assert receive(arrays, start, wanted, message, to_bytes(start, header), None).status == "ok"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*TRAINED, "fc", "gavg", "1"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(JSON, JSON, st.sampled_from(["train", "evaluate"]))
def test_any_report_is_admitted_or_rejected_in_one_line(report, reply_to, kind):
    for data in (report, TRAINED | report if isinstance(report, dict) else [report]):
        for header in ({}, {"reply_to": reply_to}):
            outcome = reply_with(data, kind, **header)
            assert outcome.status == "ok" or (outcome.reason.isprintable() and outcome.report is None)


@given(st.binary(max_size=300))
def test_any_bytes_are_rejected_in_one_line(data):
    start, message = down(ARRAYS, task())
    outcome = receive(ARRAYS, start, task(), message, data, ExactSum())
    assert outcome.status == "rejected" and outcome.reason.isprintable() and outcome.update is None


@pytest.mark.parametrize("strategy", ["fedavg", "median", {"kind": "krum", "num_malicious_nodes": 1}])
def test_the_order_of_arrival_changes_no_bit(strategy):
    class Shuffled(Inline):
        def exchange(self, arrays, tasks, total):
            order = np.random.default_rng(len(models)).permutation(len(tasks))
            return super().exchange(arrays, [tasks[place] for place in order], total)

    wanted, models = scenario(strategy=strategy), []
    for _ in range(3):
        models.append(play(wanted, lambda enrolment: Shuffled(enrolment.workshop.open()), rounds=1)[0])
    reference = play(wanted, rounds=1)[0]
    assert all(same_bits(model, reference) for model in models)


def compressing(**link):
    return replace(task(), instructions=TOLD.model_copy(update={"link": Link(**link)}))


def uploaded(wanted, bits=3, granularity="channel", model=None, **report):
    """Return the outcome of a reply whose weights are `ARRAYS` at these bits."""
    start, message = down(ARRAYS, wanted)
    grid = GridOptions(granularity=granularity, headroom=1.0)
    end = model or quantise_arrays(ARRAYS, {"fc": bits}, grid, "nearest", torch.Generator())
    reply_to = {"round": 3, "client": 5, "digest": digest_of(message)}
    reply = to_bytes(end, {"report": TRAINED | {"relative_error": 0.5} | report, "reply_to": reply_to})
    return start, end, receive(ARRAYS, start, wanted, message, reply, None)


def test_a_compressed_delta_is_the_update_itself_and_floats_are_counted_from_the_start():
    _, end, outcome = uploaded(compressing(bits=3))
    assert (outcome.status, outcome.relative_error, outcome.bits) == ("ok", 0.5, {})
    np.testing.assert_array_equal(outcome.update["fc.weight"], end.weights["fc"].dequantise().numpy())
    assert not outcome.update["fc.bias"].any()


def test_a_compressed_model_is_counted_from_the_global_model():
    _, end, outcome = uploaded(compressing(bits=3, send="model"))
    np.testing.assert_array_equal(outcome.update["fc.weight"], end.weights["fc"].dequantise().numpy() - ARRAYS["fc.weight"])


def test_a_whole_model_is_counted_from_the_global_model_and_not_from_the_start():
    wanted = compressing(send="model")
    start = down(ARRAYS, wanted)[0]
    _, _, outcome = uploaded(wanted, model=start, relative_error=None)
    np.testing.assert_array_equal(outcome.update["fc.weight"], start.dequantised()["fc.weight"] - ARRAYS["fc.weight"])
    assert outcome.update["fc.weight"].any() and outcome.status == "ok"


@pytest.mark.parametrize(("wanted", "upload", "sentence"), [
    (compressing(bits=3), {"bits": 4}, "fc: was to be compressed to 3 bits, came back at 4"),
    (compressing(bits=3), {"bits": 32}, "fc: was to be compressed to 3 bits, came back at 32"),
    (compressing(bits=3), {"granularity": "tensor"}, "fc.scale: expected shape (3,), got (1,)"),
    (compressing(bits=3), {"relative_error": None}, "reports no relative_error of its upload, which it was asked to compress"),
    (compressing(bits=3), {"relative_error": -1.0}, "report.relative_error: Input should be greater than or equal to 0"),
    (task(), {"bits": 5}, "reports a relative_error of its upload, which it was not asked to compress"),
])  # fmt: skip
def test_an_upload_that_is_not_as_its_link_says_is_rejected(wanted, upload, sentence):
    outcome = uploaded(wanted, **upload)[2]
    assert (outcome.status, outcome.reason, outcome.update) == ("rejected", sentence, None)


def test_a_client_that_stops_early_weighs_as_many_samples_as_it_can_have_seen():
    early = replace(task(), instructions=TOLD.model_copy(update={"most_steps": 1}))
    found = {}
    for samples, batches in ((4, {"4": 1}), (7, {"4": 1}), (4, {"4": 2})):
        start, message = down(ARRAYS, early)
        header = {"report": TRAINED | {"samples": samples, "batches": batches}}
        header |= {"reply_to": {"round": 3, "client": 5, "digest": digest_of(message)}}
        found[samples, batches["4"]] = receive(ARRAYS, start, early, message, to_bytes(start, header), None)
    assert found[4, 1].status == "ok" and early.planned == {4: 1}
    assert found[7, 1].reason == "reports 7 samples, and in the steps it was asked for it could see 4"
    assert found[4, 2].reason == "reports 2 steps, at most 1 were asked for"


def test_a_correction_that_comes_back_is_rejected():
    _, end, _ = uploaded(task(), bits=5, relative_error=None)
    correction = {name: torch.from_numpy(values) for name, values in ARRAYS.items()}
    outcome = uploaded(task(), model=replace(end, correction=correction), relative_error=None)[2]
    assert outcome.status == "rejected" and outcome.reason.startswith("a correction of gradients came back with the reply")


def test_a_wide_upload_of_a_narrow_model_is_not_too_long():
    arrays = {"fc.weight": np.ones((100, 1000), np.float32)}
    wanted = replace(compressing(bits=16), plan=Plan({"fc": 2}, 4))
    start, message = down(arrays, wanted)
    reply = to_bytes(quantise_arrays(arrays, {"fc": 16}, GridOptions(), "nearest", torch.Generator()), {})
    assert len(reply) > 5 * len(message)
    admit_size(wanted, message, reply, start)


FILTERED = {
    "loss_topk": {"batches": {"4": 2, "3": 2}, "filtered": {"seen": 14, "trained": 2 * 2 + 2 * 1, "steps": 4}},
    "random": {"batches": {"2": 2, "1": 2}, "filtered": {"seen": 14, "trained": 6, "steps": 4}},
    "instance_filter": {"batches": {"4": 1, "2": 2, "1": 1}, "filtered": {"seen": 14, "trained": 5, "steps": 3}},
}


def filtered(kind, told=TOLD, **report):
    """Return the outcome of a reply of a client with this filter, of a third of seven samples in batches of four, twice."""
    options = {} if kind == "all" else {"keep": 1 / 3}
    wanted = replace(task(), instructions=told, filter=FILTERS[kind].model_validate({"kind": kind, **options}))
    start, message = down(ARRAYS, wanted)
    header = {"report": TRAINED | FILTERED.get(kind, {}) | report}
    reply = to_bytes(start, header | {"reply_to": {"round": 3, "client": 5, "digest": digest_of(message)}})
    return receive(ARRAYS, start, wanted, message, reply, None)


@pytest.mark.parametrize("kind", FILTERED)
def test_what_a_filter_can_have_done_is_admitted(kind):
    outcome = filtered(kind)
    assert (outcome.status, outcome.reason) == ("ok", "") and outcome.filtered == outcome.report.filtered
    assert filtered(kind, batches={}, filtered={"seen": 0, "trained": 0, "steps": 0}, train_loss=None).status == "ok"


COUNTS = {"seen": 14, "trained": 6, "steps": 4}


@pytest.mark.parametrize(("kind", "report", "sentence"), [
    ("loss_topk", {"filtered": COUNTS | {"trained": 5}},
     "reports that 5 samples went backward in 4 steps, its filter takes 6 in 4"),
    ("loss_topk", {"filtered": COUNTS | {"steps": 3}},
     "reports that 6 samples went backward in 3 steps, its filter takes 6 in 4"),
    ("loss_topk", {"filtered": COUNTS | {"seen": 13}}, "reports 14 samples that went forward of 13 that its filter saw"),
    ("loss_topk", {"filtered": None}, "reports nothing of its sample filter"),
    ("random", {"filtered": COUNTS | {"seen": 15}}, "reports a filter that saw 15 samples, at most 14 were asked for"),
    ("random", {"batches": {"3": 2}}, "reports 2 batches of 3 samples, asked for were batches of up to 2"),
    ("random", {"batches": {"2": 4}}, "reports training on 8 samples, at most 6 were asked for"),
    ("instance_filter", {"filtered": COUNTS | {"trained": 10}},
     "reports that 10 samples went backward in 4 steps, at most 9 in 4 were possible"),
    ("instance_filter", {"filtered": COUNTS | {"trained": 3}},
     "reports that 3 samples went backward in 4 steps, at most 9 in 4 were possible"),
    ("instance_filter", {"filtered": COUNTS | {"steps": 5}},
     "reports that 6 samples went backward in 5 steps, at most 9 in 4 were possible"),
    ("instance_filter", {"filtered": COUNTS | {"steps": 0}},
     "reports that 6 samples went backward in 0 steps, at most 9 in 4 were possible"),
    ("all", {"filtered": COUNTS}, "reports what a sample filter took, and was not asked to filter"),
])  # fmt: skip
def test_what_a_filter_cannot_have_done_is_rejected(kind, report, sentence):
    outcome = filtered(kind, **report)
    assert (outcome.status, outcome.reason) == ("rejected", sentence)


def test_what_a_filter_took_at_each_set_of_widths_adds_up():
    parts = [
        {"bits": [5], "batches": {"4": 1, "2": 2}, "filtered": {"seen": 8, "trained": 4, "steps": 2}},
        {"bits": [6], "batches": {"1": 1}, "filtered": {"seen": 6, "trained": 1, "steps": 1}},
    ]
    assert filtered("instance_filter", ADAPTING, segments=parts).status == "ok"
    nothing = {"bits": [7], "batches": {}, "filtered": {"seen": 0, "trained": 0, "steps": 0}}
    assert filtered("instance_filter", ADAPTING, segments=[*parts, nothing]).status == "ok"
    parts[1]["filtered"] = parts[1]["filtered"] | {"seen": 5}
    outcome = filtered("instance_filter", ADAPTING, segments=parts)
    assert outcome.reason == "reports another number of seen than at all its widths together"
