# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .experiments import check_file, experiment_parser, read_config
from .files import jsonable, read_jsonl, to_jsonl, unique_path, write_atomically, write_jsonl

__all__ = ['check_file', 'experiment_parser', 'jsonable', 'read_config', 'read_jsonl', 'to_jsonl',
           'unique_path', 'write_atomically', 'write_jsonl']
