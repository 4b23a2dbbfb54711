# Advantages are divided by the spread of the rewards over the training, so a group in which answers
# hardly differ counts less (EMA-GRPO).
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, spread over the training (EMA-GRPO)', seeds=5,
           compare_with=['caption', 'discriminative'])

train_cfg = dict(advantage='ema_grpo')
