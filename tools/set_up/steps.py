# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Runs a long command quietly: its output goes to a log file, one progress line to the terminal.

Standard library only, and syntax that Python 3.8 reads: set_up.py starts with any python3.
"""

import shutil
import subprocess
import sys
import time


class SetUpError(Exception):
    """A problem that the user has to solve; the message says what, and how."""


def clock(seconds):
    """Seconds as text: '7 s', '4 min 05 s'."""
    seconds = int(round(seconds))
    return f'{seconds} s' if seconds < 60 else f'{seconds // 60} min {seconds % 60:02d} s'


def run_logged(title, command, log_path, status=None, **popen_args):
    """Runs a command, appending its complete output to a log file.

    While it runs, the terminal shows the title, the elapsed time and `status()`; if the output
    is not a terminal (a CI log), such a line appears every half minute instead.

    Args:
        title (str): What the step does.
        command (list[str]): The command and its arguments.
        log_path (pathlib.Path): The log, appended to.
        status (callable, optional): Takes the elapsed seconds, returns a short text.
        popen_args: Passed to `subprocess.Popen` (env, cwd).

    Returns:
        tuple[int, str]: The exit status, and the output that this command added to the log.
    """
    live = sys.stdout.isatty()
    started = printed = time.time()
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path, 'ab') as log:
        offset = log.tell()
        log.write((f'\n$ {" ".join(map(str, command))}\n').encode())
        log.flush()
        process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, **popen_args)
        print(f'  {title} ...', end='' if live else '\n', flush=True)
        try:
            while True:
                try:
                    code = process.wait(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    now = time.time()
                    if now - printed < (1 if live else 30):
                        continue
                    printed = now
                    line = f'  {title} ... {clock(now - started)}'
                    if status is not None:
                        line += f', {status(now - started)}'
                    width = shutil.get_terminal_size().columns - 1 if live else 120
                    print(f'\r\033[K{line[:width]}' if live else line[:width],
                          end='' if live else '\n', flush=True)
        except BaseException:  # including Ctrl-C: leave no compiler running
            process.kill()
            process.wait()
            raise
    verdict = 'done' if code == 0 else 'FAILED'
    start_of_line = '\r\033[K' if live else ''
    print(f'{start_of_line}  {title}: {verdict} in {clock(time.time() - started)}', flush=True)
    with open(log_path, 'rb') as log:
        log.seek(offset)
        return code, log.read().decode('utf-8', 'replace')
