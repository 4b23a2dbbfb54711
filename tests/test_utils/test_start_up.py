# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What a command's start imports, and that nothing is lost by it."""
import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.optim.optimizer import builder
from mmengine.registry import OPTIMIZERS

import mmdpad
from mmdpad.utils.late_exports import late_exports
from mmdpad.utils.start_up import _hidden

ROOT = Path(mmdpad.__file__).parents[1]
LATE_PACKAGES = ('mmdpad.apis', 'mmdpad.datasets', 'mmdpad.datasets.conversion',
                 'mmdpad.structures')
HEAVY = ('torch', 'transformers', 'peft', 'bitsandbytes', 'mmdet', 'mmcv', 'mmengine.runner',
         'open_clip', 'scipy', 'matplotlib', 'pandas')
OPTIMIZERS_OF_OTHERS = '''
import json, logging, sys, warnings
import mmdpad
from mmdpad.utils import start_command
with start_command():
    pass
with start_command():
    import mmdpad.registry, mmengine.runner
from mmengine.optim.optimizer import builder
from mmengine.registry import OPTIMIZERS, DefaultScope
from mmengine.fileio import FileClient
from mmengine.logging import print_log
late = ('bitsandbytes', 'transformers', 'peft')
def imported():
    return [name for name in late if name in sys.modules]
told = dict(start=imported(), AdamW=OPTIMIZERS.get('AdamW').__module__, then=imported())
FileClient.infer_client(uri='some/file')
print_log('kept', 'current', logging.WARNING)
with warnings.catch_warnings(record=True) as caught:
    warnings.warn_explicit('pkg_resources is deprecated as an API.', UserWarning, 'any.py', 1,
                           'mmengine.utils.package_utils')
    warnings.warn_explicit('what a user can act on', UserWarning, 'any.py', 1, 'mmengine')
told['caught'] = [str(warning.message) for warning in caught]
with DefaultScope.overwrite_default_scope('mmdpad'):
    told['wrong'] = mmdpad.registry.OPTIMIZERS.get('AdamW9bit')
    told['found'] = [mmdpad.registry.OPTIMIZERS.get(name).__name__ for name in sys.argv[1:]]
told.update(names=sorted(OPTIMIZERS.module_dict), size=len(OPTIMIZERS),
            bitsandbytes=builder.BITSANDBYTES_OPTIMIZERS,
            transformers=builder.TRANSFORMERS_OPTIMIZERS, end=imported())
print(json.dumps(told))
'''


def run(*command):
    """What a Python program prints last, as JSON, and its stderr."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


def test_help_texts_import_nothing_heavy():
    found, _ = run('tests/help_texts.py', *HEAVY)
    assert {name: modules for name, modules in found.items() if modules} == {}
    assert {'infer', 'train', 'doctor', 'train.py', 'benchmarks/rollout.py',
            'toy/make_policy.py', 'analysis_tools/report.py'} <= found.keys()


def test_what_comes_late_is_not_imported_with_its_package():
    program = (f'import json, sys, {", ".join(LATE_PACKAGES)}; '
               f'print(json.dumps([name for name in sys.argv[1:] if name in sys.modules]))')
    assert run('-c', program, *HEAVY)[0] == []


def test_the_inferencer_class_comes_without_what_only_a_model_needs():
    program = ('import json, sys; from mmdpad.apis import ReasonSegInferencer; '
               'print(json.dumps([name for name in sys.argv[1:] if name in sys.modules]))')
    late = ('transformers', 'peft', 'bitsandbytes', 'open_clip', 'matplotlib.pyplot',
            'mmdet.apis', 'mmdpad.models')
    assert run('-c', program, *late)[0] == []


@pytest.mark.slow
def test_all_modules_register_what_is_imported_late():
    program = ('import json; from mmdpad.utils import register_all_modules as register; '
               'register(); from mmdpad import registry; '
               'print(json.dumps([name in kind.module_dict for name, kind in ('
               '("ReasonSegDataset", registry.DATASETS), '
               '("ReasonSegInferencer", registry.INFERENCERS))]))')
    assert run('-c', program)[0] == [True, True]


@pytest.mark.skipif(not builder.BITSANDBYTES_OPTIMIZERS, reason='bitsandbytes is not installed')
def test_optimizers_of_others_come_when_they_are_looked_for():
    names = ('AdamW8bit', 'PagedAdamW32bit', 'Adafactor')
    told, text = run('-c', OPTIMIZERS_OF_OTHERS, *names)
    assert told['start'] == told['then'] == [] and told['AdamW'].startswith('torch.optim')
    assert told['wrong'] is None
    assert told['found'] == [OPTIMIZERS.get(name).__name__ for name in names] == list(names)
    assert told['bitsandbytes'] == builder.BITSANDBYTES_OPTIMIZERS
    assert told['transformers'] == builder.TRANSFORMERS_OPTIMIZERS
    torch_and_others = sorted({*builder.TORCH_OPTIMIZERS, *builder.BITSANDBYTES_OPTIMIZERS,
                               *builder.TRANSFORMERS_OPTIMIZERS} - {'Adafactor'} | {
                                   'Adafactor', 'TorchAdafactor'})
    assert set(torch_and_others) <= set(told['names']) and told['size'] == len(told['names'])
    assert {'bitsandbytes', 'transformers'} <= set(told['end'])
    assert told['caught'] == ['what a user can act on']
    assert 'kept' in text and 'deprecated' not in text and 'alias' not in text


def test_hidden_packages_come_back_after_an_error():
    names = ['not_installed', 'taken_away']
    with pytest.raises(RuntimeError, match='in between'), _hidden(names):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(names[0])
        del sys.modules[names[1]]
        raise RuntimeError('in between')
    assert not set(names) & sys.modules.keys()


@pytest.mark.parametrize('name', LATE_PACKAGES)
def test_late_packages_say_the_same_three_times(name):
    package = importlib.import_module(name)
    tree = ast.parse(Path(package.__file__).read_text(encoding='utf-8'))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    call = next(node.value for node in tree.body
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call))
    places = ast.literal_eval(call.args[1])
    placed = {item: module if names else None for module, names in places.items()
              for item in names or (module,)}
    assert typed == placed and sorted(placed) == sorted(package.__all__)
    assert set(package.__all__) <= set(dir(package))
    # An import of a submodule would put it in the place of what the package exports by its name.
    folder = Path(package.__file__).parent
    assert not [item for item, module in placed.items()
                if module and (folder / f'{item}.py').exists()]
    for item in package.__all__:
        assert getattr(package, item) is vars(package)[item]


def test_a_late_package_lacks_what_it_does_not_export():
    get, _ = late_exports('mmdpad.structures', {'packing': ('fill',)})
    with pytest.raises(AttributeError, match="module 'mmdpad.structures' has no attribute 'file'"):
        get('file')
    with pytest.raises(ImportError, match='cannot import name'):
        exec('from mmdpad.structures import file')


def test_a_name_that_its_submodule_would_replace_is_refused():
    with pytest.raises(ValueError, match='mmdpad.structures.fill should not have the name of'):
        late_exports('mmdpad.structures', {'fill': ('fill',)})


def test_all_data_sets_and_formats_are_registered():
    from mmdpad.datasets import conversion
    from mmdpad.registry import DATASETS
    names = {name for name in importlib.import_module('mmdpad.datasets').__all__
             if name.endswith('Dataset')
             and name not in ('ReasoningDataset', 'QuestionAnsweringDataset')}
    assert names and all(DATASETS.get(name) is not None for name in names)
    assert sorted(conversion.WRITERS) == sorted(conversion.TARGETS)


def test_a_start_leaves_the_garbage_collector_as_it_was():
    program = ('import gc, json\nfrom mmdpad.utils import start_command\n'
               'told = []\n'
               'for _ in range(2):\n'
               '    with start_command():\n'
               '        told.append((gc.isenabled(), gc.get_freeze_count() > 0))\n'
               '    told.append((gc.isenabled(), gc.get_freeze_count() > 0))\n'
               'print(json.dumps(told))')
    assert run('-c', program)[0] == [[False, False], [True, True], [True, True], [True, True]]


def test_a_start_that_fails_collects_garbage_again():
    program = ('import gc, json\nfrom mmdpad.utils import start_command\n'
               'try:\n    with start_command():\n        raise ImportError\n'
               'except ImportError:\n    print(json.dumps(gc.isenabled()))')
    assert run('-c', program)[0] is True
