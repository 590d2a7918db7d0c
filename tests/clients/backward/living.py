"""A network that lives in a skeleton, as a client's does, for the tests of backward methods."""

import torch

from fedapt.quant import OperandWidths, quantise_tensor
from fedapt.quant.grid import GridOptions
from fedapt.quant.skeleton import Skeleton, float_arrays
from fedapt.quant.wire import QuantisedModel


def living(network, backward, bits=32, activations=32):
    """Return a skeleton in which what `network()` returns lives at `bits`."""
    made = Skeleton(network, backward, OperandWidths(activations=activations))
    arrays, generator = float_arrays(network()), torch.Generator().manual_seed(1)
    weights = {
        name: quantise_tensor(arrays.pop(f"{name}.weight"), bits, GridOptions(), "nearest", generator)
        for name in made.quantised.layers
    }
    made.load(QuantisedModel(weights, {name: values.clone() for name, values in arrays.items()}))
    return made
