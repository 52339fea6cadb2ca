"""ShuffleNet and CondenseNet in PyTorch, written after the papers alone, and weights for them."""

import keras
import numpy as np
import torch
from keras import layers
from torch import nn
from torch.nn import functional


def with_statistics(model, seed=3):
    """The model with normalizations, and biases, that all differ, as after a training."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            shape = layer.gamma.shape
            low, high = rng.normal(0, 0.2, (2, *shape))
            layer.set_weights(
                [1 + low, high, rng.normal(0, 0.1, shape), rng.uniform(0.2, 1, shape)]
            )
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.2, layer.bias.shape))
    return model


def copy_weights(model, network):
    """From a Keras model to a PyTorch network whose modules with weights come in the same order."""
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    modules = [module for module in network.modules() if isinstance(module, kinds)]
    owners = [layer for layer in model.layers if layer.weights]
    for layer, module in zip(owners, modules, strict=True):
        first, *others = map(keras.ops.convert_to_numpy, layer.weights)
        if isinstance(module, nn.BatchNorm2d):
            module.eps = layer.epsilon
            beta, mean, variance = others
            names = ("weight", "bias", "running_mean", "running_var")
            values = (first, beta, mean, variance)
        elif isinstance(module, nn.Linear):
            names, values = ("weight", "bias"), (first.T, *others)
        else:  # of a learned group convolution the kernel, before anything is condensed
            others.clear()
            depthwise = isinstance(layer, layers.DepthwiseConv2D)
            order = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
            names, values = ("weight",), (first.transpose(order),)
        for name, value in zip(names, values, strict=True):
            tensor = getattr(module, name)
            assert tuple(tensor.shape) == value.shape, (layer.name, name)
            tensor.data = torch.from_numpy(value.copy())
    return network.eval()


def outputs(network, images):
    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


class ShuffleUnit(nn.Module):
    """Figure 2 (b) and, of stride 2, (c)."""

    def __init__(self, inputs, channels, groups, stride, first_groups):
        super().__init__()
        narrow = channels // 4
        added = channels - inputs if stride == 2 else channels
        self.stride = stride
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, narrow, 1, groups=first_groups, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.ChannelShuffle(groups),
            nn.Conv2d(narrow, narrow, 3, stride, 1, groups=narrow, bias=False),
            nn.BatchNorm2d(narrow),
            nn.Conv2d(narrow, added, 1, groups=groups, bias=False),
            nn.BatchNorm2d(added),
        )

    def forward(self, x):
        y = self.branch(x)
        if self.stride == 1:
            return functional.relu(x + y)
        return functional.relu(torch.cat([functional.avg_pool2d(x, 3, 2, 1), y], 1))


class ShuffleNet(nn.Module):
    """Table 1, of given widths."""

    def __init__(self, groups, stem, widths, classes):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, 2, 1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        units, inputs = [], stem
        for channels, repeats in zip(widths, (3, 7, 3), strict=True):
            for repeat in range(1 + repeats):
                first_groups = groups if units else 1
                stride = 1 if repeat else 2
                units.append(ShuffleUnit(inputs, channels, groups, stride, first_groups))
                inputs = channels
        self.units = nn.Sequential(*units)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.fc(self.units(self.stem(x)).mean((2, 3)))


class DenseLayer(nn.Module):
    """Figure 1, middle, before anything is condensed: every filter takes every input."""

    def __init__(self, inputs, growth, groups):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, 1, 1, groups=groups, bias=False)

    def forward(self, x):
        y = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(y)))], 1)


class CondenseNet(nn.Module):
    def __init__(self, blocks, growth, groups, classes, stride):
        super().__init__()
        channels = 2 * growth
        parts = [nn.Conv2d(3, channels, 3, stride, 1, bias=False)]
        for number, count in enumerate(blocks):
            if number:
                parts.append(nn.AvgPool2d(2))
            for _ in range(count):
                parts.append(DenseLayer(channels, growth * 2**number, groups))
                channels += growth * 2**number
        self.features = nn.Sequential(*parts, nn.BatchNorm2d(channels), nn.ReLU())
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))
