# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Scores of the boxes in a model's answers."""
import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from test_reasoning_segmentor import TASKS as MIXED
from test_reasoning_segmentor import FixedRollout

from mmdpad.evaluation.metrics.detection_metric import score_detections
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.models.scorers import BoxScorer, ScoredObjects
from mmdpad.models.segmentors.box_instances import box_instances
from mmdpad.prompts import format_detections, format_response
from mmdpad.registry import MODELS, TASKS
from mmdpad.structures import AnsweredObject
from mmdpad.tasks import DetectionTask, Task

DETECTED = format_detections('so', [((28, 56, 84, 112), 'Cup', 'the blue one'),
                                    ((0, 0, 9, 9), 'bird', None)])
SEGMENTED = format_response('so', (28, 56, 84, 112), ((56, 84), (60, 100)), 'a cup')
ASKED = dict(task='detection', classes=('plate', 'cup'), class_labels=(3, 5))


class Written(FixedRollout):
    """Also ahead."""

    def sample(self, head, prompts, how):
        return self(head, prompts)


@pytest.fixture
def batch(tiny_config):
    return next(iter(Runner.build_dataloader(dict(tiny_config.test_dataloader, batch_size=2))))


@pytest.fixture
def build(tiny_config):
    def build(**options):
        policy = dict(tiny_config.model.policy, prompt_template='default')
        return MODELS.build(dict(dict(tiny_config.model, policy=policy, tasks=MIXED),
                                 **options)).eval()
    return build


def test_objects_that_are_left_out_take_their_scores_with_them():
    objects = [AnsweredObject((0., 0., 5., 5.), None, 'bird'),
               AnsweredObject((1., 2., 3., 4.), None, 'cup')]
    scored = ScoredObjects(np.array([0.25, 0.75]), dict(score=np.array([0.2, np.nan])))
    asked = dict(classes=('cup', ), class_labels=(3, ))
    found, _ = box_instances(objects, asked, (9, 9), (9, 9), scored)
    assert found.scores.tolist() == [0.75] and np.isnan(found.features[0]['score'])
    none, _ = box_instances(objects[:1], asked, (9, 9), (9, 9), scored)
    assert len(none) == 0 and none.scores.shape == (0, )


def test_only_labelled_boxes_are_scored(build, batch):
    """A mask keeps the decoder's score; a response that cannot be used has no boxes."""
    model = build(box_scorer=dict(type='LikelihoodScorer'))
    model.rollout_engine = FixedRollout([SEGMENTED, DETECTED])
    batch['data_samples'][1].set_metainfo(ASKED)
    first, second = model.test_step(batch)
    assert 'features' not in first.pred_instances
    found = second.pred_instances
    assert 0 < found.scores.item() < 1
    assert found.features[0]['logp_label'] == pytest.approx(np.log(found.scores.item()))
    row = score_detections(dict(second.to_dict(), instances=[]), 0.5)
    assert row['features']['score'] == row['scores'] and row['box_right'] == [False]
    assert 'response_ids' not in second.reasoning

    batch['data_samples'][0].set_metainfo(ASKED)
    model.rollout_engine = FixedRollout(['no answer', '<answer>[]</answer>'])
    assert [len(sample.pred_instances) for sample in model.test_step(batch)] == [0, 0]


def test_an_answer_that_cannot_be_used_costs_no_pass(build, batch):
    """Although one of its objects can be read."""
    model = build(box_scorer=dict(type='LikelihoodScorer'))
    model.box_scorer.score = None
    model.rollout_engine = FixedRollout([SEGMENTED, DETECTED.replace('"bird"', '3')])
    batch['data_samples'][1].set_metainfo(ASKED)
    _, found = model.test_step(batch)
    assert found.reasoning['parsed'].objects[0].label == 'Cup' and len(found.pred_instances) == 0


def test_stored_and_sampled_answers_have_the_same_scores(build, batch):
    """Whether they are sampled with the batch, ahead of it, or read from a file, since the tokens
    of these texts are the tokenizer's own; and at any temperature of the sampling."""
    scores = []
    for stored, temperature in ((False, 0.0), (True, 0.0), ('ahead', 2.0)):
        model = build(box_scorer=dict(type='LikelihoodScorer'), test_cfg=dict(
            temperature=temperature))
        texts = [DETECTED, format_detections('so so so', [((0, 0, 50, 50), 'plate', None)])]
        model.rollout_engine = Written(texts)
        for sample, text in zip(batch['data_samples'], texts, strict=True):
            sample.set_metainfo(ASKED)
            sample.pop('cached_response', None)
            if stored is True:
                sample.set_metainfo(dict(cached_response=(text, False)))
        given = [batch] if stored != 'ahead' else model.answer_ahead([batch])
        scores.append([sample.pred_instances.scores for one in given
                       for sample in model.test_step(one)])
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0])


def test_descriptions_are_compared(build, batch, tiny_config):
    discriminator = tiny_config.custom_hooks[0].discriminator
    model = build(box_scorer=dict(type='CombinedScorer', scorers=[
        dict(type='LikelihoodScorer'),
        dict(type='DiscriminationScorer', discriminator=discriminator)]))
    model.rollout_engine = FixedRollout([DETECTED] * 2)
    for sample in batch['data_samples']:
        sample.set_metainfo(ASKED)
    for sample in model.test_step(batch):
        features = sample.pred_instances.features[0]
        assert features['s_margin'] == pytest.approx(features['s_roi'] - features['s_image'])
        assert 0 < sample.pred_instances.scores.item() < 1
        assert {'likelihood', 'discrimination', 'logp_box', 's_rank', 'score'} <= features.keys()
    assert not any('clip' in name for name in model.state_dict())


def test_a_model_without_labels_has_nothing_to_score(tiny_config, build):
    with pytest.raises(ValueError, match=r'`box_scorer` scores labelled boxes, which no task of '
                                         r'the model has \(segmentation\); leave it out'):
        MODELS.build(dict(tiny_config.model, box_scorer=dict(type='LikelihoodScorer')))
    with pytest.raises(ValueError, match='`box_scorer` should be a dict with the `type`'):
        build(box_scorer=dict(of='label'))
    with pytest.raises(ValueError, match='`box_scorer.type` should be .*, but got BoxDecoder'):
        build(box_scorer=dict(type='BoxDecoder'))


def test_a_task_without_places_has_no_likelihoods(build):
    @TASKS.register_module(force=True)
    class LabelTask(DetectionTask):
        locate = Task.locate

    labels = dict(labels=dict(type='LabelTask', template='detect: {question}'))
    with pytest.raises(ValueError, match=r"`tasks` should have a `locate`, .* but \['labels'\] d"):
        build(tasks=labels, box_scorer=dict(type='LikelihoodScorer'))


def test_an_error_names_the_question(build, batch):
    class Broken(BoxScorer):
        def score(self, answers, policy):
            raise NonFiniteError('broken', len(answers) - 1)

        def options(self):
            return {}

    model = build()
    model.box_scorer = Broken()
    model.rollout_engine = FixedRollout([SEGMENTED, DETECTED])
    batch['data_samples'][1].set_metainfo(ASKED)
    with pytest.raises(NonFiniteError, match=r'broken.*' + batch['data_samples'][1].question):
        model.test_step(batch)
