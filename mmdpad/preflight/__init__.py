# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Trying a config without its weights: a whole run on stand-ins, or checks without any run."""

from .command_line import try_config
from .dry_run import dry_run, format_findings
from .smoke import make_smoke_config, run_smoke

__all__ = ['dry_run', 'format_findings', 'make_smoke_config', 'run_smoke', 'try_config']
