# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .fsdp2_strategy import FSDP2Strategy, merge_shards, read_weights
from .sharding import gathered, is_sharded, shard_as

__all__ = ['FSDP2Strategy', 'gathered', 'is_sharded', 'merge_shards', 'read_weights', 'shard_as']
