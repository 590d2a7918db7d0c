"""Server side: one aggregation strategy a file. A new one is one file here and one line in this table."""

import flwr.serverapp.strategy as flower

from fedapt.strategies.stock import stock
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
    "fedtrimmedavg": stock(flower.FedTrimmedAvg),
    "krum": stock(flower.Krum),
    "multikrum": stock(flower.MultiKrum),
    "bulyan": stock(flower.Bulyan),
    "qfedavg": stock(flower.QFedAvg),
}
