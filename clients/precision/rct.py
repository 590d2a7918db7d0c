"""Resource Constrained Training: more bits where a layer cannot learn, fewer where it learns with ease.

Huang, Luo, Yan, Zhou, Goh, "RCT: Resource Constrained Training for Edge AI", arXiv 2103.14493, doi 10.1109/TNNLS.2022.3190451.
Re-implemented from the published description: APT's rule with a finite T_max.

A choice that the paper leaves open: T_max is 24. A bit less halves Gavg, so a layer that gave one up still has twice T_min and
does not ask for it again at once.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedapt.clients.precision.apt import ByGavg


class Rct(ByGavg):
    """Raise or lower each layer's bits by its ability to learn, Gavg, between two thresholds."""

    kind: Literal["rct"] = "rct"
    t_max: float | None = Field(
        default=24.0, gt=0, allow_inf_nan=False, description="a layer whose Gavg is above gets one bit less; null: never"
    )
