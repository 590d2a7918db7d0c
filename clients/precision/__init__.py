"""How weights are stored and how their bits adapt. A new policy is one file here and one line in this table."""

from fedapt.clients.precision.apt import Apt
from fedapt.clients.precision.fixed import Fixed
from fedapt.clients.precision.fp32 import Fp32
from fedapt.clients.precision.policy import Policy

POLICIES: dict[str, type[Policy]] = {
    "fp32": Fp32,
    "fixed": Fixed,
    "apt": Apt,
}
