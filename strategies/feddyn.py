"""FedDyn: each client's loss is bent until its optimum is everybody's.

Acar et al., "Federated Learning Based on Dynamic Regularization", ICLR 2021, https://arxiv.org/abs/2111.04263, Algorithm 1:
client k minimises `L_k(w) - <h_k, w> + alpha / 2 |w - x|^2`, then `h_k = h_k - alpha (w_k - x)`, and the server takes `h = mean
of all h_k` and `x = mean of w_k - h / alpha`.

The server keeps the h_k and sends -h_k as a correction of the gradient, with alpha as FedProx's mu: 4 bytes a weight more down,
and twice that in the client's memory. The paper's clients find the minimum; ours take their steps. Its means count clients
alike; here they count by samples, as in FedAvg. The mean of the h_k is over `clients`, where those that never answered have h_k
= 0, or over those that answered.

In the first round the step is twice the mean update if all take part, since h is not yet zero: it is meant so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedapt.strategies.strategy import WHOLE_COHORT
from fedapt.strategies.updates import Arrays, Update, weighted_mean
from fedapt.strategies.variates import RememberingOptions, Variates


class FedDyn(Variates):
    """Memory: h_k of every client that answered, and h."""

    options: FedDynOptions

    def told(self) -> Mapping[str, float]:
        """Return alpha as the weight of the proximal term."""
        return {"proximal-mu": self.options.alpha}

    def correction(self, client: int) -> Arrays | None:
        """Return -h_k."""
        own = self.variate(client)
        return None if own is None else {name: -values for name, values in own.items()}

    def combine(self, updates: Sequence[Update]) -> Arrays:
        """Return the mean update less h / alpha, and keep the h_k of those who answered."""
        self.remember(updates, [self._variate(update) for update in updates])
        mean, h = weighted_mean(updates, (update.samples for update in updates)), self.mean
        assert h is not None
        return {name: values - h[name] / self.options.alpha for name, values in mean.items()}

    def _variate(self, update: Update) -> Arrays:
        own = self.variate(update.client)
        return {
            name: np.asarray((own[name] if own else 0.0) - self.options.alpha * values) for name, values in update.delta.items()
        }


class FedDynOptions(RememberingOptions):
    """Local losses with a moving linear term, so that local and global optimum agree."""

    corrects: ClassVar[bool] = True
    keeps_clients: ClassVar[bool] = True
    faithful: ClassVar[bool] = False

    kind: Literal["feddyn"] = "feddyn"
    alpha: float = Field(default=0.1, gt=0, description="how hard clients are held; the paper tries 0.001 to 0.1")

    def build(self, **flower: Any) -> Strategy:
        """Return a new strategy."""
        return FedDyn(self, **WHOLE_COHORT | flower)
