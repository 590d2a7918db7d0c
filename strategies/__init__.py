"""Server side: one aggregation strategy a file. A new one is one file here and one line in this table."""

import flwr.serverapp.strategy as flower

from fedapt.strategies.stock import least_to_trim, stock
from fedapt.strategies.strategy import StrategyOptions

if __name__ != "fedapt.strategies":
    raise ImportError("this folder is the package fedapt.strategies: write `import fedapt.strategies`, not `import strategies`")

STRATEGIES: dict[str, type[StrategyOptions]] = {
    "fedavg": stock(flower.FedAvg, linear=True),
    "fedavgm": stock(flower.FedAvgM, linear=True),
    "fedadam": stock(flower.FedAdam, linear=True),
    "fedadagrad": stock(flower.FedAdagrad, linear=True),
    "fedyogi": stock(flower.FedYogi, linear=True),
    "fedprox": stock(flower.FedProx, linear=True),
    "fedmedian": stock(flower.FedMedian),
    "fedtrimmedavg": stock(flower.FedTrimmedAvg, least=lambda options: least_to_trim(options.beta)),
    "krum": stock(flower.Krum, least=lambda options: 2 * options.num_malicious_nodes + 3),
    "multikrum": stock(flower.MultiKrum, least=lambda options: 2 * options.num_malicious_nodes + 3),
    "bulyan": stock(flower.Bulyan, least=lambda options: 4 * options.num_malicious_nodes + 3),
    "qfedavg": stock(flower.QFedAvg),
}
