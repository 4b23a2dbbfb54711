# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .fsdp2_strategy import FSDP2Strategy, load_part, merge_shards, read_weights
from .sharding import gathered, is_sharded

__all__ = ['FSDP2Strategy', 'gathered', 'is_sharded', 'load_part', 'merge_shards', 'read_weights']
