# A Qwen2.5-VL policy, a frozen SAM ViT-H as decoder, and a frozen CLIP ViT-B/32 as discriminator.
# Weights are local files or folders; the policy may also be a hub name, and CLIP a tag.
model = dict(
    type='ReasoningSegmentor',
    policy=dict(type='VLMReasoningHead', pretrained='checkpoints/Qwen2.5-VL-7B-Instruct',
                gradient_checkpointing=True),
    decoder=dict(type='SAMDecoder', model='vit_h',
                 checkpoint='checkpoints/sam_vit_h_4b8939.pth'),
    # Loss and sampling of the published recipe.
    loss=dict(type='GRPOLoss', clip_ratio=0.2, kl_coef=5e-3, entropy_coef=1e-3),
    train_cfg=dict(group_size=8, temperature=1.0, max_new_tokens=1300),
    test_cfg=dict(temperature=0.0, max_new_tokens=1024))

discriminator = dict(type='CLIPDiscriminator', model_name='ViT-B-32', pretrained='openai')
# Remove this hook for the baseline with format and geometric rewards only (Seg-Zero).
custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator=discriminator, form='binary')
]
