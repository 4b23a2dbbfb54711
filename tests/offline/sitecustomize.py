# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Refuses connections that leave this machine. Every Python that a test starts imports it, since
conftest.py puts its folder on PYTHONPATH."""
import ipaddress
import os
import sys

refused = []


def is_local(host) -> bool:
    """Whether an address's first part is this machine; the kernel's own sockets have numbers."""
    if isinstance(host, bytes):
        host = host.decode()
    return not isinstance(host, str) or host.startswith('127.') or host in (
        '', 'localhost', '0.0.0.0', '::', '::1', os.uname().nodename)


def is_number(host) -> bool:
    try:
        ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host)
    except ValueError:
        return False
    return True


def watch(event, arguments):
    if event in ('socket.getaddrinfo', 'socket.gethostbyname'):
        host = '' if is_number(arguments[0]) else arguments[0]  # nobody is asked about a number
    elif event in ('socket.connect', 'socket.sendto'):
        host = arguments[1][0] if isinstance(arguments[1], tuple) else ''  # a path
    else:
        return
    if not is_local(host):
        refused.append(f'{event} {host!r}')
        raise RuntimeError(f'tests do not leave this machine, but here is a {refused[-1]}')


sys.addaudithook(watch)
