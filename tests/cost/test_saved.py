import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedapt.cost.saved import SavedBytes, saved_bytes
from fedapt.quant import quantise


def independently_counted(model, batch, labels):
    """Count the distinct storages that autograd saves, without those that are there anyway."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        F.cross_entropy(model(batch), labels)
    there = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers(), batch, labels)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in saved}
    return sum(size for address, size in storages.items() if address not in {storage.data_ptr() for storage in there})


def test_saved_bytes_of_the_cnn_equal_a_hand_count(cnn):
    """Bytes a sample, each storage once; the input (784 floats and a label of 8 bytes) belongs to the batch.

    16x24x24 floats out of the first ReLU       36864     32x8x8 floats out of the second ReLU       8192
    16x12x12 int64 indices of the first pool    18432     32x4x4 int64 indices of the second pool    4096
    16x12x12 floats out of the first pool        9216     512 floats out of the second pool          2048
    64 floats out of the third ReLU               256     10 log-probabilities of the loss             40
    and once a batch, the 4 bytes of the loss's total weight.
    """
    assert saved_bytes(cnn, (1, 28, 28)) == SavedBytes(79144, 4, 3144)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_prediction_equals_an_independent_count_at_any_batch(cnn, batch):
    saved = saved_bytes(cnn, (1, 28, 28))
    inputs, labels = torch.rand(batch, 1, 28, 28), torch.zeros(batch, dtype=torch.int64)
    assert batch * saved.per_sample + saved.fixed == independently_counted(cnn, inputs, labels)


def test_a_quantised_model_saves_what_the_float_model_saves(cnn):
    quantised = copy.deepcopy(cnn)
    quantise(quantised, 4)
    assert saved_bytes(quantised, (1, 28, 28)) == saved_bytes(cnn, (1, 28, 28))


def test_residual_norm_and_dropout_are_exact_too():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.drop = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)

        def forward(self, x):
            return x + self.drop(torch.sigmoid(self.norm(self.first(x))))

    model = Residual()
    saved = saved_bytes(model, (6,))
    predicted = 5 * saved.per_sample + saved.fixed
    assert predicted == independently_counted(model, torch.rand(5, 6), torch.zeros(5, dtype=torch.int64))


def test_measuring_leaves_the_model_and_the_random_stream_untouched():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).eval()
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    saved_bytes(model, (4,))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert torch.equal(state, torch.random.get_rng_state())
