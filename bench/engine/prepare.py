"""Prepares a workload once: Parquet files for fedapt, and one file of arrays with the very same partition for everyone else."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.engine.work import Work
from bench.engine.workloads import Workload
from fedapt.data import DataSpec, Federation, load
from fedapt.models import MODELS, build
from fedapt.models.model import ModelOptions
from fedapt.plugins import load_plugins
from fedapt.quant.skeleton import float_arrays
from fedapt.seeding import numpy_stream
from fedapt.selection.selection import Candidate
from fedapt.selection.uniform import Uniform

SHARED = Path(os.environ.get("FEDAPT_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
SHAPES = {"fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
SEED = 0
TEST_SAMPLES = 2000

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def prepare(workload: Workload, folder: Path) -> Work:
    """Write everything that the contestants read into an empty folder."""
    folder.mkdir(parents=True)
    count = workload.clients * workload.samples
    for split, wanted in (("train", count), ("test", TEST_SAMPLES)):
        _write_parquet(folder / f"{split}.parquet", *_images(workload.data, split, wanted))
    federation = load(data_spec(folder, workload), workload.clients, SEED)
    cohorts = [cohort(workload, round) for round in range(workload.rounds)]
    orders = [[_order(workload, federation, round, client) for client in chosen] for round, chosen in enumerate(cohorts)]
    inputs, labels = federation.train.batch(np.arange(count))
    test_inputs, test_labels = federation.test.batch(np.arange(len(federation.test.labels)))
    model = build(model_options(workload), federation.data_shape, SEED)
    work = Work(folder, workload)
    work.write(
        {
            "inputs": inputs.numpy(),
            "labels": labels.numpy(),
            "test_inputs": test_inputs.numpy(),
            "test_labels": test_labels.numpy(),
            "cohorts": np.array(cohorts),
            "orders": np.array(orders),
        },
        {name: values.numpy() for name, values in float_arrays(model).items()},
    )
    return work


def data_spec(folder: Path, workload: Workload) -> DataSpec:
    """Return the `data:` block of the workload's scenario: all clients have equally many samples, and hold none out."""
    return DataSpec.model_validate(
        {
            "source": str(folder / "train.parquet"),
            "shape": list(SHAPES[workload.data]),
            "partition": {"kind": "iid"},
            "held_out": 0.0,
        }
    )


def model_options(workload: Workload) -> ModelOptions:
    """Return the `model:` block."""
    load_plugins(["bench.engine.plugin"])
    given: dict[str, Any] = {"hidden": list(workload.hidden)} if workload.model == "mlp" else {}
    return MODELS[workload.model].model_validate({"kind": workload.model, **given})


def cohort(workload: Workload, round: int) -> list[int]:
    """Return the clients of a round as fedapt draws them."""
    everyone = [Candidate(client, workload.samples) for client in range(workload.clients)]
    return Uniform().choose(everyone, workload.cohort, round, numpy_stream(SEED, "cohort", round))


def _order(workload: Workload, federation: Federation, round: int, client: int) -> npt.NDArray[np.int64]:
    """Return the rows in the order of fedapt's steps. Every workload has one epoch at most."""
    return numpy_stream(SEED, "batches", round, client, 0).permutation(federation.rows[client])


def _images(data: str, split: str, count: int) -> tuple[Images, Labels]:
    """Return the first images of a data set, or drawn ones where it is not at hand: ten noisy patterns."""
    path = SHARED / f"{data}_{split}.parquet"
    if not path.exists():
        return _drawn(SHAPES[data], split, count)
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, columns=["image", "label"]).slice(0, count)
    raw = table["image"].to_pylist()
    if data == "cifar10":
        raw = [_decoded(one) for one in raw]
    if len(raw) < count:
        raise ValueError(f"{path} has {len(raw)} samples, and {count} are needed")
    return np.frombuffer(b"".join(raw), np.uint8).reshape(count, *SHAPES[data]), table["label"].to_numpy().astype(np.int64)


def _decoded(jpeg: bytes) -> bytes:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).transpose(2, 0, 1).tobytes()


def _drawn(shape: tuple[int, ...], split: str, count: int) -> tuple[Images, Labels]:
    patterns = numpy_stream(SEED, "bench.patterns").integers(0, 256, (10, *shape))
    stream = numpy_stream(SEED, f"bench.{split}")
    labels = stream.integers(0, 10, count)
    noise = stream.normal(0, 96, (count, *shape))
    return np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), labels


def _write_parquet(path: Path, images: Images, labels: Labels) -> None:
    import pyarrow
    import pyarrow.parquet

    raw = pyarrow.array([one.tobytes() for one in images], pyarrow.binary())
    pyarrow.parquet.write_table(pyarrow.table({"image": raw, "label": labels}), path)
