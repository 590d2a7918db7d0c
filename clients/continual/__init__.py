"""What keeps old tasks alive. A new method is one file here and one line in this table."""

from fedapt.clients.continual.memory import Continual
from fedapt.clients.continual.none import Forget

METHODS: dict[str, type[Continual]] = {
    "none": Forget,
}
