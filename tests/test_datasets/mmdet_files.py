# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Tiny files in the formats that mmdet's data sets read: one image of 40 x 32 pixels with two
objects of a first category, one of a second, and a crowd of the first where the format has it."""
from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 32
# x1, y1, x2, y2 as mmdet has boxes: the last pixel ends at x2.
FIRST, SECOND, OTHER, CROWD = (2, 3, 12, 13), (20, 3, 30, 13), (5, 18, 15, 28), (30, 20, 40, 30)


def polygon(box) -> list[list[float]]:
    x1, y1, x2, y2 = box
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(path)


def write_coco(folder: Path, names=('person', 'dog'), **image) -> str:
    """COCO's form, ids from 1; ``image`` are more entries of the image."""
    write_image(folder / 'images/a.jpg')

    def annotation(number, box, name, **more):
        x1, y1, x2, y2 = box
        return dict(id=number, image_id=7, category_id=names.index(name) + 1, iscrowd=0,
                    bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1),
                    segmentation=polygon(box), visibility=1, mot_conf=1, instance_id=number,
                    video_id=1) | more

    crowd = np.zeros((HEIGHT, WIDTH), np.uint8)
    crowd[CROWD[1]:CROWD[3], CROWD[0]:CROWD[2]] = 1
    flat = crowd.T.reshape(-1)
    changes = [0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]
    counts = np.diff(changes).tolist()
    content = dict(
        images=[dict(id=7, file_name='a.jpg', width=WIDTH, height=HEIGHT, video_id=1, frame_id=0,
                     **image)],
        videos=[dict(id=1, name='a')],
        annotations=[
            annotation(1, FIRST, names[0]), annotation(2, SECOND, names[0]),
            annotation(3, OTHER, names[1]),
            annotation(4, CROWD, names[0], iscrowd=1,
                       segmentation=dict(size=[HEIGHT, WIDTH], counts=counts)),
            # What mmdet's LoadAnnotations ignores: no polygon of three points.
            annotation(5, (0, 0, 3, 3), names[1], segmentation=[[0, 0, 3, 3]])],
        categories=[dict(id=i, name=name, isthing=1) for i, name in enumerate(names, start=1)])
    (folder / 'coco.json').write_text(json.dumps(content))
    return 'coco.json'


def write_refcoco(folder: Path, split: str = 'testA') -> dict:
    """Arguments of RefCocoDataset; the first object has two expressions."""
    write_coco(folder)
    refs = [dict(ref_id=i, image_id=7, ann_id=number, split=split, sentences=[
        dict(sent_id=10 * i + j, raw=text) for j, text in enumerate(texts)])
        for i, (number, texts) in enumerate([(1, ['Left person', 'who is left']),
                                             (3, ['the dog'])])]
    (folder / 'refs.p').write_bytes(pickle.dumps(refs))
    return dict(type='RefCocoDataset', data_root=str(folder), ann_file='coco.json',
                split_file='refs.p', split=split, text_mode='original',
                data_prefix=dict(img_path='images/'))


def write_mdetr(folder: Path, **image) -> str:
    """COCO's form with a caption of an image; one box."""
    name = write_coco(folder, caption='the dog', dataset_name='refcoco', **image)
    content = json.loads((folder / name).read_text())
    content['annotations'] = [dict(content['annotations'][2], phrase_ids=1)]
    (folder / name).write_text(json.dumps(content))
    return name


def write_odvg(folder: Path, map_labels: bool) -> dict:
    """Arguments of ODVGDataset: detection with a map of labels, else grounding."""
    write_image(folder / 'images/a.jpg')
    line = dict(filename='a.jpg', height=HEIGHT, width=WIDTH)
    if map_labels:
        line['detection'] = dict(instances=[
            dict(bbox=box, label=label, category='x')
            for box, label in ((FIRST, 0), (SECOND, 0), (OTHER, 1))])
        (folder / 'labels.json').write_text(json.dumps({'0': 'person', '1': 'dog'}))
    else:
        caption = 'two people and a dog'
        line['grounding'] = dict(caption=caption, regions=[
            dict(bbox=[FIRST, SECOND], phrase='two people', tokens_positive=[[0, 10]]),
            dict(bbox=OTHER, phrase='a dog', tokens_positive=[[15, 20]])])
    (folder / 'odvg.jsonl').write_text(json.dumps(line) + '\n')
    return dict(type='ODVGDataset', data_root=str(folder), ann_file='odvg.jsonl',
                data_prefix=dict(img='images/'), return_classes=True,
                **dict(label_map_file='labels.json') if map_labels else {})


def write_xml(folder: Path, names=('person', 'dog')) -> dict:
    """Arguments of VOC's form: the second person is difficult."""
    write_image(folder / 'JPEGImages/a.jpg')
    objects = ''.join(
        f'<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1 + 1}'
        f'</xmin><ymin>{y1 + 1}</ymin><xmax>{x2 + 1}</xmax><ymax>{y2 + 1}</ymax></bndbox></object>'
        for name, difficult, (x1, y1, x2, y2) in (
            (names[0], 0, FIRST), (names[0], 1, SECOND), (names[-1], 0, OTHER)))
    (folder / 'Annotations').mkdir()
    (folder / 'Annotations/a.xml').write_text(
        f'<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>'
        f'{objects}</annotation>')
    (folder / 'ImageSets').mkdir()
    (folder / 'ImageSets/train.txt').write_text('a\n')
    return dict(data_root=str(folder), ann_file='ImageSets/train.txt',
                data_prefix=dict(sub_data_root=''))


def write_open_images(folder: Path, challenge: bool) -> dict:
    write_image(folder / 'images/a.jpg')
    shares = [(x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT)
              for x1, y1, x2, y2 in (FIRST, SECOND, OTHER)]
    owners = ['/m/1', '/m/1', '/m/2']
    if challenge:
        (folder / 'labels.csv').write_text('/m/1,person,1\n/m/2,dog,2\n')
        lines = ['a.jpg', f'{WIDTH} {HEIGHT}', '3', *(
            f'{owner[-1]} {x1} {y1} {x2} {y2} 0'
            for owner, (x1, y1, x2, y2) in zip(owners, shares, strict=True))]
        (folder / 'boxes.txt').write_text('\n'.join(lines))
        np.save(folder / 'hierarchy.np', np.eye(2))
        (folder / 'hierarchy.np.npy').rename(folder / 'hierarchy.np')
        name, hierarchy = 'boxes.txt', 'hierarchy.np'
    else:
        (folder / 'labels.csv').write_text('/m/1,person\n/m/2,dog\n')
        (folder / 'boxes.csv').write_text('\n'.join(
            ['header', *(f'a,x,{owner},1,{x1},{x2},{y1},{y2},0,0,0,0,0'
                         for owner, (x1, y1, x2, y2) in zip(owners, shares, strict=True))]))
        (folder / 'hierarchy.json').write_text('{"Subcategory": [{"LabelName": "/m/1"}]}')
        name, hierarchy = 'boxes.csv', 'hierarchy.json'
    (folder / 'meta.pkl').write_bytes(pickle.dumps(
        [dict(filename='a.jpg', ori_shape=(HEIGHT, WIDTH, 3))]))
    return dict(data_root=str(folder), ann_file=name, label_file='labels.csv',
                meta_file='meta.pkl', hierarchy_file=hierarchy, data_prefix=dict(img='images/'))


def write_crowd_human(folder: Path) -> dict:
    write_image(folder / 'Images/a.jpg')

    def entry(box, tag='person', **extra):
        x1, y1, x2, y2 = box
        side = [x1, y1, x2 - x1, y2 - y1]
        return dict(tag=tag, fbox=side, hbox=side, vbox=side, extra=extra)

    (folder / 'annotation_train.odgt').write_text(json.dumps(dict(ID='a', gtboxes=[
        entry(FIRST), entry(SECOND), entry(CROWD, 'mask', ignore=1)])))
    return dict(data_root=str(folder), ann_file='annotation_train.odgt',
                data_prefix=dict(img='Images/'))
