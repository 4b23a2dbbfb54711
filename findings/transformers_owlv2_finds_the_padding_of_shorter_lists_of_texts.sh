#!/usr/bin/env bash
# transformers: OWL-ViT and OWLv2 pad a list of texts that is shorter than the longest one of its batch with " ", and
# say that such queries are masked out. They are not: the mask looks for token 0, and " " begins with the start token.
# So an image with fewer texts gets detections of the blank text, which take the place of its own ones: labels beyond
# its list, without a word, and with text_labels (the lists as they were given) an IndexError, only on images where the
# blank wins. Repeat a text of the image up to the longest list instead. Exits with 0 while it is so, with 1 once it is
# not.
#
# Seen:
#   transformers 5.24.0, torch 2.14.1, Python 3.11.7
#   tokens of the padding of image 1: [[1, 2, 0, 0], [1, 2, 0, 0]]
#   highest logit of each query of image 1: [-43.0, -40.5, -40.5]
#   labels of the 64 boxes of image 1, of the texts ['dog']: [0, 64, 0]
#   with text_labels: IndexError: list index out of range
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 pillow==12.3.0 scipy==1.17.1 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform

import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    PreTrainedTokenizerFast,
)

transformers.logging.set_verbosity_error()
print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: Owlv2Processor (padding), Owlv2ForObjectDetection.forward ("If first token is 0, then this is a padded '
      'query")\n')
# As in the published tokenizers: padding is token 0, and each text stands between a start token and an end token.
words = {word: number for number, word in enumerate(['!', '<start>', '<end>', 'cat', 'dog', 'mug'])}
backend = Tokenizer(models.WordLevel(words, unk_token='!'))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
backend.post_processor = processors.TemplateProcessing(single='<start> $A <end>',
                                                       special_tokens=[('<start>', 1), ('<end>', 2)])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token='!', bos_token='<start>', eos_token='<end>',
                                    model_max_length=16)
processor = Owlv2Processor(Owlv2ImageProcessor(size=dict(height=64, width=64)), tokenizer)
torch.manual_seed(0)
shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
model = Owlv2ForObjectDetection(Owlv2Config(
    text_config=dict(shape, vocab_size=len(words), pad_token_id=0, bos_token_id=1, eos_token_id=2),
    vision_config=dict(shape, image_size=64, patch_size=8), projection_dim=32)).eval()

texts = [['cat', 'dog', 'mug'], ['dog']]
inputs = processor(text=texts, images=[Image.new('RGB', (64, 64), color) for color in ('red', 'blue')],
                   return_tensors='pt')
with torch.no_grad():
    outputs = model(**inputs)
logits = outputs.logits[1]  # of the second image, of which there is one text; masked out means -3.4e38
print(f'tokens of the padding of image 1: {inputs["input_ids"].reshape(2, 3, -1)[1, 1:, :4].tolist()}')
print(f'highest logit of each query of image 1: {[round(float(value), 1) for value in logits.amax(0)]}')
found = processor.post_process_grounded_object_detection(outputs, threshold=0, target_sizes=[(64, 64)] * 2)[1]
labels = found['labels'].bincount(minlength=3).tolist()
print(f'labels of the {len(found["labels"])} boxes of image 1, of the texts {texts[1]}: {labels}')
try:
    processor.post_process_grounded_object_detection(outputs, threshold=0, target_sizes=[(64, 64)] * 2,
                                                     text_labels=texts)
    error = None
except IndexError as raised:
    error = f'IndexError: {raised}'
print(f'with text_labels: {error}')
same = bool((logits > -1e4).all()) and sum(labels[1:]) > 0 and error is not None
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
