# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .experiments import (
    check_checkpoint,
    check_file,
    config_parser,
    experiment_parser,
    find_config,
    load_config,
    read_config,
)
from .files import (
    jsonable,
    new_folder,
    read_jsonl,
    refuse_existing,
    to_jsonl,
    unique_name,
    unique_path,
    write_atomically,
    write_jsonl,
)

__all__ = ['check_checkpoint', 'check_file', 'config_parser', 'experiment_parser', 'find_config',
           'jsonable', 'load_config', 'new_folder', 'read_config', 'read_jsonl',
           'refuse_existing', 'to_jsonl', 'unique_name', 'unique_path', 'write_atomically',
           'write_jsonl']
