"""Which method points at the object? The table of the pointing game, for every method.

Without a download, on handwritten digits over clutter, of which none is in the centre of its
picture::

    python examples/pointing_game.py

On folders of PASCAL VOC 2007 or COCO 2014, which is the published benchmark and takes a GPU; the
fine-tuned weights are downloaded::

    python examples/pointing_game.py --voc ~/data --model resnet50
    python examples/pointing_game.py --coco ~/data/coco

If it is stopped, it goes on where it was. ``lightning-saliency benchmark --help`` shows the same as
a command, with more settings.
"""

import argparse
from pathlib import Path

from lightning_saliency.benchmark import (
    METHODS,
    COCOPointing,
    DigitsPointing,
    PointingData,
    VOCPointing,
    load_pointing_model,
    pointing_figure,
)
from lightning_saliency.evaluation import run_pointing_game


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voc", type=Path, help="folder that holds VOCdevkit")
    parser.add_argument("--coco", type=Path, help="folder that holds val2014 and annotations")
    parser.add_argument("--model", default="vgg16", choices=["vgg16", "resnet50"])
    parser.add_argument("--weights", type=Path, help="a state_dict of your own for that model")
    parser.add_argument("--pictures", type=int, help="only so many (default: 50 digits, or all)")
    parser.add_argument("--output", type=Path, default=Path("pointing_game"))
    options = parser.parse_args()

    data: PointingData
    if options.voc:
        data = VOCPointing(options.voc)
    elif options.coco:
        data = COCOPointing(options.coco)
    else:
        data = DigitsPointing(options.pictures or 50, off_center=True)
    # The example network knows the digits.
    name = options.model if options.voc or options.coco else "example"
    model = load_pointing_model(name, data.name, len(data.class_names), options.weights)

    file = options.output / f"{data.name}_{name}.sqlite"
    report = run_pointing_game(METHODS, model, data, file, limit=options.pictures)
    print(f"\n{report.markdown()}")
    picture = file.with_suffix(".png")
    pointing_figure(report).savefig(picture, dpi=150)
    print(f"Written to {file} and {picture}.")


if __name__ == "__main__":
    main()
