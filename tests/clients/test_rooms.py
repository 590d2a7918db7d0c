"""fedapt.clients.rooms: no header needs more than its room."""

from hypothesis import given
from hypothesis import strategies as st

from fedapt.clients.adaptation import Adaptation
from fedapt.clients.instructions import EvaluateReport, Instructions, LayerReport, ReplyTo, Segment, TrainReport
from fedapt.clients.link import Link
from fedapt.clients.rooms import instructions_room, report_room
from fedapt.clients.samples import FILTERS
from fedapt.clients.samples.filter import Filtered
from fedapt.quant import GridOptions
from fedapt.quant.wire import room_of

LINKS = st.builds(
    Link, down=st.sampled_from(["stochastic", "nearest"]), bits=st.sampled_from([2, 16]), error_feedback=st.booleans()
) | st.builds(Link, send=st.sampled_from(["delta", "model"]))
NAMES = st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=6), max_size=3, unique=True)
WHOLE = st.integers(0, 2**63 - 1)
LARGE = st.floats(0, allow_nan=False, allow_infinity=False) | st.just(1.2345678901234567e-300)
SHARE = st.floats(0, 1)


@given(NAMES, st.data())
def test_instructions_always_fit_into_their_room(names, data):
    some = st.lists(st.sampled_from(names), unique=True) if names else st.just([])
    adapted = data.draw(some)
    t_min, t_max = sorted([data.draw(LARGE), data.draw(LARGE) + 1e-300])
    rule = {"t_min": t_min, "t_max": data.draw(st.sampled_from([t_max, None]))}
    adaptation = Adaptation(
        **rule, measure="step", every=data.draw(WHOLE) + 1, highest=dict.fromkeys(adapted, 16)
    ) if adapted else None  # fmt: skip
    told = Instructions(
        seed=data.draw(WHOLE), round=data.draw(WHOLE), client=data.draw(WHOLE), epochs=data.draw(WHOLE),
        batch=data.draw(WHOLE) + 1, lr=data.draw(LARGE) + 1e-300, proximal_mu=data.draw(LARGE),
        rounding=data.draw(st.sampled_from(["truncate", "nearest", "stochastic"])),
        grid=GridOptions(range=data.draw(st.sampled_from(["symmetric", "min_max"])), headroom=data.draw(st.floats(1, 16))),
        copies=dict.fromkeys(data.draw(some), 16), frozen=data.draw(some), adaptation=adaptation,
        link=data.draw(LINKS), most_steps=data.draw(st.none() | WHOLE.map(lambda value: value + 1)),
    )  # fmt: skip
    assert room_of({"instructions": told.model_dump()}) <= instructions_room(names, adapted)


@given(NAMES, st.data())
def test_reports_always_fit_into_their_room(names, data):
    layers = {
        name: LayerReport(gavg=data.draw(LARGE), underflow_share=data.draw(SHARE), clip_share=data.draw(SHARE)) for name in names
    }
    answers = {"reply_to": ReplyTo(round=data.draw(WHOLE), client=data.draw(WHOLE), digest="f" * 64).model_dump()}
    sizes = st.dictionaries(WHOLE, WHOLE, max_size=2)
    segments = [Segment(bits=[16] * len(names), batches=batches) for batches in data.draw(st.lists(sizes, max_size=3))]
    told = {"samples": data.draw(WHOLE), "batches": data.draw(sizes), "train_loss": data.draw(LARGE), "segments": segments}
    trained = TrainReport(**told, layers=layers, relative_error=data.draw(st.none() | LARGE))
    evaluated = EvaluateReport(samples=data.draw(WHOLE), correct=data.draw(WHOLE), loss=data.draw(LARGE))
    for report in (trained, evaluated):
        assert room_of({"report": report.model_dump(mode="json")} | answers) <= report_room(names, len(segments))


def test_a_room_grows_with_the_names_that_it_may_have_to_hold():
    assert report_room(["a", "b"]) - report_room(["a"]) == report_room(["a", "b", "c"]) - report_room(["a", "b"]) > 75
    assert instructions_room(["a" * 30]) - instructions_room(["a"]) == 2 * 29


@given(st.sampled_from(["loss_topk", "random", "instance_filter"]), st.integers(1, 40), st.integers(1, 200), st.data())
def test_reports_of_a_client_with_a_filter_fit_into_their_room(kind, batch, steps, data):
    chooses = FILTERS[kind]()
    sizes = st.dictionaries(st.integers(1, batch), st.integers(1, steps), max_size=2 if chooses.exact else min(batch, steps))
    filtered = st.builds(Filtered, seen=WHOLE, trained=WHOLE, steps=WHOLE)
    parts = st.builds(Segment, bits=st.just([16]), batches=sizes, filtered=filtered)
    segments = data.draw(st.lists(parts, max_size=2))
    told = {"samples": data.draw(WHOLE), "batches": data.draw(sizes), "train_loss": data.draw(LARGE), "segments": segments}
    layers = {"a": LayerReport(gavg=data.draw(LARGE), underflow_share=data.draw(SHARE), clip_share=data.draw(SHARE))}
    report = TrainReport(**told, layers=layers, relative_error=data.draw(LARGE), filtered=data.draw(filtered))
    answers = {"reply_to": ReplyTo(round=data.draw(WHOLE), client=data.draw(WHOLE), digest="f" * 64).model_dump()}
    room = report_room(["a"], len(segments), chooses.longest(batch, steps))
    assert room_of({"report": report.model_dump(mode="json")} | answers) <= room


def test_without_a_filter_a_report_says_nothing_of_one():
    report = TrainReport(samples=1, batches={1: 1}, train_loss=0.5, layers={}, segments=[Segment(bits=[4], batches={1: 1})])
    assert "filtered" not in str(report.model_dump(mode="json"))
