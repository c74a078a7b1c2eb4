"""Run by ``make dist`` in an empty environment: is what was built what is needed?

It explains one image with the installed package, and looks into the files.
"""

import argparse
import importlib.metadata
import re
import sys
import tarfile
import zipfile
from pathlib import Path

NEEDED = ("LICENSE", "Makefile", "README.md", "mkdocs.yml", "docs/methods.png", "tests/conftest.py")


def explain_one_image() -> None:
    import lightning_saliency
    from lightning_saliency.attribution import GradCAM
    from lightning_saliency.benchmark import get_example_data

    assert Path(lightning_saliency.__file__).is_relative_to(sys.prefix), lightning_saliency.__file__
    assert lightning_saliency.__version__ == importlib.metadata.version("lightning-saliency")
    model, image, first, _ = get_example_data()
    saliency = GradCAM()(model, image, first)
    assert saliency.shape == (1, 1, *image.shape[2:]), saliency.shape
    assert float(saliency.amax()) > 0
    print(f"Version {lightning_saliency.__version__}: one image explained, {tuple(saliency.shape)}")


def look_into(folder: Path) -> None:
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        foreign = [
            name for name in names if not re.match(r"lightning_saliency(-[^/]+\.dist-info)?/", name)
        ]
        assert not foreign, foreign
        for part in ("py.typed", "callbacks/named.pyi", "benchmark/example_network.pt"):
            assert f"lightning_saliency/{part}" in names, part
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
        assert any(name.endswith("/licenses/LICENSE") for name in names)
    _, _, description = text.partition("\n\n")
    links = re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```", "", description, flags=re.DOTALL))
    dead = [link for link in links if not link.startswith("https://")]
    assert not dead, f"links and pictures that lead nowhere on PyPI: {dead}"
    with tarfile.open(sdist) as packed:
        inside = {name.partition("/")[2] for name in packed.getnames()}
    missing = [name for name in NEEDED if name not in inside]
    assert not missing, missing
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in (wheel, sdist))
    print(f"{sizes}: all there, no dead links")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with the wheel and the sdist")
    options = parser.parse_args()
    look_into(options.folder)
    explain_one_image()
