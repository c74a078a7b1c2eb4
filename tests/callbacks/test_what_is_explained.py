"""What is explained is the user's choice: scores, further inputs, methods that do not apply."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jsonargparse
import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LightningCLI
from packaging.version import Version
from quiet import several_processes
from small_runs import QUIET, TinyModule, dataset, events, fit, make_trainer
from small_runs import train_loader as loader
from small_runs import val_loader as validation
from torch import Tensor, nn
from torch.utils.data import DataLoader
from traces import module_state

from lightning_saliency import SaliencyCallback, load_maps
from lightning_saliency.attribution import (
    RISE,
    AttnLRP,
    ExtremalPerturbation,
    GradCAM,
    Gradient,
    GuidedBackprop,
    gradient_bases,
)
from lightning_saliency.callbacks import GradCAMCallback
from lightning_saliency.errors import InputError, ModelError, SaliencyError, SaliencyWarning
from lightning_saliency.targets import LogitDifference
from lightning_saliency.trust import TrustChecks

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:No seed found, seed set to 0"),
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter is intended"),
]


def margin(output: Tensor) -> Tensor:
    return output[:, 1] - output[:, 2]


# --- scores -----------------------------------------------------------------------------------


def test_a_score_is_explained_under_its_name(tmp_path: Path) -> None:
    callback = SaliencyCallback(
        [GradCAM(), Gradient()], samples=3, target=margin, save_maps=True, log="full"
    )
    trainer = fit(tmp_path, callback)
    assert list(callback.series) == ["grad_cam/margin", "gradient/margin"]
    found = events(tmp_path)
    assert "saliency/samples/grad_cam/margin/2" in found.Tags()["images"]
    values = [event.value for event in found.Scalars("saliency_target/gradient/margin/score")]
    images = dataset(12, seed=2).tensors[0][:3]
    module = trainer.lightning_module.eval()
    assert values[-1] == pytest.approx(float(margin(module(images)).detach().mean()), rel=1e-5)
    maps = load_maps(tmp_path / "run", "gradient/margin").maps[-1]
    torch.testing.assert_close(maps, Gradient()(module, images, margin).cpu(), rtol=1e-4, atol=1e-6)
    # A score is no probability of a class, and has no predicted class that flips.
    tags = found.Tags()["scalars"]
    assert not [tag for tag in tags if tag.endswith(("/probability", "/flips", "/log_probability"))]
    assert not [name for name, value in trainer.callback_metrics.items() if value.isnan()]


def test_a_score_beside_classes(tmp_path: Path) -> None:
    targets = ["label", "predicted", LogitDifference(1, 2), margin]
    callback = SaliencyCallback(Gradient(), samples=2, target=targets, save_maps=True, log="full")
    trainer = fit(tmp_path, callback)
    names = ["gradient/label", "gradient/predicted", "gradient/class_1_minus_2", "gradient/margin"]
    assert list(callback.series) == names
    found = {name: load_maps(tmp_path / "run", name).maps for name in names}
    # The same in other words.
    assert torch.equal(found[names[2]], found[names[3]])
    assert not torch.allclose(found[names[0]], found[names[3]])
    module, images = trainer.lightning_module.eval(), dataset(12, seed=2).tensors[0][:2]
    wanted = Gradient()(module, images, [0, 1]).cpu()
    torch.testing.assert_close(found[names[0]][-1], wanted, rtol=1e-4, atol=1e-6)
    scalars = events(tmp_path).Tags()["scalars"]
    assert "saliency_target/flips/margin" in scalars
    assert "saliency_target/gradient/label/probability" in scalars
    ours = [tag for tag in scalars if tag.startswith("saliency_target/")]
    assert [tag for tag in ours if tag not in callback.tags] == []


def test_scores_of_an_output_without_classes(tmp_path: Path) -> None:
    class Boxes(TinyModule):
        def forward(self, images: Tensor) -> Any:
            return [{"scores": row} for row in self.net(images)]

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    def first(output: Any) -> Tensor:
        return torch.stack([each["scores"][0] for each in output])

    methods = [GradCAM(), Gradient(), RISE(num_masks=16), ExtremalPerturbation(max_iter=3)]
    checks = TrustChecks(faithfulness=["insertion"], sanity_check=True)
    callback = SaliencyCallback(methods, samples=2, target=first, trust=checks)
    trainer = make_trainer(tmp_path, callback)
    trainer.fit(Boxes(), loader(), validation())
    tags = events(tmp_path).Tags()
    for method in methods:
        assert f"saliency/samples/{method.name}/first/1" in tags["images"]
        assert f"saliency_faithfulness/{method.name}/first/insertion" in tags["scalars"]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ([margin, margin], "different targets"),
        ("labels", "a callable"),
        (LogitDifference, r"LogitDifference\(...\)"),
        ([], "different targets"),
    ],
)
def test_targets_are_checked(target: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        SaliencyCallback(Gradient(), target=target)


def test_a_score_of_a_wrong_shape_is_refused_before_training(tmp_path: Path) -> None:
    module = TinyModule()
    trainer = make_trainer(tmp_path, SaliencyCallback(Gradient(), target=lambda output: output))
    with pytest.raises(InputError, match="one score for each image"):
        trainer.fit(module, loader(), validation())
    assert module.steps == 0


def test_a_run_resumes_with_its_score_and_not_with_another(tmp_path: Path) -> None:
    trainer = fit(tmp_path, GradCAMCallback(samples=2, target=LogitDifference(0, 1)))
    path = tmp_path / "saved.ckpt"
    trainer.save_checkpoint(path)
    # Equal settings are no change, in an object of its own.
    fit(
        tmp_path,
        GradCAMCallback(samples=2, target=LogitDifference(0, 1)),
        ckpt_path=path,
        max_epochs=3,
    )
    assert len(events(tmp_path).Images("saliency/samples/grad_cam/class_0_minus_1/1")) == 3
    # Another has tags of its own, and is another callback.
    with pytest.warns(UserWarning, match=r"Please add the following callbacks.*class_0_minus_1"):
        fit(tmp_path, GradCAMCallback(samples=2, target=margin), ckpt_path=path, max_epochs=3)


# --- further inputs ---------------------------------------------------------------------------


class WithTable(pl.LightningModule):
    """An image-and-table module: what the image says is weighed by the table."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.table = nn.Linear(4, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor, table: Tensor) -> Tensor:
        assert len(images) == len(table)
        found = self.features(images) * self.table(table).sigmoid()[:, :, None, None]
        return self.head(found.mean((2, 3)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["image"], batch["table"]), batch["label"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def rows(count: int, seed: int) -> DataLoader[Any]:
    images, labels = dataset(count, seed).tensors
    table = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed + 9)) * 4
    named = [
        {"image": image, "table": row, "label": label}
        for image, row, label in zip(images, table, labels, strict=True)
    ]
    return DataLoader(named, batch_size=4)  # type: ignore[arg-type]


def alone(batch: Any) -> Any:
    return batch["image"], batch["label"], None, batch["table"]


def named(batch: Any) -> Any:
    return batch["image"], batch["label"], None, {"table": batch["table"]}


def forward_alone(module: WithTable, images: Tensor, inputs: Tensor) -> Tensor:
    return module(images, inputs)


def forward_named(module: WithTable, images: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    return module(images, **inputs)


METHODS = [GradCAM(), Gradient(), RISE(num_masks=24, batch_size=6), AttnLRP()]


@pytest.mark.parametrize(
    "settings",
    [
        {"unpack": alone},
        {"unpack": named},
        {"unpack": alone, "forward": forward_alone},
        {"unpack": named, "forward": forward_named, "target": ["label", margin]},
    ],
    ids=["tensor", "names", "tensor, forward", "names, forward"],
)
def test_each_sample_is_explained_with_its_own_inputs(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    module = WithTable()
    checks = TrustChecks(faithfulness=["deletion"], sanity_check=False)
    callback = SaliencyCallback(
        METHODS, samples=3, save_maps=True, on_error="raise", trust=checks, **settings
    )
    trainer = make_trainer(tmp_path, callback)
    trainer.fit(module, rows(16, 1), rows(8, 2))
    batch = next(iter(rows(8, 2)))
    module.eval()
    ending = "/label" if "target" in settings else ""
    for method in METHODS:
        maps = load_maps(tmp_path / "run", f"{method.name}{ending}").maps[-1]
        for i in range(3):

            class One(nn.Module):
                def __init__(self, row: Tensor) -> None:
                    super().__init__()
                    self.module, self.row = module, row

                def forward(self, images: Tensor) -> Tensor:
                    return self.module(images, self.row.expand(len(images), 4))

            inner = method
            if isinstance(method, GradCAM):
                inner = GradCAM("module.features")
            wanted = inner(
                One(batch["table"][i]), batch["image"][i : i + 1], int(batch["label"][i])
            )
            torch.testing.assert_close(maps[i : i + 1], wanted, rtol=1e-4, atol=1e-5)
    assert f"saliency_faithfulness/gradient{ending}/deletion" in events(tmp_path).Tags()["scalars"]


def test_inputs_are_kept_over_a_resume(tmp_path: Path) -> None:
    def run(epochs: int, ckpt_path: Path | None = None) -> pl.Trainer:
        torch.manual_seed(0)
        callback = GradCAMCallback(samples=2, unpack=named, on_error="raise")
        trainer = make_trainer(tmp_path, callback, max_epochs=epochs)
        # Other validation data: what is explained comes from the checkpoint.
        trainer.fit(WithTable(), rows(16, 1), rows(8, 2 if epochs == 1 else 3), ckpt_path=ckpt_path)
        return trainer

    first = run(1)
    first.save_checkpoint(tmp_path / "saved.ckpt")
    second = run(2, tmp_path / "saved.ckpt")
    for trainer in (first, second):
        (callback,) = (c for c in trainer.callbacks if isinstance(c, SaliencyCallback))
        samples = callback._samples.known
        assert samples is not None
        assert torch.equal(samples.inputs["table"], next(iter(rows(8, 2)))["table"][:2])


@pytest.mark.parametrize(
    "unpack",
    [
        lambda batch: (batch["image"], None, None, batch["table"][:1]),
        lambda batch: (batch["image"], None, None, {"table": "none"}),
    ],
)
def test_inputs_are_checked_before_training(tmp_path: Path, unpack: Any) -> None:
    trainer = make_trainer(tmp_path, SaliencyCallback(Gradient(), unpack=unpack))
    with pytest.raises(InputError, match="one row for each of the 4 images"):
        trainer.fit(WithTable(), rows(16, 1), rows(8, 2))


def test_the_message_says_how_to_hand_them_on(tmp_path: Path) -> None:
    def unpack(batch: Any) -> Any:
        return batch["image"], batch["label"]

    trainer = make_trainer(tmp_path, SaliencyCallback(Gradient(), unpack=unpack))
    with pytest.raises(InputError, match=r"None, \{'table': batch\['table'\]\}\)") as raised:
        trainer.fit(WithTable(), rows(16, 1), rows(8, 2))
    # What it says works.
    text = str(raised.value)
    said = text[text.index("lambda batch") : text.index("), which gives")]
    module = WithTable()
    callback = SaliencyCallback(Gradient(), unpack=eval(said), on_error="raise")
    make_trainer(tmp_path / "again", callback).fit(module, rows(16, 1), rows(8, 2))


# --- methods that do not apply ----------------------------------------------------------------


class Smooth(TinyModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(  # type: ignore[assignment]
            nn.Conv2d(3, 6, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
        )


def smooth_run(folder: Path, *methods: Any, module: Any = None, **settings: Any) -> pl.Trainer:
    torch.manual_seed(0)
    ckpt_path = settings.pop("ckpt_path", None)
    epochs = settings.pop("max_epochs", 2)
    callback = SaliencyCallback(list(methods), samples=2, **settings)
    trainer = make_trainer(folder, callback, max_epochs=epochs)
    trainer.fit(module or Smooth(), loader(), validation(), ckpt_path=ckpt_path)
    return trainer


def test_by_default_a_method_that_does_not_apply_ends_the_run_before_training(
    tmp_path: Path,
) -> None:
    module = Smooth()
    with pytest.raises(ModelError, match="AttnLRP"):
        smooth_run(tmp_path, Gradient(), GuidedBackprop(), module=module)
    assert module.steps == 0


def test_it_can_be_skipped_once_with_a_word_also_over_a_resume(tmp_path: Path) -> None:
    methods = GradCAM("net.nothing"), Gradient(), GuidedBackprop()
    with pytest.warns(SaliencyWarning, match="skipped") as said:
        trainer = smooth_run(tmp_path, *methods, on_inapplicable="skip")
    lines = [str(w.message) for w in said if "skipped" in str(w.message)]
    assert [line.partition(" ")[0] for line in lines] == ["grad_cam", "guided_backprop"]
    assert "no 'net.nothing'" in lines[0]
    assert "gelu" in lines[1].lower()
    assert len(events(tmp_path).Images("saliency/samples/gradient/1")) == 2
    path = tmp_path / "saved.ckpt"
    trainer.save_checkpoint(path)
    # Warnings are errors here: nothing is said again.
    again = smooth_run(tmp_path, *methods, on_inapplicable="skip", max_epochs=3, ckpt_path=path)
    (callback,) = (c for c in again.callbacks if isinstance(c, SaliencyCallback))
    assert list(callback.series) == ["gradient"]
    assert len(events(tmp_path).Images("saliency/samples/gradient/1")) == 3


def test_if_none_applies_the_run_ends_before_training(tmp_path: Path) -> None:
    module = Smooth()
    with pytest.raises(SaliencyError, match=r"none does: guided_backprop: "):
        smooth_run(tmp_path, GuidedBackprop(), module=module, on_inapplicable="skip")
    assert module.steps == 0


def test_without_a_sanity_check_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    callback = SaliencyCallback([GuidedBackprop(), Gradient()], on_inapplicable="skip")
    trainer = make_trainer(tmp_path, callback, num_sanity_val_steps=0)
    with pytest.warns(SaliencyWarning, match="guided_backprop is skipped"):
        trainer.fit(Smooth(), loader(), validation())
    assert len(events(tmp_path).Images("saliency/samples/gradient/1")) == 2


def test_the_setting_is_checked() -> None:
    with pytest.raises(InputError, match="'raise' or 'skip'"):
        SaliencyCallback(Gradient(), on_inapplicable="ignore")  # type: ignore[arg-type]


# --- what was found ---------------------------------------------------------------------------


def test_layer_and_grid_are_said_once_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "lightning_saliency")

    def said() -> list[str]:
        return [r.message for r in caplog.records if r.name == "lightning_saliency"]

    trainer = fit(tmp_path, GradCAMCallback(samples=2), max_epochs=2)
    assert said() == ["grad_cam explains layer 'net.features', 8 x 8 places, channels first."]
    path = tmp_path / "saved.ckpt"
    trainer.save_checkpoint(path)

    def searched(*_: Any) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr(gradient_bases, "last_spatial_layer", searched)
    monkeypatch.setattr(gradient_bases, "find_layout", searched)
    fit(tmp_path, GradCAMCallback(samples=2, on_error="raise"), max_epochs=3, ckpt_path=path)
    assert len(said()) == 1
    assert len(events(tmp_path).Images("saliency/samples/grad_cam/1")) == 3


def test_another_layer_by_the_user_wins_over_the_checkpoints(tmp_path: Path) -> None:
    trainer = fit(tmp_path, GradCAMCallback(samples=2), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    callback = GradCAMCallback("net.features.0", samples=2)
    with pytest.warns(SaliencyWarning, match="start anew"):
        fit(tmp_path, callback, ckpt_path=tmp_path / "saved.ckpt")
    assert callback.series["grad_cam"].method.layers() == ("net.features.0",)


@pytest.mark.parametrize("damage", [{}, {"layers": 3}, {"layers": {"grad_cam": {"layer": 5}}}])
def test_a_damaged_part_is_looked_for_again(tmp_path: Path, damage: dict[str, Any]) -> None:
    trainer = fit(tmp_path, GradCAMCallback(samples=2), max_epochs=1)
    path = tmp_path / "saved.ckpt"
    trainer.save_checkpoint(path)
    state = torch.load(path, weights_only=False)
    (key,) = (key for key in state["callbacks"] if "GradCAM" in key)
    state["callbacks"][key]["found"] = (
        {**state["callbacks"][key]["found"], **damage} if damage else 3
    )
    torch.save(state, path)
    with pytest.warns(SaliencyWarning, match="the layers"):
        fit(tmp_path, GradCAMCallback(samples=2), ckpt_path=path)


# --- everywhere -------------------------------------------------------------------------------


def settings_of(case: str) -> dict[str, Any]:
    return {
        "score": {"target": ["label", margin]},
        "skip": {"on_inapplicable": "skip"},
        "inputs": {"unpack": named},
    }[case]


def train(folder: Path, case: str, *callbacks: Any, **settings: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    module = {"score": TinyModule, "skip": Smooth, "inputs": WithTable}[case]()
    trainer = make_trainer(folder, *callbacks, **settings)
    data = (rows(16, 1), rows(8, 2)) if case == "inputs" else (loader(), validation())
    trainer.fit(module, *data)
    return module_state(module)


@pytest.mark.filterwarnings("ignore:guided_backprop is skipped")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("case", ["score", "skip", "inputs"])
def test_training_is_untouched(tmp_path: Path, case: str, precision: str) -> None:
    methods = [GradCAM(), AttnLRP(), *([GuidedBackprop()] if case == "skip" else [])]
    callback = SaliencyCallback(methods, samples=2, on_error="raise", **settings_of(case))
    with_it = train(tmp_path / "with", case, callback, precision=precision)
    assert with_it == train(tmp_path / "without", case, precision=precision)
    tag = "saliency/samples/attn_lrp/margin/1" if case == "score" else "saliency/samples/attn_lrp/1"
    assert len(events(tmp_path / "with").Images(tag)) == 2


def still(module: nn.Module) -> Any:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.0
    return lambda: torch.optim.SGD(module.parameters(), lr=0.0)


@several_processes
@pytest.mark.filterwarnings("ignore:guided_backprop is skipped")
@pytest.mark.parametrize("case", ["score", "skip", "inputs"])
def test_two_processes_explain_what_one_explains(tmp_path: Path, case: str) -> None:
    methods = [GradCAM(), AttnLRP(), *([GuidedBackprop()] if case == "skip" else [])]
    for processes in (1, 2):
        more: dict[str, Any] = {"max_epochs": 1, "precision": "64-true"}
        if processes == 2:
            more |= {"strategy": "ddp_fork", "devices": 2}
        callback = SaliencyCallback(
            methods, samples=[0, 5, 3], on_error="raise", save_maps=True, **settings_of(case)
        )
        folder = tmp_path / str(processes)
        torch.manual_seed(0)
        module = {"score": TinyModule, "skip": Smooth, "inputs": WithTable}[case]()
        # Two processes train on other batches than one.
        module.configure_optimizers = still(module)  # type: ignore[method-assign]
        trainer = make_trainer(folder, callback, **more)
        data = rows(8, 2) if case == "inputs" else validation()
        trainer.fit(module, data, data)
    names = ["grad_cam/margin", "attn_lrp/label"] if case == "score" else ["grad_cam", "attn_lrp"]
    for name in names:
        one, two = (load_maps(tmp_path / n / "run", name).maps for n in ("1", "2"))
        assert one.shape[1] == 3
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


CLASS = {
    "class_path": "lightning_saliency.targets.LogitDifference",
    "init_args": {"this": 3, "other": 1},
}


@pytest.mark.parametrize(
    ("target", "names"),
    [
        (f"{__name__}.margin", ["margin"]),
        (CLASS, ["class_3_minus_1"]),
        (["label", CLASS, f"{__name__}.margin"], ["label", "class_3_minus_1", "margin"]),
    ],
)
def test_the_command_line_takes_them(tmp_path: Path, target: Any, names: list[str]) -> None:
    if isinstance(target, list) and Version(jsonargparse.__version__) < Version("4.51"):
        pytest.skip("jsonargparse makes no objects inside of such a list")
    callback = {
        "class_path": "GradCAMCallback",
        "init_args": {"target": target, "samples": 2, "on_inapplicable": "skip"},
    }
    cli = LightningCLI(
        TinyModule,
        run=False,
        save_config_callback=None,
        trainer_defaults={"logger": False},
        args={"trainer": {"callbacks": [callback], "default_root_dir": str(tmp_path)}},
    )
    (found,) = (c for c in cli.trainer.callbacks if isinstance(c, SaliencyCallback))
    assert list(found.series) == [f"grad_cam/{name}" for name in names]
