# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmdpad.datasets import ReasonSegDataset, read_reasonseg_annotation
from mmdpad.toy.shapes_world import (
    COLORS,
    FUNCTIONS,
    SCENE_SIZES,
    SHAPES,
    SIZES,
    WORLDS,
    captions_of,
    list_close_questions,
    list_questions,
    make_scene,
    write_reasoning,
)

CONVERTER = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'shapes_world.py'
SCENES = [make_scene('val', i) for i in range(60)]


def test_equal_numbers_give_equal_scenes_and_others_do_not():
    again = make_scene('val', 3)
    assert np.array_equal(again.image, SCENES[3].image)
    assert again.question == SCENES[3].question
    for other in (make_scene('val', 4), make_scene('train', 3), make_scene('val', 3, seed=1)):
        assert other.image.shape != again.image.shape or (other.image != again.image).any()


def test_a_scene_stays_what_it_was():
    """Weights were trained and numbers published on these scenes; they must not change."""
    scene = make_scene('test', 0)
    assert scene.image.shape == PINNED['shape']
    assert scene.question.text == PINNED['question']
    assert [item.name for item in scene.objects] == PINNED['names']
    assert scene.target.box == pytest.approx(PINNED['box'])
    assert scene.reasoning('list') == PINNED['reasoning']


PINNED = dict(
    shape=(160, 120, 3),
    question='the object nearest to the bottom',
    names=['big yellow circle', 'big blue circle', 'big green square'],
    box=(65.71, 75.57, 107.51, 117.38),
    reasoning='there is a big yellow circle, a big blue circle, a big green square. '
    'it is the big blue circle.')


@pytest.mark.parametrize('arguments', [
    ('all', 0, 0), ('val', -1, 0), ('val', 0, -1), ('val', 0, 0, 'crowded')])
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match='should be'):
        make_scene(*arguments)


def test_scenes_vary():
    assert {scene.image.shape[1::-1] for scene in SCENES} == set(SCENE_SIZES)
    assert {scene.question.kind for scene in SCENES} == {'attribute', 'superlative', 'position',
                                                         'function'}
    assert {len(scene.objects) for scene in SCENES} == {3, 4}
    assert {scene.question.is_sentence for scene in SCENES} == {True, False}


@pytest.mark.parametrize('scene', SCENES[:20])
def test_polygons_lie_inside_the_image_on_their_colour(scene):
    height, width = scene.image.shape[:2]
    for item in scene.objects:
        x1, y1, x2, y2 = item.box
        assert 0 <= x1 < x2 <= width - 1 and 0 <= y1 < y2 <= height - 1
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [item.polygon.astype(np.int32)], 1)
        inner = cv2.erode(mask, np.ones((3, 3))) > 0
        shown = np.median(scene.image[inner], axis=0)
        assert np.abs(shown - COLORS[item.color]).max() <= 15


def test_the_background_shows_the_place():
    """Redder on the left, bluer at the top: needed by models without absolute positions."""
    for scene in SCENES[:10]:
        height, width = scene.image.shape[:2]
        image = scene.image.astype(float)
        for item in scene.objects:
            x1, y1, x2, y2 = np.round(item.box).astype(int)
            image[max(y1 - 1, 0):y2 + 2, max(x1 - 1, 0):x2 + 2] = np.nan
        red, blue = image[..., 0] - image[..., 1], image[..., 2] - image[..., 1]
        assert np.nanmean(red[:, :width // 4]) > np.nanmean(red[:, -width // 4:]) + 20
        assert np.nanmean(blue[:height // 4]) > np.nanmean(blue[-height // 4:]) + 20


def test_objects_do_not_overlap():
    for scene in SCENES:
        boxes = np.array([item.box for item in scene.objects])
        for i, first in enumerate(boxes):
            for second in boxes[i + 1:]:
                low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
                assert (low >= high).any()


def fits(question, item, objects) -> bool:
    """Reads the text of a question afresh and says whether it is true of an object."""
    text = question.text
    if question.kind == 'attribute':
        wanted = set(text.split())
        return all(word in item.name.split() for word in wanted - {'the', 'object'})
    if question.kind == 'name':
        return text == f'the {item.name}'
    if question.kind == 'function':
        return text in FUNCTIONS[item.shape]
    if question.kind == 'relation':
        shared, _, side = text.removeprefix('the ').partition(' nearest to the ')
        shared = shared.removesuffix(' object')
        objects = [other for other in objects if shared in other.name.split()]
        return shared in item.name.split() and nearest(side, item, objects)
    areas = [cv2.contourArea(other.polygon.astype(np.float32)) for other in objects]
    area = areas[[other is item for other in objects].index(True)]
    if question.kind == 'superlative':
        return area == (max(areas) if 'biggest' in text else min(areas))
    return nearest(text.replace(' of the picture?', '').split()[-1], item, objects)


def nearest(side, item, objects) -> bool:
    axis, best = {'left': (0, min), 'right': (0, max), 'top': (1, min), 'bottom': (1, max)}[side]
    return item.center[axis] == best(other.center[axis] for other in objects)


@pytest.mark.parametrize('scene', SCENES)
def test_every_question_is_true_of_its_target_only(scene):
    height, width = scene.image.shape[:2]
    questions = list_questions(scene.objects, width, height)
    assert scene.question in questions
    for question in questions:
        true_of = [i for i, item in enumerate(scene.objects)
                   if fits(question, item, scene.objects)]
        assert true_of == [question.target], question.text


LOOK_ALIKES = [make_scene('test', i, world='look_alikes') for i in range(40)]


@pytest.mark.parametrize('scene', LOOK_ALIKES)
def test_look_alikes_differ_in_one_attribute_and_are_asked_for_closely(scene):
    def differences(first, second):
        return sum(a != b for a, b in zip(first.name.split(), second.name.split(), strict=True))

    assert any(all(differences(model, other) == 1 for other in scene.objects if other is not model)
               for model in scene.objects)
    questions = list_close_questions(scene.objects, *scene.image.shape[1::-1])
    assert scene.question in questions
    for question in questions:
        assert [i for i, item in enumerate(scene.objects)
                if fits(question, item, scene.objects)] == [question.target], question.text


def test_look_alikes_are_asked_for_in_both_ways():
    assert {scene.question.kind for scene in LOOK_ALIKES} == {'name', 'relation'}


@pytest.mark.parametrize('world, counts', [('few', {2, 3}), ('many', {5, 6}), ('shifted', {3, 4}),
                                           ('look_alikes', {3, 4, 5}), ('study', {2, 3, 4, 5, 6})])
def test_worlds_have_as_many_objects_as_they_say(world, counts):
    scenes = [make_scene('train', i, world=world) for i in range(40)]
    assert {len(scene.objects) for scene in scenes} == counts
    assert any((scene.image != make_scene('train', i).image).any() for i, scene in enumerate(scenes)
               if scene.image.shape == make_scene('train', i).image.shape)


def test_shifted_scenes_have_sizes_and_textures_of_their_own():
    for scene in (make_scene('val', i, world='shifted') for i in range(20)):
        scale = np.sqrt(np.prod(scene.image.shape[:2]) / 112**2)
        for item in scene.objects:
            if item.shape == 'circle':
                x1, _, x2, _ = item.box
                radius = (x2 - x1) / 2 / 0.95 / scale
                assert not any(low <= radius <= high for low, high in SIZES.values())
        x, y = (round(value) for value in scene.target.center)
        assert np.ptp(scene.image[y - 6:y + 6, x - 6:x + 6].astype(int).sum(2)) > 40  # checks
    assert WORLDS['plain'].num_objects == (3, 4)


def test_there_is_no_question_about_what_two_objects_share():
    scene = next(scene for scene in SCENES
                 if len({item.shape for item in scene.objects}) < len(scene.objects))
    shapes = [item.shape for item in scene.objects]
    shared = next(shape for shape in SHAPES if shapes.count(shape) > 1)
    texts = {q.text for q in list_questions(scene.objects, *scene.image.shape[1::-1])}
    assert f'the {shared}' not in texts and not texts & set(FUNCTIONS[shared])


def test_reasoning_names_the_target():
    for scene in SCENES:
        assert scene.reasoning('focus').endswith(f'it is the {scene.target.name}.')
        assert all(item.name in scene.reasoning('list') for item in scene.objects)
        assert len(scene.reasoning('focus')) < len(scene.reasoning('list'))
    with pytest.raises(ValueError, match="'list' or 'focus'"):
        write_reasoning(SCENES[0].objects, SCENES[0].question, 'short')


def test_captions_describe_what_they_should():
    for scene in SCENES:
        captions = scene.captions()
        goal = f'{scene.target.color} {scene.target.shape}'
        assert captions['specific'] == (f'a {goal}', f'a {scene.target.name}')
        assert all(goal not in text for text in captions['other'])
        words = {*COLORS, *SHAPES, *SIZES}
        assert all(not words & set(text.split()) for text in captions['generic'])


def test_two_objects_that_differ_in_size_only_do_not_give_a_wrong_caption():
    scene = SCENES[0]
    twins = (scene.objects[0], scene.objects[0])
    assert captions_of(twins, 0)['other'] == ()


@pytest.fixture
def convert(monkeypatch, capsys):
    """Runs the converter's command line in this process; exit status, stdout and stderr."""
    spec = importlib.util.spec_from_file_location('shapes_world_converter', CONVERTER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(folder, *args):
        monkeypatch.setattr(sys, 'argv', ['shapes_world.py', str(folder), *args])
        return module.main(), *capsys.readouterr()

    return run


def test_the_converter_writes_what_the_reader_reads(tmp_path, convert):
    out = tmp_path / 'world'
    assert convert(out, '--train', '2', '--val', '3', '--test', '0')[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ['annotations', 'shapes_world.json',
                                                           'test', 'train', 'val']
    assert len(list((out / 'train').iterdir())) == 4 and not list((out / 'test').iterdir())
    for i in range(3):
        scene = make_scene('val', i)
        image = cv2.imread(str(out / 'val' / f'val_{i:05d}.jpg'))[..., ::-1]
        height, width = scene.image.shape[:2]
        assert image.shape == scene.image.shape
        assert np.abs(image.astype(int) - scene.image).mean() < 6
        target, ignore, texts, is_sentence = read_reasonseg_annotation(
            out / 'val' / f'val_{i:05d}.json', height, width)
        assert texts == [scene.question.text] and is_sentence == scene.question.is_sentence
        assert not ignore.any()
        ys, xs = np.nonzero(target)
        assert np.abs(np.subtract(scene.target.box,
                                  (xs.min(), ys.min(), xs.max(), ys.max()))).max() <= 1

    scene, train, val = make_scene('train', 1), *(
        json.loads((out / split / f'{split}_00001.json').read_text()) for split in ('train', 'val'))
    assert train['think'] == scene.reasoning('focus')
    assert train['caption'] == f'a {scene.target.name}'
    assert not {'think', 'caption', 'response'} & val.keys()

    (out / 'val' / 'note.txt').write_text('mine')
    assert 'already there' in convert(out, '--train', '2', '--val', '3', '--test', '0')[1]
    assert (out / 'val' / 'note.txt').exists()
    assert convert(out, '--train', '1', '--val', '0', '--test', '0')[0] == 0
    assert len(list((out / 'train').iterdir())) == 2 and not list((out / 'val').iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ['world']


def test_the_converter_writes_another_world(tmp_path, convert):
    counts = ('--train', '0', '--val', '0', '--test', '2')
    convert(tmp_path / 'world', *counts, '--world', 'many')
    item = ReasonSegDataset(tmp_path / 'world', 'test')[1]
    assert item['question'] == make_scene('test', 1, world='many').question.text
    assert 'already there' in convert(tmp_path / 'world', *counts, '--world', 'many')[1]
    assert 'already there' not in convert(tmp_path / 'world', *counts)[1]


def test_the_converter_names_the_boxes_of_all_objects_but_the_target(tmp_path, convert):
    convert(tmp_path / 'world', '--train', '0', '--val', '3', '--test', '0')
    for i, item in enumerate(ReasonSegDataset(tmp_path / 'world', 'val')):
        scene = make_scene('val', i)
        assert len(item['other_boxes']) == len(scene.objects) - 1
        assert {*item['other_boxes'], scene.target.box} == {o.box for o in scene.objects}


def test_data_of_an_earlier_version_of_the_world_is_generated_again(tmp_path, convert):
    counts = ('--train', '1', '--val', '0', '--test', '0')
    convert(tmp_path / 'world', *counts)
    marker, annotation = (tmp_path / 'world' / name for name in (
        'shapes_world.json', 'train/train_00000.json'))
    marker.write_text(json.dumps(json.loads(marker.read_text()) | dict(world_version=2)))
    annotation.write_text('old')
    assert 'already there' not in convert(tmp_path / 'world', *counts)[1]
    assert 'think' in json.loads(annotation.read_text())


@pytest.mark.parametrize('marker', [None, 'no json', json.dumps(dict(other=1))])
def test_the_converter_refuses_a_folder_that_is_not_its_own(tmp_path, convert, marker):
    out = tmp_path / 'photos'
    out.mkdir()
    (out / 'holiday.jpg').write_text('x')
    if marker is not None:
        (out / 'shapes_world.json').write_text(marker)
    status, _, error = convert(out, '--train', '1', '--val', '1', '--test', '1')
    assert status == 1 and 'choose another folder' in error
    assert (out / 'holiday.jpg').read_text() == 'x'
    assert [path.name for path in tmp_path.iterdir()] == ['photos']
