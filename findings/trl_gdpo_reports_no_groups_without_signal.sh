#!/usr/bin/env bash
# trl: with multi_objective_aggregation='normalize_then_sum' (GDPO) GRPOTrainer reports frac_reward_zero_std 0 however
# many groups carry no signal: it is the standard deviation of the whole batch that it compares with 0, where otherwise
# it is that of each group. So the number by which people see that a task has become too easy or too hard stays at its
# best. And scale_rewards='none' (Dr. GRPO) is ignored, without a word: each term is divided by its standard deviation
# in the group all the same. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   trl 1.16.0, transformers 5.24.0, torch 2.13.0, Python 3.11.7
#   sum_then_normalize, scale_rewards='group': frac_reward_zero_std 0.75, answers with an advantage other than 0:
#     [-1.5, 0.5, 0.5, 0.5]
#   sum_then_normalize, scale_rewards='none': frac_reward_zero_std 0.75, answers with an advantage other than 0:
#     [-0.75, 0.25, 0.25, 0.25]
#   normalize_then_sum, scale_rewards='group': frac_reward_zero_std 0.0, answers with an advantage other than 0:
#     [-3.322, 0.89, 0.89, 1.541]
#   normalize_then_sum, scale_rewards='none': frac_reward_zero_std 0.0, answers with an advantage other than 0:
#     [-3.322, 0.89, 0.89, 1.541]
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    trl==1.16.0 transformers==5.24.0 datasets==5.2.0 accelerate==1.15.0 torch==2.13.0 numpy==2.2.6

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
print('source: trl/trainer/grpo_trainer.py, multi_objective_aggregation == "normalize_then_sum"\n')
words = {word: number for number, word in enumerate(['<pad>', '<end>', '<unk>', *'abcdefghijklm'])}
backend = Tokenizer(models.WordLevel(words, unk_token='<unk>'))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token='<pad>', eos_token='<end>', unk_token='<unk>')
CONFIG = LlamaConfig(vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                     num_attention_heads=4, num_key_value_heads=4, bos_token_id=None, eos_token_id=1, pad_token_id=0)


# Two rewards of four groups of four answers; all answers of the last three groups are equally good.
CORRECT = [1., 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]
SHORT = [0., 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]


class Trainer(GRPOTrainer):

    def _generate_and_score_completions(self, inputs):
        outputs = super()._generate_and_score_completions(inputs)
        self.seen = sorted(round(float(value), 3) for value in outputs['advantages'])
        return outputs


def correct(completions, **_):
    return CORRECT


def short(completions, **_):
    return SHORT


def train(aggregation, scale):
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = Trainer(
            model=LlamaForCausalLM(CONFIG), processing_class=tokenizer, reward_funcs=[correct, short],
            train_dataset=Dataset.from_dict(dict(prompt=['a b c'] * 4)),
            args=GRPOConfig(output_dir=folder, max_steps=1, use_cpu=True, bf16=False, per_device_train_batch_size=16,
                            num_generations=4, max_completion_length=4, report_to='none', disable_tqdm=True,
                            logging_steps=1, save_strategy='no', seed=0, multi_objective_aggregation=aggregation,
                            scale_rewards=scale))
        trainer.train()
    return float(trainer.state.log_history[0]['frac_reward_zero_std']), trainer.seen


flat, advantages = {}, {}
for aggregation in ('sum_then_normalize', 'normalize_then_sum'):
    for scale in ('group', 'none'):
        flat[aggregation, scale], values = train(aggregation, scale)
        advantages[aggregation, scale] = values
        print(f'{aggregation}, scale_rewards={scale!r}: frac_reward_zero_std {flat[aggregation, scale]}, answers with '
              f'an advantage other than 0: {[value for value in values if value]}')
same = (list(flat.values()) == [0.75, 0.75, 0.0, 0.0]
        and all(values.count(0) == 12 for values in advantages.values() if len(values) == 16)
        and advantages['sum_then_normalize', 'group'] != advantages['sum_then_normalize', 'none']
        and advantages['normalize_then_sum', 'group'] == advantages['normalize_then_sum', 'none'])
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
