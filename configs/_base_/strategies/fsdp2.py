# Weights, gradients and optimizer state spread over all processes; needs a launcher.
# Passes in bfloat16 over float32 master weights, gradients summed in float32.
strategy = dict(type='mmdpad.FSDP2Strategy', param_dtype='bfloat16', reduce_dtype='float32')
