# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdpad.rewards import (
    CountReward,
    DetectionAPReward,
    DetectionF1Reward,
    DetectionIoUReward,
    RejectionReward,
)
from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput, RolloutBatch

CUP_A, CUP_B, PLATE = (0, 0, 10, 10), (20, 0, 30, 10), (0, 20, 10, 30)
TERMS = [DetectionF1Reward(), DetectionIoUReward(), DetectionAPReward(), CountReward(),
         CountReward(exact=True), RejectionReward()]
CUPS = [(CUP_A, 'cup'), (CUP_B, 'cup'), (PLATE, 'plate')]


def make_sample(targets=CUPS, ignored=(), classes=('cup', 'plate', 'hot dog'), **meta):
    """Labels are 4, 9 and 2, as in a larger data set."""
    labels = dict(zip(classes, (4, 9, 2), strict=False))
    sample = DetDataSample(metainfo=dict(
        classes=classes, class_labels=tuple(labels.values()), question='q', **meta))
    sample.model_targets = InstanceData(
        bboxes=torch.tensor([box for box, _ in targets]).reshape(-1, 4).float(),
        labels=torch.tensor([labels[name] for _, name in targets], dtype=torch.long))
    if ignored:
        sample.model_ignored = InstanceData(
            bboxes=torch.tensor([box for box, _, _ in ignored]).float(),
            labels=torch.tensor([labels[name] for _, name, _ in ignored]),
            crowds=torch.tensor([crowd for _, _, crowd in ignored]))
    return sample


def answer(*objects):
    return ReasoningOutput('t', None, tuple(
        AnsweredObject(box, None, label, 'd') for box, label in objects))


def score(sample, *answers, terms=TERMS):
    """The values of each answer, in the order of the terms."""
    rollout = RolloutBatch([sample], [None], len(answers), ['t'] * len(answers), list(answers))
    return torch.stack([term(rollout)[0] for term in terms]).T.tolist()


def test_values_by_hand():
    """F1, IoU, AP, count, exact count, rejection."""
    sample = make_sample()
    found = score(
        sample, answer(*CUPS), answer(CUPS[0]), answer(*CUPS, CUPS[0]), answer(),
        answer(*CUPS, (PLATE, 'hot dog')), answer(*CUPS, (PLATE, 'unicorn')),
        answer((CUP_A, 'plate'), (CUP_B, 'plate'), (PLATE, 'cup')))
    torch.testing.assert_close(torch.tensor(found), torch.tensor([
        [1, 1, 1, 1, 1, 1],
        [2 * 1 / 4, 1 / 3, (1 * 1 / 2 + 0) / 2, 1 / 3, 0, 1],
        [6 / 7, 3 / 4, (2 / 3 + 1) / 2, 3 / 4, 0, 1],
        [0, 0, 0, 0, 0, 0],
        [6 / 7, 3 / 4, 2 / 3, 3 / 4, 0, 1],
        [6 / 7, 3 / 4, 2 / 3, 3 / 4, 0, 1],
        [0, 0, 0, (1 + 1) / (2 + 2), 0, 1]]))


def test_labels_are_compared_without_case_and_underscores():
    sample = make_sample([(CUP_A, 'hot dog')])
    assert score(sample, answer((CUP_A, ' Hot_Dog ')))[0] == [1] * 6


def test_nothing_of_these():
    sample = make_sample([])
    assert score(sample, answer(), answer(CUPS[0]), ParseFailure('no_answer', '')) == [
        [1] * 6, [0] * 6, [0] * 6]


def test_ap_averages_over_the_thresholds_of_coco():
    half = answer((CUP_A[:2] + (10, 7), 'cup'))  # IoU 0.7: matches at 0.5, 0.55, 0.6 and 0.65
    assert score(make_sample([(CUP_A, 'cup')]), half)[0][:3] == pytest.approx([1, 0.7, 0.4])


def test_the_first_mistake_of_a_class_costs_ap_and_each_costs_f1():
    found = score(make_sample(), *(answer(*CUPS, *[(PLATE, label)] * number)
                                   for label in ('hot dog', 'unicorn') for number in (0, 1, 2)),
                  terms=[DetectionAPReward(), DetectionF1Reward()])
    assert found == [[1, 1], pytest.approx([2 / 3, 6 / 7]), pytest.approx([2 / 3, 6 / 8])] * 2


def test_crowds_and_difficult_objects_are_no_mistakes():
    crowd, hard = (40, 40, 100, 100), (60, 0, 70, 10)
    sample = make_sample(CUPS, [(crowd, 'cup', True), (hard, 'plate', False)])
    inside = ((50, 50, 60, 60), 'cup')
    assert score(sample, answer(*CUPS, inside, inside, (hard, 'plate')),
                 answer(*CUPS, (inside[0], 'plate'))) == [
        [1] * 6, pytest.approx([6 / 7, 3 / 4, (1 + 1 / 2) / 2, 3 / 4, 0, 1])]
    only_crowd = make_sample([], [(crowd, 'cup', True)])
    assert score(only_crowd, answer(inside), answer()) == [[1] * 6] * 2


def test_unmatched_boxes_of_a_class_that_is_not_exhaustive_are_no_mistakes():
    sample = make_sample(CUPS, not_exhaustive=(4,))
    more = answer(*CUPS, ((50, 0, 60, 10), 'cup'))
    assert score(sample, more)[0] == [1] * 6
    missed = answer(CUPS[0], ((50, 0, 60, 10), 'cup'), CUPS[2])
    assert score(sample, missed)[0] == pytest.approx([4 / 5, 2 / 3, 3 / 4, 2 / 3, 0, 1])


def test_an_object_without_a_readable_box_is_a_mistake():
    broken = ParseFailure('bad_value', '', objects=(
        *answer(*CUPS).objects, AnsweredObject(None, None, 'cup')))
    assert score(make_sample(), broken)[0] == pytest.approx([6 / 7, 3 / 4, 5 / 6, 3 / 4, 0, 0])


def random_answers(number):
    """Targets apart from each other, and answers about them: moved, repeated, invented."""
    rng = np.random.default_rng(0)
    for _ in range(number):
        targets = [((20 * i, 0, 20 * i + 10, 10), str(rng.choice(['cup', 'plate'])))
                   for i in range(rng.integers(4))]
        ignored = [((200, 0, 260, 60), 'cup', True)] * int(rng.integers(2))
        objects = []
        for _ in range(rng.integers(6)):
            x, y = rng.integers(0, 60), rng.integers(0, 3)
            box = (x, y, x + int(rng.integers(6, 14)), y + int(rng.integers(6, 14)))
            if rng.random() < 0.5 and targets:
                box = targets[rng.integers(len(targets))][0]
            elif rng.random() < 0.3:
                box = (210, 5, 220, 15)
            objects.append((box, str(rng.choice(['cup', 'plate', 'hot dog', 'unicorn']))))
        meta = dict(not_exhaustive=(9,)) if rng.random() < 0.3 else {}
        yield make_sample(targets, ignored, **meta), objects


def test_ranges_order_and_repetition():
    """Values stay in [0, 1] and do not depend on the order. A repeated object raises no term but
    the count, which says so."""
    for sample, objects in random_answers(150):
        own, turned, *repeated = score(sample, answer(*objects), answer(*objects[::-1]),
                                       *(answer(*objects, item) for item in objects))
        assert all(0 <= value <= 1 for value in own)
        assert turned == own
        for more in repeated:
            assert all(new <= old for new, old in zip(more[:3], own[:3], strict=True))


def coco_ap(sample, objects):
    """COCO's AP of one image with the score 1 for each box."""
    truth = COCO()
    boxes, labels = sample.model_targets.bboxes.tolist(), sample.model_targets.labels.tolist()

    def entry(number, box, label):
        x1, y1, x2, y2 = box
        return dict(id=number, image_id=1, category_id=label, bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=(x2 - x1) * (y2 - y1), iscrowd=0, score=1.0)

    truth.dataset = dict(images=[dict(id=1)], categories=[dict(id=i) for i in (2, 4, 9)],
                         annotations=[entry(n, *pair) for n, pair in
                                      enumerate(zip(boxes, labels, strict=True), start=1)])
    truth.createIndex()
    known = dict(zip(sample.classes, sample.class_labels, strict=True))
    results = truth.loadRes([entry(n, box, known[label])
                             for n, (box, label) in enumerate(objects, start=1)])
    evaluation = COCOeval(truth, results, 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def test_ap_against_coco_where_order_does_not_matter(capsys):
    """All boxes right or a class without any: COCO's 101 points give the same to a hundredth. With
    a wrong box, COCO's value depends on the order of the list, and ours lies between."""
    sample = make_sample()
    for objects in (CUPS, CUPS[:1], CUPS[1:]):
        ours, = score(sample, answer(*objects), terms=[DetectionAPReward()])[0]
        assert ours == pytest.approx(coco_ap(sample, objects), abs=0.01)
    wrong = ((50, 0, 60, 10), 'cup')
    ours, = score(sample, answer(*CUPS, wrong), terms=[DetectionAPReward()])[0]
    last, first = coco_ap(sample, [*CUPS, wrong]), coco_ap(sample, [wrong, *CUPS])
    assert last == pytest.approx(1) and first == pytest.approx(5 / 6, abs=0.01)
    assert ours == pytest.approx((2 / 3 + 1) / 2)


def test_a_class_without_targets_costs_nothing_in_coco_but_here(capsys):
    objects = [*CUPS, (PLATE, 'hot dog')]
    assert coco_ap(make_sample(), objects) == pytest.approx(1)
    assert score(make_sample(), answer(*objects), terms=[DetectionAPReward()])[0] == [
        pytest.approx(2 / 3)]


def test_many_boxes_are_scored():
    """As many as a parser may be told to read."""
    boxes = [((i % 100 * 3, i // 100 * 3, i % 100 * 3 + 2, i // 100 * 3 + 2), 'cup')
             for i in range(10_000)]
    assert score(make_sample(), answer(*boxes), terms=TERMS[:2]) == [
        [pytest.approx(0), pytest.approx(0)]]


def test_targets_without_labels_are_refused():
    sample = DetDataSample(metainfo=dict(question='the cup'))
    sample.model_targets = InstanceData(bboxes=torch.zeros(0, 4))
    with pytest.raises(ValueError, match="labels of the targets, which the question 'the cup'"):
        score(sample, answer())


@pytest.mark.parametrize('threshold', [-0.1, 1])
def test_a_threshold_out_of_range_is_refused(threshold):
    for term in (DetectionF1Reward, CountReward):
        with pytest.raises(ValueError, match=r'`threshold` should be an IoU in \[0, 1\)'):
            term(threshold=threshold)
    with pytest.raises(ValueError, match='`threshold` should be'):
        DetectionAPReward(thresholds=(0.5, threshold))
    with pytest.raises(ValueError, match='at least one'):
        DetectionAPReward(thresholds=())
