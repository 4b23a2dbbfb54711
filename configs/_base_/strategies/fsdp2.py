# Shards weights, gradients and optimizer state over all processes; needs a launcher.
# Computes in bfloat16 with float32 master weights and reduces gradients in float32.
strategy = dict(type='mmdpad.FSDP2Strategy', param_dtype='bfloat16', reduce_dtype='float32')
