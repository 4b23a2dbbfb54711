# Supervised warm-up of the toy policy, then DPAD from its checkpoint: two commands.
#   python tools/train.py configs/dpad/tiny_shapes_sft.py
#   python tools/train.py configs/dpad/tiny_shapes.py --work-dir work_dirs/tiny_shapes_from_sft \
#       --cfg-options load_from=work_dirs/tiny_shapes_sft/iter_40.pth
# Needs data/shapes_world, like tiny_shapes.py. The training scenes come with ideal reasoning and an
# ideal caption (`think`, `caption`); boxes and points come from the masks.
_base_ = './tiny_shapes.py'
# What people change most.
max_iters = 40
lr = 1e-4

custom_hooks = []  # no rollouts, so no rewards in training; evaluation still measures them
train_pipeline = [*_base_.pipeline[:-1], dict(type='ComposeResponse'), _base_.pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters,
                 val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=lr))
default_hooks = dict(checkpoint=dict(interval=max_iters))
