# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""``on_bad_entry='skip'``: bad entries are left out, each counted once, and never silently."""
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from roboflow_files import BOATS, write_export

from mmdpad.datasets import (
    AnswerLinesDataset,
    DatasetError,
    GQADataset,
    QuestionDataset,
    Visual7WDataset,
    VisualCoTDataset,
    VQADataset,
    reasoning_dataset,
)
from mmdpad.datasets.checking import check_items
from mmdpad.evaluation.provenance import dataset_switches

DATA = Path(__file__).parents[1] / 'data/vqa'
GOOD = dict(image='a.png', texts=['what?'], answers=['red'])
# Entries with their problem; one has two.
BAD = [(dict(answers=[]), 'wrong annotation'), (dict(image='b.png'), 'missing image'),
       (dict(image='b.png'), 'missing image'), (dict(id=0), 'duplicate id'),
       (dict(texts=[' '], choices=['red', 'red']), 'empty question')]


@pytest.fixture
def lines(tmp_path):
    """Build the data set of some JSON lines about an image of 20 x 10 pixels."""
    Image.new('RGB', (20, 10)).save(tmp_path / 'a.png')

    def build(*changes, **kwargs):
        (tmp_path / 'qa.jsonl').write_text('\n'.join(
            json.dumps(GOOD | dict(id=number) | change) for number, change in enumerate(changes)))
        return AnswerLinesDataset(str(tmp_path / 'qa.jsonl'), serialize_data=False, **kwargs)

    return build


def test_bad_entries_are_counted_by_kind(lines, monkeypatch):
    told = []
    monkeypatch.setattr(reasoning_dataset, 'print_log', lambda text, **how: told.append(text))
    found = lines({}, *(change for change, _ in BAD), dict(texts=['last?']), on_bad_entry='skip')
    assert [item['question'] for item in found] == ['what?', 'last?']
    assert len(told) == 1 and told[0].startswith('5 bad entries are left out of ')
    counts = {'wrong annotation': 1, 'missing image': 2, 'duplicate id': 1, 'empty question': 1}
    assert found.bad_entries == counts
    assert dataset_switches(found)['bad_entries'] == counts
    assert check_items(found, 'lines').splitlines()[1] == (
        '  note: 5 bad entries are left out (`on_bad_entry`): wrong annotation (1), '
        'missing image (2), duplicate id (1), empty question (1)')


def test_the_default_lists_every_problem_once(lines):
    with pytest.raises(DatasetError) as caught:
        lines({}, *(change for change, _ in BAD))
    kinds = [problem.kind for problem in caught.value.problems]
    # One image is missing, whatever the number of questions; the last entry has two problems.
    assert sorted(kinds) == ['duplicate id', 'empty question', 'missing image',
                             'wrong annotation', 'wrong annotation']


def test_nothing_to_report(lines):
    found = lines({}, on_bad_entry='skip')
    assert not hasattr(found, 'bad_entries') and 'bad_entries' not in dataset_switches(found)
    assert 'note' not in check_items(found, 'lines')


def test_what_cannot_be_skipped(lines, tmp_path):
    with pytest.raises(DatasetError, match='missing image'):  # nothing would be left
        lines(dict(image='b.png'), on_bad_entry='skip')
    with pytest.raises(DatasetError, match='is not a file'):
        AnswerLinesDataset(str(tmp_path / 'no.jsonl'), on_bad_entry='skip')
    with pytest.raises(ValueError, match="one of .* but got 'ignore'"):
        lines({}, on_bad_entry='ignore')


def vqa(content):
    content['annotations'].append(dict(content['annotations'][0]))


def gqa(content):
    next(iter(content.values())).pop('answer')


def visual7w(content):
    pairs = next(image for image in content['images'] if image['split'] == 'val')['qa_pairs']
    pairs.append(dict(pairs[0], qa_id=99, multiple_choices=['A dog.', 'A dog.', 'a']))


COMMON = dict(data_prefix=dict(img_path='images'), on_bad_entry='skip')


@pytest.mark.parametrize('kind, kwargs, file, edit, left, counts', [
    (VQADataset, dict(ann_file='v2_mscoco_val2014_annotations.json',
                      question_file='v2_OpenEnded_mscoco_val2014_questions.json'),
     'v2_mscoco_val2014_annotations.json', vqa, 1, {'duplicate id': 1}),
    (GQADataset, dict(ann_file='val_balanced_questions.json',
                      scene_graph_file='val_sceneGraphs.json'),
     'val_balanced_questions.json', gqa, 1, {'missing key': 1}),
    (Visual7WDataset, dict(ann_file='dataset_v7w_telling.json', split='val'),
     'dataset_v7w_telling.json', visual7w, 1, {'wrong annotation': 1})])
def test_published_formats(tmp_path, kind, kwargs, file, edit, left, counts):
    folder = tmp_path / 'copy'
    shutil.copytree(DATA, folder)
    content = json.loads((folder / file).read_text())
    edit(content)
    (folder / file).write_text(json.dumps(content))
    found = kind(data_root=str(folder), **kwargs, **COMMON)
    assert (len(found), found.bad_entries) == (left, counts)


def test_visual_cot(tmp_path):
    folder = tmp_path / 'copy'
    shutil.copytree(DATA, folder)
    path = folder / 'textvqa_cot_train.jsonl'
    line = json.loads(path.read_text().splitlines()[0])
    path.write_text('\n'.join(map(json.dumps, [line, dict(line, bboxs=[[5, 5, 5, 9]]),
                                               dict(line, width=3, answer='')])))
    found = VisualCoTDataset(path.name, data_root=str(folder), **COMMON)
    assert (len(found), found.bad_entries) == (1, {'wrong annotation': 2})


def detect(path, **kwargs):
    return QuestionDataset(
        dict(type='RoboflowDataset', ann_file=str(path), data_prefix=dict(img=str(path.parent))),
        dict(type='QuestionFromClasses', negatives='all', max_classes=1), several_objects=True,
        test_mode=True, serialize_data=False, **kwargs)


def test_images_of_detection_data(tmp_path):
    """Each of two images is asked two questions; one is missing."""
    path = write_export(tmp_path, BOATS)
    assert len(detect(path, on_bad_entry='skip')) == 4
    (path.parent / 'no boat.jpg').unlink()
    found = detect(path, on_bad_entry='skip')
    assert (len(found), found.bad_entries) == (2, {'missing image': 1})
    with pytest.raises(DatasetError) as caught:
        detect(path)
    assert [problem.kind for problem in caught.value.problems] == ['missing image']
