"""Which samples are worth training on. A new filter is one file here and one line in this table."""

from fedapt.clients.samples.all import All
from fedapt.clients.samples.filter import Filter
from fedapt.clients.samples.instance_filter import InstanceFilter
from fedapt.clients.samples.loss_topk import LossTopK
from fedapt.clients.samples.random import Random

FILTERS: dict[str, type[Filter]] = {
    "all": All,
    "loss_topk": LossTopK,
    "instance_filter": InstanceFilter,
    "random": Random,
}
