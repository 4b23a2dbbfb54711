#!/usr/bin/env bash
# transformers: a transparent image (a cut-out object, a diagram) gets a black background where a chat template or a
# processor of Qwen2.5-VL is given its path, and a white one where it is given the opened image, or where qwen-vl-utils
# opens it, as in Qwen's own recipes. So black lines are lost by path, without a word, and a model that was trained in
# one way is asked in another. Exits with 0 while it is so, with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 pillow==12.3.0 jinja2==3.1.6 qwen-vl-utils==0.0.14

cat > show.py <<'PROGRAM'
import platform
from importlib.metadata import version

import transformers
from PIL import Image, ImageDraw
from qwen_vl_utils import process_vision_info
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

transformers.logging.set_verbosity_error()
print(f'transformers {transformers.__version__}, qwen-vl-utils {version("qwen-vl-utils")}, '
      f'Pillow {version("pillow")}, Python {platform.python_version()}')
print('source: Qwen2_5_VLProcessor with the defaults of its image processor, in four ways, and '
      'qwen_vl_utils.process_vision_info\n')
special = ['<|vision_start|>', '<|vision_end|>', '<|image_pad|>', '<|video_pad|>', '<unk>']
tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + ['Read'])}, unk_token='<unk>'))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
PICTURE = '<|vision_start|><|image_pad|><|vision_end|>'
processor = Qwen2_5_VLProcessor(
    Qwen2VLImageProcessor(), PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token='<unk>', additional_special_tokens=special[:4]),
    Qwen2VLVideoProcessor(), chat_template=f'{PICTURE} Read')

# A black line on a background that is transparent, and so has no color of its own.
Image.new('RGBA', (112, 112), (0, 0, 0, 0)).save('line.png')
image = Image.open('line.png')
ImageDraw.Draw(image).line((20, 20, 90, 90), fill=(0, 0, 0, 255), width=6)
image.save('line.png')


def chat(**source):
    return [dict(role='user', content=[dict(type='image', **source), dict(type='text', text='Read')])]


def template(**source):
    return processor.apply_chat_template(chat(**source), tokenize=True, return_dict=True, return_tensors='pt',
                                         processor_kwargs=dict(do_normalize=False))


def call(images):
    return processor(text=[f'{PICTURE} Read'], images=images, return_tensors='pt', do_normalize=False)


seen = {}
for name, batch in (
        ('apply_chat_template, path', template(path='line.png')),
        ('apply_chat_template, PIL image', template(image=Image.open('line.png'))),
        ('processor, path', call(['line.png'])),
        ('processor, PIL image', call([Image.open('line.png')])),
        ('process_vision_info, then processor', call(process_vision_info(chat(image='line.png'))[0]))):
    values = batch['pixel_values']
    seen[name] = (round(float(values.median()), 2), bool(values.max() - values.min() > 0.5))
    print(f'{name:36} background {seen[name][0]:.0f} (0 is black, 1 is white), the line is '
          f'{"visible" if seen[name][1] else "lost"}')
black, white = (0.0, False), (1.0, True)
raise SystemExit(0 if list(seen.values()) == [black, white, black, white, white] else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: black by path, white as an image'
else
    echo 'changed: transparent images are loaded otherwise' >&2
    exit 1
fi
