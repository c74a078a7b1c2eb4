from collections import OrderedDict, namedtuple
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError, ModelError
from lightning_saliency.network.score import (
    all_class_scores,
    class_logits,
    class_scores,
    probability_function,
    target_classes,
)

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 4.0, 3.0]])
Named = namedtuple("Named", ["logits", "aux_logits"])
# Over two places: the mean is the logits above.
MAPS = torch.stack([LOGITS + 1, LOGITS - 1], dim=2)[..., None]

OUTPUTS: dict[str, Any] = {
    "tensor": LOGITS,
    "score maps": MAPS,
    "tuple": (LOGITS, "more"),
    "list": [LOGITS, None],
    "nested tuple": ((LOGITS, 1), 2),
    "object": SimpleNamespace(logits=LOGITS, loss=None),
    "named tuple": Named(LOGITS, LOGITS + 1),
    "dictionary": {"loss": torch.tensor(1.0), "logits": LOGITS},
    "segmentation": OrderedDict(out=MAPS, aux=MAPS + 1),
    "tuple of a dictionary": ({"logits": LOGITS},),
}


@pytest.mark.parametrize("form", OUTPUTS)
def test_logits_are_found(form: str) -> None:
    assert torch.equal(class_logits(OUTPUTS[form]), LOGITS)
    assert class_logits(OUTPUTS[form]).argmax(1).tolist() == [0, 1]
    assert class_scores(OUTPUTS[form], [1, 2]).tolist() == [-2, 3]


UNIT = torch.tensor([0.4, -3.0])


@pytest.mark.parametrize(
    "output", [UNIT, UNIT[:, None], UNIT[:, None, None, None].expand(2, 1, 3, 4)], ids=str
)
def test_one_unit_is_two_classes(output: Tensor) -> None:
    logits = class_logits(output)
    assert logits.shape == (2, 2)
    torch.testing.assert_close(logits.softmax(1)[:, 1], UNIT.sigmoid())
    torch.testing.assert_close(class_scores(output, 1), UNIT)
    torch.testing.assert_close(class_scores(output, 0), -UNIT)
    assert class_logits(output).argmax(1).tolist() == [1, 0]


def test_gradient_of_one_unit_is_that_of_what_it_puts_out() -> None:
    unit = UNIT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(class_scores(unit, [1, 0]).sum(), unit)
    assert gradient.tolist() == [1, -1]


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("logit", LOGITS),
        ("probability", LOGITS.softmax(1)),
        ("log_probability", LOGITS.log_softmax(1)),
        ("sigmoid", LOGITS.sigmoid()),
    ],
)
def test_kinds_of_scores(kind: Any, wanted: Tensor) -> None:
    torch.testing.assert_close(all_class_scores(LOGITS, kind), wanted)


def test_kinds_of_scores_of_one_unit() -> None:
    torch.testing.assert_close(all_class_scores(UNIT)[:, 1], UNIT)
    torch.testing.assert_close(all_class_scores(UNIT, "probability")[:, 1], UNIT.sigmoid())
    torch.testing.assert_close(all_class_scores(UNIT, "sigmoid")[:, 1], UNIT.sigmoid())


def test_probabilities_are_computed_in_float32_at_least() -> None:
    assert all_class_scores(LOGITS.bfloat16(), "probability").dtype == torch.float32
    assert all_class_scores(LOGITS.bfloat16()).dtype == torch.bfloat16
    assert all_class_scores(LOGITS.double(), "probability").dtype == torch.float64


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (None, "NoneType"),
        ("cat", "str"),
        ((), "tuple"),
        ({"loss": LOGITS}, r"dict with the keys \['loss'\]"),
        (SimpleNamespace(logits=None), "NoneType"),
        (LOGITS.argmax(1), "Tensor"),
        (LOGITS.sum(), "Tensor"),
    ],
)
def test_no_logits(output: object, words: str) -> None:
    with pytest.raises(ModelError, match=f"to return logits.*it returned {words}"):
        class_logits(output)


@pytest.mark.parametrize(
    ("squeezed", "wanted"),
    [(torch.tensor([1.0, 3.0]), [1.0, 3.0]), (torch.tensor(4.0), [-4.0, 4.0])],
)
def test_what_squeeze_leaves_of_one_image(squeezed: Tensor, wanted: list[float]) -> None:
    assert all_class_scores(squeezed, count=1).tolist() == [wanted]
    assert float(class_scores(squeezed, 1, 1)) == wanted[1]


def test_number_of_rows_is_checked() -> None:
    assert class_logits(LOGITS, 2) is LOGITS
    for call in (class_logits, predicted_classes_of, all_scores_of, scores_of):
        with pytest.raises(ModelError, match=r"each of 3 images.*returned 2.*\(2, 3\)"):
            call(LOGITS, 3)


def predicted_classes_of(output: Tensor, count: int) -> Tensor:
    return class_scores(output, "predicted", count)


def all_scores_of(output: Tensor, count: int) -> Tensor:
    return all_class_scores(output, count=count)


def scores_of(output: Tensor, count: int) -> Tensor:
    return class_scores(output, 1, count)


# --- targets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        (2, [2, 2]),
        (np.int64(2), [2, 2]),
        (torch.tensor(2), [2, 2]),
        ([0, 2], [0, 2]),
        ((0, 2), [0, 2]),
        (range(1, 3), [1, 2]),
        (np.array([0, 2]), [0, 2]),
        (torch.tensor([0, 2]), [0, 2]),
        (torch.tensor([0, 2], dtype=torch.uint8), [0, 2]),
        (torch.tensor([0, 2], dtype=torch.int32), [0, 2]),
        ([torch.tensor(0), torch.tensor(2)], [0, 2]),
        ("predicted", [0, 1]),
    ],
    ids=str,
)
def test_target_classes(target: Any, wanted: list[int]) -> None:
    classes = target_classes(LOGITS, target)
    assert classes.tolist() == wanted
    assert classes.dtype == torch.int64


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (3, "from 0 to 2, because the model has 3 classes, got 3"),
        (-1, "from 0 to 2.*got -1"),
        ([0, 1, 2], r"each of the 2 images, got targets of shape \(3,\)"),
        ([[0], [1]], r"shape \(2, 1\)"),
        ([0.0, 1.0], "integers.*float32.*argmax"),
        (True, "got True"),
        (None, "got None"),
        ([True, False], "torch.bool"),
        ("label", "'predicted' as target, got 'label'"),
        (["a", "b"], "integers.*'a'"),
        ({"a": 1}, "integers"),
        (torch.tensor([1j, 0]), "complex"),
    ],
    ids=str,
)
def test_bad_targets(target: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        target_classes(LOGITS, target)


def test_callable_target_gets_what_the_model_returned() -> None:
    output = {"anything": LOGITS}
    scores = class_scores(output, lambda out: out["anything"][:, 1] ** 2)
    assert scores.tolist() == [4, 16]


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (LOGITS, r"\(2,\), but it returned \(2, 3\)"),
        (LOGITS.sum(), r"\(2,\), but it returned \(\)"),
        (LOGITS[:1, 0], r"\(2,\), but it returned \(1,\)"),
        (1.0, "returned float"),
        (None, "returned NoneType"),
    ],
)
def test_callable_that_does_not_return_scores(returned: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        class_scores(LOGITS, lambda _: returned)


def test_count_of_scores_is_checked_where_the_output_has_no_logits() -> None:
    with pytest.raises(InputError, match=r"shape \(N,\)"):
        class_scores("text", lambda _: LOGITS)
    with pytest.raises(InputError, match=r"shape \(3,\), but it returned \(2,\)"):
        class_scores("text", lambda _: UNIT, 3)


@pytest.mark.parametrize("output", [MAPS[..., 0], {"logits": MAPS[..., 0]}], ids=["plain", "dict"])
def test_sequences_are_refused_and_what_the_message_says_works(output: Any) -> None:
    with pytest.raises(ModelError, match=r"\(2, 3, 2\).*not clear.*output\[\.\.\., 3\]\.amax"):
        class_logits(output)
    by_place = torch.randn(2, 7, 5)
    scores = class_scores(by_place, lambda output: output[..., 3].amax(1))
    assert torch.equal(scores, by_place[:, :, 3].amax(1))
    assert torch.equal(class_logits(by_place.mean(1)), by_place.mean(1))


@pytest.mark.parametrize(
    "output",
    [
        (torch.zeros(2, 512), LOGITS),
        [LOGITS, torch.zeros(2, 512)],
        (torch.zeros(2, 4, 8, 8), LOGITS),
    ],
    ids=["features, logits", "logits, features", "masks, labels"],
)
def test_tuples_of_which_several_may_be_logits_are_refused(output: Any) -> None:
    with pytest.raises(ModelError, match=r"not clear which.*output\[1\]\[:, 3\].*\(images\)\[1\]"):
        class_logits(output)
    assert class_scores(output, lambda output: output[1][:, 2]).shape == (2,)


def test_tuples_with_other_things_are_not() -> None:
    for more in ([LOGITS + 1], [torch.zeros(2, 8, 7, 7)], [None, "x"], [torch.zeros(9, 4)]):
        assert class_logits((LOGITS, *more)) is LOGITS


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda x: x.softmax(1), "softmax"),
        (lambda x: x.log_softmax(1).exp(), "softmax"),
        (lambda x: (x.softmax(1), "more"), "softmax"),
        (lambda x: {"logits": x[..., None, None].softmax(1)}, "softmax"),
        (lambda x: x.sigmoid(), "sigmoid"),
        (lambda x: x[:, 0].sigmoid(), "sigmoid"),
        (lambda x: x.sigmoid()[:, :1].squeeze(1), "sigmoid"),
        (lambda x: F.hardsigmoid(x[:, :1]), "sigmoid"),
        (lambda x: x, None),
        (lambda x: x[:, 0] * 0 + 0.4, None),
        (lambda x: x.sigmoid() * 3, None),
        (lambda x: "text", None),
    ],
)
def test_probabilities_are_recognized(make: Any, word: str | None) -> None:
    output = make(LOGITS.clone().requires_grad_())
    assert probability_function(output) == word
