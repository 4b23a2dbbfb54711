# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import contextlib
import io

import numpy as np
import pytest
from mmdet.datasets.api_wrappers import COCO, COCOeval

from mmdpad.analysis.average_precision import AveragePrecision


def make_file(images, targets) -> COCO:
    """A file of images by id and targets (image, category, x1, y1, x2, y2, whether a crowd)."""
    file = COCO()
    file.dataset = dict(
        images=[dict(id=number, width=100, height=100) for number in images],
        categories=[dict(id=number, name=str(number)) for number in (1, 2, 3)],
        annotations=[dict(id=i, image_id=image, category_id=category, iscrowd=int(any(crowd)),
                          bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1))
                     for i, (image, category, x1, y1, x2, y2, *crowd) in enumerate(
                         targets, start=1)])
    with contextlib.redirect_stdout(io.StringIO()):
        file.createIndex()
    return file


def quietly(call, *args):
    with contextlib.redirect_stdout(io.StringIO()):
        return call(*args)


def random_data(seed: int, images=range(12)):
    """Targets of two classes (a third has none), and boxes near them or not, in mixed order."""
    rng = np.random.default_rng(seed)
    targets, found = [], []
    for image in images:
        boxes, scores, categories = [], [], []
        for _ in range(rng.integers(4)):
            x, y, side = rng.uniform(0, 70), rng.uniform(0, 70), rng.uniform(8, 30)
            category = int(rng.integers(1, 3))
            targets.append((image, category, x, y, x + side, y + side, rng.random() < 0.2))
            for _ in range(rng.integers(3)):
                boxes.append((np.array(targets[-1][2:6]) + rng.normal(0, 2, 4)).tolist())
                scores.append(float(rng.choice([0.2, 0.5, 0.9])))
                categories.append(category if rng.random() < 0.8 else 3 - category)
        found.append(dict(image_id=image, boxes=boxes, scores=scores, categories=categories))
    order = rng.permutation(len(found))
    return targets, [found[i] for i in order]


@pytest.mark.parametrize('seed', range(4))
def test_every_image_once_gives_cocos_own_numbers(seed):
    targets, found = random_data(seed)
    file = make_file(range(12), targets)
    ours = quietly(AveragePrecision, file, found)
    lines = [dict(image_id=entry['image_id'], category_id=category, score=score,
                  bbox=[x1, y1, x2 - x1, y2 - y1]) for entry in found
             for (x1, y1, x2, y2), score, category in zip(*(
                 entry[key] for key in ('boxes', 'scores', 'categories')), strict=True)]
    theirs = COCOeval(file, quietly(file.loadRes, lines), 'bbox')
    for call in (theirs.evaluate, theirs.accumulate, theirs.summarize):
        quietly(call)
    once = np.ones((1, 12))
    assert ours(once)[0] == pytest.approx(100 * theirs.stats[0], abs=1e-9)
    assert ours(once, 0)[0] == pytest.approx(100 * theirs.stats[1], abs=1e-9)
    assert ours(once, 5)[0] == pytest.approx(100 * theirs.stats[2], abs=1e-9)


def test_weights_follow_the_order_of_the_images_given_and_copies_count():
    targets = [(7, 1, 0, 0, 10, 10), (3, 1, 0, 0, 10, 10)]
    found = [dict(image_id=7, boxes=[[0, 0, 10, 10]], scores=[0.5], categories=[1]),
             dict(image_id=3, boxes=[[50, 50, 60, 60]], scores=[0.9], categories=[1])]
    ours = quietly(AveragePrecision, make_file((3, 7), targets), found)
    values = ours(np.array([[1, 0], [0, 1], [1, 1], [3, 1], [0, 0]], float))
    # The wrong box of image 3 comes first: precision 1/2 up to recall 1/2, 3/4 up to 3/4.
    assert values[:2].tolist() == [100, 0] and np.isnan(values[4])
    assert values[2] == pytest.approx(100 * 0.5 * 51 / 101)
    assert values[3] == pytest.approx(100 * 0.75 * 76 / 101)
