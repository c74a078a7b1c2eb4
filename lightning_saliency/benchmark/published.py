"""Published pointing accuracies, for comparison."""

SOURCE = (
    "Fong, Patrick, Vedaldi. Understanding deep networks via extremal perturbations and smooth "
    "masks. ICCV 2019, arXiv:1910.08485; figures as given in TorchRay's documentation "
    "(docs/pointing.csv, 6a198ee)"
)
"""Where the figures are from. The file names the datasets and models; that the first figure of a
pair is for all objects and the second for the difficult subset follows from the program."""

_COLUMNS = (
    ("voc_2007_test", "vgg16"),
    ("voc_2007_test", "resnet50"),
    ("coco_val2014", "vgg16"),
    ("coco_val2014", "resnet50"),
)
_ROWS: dict[str, tuple[tuple[float, float], ...]] = {
    "center": ((69.6, 42.4), (69.6, 42.4), (27.8, 19.5), (27.8, 19.5)),
    "gradient": ((76.3, 56.9), (72.3, 56.8), (37.7, 31.4), (35.0, 29.4)),
    "deconvnet": ((67.5, 44.2), (68.6, 44.7), (30.7, 23.0), (30.0, 21.9)),
    "guided_backprop": ((75.9, 53.0), (77.2, 59.4), (39.1, 31.4), (42.1, 35.3)),
    "excitation_backprop": ((77.1, 56.6), (84.5, 70.8), (39.8, 32.8), (49.6, 43.9)),
    "contrastive_excitation_backprop": ((79.9, 66.5), (90.7, 82.1), (49.7, 44.3), (58.5, 53.6)),
    "rise": ((86.9, 75.1), (86.4, 78.8), (50.8, 45.3), (54.7, 50.0)),
    "grad_cam": ((86.6, 74.0), (90.4, 82.3), (54.2, 49.0), (57.3, 52.3)),
    "extremal_perturbation": ((88.0, 76.1), (88.9, 78.7), (51.5, 45.9), (56.5, 51.5)),
}

PUBLISHED: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    column: {method: row[place] for method, row in _ROWS.items()}
    for place, column in enumerate(_COLUMNS)
}
"""In per cent, mean over the classes: by dataset and model, then by method, for all objects and for
the difficult subset."""
