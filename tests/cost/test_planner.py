import functools
import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fedapt.cost.ladder import LADDER
from fedapt.cost.model import CostModel
from fedapt.cost.planner import Demand, Plan, Refusal
from fedapt.cost.workload import Workloads


@functools.cache
def workloads(sides, master=False):
    def mlp():
        layers = [part for pair in itertools.pairwise(sides) for part in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*layers[:-1])

    return Workloads(mlp, sides[:1], master=master)


def demand(model, bits=8, **given):
    wish = {shape.name: bits for shape in model.shapes}
    return Demand(**({"wish": wish, "samples": 100, "epochs": 2, "batch": 32, "memory_budget": 10**9} | given))


def spent(model, asked, plan, batch=None):
    """Return what the planned round costs by the other road: one batch after the other, message by message."""
    batch = batch or plan.batch
    batches = [min(batch, asked.samples - first) for _ in range(asked.epochs) for first in range(0, asked.samples, batch)]
    message = model.payload_bytes(plan.bits) + asked.overhead_bytes
    return model.training_cost(plan.bits, batches, message, message, scheme=plan.scheme, buffers_bytes=asked.buffers_bytes)


@pytest.fixture
def model(device):
    return CostModel(workloads((20, 40, 30, 5)), device)


def needs(model, asked, bits=None, batch=None):
    """Return bytes and joules of a round at the wish, or other bits and batches."""
    cost = spent(model, asked, Plan(bits or dict(asked.wish), batch or asked.batch))
    return cost.memory.total_bytes, cost.energy.total_j


def test_a_wish_that_fits_is_granted_without_a_word(model):
    asked = demand(model)
    memory, joules = needs(model, asked)
    exact = demand(model, memory_budget=memory, energy_budget=joules * (1 + 1e-12))
    assert model.plan(exact) == Plan(dict(asked.wish), 32)


def test_a_wish_costs_its_joules_and_the_energy_of_a_budget_of_as_many_is_no_limit(model):
    asked = demand(model, overhead_bytes=50)
    memory, joules = needs(model, asked)
    wished_j = model.wished_j(replace(asked, memory_budget=memory))
    assert wished_j == pytest.approx(joules, rel=1e-12)
    assert model.wished_j(replace(asked, memory_budget=memory - 1)) == math.inf
    assert model.plan(replace(asked, energy_budget=wished_j)) == model.plan(asked)
    assert model.plan(replace(asked, energy_budget=math.nextafter(wished_j, 0.0))) != model.plan(asked)


def test_one_byte_too_few_takes_a_bit_of_the_smallest_layer(model):
    """Layers of 800, 1200 and 150 weights: its noise weighs least."""
    asked = demand(model)
    plan = model.plan(demand(model, memory_budget=needs(model, asked)[0] - 1))
    assert plan.bits == {"0": 8, "2": 8, "4": 7}
    assert plan.reason.startswith("8 bits lowered to 7.93 on average: ")
    assert plan.reason.endswith(" of memory")


def test_smaller_micro_batches_come_when_the_lowest_bits_do_not_fit_and_then_bits_are_as_wide_as_they_can_be(model):
    asked = demand(model, lowest=4)
    narrow = needs(model, asked, dict.fromkeys(asked.wish, 4))[0]
    plan = model.plan(demand(model, lowest=4, memory_budget=narrow - 1))
    assert plan == Plan(dict(asked.wish), 16, reason=f"batches of 16 instead of 32: {plan.reason.split(': ')[1]}")


def test_freezing_comes_last_and_takes_as_few_layers_and_as_large_batches_as_it_can(model):
    smallest = needs(model, demand(model, lowest=4), dict.fromkeys("024", 4), 1)[0]
    asked = demand(model, lowest=4, memory_budget=smallest - 1)
    plan = model.plan(asked)
    assert plan.scheme.frozen == ("0",)
    assert "`0` frozen" in plan.reason
    larger = Plan(dict.fromkeys("024", 4), 2 * plan.batch, plan.scheme)
    assert spent(model, asked, larger).memory.total_bytes > asked.memory_budget


def test_what_the_ladder_does_not_name_is_not_given_up(model):
    asked = demand(model)
    short = needs(model, asked)[0] - 1
    assert isinstance(model.plan(demand(model, memory_budget=short, ladder=())), Refusal)
    plan = model.plan(demand(model, memory_budget=short, ladder=("micro_batch",)))
    assert (plan.bits, plan.batch) == (asked.wish, 16)


def test_no_layer_is_pushed_below_what_it_has_to_have_at_least(model):
    wish = {shape.name: 16 for shape in model.shapes}
    floor = {"0": 9, "2": 3, "4": 16}
    tight = demand(model, 16, ladder=("bits",), memory_budget=needs(model, demand(model), floor)[0], at_least=floor)
    assert model.plan(tight).bits == floor
    assert isinstance(model.plan(replace(tight, memory_budget=tight.memory_budget - 1)), Refusal)
    assert model.plan(replace(tight, lowest=16)) == model.plan(replace(tight, at_least=wish))


def test_bits_follow_an_energy_budget_by_joules(model):
    asked = demand(model)
    limit = 0.8 * needs(model, asked)[1]
    plan = model.plan(demand(model, energy_budget=limit))
    assert plan.batch == 32
    assert 0.7 * limit < spent(model, asked, plan).energy.total_j <= limit
    assert plan.reason.endswith(f"{limit * 1e6:.3g} uJ for the round")


def test_halving_the_budget_never_widens_the_bits(model):
    asked = demand(model, ladder=("bits",))
    joules = needs(model, asked)[1]
    means = []
    for share in (1.0, 0.9, 0.8, 0.7):
        plan = model.plan(demand(model, energy_budget=share * joules, ladder=("bits",)))
        means.append(math.inf if isinstance(plan, Refusal) else sum(plan.bits.values()))
    assert means == sorted(means, reverse=True)
    assert means[-1] < means[0]


def test_a_refusal_says_what_is_needed_what_there_is_and_what_would_fit(model):
    refusal = model.plan(demand(model, memory_budget=500, energy_budget=1.0))
    assert refusal.available_bytes == 500
    assert (
        f"has 500 B (at 2 bits on average, in batches of 1, with `0` to `2` frozen): a budget of {refusal.needed_bytes} bytes"
        in (refusal.reason)
    )
    assert isinstance(model.plan(demand(model, memory_budget=refusal.needed_bytes)), Plan)


def test_a_refusal_names_the_batch_that_would_fit(model):
    asked = demand(model)
    short = needs(model, asked, dict.fromkeys("024", 2), 8)[0]
    refusal = model.plan(demand(model, memory_budget=short, ladder=("bits",)))
    assert "bits and batches of 8 would fit" in refusal.reason


def test_no_energy_is_refused_in_joules(model):
    refusal = model.plan(demand(model, energy_budget=0.0))
    assert "J for a round, has 0 J (" in refusal.reason
    assert refusal.needed_j > refusal.available_j == 0.0


def test_a_refusal_advises_fewer_samples_only_where_the_messages_could_be_paid(model):
    messages = 2 * 1000 * model.profile.radio_j_per_byte.value
    bits = {"ladder": ("bits",), "lowest": 8, "overhead_bytes": 1000 - model.payload_bytes(dict.fromkeys("024", 8))}
    refusals = [model.plan(demand(model, energy_budget=share * messages, **bits)).reason for share in (0.99, 1.01)]
    assert refusals[0].endswith("more energy or a smaller model would fit")
    assert refusals[1].endswith("fewer samples or epochs would fit")


def test_what_a_battery_limits_is_said_of_the_battery(model):
    asked = demand(model)
    few, none = (replace(asked, energy_budget=share * needs(model, asked)[1], on_battery=True) for share in (0.8, 0.0))
    assert model.plan(few).reason.endswith("J left in the battery")
    assert "has 0 J left in its battery (" in model.plan(none).reason


def test_a_refusal_for_lack_of_energy_does_not_ask_for_memory_that_another_step_saves(model):
    """With the first layers frozen it would fit the memory; what is missing is energy."""
    asked = demand(model, lowest=2)
    enough = model.plan(replace(asked, memory_budget=500)).needed_bytes
    refusal = model.plan(replace(asked, memory_budget=enough + 1000, energy_budget=1e-6))
    assert "of memory" not in refusal.reason and "uJ for a round, has 1 uJ" in refusal.reason


def test_a_bit_of_a_copy_saves_memory_but_no_message(device):
    model = CostModel(workloads((20, 40, 5), master=True), device)
    asked = demand(model)
    plan = model.plan(demand(model, memory_budget=needs(model, asked)[0] - 1))
    assert plan.bits == {"0": 8, "2": 7}
    assert model.payload_bytes(plan.bits) == model.payload_bytes(asked.wish)


widths = st.one_of(st.integers(2, 16), st.just(32))
SIDES = [(12, 30, 4), (3, 50, 7, 6), (40, 8, 8, 8, 5)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(
    sides=st.sampled_from(SIDES),
    master=st.booleans(),
    wish=st.tuples(widths, widths, widths, widths),
    work=st.tuples(st.integers(1, 70), st.integers(0, 3), st.integers(1, 40)),
    memory=st.integers(0, 40_000),
    energy=st.one_of(st.none(), st.floats(0, 2e-3)),
    lowest=st.integers(2, 8),
    ladder=st.lists(st.sampled_from(sorted(LADDER)), unique=True),
    extra=st.tuples(st.integers(0, 500), st.integers(0, 500)),
    sensitivity=st.floats(1e-6, 1e6),
)
def test_no_plan_exceeds_its_budgets(device, sides, master, wish, work, memory, energy, lowest, ladder, extra, sensitivity):
    model = CostModel(workloads(sides, master), device)
    wished = {shape.name: bits for shape, bits in zip(model.shapes, wish, strict=False)}
    samples, epochs, batch = work
    asked = Demand(
        wished,
        samples,
        epochs,
        batch,
        memory,
        energy,
        {"0": sensitivity},
        lowest,
        tuple(ladder),
        extra[0],
        overhead_bytes=extra[1],
    )
    found = model.plan(asked)
    if isinstance(found, Refusal):
        assert found.needed_bytes > memory or found.needed_j > energy
        return
    cost = spent(model, asked, found)
    assert cost.memory.total_bytes <= memory
    assert energy is None or cost.energy.total_j <= energy * (1 + 1e-9)
    assert all(min(lowest, wished[name]) <= bits <= wished[name] for name, bits in found.bits.items())
    assert bool(found.reason) == (found != Plan(wished, batch))
