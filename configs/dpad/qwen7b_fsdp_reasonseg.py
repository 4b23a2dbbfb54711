# DPAD with Qwen2.5-VL-7B on 8 GPUs, otherwise as qwen7b_reasonseg.py: 2 prompts per GPU make the
# same 16 per step.
#   tools/dist_train.sh configs/dpad/qwen7b_fsdp_reasonseg.py 8
#   python tools/model_converters/merge_shards.py work_dirs/qwen7b_fsdp_reasonseg/iter_187.pth
#   tools/dist_test.sh configs/dpad/qwen7b_reasonseg.py \
#       work_dirs/qwen7b_fsdp_reasonseg/iter_187.merged.pth 8
# Not run at full size.
_base_ = ['./qwen7b_reasonseg.py', '../_base_/strategies/fsdp2.py']

train_dataloader = dict(batch_size=2)
# Loss scaling is not needed: gradients are summed in float32, and bfloat16 has the same range.
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=dict(enabled=False))
