#!/usr/bin/env bash
# mmengine: a config that inherits from one of another package (`_base_ = 'mmpretrain::...'`) ends at its first batch
# with "default_collate() got an unexpected keyword argument '_scope_'", if that one names a `collate_fn`, as those of
# mmpretrain for self-supervised learning do: Config marks each dict with the package it is from, and Runner, which
# takes this mark away elsewhere, hands it to the function. The same config by its path works. Exits with 0 while it
# does, with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.14.1 addict==2.4.0 matplotlib==3.10.7 numpy==2.2.6 opencv-python-headless==4.11.0.86 PyYAML==6.0.2 \
    rich==13.9.4 setuptools==80.9.0 termcolor==2.5.0 yapf==0.43.0 einops==0.8.2
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps \
    mmengine==0.10.7 mmpretrain==1.2.0 mmcv-lite==2.1.0

cat > show.py <<'PROGRAM'
import logging
import platform
import warnings
from importlib.metadata import files, version

warnings.simplefilter('ignore')
import torch
from mmengine.config import Config
from mmengine.runner import Runner

logging.disable()
print(f'mmengine {version("mmengine")}, mmpretrain {version("mmpretrain")}, '
      f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print("source: Runner.build_dataloader of a config whose only line is _base_ = 'mmpretrain::...'\n")
CONFIGS = 'mmpretrain/.mim/configs'


class Data(torch.utils.data.Dataset):
    """Stands for ImageNet."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.full((2, ), float(index)))


def first_batch(base):
    with open('mine.py', 'w') as file:
        file.write(f'_base_ = {base!r}\n')
    loader = Config.fromfile('mine.py').train_dataloader
    collate = dict(loader.collate_fn)
    loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    loader.sampler.shuffle = False
    loader.dataset = None
    arguments = dict(loader)
    arguments['dataset'] = Data()
    try:
        return collate, str(next(iter(Runner.build_dataloader(arguments)))['inputs'].tolist())
    except TypeError as error:
        return collate, f'TypeError: {error}'


seen = {}
for name in ('mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py', 'simclr/simclr_resnet50_16xb256-coslr-200e_in1k.py'):
    (path, ) = [file.locate() for file in files('mmpretrain') if str(file) == f'{CONFIGS}/{name}']
    for way, base in (('by name', f'mmpretrain::{name}'), ('by path', str(path))):
        collate, seen[name, way] = first_batch(base)
        print(f'{name}, {way}: collate_fn {collate}\n  first batch: {seen[name, way]}')
wrong = "TypeError: default_collate() got an unexpected keyword argument '_scope_'"
raise SystemExit(0 if all(outcome == (wrong if way == 'by name' else '[[0.0, 0.0], [1.0, 1.0]]')
                          for (_, way), outcome in seen.items()) else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: the mark is an argument'
else
    echo 'changed: the mark is taken away' >&2
    exit 1
fi
