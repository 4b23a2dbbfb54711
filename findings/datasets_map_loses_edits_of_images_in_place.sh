#!/usr/bin/env bash
# datasets: a function for Dataset.map that edits an image in place, by thumbnail(), paste(), or ImageDraw, and returns
# it has no effect where the image comes from a file: PIL's image still has its filename, so that its path is stored and
# the file read again, without a word. Where the bytes of the file are in the data set (Parquet, as on the Hub), the
# edit is kept, but a JPEG is compressed once more, at quality 75, by each such map. image.copy() before the edit helps
# against both. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   datasets 5.2.0, Pillow 12.3.0, Python 3.11.7
#   a file, thumbnail: size (640, 480), red corner False, largest change of other pixels 0
#   a file, draw: size (640, 480), red corner False, largest change of other pixels 0
#   a file, draw_on_copy: size (640, 480), red corner True, largest change of other pixels 0
#   bytes, thumbnail: size (320, 240), red corner False, largest change of other pixels None
#   bytes, draw: size (640, 480), red corner True, largest change of other pixels 34
#   bytes, draw_on_copy: size (640, 480), red corner True, largest change of other pixels 0
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    datasets==5.2.0 pillow==12.3.0 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform
from importlib.metadata import version

import datasets
import numpy as np
from PIL import Image, ImageDraw

datasets.disable_progress_bars()
datasets.disable_caching()
print(f'datasets {datasets.__version__}, Pillow {version("pillow")}, Python {platform.python_version()}')
print('source: datasets/features/image.py, encode_pil_image and image_to_bytes\n')
noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
Image.fromarray(noise).resize((640, 480)).save('photo.jpg', quality=95)
RED = (255, 0, 0)


def thumbnail(example):
    example['image'].thumbnail((320, 320))
    return example


def draw(example):
    ImageDraw.Draw(example['image']).rectangle((0, 0, 99, 99), fill=RED)
    return example


def draw_on_copy(example):
    return draw(dict(image=example['image'].copy()))


def sources():
    yield 'a file', dict(path='photo.jpg', bytes=None)
    with open('photo.jpg', 'rb') as file:
        yield 'bytes', dict(path=None, bytes=file.read())


truth = np.asarray(Image.open('photo.jpg').convert('RGB')).astype(int)
seen = {}
for source, image in sources():
    data = datasets.Dataset.from_dict(dict(image=[image]), features=datasets.Features(image=datasets.Image()))
    for name, function in dict(thumbnail=thumbnail, draw=draw, draw_on_copy=draw_on_copy).items():
        result = data.map(function)[0]['image']
        pixels = np.asarray(result).astype(int)
        corner = bool(np.abs(pixels[50, 50] - RED).max() < 20)
        rest = int(np.abs(pixels[200:] - truth[200:]).max()) if result.size == (640, 480) else None
        seen[source, name] = result.size, corner, rest
        print(f'{source}, {name}: size {result.size}, red corner {corner}, largest change of other pixels {rest}')
full, small = (640, 480), (320, 240)
same = (seen['a file', 'thumbnail'][0] == full and seen['a file', 'draw'] == (full, False, 0)
        and seen['a file', 'draw_on_copy'] == seen['bytes', 'draw_on_copy'] == (full, True, 0)
        and seen['bytes', 'thumbnail'][0] == small and seen['bytes', 'draw'][1] and seen['bytes', 'draw'][2] > 5)
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
