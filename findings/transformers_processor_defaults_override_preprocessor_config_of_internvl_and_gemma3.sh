#!/usr/bin/env bash
# transformers: settings that a processor class names in its `images_kwargs` win over those of preprocessor_config.json,
# in both directions and without a warning. `crop_to_patches: false`, as InternVL's folders say it, still cuts images
# into up to 12 tiles and a thumbnail of 256 tokens each; `do_pan_and_scan: true` of Gemma 3 cuts none. Only the image
# processor called by itself obeys the file, so the two disagree on the number of crops, and `image_processor` of the
# loaded processor shows the value that is not used. The docstring of `_merge_kwargs` gives these defaults the lowest
# priority. What to do: say it in the call, `images_kwargs=dict(crop_to_patches=False)`, or set `images_kwargs` of the
# processor. Exits with 0 while it is so, with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 pillow==12.3.0

cat > show.py <<'PROGRAM'
import json
import logging
import platform
import warnings
from pathlib import Path

import numpy as np
import transformers
from tokenizers import Tokenizer, models
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerFast,
)

transformers.logging.set_verbosity_warning()
print(f'transformers {transformers.__version__}, Python {platform.python_version()}')
print('source: AutoProcessor and AutoImageProcessor of folders whose preprocessor_config.json is edited, crops of an '
      'image of 1792 x 448 pixels\n')
logged = []
handler = logging.Handler()
handler.emit = lambda record: logged.append(record.getMessage())
transformers.logging.add_handler(handler)
warnings.showwarning = lambda message, *_, **__: logged.append(str(message))
image = np.zeros((448, 1792, 3), np.uint8)


def tokenizer(**names):
    words = {word: i for i, word in enumerate(['<unk>', *names.values()])}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token='<unk>')), unk_token='<unk>',
        extra_special_tokens=names)


FAMILIES = {
    'InternVL': (InternVLProcessor(
        GotOcr2ImageProcessor(size=dict(height=448, width=448)), tokenizer(
            start_image_token='<img>', end_image_token='</img>', context_image_token='<IMG_CONTEXT>',
            video_token='<video>'), InternVLVideoProcessor()), 'crop_to_patches', '<IMG_CONTEXT>'),
    'Gemma 3': (Gemma3Processor(
        Gemma3ImageProcessor(size=dict(height=224, width=224), pan_and_scan_min_crop_size=256,
                             pan_and_scan_max_num_crops=4, pan_and_scan_min_ratio_to_activate=1.2),
        tokenizer(boi_token='<boi>', eoi_token='<eoi>', image_token='<image>')), 'do_pan_and_scan', '<boi>')}
seen = {}
for family, (processor, option, text) in FAMILIES.items():
    folder = Path(family)
    processor.save_pretrained(folder)
    settings = json.loads((folder / 'processor_config.json').read_text())
    # As published folders have it: the settings of images in a file of their own.
    images = settings.pop('image_processor') | dict(processor_class=settings['processor_class'])
    (folder / 'processor_config.json').write_text(json.dumps(settings))
    for value in (False, True):
        (folder / 'preprocessor_config.json').write_text(json.dumps(images | {option: value}))
        logged.clear()
        loaded = AutoProcessor.from_pretrained(folder)
        ways = {'image processor': AutoImageProcessor.from_pretrained(folder)(image)['pixel_values'],
                'processor': loaded(images=image, text=text)['pixel_values'],
                'processor, told': loaded(images=image, text=text, images_kwargs={option: value})['pixel_values']}
        loaded.images_kwargs = loaded.images_kwargs | {option: value}
        ways['processor, set'] = loaded(images=image, text=text)['pixel_values']
        counts = seen[family, value] = {way: len(crops) for way, crops in ways.items()}
        about = [message for message in logged if option in message]
        print(f'{family}, {option} {value}: {getattr(loaded.image_processor, option)} as loaded; crops {counts}, '
              f'warnings: {about or "none"}')
        counts['warnings'] = len(about)
same = all(not counts['warnings'] and counts['image processor'] == counts['processor, told'] == counts['processor, set']
           and (counts['image processor'] > 1) == value and (counts['processor'] > 1) == (family == 'InternVL')
           for (family, value), counts in seen.items())
raise SystemExit(0 if same else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: the file is not obeyed'
else
    echo 'changed: the file is obeyed' >&2
    exit 1
fi
