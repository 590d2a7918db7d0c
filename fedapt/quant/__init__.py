"""Training on one quantised copy of the weights: grids, rounding, packing, layers, and the optimiser that moves the codes."""

from fedapt.quant.grid import FLOAT_BITS, HIGHEST_BITS, LOWEST_BITS, Grid, GridOptions
from fedapt.quant.layers import Quantised, QuantisedLayer, quantisable, quantise
from fedapt.quant.operands import OperandWidths
from fedapt.quant.ops import BackwardRule
from fedapt.quant.packing import pack, packed_size, unpack
from fedapt.quant.rounding import Rounding
from fedapt.quant.sgd import LayerStatistics, SingleCopySGD
from fedapt.quant.weight import CodedWeight, FloatWeight, MasterWeight, Weight, quantise_tensor

__all__ = [
    "FLOAT_BITS",
    "HIGHEST_BITS",
    "LOWEST_BITS",
    "BackwardRule",
    "CodedWeight",
    "FloatWeight",
    "Grid",
    "GridOptions",
    "LayerStatistics",
    "MasterWeight",
    "OperandWidths",
    "Quantised",
    "QuantisedLayer",
    "Rounding",
    "SingleCopySGD",
    "Weight",
    "pack",
    "packed_size",
    "quantisable",
    "quantise",
    "quantise_tensor",
    "unpack",
]
