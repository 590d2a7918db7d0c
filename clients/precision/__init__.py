"""How weights are stored and how their bits adapt. A new policy is one file here and one line in this table."""

from fedapt.clients.precision.apt import Apt
from fedapt.clients.precision.budget import Budget
from fedapt.clients.precision.fixed import Fixed
from fedapt.clients.precision.fp32 import Fp32
from fedapt.clients.precision.muppet import Muppet
from fedapt.clients.precision.pfq import Pfq
from fedapt.clients.precision.policy import Policy
from fedapt.clients.precision.qat import Qat
from fedapt.clients.precision.rct import Rct

POLICIES: dict[str, type[Policy]] = {
    "budget": Budget,
    "fp32": Fp32,
    "fixed": Fixed,
    "qat": Qat,
    "apt": Apt,
    "rct": Rct,
    "muppet": Muppet,
    "pfq": Pfq,
}
