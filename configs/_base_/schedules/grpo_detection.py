# grpo.py with the rewards of detection.
_base_ = './grpo.py'

rewards = dict(
    thinking_format=dict(type='ThinkingFormatReward', caption=False),
    detection_f1=dict(type='DetectionF1Reward', threshold=0.5),
    detection_iou=dict(type='DetectionIoUReward', threshold=0.5),
    count=dict(type='CountReward', weight=0.5),
    rejection=dict(type='RejectionReward', weight=0.5))
train_cfg = dict(rewards=dict(_delete_=True, **rewards))
