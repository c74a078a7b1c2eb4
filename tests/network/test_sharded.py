"""Training of sharded and of replicated models, on the CPU and in one process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from contract import METHODS, make_method
from processes import process_group
from sharded_models import make_sharded
from tiny_models import make_images, make_model
from torch import Tensor, nn
from traces import bits

from lightning_saliency.attribution.shared_pass import shared_maps
from lightning_saliency.errors import ModelError
from lightning_saliency.network.layers import is_sharded
from lightning_saliency.trust import measure_faithfulness

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no distributed package")

IMAGES, LABELS = make_images(4), torch.tensor([0, 1, 2, 3])


@pytest.fixture(scope="module", autouse=True)
def _one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store: Path = tmp_path_factory.mktemp("store") / "file"
    with process_group(store):
        yield


def explain(name: str | None, model: nn.Module) -> None:
    if name:
        assert torch.isfinite(make_method(name)(model, IMAGES[:2], 1)).all()


def train_and_explain(name: str | None) -> list[str]:
    """Train for some steps, with explanations before and between, and return what came of it."""
    torch.manual_seed(0)
    model = make_sharded()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    record = []
    for step in range(4):
        if step != 1:
            explain(name, model)
        if step == 2:
            # A validation run leaves the weights of the outermost module gathered.
            with torch.no_grad():
                model.eval()(IMAGES)
                model.train()
            explain(name, model)
        loss = nn.functional.cross_entropy(model(IMAGES), LABELS)
        loss.backward()
        record.append(bits(loss))
        record += [bits(weight.grad.full_tensor()) for weight in model.parameters()]
        optimizer.step()
        optimizer.zero_grad()
    return record


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore::lightning_saliency.errors.SaliencyWarning")
def test_training_of_sharded_weights_is_untouched(name: str) -> None:
    assert train_and_explain(name) == train_and_explain(None)


@pytest.mark.parametrize("name", METHODS)
def test_maps_are_those_of_the_whole_model(name: str) -> None:
    wanted = make_method(name)(make_model(), IMAGES, LABELS)
    came = make_method(name)(make_sharded(), IMAGES, LABELS)
    torch.testing.assert_close(came, wanted, rtol=1e-4, atol=1e-6)


def test_sharded_models_share_no_pass() -> None:
    # Their weights serve one backward pass; a second one would read memory that is gone.
    methods = [make_method("Gradient"), make_method("GuidedBackprop")]
    came = shared_maps(methods, make_sharded(), IMAGES, lambda _: [LABELS])
    assert came.maps == {}
    torch.testing.assert_close(came.logits, make_model()(IMAGES).detach())
    assert is_sharded(make_sharded())
    assert not is_sharded(make_model())
    assert not is_sharded(nn.parallel.DistributedDataParallel(make_model()))


def test_faithfulness_of_maps_is_that_to_the_whole_model() -> None:
    maps, measures = IMAGES.abs().mean(1, keepdim=True), ["insertion", "average_drop", "road"]
    wanted = measure_faithfulness(make_model(), IMAGES, maps, LABELS, measures)
    came = measure_faithfulness(make_sharded(), IMAGES, maps, LABELS, measures)
    torch.testing.assert_close(came, wanted, rtol=1e-4, atol=1e-6)


def test_weights_that_are_given_back_too_early() -> None:
    # Reading them all the same would end the process.
    class GivesBack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make_model()

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            self.inner.head.weight.untyped_storage().resize_(0)
            return y

    with pytest.raises(ModelError, match="given its gathered weights back"):
        make_method("ExcitationBackprop")(GivesBack(), IMAGES, 1)


def accumulate_and_explain(name: str | None) -> list[str]:
    """Train a replicated model with an explanation while a part of the gradient is there."""
    torch.manual_seed(0)
    module = make_model().train()
    replica = nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    record = []
    for _ in range(3):
        with replica.no_sync():
            nn.functional.cross_entropy(replica(IMAGES[:2]), LABELS[:2]).backward()
        if name:
            make_method(name)(module, IMAGES, 1)
        nn.functional.cross_entropy(replica(IMAGES[2:]), LABELS[2:]).backward()
        record += [bits(weight.grad) for weight in module.parameters()]
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    return record


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore::lightning_saliency.errors.SaliencyWarning")
def test_training_of_replicas_is_untouched(name: str) -> None:
    assert accumulate_and_explain(name) == accumulate_and_explain(None)
