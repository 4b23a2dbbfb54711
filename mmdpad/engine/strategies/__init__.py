# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .fsdp2_strategy import REFERENCE, FSDP2Strategy, load_part, merge_shards, read_weights
from .sharding import gathered, is_sharded, shard_as

__all__ = ['FSDP2Strategy', 'REFERENCE', 'gathered', 'is_sharded', 'load_part', 'merge_shards',
           'read_weights', 'shard_as']
