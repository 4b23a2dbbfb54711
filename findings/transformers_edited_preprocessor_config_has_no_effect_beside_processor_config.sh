#!/usr/bin/env bash
# transformers 5: save_pretrained of a processor writes all settings to processor_config.json and leaves an older
# preprocessor_config.json where it is. From then on the latter, the file that guides tell people to edit
# (`max_pixels` of Qwen2.5-VL, `size`), is not read any more, and there is no warning: images keep their number of
# tokens, or a run does not fit into memory as before. What to do: edit `image_processor` in processor_config.json, or
# delete that file. Exits with 0 while it is so, with 1 once it is not.
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
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

transformers.logging.set_verbosity_warning()
print(f'transformers {transformers.__version__}, Python {platform.python_version()}')
print('source: from_pretrained of a folder of Qwen2.5-VL whose preprocessor_config.json is edited, patches of an '
      'image of 560 x 560 pixels\n')
folder = Path('model')
special = ['<|vision_start|>', '<|vision_end|>', '<|image_pad|>', '<|video_pad|>', '<unk>']
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel({word: i for i, word in enumerate(special)}, unk_token='<unk>')),
    unk_token='<unk>', additional_special_tokens=special[:4])
published = Qwen2VLImageProcessor(size=dict(shortest_edge=3136, longest_edge=12845056))
logged = []
handler = logging.Handler()
handler.emit = lambda record: logged.append(record.getMessage())
transformers.logging.add_handler(handler)
warnings.showwarning = lambda message, *_, **__: logged.append(str(message))
image = np.zeros((560, 560, 3), np.uint8)


def edit(pixels):
    """Write the limit of pixels that the guides of Qwen2.5-VL name into the file that they name."""
    file = folder / 'preprocessor_config.json'
    settings = json.loads(file.read_text())
    settings['size']['longest_edge'] = settings['max_pixels'] = pixels
    file.write_text(json.dumps(settings))


def patches(name):
    """Patches of the image by both ways to read the folder, and the warnings about a file of settings."""
    logged.clear()
    processors = AutoImageProcessor.from_pretrained(folder), AutoProcessor.from_pretrained(folder).image_processor
    counts = [len(processor(images=image)['pixel_values']) for processor in processors]
    about = [message for message in logged if 'processor_config' in message]
    print(f'{name:45} AutoImageProcessor {counts[0]} patches, AutoProcessor {counts[1]}, warnings: {about or "none"}')
    return counts, about


Qwen2_5_VLProcessor(published, tokenizer, Qwen2VLVideoProcessor()).save_pretrained(folder)
(folder / 'processor_config.json').unlink()
published.save_pretrained(folder)  # preprocessor_config.json, as published folders have it
seen = [patches('as published')]
edit(100352)
seen.append(patches('edited'))
AutoProcessor.from_pretrained(folder).save_pretrained(folder)
seen.append(patches('saved by transformers 5 into the same folder'))
edit(12845056)
seen.append(patches('edited again'))
(folder / 'processor_config.json').unlink()
seen.append(patches('processor_config.json deleted'))
full, less = ([1600, 1600], []), ([484, 484], [])
raise SystemExit(0 if seen == [full, less, less, less, full] else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: the edited file has no effect'
else
    echo 'changed: the edited file is read' >&2
    exit 1
fi
