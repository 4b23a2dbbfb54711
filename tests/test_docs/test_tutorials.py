# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What the pages tell a reader to do works, command by command."""
import json
import re
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parents[2] / 'docs'


def shown(page: str, start: str) -> str:
    """The output that a page shows after its first line."""
    return re.search(rf'^```\n({re.escape(start)}.*?)^```', (DOCS / page).read_text(),
                     re.M | re.S)[1]


def test_own_data(follow):
    folder, printed = follow('own_data.md')
    convert, _, check, _, dry, smoke, _, _ = [printed[key] for key in printed if 'make' not in key]
    assert convert.startswith(shown('own_data.md', 'data/mine: '))
    config = (folder / 'mine/config.py').read_text()
    (pipeline, ) = re.findall(r'^pipeline = .*?^\]\n', convert, re.M | re.S)
    assert pipeline.replace('840', '112') in config
    assert check == shown('own_data.md', 'train_dataloader')
    assert dry.startswith('dry run: no problem found') and 'went through' in smoke
    with Image.open(folder / 'mine/look.png') as picture:
        assert min(picture.size) > 300
    written = json.loads((folder / 'mine/result.json').read_text())
    assert written['metrics']['reasonseg/n'] == 1
    assert (folder / 'work_dirs/mine/iter_4.pth').is_file()
