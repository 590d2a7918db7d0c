"""fedapt.quant.lean: exactly torch's ReLU and max pooling, with less kept. torch's own modules are the reference."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedapt.quant.lean import LeanMaxPool, LeanReLU, lean, pack_mask, unpack_mask

POOLS = {
    "plain": nn.MaxPool2d(2),
    "overlapping": nn.MaxPool2d(3, stride=1),
    "padded": nn.MaxPool2d(3, stride=2, padding=1),
    "dilated": nn.MaxPool2d(2, stride=1, dilation=(2, 3)),
    "ceiling": nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
    "oblong": nn.MaxPool2d((1, 3), stride=(2, 1), padding=(0, 1)),
    "with gaps": nn.MaxPool2d(2, stride=3),
    "one": nn.MaxPool2d(1),
    "line": nn.MaxPool1d(2),
    "line, overlapping and padded": nn.MaxPool1d(3, stride=2, padding=1, ceil_mode=True),
    "line, dilated": nn.MaxPool1d(3, stride=1, dilation=2),
}


def both(theirs, ours, x, inplace=False):
    """Compare outputs and gradients on the same input and a random error; return what ours kept, in bytes."""
    kept = []
    results = []
    for module in (theirs, ours):
        leaf = x.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, module=module: (kept.append((module, t)), t)[1], lambda t: t):
            output = module(leaf * 1.0 if inplace else leaf)
        error = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
        output.backward(error)
        results.append((output.detach(), leaf.grad))
    for mine, reference in zip(results[1], results[0], strict=True):
        assert torch.equal(mine.nan_to_num(7.0), reference.nan_to_num(7.0)) and mine.shape == reference.shape
    return sum(tensor.nbytes for module, tensor in kept if module is ours)


def images(shape, seed=0):
    """Return whole numbers, so that many are equal and many are zero."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS.keys())
@pytest.mark.parametrize("batch", [(1,), (3,), ()])
def test_pooling_is_that_of_torch_also_on_odd_sizes_ties_and_without_a_batch(pool, batch):
    flat = isinstance(pool, nn.MaxPool1d)
    for seed, sides in enumerate([(9,), (12,)] if flat else [(7, 9), (8, 8), (5, 12)]):
        x = images((*batch, 2, *sides), seed)
        kept = both(pool, lean(pool), x)
        assert kept == pool(x).numel()


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.integers(1, 2), st.booleans(), st.integers(0, 99))
def test_pooling_with_any_settings_is_that_of_torch(kernel, stride, padding, dilation, ceil, seed):
    pool = nn.MaxPool2d(kernel, stride, min(padding, kernel // 2), dilation, ceil_mode=ceil)
    both(pool, lean(pool), images((2, 1, 9, 8), seed))


def test_pooling_passes_nan_on_as_torch_does():
    x = images((1, 1, 4, 4))
    x[0, 0, 1, 1] = math.nan
    both(POOLS["plain"], lean(POOLS["plain"]), x)


@pytest.mark.parametrize("shape", [(1,), (8,), (3, 5, 7, 9), (2, 16), (1, 4)])
@pytest.mark.parametrize("inplace", [False, True])
def test_relu_is_that_of_torch_and_keeps_a_bit_a_number(shape, inplace):
    x = images(shape)
    if x.numel() > 2:
        x.view(-1)[:2] = torch.tensor([math.nan, -math.inf])
    # Each sample has bytes of its own: 315 bits take 40, three times.
    a_sample = x[0].numel() if x.dim() > 1 else x.numel()
    assert both(nn.ReLU(inplace), LeanReLU(inplace), x, inplace) == (len(x) if x.dim() > 1 else 1) * -(-a_sample // 8)


def test_a_relu_in_place_changes_its_input_as_torch_does():
    x = torch.tensor([-1.0, 2.0]).requires_grad_() * 1.0
    LeanReLU(inplace=True)(x)
    assert x.tolist() == [0, 2]


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_masks_survive_packing(mask):
    packed = pack_mask(torch.tensor(mask, dtype=torch.bool))
    assert packed.dtype == torch.uint8 and packed.numel() == -(-len(mask) // 8)
    assert unpack_mask(packed, (len(mask),)).bool().tolist() == mask
    bytes_of = [mask[first : first + 8] for first in range(0, len(mask), 8)]
    assert packed.flatten().tolist() == [sum(bit << place for place, bit in enumerate(one)) for one in bytes_of]


def test_without_gradients_nothing_is_kept_and_the_result_is_the_same():
    x = images((2, 2, 6, 6))
    for module in (nn.ReLU(), nn.MaxPool2d(2)):
        assert torch.equal(lean(module)(x), module(x)) and not lean(module)(x).requires_grad
        with torch.no_grad():
            assert lean(module)(x.clone().requires_grad_()).grad_fn is None


@pytest.mark.parametrize(
    "module", [nn.GELU(), nn.ReLU6(), nn.MaxPool2d(2, return_indices=True), nn.MaxPool2d(17), nn.MaxPool3d(2)], ids=repr
)
def test_other_modules_have_no_lean_version(module):
    assert lean(module) is None


def test_the_largest_window_of_256_places_still_fits_a_byte():
    assert isinstance(lean(nn.MaxPool2d(16)), LeanMaxPool)
    both(nn.MaxPool2d(16), lean(nn.MaxPool2d(16)), torch.randn(1, 2, 33, 32, generator=torch.Generator().manual_seed(0)))
