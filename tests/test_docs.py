"""The documentation does what it says: code runs, files are taken, links lead somewhere."""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import matplotlib
import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch.cli import LightningCLI
from quiet import QUIET
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.resnet import BasicBlock, ResNet

from lightning_saliency.cli import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
CLASSES = 10
# Loggers of packages that need not be installed, and modules that stand for the reader's own.
OPTIONAL = {"wandb", "mlflow", "comet_ml", "pandas", "xarray"}

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:No seed found, seed set to 0"),
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter is intended"),
    pytest.mark.filterwarnings("ignore:The `srun` command is available"),
]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[tuple[int, str]]:
    """Return the blocks of a page in one of the languages, each with the line that it begins at."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start(2)) + 1, match.group(2))
        for match in FENCE.finditer(text)
        if match.group(1) in languages
    ]


def with_blocks(*languages: str) -> list[Any]:
    return [pytest.param(page, id=name_of(page)) for page in PAGES if blocks(page, *languages)]


# What the reader has: a module, loaders, images and labels.


class Module(pl.LightningModule):
    """A small ResNet as ``self.net``, and data."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-3)

    def train_dataloader(self) -> DataLoader[Any]:
        return loader(8)

    def val_dataloader(self) -> DataLoader[Any]:
        return loader(16)


def loader(count: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(count)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(count) % CLASSES), batch_size=4)


def what_the_reader_has(folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    images, labels = next(iter(loader(4)))
    model = Module().eval()
    (folder / "checkpoints").mkdir()
    trainer = pl.Trainer(logger=False)
    trainer.strategy.connect(model)
    for epoch in range(2):
        trainer.save_checkpoint(folder / "checkpoints" / f"epoch={epoch}.ckpt")
    return {
        "model": model,
        "new_model": Module,
        "train_loader": loader(8),
        "val_loader": loader(16),
        "images": images,
        "labels": labels,
        "picture": images[0],
        "masks": torch.ones(8, 32, 32),
        "my_network": ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES),
    }


@pytest.fixture
def short_and_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trainers of at most two epochs, which draw no bars, in a folder of their own."""
    made = pl.Trainer.__init__

    @functools.wraps(made)
    def make(self: pl.Trainer, *args: Any, **settings: Any) -> None:
        settings["max_epochs"] = min(2, settings.get("max_epochs") or 2)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        checkpoints = {"enable_checkpointing": settings.get("enable_checkpointing", False)}
        made(self, *args, **{**settings, **quiet, **checkpoints, "log_every_n_steps": 1})

    monkeypatch.setattr(pl.Trainer, "__init__", make)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    backend = matplotlib.get_backend()
    matplotlib.use("agg")
    yield
    matplotlib.use(backend)


@pytest.mark.usefixtures("short_and_quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", with_blocks("python"))
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = ModuleType("script")
    monkeypatch.setitem(sys.modules, "script", script)
    names, missing = vars(script), []
    names.update(what_the_reader_has(tmp_path))
    for line, code in blocks(page, "python"):
        # So that a traceback names the page and its line.
        tree = compile("\n" * (line - 1) + code, name_of(page), "exec", ast.PyCF_ONLY_AST)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(tree, name_of(page), "exec"), names)
        except ModuleNotFoundError as error:
            said = str(error).lower().replace("-", "_")
            package = next((name for name in OPTIONAL if name in said), None)
            if package is None:
                raise
            missing.append(package)
    assert set(missing) <= OPTIONAL
    assert not missing or page in (DOCS / "loggers.md", DOCS / "after_run.md")


def test_numbers_in_the_text_are_those_of_the_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What stands behind a ``print`` in the pages on drift and installation is what it prints."""
    for page in (DOCS / "reading-drift.md", DOCS / "install.md"):
        names: dict[str, Any] = {}
        for _, code in blocks(page, "python"):
            exec(code, names)
            said = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
            printed = capsys.readouterr().out.splitlines()
            for expected, got in zip(said, printed, strict=True):
                if got.startswith("torch.Size"):
                    assert got == expected
                else:
                    assert float(expected.split()[-1]) == pytest.approx(float(got), abs=0.006)


@pytest.mark.usefixtures("short_and_quiet")
@pytest.mark.parametrize("page", with_blocks("yaml"))
def test_yaml_is_taken_by_the_command_line(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ModuleType("my_project")
    for name, function in (("data", "unpack"), ("models", "scores")):
        part = ModuleType(f"my_project.{name}")
        setattr(part, function, _two_arguments if name == "models" else _one_argument)
        setattr(own, name, part)
        monkeypatch.setitem(sys.modules, f"my_project.{name}", part)
    monkeypatch.setitem(sys.modules, "my_project", own)
    for line, text in blocks(page, "yaml"):
        path = tmp_path / f"{line}.yaml"
        path.write_text(text, encoding="utf-8")
        cli = LightningCLI(
            Module, run=False, args=["--config", str(path), "--trainer.logger=false"]
        )
        asked = yaml.safe_load(text)["trainer"]["callbacks"]
        made = [type(callback).__name__ for callback in cli.trainer.callbacks]
        for each in asked:
            assert each["class_path"].rpartition(".")[2] in made, f"{name_of(page)}:{line}"


def _one_argument(batch: Any) -> tuple[Tensor, Tensor]:
    return batch[0], batch[1]


def _two_arguments(module: Any, images: Tensor) -> Tensor:
    return module(images)


@pytest.mark.parametrize("page", with_blocks("", "bash"))
def test_commands_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = False
    for line, text in blocks(page, "", "bash"):
        for command in text.replace("\\\n", " ").splitlines():
            words = shlex.split(command, comments=True)
            if words:
                known |= _check_command(words, f"{name_of(page)}:{line}")
    assert known or name_of(page) == "CONTRIBUTING.md"
    capsys.readouterr()


def _check_command(words: list[str], where: str) -> bool:
    """Fail if a command cannot be given; return whether it is of a kind that is checked."""
    first = words[0]
    if first == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), where
    elif first == "lightning-saliency":
        with pytest.raises(SystemExit) as stopped:
            main([*words[1:], "--help"])
        assert stopped.value.code == 0, where
    elif first == "python":
        assert (ROOT / words[1]).is_file(), where
    elif first == "pip":
        extras = set(re.findall(r"^(\w+) = \[", _extras(), re.MULTILINE))
        for word in words:
            named = re.search(r"\[([\w,]+)\]", word)
            assert named is None or set(named.group(1).split(",")) <= extras, where
    else:
        assert first in ("tensorboard", "lightning-saliency"), f"{where}: {first} is not checked"
    return True


def _extras() -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return text.split("[project.optional-dependencies]")[1].split("\n[project.scripts]")[0]


# Links.


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as Python-Markdown and GitHub both make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {slug(heading) for heading in HEADING.findall(text)}


def slug(heading: str) -> str:
    kept = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
    return re.sub(r"[-\s]+", "-", kept)


@pytest.mark.parametrize("page", [pytest.param(page, id=name_of(page)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{name_of(page)} links to {link}"
        assert target.is_relative_to(ROOT), link
        if page.is_relative_to(DOCS):
            assert target.is_relative_to(DOCS), f"{link} is not part of the site"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)} links to {link}"


def nav_pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in nav_pages(part)]


def test_the_navigation_names_every_page_once() -> None:
    nav = nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(nav) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES[1:])


def test_api_pages_name_what_exists() -> None:
    import importlib

    for page in sorted((DOCS / "api").glob("*.md")):
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            owner, _, last = name.rpartition(".")
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                assert hasattr(importlib.import_module(owner), last), f"{name_of(page)}: {name}"


def test_all_public_names_have_an_entry_in_the_reference() -> None:
    import lightning_saliency
    from lightning_saliency import attribution

    text = "".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "api").glob("*.md")))
    named = [name for name in lightning_saliency.__all__ if name.endswith("Callback")]
    names = [
        *(each for each in lightning_saliency.__all__ if each not in named and each[0] != "_"),
        "SaliencyCallback",
        *(method.__name__ for method in attribution.METHODS),
    ]
    missing = [name for name in names if not re.search(rf"^::: \S+\.{name}$", text, re.MULTILINE)]
    assert missing == []


# The ten questions of somebody new, and a word that stands in the answer.
QUESTIONS = {
    "which method for a vision transformer": ("networks.md", "`AttnLRP`"),
    "my map is gray": ("gray-maps.md", "below the mean stays gray"),
    "how does the alarm stop training": ("alarms.md", "`stop=True`"),
    "what does relative .4 mean": ("reading-drift.md", ".4 is 40 %"),
    "compare two runs": ("compare.md", "compare(run_a, run_b)"),
    "Weights & Biases": ("loggers.md", "WandbLogger"),
    "explain saved checkpoints": ("checkpoints.md", "trainer.validate"),
    "detection and segmentation": ("targets.md", "BoxScore"),
    "turn drift off, make it cheaper": ("performance.md", "max_overhead"),
    "where is the API": ("api/callbacks.md", "SaliencyCallback"),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_first_page_leads_to_the_answer(question: str) -> None:
    page, answer = QUESTIONS[question]
    first = (DOCS / "index.md").read_text(encoding="utf-8")
    assert page in [link.partition("#")[0] for link in LINK.findall(first)]
    assert answer in re.sub(r"\*\*", "", (DOCS / page).read_text(encoding="utf-8")).replace(
        "\n", " "
    )


def test_each_page_answers_before_its_first_heading() -> None:
    for page in PAGES[1:]:
        if page.name == "changelog.md":
            continue
        _, first, *_ = page.read_text(encoding="utf-8").split("\n\n")
        assert not first.startswith(("#", "|", "-")), f"{name_of(page)} does not begin with a text"
