# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import gc
import itertools
import json
import os
import runpy
import sys
from collections import OrderedDict
from functools import cache
from pathlib import Path
from types import MethodType, SimpleNamespace
from unittest.mock import patch

import psutil
import pytest
import torch
from huggingface_hub import constants as hub_constants
from mmengine.config import Config
from mmengine.config import config as mmengine_config
from mmengine.config import utils as config_utils
from mmengine.dataset import base_dataset
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from transformers.models.glm4v import modeling_glm4v as glm4v
from transformers.models.glm4v_moe import modeling_glm4v_moe as glm4v_moe
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen3_5
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as qwen3_5_moe
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3
from transformers.models.qwen3_vl_moe import modeling_qwen3_vl_moe as qwen3_moe

from mmdpad.models import VLMReasoningHead
from mmdpad.preflight.tiny_detectors import shrinking_options
from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.toy.shapes_world import SHAPES_PROMPT_TEMPLATE
from mmdpad.utils import write_jsonl

ROOT = Path(__file__).parents[1]
pytest_plugins = ['promises']
# Also for the processes that tests start: threads that wait for each other are slow where other
# programs run.
os.environ['OMP_NUM_THREADS'] = os.environ.get('MMDPAD_TEST_THREADS', '1')
torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))
# No test leaves this machine, nor does a process that one starts; the hub is its cache.
OFFLINE = str(ROOT / 'tests/offline')
os.environ['PYTHONPATH'] = os.pathsep.join(
    filter(None, [OFFLINE, os.environ.get('PYTHONPATH')]))
os.environ['HF_HUB_OFFLINE'] = '1'
hub_constants.HF_HUB_OFFLINE = True
# A worker of pytest-xdist has that folder on its path, and so has imported the module already.
if getattr(sys.modules.get('sitecustomize'), '__file__', None) == f'{OFFLINE}/sitecustomize.py':
    refused = sys.modules['sitecustomize'].refused
else:
    refused = runpy.run_path(f'{OFFLINE}/sitecustomize.py')['refused']
# mmengine formats a config again for each log, file and checkpoint, most of a second each time.
mmengine_config.FormatCode = lambda text, **style: (text, True)
# It reads mmdet's index of models, a hundred files, for each `mmdet::` base.
config_utils.load = cache(config_utils.load)
# It also collects garbage for each data set: up to half a second.
base_dataset.gc = SimpleNamespace(collect=lambda: None)
# Runs that start in the same second would share a folder, a logger and a visualizer.
set_up_run, numbers = Runner.setup_env, itertools.count()


def set_up_numbered_run(runner: Runner, settings: dict) -> None:
    set_up_run(runner, settings)
    runner._timestamp += f'_{next(numbers):04}'


Runner.setup_env = set_up_numbered_run


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Of `-n auto`: one for each core that is ours, and each 4 GiB of memory; one at least. Two,
    with the processes that tests start, took 5.6 GiB at most."""
    cores = (len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
             else os.cpu_count() or 1)
    return max(1, min(cores, psutil.virtual_memory().available // 2**32))


def pytest_collection_finish():
    """Leaves out of all garbage collections what is imported and collected by then."""
    gc.freeze()


@pytest.fixture(autouse=True)
def scope():
    """What `default_scope = 'mmdpad'` of a config sets."""
    with DefaultScope.overwrite_default_scope('mmdpad'):
        yield


@pytest.fixture(autouse=True)
def keep_threads():
    """A benchmark that ran in this process may have set another number."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def stay_here():
    """A refused connection fails the test even if the code that tried it continues."""
    yield refused
    reached, refused[:] = list(refused), []
    assert not reached


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Runs a script of the repository as `python PATH ...` does, but without the seconds that a
    new process spends on imports; what a script raises is raised here. `folder` is where."""
    def run(path, *arguments, folder=ROOT) -> SimpleNamespace:
        capsys.readouterr()
        with monkeypatch.context() as context, patch.dict(os.environ):
            context.chdir(folder)
            context.syspath_prepend(Path(path).parent)
            context.setattr(sys, 'argv', [str(path), *map(str, arguments)])
            context.setattr(DefaultScope, '_instance_dict', OrderedDict())
            returncode = 0
            try:
                runpy.run_path(str(Path(folder) / path), run_name='__main__')
            except SystemExit as end:
                returncode = end.code
                if isinstance(returncode, str):
                    print(returncode, file=sys.stderr)
                    returncode = 1
        stdout, stderr = capsys.readouterr()
        return SimpleNamespace(returncode=returncode or 0, stdout=stdout, stderr=stderr)
    return run


@pytest.fixture(scope='session')
def policy_config() -> dict:
    """The shipped toy policy: arguments of `VLMReasoningHead`."""
    return dict(pretrained=POLICY_WEIGHTS, prompt_template=SHAPES_PROMPT_TEMPLATE)


@pytest.fixture(scope='session')
def head(policy_config) -> VLMReasoningHead:
    """Built once; tests leave it as it is."""
    return VLMReasoningHead(**policy_config)


def rms_norm(module, hidden):
    return torch.nn.functional.rms_norm(hidden, hidden.shape[-1:], module.weight,
                                        module.variance_epsilon)


def vision_rotary(query, key, cos, sin):
    cos, sin = cos.unsqueeze(-2).to(query), sin.unsqueeze(-2).to(query)
    return tuple(x * cos + qwen2_5.rotate_half(x) * sin for x in (query, key))


def route(router, hidden):
    logits = torch.nn.functional.linear(hidden.reshape(-1, router.hidden_dim), router.weight)
    weights, index = logits.softmax(dim=-1).topk(router.top_k, dim=-1)
    return logits, weights / weights.sum(dim=-1, keepdim=True), index


class TorchOfFloat64:
    """The package torch, whose float32 is float64."""

    def __getattr__(self, name):
        return torch.float64 if name == 'float32' else getattr(torch, name)


@pytest.fixture
def lift(monkeypatch):
    """Lets a float64 model compute in float64 throughout: transformers' norms and routers, the
    rotation in its vision towers, and gated DeltaNet compute in float32, which alone costs 2e-7."""
    def lift_norms(model: torch.nn.Module) -> None:
        norms = [m for m in model.modules() if type(m).__name__.endswith('RMSNorm')
                 and 'qwen3_5' not in type(m).__module__]
        for norm in norms:
            norm.forward = MethodType(rms_norm, norm)

    for modeling in (qwen2, qwen2_5, qwen3, qwen3_moe, glm4v, glm4v_moe):
        monkeypatch.setattr(modeling, 'apply_rotary_pos_emb_vision', vision_rotary)
    monkeypatch.setattr(qwen3_moe.Qwen3VLMoeTextTopKRouter, 'forward', route)
    for modeling in (qwen3_5, qwen3_5_moe):
        monkeypatch.setattr(modeling, 'torch', TorchOfFloat64())
    narrow = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, 'float',
                        lambda x: x if x.dtype == torch.float64 else narrow(x))
    return lift_norms


@pytest.fixture(scope='session')
def shapes_data(tmp_path_factory) -> Path:
    """A small shapes world in ReasonSeg's layout, written by the tool that users run."""
    folder, tool = tmp_path_factory.mktemp('data') / 'shapes', 'dataset_converters/shapes_world.py'
    arguments = [tool, str(folder), '--train', '8', '--val', '4', '--test', '6']
    with patch.object(sys, 'argv', arguments), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    assert ended.value.code == 0
    return folder


@pytest.fixture
def tiny_config(shapes_data, tmp_path) -> Config:
    """configs/dpad/tiny_shapes.py on that data, cut down to two iterations."""
    return cut_down('tiny_shapes', shapes_data, tmp_path)


@pytest.fixture
def tiny_sft_config(shapes_data, tmp_path) -> Config:
    """configs/dpad/tiny_shapes_sft.py on that data, cut down to two iterations."""
    return cut_down('tiny_shapes_sft', shapes_data, tmp_path)


@pytest.fixture
def tiny_task_config(shapes_data, tmp_path):
    """configs/dpad/tiny_shapes_TASK.py on that data, cut down to two iterations, by task."""
    def make(task: str) -> Config:
        config = cut_down(f'tiny_shapes_{task}', shapes_data, tmp_path)
        if task == 'ovd':
            for split in ('train', 'test'):
                config[f'{split}_dataloader'].dataset.source.data_root = str(shapes_data)
            config.test_evaluator[1].ann_file = str(shapes_data / 'annotations/instances_test.json')
        return config

    return make


def cut_down(name: str, shapes_data: Path, tmp_path: Path) -> Config:
    """A config of the toy model without validation, which has tests of its own."""
    config = Config.fromfile(ROOT / f'configs/dpad/{name}.py')
    config.merge_from_dict({
        'train_dataloader.batch_size': 2, 'train_cfg.max_iters': 2,
        'model.train_cfg.group_size': 4, 'model.train_cfg.max_new_tokens': 80,
        'default_hooks.logger.interval': 1, 'log_processor.window_size': 1,
        'default_hooks.checkpoint.interval': 1,
        'default_hooks.checkpoint.max_keep_ckpts': -1,
        'work_dir': str(tmp_path / name), 'launcher': 'none', 'log_level': 'WARNING'})
    config.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    for split in ('train', 'test'):
        loader = config[f'{split}_dataloader']
        loader.dataset.data_root = str(shapes_data)
        loader.num_workers, loader.persistent_workers = 0, False
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    config.default_hooks.checkpoint.save_best = None
    del config.default_hooks.curves  # half a second for each run
    config.experiment_name = f'test_{tmp_path.name}_{id(config)}'
    return config


@pytest.fixture(scope='session')
def tiny_mask_rcnn() -> dict:
    """Options that make mmdet's `mask-rcnn_r50_fpn` small; every score counts."""
    options = shrinking_options(dict(type='MaskRCNN', backbone=dict(type='ResNet')))
    return {'model.backbone.init_cfg': None,
            **{f'model.{key}': value for key, value in options.items()}}


@pytest.fixture
def study_folder(tmp_path):
    """Writes an arm of a synthetic study and returns the study's folder; see `write_arm`."""
    def write(name, seeds=(1, 2), **options):
        write_arm(tmp_path / 'study' / name, seeds, **options)
        return tmp_path / 'study'
    return write


def write_arm(folder, seeds, scenes=4, about=None, tokens=lambda seed, scene: 10, change=None,
              train=True, image='data/{set}/test/test_{number:05d}.jpg'):
    """`scenes` samples of each of two sets, of which the first overlaps by `seed` of 10 pixels.

    Args:
        tokens: (seed, scene) -> tokens of the reasoning.
        change: (kind, row) -> None, to change what is written.
    """
    folder.mkdir(parents=True)
    about = dict(dict(title=f'Arm {folder.name}', seeds=len(seeds), compare_with=[],
                      group='main'), **(about or {}))
    (folder / 'arm.json').write_text(json.dumps(about))
    for seed in seeds:
        for mode in ('sampled', 'greedy'):
            files = dict(samples=[], specific=[], rewards=[])
            for which in ('many', 'look_alikes'):
                for scene in range(scenes):
                    sample = dict(image=image.format(set=which, number=scene), question='the dog?')
                    files['samples'].append(dict(
                        sample, id=scene, iou=seed / 10, intersection=seed, union=10, failure=None,
                        think=f'think {seed}', reasoning_tokens=tokens(seed, scene),
                        caption='a dog', caption_tokens=2, boxes=[[1, 1, 5, 5]],
                        points=[[[2, 2], [3, 3]]]))
                    files['specific'].append(dict(sample, specific=float(scene % 2),
                                                  signal_s_rank=1 + scene % 2))
                    files['rewards'].append(dict(sample, discriminative=1, signal_s_margin=0.25))
            for kind, rows in files.items():
                for row in rows:
                    if change:
                        change(kind, row)
                write_jsonl(str(folder / f'seed_{seed}' / f'{mode}.{kind}.jsonl'), rows)
        if train:
            write_jsonl(str(folder / f'seed_{seed}/train/1/vis_data/scalars.json'), [
                dict(iter=step, step=step, reward=seed + step, reasoning_tokens=9.0,
                     **{'reward/discriminative': 0.5}) for step in (1, 2, 3)])
