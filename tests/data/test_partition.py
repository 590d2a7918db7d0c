"""fedapt.data.partition: the options of flwr-datasets' partitioners."""

import inspect

import numpy as np
import pytest
from pydantic import ValidationError

from fedapt.data import DataSpec
from fedapt.data.owners import class_name, partitioners
from fedapt.data.partition import PARTITIONS, Dirichlet, Distribution, InnerDirichlet, Shard, Task

# Vertical ones divide columns, not samples. IdToSizeFnc takes a Python function and Partitioner is the base class.
LEFT_OUT = {"VerticalEvenPartitioner", "VerticalSizePartitioner", "IdToSizeFncPartitioner", "Partitioner"}
FROM_THE_SCENARIO = {"num_partitions", "partition_by", "seed"}
# A client's rows are a set.
WITHOUT_EFFECT = {"shuffle"}
TASK = Task(labels=np.arange(40) % 4, clients=4, seed=0)


def test_every_partitioner_of_flwr_datasets_has_a_name():
    named = {class_name(kind.model_construct()) for kind in PARTITIONS.values()}
    assert named == set(partitioners().__all__) - LEFT_OUT


@pytest.mark.parametrize("name", PARTITIONS)
def test_the_options_are_those_of_the_partitioner(name):
    theirs = set(inspect.signature(getattr(partitioners(), class_name(PARTITIONS[name].model_construct()))).parameters)
    ours = set(PARTITIONS[name].model_fields) - {"kind"}
    assert ours - FROM_THE_SCENARIO == theirs - FROM_THE_SCENARIO - WITHOUT_EFFECT


@pytest.mark.parametrize("name", PARTITIONS)
def test_every_option_is_described(name):
    fields = PARTITIONS[name].model_fields
    assert PARTITIONS[name].__doc__ and all(field.description for key, field in fields.items() if key != "kind")


def test_a_bare_name_is_short_for_a_block():
    assert DataSpec(partition="dirichlet").partition == Dirichlet() == DataSpec(partition={"kind": "dirichlet"}).partition


@pytest.mark.parametrize(
    "block", ["size", "grouped_natural_id", "dirichlett", {"kind": "dirichlet", "alpha": 0.0}, {"kind": "iid", "x": 1}, 3]
)
def test_a_partition_that_cannot_be_is_refused(block):
    with pytest.raises(ValidationError):
        DataSpec(partition=block)


def test_a_resolved_partition_reads_back_as_it_was():
    for block in ("iid", {"kind": "dirichlet", "alpha": [0.1, 2.0]}, {"kind": "size", "partition_sizes": [3, 4]}):
        spec = DataSpec(partition=block)
        assert DataSpec.model_validate(spec.model_dump()) == spec == DataSpec.model_validate_json(spec.model_dump_json())


def test_the_schema_allows_the_bare_name_and_the_block():
    name, block = DataSpec.model_json_schema()["properties"]["partition"]["anyOf"]
    assert name["enum"] == list(PARTITIONS) and len(block["oneOf"]) == len(PARTITIONS)


def test_shards_are_two_a_client_unless_something_is_said():
    assert Shard().arguments(TASK)["num_shards_per_partition"] == 2
    assert Shard(num_shards_per_partition=3).arguments(TASK)["num_shards_per_partition"] == 3
    assert "num_shards_per_partition" not in Shard(shard_size=5).arguments(TASK)


def test_sizes_are_equal_unless_given_and_one_for_each_client():
    assert InnerDirichlet().arguments(TASK)["partition_sizes"] == [10, 10, 10, 10]
    with pytest.raises(ValueError, match="has 2 entries, not 4; give one for each client"):
        InnerDirichlet(partition_sizes=[5, 5]).arguments(TASK)


def test_a_distribution_is_drawn_for_each_class_and_the_clients_that_have_it():
    # 4 clients with 3 classes each make 12 places, which are 3 for each of the 4 classes.
    assert Distribution(num_unique_labels_per_partition=3).arguments(TASK)["distribution_array"].shape == (4, 3)
    given = [[1.0, 2.0]] * 4
    assert Distribution(distribution_array=given).arguments(TASK)["distribution_array"].tolist() == given
