#!/usr/bin/env bash
# mmengine with models of transformers 5 and adapters of peft: before it trains, Runner calls `init_weights` of each
# part of the model that has such a method. peft's model passes this on to that of transformers, which spares what
# from_pretrained read and draws the rest anew: the adapter. So training goes on from random numbers in place of the
# adapter that was loaded, and a new one is not without effect at its start, as `B` is not 0. No warning is given; the
# log has "Initialized by user-defined `init_weights` in PeftModel" for each weight. Exits with 0 while it is so, with
# 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.14.1 transformers==5.24.0 peft==0.21.2 addict==2.4.0 matplotlib==3.10.7 numpy==2.2.6 \
    opencv-python-headless==4.11.0.86 PyYAML==6.0.2 rich==13.9.4 setuptools==80.9.0 termcolor==2.5.0 yapf==0.43.0
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps mmengine==0.10.7

cat > show.py <<'PROGRAM'
import platform
from importlib.metadata import version

import peft
import torch
import transformers
from mmengine.model import BaseModel
from mmengine.runner import Runner
from transformers import Qwen2Config, Qwen2ForCausalLM

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
print(f'mmengine {version("mmengine")}, transformers {transformers.__version__}, peft {peft.__version__}, '
      f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print('source: Runner(...).train() with a learning rate of 0, so that no weight should change\n')
torch.manual_seed(0)
TOKENS = torch.arange(10)[None]
LORA = dict(r=4, target_modules=['q_proj', 'v_proj'])
Qwen2ForCausalLM(Qwen2Config(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)).save_pretrained('base')


def base():
    return Qwen2ForCausalLM.from_pretrained('base')


trained = peft.get_peft_model(base(), peft.LoraConfig(init_lora_weights=False, **LORA))
trained.save_pretrained('trained')


class Model(BaseModel):
    def __init__(self, language_model):
        super().__init__()
        self.language_model = language_model

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.language_model(input_ids=inputs, labels=inputs).loss)


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=TOKENS).logits


seen = {}
for name, make in (('transformers alone', base),
                   ('new adapter', lambda: peft.get_peft_model(base(), peft.LoraConfig(**LORA))),
                   ('trained adapter', lambda: peft.PeftModel.from_pretrained(base(), 'trained', is_trainable=True))):
    model = Model(make())
    before, answer = {key: value.clone() for key, value in model.state_dict().items()}, logits(model.language_model)
    Runner(model=model, work_dir='.', log_level='ERROR', experiment_name=name.replace(' ', '_'),
           default_hooks=dict(checkpoint=None), train_cfg=dict(by_epoch=False, max_iters=1),
           optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
           train_dataloader=dict(batch_size=1, dataset=[dict(inputs=TOKENS[0])],
                                 sampler=dict(type='InfiniteSampler'),
                                 collate_fn=dict(type='default_collate'))).train()
    changed = [key for key, value in model.state_dict().items() if not value.equal(before[key])]
    by = (logits(model.language_model) - answer).abs().max().item()
    seen[name] = ({key.rpartition('.weight')[0].removesuffix('.default').rpartition('.')[2] for key in changed},
                  by > 1e-3)
    print(f'{name:18}: {len(changed)} of {len(before)} weights changed {sorted(seen[name][0])}, the logits by up to '
          f'{by:.3f} (they are up to {answer.abs().max():.3f})')
raise SystemExit(0 if seen == {
    'transformers alone': (set(), False), 'new adapter': ({'lora_A', 'lora_B'}, True),
    'trained adapter': ({'lora_A', 'lora_B'}, True)} else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: trained weights are replaced by random ones'
else
    echo 'changed: the weights are left as they are' >&2
    exit 1
fi
