"""What is done to a batch: by functions, Keras' layers and albumentations; the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from made import Made, Seen, numbered, pictures

from keras_tl.datasets import Array, Boxes, Image, Label

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

FLIP = keras.layers.RandomFlip("horizontal", seed=1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_TL_CACHE", str(tmp_path))


def every(batches: Any) -> list[Any]:
    return [keras.tree.map_structure(np.copy, batch) for batch in batches]


def assert_same(found: Any, wanted: Any) -> None:
    def same(one: np.ndarray, other: np.ndarray) -> None:
        assert len(one) == len(other)
        for row, wanted_row in zip(one, other, strict=True):
            np.testing.assert_array_equal(row, wanted_row)

    keras.tree.map_structure(same, found, wanted)


def detection(**options: Any) -> Any:
    names = ["image", "mask", "boxes", "classes"]
    return Seen(pictures(9)).batches(4, x=names, **options)


def check_together(batches: list[Any], size: int) -> int:
    """Image, mask and boxes were changed alike; how many samples were."""
    changed = 0
    before = pictures(9).columns
    number = 0
    for x, _ in batches:
        for image, mask, boxes, classes in zip(*x.values(), strict=True):
            np.testing.assert_array_equal(np.asarray(image)[..., 0].astype(int), mask)
            assert len(boxes) == len(classes) and boxes.dtype == np.float32
            own, all_classes = before["boxes"][number], before["classes"][number].tolist()
            for box, name in zip(boxes, classes.tolist(), strict=True):
                x1, y1, x2, y2 = own[all_classes.index(name)]
                # In each mask the pixels say where they were: column in the last three bits.
                inside = mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])]
                assert inside.min() % 8 >= x1 and inside.max() % 8 <= x2
                assert inside.min() // 8 >= y1 and inside.max() // 8 <= y2
            changed += mask.shape != (8, 8) or mask[0, 0] != 0
            number += 1
    return changed


# Functions.


def test_a_function_gets_what_is_read_and_says_what_is_trained() -> None:
    seen = Seen(numbered(20))

    def both(columns: dict[str, Any]) -> dict[str, Any]:
        assert sorted(columns) == ["x", "y"]
        return {"x": columns["x"] + 1, "y": columns["y"], "pair": columns["x"][:, :2]}

    x, y = seen.batches(4, map=both)[1]
    assert x[:, 0].tolist() == [5, 6, 7, 8] and y.tolist() == [1, 2, 0, 1]
    x, y = seen.batches(4, map=both, x="pair")[1]
    assert x.shape == (4, 2)
    with pytest.raises(ValueError, match="`map` must return all that .* without 'missing'"):
        seen.batches(4, map=both, x="missing")[0]
    with pytest.raises(ValueError, match="`map` must return a dict. Received: list"):
        seen.batches(4, map=lambda columns: [])[0]


def test_random_numbers_are_those_of_the_batch() -> None:
    seen = Seen(numbered(60))

    def noisy(columns: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return {**columns, "x": columns["x"] + rng.random(columns["x"].shape)}

    batches = seen.batches(8, shuffle=True, map=noisy, prefetch=2)
    first, second = every(batches), every(batches)
    assert not np.array_equal(first[0][0] % 1, second[0][0] % 1)
    again = seen.batches(8, shuffle=True, map=noisy, prefetch=0, cache=None)
    for i in (3, 0, 7):
        assert_same(again[i], first[i])
    again.set_state({**again.get_state(), "epoch": 1})
    assert_same(every(again), second)
    other = every(seen.batches(8, shuffle=True, map=noisy, seed=1))
    assert not np.array_equal(np.sort(other[0][0] % 1), np.sort(first[0][0] % 1))


# Keras' layers.


def test_a_layer_for_images_takes_masks_and_boxes_along() -> None:
    flip = keras.layers.RandomFlip("horizontal", seed=1, bounding_box_format="xyxy")
    batches = detection(map=flip)
    first = every(batches)
    assert 0 < check_together(first, 8) < 9
    second = every(batches)
    assert check_together(second, 8)
    masks = [np.concatenate([x["mask"] for x, _ in found]) for found in (first, second)]
    assert not np.array_equal(*masks)
    again = detection(map=flip, prefetch=0, cache=None)
    for i in (2, 0, 1):
        assert_same(again[i], first[i])


def test_boxes_that_are_lost_take_their_classes_along() -> None:
    dataset = Made(
        {"image": Image(8, 8, 1), "boxes": Boxes(), "classes": Array((None,), "int64")}, 4
    )
    boxes = np.array([[0, 0, 3, 3], [5, 5, 8, 8]], "float32")
    dataset.insert(
        {
            "image": np.zeros((3, 8, 8, 1), np.uint8),
            "boxes": [boxes, boxes[:0], boxes[1:]],
            "classes": [np.array([7, 8]), np.array([], int), np.array([9])],
        }
    )
    crop = keras.layers.CenterCrop(2, 2, bounding_box_format="xyxy")
    (x,) = Seen(dataset).batches(4, map=crop)[0]
    assert x["image"].shape == (3, 2, 2, 1)
    assert [len(value) for value in x["boxes"]] == [len(value) for value in x["classes"]]


def test_a_pipeline_mixes_layers_for_images_and_others() -> None:
    pipeline = keras.layers.Pipeline(
        [
            keras.layers.RandomFlip("vertical", seed=2, bounding_box_format="xyxy"),
            keras.layers.Rescaling(2.0),
        ]
    )
    for x, _ in detection(map=pipeline):
        np.testing.assert_array_equal(x["image"][..., 0] / 2, x["mask"])


def test_a_layer_for_numbers_gets_the_one_field() -> None:
    layer = keras.layers.Normalization(mean=2.0, variance=4.0)
    x, y = Seen(numbered(20)).batches(4, map=layer)[1]
    assert isinstance(x, np.ndarray)
    np.testing.assert_allclose(x[:, 0], [1, 1.5, 2, 2.5], rtol=1e-5)
    assert y.tolist() == [1, 2, 0, 1]


@pytest.mark.filterwarnings("ignore:.*Explicitly requested dtype int64:UserWarning")  # MixUp's own
def test_mixed_images_have_mixed_classes() -> None:
    dataset = Made({"image": Image(4, 4, 1), "y": Label(3)}, 8)
    values = np.array([0, 100, 200] * 4)
    images = np.ones((12, 4, 4, 1)) * values[:, None, None, None]
    dataset.insert({"image": images.astype(np.uint8), "y": [0, 1, 2] * 4})
    x, y = Seen(dataset).batches(12, map=keras.layers.MixUp(alpha=0.5, seed=1))[0]
    assert y.shape == (12, 3)
    np.testing.assert_allclose(y.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(x[:, 0, 0, 0], y @ [0, 100, 200], rtol=1e-4, atol=1e-3)
    dataset.schema.fields["y"].num_classes = None  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="`map` by MixUp or CutMix needs one `Label"):
        Seen(dataset).batches(12, map=keras.layers.MixUp(seed=1))[0]


@pytest.mark.filterwarnings("ignore:.*Explicitly requested dtype int64:UserWarning")
def test_a_missing_label_is_not_mixed() -> None:
    dataset = Made({"image": Image(4, 4, 1), "y": Label(3)}, 8)
    dataset.insert({"image": np.zeros((4, 4, 4, 1), np.uint8), "y": [0, -1, 1, -1]})
    for y in (None, ()):
        with pytest.raises(ValueError, match=r"`y`.* `where\(y__exists=True\)`.* 2 (of|samples)"):
            Seen(dataset).batches(4, y=y, map=keras.layers.MixUp(seed=1))[0]


def test_fit_trains_on_what_a_layer_makes() -> None:
    dataset = Made({"image": Image(4, 4, 1), "y": Label(3)}, 8)
    dataset.insert({"image": np.zeros((20, 4, 4, 1), np.uint8), "y": [0] * 20})
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    layer = keras.layers.RandomBrightness(0.5, seed=1)
    history = model.fit(Seen(dataset).batches(8, map=layer), epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_what_layers_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match="must take boxes as `boxes` has them: 'xyxy'"):
        detection(map=keras.layers.RandomFlip(bounding_box_format="xywh"))
    two = Made({"a": Image(4, 4), "b": Image(4, 4)})
    two.insert({"a": np.zeros((3, 4, 4, 3), np.uint8), "b": np.zeros((3, 4, 4, 3), np.uint8)})
    with pytest.raises(ValueError, match=r"needs one image a sample; .* \['a', 'b'\]"):
        Seen(two).batches(2, map=FLIP)[0]
    with pytest.raises(ValueError, match="needs one field that is no label"):
        Seen(two).batches(2, map=keras.layers.Normalization(mean=0.0, variance=1.0))[0]
    varying = Made({"a": Image(None, 4)})
    varying.insert({"a": [np.zeros((n, 4, 3), np.uint8) for n in (2, 3)]})
    with pytest.raises(ValueError, match="needs images of one size"):
        Seen(varying).batches(2, map=FLIP)[0]


# albumentations.


@pytest.fixture
def albumentations(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # no request to its authors
    return pytest.importorskip("albumentations", exc_type=ImportError)


def test_albumentations_change_image_mask_and_boxes(albumentations: Any) -> None:
    a = albumentations
    compose = a.Compose(
        [a.HorizontalFlip(p=0.5), a.RandomCrop(5, 5, p=0.5)],
        bbox_params=a.BboxParams(format="pascal_voc"),
    )
    batches = detection(map=compose)
    first, second = every(batches), every(batches)
    assert check_together(first, 8) and check_together(second, 8)
    again = detection(map=compose, prefetch=0, cache=None)
    for i in (2, 0, 1):
        assert_same(again[i], first[i])


def test_what_a_sample_gets_depends_on_no_batch(albumentations: Any) -> None:
    compose = albumentations.RandomBrightnessContrast(p=1.0)
    dataset = Made({"image": Image(4, 4, 3), "y": Label(3)}, 8)
    dataset.insert({"image": np.full((20, 4, 4, 3), 100, np.uint8), "y": [0] * 20})
    seen = Seen(dataset)
    large = np.concatenate([x for x, _ in seen.batches(16, map=compose)])
    small = np.concatenate([x for x, _ in seen.batches(3, map=compose)])
    np.testing.assert_array_equal(large, small)
    assert len(np.unique(large[:, 0, 0, 0])) > 5


def test_albumentations_decode_files(albumentations: Any) -> None:
    from keras_tl.datasets.look import pictures as files

    dataset = Made({"image": Image(6, 6, 3, encoded="png"), "y": Label(3)}, 8)
    dataset.insert(
        {"image": [files.png(np.full((6, 6, 3), n, np.uint8)) for n in range(5)], "y": [0] * 5}
    )
    pytest.importorskip("PIL")
    (x, _) = Seen(dataset).batches(5, map=albumentations.CenterCrop(4, 4))[0]
    assert x.shape == (5, 4, 4, 3) and x[:, 0, 0, 0].tolist() == list(range(5))
    crop = keras.layers.CenterCrop(4, 4)
    (x, _) = Seen(dataset).batches(5, map=crop)[0]
    assert x.shape == (5, 4, 4, 3) and x[:, 0, 0, 0].tolist() == list(range(5))


def test_what_albumentations_cannot_take_is_refused(albumentations: Any) -> None:
    a = albumentations
    with pytest.raises(ValueError, match="must take the boxes `boxes`: give the Compose"):
        detection(map=a.HorizontalFlip())[0]
    with pytest.raises(ValueError, match="bbox_params must take boxes as `boxes` has them"):
        detection(map=a.Compose([a.NoOp()], bbox_params=a.BboxParams(format="coco")))
    with pytest.raises(ValueError, match="must have no `label_fields`"):
        params = a.BboxParams(format="pascal_voc", label_fields=["classes"])
        detection(map=a.Compose([a.NoOp()], bbox_params=params))
