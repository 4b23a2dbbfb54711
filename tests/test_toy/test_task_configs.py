# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The toy configs of detection and question answering, and the start policy of both."""
import pytest

from mmdpad.engine.build import build_runner
from mmdpad.toy.shapes_tasks import SHAPES_ANSWER_TEMPLATE, SHAPES_DETECTION_TEMPLATE


@pytest.mark.slow
@pytest.mark.parametrize('task, wanted', [
    ('ovd', {'detection/f1', 'detection/brier', 'coco/bbox_mAP', 'reward/discriminative'}),
    ('vqa', {'vqa/accuracy', 'vqa/evidence_iou', 'reward/discriminative'})])
def test_it_trains_and_the_start_policy_answers_in_form(task, wanted, tiny_task_config):
    config = tiny_task_config(task)
    templates = {name: entry.template for name, entry in config.model.tasks.items()}
    assert templates in (dict(detection=SHAPES_DETECTION_TEMPLATE),
                         dict(question_answering=SHAPES_ANSWER_TEMPLATE))
    before = build_runner(config, training=False).test()
    assert wanted <= before.keys()
    assert before['reward/thinking_format'] >= 0.9
    # By chance, F1 is about 5 and accuracy 25.
    assert before['detection/f1' if task == 'ovd' else 'vqa/accuracy'] > 35
    config.experiment_name += '_train'
    runner = build_runner(config)
    runner.train()
    assert runner.iter == 2
