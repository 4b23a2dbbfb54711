# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Write one or two questions in each published format of visual question answering.

    python tests/data/vqa/make_vqa.py tests/data/vqa

Keys, nesting, file names and image names are those of the published files; questions, answers and
numbers are invented. Two images of 20 x 10 pixels (width x height) have a red square at
[4, 2, 10, 8] (x1, y1, x2, y2; outer edges).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

BOX = [4, 2, 10, 8]
IDS = (1, 2)
TEN = ['red'] * 6 + ['dark red'] * 3 + ['crimson']


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + '\n')


def make_images(folder: Path) -> None:
    image = Image.new('RGB', (20, 10), 'white')
    ImageDraw.Draw(image).rectangle([BOX[0], BOX[1], BOX[2] - 1, BOX[3] - 1], fill='red')
    for number in IDS:
        for name in (f'COCO_val2014_{number:012d}', str(number), f'v7w_{number}'):
            (folder / 'images').mkdir(parents=True, exist_ok=True)
            image.save(folder / 'images' / f'{name}.jpg')


def make_vqa(folder: Path) -> None:
    head = dict(info=dict(version='2.0'), license=dict(name='CC BY 4.0'), data_type='mscoco',
                data_subtype='val2014')
    write(folder / 'v2_OpenEnded_mscoco_val2014_questions.json', dict(
        head, task_type='Open-Ended', questions=[
            dict(image_id=1, question='What color is the square?', question_id=1000),
            dict(image_id=2, question='How many squares are there?', question_id=2000)]))
    write(folder / 'v2_mscoco_val2014_annotations.json', dict(head, annotations=[
        dict(question_type=kind, multiple_choice_answer=answers[0], image_id=image,
             answer_type=answer_type, question_id=1000 * image,
             answers=[dict(answer=text, answer_confidence='yes', answer_id=place)
                      for place, text in enumerate(answers, start=1)])
        for image, kind, answer_type, answers in (
            (1, 'what color is the', 'other', TEN), (2, 'how many', 'number', ['1'] * 10))]))


def make_gqa(folder: Path) -> None:
    def question(image: int, text: str, right: str, kind: str, **objects: dict) -> dict:
        return dict(
            semantic=[], entailed=[], equivalent=[], question=text, imageId=str(image),
            isBalanced=True, groups={'global': None, 'local': None}, answer=right, semanticStr='',
            annotations=dict(dict(answer={}, question={}, fullAnswer={}), **objects),
            types=dict(detailed='x', semantic=kind, structural='query'), fullAnswer=right)

    write(folder / 'val_balanced_questions.json', {
        '05515938': question(1, 'What is to the left of the circle?', 'square', 'rel',
                             answer={'0': '100'}, question={'5:7': '101'}),
        '05515939': question(2, 'Is the circle blue?', 'yes', 'attr', question={'2': '101'})})

    def thing(name: str, box: tuple[int, int, int, int]) -> dict:
        x, y, width, height = box
        return dict(name=name, x=x, y=y, w=width, h=height, attributes=[], relations=[])

    objects = {'100': thing('square', (4, 2, 6, 6)), '101': thing('circle', (12, 1, 5, 5))}
    write(folder / 'val_sceneGraphs.json', {
        str(image): dict(width=20, height=10, location='none', weather='none', objects=objects)
        for image in IDS})


def make_text_vqa(folder: Path) -> None:
    write(folder / 'TextVQA_0.5.1_val.json', dict(
        dataset_type='val', dataset_name='textvqa', dataset_version='0.5.1', data=[
            dict(question='what is written on the square?', image_id='1', image_classes=['Square'],
                 flickr_original_url='', flickr_300k_url='', image_width=20, image_height=10,
                 answers=TEN, question_tokens=['what', 'is'], question_id=34602, set_name='val')]))


def make_visual7w(folder: Path) -> None:
    def image(*pairs: dict) -> dict:
        return dict(image_id=1, filename='v7w_1.jpg', split='val', qa_pairs=list(pairs))

    write(folder / 'dataset_v7w_telling.json', dict(dataset='visual7w-telling', images=[
        image(dict(qa_id=871917, image_id=1, question='What is red?', type='what',
                   answer='The square.', multiple_choices=['A dog.', 'The sky.', 'A cup.']))]))
    write(folder / 'dataset_v7w_pointing.json', dict(
        dataset='visual7w-pointing', images=[
            image(dict(qa_id=414161, image_id=1, question='Which shape is red?', type='which',
                       answer=7, multiple_choices=[8, 9, 10]))],
        boxes=[dict(box_id=number, image_id=1, name=name, x=x, y=2, width=6, height=6)
               for number, name, x in ((7, 'square', 4), (8, 'border', 0), (9, 'corner', 12),
                                       (10, 'paper', 14))]))


def make_visual_cot(folder: Path) -> None:
    lines = [dict(question='What color is the square?', answer='red', possible_answers=TEN,
                  image='1.jpg', width=20, height=10, bboxs=[BOX], dataset='textvqa',
                  split='train')]
    (folder / 'textvqa_cot_train.jsonl').write_text('\n'.join(map(json.dumps, lines)) + '\n')


if __name__ == '__main__':
    target = Path(sys.argv[1])
    for make in (make_images, make_vqa, make_gqa, make_text_vqa, make_visual7w, make_visual_cot):
        make(target)
