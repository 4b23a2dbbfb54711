# What `make demo` trains: DPAD on the synthetic scenes, from a policy that names the object as
# tiny_shapes.py's does, but mostly lists all others first and then puts a loose box around it, more
# than twice as wide and high, with points anywhere in it.
#   python tools/dataset_converters/shapes_world.py data/shapes_world
#   python tools/train.py configs/dpad/tiny_shapes_loose_boxes.py
#   python tools/test.py configs/dpad/tiny_shapes_loose_boxes.py \
#       work_dirs/tiny_shapes_loose_boxes/iter_90.pth
_base_ = './tiny_shapes.py'
# What people change most.
max_iters = 90
lr = 4e-4

model = dict(policy=dict(pretrained=_base_.weights + '/loose_boxes'),
             train_cfg=dict(max_new_tokens=80))
train_cfg = dict(max_iters=max_iters)
optim_wrapper = dict(optimizer=dict(lr=lr))
# Before and after are compared on the held-out scenes; nothing is chosen during the run.
val_dataloader = val_cfg = val_evaluator = None
default_hooks = dict(checkpoint=dict(save_best=None))
