"""AttnLRP against calculations by hand, another package, and its own laws."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tally import Tally
from tiny_models import make_images, make_model
from torch import Tensor, nn
from torchvision import models

from lightning_saliency.attribution import AttnLRP, GuidedBackprop, TokenGrid
from lightning_saliency.attribution.attn_lrp import attn_lrp
from lightning_saliency.errors import InputError, ModelError

N, T, K, HEADS, CLASSES = 2, 6, 8, 2, 3


class Attention(nn.Module):
    """Self-attention in one of the spellings in which people write it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.mha = nn.MultiheadAttention(K, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "module":
            return self.mha(x, x, x, need_weights=False)[0]
        parts = F.linear(x, self.mha.in_proj_weight, self.mha.in_proj_bias).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        y = self.attend(q, k, v).transpose(1, 2).flatten(2)
        return self.mha.out_proj(y)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale = q.shape[-1] ** -0.5
        if self.how == "sdpa":
            return F.scaled_dot_product_attention(q, k, v)
        if self.how == "einsum":
            dots = torch.einsum("bhid,bhjd->bhij", q, k) * scale
            return torch.einsum("bhij,bhjd->bhid", dots.softmax(-1), v)
        if self.how == "bmm":
            dots = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)) * scale
            return torch.bmm(F.softmax(dots, 2), v.flatten(0, 1)).reshape(v.shape)
        if self.how == "baddbmm":
            zeros = torch.zeros((), dtype=q.dtype).expand(N * HEADS, T, T)
            dots = torch.baddbmm(zeros, q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2))
            return torch.bmm((dots * scale).softmax(-1), v.flatten(0, 1)).reshape(v.shape)
        return ((q * scale) @ k.transpose(-2, -1)).softmax(-1) @ v


class Block(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(K), nn.LayerNorm(K)
        self.attention = Attention(how)
        self.mlp = nn.Sequential(nn.Linear(K, 12), nn.GELU(), nn.Linear(12, K))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Network(nn.Module):
    """Two blocks of attention on tokens that are the pixels of one row."""

    def __init__(self, how: str = "module") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = Block(how), Block(how)
        self.head = nn.Linear(K, CLASSES)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4)

    def forward(self, image: Tensor) -> Tensor:
        x = image[:, :, 0].transpose(1, 2)
        return self.head(self.second(self.first(x)).mean(1))


def image_of_tokens() -> Tensor:
    return torch.randn(N, K, 1, T, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def safe(r: Tensor, z: Tensor) -> Tensor:
    return torch.where(z == 0, 0, r / torch.where(z == 0, 1, z))


def heads_of(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


class Explicit:
    """Explicit relevance, layer after layer from the score down, without autograd."""

    def __init__(self) -> None:
        self.tape: list[Callable[[Tensor], Tensor]] = []

    def linear(self, x: Tensor, layer: Any) -> Tensor:
        z = x @ layer.weight.T + layer.bias
        self.tape.append(lambda r: x * (safe(r, z) @ layer.weight))
        return z

    def norm(self, x: Tensor, layer: Any) -> Tensor:
        c = x - x.mean(-1, keepdim=True)
        scale = layer.weight / (x.var(-1, correction=0, keepdim=True) + layer.eps).sqrt()
        z = c * scale + layer.bias

        def back(r: Tensor) -> Tensor:
            g = safe(r, z) * scale
            return x * (g - g.mean(-1, keepdim=True))

        self.tape.append(back)
        return z

    def attention(self, x: Tensor, mha: Any) -> Tensor:
        weights, biases = mha.in_proj_weight.chunk(3), mha.in_proj_bias.chunk(3)
        q, k, v = (heads_of(x @ w.T + b) for w, b in zip(weights, biases, strict=True))
        s = q @ k.transpose(-2, -1) / math.sqrt(K // HEADS)
        p = s.softmax(-1)
        y = (p @ v).transpose(1, 2).flatten(2)
        out = y @ mha.out_proj.weight.T + mha.out_proj.bias

        def back(r: Tensor) -> Tensor:
            r_y = heads_of(y * (safe(r, out) @ mha.out_proj.weight))
            ratio = safe(r_y, heads_of(y)) / 2
            r_p, r_v = p * (ratio @ v.transpose(-2, -1)), v * (p.transpose(-2, -1) @ ratio)
            r_s = s * (r_p - p * r_p.sum(-1, keepdim=True))
            ratio = safe(r_s, s) / (2 * math.sqrt(K // HEADS))
            r_q, r_k = q * (ratio @ k), k * (ratio.transpose(-2, -1) @ q)
            total = torch.zeros_like(x)
            for part, r_part, w in zip((q, k, v), (r_q, r_k, r_v), weights, strict=True):
                total = total + x * (safe(r_part, part).transpose(1, 2).flatten(2) @ w)
            return total

        self.tape.append(back)
        return out

    def residual(self, x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        start = len(self.tape)
        inner = run(x)
        steps, z = self.tape[start:], x + inner
        del self.tape[start:]

        def back(r: Tensor) -> Tensor:
            branch = inner * safe(r, z)
            for step in reversed(steps):
                branch = step(branch)
            return x * safe(r, z) + branch

        self.tape.append(back)
        return z

    def mlp(self, x: Tensor, block: Any) -> Tensor:
        hidden = self.linear(self.norm(x, block.norm2), block.mlp[0])
        # GELU passes relevance on as it is.
        return self.linear(F.gelu(hidden), block.mlp[2])


def by_hand(network: Network, image: Tensor, target: int) -> Tensor:
    explicit, x = Explicit(), image[:, :, 0].transpose(1, 2)
    for block in (network.first, network.second):
        x = explicit.residual(
            x, lambda x, b=block: explicit.attention(explicit.norm(x, b.norm1), b.attention.mha)
        )
        x = explicit.residual(x, lambda x, b=block: explicit.mlp(x, b))
    pooled = x.mean(1)
    relevance = pooled * network.head.weight[target]
    relevance = x / x.shape[1] * safe(relevance, pooled)[:, None]
    for step in reversed(explicit.tape):
        relevance = step(relevance)
    return relevance.sum(-1)[:, None, None]


SPELLINGS = ["module", "sdpa", "einsum", "matmul", "bmm", "baddbmm"]


@pytest.mark.parametrize("how", SPELLINGS)
def test_two_attention_blocks_by_hand(how: str) -> None:
    network, image = Network(how).double().eval(), image_of_tokens()
    with torch.no_grad():
        wanted = by_hand(network, image, 1)
    found = attn_lrp(network, image, 1)
    assert (found - wanted).abs().max() / wanted.abs().max() < 1e-12


def test_float32_is_close() -> None:
    network, image = Network().eval(), image_of_tokens()
    wanted = attn_lrp(Network().double().eval(), image, 1)
    found = attn_lrp(network, image.float(), 1)
    assert (found - wanted).abs().max() / wanted.abs().max() < 1e-5


@pytest.mark.parametrize("how", SPELLINGS)
def test_the_variant_of_constant_attention_conserves(how: str) -> None:
    network, image = Network(how).double().eval(), image_of_tokens()
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if "bias" in name:
                nn.init.zeros_(parameter)
    found = AttnLRP(softmax="cp", resize=False)(network, image, 2).sum((1, 2, 3))
    torch.testing.assert_close(found, network(image)[:, 2].detach(), rtol=1e-10, atol=1e-12)
    full = AttnLRP(resize=False)(network, image, 2).sum((1, 2, 3))
    assert not torch.allclose(full, found, rtol=1e-3)


@pytest.mark.parametrize("kind", ["vgg", "residual", "functional"])
def test_on_piecewise_linear_networks_it_is_gradient_times_input(kind: str) -> None:
    model, images = make_model(kind), make_images().requires_grad_()
    (gradient,) = torch.autograd.grad(model(images)[:, 3].sum(), images)
    wanted = (gradient * images).sum(1, keepdim=True)
    assert torch.equal(attn_lrp(model, images.detach(), 3), wanted.detach())


def test_the_forward_pass_is_the_models_own() -> None:
    network, image = Network("matmul").double().eval(), image_of_tokens()
    kept = Tally()
    handle = network.register_forward_hook(lambda _m, _i, output: kept.append(output.detach()))
    attn_lrp(network, image, 0)
    handle.remove()
    torch.testing.assert_close(kept[0], network(image).detach(), rtol=1e-14, atol=0)


def test_lxt_agrees_on_a_vision_transformer() -> None:
    """Of lxt's torchvision recipe: attention weights are constants, GELU is passed by identity.

    Lxt 2.1 cannot be imported beside transformers 5: ``pip install lxt "transformers<5"``.
    """
    lxt = pytest.importorskip("lxt.efficient", exc_type=ImportError)
    rules = pytest.importorskip("lxt.efficient.models.vit_torch", exc_type=ImportError)
    torch.manual_seed(0)
    make: Callable[[], nn.Module] = lambda: models.VisionTransformer(32, 8, 2, 2, 16, 32, 0.0)  # noqa: E731
    ours = make().eval()
    nn.init.normal_(ours.heads.head.weight)
    image = torch.randn(1, 3, 32, 32)
    found = AttnLRP(softmax="cp", resize=False)(ours, image, 5)
    # It changes classes of torch for the whole process, and is undone below.
    before = {name: vars(nn)[name].__dict__.copy() for name in ("LayerNorm", "GELU", "Dropout")}
    from torchvision.models import vision_transformer

    function, attention = F.multi_head_attention_forward, nn.MultiheadAttention.forward
    try:
        lxt.monkey_patch(vision_transformer, verbose=False)
        theirs = image.clone().requires_grad_()
        ours(theirs)[:, 5].sum().backward()
        wanted = (theirs * theirs.grad).sum(1, keepdim=True).detach()
    finally:
        F.multi_head_attention_forward, nn.MultiheadAttention.forward = function, attention
        for name, table in before.items():
            for key, value in table.items():
                if not key.startswith("__"):
                    setattr(vars(nn)[name], key, value)
    assert rules is not None
    assert (found - wanted).abs().max() / wanted.abs().max() < 1e-6


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


@pytest.mark.parametrize(
    "activation",
    [nn.GELU(), nn.SiLU(), nn.SiLU(True), nn.Hardswish(True), nn.Mish(), nn.ELU(), Gate()],
)
def test_smooth_activations_conserve(activation: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, bias=False), activation, nn.Conv2d(6, 6, 3, bias=False)),
        *(activation, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4, bias=False)),
    ).double()
    image = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    for method in (AttnLRP(), AttnLRP(conv_gamma=0.25, linear_gamma=0.05)):
        saliency = method(model, image, 1)
        total = saliency.sum((1, 2, 3))
        torch.testing.assert_close(total, model(image)[:, 1].detach(), rtol=1e-9, atol=1e-12)


def test_gamma_by_loops() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2)).double()
    image = torch.randn(1, 1, 2, 2, dtype=torch.float64)
    found = AttnLRP(linear_gamma=0.5)(model, image, 1).flatten()

    def down(x: list[float], relevance: list[float], layer: Any) -> list[float]:
        result = [0.0] * len(x)
        for row, bias, r in zip(layer.weight.tolist(), layer.bias.tolist(), relevance, strict=True):
            products = [a * w for a, w in zip(x, row, strict=True)]
            y = sum(products) + bias
            # What has the sign of the unit counts one and a half times.
            parts = [p * 1.5 if p * y > 0 else p for p in products]
            for i, part in enumerate(parts):
                result[i] += part * r / (sum(parts) + bias)
        return result

    hidden = model[:2](image)[0].tolist()
    score = float(model(image)[0, 1].detach())
    wanted = down(image.flatten().tolist(), down(hidden, [0.0, score], model[2]), model[1])
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_tokens_in_the_middle() -> None:
    network, image = Network().double().eval(), image_of_tokens()
    method = AttnLRP("first", layout=TokenGrid(1, T), softmax="cp", resize=False)
    assert method(network, image, 1).shape == (N, 1, 1, T)


def test_functions_without_a_rule_are_refused_by_name() -> None:
    class Cubed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.exp(x.mean((2, 3)))

    with pytest.raises(ModelError, match=r"through exp.*LinearApprox"):
        AttnLRP()(Cubed(), make_images(), 1)


def test_it_is_what_refusals_of_other_methods_propose() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match="AttnLRP"):
        GuidedBackprop()(model, make_images(), 1)
    assert AttnLRP()(model, make_images(), 1).any()


@pytest.mark.parametrize(
    "settings", [{"softmax": "lrp"}, {"conv_gamma": -1}, {"linear_gamma": float("nan")}]
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        AttnLRP(**settings)
