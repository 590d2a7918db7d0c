"""Server side: one aggregation strategy a file. A new one is one file here and one line in this table."""

from fedapt.strategies.adaptive import FedAdagradOptions, FedAdamOptions, FedYogiOptions
from fedapt.strategies.bulyan import BulyanOptions
from fedapt.strategies.fedbuff import FedBuffOptions
from fedapt.strategies.feddyn import FedDynOptions
from fedapt.strategies.fednova import FedNovaOptions
from fedapt.strategies.geometric_median import GeometricMedianOptions
from fedapt.strategies.krum import KrumOptions, MultiKrumOptions
from fedapt.strategies.median import MedianOptions
from fedapt.strategies.norm_clipping import NormClippingOptions
from fedapt.strategies.precision_weighted import PrecisionWeightedOptions
from fedapt.strategies.q_fedavg import QFedAvgOptions
from fedapt.strategies.scaffold import ScaffoldOptions
from fedapt.strategies.stock import FedAvgMOptions, FedAvgOptions, FedProxOptions
from fedapt.strategies.strategy import StrategyOptions
from fedapt.strategies.trimmed_mean import TrimmedMeanOptions

if __name__ != "fedapt.strategies":
    raise ImportError("this folder is the package fedapt.strategies: write `import fedapt.strategies`, not `import strategies`")

STRATEGIES: dict[str, type[StrategyOptions]] = {
    "fedavg": FedAvgOptions,
    "fedavgm": FedAvgMOptions,
    "fedadam": FedAdamOptions,
    "fedadagrad": FedAdagradOptions,
    "fedyogi": FedYogiOptions,
    "fedprox": FedProxOptions,
    "scaffold": ScaffoldOptions,
    "fednova": FedNovaOptions,
    "feddyn": FedDynOptions,
    "q_fedavg": QFedAvgOptions,
    "median": MedianOptions,
    "trimmed_mean": TrimmedMeanOptions,
    "krum": KrumOptions,
    "multi_krum": MultiKrumOptions,
    "bulyan": BulyanOptions,
    "geometric_median": GeometricMedianOptions,
    "norm_clipping": NormClippingOptions,
    "precision_weighted": PrecisionWeightedOptions,
    "fedbuff": FedBuffOptions,
}
