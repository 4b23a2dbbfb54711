# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Questions about classes, from mmdet's data sets as they read their published formats."""
from __future__ import annotations

import json
import re
import runpy
from collections import Counter
from pathlib import Path

import pytest
import torch
from mmengine.structures import InstanceData

from mmdpad.datasets import DatasetError, class_annotations
from mmdpad.evaluation.metrics.detection_metric import score_detections
from mmdpad.geometry.masks import decode_mask
from mmdpad.registry import DATASETS, TRANSFORMS
from mmdpad.structures import ReasoningOutput

FILES = runpy.run_path(str(Path(__file__).parents[1] / 'mmdet_files.py'))
FIRST, SECOND, OTHER, CROWD = (FILES[name] for name in ('FIRST', 'SECOND', 'OTHER', 'CROWD'))
SIZE = 80, 64  # twice the image's
STEPS = [dict(type='LoadReasoningImage'), dict(type='ModelImageResize', size=SIZE),
         dict(type='TargetsFromBoxes'), dict(type='PackReasoningInputs')]
NAMES = ('person', 'dog', 'Wine_Glass', 'hot dog', 'kite')


def build(source, pipeline=STEPS, data=None, **ask):
    return DATASETS.build(dict(
        type='QuestionDataset', source=source, pipeline=pipeline, several_objects=True,
        task='detection', questions=dict(type='QuestionFromClasses', **ask), **data or {}))


def coco(folder, names=NAMES, kind='CocoDataset', change=None, **more):
    """The arguments of a data set in COCO's form: two persons, a dog, a crowd of persons, and a dog
    whose mask mmdet cannot read. ``change`` may alter the content of the file."""
    path = folder / FILES['write_coco'](folder)
    content = json.loads(path.read_text())
    content['categories'] = [dict(id=i, name=name) for i, name in enumerate(names, start=1)]
    if change:
        change(content)
    path.write_text(json.dumps(content))
    return dict(type=kind, data_root=str(folder), ann_file='coco.json',
                data_prefix=dict(img='images/'), metainfo=dict(classes=names), **more)


def asked(dataset):
    return [dataset[i]['data_samples'] for i in range(len(dataset))]


def test_everything_is_asked_in_chunks(tmp_path):
    built = build(coco(tmp_path), negatives='all', max_classes=2)
    samples = asked(built)
    assert [(s.question, s.classes, s.class_labels) for s in samples] == [
        ('person, dog', ('person', 'dog'), (0, 1)),
        ('wine glass, hot dog', ('Wine Glass', 'hot dog'), (2, 3)), ('kite', ('kite', ), (4, ))]
    assert built.metainfo['classes'] == NAMES
    assert {s.task for s in samples} == {'detection'}
    assert [len(s.model_targets) for s in samples] == [4, 0, 0]


def test_targets_have_labels_and_outer_edges(tmp_path):
    sample = asked(build(coco(tmp_path), negatives='all'))[0]
    targets = sample.model_targets
    assert targets.bboxes.tolist() == [
        [2 * x for x in box] for box in (FIRST, SECOND, OTHER, (0, 0, 3, 3))]
    assert targets.labels.tolist() == [0, 0, 1, 1] and targets.labels.dtype == torch.long
    assert targets.points[0].tolist() == [[14, 16]] and targets.outer_edges
    ignored = sample.model_ignored
    assert ignored.bboxes.tolist() == [[2 * x for x in CROWD]]
    assert ignored.labels.tolist() == [0] and ignored.crowds.tolist() == [True]
    assert [(i['bbox'], i['bbox_label'], i['ignore_flag']) for i in sample.instances] == [
        (list(FIRST), 0, 0), (list(SECOND), 0, 0), (list(OTHER), 1, 0), (list(CROWD), 0, 1),
        ([0, 0, 3, 3], 1, 0)]


def with_masks(folder, **changes):
    """The first question about COCO's objects with masks; ``changes`` are of their targets."""
    steps = [STEPS[0], dict(type='LoadInstanceMasks'), STEPS[1],
             dict(type='TargetsFromMask', **changes), STEPS[3]]

    def drop(content):
        del content['annotations'][4]  # without a polygon

    return asked(build(coco(folder, change=drop), steps, negatives='all'))[0]


@pytest.mark.parametrize('whole_pixels', [True, False])
def test_masks_have_the_targets_of_boxes(tmp_path, whole_pixels):
    sample = with_masks(tmp_path, whole_pixels=whole_pixels)
    targets, ignored = sample.model_targets, sample.model_ignored
    assert sample.gt_instances.labels.tolist() == targets.labels.tolist() == [0, 0, 1]
    boxes = [list(box) for box in (FIRST, SECOND, OTHER)]
    assert targets.bboxes.tolist() == [[2 * x for x in box] for box in boxes]
    assert targets.outer_edges and targets.points.shape == (3, 2, 2)
    assert ignored.bboxes.tolist() == [[2 * x for x in CROWD]]
    assert ignored.labels.tolist() == [0] and ignored.crowds.tolist() == [True]
    instances = sample.instances
    assert [(i['bbox'], i['bbox_label'], i['ignore_flag']) for i in instances] == [
        *zip(boxes, (0, 0, 1), (0, 0, 0), strict=True), (list(CROWD), 0, 1)]
    for mask, instance in zip(sample.gt_instances.masks, instances[:3], strict=True):
        assert decode_mask(instance['mask']).tolist() == mask.tolist()


def test_with_masks_exact_boxes_match_and_crowds_are_no_mistakes(tmp_path):
    sample = with_masks(tmp_path)
    boxes = [item['bbox'] for item in sample.instances]
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor(boxes), scores=torch.ones(4), labels=torch.tensor([0, 0, 1, 0]))
    row = score_detections(dict(sample.to_dict(), reasoning=dict(
        response='', truncated=False, parsed=ReasoningOutput(None, None, ()),
        reasoning_tokens=None, caption_tokens=None, invented=0)), threshold=0.999)
    assert [row[name] for name in ('right', 'wrong', 'missed', 'ignored')] == [3, 0, 0, 1]


@pytest.mark.parametrize('negatives, drawn', [(0, 0), (1, 1), (2, 2), (9, 3), (0.1, 1), (1.0, 2)])
def test_number_of_negatives(tmp_path, negatives, drawn):
    sample, = asked(build(coco(tmp_path), negatives=negatives))
    assert len(sample.classes) == 2 + drawn and {0, 1} <= set(sample.class_labels)


def test_negatives_depend_on_the_image_and_the_seed(tmp_path):
    def many(content):
        content['images'] = [dict(content['images'][0], id=i) for i in range(60)]
        content['annotations'] = [dict(content['annotations'][0], id=i + 1, image_id=i)
                                  for i in range(60)]

    source = coco(tmp_path, change=many)
    first = [s.class_labels for s in asked(build(source, negatives=1))]
    assert first == [s.class_labels for s in asked(build(source, negatives=1))]
    assert first != [s.class_labels for s in asked(build(source, negatives=1, seed=1))]
    counts = Counter(label for labels in first for label in labels)
    assert counts[0] == 60 and all(8 <= counts[label] <= 24 for label in (1, 2, 3, 4))
    places = Counter(labels.index(0) for labels in first)
    assert 20 <= places[0] <= 40  # the class in the image is not always first


def test_negatives_by_frequency(tmp_path):
    def more(content):
        image, box = content['images'][0], content['annotations'][0]
        content['images'] += [dict(image, id=i) for i in range(100, 180)]
        content['annotations'] = [box] + [
            dict(box, id=i, image_id=100, category_id=4 if i < 90 else 5) for i in range(10, 100)]

    dataset = build(coco(tmp_path, change=more), negatives=1, draw='frequency')
    drawn = Counter(label for s in asked(dataset)[2:] for label in s.class_labels)
    assert drawn[1] == drawn[2] == 0  # never annotated
    assert drawn[3] > 2 * (drawn[0] + drawn[4]) > 0


def test_an_image_with_a_box_that_mmdet_leaves_out_does_not_lack_its_class(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(class_annotations, 'print_log', lambda text, **how: told.append(text))

    def shrink(content):
        content['annotations'][2]['bbox'][2:] = [0.5, 8]
        content['annotations'][4]['bbox'] = [100, 3, 10, 10]

    dataset = build(coco(tmp_path, change=shrink), negatives=9)
    assert set(asked(dataset)[0].class_labels) == {0, 2, 3, 4}
    assert len(told) == 1 and re.search(
        r'2 annotation\(s\) of .*coco.json are left out, as always in mmdet: '
        r'3 \(box of 0.5 x 8 pixels, area 100\), 5 \(outside the image\)$', told[0])
    # An evaluation asks, since its annotation file has the box.
    dataset = build(coco(tmp_path / 'all', change=shrink), negatives='all')
    assert asked(dataset)[0].class_labels == (0, 1, 2, 3, 4)


def test_a_class_with_a_crowd_only_is_no_negative_but_evaluated(tmp_path):
    def only_crowd(content):
        content['annotations'] = [content['annotations'][2], content['annotations'][3]]

    source = coco(tmp_path, change=only_crowd)
    assert set(asked(build(source, negatives=9))[0].class_labels) == {1, 2, 3, 4}
    sample, = asked(build(source, negatives='all'))
    assert sample.class_labels == (0, 1, 2, 3, 4) and len(sample.model_ignored) == 1


def federated(content):
    """LVIS: the kite is known to be absent, persons are not marked exhaustively."""
    content['images'][0].update(neg_category_ids=[5], not_exhaustive_category_ids=[1])


def test_federated_annotations_name_what_is_absent(tmp_path):
    source = coco(tmp_path, change=federated)
    sample, = asked(build(source, negatives=9))
    assert set(sample.class_labels) == {0, 1, 4} and sample.not_exhaustive == (0, )
    first, second = asked(build(source, negatives='all', max_classes=2))
    assert first.class_labels == (0, 1) and first.not_exhaustive == (0, )
    assert second.class_labels == (4, ) and 'not_exhaustive' not in second


def test_lvis_as_published(tmp_path):
    """``coco_url`` instead of a file name; mmdet does not hand the lists on."""
    pytest.importorskip('lvis')

    def publish(content):
        federated(content)
        image = content['images'][0]
        image['coco_url'] = 'http://images.cocodataset.org/' + image.pop('file_name')

    source = coco(tmp_path, kind='LVISV1Dataset', change=publish)
    built = DATASETS.build(dict(source, pipeline=[]))
    assert not {'neg_category_ids', 'not_exhaustive_category_ids'} & built.get_data_info(0).keys()
    sample, = asked(build(source, negatives='all'))
    assert sample.class_labels == (0, 1, 4) and sample.not_exhaustive == (0, )


@pytest.mark.parametrize('kind', ['Objects365V1Dataset', 'Objects365V2Dataset', 'V3DetDataset'])
def test_others_in_the_form_of_coco(tmp_path, kind):
    def change(content):
        content['categories'].reverse()  # Objects365's files differ in their order
        content['images'][0]['file_name'] = 'images/a.jpg'

    source = coco(tmp_path, kind=kind, change=change) | dict(data_prefix=dict(img=''))
    if kind == 'V3DetDataset':
        (tmp_path / 'names.txt').write_text('\n'.join(NAMES))
        source['label_file'] = 'names.txt'
    sample, = asked(build(source, negatives='all'))
    names = dict(zip(sample.class_labels, sample.classes, strict=True))
    assert [names[label] for label in sample.model_targets.labels.tolist()] == [
        'person', 'person', 'dog', 'dog']


def test_classes_above_and_below_in_the_tree_are_no_negatives(tmp_path):
    tree = dict(categoryid2treeid={'1': 'n1', '2': 'n2', '3': 'n3', '4': 'n4', '5': 'n5'},
                ancestor2descendant=dict(n1=['n3', 'elsewhere'], n4=['n2'], root=['n1', 'n5']))
    (tmp_path / 'tree.json').write_text(json.dumps(tree))
    sample, = asked(build(coco(tmp_path), negatives='all', tree_file=str(tmp_path / 'tree.json')))
    assert sample.class_labels == (0, 1, 4)
    (tmp_path / 'tree.json').write_text('{}')
    with pytest.raises(DatasetError, match="should be a category tree .* lacks 'categoryid2treeid"):
        build(coco(tmp_path), tree_file=str(tmp_path / 'tree.json'))


def test_odvg_for_detection(tmp_path):
    built = build(FILES['write_odvg'](tmp_path, True), negatives='all')
    sample, = asked(built)
    assert sample.classes == ('person', 'dog') and built.metainfo['classes'] == ('person', 'dog')
    assert sample.model_targets.labels.tolist() == [0, 0, 1]
    path = tmp_path / 'odvg.jsonl'
    line = json.loads(path.read_text())
    line['detection']['instances'][2]['bbox'] = [5, 5, 5.5, 9]  # mmdet leaves it out
    path.write_text(json.dumps(line) + '\n')
    source = FILES['write_odvg'](tmp_path / 'other', True) | dict(data_root=str(tmp_path))
    assert asked(build(source, negatives=9))[0].classes == ('person', )


def test_odvg_for_grounding(tmp_path):
    """Phrases of a caption are classes; nothing is known to be absent. Equal ones are one."""
    source = FILES['write_odvg'](tmp_path, False)
    path = tmp_path / 'odvg.jsonl'
    line = json.loads(path.read_text())
    line['grounding']['regions'].append(
        dict(bbox=[1, 1, 9, 9], phrase='A  dog', tokens_positive=[[15, 20]]))
    path.write_text(json.dumps(line) + '\n')
    sample, = asked(build(source, negatives='all', template='every {phrase}'))
    assert sample.question == 'every two people and a dog'
    assert sample.classes == ('two people', 'a dog') and sample.class_labels == (0, 1)
    assert sample.model_targets.labels.tolist() == [0, 0, 1, 1]


def test_difficult_objects_of_voc_are_ignored_as_such(tmp_path):
    names = ('person', 'dog')
    source = dict(type='XMLDataset', metainfo=dict(classes=names),
                  **FILES['write_xml'](tmp_path, names))
    sample, = asked(build(source, negatives='all'))
    assert sample.model_targets.labels.tolist() == [0, 1]
    assert sample.model_ignored.crowds.tolist() == [False]


def test_open_images_says_nothing_about_absent_classes(tmp_path):
    source = dict(type='OpenImagesChallengeDataset', **FILES['write_open_images'](tmp_path, True))
    sample, = asked(build(source, negatives=5))
    assert set(sample.classes) == {'person', 'dog'}


def test_a_name_with_a_comma_changes_the_separator(tmp_path):
    source = coco(tmp_path, ('person', 'dog, small', 'kite'))
    assert asked(build(source, negatives='all', template='every {phrase}'))[0].question == (
        'every person; dog, small and kite')


def test_an_image_without_any_class_teaches_rejection(tmp_path):
    def empty(content):
        content['annotations'] = []

    sample, = asked(build(coco(tmp_path, change=empty), negatives=1.0))
    assert len(sample.classes) == 1 and len(sample.model_targets) == 0
    with pytest.raises(DatasetError, match='has no items'):
        build(coco(tmp_path, change=empty), negatives=0)


@pytest.mark.parametrize('names', [('Hot_dog', 'cup', 'hot  dog'), ('cup', 'CUP', 'dog')])
def test_classes_that_clash_are_refused(tmp_path, names):
    with pytest.raises(DatasetError, match=r"'(Hot_dog' = 'hot  dog'|cup' = 'CUP')"):
        build(coco(tmp_path, names))


@pytest.mark.parametrize('kind', ['images', 'categories'])
def test_ids_that_repeat_are_refused(tmp_path, kind):
    def repeat(content):
        content[kind].append(dict(content[kind][0]))

    with pytest.raises(DatasetError, match=f'has the id of {kind} . 2 times'):
        build(coco(tmp_path, change=repeat))


def test_all_boxes_outside_an_image_are_named(tmp_path):
    """Of a data set from which mmdet does not remove them."""
    names = ('person', 'dog')
    source = dict(type='XMLDataset', metainfo=dict(classes=names),
                  **FILES['write_xml'](tmp_path, names))
    path = tmp_path / 'Annotations/a.xml'
    text = path.read_text().replace('<xmin>3<', '<xmin>93<').replace('<xmax>13<', '<xmax>99<')
    path.write_text(text.replace('<ymax>29<', '<ymax>19<'))
    with pytest.raises(DatasetError, match=r'wrong box \(2\)(?s:.)*image of 40 x 32(?s:.)*\[92,'):
        build(source)


@pytest.mark.parametrize('options, told', [
    (dict(template='{label}'), "one field, '{classes}' or '{phrase}'"),
    (dict(template='{classes} {phrase}'), 'one field'),
    (dict(negatives=-1), "or 'all', but got -1"),
    (dict(negatives='some'), "'some'"), (dict(draw='x'), "one of .'uniform', 'frequency'."),
    (dict(max_classes=0), '1 or more')])
def test_arguments_out_of_range(options, told):
    with pytest.raises(ValueError, match=told):
        TRANSFORMS.build(dict(type='QuestionFromClasses', **options))


def test_a_pipeline_lacks_what_the_data_set_knows():
    ask = TRANSFORMS.build(dict(type='QuestionFromClasses'))
    with pytest.raises(DatasetError, match='use it as `questions` of a `QuestionDataset`'):
        ask(dict(instances=[], img_path='a.jpg'))
