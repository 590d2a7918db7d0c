"""fedapt.quant.ops: which layers train on codes, and their gradients against autograd's."""

import pytest
import torch
from torch import nn

from fedapt.quant.ops import BackwardRule, op_of

CONVOLUTIONS = {
    "plain": {},
    "stride": {"stride": (2, 1)},
    "padding": {"padding": (1, 2)},
    "same": {"padding": "same"},
    "same, dilated": {"padding": "same", "dilation": (2, 3)},
    "same, even kernel but odd dilated": {"padding": "same", "kernel_size": 2, "dilation": 2},
    "valid": {"padding": "valid"},
    "dilation": {"dilation": (1, 2)},
    "groups": {"groups": 2},
    "depthwise": {"groups": 4, "out_channels": 8, "stride": 2, "padding": 1},
    "pointwise": {"kernel_size": 1},
    "oblong": {"kernel_size": (1, 3), "stride": (3, 2), "padding": (0, 1), "bias": False},
}


def autograd(layer, x):
    """Return the output, a random error on it, and autograd's gradients of input, weight and bias."""
    x = x.clone().requires_grad_()
    output = layer(x)
    error = torch.randn(output.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5))
    wanted = [x, layer.weight] + ([layer.bias] if layer.bias is not None else [])
    return output, error, torch.autograd.grad(output, wanted, error)


def check(layer, x):
    op, weight, rule = op_of(layer), layer.weight.detach(), BackwardRule()
    output, error, gradients = autograd(layer, x)
    saved = rule.save(op, x)
    ours = [
        rule.input_gradient(op, saved, x.shape, weight, error),
        rule.weight_gradient(op, saved, weight.shape, error),
        op.bias_gradient(error),
    ]
    assert torch.equal(op.forward(x, weight, layer.bias), output)
    for mine, theirs in zip(ours, gradients, strict=False):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_a_convolution_has_the_gradients_of_autograd(options, generator):
    layer = nn.Conv2d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, "dtype": torch.float64, **options})
    check(layer, torch.randn(3, 4, 7, 8, dtype=torch.float64, generator=generator))


LINES = {
    "plain": {},
    "stride and padding": {"stride": 2, "padding": 2},
    "same, dilated": {"padding": "same", "dilation": 3},
    "groups": {"groups": 2, "bias": False},
    "depthwise": {"groups": 4, "out_channels": 8, "stride": 3},
    "pointwise": {"kernel_size": 1},
    "as long as its input": {"kernel_size": 11},
}


@pytest.mark.parametrize("options", LINES.values(), ids=LINES.keys())
def test_a_convolution_over_a_line_has_the_gradients_of_autograd(options, generator):
    layer = nn.Conv1d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, "dtype": torch.float64, **options})
    check(layer, torch.randn(3, 4, 11, dtype=torch.float64, generator=generator))


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (0, 3)])
def test_an_embedding_has_the_gradient_of_autograd_and_passes_no_error_on(shape, generator):
    layer, x = nn.Embedding(6, 4, dtype=torch.float64), torch.randint(6, shape, generator=generator)
    op, weight = op_of(layer), layer.weight.detach()
    output = layer(x)
    error = torch.randn(output.shape, dtype=torch.float64, generator=generator)
    output.backward(error)
    assert torch.equal(op.forward(x, weight, None), output)
    torch.testing.assert_close(op.weight_gradient(x, weight.shape, error), layer.weight.grad, rtol=1e-12, atol=1e-12)
    assert op.input_gradient(x.shape, weight, error).count_nonzero() == 0
    torch.testing.assert_close(op.bias_gradient(error), error.reshape(-1, 4).sum(0))


@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_layer_has_the_gradients_of_autograd(leading, bias, generator):
    check(nn.Linear(4, 3, bias, dtype=torch.float64), torch.randn(*leading, 4, dtype=torch.float64, generator=generator))


def test_a_convolution_of_one_image_without_a_batch_is_refused_in_a_sentence():
    op = op_of(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match=r"needs a batch \(n, channels, height, width\), got shape \(3, 8, 8\)"):
        op.forward(torch.zeros(3, 8, 8), torch.zeros(4, 3, 3, 3), None)
    with pytest.raises(ValueError, match=r"needs a batch \(n, channels, length\), got shape \(3, 8\)"):
        op_of(nn.Conv1d(3, 4, 3)).forward(torch.zeros(3, 8), torch.zeros(4, 3, 3), None)


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "layer",
    [
        Scaled(2, 2),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(2, 2, (3, 2), padding="same"),
        nn.Conv1d(2, 2, 2, padding="same"),
        nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect"),
        nn.Conv3d(2, 2, 3),
        nn.ConvTranspose2d(2, 2, 3),
        nn.Bilinear(2, 2, 2),
        nn.Embedding(3, 2, padding_idx=0),
        nn.Embedding(3, 2, max_norm=1.0),
        nn.Embedding(3, 2, sparse=True),
        nn.Embedding(3, 2, scale_grad_by_freq=True),
        nn.EmbeddingBag(3, 2),
        nn.LSTM(2, 2),
        nn.BatchNorm2d(2),
    ],
    ids=repr,
)
def test_what_would_compute_something_else_has_no_operation(layer):
    assert op_of(layer) is None


@pytest.mark.parametrize("lazy", [nn.LazyLinear, lambda out: nn.LazyConv2d(out, 3)])
def test_a_lazy_layer_has_no_operation_as_it_has_no_shape(lazy):
    assert op_of(lazy(4)) is None


def test_multiplications_are_those_of_a_hand_count():
    # Each of 2 outputs sums 3 products; each of 4 * 5 * 6 outputs sums 2 channels of 3 * 3.
    assert op_of(nn.Linear(3, 2)).macs((2, 3), (2,)) == 6
    assert op_of(nn.Linear(3, 2)).macs((2, 3), (7, 2)) == 42
    assert op_of(nn.Conv2d(2, 4, 3)).macs((4, 2, 3, 3), (4, 5, 6)) == 2160
    assert op_of(nn.Conv2d(4, 4, 3, groups=4)).macs((4, 1, 3, 3), (4, 5, 6)) == 1080
    # Each of 4 * 5 outputs sums 2 channels of 3; a look-up multiplies nothing.
    assert op_of(nn.Conv1d(2, 4, 3)).macs((4, 2, 3), (4, 5)) == 120
    assert op_of(nn.Embedding(9, 2)).macs((9, 2), (7, 2)) == 0
