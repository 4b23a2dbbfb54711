# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Files of weights, and the names in them."""

from pathlib import Path

import torch
from policy_folders import (
    as_bin,
    case,
    change_json,
    change_weights,
    in_shards,
    move,
    read_json,
)
from safetensors.torch import load_file

POINTER = ('version https://git-lfs.github.com/spec/v1\n'
           'oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n'
           'size 3945441440\n')


@case('as transformers writes it')
def _(folder: Path) -> None:
    pass


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


@case('pytorch_model.bin with more than weights',
      refused='pytorch_model.bin should map names to tensors')
def _(folder: Path) -> None:
    torch.save(dict(epoch=3, state_dict=as_bin(folder)), folder / 'pytorch_model.bin')


@case('a shard is missing', refused='model-00002-of-00002.safetensors does not exist')
def _(folder: Path) -> None:
    in_shards(folder, 'safetensors')
    (folder / 'model-00002-of-00002.safetensors').unlink()


@case('a shard of .bin is missing', refused='pytorch_model-00001-of-00002.bin does not exist')
def _(folder: Path) -> None:
    in_shards(folder, 'bin')
    (folder / 'pytorch_model-00001-of-00002.bin').unlink()


@case('an unfinished download', refused='00001.*does not exist; its download is unfinished')
def _(folder: Path) -> None:
    in_shards(folder, 'safetensors')
    (folder / '.cache/huggingface/download').mkdir(parents=True)
    move(folder, 'model-00001-of-00002.safetensors',
         '.cache/huggingface/download/aGFzaA==.4d7a.incomplete')


@case('the index is damaged', refused='model.safetensors.index.json should be JSON')
def _(folder: Path) -> None:
    in_shards(folder, 'safetensors')
    (folder / 'model.safetensors.index.json').write_text('{"weight_map"')


@case('weights of two savings', refused='has two sets of weights, model.safetensors and the '
                                        'files that model.safetensors.index.json lists')
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


@case('GGUF alone', refused='no weights .*GGUF file, which is not supported')
def _(folder: Path) -> None:
    move(folder, 'model.safetensors', 'model-Q4_K_M.gguf')


@case('Git LFS pointers in place of weights', refused='model.safetensors is a Git LFS pointer')
def _(folder: Path) -> None:
    (folder / 'model.safetensors').write_text(POINTER)


@case('a Git LFS pointer in place of a .bin', refused='pytorch_model.bin is a Git LFS pointer')
def _(folder: Path) -> None:
    as_bin(folder)
    (folder / 'pytorch_model.bin').write_text(POINTER)


@case('a Git LFS pointer in place of tokenizer.json', refused='tokenizer.json is a Git LFS pointer')
def _(folder: Path) -> None:
    (folder / 'tokenizer.json').write_text(POINTER)


@case('an empty file of weights', refused='model.safetensors is not a safetensors file')
def _(folder: Path) -> None:
    (folder / 'model.safetensors').write_bytes(b'')


@case('a clone without its files', refused='has no config.json')
def _(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / '.gitattributes').write_text('*.safetensors filter=lfs diff=lfs merge=lfs -text\n')


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


@case('a head that is tied and another',
      refused='config.json ties the output head .*different values')
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
