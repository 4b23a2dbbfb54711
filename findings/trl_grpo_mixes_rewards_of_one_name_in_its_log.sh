#!/usr/bin/env bash
# trl: GRPOTrainer logs each reward function by its __name__. Two functions of one name, as a factory makes them
# (`accuracy_above(0.5)`, `accuracy_above(0.75)`), share one entry, "rewards/NAME/mean": the mean of both, without a
# word. A term that is always 0 (and so teaches nothing) beside one that is always 1 reads as 0.5. Give each function
# its own __name__. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   trl 1.16.0, transformers 5.24.0, torch 2.14.1, Python 3.11.7
#   both are called "reward": {'rewards/reward/mean': 0.5}
#   each has its own __name__: {'rewards/above_0.5/mean': 1.0, 'rewards/above_0.75/mean': 0.0}
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    trl==1.16.0 transformers==5.24.0 datasets==5.2.0 accelerate==1.15.0 torch==2.14.1 numpy==2.2.6

cat > show.py <<'PROGRAM'
import contextlib
import io
import logging
import platform
import tempfile
import warnings

warnings.simplefilter('ignore')
logging.disable(logging.WARNING)
import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

print(f'trl {trl.__version__}, transformers {transformers.__version__}, '
      f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print('source: trl/trainer/grpo_trainer.py, reward_func_names and _metrics[mode]["rewards/..."]\n')
words = {word: number for number, word in enumerate(['<pad>', '<end>', '<unk>', *'abcdefghijklm'])}
backend = Tokenizer(models.WordLevel(words, unk_token='<unk>'))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token='<pad>', eos_token='<end>', unk_token='<unk>')
CONFIG = LlamaConfig(vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                     num_attention_heads=4, num_key_value_heads=4, bos_token_id=None, eos_token_id=1, pad_token_id=0)


def accuracy_above(threshold, values=(0.6, 0.6, 0.7, 0.7)):
    def reward(completions, **_):
        return [float(value > threshold) for value in values]
    return reward


def logged(*functions):
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = GRPOTrainer(
            model=LlamaForCausalLM(CONFIG), processing_class=tokenizer, reward_funcs=list(functions),
            train_dataset=Dataset.from_dict(dict(prompt=['a b c'] * 4)),
            args=GRPOConfig(output_dir=folder, max_steps=1, use_cpu=True, bf16=False, per_device_train_batch_size=4,
                            num_generations=4, max_completion_length=4, report_to='none', disable_tqdm=True,
                            logging_steps=1, save_strategy='no', seed=0))
        trainer.train()
    return {name: float(value) for name, value in trainer.state.log_history[0].items()
            if name.startswith('rewards/') and name.endswith('/mean')}


low, high = accuracy_above(0.5), accuracy_above(0.75)
mixed = logged(low, high)
low.__name__, high.__name__ = 'above_0.5', 'above_0.75'
apart = logged(low, high)
print(f'both are called "reward": {mixed}\neach has its own __name__: {apart}')
same = mixed == {'rewards/reward/mean': 0.5} and apart == {'rewards/above_0.5/mean': 1.0,
                                                          'rewards/above_0.75/mean': 0.0}
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
