# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""mmdet's data sets as questions, each in the format that it really reads."""
from __future__ import annotations

import json
import sys

import pytest
from mmdet_files import (
    FIRST,
    OTHER,
    SECOND,
    write_coco,
    write_crowd_human,
    write_image,
    write_mdetr,
    write_odvg,
    write_open_images,
    write_refcoco,
    write_xml,
)

from mmdpad.datasets import DatasetError
from mmdpad.datasets.checking import check_dataset
from mmdpad.evaluation.provenance import dataset_switches, describe_data
from mmdpad.registry import DATASETS, TRANSFORMS

SIZE = 80, 64  # twice the image's
MASKS = [dict(type='LoadReasoningImage'), dict(type='LoadInstanceMasks'),
         dict(type='ModelImageResize', size=SIZE), dict(type='TargetsFromMask'),
         dict(type='PackReasoningInputs')]
BOXES = [dict(type='LoadReasoningImage'), dict(type='ModelImageResize', size=SIZE),
         dict(type='TargetsFromBoxes'), dict(type='PackReasoningInputs')]
LABELS = dict(type='QuestionFromLabel')


def questions(source, ask=LABELS, pipeline=MASKS, **options):
    """(question, boxes of the targets in the model frame) of each item, which all load."""
    built = DATASETS.build(dict(type='QuestionDataset', source=source, questions=ask,
                                several_objects=True, pipeline=pipeline, **options))
    samples = [built[i]['data_samples'] for i in range(len(built))]
    return [(sample.question, sample.model_targets.bboxes.tolist()) for sample in samples]


def doubled(*boxes):
    """Boxes of mmdet in the model frame, both ends inclusive: (x2 - 1) * 2."""
    return [[2.0 * x1, 2.0 * y1, 2.0 * (x2 - 1), 2.0 * (y2 - 1)] for x1, y1, x2, y2 in boxes]


BOTH = [('person', doubled(FIRST, SECOND)), ('dog', doubled(OTHER))]
# Categories that the classes know, in the order of their labels.
COCO = dict(
    CocoDataset=('person', 'dog'), DeepFashionDataset=('top', 'skirt'),
    CityscapesDataset=('person', 'car'), iSAIDDataset=('ship', 'store_tank'),
    ADE20KInstanceDataset=('bed', 'cabinet'))


@pytest.mark.parametrize('name', COCO)
def test_instances_with_masks(name, tmp_path):
    names = COCO[name]
    source = dict(type=name, data_root=str(tmp_path), ann_file=write_coco(tmp_path, names),
                  data_prefix=dict(img='images/'))
    expected = [(label.replace('_', ' '), boxes)
                for label, (_, boxes) in zip(names, BOTH, strict=True)]
    assert questions(source) == questions(source, pipeline=BOXES) == expected


@pytest.mark.parametrize('name, names', [
    ('Objects365V1Dataset', ('person', 'sneakers')), ('Objects365V2Dataset', ('Person', 'Hat')),
    ('V3DetDataset', ('person', 'dog'))])
def test_detection_in_the_form_of_coco(name, names, tmp_path):
    source = dict(type=name, data_root=str(tmp_path), ann_file=write_coco(tmp_path, names),
                  data_prefix=dict(img='images/'), metainfo=dict(classes=names))
    if name == 'V3DetDataset':
        (tmp_path / 'names.txt').write_text('person\ndog\n')
        source['label_file'] = 'names.txt'
    if name == 'Objects365V2Dataset':  # it takes the last two parts of a name
        content = json.loads((tmp_path / 'coco.json').read_text())
        content['images'][0]['file_name'] = 'images/a.jpg'
        (tmp_path / 'coco.json').write_text(json.dumps(content))
        source['data_prefix'] = dict(img='')
    assert [boxes for _, boxes in questions(source, pipeline=BOXES)] == [b for _, b in BOTH]


@pytest.mark.parametrize('name', ['CocoPanopticDataset', 'ADE20KPanopticDataset'])
def test_things_of_panoptic_annotations_are_boxes(name, tmp_path):
    names = dict(CocoPanopticDataset=('person', 'dog'),
                 ADE20KPanopticDataset=('bed', 'cabinet'))[name]
    content = json.loads((tmp_path / write_coco(tmp_path, names)).read_text())
    segments = content['annotations'][:4]
    content['annotations'] = [dict(image_id=7, file_name='a.png', segments_info=segments)]
    (tmp_path / 'coco.json').write_text(json.dumps(content))
    source = dict(type=name, data_root=str(tmp_path), ann_file='coco.json',
                  data_prefix=dict(img='images/', seg='seg/'))
    assert [boxes for _, boxes in questions(source, pipeline=BOXES)] == [b for _, b in BOTH]
    with pytest.raises(DatasetError, match='`mask` of each instance.*TargetsFromBoxes'):
        questions(source)


@pytest.mark.parametrize('name, names', [
    ('VOCDataset', ('dog', 'person')), ('WIDERFaceDataset', ('face', ))])
def test_xml(name, names, tmp_path):
    """The difficult one is no target. mmdet subtracts 1 from VOC's coordinates."""
    source = dict(write_xml(tmp_path, names), type=name)
    if name == 'WIDERFaceDataset':
        expected = [('face', [[6, 8, 24, 26], [12, 38, 30, 56]])]  # coordinates as they are
        content = (tmp_path / 'Annotations/a.xml').read_text()
        (tmp_path / 'Annotations/a.xml').write_text(content.replace(
            '<size>', '<folder>JPEGImages</folder><size>'))
        source['data_prefix'] = dict(img='')
    else:
        expected = [('dog', doubled(FIRST)), ('person', doubled(OTHER))]
    assert questions(source, pipeline=BOXES) == expected


@pytest.mark.parametrize('name', ['OpenImagesDataset', 'OpenImagesChallengeDataset'])
def test_open_images(name, tmp_path):
    source = dict(write_open_images(tmp_path, 'Challenge' in name), type=name)
    assert questions(source, pipeline=BOXES) == BOTH


def test_crowd_human(tmp_path):
    source = dict(write_crowd_human(tmp_path), type='CrowdHumanDataset')
    assert questions(source, pipeline=BOXES) == BOTH[:1]


def test_frames_of_videos(tmp_path):
    write_coco(tmp_path)
    common = dict(data_root=str(tmp_path), ann_file='coco.json',
                  data_prefix=dict(img_path='images/'), test_mode=True)
    for source in (dict(type='BaseVideoDataset', metainfo=dict(classes=('person', 'dog'))),
                   dict(type='YouTubeVISDataset', dataset_version='2019')):
        assert questions(source | common) == BOTH
    write_coco(tmp_path, ('pedestrian', 'x'))
    assert questions(dict(common, type='MOTChallengeDataset'), pipeline=BOXES) == [
        ('pedestrian', BOTH[0][1])]


def test_expressions(tmp_path):
    source = write_refcoco(tmp_path)
    ask = dict(type='QuestionFromExpression')
    expected = [('left person', doubled(FIRST)), ('who is left', doubled(FIRST)),
                ('the dog', doubled(OTHER))]
    assert questions(source, ask) == expected
    with pytest.raises(ValueError, match="should be one of .* but got 'random'"):
        questions(dict(source, text_mode='random'), ask)
    with pytest.raises(DatasetError, match='`bbox_label` of each instance.*QuestionFromExpr'):
        questions(source)
    with pytest.raises(DatasetError, match='`bbox` of each instance.*LoadInstanceMasks'):
        questions(source, ask, BOXES)


def test_one_caption_for_all_objects(tmp_path):
    source = dict(data_root=str(tmp_path), ann_file=write_mdetr(
        tmp_path, tokens_positive_eval=[[[0, 3]], [[4, 7]]]), data_prefix=dict(img='images/'))
    assert questions(dict(source, type='MDETRStyleRefCocoDataset'),
                     dict(type='QuestionFromExpression'), BOXES) == [
                         ('the dog', doubled(OTHER))]
    # Phrases of Flickr30k: 'the' and 'dog'; mmdet numbers those that have a box from 0.
    assert questions(dict(source, type='Flickr30kDataset'), dict(type='QuestionFromPhrase'),
                     BOXES) == [('the', doubled(OTHER))]


def test_odvg(tmp_path):
    assert questions(write_odvg(tmp_path, False), dict(type='QuestionFromPhrase'), BOXES) == [
        ('two people', doubled(FIRST, SECOND)), ('a dog', doubled(OTHER))]
    assert questions(write_odvg(tmp_path, True), pipeline=BOXES) == BOTH
    item = dict(instances=[dict(bbox=FIRST, bbox_label=1, ignore_flag=0)],
                phrases={0: dict(phrase='a dog')})
    with pytest.raises(DatasetError, match='the phrase 1 of an instance.*correct the annotation'):
        TRANSFORMS.build(dict(type='QuestionFromPhrase'))(item)


def test_captions_have_no_target(tmp_path):
    write_image(tmp_path / 'a_7.jpg')
    # Of COCO's files (Karpathy's splits) that to train on has a line for each caption.
    (tmp_path / 'captions.json').write_text('[{"image": "a_7.jpg", "caption": "a dog"}, '
                                            '{"image": "a_7.jpg", "caption": ["a pet", "it"]}]')
    source = dict(type='CocoCaptionDataset', data_root=str(tmp_path), ann_file='captions.json',
                  data_prefix=dict(img_path=''))
    ask = dict(type='QuestionFromExpression', key='gt_caption')
    built = DATASETS.build(dict(type='QuestionDataset', source=source, questions=ask,
                                pipeline=[*BOXES[:2], BOXES[-1]]))
    samples = [built[i]['data_samples'] for i in range(len(built))]
    assert [sample.question for sample in samples] == ['a dog', 'a pet', 'it']
    assert not any(hasattr(sample, 'model_targets') for sample in samples)
    with pytest.raises(DatasetError, match='`instances`, which the item of .*a_7.jpg does not'):
        questions(source, ask, BOXES)


@pytest.mark.parametrize('name, options', [
    ('BaseSegDataset', {}), ('CocoSegDataset', {}), ('ADE20KSegDataset', {})])
def test_maps_of_classes_have_no_instances(name, options, tmp_path):
    write_image(tmp_path / 'images/a.jpg')
    (tmp_path / 'maps').mkdir()
    (tmp_path / 'list.txt').write_text('a\n')
    source = dict(type=name, data_root=str(tmp_path), ann_file='list.txt',
                  data_prefix=dict(img_path='images', seg_map_path='maps'), **options)
    with pytest.raises(DatasetError, match='needs `instances`, which the item of'):
        questions(source)


def test_identities_are_no_questions(tmp_path):
    write_image(tmp_path / 'a.jpg')
    (tmp_path / 'ids.txt').write_text('a.jpg 3\n')
    source = dict(type='ReIDDataset', data_root=str(tmp_path), ann_file='ids.txt',
                  data_prefix=dict(img_path=''), triplet_sampler=None)
    with pytest.raises(DatasetError, match='needs `instances`'):
        questions(source)


@pytest.fixture
def coco(tmp_path):
    return dict(type='CocoDataset', data_root=str(tmp_path), ann_file=write_coco(tmp_path),
                data_prefix=dict(img='images/'))


def test_wrappers(coco):
    """Around the questions, not of the source."""
    with pytest.raises(ValueError, match='single data set, but got RepeatDataset; put it around'):
        questions(dict(type='RepeatDataset', times=2, dataset=coco))
    inner = dict(type='QuestionDataset', source=coco, questions=LABELS, several_objects=True,
                 pipeline=MASKS)
    both = DATASETS.build(dict(type='ConcatDataset', datasets=[inner, inner]))
    assert [both[i]['data_samples'].question for i in range(4)] == 2 * ['person', 'dog']
    balanced = DATASETS.build(dict(type='ClassBalancedDataset', oversample_thr=1.0, dataset=inner))
    assert len(balanced) == 4  # each category in half of the questions: twice as often
    lazy = DATASETS.build(dict(inner, lazy_init=True))
    lazy.full_init()
    assert len(lazy) == 2


def test_names_are_those_of_the_file(coco):
    """Labels follow the file, whatever the order of the classes; some may be missing there."""
    assert questions(dict(coco, metainfo=dict(classes=('cat', 'dog', 'person')))) == BOTH
    assert questions(dict(coco, metainfo=dict(classes=('dog', )))) == BOTH[1:]


def test_names_of_a_pipeline_are_checked(coco):
    steps = [MASKS[0], LABELS, *MASKS[1:]]
    entry = dict(coco, return_classes=True, pipeline=steps)
    with pytest.raises(DatasetError, match="starts with .*'bicycle'.* instead of .*'dog'"):
        check_dataset(entry, asks=True)
    assert check_dataset(dict(entry, metainfo=dict(classes=('person', 'dog'))),
                         asks=True).startswith('ok: 1 items')


def test_templates_and_single_instances(coco):
    assert [q for q, _ in questions(coco, dict(LABELS, template='Find each {label}, please'))] == [
        'find each person, please', 'find each dog, please']
    with pytest.raises(ValueError, match="should have the field '{label}'"):
        questions(coco, dict(LABELS, template='Find {it}'))
    # The dog's category also has an instance that is ignored, so it is not single either.
    with pytest.raises(DatasetError, match='has no items'):
        questions(coco, dict(LABELS, single_instance=True))


def test_crowds_are_ignored_regions(coco):
    built = DATASETS.build(dict(type='QuestionDataset', source=coco, questions=LABELS,
                                several_objects=True, pipeline=MASKS))
    person, dog = (built[i]['data_samples'] for i in range(2))
    assert person.gt_instances.masks.sum(dim=(1, 2)).tolist() == [100, 100]
    assert person.ignored_instances.masks[0, 20:30, 30:40].all()
    assert person.ignored_instances.masks.sum() == 100
    # Without a polygon its box is ignored.
    assert dog.ignored_instances.masks.nonzero().amax(dim=0).tolist() == [0, 2, 2]


def test_one_object_a_question_is_asked_for(coco):
    with pytest.raises(DatasetError, match="'person' should have one target, but has 2"):
        DATASETS.build(dict(type='QuestionDataset', source=coco, questions=LABELS,
                            pipeline=MASKS))


def test_files_are_checked(coco, tmp_path):
    content = json.loads((tmp_path / 'coco.json').read_text())
    content['images'] += [dict(content['images'][0], id=8, height=31),
                          dict(content['images'][0], id=9, file_name='gone.jpg')]
    annotation = content['annotations'][0]
    content['annotations'] += [dict(annotation, id=i + 2, image_id=i) for i in (8, 9)]
    content['annotations'][0]['segmentation'] = [[50, 50, 60, 50, 60, 60]]
    content['images'][1]['file_name'] = 'b.jpg'
    write_image(tmp_path / 'images/b.jpg')
    (tmp_path / 'coco.json').write_text(json.dumps(content))
    with pytest.raises(DatasetError) as found:
        questions(coco)
    assert sorted(problem.kind for problem in found.value.problems) == [
        'empty mask', 'missing image', 'wrong image size']


def test_provenance_names_the_source(coco):
    built = DATASETS.build(dict(type='QuestionDataset', source=coco, questions=LABELS,
                                several_objects=True, pipeline=MASKS))
    switches = dataset_switches(built)
    assert (switches['dataset'], switches['source']) == ('QuestionDataset', 'CocoDataset')
    assert switches['questions']['QuestionFromLabel']['template'] == '{label}'
    data = describe_data(built)['data']
    assert (data['items'], data['annotations']) == (2, 5)
    json.dumps(switches)


def test_a_missing_package_is_reported(coco, monkeypatch):
    monkeypatch.setitem(sys.modules, 'lvis', None)
    source = dict(coco, type='LVISV1Dataset')
    for entry in (source, dict(type='QuestionDataset', source=source, questions=LABELS)):
        with pytest.raises(ImportError, match='lvis is not installed'):
            check_dataset(entry)

