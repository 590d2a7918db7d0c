"""Data: sources, partitions among clients, and batches of examples."""

from fedapt.data.examples import DataShape, Examples
from fedapt.data.federation import Federation, Pool, load, pool
from fedapt.data.partition import PARTITIONS
from fedapt.data.spec import DataSpec, is_path

__all__ = ["PARTITIONS", "DataShape", "DataSpec", "Examples", "Federation", "Pool", "is_path", "load", "pool"]
