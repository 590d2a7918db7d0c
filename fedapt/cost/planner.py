"""From what a client wishes to what it can afford: the first draft down the ladder that fits its memory and its energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from fedapt.cost.ladder import LADDER, Draft, Room, halves
from fedapt.cost.peaks import Array
from fedapt.cost.profiles import Profile
from fedapt.cost.projection import NOISE, Chosen, Way, Widths, readable_bytes, readable_joules
from fedapt.cost.trace import NOTHING, WIDTHS, Spared
from fedapt.cost.workload import Workloads
from fedapt.quant.grid import LOWEST_BITS
from fedapt.quant.treatment import WHOLE, Scheme

# Of the ladder, what may be given up before a scheme is searched that has more room; four bits cost no accuracy.
SEARCHED = ("bits", "micro_batch")
MODERATE_BITS = 4


@dataclass(frozen=True)
class Demand:
    """What a client wishes for a round, and what it has.

    wish:            bits by layer; layers that are not named are float and stay so.
    sensitivity:     by layer, how much the loss minds quantisation noise; the number of weights where it is not given.
    energy_budget:   joules for the round, messages included; None is no limit.
    on_battery:      whether that is what is left in the battery.
    lowest:          the width below which no layer is pushed; one that is wished lower stays where it is.
    ladder:          the steps that may be taken, names in `LADDER`, in this order.
    buffers_bytes, optimiser_bytes: what is kept beside the model.
    overhead_bytes:  what a message has beyond codes, scales and float parameters, on average over the round's two.
    carriers:        how many of the two carry the model at the widths that are planned.
    at_least:        as `lowest`, by layer, where it is more.
    screen:          what a sample filter makes of batches, by size and how many: those that go forward, at most, and what it
                     spares them; None without one.
    """

    wish: Mapping[str, int]
    samples: int
    epochs: int
    batch: int
    memory_budget: int
    energy_budget: float | None = None
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    lowest: int = LOWEST_BITS
    ladder: tuple[str, ...] = tuple(LADDER)
    buffers_bytes: int = 0
    optimiser_bytes: int = 0
    overhead_bytes: int = 0
    carriers: int = 2
    at_least: Mapping[str, int] = field(default_factory=dict)
    on_battery: bool = False
    screen: Callable[[Mapping[int, int]], tuple[Mapping[int, int], Spared]] | None = None

    @property
    def extra_bytes(self) -> int:
        """What is resident whatever the widths."""
        return self.buffers_bytes + self.optimiser_bytes


@dataclass(frozen=True)
class Plan:
    """What a client does in a round.

    reason: what it gave up and for what, in a person's words; empty if nothing.
    highest: the widths by layer that would still fit, all together, if the client may raise them within the round; else empty.
    """

    bits: dict[str, int]
    batch: int
    scheme: Scheme = WHOLE
    reason: str = ""
    highest: dict[str, int] = field(default_factory=dict)

    @cached_property
    def key(self) -> Hashable:
        """What equal plans share."""
        return tuple(self.bits.items()), self.batch, self.scheme, self.reason, tuple(self.highest.items())


@dataclass(frozen=True)
class Refusal:
    """Why nothing fits: what the cheapest draft needs, and what there is; joules are None where there is no energy budget."""

    reason: str
    needed_bytes: int
    available_bytes: int
    needed_j: float | None
    available_j: float | None


@dataclass(frozen=True)
class _Need:
    """What a draft needs with these widths."""

    draft: Draft
    chosen: Chosen
    resident: float
    joules: float


def plan(workloads: Workloads, profile: Profile, table: str, demand: Demand) -> Plan | Refusal:
    """Return the first draft down the demand's ladder that fits its budgets, at the widest widths that do, or a refusal."""
    asked = _Budget(profile, table, demand, workloads.at(workloads.begin).widths)
    wish = closest = asked.closest(asked.first(workloads))
    for draft in _drafts(wish.draft, demand.ladder, asked.room):
        need = asked.closest(draft)
        if asked.excess(need) <= 1.0:
            return Plan(asked.bits(need), draft.batch, draft.scheme, asked.reason(wish, need))
        closest = min(closest, need, key=asked.shortage)
    return asked.refusal(closest)


def wished_j(workloads: Workloads, profile: Profile, table: str, demand: Demand) -> float:
    """Return the joules of a round at the wish itself, inf if it does not fit the memory.

    With an energy budget of so much or more, `plan` returns what it returns without one.
    """
    asked = _Budget(profile, table, demand, workloads.at(workloads.begin).widths)
    wish = asked.closest(asked.first(workloads))
    return wish.joules if wish.resident <= demand.memory_budget else math.inf


def _drafts(draft: Draft, ladder: Sequence[str], room: Room) -> Iterator[Draft]:
    yield draft
    for name in ladder:
        for cheaper in LADDER[name](draft, room):
            yield cheaper
            draft = cheaper


@dataclass(frozen=True)
class _Budget:
    """A demand on a device. widths: of the model with nothing frozen; freezing changes no layer's place."""

    profile: Profile
    table: str
    demand: Demand
    widths: Widths

    def first(self, workloads: Workloads) -> Draft:
        """Return the draft that a plan starts from: the whole wish, in the scheme that is searched for the device if one is.

        It is searched at moderate widths, at the lowest if nothing has room there, and then for smaller batches: a search at the
        lowest would spend the bits of every layer on a larger scheme.
        """
        draft = Draft(workloads, self.demand.batch, workloads.begin)
        own = workloads.lend.get("own")
        for one in _drafts(draft, [step for step in self.demand.ladder if step in SEARCHED], self.room) if own else ():
            scheme = own and own(workloads, (self.room.device, one.batch, one.lowered), partial(self._has_room, one))
            if scheme:
                return replace(draft, scheme=scheme)
        return draft

    @cached_property
    def room(self) -> Room:
        """What the ladder's steps may know."""
        demand = self.demand
        # What is left in a battery is another number each round, and no kind of device.
        energy = None if demand.on_battery else demand.energy_budget
        device = (demand.memory_budget, energy, min(demand.batch, demand.samples), demand.extra_bytes)
        return Room(demand.batch, device, lambda draft: self.excess(self._down(draft, self._start)) <= 1.0)

    def _has_room(self, draft: Draft, scheme: Scheme) -> bool:
        start = self._start if draft.lowered or "bits" not in self.demand.ladder else self._moderate
        return self._down(replace(draft, scheme=scheme), start).resident <= self.demand.memory_budget

    def closest(self, draft: Draft) -> _Need:
        """Return widths that fit both budgets with the least noise found, or else those that exceed them least.

        A way down takes whole layers' bits, and its last step may take far more than is missing. So where memory is short, ways
        that begin with one layer lower are tried too: a small layer's bits may spare a large one a step.
        """
        need = self._down(draft, self._start)
        if not draft.lowered or self.excess(need) > 1.0 or self._limit_j < math.inf:
            return need
        others = [need]
        for layer in np.flatnonzero(need.chosen > self._floor):
            for place in range(self._floor[layer], need.chosen[layer]):
                start = self._start.copy()
                start[layer] = place
                others.append(self._down(draft, start))
        return min((other for other in others if self.excess(other) <= 1.0), key=self._noise)

    def _noise(self, need: _Need) -> float:
        return float(self._minded @ NOISE[need.chosen])

    def _down(self, draft: Draft, start: Chosen) -> _Need:
        """Return the first widths on the way down from `start` that fit both budgets, or else those that exceed them least.

        Bits are taken by the bytes that they save until the memory fits, and from there by the joules. Whatever the order, the
        lowest widths are the end of the way, so where these cost too many joules no other is tried.
        """
        widths = draft.workload.widths
        floor = np.minimum(self._floor, start) if draft.lowered else start
        way = widths.way_by_bytes(start, floor, self._minded)
        resident = self._resident(draft, way)
        joules = self._joules(draft, way, resident)
        fitting = np.flatnonzero(resident <= self.demand.memory_budget)
        if not fitting.size:
            point = int(np.argmin(resident))
            return _Need(draft, way.at(point), float(resident[point]), float(joules[point]))
        first, last = fitting[0], fitting[-1]
        point = first if joules[first] <= self._limit_j else last
        if point == first or joules[last] > self._limit_j:
            return _Need(draft, way.at(point), float(resident[point]), float(joules[point]))
        way = widths.way(way.at(first), floor, self._minded, self._joules_by_layer(draft, resident[first]))
        resident = self._resident(draft, way)
        joules = self._joules(draft, way, resident)
        point = int(np.argmax((resident <= self.demand.memory_budget) & (joules <= self._limit_j)))
        return _Need(draft, way.at(point), float(resident[point]), float(joules[point]))

    def excess(self, need: _Need) -> float:
        """Return how many times a budget the need is, of the scarcer one; at most 1 if it fits."""
        return float(self._excess(need.resident, need.joules))

    def shortage(self, need: _Need) -> tuple[int, float]:
        """Return how many budgets the need exceeds, and its excess: a refusal names no budget that a step could have met."""
        return int(need.resident > self.demand.memory_budget) + int(need.joules > self._limit_j), self.excess(need)

    def bits(self, need: _Need) -> dict[str, int]:
        """Return the widths of the layers that were wished."""
        at = dict(zip(need.draft.workload.widths.names, need.chosen, strict=True))
        return {name: WIDTHS[at[name]] for name in self.demand.wish}

    def reason(self, wish: _Need, need: _Need) -> str:
        """Return what was given up for what, in words."""
        given = []
        before, after = self._mean_bits(wish), self._mean_bits(need)
        if after < before:
            given.append(f"{before:.3g} bits lowered to {after:.3g} on average")
        if need.draft.batch < wish.draft.batch:
            given.append(f"batches of {need.draft.batch} instead of {wish.draft.batch}")
        if need.draft.scheme != wish.draft.scheme:
            given.append(need.draft.scheme.words)
        if not given:
            return ""
        causes = [f"{readable_bytes(self.demand.memory_budget)} of memory"] if wish.resident > self.demand.memory_budget else []
        if not causes or self._joules_at(wish) > self._limit_j:
            source = "left in the battery" if self.demand.on_battery else "for the round"
            causes.append(f"{readable_joules(self._limit_j)} {source}")
        return "; ".join([f"{given[0]}: {' and '.join(causes)}", *given[1:]])

    def refusal(self, need: _Need) -> Refusal:
        """Return the refusal of a demand of which `need` is the closest to fitting."""
        demand, draft = self.demand, need.draft
        how = f"at {self._mean_bits(need):.3g} bits on average, in batches of {draft.batch}"
        how += f", with {draft.scheme.words}" if draft.scheme.words else ""
        problems, ways_out = [], []
        joules = self._joules_at(need)
        if need.resident > demand.memory_budget:
            problems.append(f"needs {readable_bytes(need.resident)} of memory, has {readable_bytes(demand.memory_budget)}")
            ways_out.append(self._smaller(draft) or f"a budget of {math.ceil(need.resident)} bytes or a smaller model")
        if joules > self._limit_j:
            where = " left in its battery" if demand.on_battery else ""
            problems.append(f"needs {readable_joules(joules)} for a round, has {readable_joules(self._limit_j)}{where}")
            shorter = self._messages_j(need) < self._limit_j
            ways_out.append("fewer samples or epochs" if shorter else "more energy or a smaller model")
        reason = f"{' and '.join(problems)} ({how}): {' and '.join(ways_out)} would fit"
        needed_j = None if demand.energy_budget is None else joules
        return Refusal(reason, math.ceil(need.resident), demand.memory_budget, needed_j, demand.energy_budget)

    def _smaller(self, draft: Draft) -> str:
        """Return, in words, the largest of the batch, its half, its quarter and so on whose memory would fit at lowered bits."""
        for size in halves(draft.batch):
            need = self.closest(replace(draft, batch=size, lowered=True))
            if need.resident <= self.demand.memory_budget:
                return f"{self._mean_bits(need):.3g} bits and batches of {size}"
        return ""

    def _resident(self, draft: Draft, way: Way) -> Array:
        batch = min(draft.batch, self.demand.samples)
        if self.demand.screen:
            batch = max(self.demand.screen({batch: 1})[0])
        return way.resident(batch) + self.demand.extra_bytes

    def _joules(self, draft: Draft, way: Way, resident: Array) -> Array:
        """Return the energy of the round at every point of a way."""
        profile, saved = self.profile, way.widths.saved
        samples, steps, spared = self._samples_and_steps(draft)
        of_sample, of_step = way.macs[self.table]
        activations = 2 * (samples * (saved.per_sample + saved.input_per_sample) + steps * saved.fixed)
        activations -= spared.samples * (saved.per_sample + saved.input_per_sample)
        moved = (steps * way.moved_bytes + activations) * self._price(resident)
        radio = self._message_bytes(draft, way) * profile.radio_j_per_byte.value
        macs = samples * of_sample + steps * of_step
        if spared != NOTHING:
            macs = macs - spared.samples * way.backward_macs(self.table) + spared.macs
        return np.asarray(macs * profile.fp32_mac_energy.value + moved + radio)

    def _joules_at(self, need: _Need) -> float:
        there = need.draft.workload.widths.way(need.chosen, need.chosen, self._minded, self.widths.payload)
        return float(self._joules(need.draft, there, np.array([need.resident]))[0])

    def _messages_j(self, need: _Need) -> float:
        """Return the joules of a round's two messages, which neither samples nor epochs change."""
        there = need.draft.workload.widths.way(need.chosen, need.chosen, self._minded, self.widths.payload)
        return float(self._message_bytes(need.draft, there)[0] * self.profile.radio_j_per_byte.value)

    def _message_bytes(self, draft: Draft, way: Way) -> Array:
        """Return the length of a round's two messages together, at every point of a way."""
        sent = way.sent if self.demand.carriers == 2 else 0.0
        lent = draft.scheme.backward.told_bytes if draft.scheme.backward else 0
        return np.asarray(way.payload + sent + lent + 2 * self.demand.overhead_bytes)

    def _joules_by_layer(self, draft: Draft, resident: float) -> Array:
        """Return the joules of each layer at each width, but for what no width changes."""
        widths, profile = draft.workload.widths, self.profile
        samples, steps, spared = self._samples_and_steps(draft)
        macs = samples * widths.macs_sample[self.table] + steps * widths.macs_step[self.table]
        macs = macs - spared.samples * widths.macs_backward[self.table] if spared.samples else macs
        moved = steps * widths.moved_bytes * self._price(resident)
        sent = widths.sent if self.demand.carriers == 2 else 0.0
        radio = (widths.payload + sent) * profile.radio_j_per_byte.value
        return np.asarray(macs * profile.fp32_mac_energy.value + moved + radio)

    @cached_property
    def _start(self) -> Chosen:
        return self.widths.chosen(self.demand.wish)

    @cached_property
    def _floor(self) -> Chosen:
        wished = [name in self.demand.wish for name in self.widths.names]
        lowest = [WIDTHS.index(max(self.demand.lowest, self.demand.at_least.get(name, 0))) for name in self.widths.names]
        return np.where(wished, np.minimum(self._start, lowest), self._start)

    @cached_property
    def _moderate(self) -> Chosen:
        # Not by the wish, which is another one each round: the scheme is searched once.
        wished = [name in self.demand.wish for name in self.widths.names]
        return np.where(wished, np.maximum(self._floor, WIDTHS.index(MODERATE_BITS)), self._start)

    @cached_property
    def _minded(self) -> Array:
        own = zip(self.widths.names, self.widths.weights, strict=True)
        return np.array([self.demand.sensitivity.get(name, weights) for name, weights in own], np.float64)

    def _price(self, resident: Array | float) -> Array:
        on_chip, beyond = self.profile.on_chip_energy_j_per_byte.value, self.profile.dram_energy_j_per_byte.value
        return np.where(np.asarray(resident) <= self.profile.on_chip_memory.value, on_chip, beyond)

    def _samples_and_steps(self, draft: Draft) -> tuple[int, int, Spared]:
        """Return how many samples go forward at most, in how many steps, and what of them is spared at least."""
        epochs, samples = self.demand.epochs, self.demand.samples
        if self.demand.screen is None:
            return epochs * samples, epochs * -(-samples // draft.batch), NOTHING
        whole, rest = divmod(samples, draft.batch)
        counts = {draft.batch: epochs * whole, rest: epochs}
        batches, spared = self.demand.screen({size: count for size, count in counts.items() if size and count})
        spared = replace(spared, samples=0) if draft.workload.mixes else spared
        return sum(size * count for size, count in batches.items()), sum(batches.values()), spared

    @property
    def _limit_j(self) -> float:
        return math.inf if self.demand.energy_budget is None else self.demand.energy_budget

    def _excess(self, resident: Array | float, joules: Array | float) -> Array:
        # A budget of nothing is exceeded by anything.
        memory, energy = max(self.demand.memory_budget, 1e-9), max(self._limit_j, 1e-30)
        return np.maximum(np.asarray(resident) / memory, np.asarray(joules) / energy)

    def _mean_bits(self, need: _Need) -> float:
        weights = np.where([name in self.demand.wish for name in self.widths.names], self.widths.weights, 0.0)
        return float(weights @ np.array(WIDTHS)[need.chosen]) / max(float(weights.sum()), 1.0)
