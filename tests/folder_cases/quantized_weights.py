# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Adapters beside a full model, and weights that are quantized already."""

from pathlib import Path

import torch
from policy_folders import case, change_json, move, quantized, read_json
from safetensors.torch import save_file

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


@case('an adapter with the config.json of its base', refused='no weights .*, but only an adapter')
def _(folder: Path) -> None:
    change_json(folder / 'adapter_config.json', peft_type='LORA', target_modules=['q_proj'])
    move(folder, 'model.safetensors', 'adapter_model.safetensors')


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


@case('bitsandbytes, whole layers that nothing names', training=False, needs=('bitsandbytes', ),
      refused=r'The weights of 3 layers \(model.language_model.layers.1.*should be quantized, but')
def _(folder: Path) -> None:
    quantized(folder, **NF4, llm_int8_skip_modules=[
        'model.visual', 'lm_head', 'model.language_model.layers.1.mlp'])
    settings = read_json(folder / 'config.json')['quantization_config']
    settings['llm_int8_skip_modules'] = ['visual', 'lm_head']
    change_json(folder / 'config.json', quantization_config=settings)


for published in (AWQ, GPTQ, FP8, COMPRESSED):
    name = published['quant_method']

    @case(f'{name}, to be trained', refused=f'quantized.*{name}')
    def _(folder: Path, settings: dict = published) -> None:
        change_json(folder / 'config.json', quantization_config=settings)

    @case(f'{name}, below an adapter', policy=LORA, needs=('peft', ),
          refused=f'`lora` needs unquantized weights or .* quantized by {name}')
    def _(folder: Path, settings: dict = published) -> None:
        change_json(folder / 'config.json', quantization_config=settings)


@case('AWQ, to be evaluated', training=False, refused='quantized .awq.: .*install gptqmodel')
def _(folder: Path) -> None:
    change_json(folder / 'config.json', quantization_config=AWQ)


@case('a quantization that nobody knows', training=False, refused='quantized .mine..*not know')
def _(folder: Path) -> None:
    change_json(folder / 'config.json', quantization_config=dict(quant_method='mine'))
