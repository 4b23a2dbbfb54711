# Two CLIPs score each caption by a weighted sum of a binary and a continuous form; the reward is
# the mean of both scores (`combine`). The paper names continuous plus binary as future work.
_base_ = '../qwen7b_reasonseg.py'

# The weights are not tuned. Margins of published CLIPs are a few hundredths.
custom_hooks = [
    dict(type='DiscriminativeRewardHook',
         discriminator=[
             {{_base_.discriminator}},
             dict(type='CLIPDiscriminator', model_name='ViT-B-16-quickgelu',
                  pretrained='metaclip_fullcc')
         ],
         form=dict(binary=1.0, margin=5.0),
         combine='mean')
]
