# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .configs import find_config, open_config
from .experiments import (
    LOADERS,
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
from .key_values import KeyValueError, KeyValues, override, parse_value
from .registering import register_all_modules
from .runs import answer_pictures, lock_work_dir, raised_alarms, rollout_logs, training_logs
from .spread import spread
from .start_up import start_command

__all__ = ['KeyValueError', 'KeyValues', 'LOADERS', 'answer_pictures', 'check_checkpoint',
           'check_config', 'check_file', 'config_parser', 'experiment_parser', 'find_config',
           'jsonable', 'load_config', 'lock_work_dir', 'new_folder', 'open_config', 'override',
           'parse_value', 'raised_alarms', 'read_config', 'read_jsonl', 'refuse_existing',
           'register_all_modules', 'rollout_logs', 'spread', 'start_command', 'to_jsonl',
           'training_logs', 'unique_name', 'unique_path', 'write_atomically', 'write_jsonl']
