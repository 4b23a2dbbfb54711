# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .configs import find_config
from .experiments import (
    check_checkpoint,
    check_config,
    check_file,
    config_parser,
    experiment_parser,
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

__all__ = ['check_checkpoint', 'check_config', 'check_file', 'config_parser', 'experiment_parser',
           'find_config', 'jsonable', 'load_config', 'new_folder', 'read_config', 'read_jsonl',
           'refuse_existing', 'to_jsonl', 'unique_name', 'unique_path', 'write_atomically',
           'write_jsonl']
