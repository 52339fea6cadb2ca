"""SqueezeNet in PyTorch, written from the paper's Table 1 and Figure 2 and from nothing of ours.

Import it after `pytest.importorskip("torch")`.
"""

import torch
from torch import nn

SQUEEZE = (16, 16, 32, 32, 48, 48, 64, 64)  # s1x1 of fire2 … fire9; e1x1 = e3x3 = 4 s1x1
# version: filters and kernel of conv1, layers with a pooling after them
VERSIONS = {"1.0": (96, 7, (1, 4, 8)), "1.1": (64, 3, (1, 3, 5))}
SIMPLE_BYPASS = (3, 5, 7, 9)
COMPLEX_BYPASS = (2, 4, 6, 8)


class ReferenceFire(nn.Module):
    def __init__(self, in_channels, squeeze, simple_bypass=False, complex_bypass=False):
        super().__init__()
        expand = 4 * squeeze
        self.squeeze1x1 = nn.Conv2d(in_channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.simple_bypass = simple_bypass
        if complex_bypass:
            self.bypass1x1 = nn.Conv2d(in_channels, 2 * expand, 1)

    def forward(self, x):
        squeezed = torch.relu(self.squeeze1x1(x))
        expanded = torch.cat(
            [torch.relu(self.expand1x1(squeezed)), torch.relu(self.expand3x3(squeezed))], dim=1
        )
        if self.simple_bypass:
            return expanded + x
        if hasattr(self, "bypass1x1"):
            return expanded + self.bypass1x1(x)
        return expanded


class ReferenceSqueezeNet(nn.Module):
    """Takes `(batch, 3, height, width)`; gives the last feature map, or logits with classes."""

    def __init__(self, version, bypass=None, classes=None):
        super().__init__()
        channels, kernel_size, self.pool_after = VERSIONS[version]
        self.conv1 = nn.Conv2d(3, channels, kernel_size, stride=2)
        for number, squeeze in enumerate(SQUEEZE, start=2):
            fire = ReferenceFire(
                channels,
                squeeze,
                simple_bypass=bypass in ("simple", "complex") and number in SIMPLE_BYPASS,
                complex_bypass=bypass == "complex" and number in COMPLEX_BYPASS,
            )
            setattr(self, f"fire{number}", fire)
            channels = 8 * squeeze
        self.conv10 = nn.Conv2d(channels, classes, 1) if classes else None

    def forward(self, x):
        x = self._pooled(torch.relu(self.conv1(x)), 1)
        for number in range(2, 10):
            x = self._pooled(getattr(self, f"fire{number}")(x), number)
        if self.conv10 is None:
            return x
        return torch.relu(self.conv10(x)).mean(dim=(2, 3))

    def _pooled(self, x, number):
        if number not in self.pool_after:
            return x
        return nn.functional.max_pool2d(x, 3, stride=2, ceil_mode=True)

    def parameter_count(self):
        return sum(parameter.numel() for parameter in self.parameters())

    def copy_weights_to(self, model):
        """Gives a Keras model these weights, layer by layer by name: OIHW becomes HWIO."""
        for name, convolution in self.named_modules():
            if not isinstance(convolution, nn.Conv2d):
                continue
            layer_name, _, part = name.partition(".")
            layer = model.get_layer(layer_name)
            target = getattr(layer, part) if part else layer
            kernel = convolution.weight.detach().permute(2, 3, 1, 0)
            target.set_weights([kernel.numpy(), convolution.bias.detach().numpy()])


def reference_squeezenet(version, bypass=None, classes=None, seed=0):
    """A reference with biases well away from zero, so that a lost bias shows."""
    torch.manual_seed(seed)
    network = ReferenceSqueezeNet(version, bypass, classes).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.1)
            else:
                nn.init.kaiming_normal_(parameter)
    return network


def run_channels_last(network, images):
    """Runs an NHWC numpy batch through an NCHW network; feature maps come back as NHWC."""
    with torch.no_grad():
        outputs = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    if outputs.ndim == 4:
        outputs = outputs.permute(0, 2, 3, 1)
    return outputs.numpy()
