"""The search for a sparse update, and what a server may lend: the best that has room, found once, or nothing."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from fedapt.clients.backward import RULES
from fedapt.clients.backward.gradient_filter import FilteredConv, GradientFilter
from fedapt.clients.backward.lending import FilterSearch, lenders
from fedapt.clients.backward.rule import GlobalModel
from fedapt.clients.backward.scheme_search import SparseSearch, Worth, worth_of
from fedapt.clients.backward.sparse_update import SparseUpdate
from fedapt.cost.energy import TABLES
from fedapt.cost.ladder import LADDER, Draft, Room
from fedapt.cost.planner import Demand, plan
from fedapt.cost.profiles import load_profile
from fedapt.cost.workload import Workloads
from fedapt.data import DataShape
from fedapt.grid.inline import Inline
from fedapt.grid.ray_pool import RayPool
from fedapt.grid.visit import ByMessage
from fedapt.models import MODELS
from fedapt.quant import GridOptions, SingleCopySGD, quantise_tensor
from fedapt.quant.skeleton import Skeleton, float_arrays
from fedapt.quant.treatment import WHOLE, Scheme
from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.run import run
from fedapt.stopping import Stopper
from tests.grid.conftest import same_bits, scenario
from tests.grid.partial import lent
from tests.grid.play import play
from tests.quant.live import tensors_now, walk

SHARES = (0.0, 0.125, 0.25, 0.5, 1.0)


def line() -> nn.Module:
    """Three layers of 64, 32 and 16 inputs, and a head."""
    return nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)
    )  # fmt: skip


def mixed() -> nn.Module:
    """Dense, grouped, depthwise and 1x1 convolutions, norms, one without bias."""
    norm = nn.GroupNorm(2, 8)
    norm.bias = None
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), norm, nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, groups=8), nn.GroupNorm(2, 16), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip


def search_of(factory, worth: Worth) -> SparseSearch:
    return SparseSearch(SparseUpdate(choose="first"), Skeleton(factory).modules, lambda: worth, lambda block: block)


def known(factory, input_shape, vocabulary=0) -> GlobalModel:
    def build() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return factory()

    arrays = {name: values.numpy() for name, values in float_arrays(build()).items()}
    return GlobalModel(build, arrays, Skeleton(build).modules, input_shape, vocabulary, seed=0)


def resident(workloads: Workloads, scheme: Scheme, batch: int = 4) -> float:
    widths = workloads.at(scheme).widths
    floats = widths.chosen({})
    return float(widths.way_by_bytes(floats, floats, np.ones(len(floats))).resident(batch)[0])


def total(worth: Worth, names: list[str], scheme: Scheme) -> float:
    block = scheme.backward
    biased = names[len(names) - block.biases : -1] if block.biases else []
    return sum(worth.biases[name] for name in biased) + sum(s * worth.weights[name] for name, s in block.weights.items())


@pytest.mark.parametrize(
    ("numbers", "weights", "biases"),
    [
        # A sample keeps 4 bytes of each input that is chosen, and a bit of each output that is clipped.
        (0, {}, 1),
        (1, {}, 2),
        (1 + 2 + 4 * 32, {"2": 1.0}, 3),
        (1 + 2 + 4 * 32 + 4 * 4, {"2": 1.0, "4": 0.25}, 3),
    ],
)
def test_the_best_scheme_is_found_where_it_is_known(numbers, weights, biases):
    worth = Worth({"0": 0.0, "2": 10.0, "4": 1.0, "6": 0.0}, {"0": 0.0, "2": 0.1, "4": 0.1, "6": 0.0})
    workloads, search = Workloads(line, (64,)), search_of(line, worth)
    head = workloads.at(Scheme(backward=SparseUpdate(biases=1, weights={}))).saved.per_sample
    found = search(workloads, "device", lambda scheme: workloads.at(scheme).saved.per_sample <= head + numbers)
    assert (found.backward.weights, found.backward.biases) == (weights, biases)


@pytest.mark.parametrize("room", [0.1, 0.3, 0.8])
def test_no_scheme_of_all_is_worth_much_more(room):
    worth = Worth({"0": 3.0, "2": 2.0, "4": 2.5, "6": 0.0}, {"0": 0.1, "2": 0.3, "4": 0.2, "6": 0.0})
    workloads, search, names = Workloads(line, (64,)), search_of(line, worth), ["0", "2", "4", "6"]
    all_of_them = []
    for reached in range(4):
        layers = names[3 - reached : 3]
        for shares in itertools.product(SHARES, repeat=reached):
            weights = {name: share for name, share in zip(layers, shares, strict=True) if share}
            all_of_them.append(Scheme(backward=SparseUpdate(biases=reached + 1, weights=weights)))
    kept = {scheme: workloads.at(scheme).saved.per_sample for scheme in all_of_them[:: 1 if room == 0.3 else 5]}
    budget = min(kept.values()) + room * (max(kept.values()) - min(kept.values()))
    found = search(workloads, "device", lambda scheme: workloads.at(scheme).saved.per_sample <= budget)
    best = max(total(worth, names, scheme) for scheme, size in kept.items() if size <= budget)
    assert workloads.at(found).saved.per_sample <= budget and total(worth, names, found) >= 0.97 * best


def test_more_memory_is_never_worth_less_and_what_is_found_fits_as_measured():
    model = known(mixed, (3, 9, 9))
    search, workloads = SparseUpdate().search(model), Workloads(model.build, (3, 9, 9))
    names = [module.name for module in model.modules if module.op is not None]
    least = resident(workloads, Scheme(backward=SparseUpdate(biases=0, weights={})))
    totals = []
    for budget in np.linspace(0.999 * least, 1.2 * resident(workloads, WHOLE), 8):
        found = search(workloads, budget, lambda scheme, most=budget: resident(workloads, scheme) <= most)
        totals.append(-1.0 if found is None else total(search.worth, names, found))
        assert found is None or resident(workloads, found) <= budget
    assert totals == sorted(totals) and totals[0] == -1.0 and len(set(totals)) > 4
    assert totals[-1] == pytest.approx(sum(search.worth.weights[n] + search.worth.biases[n] for n in names[:-1]))


def test_equal_devices_share_a_search_and_others_do_not():
    model, asked = known(line, (64,)), []
    search, workloads = SparseUpdate().search(model), Workloads(line, (64,))

    def fits(scheme: Scheme) -> bool:
        asked.append(scheme)
        return True

    first, times = search(workloads, "a", fits), len(asked)
    assert search(workloads, "a", fits) is first and len(asked) == times
    search(workloads, "b", fits)
    search(workloads.pulled, "a", fits)
    assert len(asked) == 3 * times


def test_where_nothing_fits_the_ladder_goes_on():
    model = known(line, (64,))
    workloads = Workloads(line, (64,), lend={"sparse": SparseUpdate().search(model)})
    draft = Draft(workloads, 4, WHOLE)
    assert list(LADDER["sparse"](draft, Room(4, "none", lambda draft: False))) == []
    assert [one.batch for one in LADDER["sparse"](draft, Room(4, "all", lambda draft: True))] == [4]


CASES = {
    "resnet20": ({"width": 4}, DataShape((3, 16, 16), 5)),
    "ds-cnn": ({"width": 4}, DataShape((1, 8, 8), 5)),
    "mlp": ({}, DataShape((1, 8, 8), 5)),
    "char-gru": ({"embedding": 6, "hidden": 8}, DataShape((7,), 9, 9)),
    "text": ({}, DataShape((7,), 5, 30)),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in {"resnet20", "ds-cnn"})) for kind in CASES]
)
def test_every_kind_of_model_is_searched_and_trains_what_was_found(kind):
    options, shape = CASES[kind]
    model = known(lambda: MODELS[kind](**options).build(shape), shape.shape, shape.vocabulary)
    dtype = torch.int64 if shape.vocabulary else torch.float32
    search, workloads = SparseUpdate().search(model), Workloads(model.build, shape.shape, dtype)
    head, whole = (resident(workloads, scheme) for scheme in (Scheme(backward=SparseUpdate(biases=0, weights={})), WHOLE))
    found = search(workloads, "device", lambda scheme: resident(workloads, scheme) <= (head + whole) / 2)
    assert found is not None and math.isfinite(sum(search.worth.weights.values())) and sum(search.worth.biases.values()) > 0
    assert head <= resident(workloads, found) <= (head + whole) / 2
    assert workloads.at(found).part is not None


def test_a_search_needs_few_measurements():
    model = known(mixed, (3, 9, 9))
    search, asked = SparseUpdate().search(model), []
    workloads = Workloads(model.build, (3, 9, 9))
    saved = [workloads.at(scheme).saved.per_sample for scheme in (Scheme(backward=SparseUpdate(biases=0, weights={})), WHOLE)]

    def fits(scheme: Scheme) -> bool:
        asked.append(scheme)
        return workloads.at(scheme).saved.per_sample < sum(saved) / 2

    assert search(workloads, "device", fits) is not None and len(asked) <= 14


def test_worth_is_the_squared_gradient_and_the_norms_count_with_the_layer_before():
    torch.manual_seed(0)
    worth = worth_of(known(mixed, (3, 9, 9)))
    assert worth_of(known(mixed, (3, 9, 9))) == worth, "the same model gives the same bits"
    assert set(worth.weights) == {"0", "3", "5", "8", "11"} and min(worth.weights.values()) > 0
    assert min(worth.biases.values()) > 0, "`0` has no bias, but the norm after it has a weight"


def test_filters_are_lent_to_pretrained_models_alone_and_only_to_a_method_that_chose_none():
    model = known(mixed, (3, 9, 9))
    assert set(lenders(RULES["exact"](), model, pretrained=True)) == {"filter", "sparse"}
    assert set(lenders(RULES["exact"](), model, pretrained=False)) == {"sparse"}
    assert set(lenders(SparseUpdate(), model, pretrained=True)) == {"own"}
    assert not lenders(SparseUpdate(biases=1), model, pretrained=True) and not lenders(GradientFilter(), model, pretrained=True)


def wide() -> nn.Module:
    """A narrow convolution, on which filtering loses, before two wide ones."""
    return nn.Sequential(
        nn.Conv2d(3, 256, 1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(), nn.Flatten(), nn.Linear(256 * 196, 3),
    )  # fmt: skip


def test_only_convolutions_that_get_faster_are_filtered():
    model = known(wide, (3, 14, 14))
    search, workloads = FilterSearch(model), Workloads(wide, (3, 14, 14))
    pays = [FilteredConv(2, shapes[0][2:]).pays(op, *shapes) for op, *shapes in search._convolutions]
    assert [len(shapes) for _, *shapes in search._convolutions] == [3, 3, 3] and pays == [False, True, True]
    assert search(workloads, "device", lambda scheme: True).backward == GradientFilter(patch=2, layers=2)
    assert search(workloads, "device", lambda scheme: scheme.backward.patch == 4).backward.patch == 4
    assert search(workloads, "device", lambda scheme: False) is None
    assert FilterSearch(known(mixed, (3, 9, 9)))(workloads, "device", lambda scheme: True) is None


def played(folder, backward, precision, memory=None, **engine):
    method = {"precision": precision, "backward": backward}
    budget = {"memory": memory} if memory else {}
    clients = {"count": 6, "per_round": 3, "local": {"lr": 0.05, "batch": 8}, "method": method}
    clients["groups"] = [{"profile": "raspberry-pi-4", "budget": budget}]
    wanted = scenario(clients=clients, **({"engine": engine} if engine else {}))
    with Stopper() as stopper, Display() as display:
        return read_run(run(wanted, folder, display, stopper))


@pytest.mark.slow
@pytest.mark.parametrize("precision", [{"kind": "fixed", "bits": 4}, {"kind": "budget"}], ids=["fixed", "budget"])
def test_a_run_without_options_searches_and_ray_gives_its_bits(precision, tmp_path, ray_session):
    generous = played(tmp_path / "generous", "sparse_update", precision).ledger
    least = played(tmp_path / "least", {"kind": "sparse_update", "biases": 0, "weights": {}}, precision).ledger
    memory = int((generous["memory_bytes"].max() + least["memory_bytes"].max()) / 2)
    inline = played(tmp_path / "inline", "sparse_update", precision, memory)
    ray = played(tmp_path / "ray", "sparse_update", precision, memory, kind="ray", workers=2, chunk=1)
    assert (inline.path / "model.safetensors").read_bytes() == (ray.path / "model.safetensors").read_bytes()
    assert inline.ledger.equals(ray.ledger) and (inline.ledger["status"] == "ok").all()
    assert inline.ledger["memory_bytes"].max() <= memory
    assert inline.ledger["trained_weights"].min() >= least["trained_weights"].max()
    assert inline.ledger["trained_weights"].max() < generous["trained_weights"].max()


@pytest.mark.slow
@pytest.mark.parametrize("choose", ["magnitude", "first", "random"])
def test_a_scheme_of_ones_own_runs(choose, tmp_path):
    backward = {"kind": "sparse_update", "biases": 2, "weights": {"dense1": 0.25}, "choose": choose}
    ledger = played(tmp_path, backward, {"kind": "fixed", "bits": 4}).ledger
    assert (ledger["status"] == "ok").all() and ledger["trained_weights"].nunique() == 1


PART = Scheme(("conv1",), SparseUpdate(biases=3, weights={"conv2": 0.25, "dense1": 0.5}, choose="first"))


@pytest.mark.slow
def test_a_lent_scheme_behind_a_frozen_prefix_gives_the_same_bits_direct_by_message_and_by_ray(ray_session):
    wanted = scenario()
    with lent([PART, WHOLE]):
        direct, rows, _ = play(wanted)
        sent, by_message, _ = play(wanted, lambda enrolment: Inline(ByMessage(enrolment.workshop.open().app)))
        pooled, by_ray, _ = play(wanted, lambda enrolment: RayPool(enrolment.workshop, 2, chunk=1))
    assert same_bits(direct, sent) and same_bits(direct, pooled) and rows == by_message == by_ray
    assert len({row.trained_weights for row in rows}) == 2


def test_between_steps_of_a_sparse_update_no_float_tensor_of_a_weights_size_is_alive():
    known_before, least = tensors_now(), 128
    block = SparseUpdate(biases=3, weights={"0": 0.5, "2": 1.0}, choose="first")
    skeleton, generator = Skeleton(line, block), torch.Generator().manual_seed(0)
    for layer in skeleton.quantised.layers.values():
        layer.weight = quantise_tensor(torch.randn(layer.weight.shape), 4, GridOptions(), "stochastic", generator)
    x, labels = torch.randn(1, 64), torch.zeros(1, dtype=torch.int64)
    with SingleCopySGD(skeleton.model, skeleton.quantised, 0.1, "stochastic", generator, at_once=skeleton.at_once) as sgd:
        for _ in range(2):
            with sgd.step():
                nn.functional.cross_entropy(skeleton.model(x), labels).backward()
            assert walk(least, known_before) == []


def test_a_search_does_not_spend_the_bits_of_all_layers_on_a_larger_scheme():
    model = known(mixed, (3, 9, 9))
    workloads = Workloads(
        model.build, (3, 9, 9), begin=Scheme(backward=SparseUpdate()), lend={"own": SparseUpdate().search(model)}
    )
    wish = {module.name: 4 for module in model.modules if module.op is not None}
    least, most = (resident(workloads, scheme) for scheme in (workloads.begin, WHOLE))
    for share in (0.3, 0.6):
        demand = Demand(wish, 40, 1, 4, int(least + share * (most - least)), ladder=("bits",))
        found = plan(workloads, load_profile("raspberry-pi-4"), next(iter(TABLES)), demand)
        assert found.bits == wish and found.scheme.backward.weights
