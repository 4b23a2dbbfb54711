# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Settings of an adapter over a plain folder, and folders that hold an adapter alone."""

from pathlib import Path

from policy_folders import case, change_json, move

TARGETS = dict(
    language=dict(),
    attention=dict(target_modules=['q_proj', 'k_proj', 'v_proj', 'o_proj']),
    mlp=dict(target_modules=['gate_proj', 'up_proj', 'down_proj']),
    all_linear=dict(target_modules='all-linear'),
    embedding=dict(target_modules=['embed_tokens']),
    head=dict(target_modules=['lm_head']),
    both_ends=dict(target_modules=['embed_tokens', 'lm_head']),
    ends_and_layers=dict(target_modules=['embed_tokens', 'lm_head', 'q_proj', 'down_proj']),
    vision=dict(target_modules=r'.*visual\.blocks.*\.(qkv|fc1|linear_fc1|up_proj)'),
    patches=dict(target_modules=['patch_embed.proj']),
    merger=dict(target_modules=r'.*visual\.merger.*(mlp\.[02]|linear_fc\d)'),
    language_and_vision=dict(target_modules='language_and_vision'),
    pattern=dict(target_modules=r'model\.language_model\.layers\.1\..*(q|up)_proj'),
    one_layer=dict(target_modules=['q_proj', 'v_proj'], layers_to_transform=[1],
                   layers_pattern='layers'),
    excluding=dict(target_modules=['q_proj', 'v_proj'],
                   exclude_modules=r'.*\.(linear_attn|merger)\..*'),
    scaled=dict(target_modules=['q_proj', 'v_proj', 'lm_head'], use_rslora=True,
                rank_pattern={'v_proj': 2}, alpha_pattern={'lm_head': 3}),
    dora=dict(target_modules=['q_proj', 'embed_tokens', 'lm_head'], use_dora=True),
    biased=dict(target_modules=['q_proj', 'k_proj'], lora_bias=True),
    parameters=dict(target_modules=['q_proj'], target_parameters=['up_proj.weight']))
"""Name -> settings of an adapter that a policy can have."""
EXPERTS = dict(target_modules=['q_proj'],
               target_parameters=['mlp.experts.gate_up_proj', 'mlp.experts.down_proj'])
"""Settings of one that reaches experts."""

REFUSED = [
    (dict(bias='all'), "lora.bias` should be 'none'"),
    (dict(bias='lora_only'), "lora.bias` should be 'none'"),
    (dict(modules_to_save=['lm_head']), 'lora.modules_to_save` should be None'),
    (dict(trainable_token_indices=[1]), 'lora.trainable_token_indices` should be None'),
    (dict(ensure_weight_tying=True), 'lora.ensure_weight_tying` should be False'),
    (dict(init_lora_weights='pissa'), 'lora.init_lora_weights` should be True'),
    (dict(layer_replication=[[0, 1]]), 'lora.layer_replication` should be None'),
    (dict(alpha_pattern={'no_such': 3}), "`lora.alpha_pattern` should name .* got 'no_such'"),
    (dict(of_tomorrow=3), "got .'of_tomorrow'.; correct or remove")]
"""Settings that a policy cannot have, and what is said of them."""


for name, settings in TARGETS.items():
    @case(f'below an adapter: {name}', policy=dict(lora=dict(r=4, **settings)), needs=('peft', ),
          slow=True)
    def _(folder: Path) -> None:
        """It starts without effect."""

for settings, told in [*REFUSED, (dict(r=0), '`r` should be a positive integer'),
                       (dict(target_modules=[]), 'No `target_modules` passed'),
                       (dict(target_modules=['no_such']), 'there is no no_such; correct or remove'),
                       (dict(target_modules=['norm']), 'RMSNorm.* is not supported')]:
    @case(f'below an adapter that cannot be: {settings}', policy=dict(lora=settings),
          refused=told, needs=('peft', ))
    def _(folder: Path) -> None:
        pass


def adapter_alone(folder: Path, **entries: object) -> None:
    (folder / 'config.json').unlink()
    move(folder, 'model.safetensors', 'adapter_model.safetensors')
    change_json(folder / 'adapter_config.json', peft_type='LORA', r=4, target_modules=['q_proj'],
                **entries)


@case('an adapter alone', refused="holds only an adapter; set `model.policy.pretrained` to "
                                  "'somewhere/base', `model.policy.lora` to dict.r=4")
def _(folder: Path) -> None:
    adapter_alone(folder, base_model_name_or_path='somewhere/base')


@case('an adapter alone, to be evaluated', refused='holds only an adapter', training=False)
def _(folder: Path) -> None:
    adapter_alone(folder)


@case('an adapter alone, damaged', refused='adapter_config.json should hold a JSON object')
def _(folder: Path) -> None:
    adapter_alone(folder)
    (folder / 'adapter_config.json').write_text('[]')


@case('below an adapter in a frozen vision tower', needs=('peft', ), refused='should not reach the '
      'vision tower with `freeze_vision=True`, but has an adapter in .* of its layers',
      policy=dict(freeze_vision=True, lora=dict(r=4, target_modules='language_and_vision')))
def _(folder: Path) -> None:
    pass


@case('below an adapter beside a frozen vision tower', needs=('peft', ),
      policy=dict(freeze_vision=True, lora=dict(r=4)))
def _(folder: Path) -> None:
    pass
