# Supervised warm-up of Qwen2.5-VL-7B on your own data in ReasonSeg's layout, then DPAD:
#   python tools/train.py configs/dpad/qwen7b_sft.py
#   python tools/train.py configs/dpad/qwen7b_reasonseg.py \
#       --cfg-options load_from=work_dirs/qwen7b_sft/iter_400.pth
# Not run at full size; batch size, length and learning rate are guesses. Each annotation needs
# `think` and `caption`, or a complete `response` in pixels of the 840 x 840 model image.
_base_ = './qwen7b_reasonseg.py'

custom_hooks = []  # no rollouts, no rewards
train_pipeline = [
    *_base_.test_pipeline[:-1],
    dict(type='ComposeResponse'),
    _base_.test_pipeline[-1],
]
train_dataloader = dict(
    batch_size=4,
    dataset=dict(_delete_=True, type='ReasonSegDataset', data_root='data/my_data/', split='train',
                 pipeline=train_pipeline))
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=400, val_interval=200)
optim_wrapper = dict(accumulative_counts=4, optimizer=dict(lr=5e-6))
auto_scale_lr = dict(base_batch_size=4)  # mmengine does not count accumulation
default_hooks = dict(checkpoint=dict(interval=200))
