"""Small models for the tests of this folder, and one of everything that makes names and buffers hard."""

import torch
from torch import nn


def mlp(inputs=9, hidden=64, classes=3):
    model = nn.Sequential()
    model.add_module("flatten", nn.Flatten())
    model.add_module("dense1", nn.Linear(inputs, hidden))
    model.add_module("relu1", nn.ReLU())
    model.add_module("dense2", nn.Linear(hidden, classes))
    return model


def cnn(side=28, classes=10):
    """Two convolutions and two dense layers: 46 thousand weights on images of 28x28."""
    rest = ((side - 4) // 2 - 4) // 2
    model = nn.Sequential()
    for name, layer in {
        "conv1": nn.Conv2d(1, 16, 5), "relu1": nn.ReLU(), "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(16, 32, 5), "relu2": nn.ReLU(), "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(), "dense1": nn.Linear(32 * rest**2, 64), "relu3": nn.ReLU(), "dense2": nn.Linear(64, classes),
    }.items():  # fmt: skip
        model.add_module(name, layer)
    return model


class Odd(nn.Module):
    """What makes names hard: tied weights, a layer in two places, a scalar, buffers of all kinds."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.square = nn.Linear(4, 4)
        self.again = self.square
        self.norm = nn.BatchNorm1d(4, momentum=None)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embedding.weight
        self.last = nn.Linear(5, 3)
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("table", torch.arange(4.0), persistent=False)
        self.register_buffer("mask", torch.tensor([True, False]))

    def forward(self, tokens):
        x = self.norm(self.again(self.square(self.embedding(tokens)) + self.table))
        return self.gain * self.last(self.head(x))
