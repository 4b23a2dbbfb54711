# DPAD with several objects per question: an answer is a list, which may be empty. Trained on
# VisionReasoner's data, evaluated on the prepared ReasonSeg copies; otherwise, memory included, as
# qwen7b_reasonseg.py.
#   pip install -e .[data]
#   python tools/train.py configs/dpad/qwen7b_several_objects.py
#   python tools/test.py configs/dpad/qwen7b_several_objects.py \
#       work_dirs/qwen7b_several_objects/iter_440.pth
# Not run with the published weights. Rewards are DPAD's, each averaged over matched objects; as in
# VisionReasoner, a point must be within 30 pixels, not 100. VisionReasoner also uses a KL
# coefficient of 1e-2, up to 2,000 tokens per response and a reward against repetition.
_base_ = [
    '../_base_/models/dpad_qwen2_5_vl.py', '../_base_/datasets/seg_zero_eval.py',
    '../_base_/datasets/multi_object_7k_840.py', '../_base_/schedules/grpo.py',
    '../_base_/default_runtime.py'
]

model = dict(several_objects=True, policy=dict(prompt_template='several_objects'))
train_cfg = dict(max_iters=440,  # one pass: about 7,000 rows / 16
                 rewards=dict(point_l1=dict(threshold=30)))
