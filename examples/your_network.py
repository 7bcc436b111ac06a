"""A network of your own, of torch's layers and one of ours: exported and proven."""

import numpy as np
from torch import Tensor, nn

import capsnet
from capsnet.layers.dynamic import DynamicConfig


class Shapes(nn.Module):
    decision = "present"  # the output whose largest value names the class

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 9, 7, stride=3), nn.ReLU(), nn.Conv2d(9, 16, 3))
        self.shapes = DynamicConfig(capsules=4, dim=8).build((9, 16))
        self.size = nn.Linear(8, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        shapes = self.shapes(self.features(image).flatten(2).mT)
        return {"present": shapes.norm(dim=-1), "size": self.size(shapes)}


if __name__ == "__main__":
    images = np.random.default_rng(0).random((16, 3, 20, 20), np.float32)
    print(capsnet.export_model(Shapes().eval(), "shapes.onnx", images=images).verdict)
