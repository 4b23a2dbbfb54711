#!/usr/bin/env bash
# qwen-vl-utils: fetch_image and process_vision_info ignore the orientation in the EXIF data, so a photo that was taken
# with an upright phone lies on its side for the model. transformers by path (chat templates), datasets, OpenCV,
# browsers, and labeling tools turn it. So a model that is trained with Qwen's recipe sees other pictures than it is
# asked about by a chat template, and boxes that were drawn on the upright image belong to other places, without a word.
# Apply PIL.ImageOps.exif_transpose first. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   qwen-vl-utils 0.0.14, transformers 5.24.0, OpenCV 4.14.0, Pillow 12.3.0, Python 3.11.7
#   qwen-vl-utils, path: size (672, 448), box of the sky (0, 0, 224, 448)
#   qwen-vl-utils, opened image: size (672, 448), box of the sky (0, 0, 224, 448)
#   qwen-vl-utils, turned before: size (448, 672), box of the sky (0, 0, 448, 224)
#   transformers, path: size (448, 672), box of the sky (0, 0, 448, 224)
#   OpenCV: size (448, 672), box of the sky (0, 0, 448, 224)
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    qwen-vl-utils==0.0.14 transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 pillow==12.3.0 numpy==2.2.6 \
    opencv-python-headless==4.14.0.94

cat > show.py <<'PROGRAM'
import platform
from importlib.metadata import version

import cv2
import numpy as np
import transformers
from PIL import Image, ImageOps
from qwen_vl_utils import process_vision_info
from transformers.image_utils import load_image

transformers.logging.set_verbosity_error()
print(f'qwen-vl-utils {version("qwen-vl-utils")}, transformers {transformers.__version__}, OpenCV {cv2.__version__}, '
      f'Pillow {version("pillow")}, Python {platform.python_version()}')
print('source: qwen_vl_utils/vision_process.py, fetch_image; transformers.image_utils.load_image\n')
# As a phone saves it: the sensor is wider than high, orientation 6 says "turn to the right". The sky of the upright
# photo is at the left of the stored one.
pixels = np.full((448, 672, 3), 60, np.uint8)
pixels[:, :224] = (120, 180, 255)
photo = Image.fromarray(pixels)
exif = photo.getexif()
exif[0x0112] = 6
photo.save('photo.jpg', exif=exif)


def qwen(image):
    content = [dict(type='image', image=image), dict(type='text', text='Where is the sky?')]
    return process_vision_info([dict(role='user', content=content)])[0][0]


images = {'qwen-vl-utils, path': qwen('photo.jpg'), 'qwen-vl-utils, opened image': qwen(Image.open('photo.jpg')),
          'qwen-vl-utils, turned before': qwen(ImageOps.exif_transpose(Image.open('photo.jpg'))),
          'transformers, path': load_image('photo.jpg'),
          'OpenCV': Image.fromarray(cv2.imread('photo.jpg')[..., ::-1])}
seen = {}
for name, image in images.items():
    blue = np.asarray(image.convert('RGB'))[..., 2] > 150
    rows, columns = np.where(blue)
    seen[name] = image.size, (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    print(f'{name}: size {seen[name][0]}, box of the sky {seen[name][1]}')
lying, upright = ((672, 448), (0, 0, 224, 448)), ((448, 672), (0, 0, 448, 224))
same = list(seen.values()) == [lying, lying, upright, upright, upright]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
