"""Fuzz `fedapt.quant.wire.from_bytes`: `python -m fuzz.codec -runs=10000000`.

A message is refused with DamagedData, or it is a model of finite numbers that encodes and decodes to itself.
"""

from __future__ import annotations

from fuzz.harness import check_text, fuzz, instrumented

with instrumented("fedapt.quant.wire", "fedapt.quant.packing"):
    from fedapt.quant.wire import QuantisedModel, from_bytes, to_bytes

import numpy as np
import torch

from fedapt.errors import DamagedData
from fuzz.messages import mutate


def accepts(message: bytes) -> bool:
    """Return whether a message was decoded; checks what was."""
    try:
        model, _ = from_bytes(message)
    except DamagedData as error:
        check_text(str(error))
        return False
    again, _ = from_bytes(to_bytes(model, {}))
    one, other = _numbers(model), _numbers(again)
    assert one.keys() == other.keys() and model.bits == again.bits
    assert all(torch.equal(values, other[name]) and values.dtype == other[name].dtype for name, values in one.items())
    assert all(np.isfinite(values).all() for values in model.dequantised().values())
    return True


def _numbers(model: QuantisedModel) -> dict[str, torch.Tensor]:
    stored = {f"{layer}.{part}": values for layer, w in model.weights.items() for part, values in w.tensors().items()}
    return stored | model.floats


if __name__ == "__main__":
    fuzz("codec", accepts, mutate)
