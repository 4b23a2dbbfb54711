#!/usr/bin/env bash
# webdataset: the usual `decode('pil')`, and every other name of an image decoder, converts each PNG to RGB or to 8-bit
# gray, masks too. Of a 16-bit mask of instances (as Cityscapes', with ids such as 24001) all ids above 255 become 255,
# one object, and an indexed mask (as VOC's and DAVIS') becomes the colors, or the gray of the colors, of its palette
# instead of the classes. No word is said; the writer keeps the file as it is. Give masks a decoder of their own before
# it: `decode(wds.handle_extension('mask.png', read), 'pil')`. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   webdataset 1.0.2, Pillow 12.0.0, NumPy 2.2.6, Python 3.11.7
#   stored: ids [0, 7, 300, 1001], classes [0, 1, 2, 3]
#   decode('pil'): ids [0, 7, 255] in 3 channels, classes [0, 128] in 3 channels
#   decode('pill'): ids [0, 7, 255], classes [0, 38, 75, 113]
#   decode('l8'): ids [0, 7, 255], classes [0, 38, 75, 113]
#   decode('rgb8'): ids [0, 7, 255] in 3 channels, classes [0, 128] in 3 channels
#   a decoder of their own: ids [0, 7, 300, 1001], classes [0, 1, 2, 3]
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    webdataset==1.0.2 braceexpand==0.1.7 numpy==2.2.6 pillow==12.0.0 PyYAML==6.0.2

cat > show.py <<'PROGRAM'
import io
import platform
from importlib.metadata import version

import numpy as np
import PIL.Image
import webdataset as wds

print(f'webdataset {version("webdataset")}, Pillow {version("pillow")}, NumPy {np.__version__}, '
      f'Python {platform.python_version()}')
print('source: webdataset/autodecode.py, ImageHandler: `img = img.convert(mode.upper())`\n')

ids = np.zeros((4, 4), np.uint16)
ids[0], ids[1], ids[2] = 7, 300, 1001
classes = PIL.Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) // 4, 'P')
classes.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])  # as in VOC


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, 'PNG')
    return buffer.getvalue()


def read(data):
    return PIL.Image.open(io.BytesIO(data))


with wds.TarWriter('shard.tar') as writer:
    writer.write({'__key__': '1', 'ids.png': png(PIL.Image.fromarray(ids)), 'classes.png': png(classes)})


def values(image):
    array = np.asarray(image)
    return np.unique(array).tolist(), array.shape[2] if array.ndim == 3 else 1


def decoded(*decoders):
    (sample, ) = wds.WebDataset('shard.tar', shardshuffle=False).decode(*decoders)
    return values(sample['ids.png']), values(sample['classes.png'])


def text(result):
    return ', '.join(f'{name} {found}' + (f' in {channels} channels' if channels > 1 else '')
                     for name, (found, channels) in zip(('ids', 'classes'), result))


truth = values(ids), values(classes)
print(f'stored: {text(truth)}')
seen = {}
for name in ('pil', 'pill', 'l8', 'rgb8'):
    seen[name] = decoded(name)
    print(f'decode({name!r}): {text(seen[name])}')
own = decoded(wds.handle_extension('ids.png', read), wds.handle_extension('classes.png', read), 'pil')
print(f'a decoder of their own: {text(own)}')
gray = ([0, 7, 255], 1), ([0, 38, 75, 113], 1)
color = ([0, 7, 255], 3), ([0, 128], 3)
same = seen == dict(pil=color, pill=gray, l8=gray, rgb8=color) and own == truth
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
