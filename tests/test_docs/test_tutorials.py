# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The tutorials work as written, command by command."""
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

DOCS = Path(__file__).parents[2] / 'docs'


def shown(page: str, start: str) -> str:
    """The output that a page shows after its first line."""
    return re.search(rf'^```\n({re.escape(start)}.*?)^```', (DOCS / page).read_text(),
                     re.M | re.S)[1]


def test_every_tutorial_is_followed():
    followed = set(re.findall(r"follow\('(.*)'\)", Path(__file__).read_text()))
    assert {page.name for page in DOCS.glob('own_*.md')} | {'tasks.md'} <= followed


def test_get_started(follow):
    folder, printed = follow('get_started.md')
    assert printed['first_picture.py'].endswith(shown('get_started.md', 'a green square'))
    assert (folder / 'out/test_00003.png').is_file()


@pytest.mark.slow
def test_own_data(follow):
    folder, printed = follow('own_data.md')
    convert, _, check, _, dry, smoke, *_ = [printed[key] for key in printed if 'make' not in key]
    assert convert.startswith(shown('own_data.md', 'data/mine: '))
    config = (folder / 'mine/config.py').read_text()
    (pipeline, ) = re.findall(r'^pipeline = .*?^\]\n', convert, re.M | re.S)
    assert pipeline.replace('840', '112') in config
    assert check == shown('own_data.md', 'train_dataloader')
    assert dry.startswith('dry run: no problem found') and 'succeeded' in smoke
    with Image.open(folder / 'mine/look.png') as picture:
        assert min(picture.size) > 300
    written = json.loads((folder / 'mine/result.json').read_text())
    assert written['metrics']['reasonseg/n'] == 1
    assert (folder / 'work_dirs/mine/iter_4.pth').is_file()
    assert 'last, from iteration 4' in (folder / 'work_dirs/mine/report.html').read_text()


def test_a_custom_decoder(follow):
    folder, printed = follow('own_decoder.md')
    said, seen = (re.findall(r'[\d.]+', text) for text in (
        shown('own_decoder.md', 'cat: IoU'), printed['try_decoder.py']))
    assert len(seen) == 6 and list(map(float, seen)) == pytest.approx(
        list(map(float, said)), abs=0.03)  # other versions of OpenCV
    with Image.open(folder / 'decoder.png') as picture:
        assert picture.width > picture.height
    written = json.loads((folder / 'with_grabcut.json').read_text())
    protocol = written['results']['reasonseg']['protocol']
    assert protocol['decoder'] == 'GrabCutDecoder' and written['metrics']['reasonseg/n'] == 16
    assert written['metrics']['reasonseg/giou'] > 30

    decoder = sys.modules['my_decoder'].GrabCutDecoder(iterations=1)
    image = np.zeros((6, 8, 3), np.uint8)
    prompts = torch.tensor([[-9., -9., 99., 99.], [2., 2., 2., 2.]]), torch.full((2, 2, 2), 2.)
    masks, scores = decoder(image, *prompts)  # a box beyond the image, and one of a pixel
    assert masks[0].all() and masks[1, 2, 2] and scores.shape == (2, )
    masks, scores = decoder(image, torch.zeros(0, 4), torch.zeros(0, 2, 2))
    assert masks.shape == (0, 6, 8) and scores.shape == (0, )


def test_a_custom_reward(follow):
    _, printed = follow('own_reward.md')
    assert printed['try_rewards.py'] == shown('own_reward.md', 'brief_chain')
    assert 'succeeded' in printed['tools/train.py mine.py --smoke']
    term = sys.modules['my_rewards'].FreshCaption()
    term.captions.extend(['a', 'b'])
    resumed = sys.modules['my_rewards'].FreshCaption()
    resumed.load_state_dict(term.state_dict())
    assert resumed.captions == term.captions


def test_a_custom_loss(follow):
    _, printed = follow('own_loss.md')
    assert 'succeeded' in printed['tools/train.py mine.py --smoke']


def test_a_custom_task(follow):
    """The counting task is trained together with segmentation, and each is evaluated by its own
    metric."""
    folder, _ = follow('tasks.md')
    (scalars, ) = (folder / 'work_dirs/counting').glob('*/vis_data/scalars.json')
    logged = [json.loads(line) for line in scalars.read_text().splitlines()]
    values = {name: value for row in logged for name, value in row.items()}
    assert 0 <= values['counting/count/accuracy'] <= 1
    assert values['segmentation/reasonseg/giou'] >= 0 and values['segmentation/reasonseg/n'] == 4
    (rollouts, ) = (folder / 'work_dirs/counting').glob('*/rollouts.jsonl')
    rows = [json.loads(line) for line in rollouts.read_text().splitlines()]
    assert {row['task'] for row in rows} <= {'segmentation', 'counting'}
    for row in rows:
        assert (row['rewards']['right_count'] is None) == (row['task'] == 'segmentation')
        assert (row['rewards']['box_iou'] is None) == (row['task'] == 'counting')
    task = sys.modules['my_counting'].CountingTask()
    assert task.parse(task.compose('so', [], answer='7')).answer == '7'
    assert task.parse('<answer>many</answer>').reason == 'bad_value'
    assert len((folder / 'my_counting.py').read_text().splitlines()) < 80
