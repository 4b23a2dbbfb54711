# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Run by a Python with an older transformers; knows nothing of mmdpad.

    python old_transformers_script.py write FAMILY FOLDER TOKENIZER_FOLDER
    python old_transformers_script.py adapter FOLDER ADAPTER_FOLDER
    python old_transformers_script.py score FOLDER CASE.pt [ADAPTER_FOLDER]
"""

import json
import sys
from pathlib import Path

import torch
import transformers

NAMES = dict(qwen2_vl='Qwen2VL', qwen2_5_vl='Qwen2_5_VL', qwen3_vl='Qwen3VL')
WIDTH, LAYERS = 32, 2


def write(family: str, folder: str, tokenizer_folder: str) -> dict:
    """A tiny random model with its processor, as this version saves them."""
    name = NAMES[family]
    old_style = not hasattr(transformers, f'{name}TextConfig')  # entries of the text outside
    tokenizer = transformers.Qwen2TokenizerFast(
        tokenizer_file=str(Path(tokenizer_folder, 'tokenizer.json')), eos_token='<|im_end|>',
        pad_token='<|endoftext|>')
    template = Path(tokenizer_folder, 'chat_template.jinja').read_text()
    tokens = dict(image='image_pad', video='video_pad', vision_start='vision_start',
                  vision_end='vision_end')
    ids = {f'{key}_token_id': tokenizer.convert_tokens_to_ids(f'<|{token}|>')
           for key, token in tokens.items()}
    patch = 16 if family == 'qwen3_vl' else 14
    image = dict(patch_size=patch, merge_size=2, temporal_patch_size=2)
    parts = dict(image_processor=transformers.Qwen2VLImageProcessor(**image), tokenizer=tokenizer,
                 chat_template=template)
    video = getattr(transformers, 'Qwen3VLVideoProcessor' if family == 'qwen3_vl' else
                    'Qwen2VLVideoProcessor', None)
    if video is not None:
        parts['video_processor'] = video(**image)
    getattr(transformers, f'{name}Processor')(**parts).save_pretrained(folder)
    end, pad = tokenizer.convert_tokens_to_ids(['<|im_end|>', '<|endoftext|>'])
    rope = dict(mrope_section=[2, 3, 3])
    text = dict(vocab_size=151936, hidden_size=WIDTH, intermediate_size=2 * WIDTH,
                num_hidden_layers=LAYERS, num_attention_heads=2, num_key_value_heads=1,
                max_position_embeddings=32768, rope_theta=1e6, bos_token_id=pad, eos_token_id=end)
    vision = dict(depth=LAYERS, num_heads=2, spatial_merge_size=2, temporal_patch_size=2,
                  patch_size=patch)
    if family == 'qwen2_vl':
        vision |= dict(embed_dim=WIDTH, hidden_size=WIDTH, mlp_ratio=2)
    else:
        vision |= dict(hidden_size=WIDTH, intermediate_size=2 * WIDTH, out_hidden_size=WIDTH)
    if family == 'qwen2_5_vl':
        vision |= dict(window_size=112, fullatt_block_indexes=[1])
    if family == 'qwen3_vl':
        vision |= dict(num_position_embeddings=2304, deepstack_visual_indexes=[0])
        text |= dict(head_dim=16, tie_word_embeddings=True, rope_scaling=dict(
            rope, rope_type='default', mrope_interleaved=True))
    else:
        text |= dict(rope_scaling=dict(rope, type='mrope'))
    outer = dict(vision_config=vision, tie_word_embeddings=True, **ids)
    config = getattr(transformers, f'{name}Config')(
        **(text | outer if old_style else dict(text_config=text) | outer))
    torch.manual_seed(0)
    model = getattr(transformers, f'{name}ForConditionalGeneration')(config).float()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.15)
    model.generation_config.update(pad_token_id=pad, eos_token_id=[end, pad], do_sample=True)
    model.save_pretrained(folder)
    return dict(transformers=transformers.__version__,
                files=sorted(path.name for path in Path(folder).iterdir()))


def load(folder: str) -> torch.nn.Module:
    family = json.loads(Path(folder, 'config.json').read_text())['model_type']
    model_class = getattr(transformers, f'{NAMES[family]}ForConditionalGeneration')
    return model_class.from_pretrained(folder, torch_dtype=torch.float32).eval()


def adapter(folder: str, out: str) -> dict:
    """A random adapter of the peft of that time."""
    import peft
    torch.manual_seed(1)
    model = peft.get_peft_model(load(folder), peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=['q_proj', 'v_proj', 'down_proj']))
    for name, parameter in model.named_parameters():
        if 'lora_' in name:
            parameter.data.normal_(std=0.1)
    model.save_pretrained(out)
    return dict(peft=peft.__version__)


def score(folder: str, path: str, adapter_folder: str = '') -> dict:
    """The log-probabilities of a response after a prompt that this version's processor makes."""
    case = torch.load(path, weights_only=True)
    model = load(folder)
    if adapter_folder:
        import peft
        model = peft.PeftModel.from_pretrained(model, adapter_folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    text = processor.apply_chat_template(case['messages'], tokenize=False,
                                         add_generation_prompt=True)
    inputs = dict(processor(text=[text], images=[case['image'].permute(1, 2, 0).numpy()],
                            return_tensors='pt'))
    inputs.pop('mm_token_type_ids', None)
    response = processor.tokenizer(case['response'], add_special_tokens=False,
                                   return_tensors='pt')['input_ids']
    ids = torch.cat([inputs.pop('input_ids'), response], dim=1)
    inputs['attention_mask'] = torch.ones_like(ids)
    with torch.no_grad():
        logits = model(input_ids=ids, **inputs).logits.float()
    logits[..., case['vision_tokens']] = -torch.inf
    found = logits[0, -response.shape[1] - 1:-1].log_softmax(-1).gather(1, response[0, :, None])
    return dict(log_probs=found[:, 0].tolist(), ids=ids[0].tolist())


if __name__ == '__main__':
    print(json.dumps(dict(write=write, adapter=adapter, score=score)[sys.argv[1]](*sys.argv[2:])))
