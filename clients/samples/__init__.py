"""Which samples are worth training on. A new filter is one file here and one line in this table."""

from fedapt.clients.samples.all import All
from fedapt.clients.samples.filter import Filter

FILTERS: dict[str, type[Filter]] = {
    "all": All,
}
