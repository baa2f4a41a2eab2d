"""Shapes of a convolutional network with about so many parameters, all float32."""

Shape = tuple[int, ...]


def shapes(model_mb: float) -> dict[str, Shape]:
    """Name → shape for a model of `model_mb` (10^6 bytes): 1.72 is the MNIST `Net` but
    for one hidden unit, larger ones are like ResNet-18 (44.7). Small and large tensors mix."""
    parameters = round(model_mb * 1e6 / 4)
    return _net(parameters) if parameters < 1_000_000 else _resnet(parameters)


def parameter_bytes(of: dict[str, Shape]) -> int:
    return 4 * sum(_count(shape) for shape in of.values())


def _net(parameters: int) -> dict[str, Shape]:
    hidden = max(1, round((parameters - 25_580) / 811))
    return {
        "conv1.weight": (20, 1, 5, 5),
        "conv1.bias": (20,),
        "conv2.weight": (50, 20, 5, 5),
        "conv2.bias": (50,),
        "fc1.weight": (hidden, 800),
        "fc1.bias": (hidden,),
        "fc2.weight": (10, hidden),
        "fc2.bias": (10,),
    }


def _resnet(parameters: int) -> dict[str, Shape]:
    # ResNet-18's trunk of width 64 has 11.2 million parameters; it grows with the square.
    width = int(63 * (parameters / 11.2e6) ** 0.5)
    layers: dict[str, Shape] = {"stem.weight": (width, 3, 7, 7)}
    before = width
    for stage in range(4):
        channels = width << stage
        for block in range(4):
            name = f"layer{stage + 1}.{block}"
            layers[f"{name}.conv.weight"] = (channels, before, 3, 3)
            layers[f"{name}.norm.weight"] = (channels,)
            layers[f"{name}.norm.bias"] = (channels,)
            before = channels
    rest = parameters - parameter_bytes(layers) // 4
    classes = max(10, rest // (before + 1))
    return {**layers, "fc.weight": (classes, before), "fc.bias": (classes,)}


def _count(shape: Shape) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
