# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""libFuzzer looks for a text that `check_parsing` fails on: `fuzz_parsing.py CORPUS -runs=N`.

A script, since it ends its own process; tests/ has to be on the path.
"""
import sys

import atheris

with atheris.instrument_imports(include=['mmdpad.prompts', 'mmdpad.rewards']):
    from text_readers import check_parsing


def read(data: bytes) -> None:
    check_parsing(data.decode('utf-8', 'surrogateescape'))


if __name__ == '__main__':
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
