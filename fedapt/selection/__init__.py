"""Who takes part in a round: the rules that choose, and when clients can be chosen at all. A new one is one file and one line."""

from fedapt.selection.always import Always
from fedapt.selection.availability import Availability
from fedapt.selection.daily import Daily
from fedapt.selection.data_size import DataSize
from fedapt.selection.energy_aware import EnergyAware
from fedapt.selection.power_of_choice import PowerOfChoice
from fedapt.selection.selection import Selection
from fedapt.selection.trace import Trace
from fedapt.selection.uniform import Uniform
from fedapt.selection.utility import Utility

SELECTORS: dict[str, type[Selection]] = {
    "uniform": Uniform,
    "data_size": DataSize,
    "power_of_choice": PowerOfChoice,
    "utility": Utility,
    "energy_aware": EnergyAware,
}

AVAILABILITIES: dict[str, type[Availability]] = {
    "always": Always,
    "daily": Daily,
    "trace": Trace,
}
