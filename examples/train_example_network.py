"""Train the network that ``get_example_data()`` returns, and draw the picture that goes with it.

Writes ``example_network.pt``, ``example_picture.png`` and ``example_regions.png`` into the package.
Takes about twenty minutes on one core::

    python examples/train_example_network.py
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.data import ConcatDataset, DataLoader

from lightning_saliency.benchmark import ClutteredDigits
from lightning_saliency.benchmark.example import ExampleNetwork, normalize

PACKAGE_DATA = Path(__file__).parents[1] / "lightning_saliency" / "benchmark"
SIZE = 128


def multi_hot(labels: Tensor) -> Tensor:
    """Turn labels (N, digits) into (N, 10), 1 where the digit is in the picture."""
    return torch.zeros(len(labels), 10).scatter(1, labels, 1.0)


def as_batch(items: list[tuple[Tensor, int | Tensor]]) -> tuple[Tensor, Tensor]:
    """Join pictures with one digit and with two."""
    images = torch.stack([image for image, _ in items])
    present = torch.cat([multi_hot(torch.as_tensor(label).reshape(1, -1)) for _, label in items])
    return normalize(images), present


def loss_of(scores: Tensor, present: Tensor) -> Tensor:
    # The first part gives each class score a meaning of its own, the second makes the scores of
    # two digits in one picture comparable: each has half of the probability.
    alone = F.binary_cross_entropy_with_logits(scores, present)
    return alone + F.cross_entropy(scores, present / present.sum(1, keepdim=True))


def add_batch_norm(network: ExampleNetwork) -> None:
    """Put a BatchNorm behind each convolution: without, so deep a network hardly learns."""
    for position, layer in enumerate(network.features):
        if isinstance(layer, nn.Conv2d):
            network.features[position] = nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels))


def fold_batch_norm(network: ExampleNetwork) -> None:
    """Give each convolution the weights with which it does what it does with its BatchNorm."""
    network.eval()
    for position, layer in enumerate(network.features):
        if isinstance(layer, nn.Sequential):
            network.features[position] = fuse_conv_bn_eval(*layer)


def train(network: ExampleNetwork, pictures: int, batch_size: int, learning_rate: float) -> None:
    # One picture in four has a single digit, or the network would learn that there are always two.
    both = ClutteredDigits("train", pictures * 3 // 4, num_digits=2, size=SIZE, with_mask=False)
    single = ClutteredDigits("train", pictures // 4, num_digits=1, size=SIZE, with_mask=False)
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
        ConcatDataset([both, single]),
        batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=as_batch,
    )
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=len(loader)
    )
    for step, (images, present) in enumerate(loader):
        loss = loss_of(network(images.to(memory_format=torch.channels_last)), present)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {len(loader)}: loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def accuracy(network: nn.Module, pictures: int) -> float:
    """Return the share of held-out pictures of which the two digits have the highest scores."""
    data = ClutteredDigits("val", pictures, num_digits=2, size=SIZE, with_mask=False)
    right = 0
    for images, labels in DataLoader(data, 100):
        top = network(normalize(images)).topk(2).indices
        right += int((top.sort().values == labels.sort().values).all(1).sum())
    return right / pictures


def save_picture(index: int) -> None:
    image, labels, mask = ClutteredDigits("val", index + 1, num_digits=2, size=SIZE)[index]
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(PACKAGE_DATA / "example_picture.png", optimize=True)
    # Grey for the first digit, white for the second, so that a person sees them too.
    regions = mask[0].byte() * 127 + mask[1].byte() * 255
    Image.fromarray(regions.numpy()).save(PACKAGE_DATA / "example_regions.png", optimize=True)
    print(f"The picture shows {labels.tolist()}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=64_000, help="to train on, each once")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=int, default=0, help="index of the held-out example")
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    network = ExampleNetwork()
    add_batch_norm(network)
    train(network, arguments.pictures, arguments.batch_size, arguments.learning_rate)
    fold_batch_norm(network)
    network.half()
    torch.save(network.state_dict(), PACKAGE_DATA / "example_network.pt")
    network.float()
    print(f"Both digits among the top two: {accuracy(network, 2000):.1%} of 2,000 pictures")
    save_picture(arguments.picture)


if __name__ == "__main__":
    main()
