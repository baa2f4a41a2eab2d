"""The networks of task `images`."""

from functools import partial

from torch import Tensor, nn


def small_net(classes: int) -> nn.Module:
    """Images, shape (n, 3, size, size), to (n, classes); 63,000 parameters for four classes. Each
    image is normalised by itself: statistics over a batch go astray between unlike agents."""
    return nn.Sequential(
        *_block(3, 16, stride=2),
        *_block(16, 32, stride=2),
        *_block(32, 64, stride=2),
        *_block(64, 64, stride=1),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(9 * 64, classes),
    )


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.ReLU()]


BLOCKS = (
    (3, 16, 16, True, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 2),
    (3, 88, 24, False, nn.ReLU, 1),
    (5, 96, 40, True, nn.Hardswish, 2),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 120, 48, True, nn.Hardswish, 1),
    (5, 144, 48, True, nn.Hardswish, 1),
    (5, 288, 96, True, nn.Hardswish, 2),
    (5, 576, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
)
"""Table 2 of the paper: kernel, expanded, outputs, whether channels are weighed, nonlinearity,
stride."""


class MobileNetV3Small(nn.Module):
    """Howard et al. 2019, "Searching for MobileNetV3", 1.5 million parameters. Its tensors have the
    names and shapes of torchvision's `mobilenet_v3_small`, whose weights fit; so that a Pi needs no
    torchvision. Its running statistics follow within tens of batches, not hundreds."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 16, 3, 2, nn.Hardswish)]
        inputs = 16
        for kernel, expanded, outputs, weighed, activation, stride in BLOCKS:
            block = _Block(inputs, kernel, expanded, outputs, weighed, activation, stride)
            layers.append(block)
            inputs = outputs
        self.features = nn.Sequential(*layers, _conv(inputs, 576, 1, 1, nn.Hardswish))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(576, 1024), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(1024, classes)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return found


class _Block(nn.Module):
    def __init__(
        self,
        inputs: int,
        kernel: int,
        expanded: int,
        outputs: int,
        weighed: bool,
        activation: type[nn.Module],
        stride: int,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(_conv(inputs, expanded, 1, 1, activation))
        layers.append(_conv(expanded, expanded, kernel, stride, activation, groups=expanded))
        if weighed:
            layers.append(_Weighed(expanded))
        self.block = nn.Sequential(*layers, _conv(expanded, outputs, 1, 1, None))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.block(x)
        return x + found if self.adds else found


class _Weighed(nn.Module):
    """Squeeze and excitation: each channel by a factor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(8, (channels // 4 + 4) // 8 * 8)
        squeezed += 8 if squeezed < 0.9 * (channels // 4) else 0
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * nn.functional.hardsigmoid(self.fc2(self.fc1(mean).relu()))


def _conv(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    activation: type[nn.Module] | None,
    groups: int = 1,
) -> nn.Module:
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.1)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, norm(outputs), *([] if activation is None else [activation()]))


def freeze_all_but_last(net: nn.Module) -> None:
    """Only the last linear layer is trained."""
    *_, last = (module for module in net.modules() if isinstance(module, nn.Linear))
    net.requires_grad_(False)
    last.requires_grad_(True)
