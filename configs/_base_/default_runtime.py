default_scope = 'mmdpad'

env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork'),
               dist_cfg=dict(backend='nccl'))
randomness = dict(seed=0)
# Data parallelism for several processes. Without device ids it also runs on CPUs.
model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None,
                         broadcast_buffers=False, gradient_as_bucket_view=True)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=50, max_keep_ckpts=2,
                    save_best='reasonseg/giou', rule='greater'),
    resume=dict(type='ExactResumeHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    safe_checkpoint=dict(type='SafeCheckpointHook'),
    rollout_log=dict(type='RolloutLogHook'),
    provenance=dict(type='ProvenanceHook'),
    response_cache=dict(type='ResponseCacheHook'),
    answer_pictures=dict(type='ReasonSegVisualizationHook'),
    curves=dict(type='CurvesHook'),
    alarms=dict(type='AlarmHook'),
    threads=dict(type='FreeCoresHook'))

log_processor = dict(type='ShortLogProcessor', by_epoch=False, window_size=1)
log_level = 'INFO'
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends)

load_from = None
resume = False
