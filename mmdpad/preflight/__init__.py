# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Try a config without its weights: a complete run on tiny replacements, or checks only."""

from .command_line import try_config
from .dry_run import dry_run, format_findings
from .smoke import make_smoke_config, run_smoke

__all__ = ['dry_run', 'format_findings', 'make_smoke_config', 'run_smoke', 'try_config']
