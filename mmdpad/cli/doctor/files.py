# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Weights and data where the shipped configs look for them, relative to the current folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .findings import Finding

_SAM = 'https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth'
_CLIP = 'timm/vit_base_patch32_clip_224.openai'  # the repository behind the configs' tag
_DETECTOR = 'checkpoints/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.pth'
_MASK2FORMER = ('https://download.openmmlab.com/mmdetection/v3.0/mask2former/'
                'mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco/'
                'mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco_20220504_001756-c9d0c4f2.pth')
# The university's server is down; these are copies of its files.
_REFER = {
    'refcoco': 'https://web.archive.org/web/20220413011718/https://bvisionweb1.cs.unc.edu/licheng/'
               'referit/data/refcoco.zip',
    'refcoco+': 'https://web.archive.org/web/20220413011656/https://bvisionweb1.cs.unc.edu/'
                'licheng/referit/data/refcoco+.zip',
    'refcocog': 'https://web.archive.org/web/20220413012904/https://bvisionweb1.cs.unc.edu/'
                'licheng/referit/data/refcocog.zip'}
_COCO = 'http://images.cocodataset.org'
_GQA = 'https://downloads.cs.stanford.edu/nlp/data/gqa'


@dataclass(frozen=True)
class Place:
    """A file or folder that configs name.

    Attributes:
        path: Relative to the folder in which a run starts.
        purpose: Which configs use it.
        hint: How to get it.
    """

    path: str
    purpose: str
    hint: str


def _hub(folder: str, name: str, purpose: str, kind: str = '') -> Place:
    return Place(folder, purpose, f'hf download {kind}{name} --local-dir {folder}')


def _policy(name: str, configs: str, owner: str = 'Qwen') -> Place:
    return _hub(f'checkpoints/{name}', f'{owner}/{name}', f'policy of {configs}')


def _copy(name: str, purpose: str) -> Place:
    return _hub(f'data/{name}', f'Ricky06662/{name}', purpose, '--repo-type dataset ')


def _get(path: str, url: str) -> str:
    return f'curl -fL --create-dirs -o {path} {url}'


def _zip(folder: str, url: str, purpose: str) -> Place:
    return Place(folder, purpose, f'{_get(f"{folder}.zip", url)} && '
                 f'unzip {folder}.zip -d {Path(folder).parent}')


PLACES = (
    Place('data/shapes_world', 'toy scenes (tiny_shapes*.py), for training and testing',
          'mmdpad run shapes_world data/shapes_world'),
    Place('data/tiny_shapes', 'toy scenes of tiny objects (tiny_shapes_zoom.py, '
          'tiny_shapes_one_look.py)',
          'mmdpad run shapes_world data/tiny_shapes --world tiny --train 800'),
    _policy('Qwen2.5-VL-7B-Instruct', 'qwen7b_*.py'),
    _policy('Qwen2.5-VL-3B-Instruct', 'qwen3b_*.py'),
    _policy('Qwen2-VL-7B-Instruct', 'qwen2vl7b_reasonseg.py'),
    _policy('Qwen3-VL-4B-Instruct', 'qwen3vl4b_reasonseg.py'),
    _policy('Qwen3-VL-8B-Instruct', 'qwen3vl8b_reasonseg.py'),
    _policy('Qwen3-VL-30B-A3B-Instruct', 'qwen3vl30b_a3b_lora_reasonseg.py'),
    _policy('Qwen3.5-9B', 'qwen3_5_9b_reasonseg.py'),
    _policy('Qwen3.5-35B-A3B', 'qwen3_5_35b_a3b_lora_reasonseg.py'),
    _policy('GLM-4.1V-9B-Thinking', 'glm4_1v9b_reasonseg.py', 'zai-org'),
    _policy('GLM-4.5V', 'glm4_5v_lora_reasonseg.py', 'zai-org'),
    _policy('InternVL3_5-8B-HF', 'internvl3_5_8b_reasonseg.py', 'OpenGVLab'),
    _policy('LFM2.5-VL-3B', 'lfm2_5vl3b_reasonseg.py', 'LiquidAI'),
    Place('checkpoints/sam_vit_h_4b8939.pth', 'SAM, which decodes the masks unless a config names '
          'another decoder', _get('checkpoints/sam_vit_h_4b8939.pth', _SAM)),
    _hub('checkpoints/sam2-hiera-large', 'facebook/sam2-hiera-large', 'SAM 2 of *_sam2_*.py'),
    _hub('checkpoints/sam3', 'facebook/sam3', 'SAM 3 of *sam3_*.py'),
    _hub('checkpoints/sam-hq-vit-huge', 'syscv-community/sam-hq-vit-huge',
         'SAM-HQ of qwen7b_sam_hq_reasonseg.py'),
    Place(_DETECTOR, 'Mask2Former of qwen7b_mask2former.py', _get(_DETECTOR, _MASK2FORMER)),
    _copy('refCOCOg_9k_840', 'training data of qwen*_reasonseg.py'),
    _copy('VisionReasoner_multi_object_7k_840', 'training data of qwen7b_several_objects.py '
          'and qwen7b_mixed_tasks.py'),
    *(_copy(f'ReasonSeg_{split}', 'a prepared copy, an alternative to data/ReasonSeg '
            '(qwen7b_several_objects.py)') for split in ('val', 'test')),
    Place('data/ReasonSeg', 'validation and test of qwen*_reasonseg.py', 'the folders train, val '
          'and test, from the link in the README of github.com/dvlab-research/LISA'),
    *(_zip(f'data/coco/{name}', url, f'expressions of qwen*_{name}_test*.py')
      for name, url in _REFER.items()),
    Place('data/coco/grefcoco', 'expressions of qwen7b_grefcoco.py', 'instances.json and '
          'grefs(unc).json, from the link in the README of github.com/henghuiding/gRefCOCO'),
    _zip('data/coco/train2014', f'{_COCO}/zips/train2014.zip',
         'images of RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO'),
    _zip('data/coco/annotations', f'{_COCO}/annotations/annotations_trainval2017.zip',
         'annotations of qwen7b_coco_labels.py, qwen7b_mixed_tasks.py and qwen7b_ovd_coco.py'),
    *(_zip(f'data/coco/{split}2017', f'{_COCO}/zips/{split}2017.zip',
           'images of qwen7b_coco_labels.py, qwen7b_mixed_tasks.py and qwen7b_ovd_*.py')
      for split in ('train', 'val')),
    Place('data/gqa', 'data of qwen7b_gqa.py', 'questions, scene graphs and images, unpacked from '
          f'{_GQA}/questions1.2.zip, {_GQA}/sceneGraphs.zip and {_GQA}/images.zip'),
    *(Place(f'data/coco/annotations/lvis_v1_{split}.json', 'annotations of qwen7b_ovd_lvis.py',
            'the file of that name, from lvisdataset.org') for split in ('train', 'val')),
    Place('data/odinw', 'test data of qwen7b_ovd_odinw13.py', 'the folders of ODinW-13, as '
          'described in mmdet\'s configs/mm_grounding_dino/dataset_prepare.md'),
    Place('data/objects365v1', 'training data of qwen7b_ovd_odvg.py', 'train, '
          'o365v1_train_odvg.json and o365v1_label_map.json, as described in mmdet\'s '
          'configs/mm_grounding_dino/dataset_prepare.md'),
    Place('data/flickr30k_entities', 'training data of qwen7b_odvg.py and qwen7b_ovd_odvg.py',
          'flickr30k_images and final_flickr_separateGT_train_vg.json, as described in mmdet\'s '
          'configs/mm_grounding_dino/dataset_prepare.md')
)


def check_files() -> Iterator[Finding]:
    """Whether CLIP and each of :data:`PLACES` exist; a missing one only affects the configs that
    name it."""
    yield from check_clip()
    for place in PLACES:
        path = Path(place.path)
        if not path.exists():
            yield Finding('optional', place.path, f'not found; {place.purpose}', place.hint)
        elif path.is_dir() and not any(path.iterdir()):
            yield Finding('optional', place.path, f'empty; {place.purpose}', place.hint)
        else:
            yield Finding('ok', place.path, place.purpose)


def check_clip() -> Iterator[Finding]:
    """Whether the hub's cache has the weights for open_clip's tag `openai` of ViT-B-32."""
    home = os.environ.get('HF_HOME') or '~/.cache/huggingface'
    cache = Path(os.environ.get('HF_HUB_CACHE') or Path(home, 'hub')).expanduser()
    name = 'CLIP ViT-B-32 (openai)'
    if (cache / f'models--{_CLIP.replace("/", "--")}').is_dir():
        yield Finding('ok', name, 'discriminator of qwen*.py')
    else:
        yield Finding('optional', name, 'not in the cache; discriminator of qwen*.py, downloaded '
                      'on first use', f'hf download {_CLIP}')


def check_disk() -> Iterator[Finding]:
    """Free space for runs in the current folder."""
    free = shutil.disk_usage('.').free / 1e9
    if free > 1:
        yield Finding('ok', 'free in this folder', f'{free:.0f} GB')
    else:
        yield Finding('wrong', 'free in this folder', f'{free:.1f} GB',
                      'free at least 1 GB for checkpoints and logs, or use another folder')
