"""What will not work, or not as meant, and what would: one function a rule, and one line for it in the table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from fedapt.check.prediction import Caution, Facts, Members
from fedapt.clients.precision.policy import Policy
from fedapt.clock.synchronous import Synchronous
from fedapt.cost.planner import Plan
from fedapt.cost.projection import readable_bytes
from fedapt.environment import usable_cores
from fedapt.grid.visit import Task
from fedapt.quant import FLOAT_BITS
from fedapt.quant.treatment import Scheme

# Fixed bits below which updates that are not rounded stochastically are lost: 8x8 digits, methods.md section 1.
ENOUGH_BITS = {"truncate": 10, "nearest": 8}
# Three bits cost a few points of accuracy, two most of it.
GOOD_BITS = 3
# Fashion-MNIST, MLP: the median loses nothing by 8 bits, 5 points by 6 and 29 by 4 (docs/results.md).
MEDIAN_BITS = 8
# Shares of free disk and memory that a run should leave alone.
SPARE = 0.1

Rule = Callable[[Facts], Iterator[str]]


def cautions(facts: Facts) -> list[Caution]:
    """Return what all rules say."""
    return [Caution(name, sentence) for name, rule in RULES.items() for sentence in rule(facts)]


def no_samples(facts: Facts) -> Iterator[str]:
    """A partition may leave clients with nothing."""
    if empty := len(facts.federation.without_data):
        yield (
            f"the partition leaves {_of(empty, facts.scenario.clients.count)} without samples: raise data.samples,"
            " lower clients.count, or choose a more even data.partition"
        )


def refused(facts: Facts) -> Iterator[str]:
    """Clients that cannot take part; the refusal says what would fit."""
    for members in facts.members:
        reasons: dict[str, list[int]] = {}
        for client, row in members.rows.items():
            if row.status == "refused" and client not in facts.federation.without_data:
                reasons.setdefault(row.reason, []).append(client)
        # The numbers differ from client to client, what is missing does not: one sentence for the most frequent.
        if reasons:
            reason = max(reasons, key=lambda text: len(reasons[text]))
            count = sum(map(len, reasons.values()))
            yield f"{_of(count, len(members.clients))} of {members.name} cannot take part: {reason}"


def small_cohort(facts: Facts) -> Iterator[str]:
    """A cohort cannot be larger than the clients that take part."""
    wanted, there = facts.scenario.clients.per_round, len(facts.enrolment.participants)
    if there < wanted:
        yield f"{wanted} clients a round cannot be chosen from the {there} that can take part: a round has {there}"


def too_few_updates(facts: Facts) -> Iterator[str]:
    """Rounds with too few updates leave the model as it is."""
    if empty := len(facts.course.empty):
        least = max(facts.scenario.strategy.least_updates, facts.scenario.failures.min_updates)
        yield (
            f"{empty} of the first {len(facts.course.records)} rounds would be empty, with fewer than {least} updates:"
            " raise clients.per_round or clock.deadline_s, or lower what the strategy or failures.min_updates need"
        )


def nobody_there(facts: Facts) -> Iterator[str]:
    """Clients that are not there cannot be asked."""
    if facts.course.lonely:
        yield f"as far as durations are known, the run would end early: {facts.course.failure}"


def no_batteries(facts: Facts) -> Iterator[str]:
    """Clients on the mains are all alike to a rule that looks at batteries."""
    kind = facts.scenario.clients.select.kind
    if kind == "energy_aware" and not facts.enrolment.batteries.of:
        yield f"no client has a battery, so `select: {kind}` chooses as `uniform` does: set budget.battery, or another profile"


def nothing_to_train(facts: Facts) -> Iterator[str]:
    """No epoch is no training."""
    said = []
    for members in facts.members:
        if members.tasks and not members.group.local.epochs:
            said.append((members.name, "trains nothing: set local.epochs to 1 or more"))
    yield from _merged(said)


def trial_failed(facts: Facts) -> Iterator[str]:
    """What the trial steps ran into, the run will too."""
    for problem in dict.fromkeys(pace.problem for pace in facts.trial.paces.values() if pace.problem):
        yield f"the trial steps failed: {problem}"


def updates_underflow(facts: Facts) -> Iterator[str]:
    """An update smaller than a code is lost unless it is rounded stochastically."""
    said = []
    for members in facts.members:
        policy = members.group.method.precision
        enough = ENOUGH_BITS.get(policy.rounding, 0)
        widths = [bits for task in members.tasks.values() for bits in task.plan.bits.values()]
        if policy.master or not widths or min(widths) >= enough:
            continue
        way_out = "`rounding: stochastic` keeps them on average"
        if type(policy).adapt is not Policy.adapt:
            way_out += f", or let {policy.kind} raise the bits first: the first rounds learn little"
        else:
            way_out += f", or {enough} bits lose few"
        lost = "loses small updates" if policy.rounding == "truncate" else "loses updates of less than half a code"
        said.append((members.name, f"`rounding: {policy.rounding}` at {min(widths)} bits {lost}: {way_out}"))
    yield from _merged(said)


def two_bits_wished(facts: Facts) -> Iterator[str]:
    """At two bits a weight has four values."""
    said = []
    for members in facts.members:
        if any(bits < GOOD_BITS for bits in _wish(facts, members).values()):
            kind = members.group.method.precision.kind
            said.append((members.name, f"{kind} asks for 2 bits, at which most models lose accuracy: ask for 3 or 4"))
    yield from _merged(said)


def medians_of_few_bits(facts: Facts) -> Iterator[str]:
    """Of updates in few codes most are 0, and so is the middle of them."""
    kind, fewest = facts.scenario.strategy.kind, FLOAT_BITS
    for members in facts.members:
        fewest = min([fewest, *(bits for task in members.tasks.values() for bits in task.plan.bits.values())])
    if facts.scenario.strategy.by_coordinate and fewest < MEDIAN_BITS:
        yield (
            f"{kind} takes the middle of each weight's updates, and at {fewest} bits most of those are 0: give clients"
            f" {MEDIAN_BITS} bits, or use multi_krum or geometric_median"
        )


def pushed_below_three_bits(facts: Facts) -> Iterator[str]:
    """What a budget takes below three bits costs accuracy."""
    for members in facts.members:
        wish = _wish(facts, members)
        pushed = [
            client
            for client, task in members.tasks.items()
            if any(bits < min(GOOD_BITS, wish[layer]) for layer, bits in task.plan.bits.items())
        ]
        if pushed:
            plan = members.tasks[pushed[0]].plan
            good = {layer: max(bits, min(GOOD_BITS, wish[layer])) for layer, bits in plan.bits.items()}
            hint = _way_out(members, pushed[0], replace(plan, bits=good))
            yield f"{_of(len(pushed), len(members.clients))} of {members.name} would train layers at 2 bits: {hint}"


def bits_within_a_round(facts: Facts) -> Iterator[str]:
    """What a client decides while it trains is not known before."""
    said = []
    for members in facts.members:
        if any(task.instructions.adaptation for task in members.tasks.values()):
            kind = members.group.method.precision.kind
            said.append(
                (members.name, f"{kind} moves bits within a round: costs and uplink are predicted at those it starts with")
            )
    yield from _merged(said)


def single_samples(facts: Facts) -> Iterator[str]:
    """Batches of one are noisy and slow."""
    for members in facts.members:
        wanted = members.group.local.batch
        single = [client for client, task in members.tasks.items() if task.plan.batch == 1 < min(wanted, task.samples)]
        if single:
            hint = _way_out(members, single[0], replace(members.tasks[single[0]].plan, batch=2, scheme=_own(members)))
            yield f"{_of(len(single), len(members.clients))} of {members.name} would train in batches of 1: {hint}"


def frozen_layers(facts: Facts) -> Iterator[str]:
    """What a client is made to leave as it is, it learns from others at best."""
    trained_by_some = {layer for members in facts.members for task in members.tasks.values() for layer in _trained(task)}
    for members in facts.members:
        given_up = {
            client: names
            for client, task in members.tasks.items()
            if task.plan.scheme != _own(members)
            and (names := tuple(name for name in task.plan.bits if name not in _trained(task)))
        }
        if given_up:
            client, names = next(iter(given_up.items()))
            plan = members.tasks[client].plan
            hint = _way_out(members, client, replace(plan, scheme=_own(members)))
            left = ", ".join(names) + (", which others train" if trained_by_some.issuperset(names) else "")
            yield f"{_of(len(given_up), len(members.clients))} of {members.name} would not train {left}: {hint}"


def trained_by_nobody(facts: Facts) -> Iterator[str]:
    """What no client trains never learns, if it has not learned before the first round."""
    tasks = [task for members in facts.members for task in members.tasks.values()]
    if facts.scenario.pretrain is not None or not tasks:
        return
    trained = {layer for task in tasks for layer in _trained(task)}
    if names := [name for name in tasks[0].plan.bits if name not in trained]:
        yield (
            f"no client trains {', '.join(names)}, which would keep random weights: begin with `pretrain`, give some clients"
            " `backward: exact` or more memory, or let the method train more layers"
        )


def filtered_from_nothing(facts: Facts) -> Iterator[str]:
    """Filtered gradients are too coarse to learn from the start."""
    names = [members.name for members in facts.members if members.group.method.backward.kind == "gradient_filter"]
    if names and facts.scenario.pretrain is None:
        yield f"{', '.join(names)}: gradient_filter adapts what has been learned, from random weights it fails: add `pretrain`"


def late(facts: Facts) -> Iterator[str]:
    """An update after the deadline does not count."""
    clock = facts.scenario.clock
    deadline_s = clock.deadline_s if isinstance(clock, Synchronous) else None
    if deadline_s is None:
        return
    for members in facts.members:
        rows = [members.rows[client] for client in members.tasks]
        count = sum(row.status == "late" for row in rows)
        if count:
            median_s, slowest_s = statistics.median(row.time_s for row in rows), max(row.time_s for row in rows)
            yield (
                f"{_of(count, len(rows))} of {members.name} would miss clock.deadline_s of {deadline_s:g} s (their median"
                f" takes {median_s:.3g} s): {slowest_s:.3g} s would let all in, or fewer epochs or samples"
            )


def flat_batteries(facts: Facts) -> Iterator[str]:
    """A client whose battery cannot pay for a round sits it out."""
    for members in facts.members:
        flat = [client for client in members.enrolled if client in facts.course.flat]
        if flat:
            first = min(facts.course.flat[client] for client in flat)
            yield (
                f"the batteries of {_of(len(flat), len(members.clients))} of {members.name} run empty, the first before round"
                f" {first}: a larger budget.battery, longer clients.batteries.between_rounds_s or fewer epochs would keep them"
            )


def disk(facts: Facts) -> Iterator[str]:
    """A full disk ends a run."""
    needed, free = facts.room.disk_bytes, facts.room.disk_free_bytes
    if needed > (1 - SPARE) * free:
        yield (
            f"the run folder may take {readable_bytes(needed)}, and {readable_bytes(free)} are free: choose another disk with"
            " --output, or lower rounds or keep.models"
        )


def memory(facts: Facts) -> Iterator[str]:
    """A machine out of memory kills workers."""
    needed, free = facts.room.memory_bytes, facts.room.memory_free_bytes
    if free is not None and needed > (1 - SPARE) * free:
        way_out = "" if facts.scenario.strategy.linear else ", clients.per_round (this strategy takes all updates at once)"
        yield (
            f"the simulation may take {readable_bytes(needed)} of this machine's memory, and {readable_bytes(free)} are free:"
            f" lower engine.workers{way_out}"
        )


def workers_beyond_cores(facts: Facts) -> Iterator[str]:
    """More workers than cores only wait for each other."""
    workers, cores = facts.scenario.engine.workers, usable_cores()
    if facts.scenario.engine.kind == "ray" and workers != "auto" and workers > cores:
        yield f"{workers} workers share {cores} cores: `engine.workers: {cores}` takes no longer, and less memory"


def scope_without_adaptation(facts: Facts) -> Iterator[str]:
    """A wish that never changes is the same for all."""
    for policy in _policies(facts):
        if policy.scope == "client" and type(policy).adapt is Policy.adapt:
            yield f"`scope: client` does nothing with {policy.kind}, whose bits do not adapt: leave it out"


def options_of_codes(facts: Facts) -> Iterator[str]:
    """What has no codes, or trains a float master, rounds no update."""
    for policy in _policies(facts):
        of_floats = policy.kind == "fp32"
        ignored = [name for name, of in (("rounding", of_floats or policy.master), ("grid", of_floats)) if of]
        defaults = type(policy).model_validate({"kind": policy.kind})
        for name in ignored:
            if getattr(policy, name) != getattr(defaults, name):
                yield f"`{name}` does nothing with {policy.kind}, which trains floats: leave it out"


def operands_without_layers(facts: Facts) -> Iterator[str]:
    """Only layers that multiply have an input or an error to quantise."""
    shapes = next(iter(facts.enrolment.participants.values())).cost.shapes
    if any(shape.kind in ("linear", "conv") for shape in shapes):
        return
    methods = [members.group.method for members in facts.members]
    for name in ("activations", "errors"):
        if any(getattr(method, name) < FLOAT_BITS for method in methods):
            yield f"`{name}` does nothing: {facts.scenario.model.kind} has no dense or convolutional layer that is quantised"


def faults(facts: Facts) -> Iterator[str]:
    """What goes wrong on purpose is not predicted."""
    if facts.scenario.faults.touch_training:
        yield "the scenario asks for faults: this prediction is of clients that all answer well"


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        no_samples,
        refused,
        small_cohort,
        too_few_updates,
        nothing_to_train,
        nobody_there,
        no_batteries,
        trial_failed,
        late,
        flat_batteries,
        updates_underflow,
        two_bits_wished,
        medians_of_few_bits,
        pushed_below_three_bits,
        single_samples,
        frozen_layers,
        trained_by_nobody,
        filtered_from_nothing,
        bits_within_a_round,
        scope_without_adaptation,
        options_of_codes,
        operands_without_layers,
        disk,
        memory,
        workers_beyond_cores,
        faults,
    )
}


def _of(count: int, all_of_them: int) -> str:
    noun = "client" if all_of_them == 1 else "clients"
    return f"all {all_of_them} {noun}" if count == all_of_them else f"{count} of {all_of_them} {noun}"


def _merged(said: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield what is said of groups, once for all of which it is the same."""
    for text in dict.fromkeys(text for _, text in said):
        yield f"{', '.join(name for name, same in said if same == text)}: {text}"


def _policies(facts: Facts) -> Sequence[Policy]:
    """Return the policies that differ."""
    policies = [members.group.method.precision for members in facts.members]
    return [policy for number, policy in enumerate(policies) if policy not in policies[:number]]


def _wish(facts: Facts, members: Members) -> dict[str, int]:
    """Return what the group's policy asks for in the first round."""
    first = next(iter(members.enrolled), None)
    return facts.enrolment.wishes.of(members.group.method.precision, first).bits if first is not None else {}


def _own(members: Members) -> Scheme:
    """Return the scheme of a group's own method, before anything is given up for a budget."""
    return next(iter(members.enrolled.values())).cost.workloads.begin


def _trained(task: Task) -> Collection[str]:
    """Return the quantised layers of whose weights a client trains some."""
    return task.plan.bits if task.part is None else task.part.weights


def _way_out(members: Members, client: int, better: Plan) -> str:
    """Say which budget would let a client do what its plan gave up."""
    participant, task, row = members.enrolled[client], members.tasks[client], members.rows[client]
    cost = participant.cost_under(task.instructions.proximal_mu)

    def peak_bytes(plan: Plan) -> int:
        batch = min(plan.batch, task.samples)
        return cost.training_cost(plan.bits, [batch], 0, 0, plan.scheme).memory.total_bytes

    # What is resident beside the step, such as the start that FedProx keeps, is in the row.
    needed, budget = row.memory_bytes - peak_bytes(task.plan) + peak_bytes(better), participant.memory_budget_bytes
    if needed > budget:
        return f"{readable_bytes(needed)} of memory, where it has {readable_bytes(budget)}, would avoid that"
    return "more energy for a round, or fewer samples or epochs, would avoid that"
