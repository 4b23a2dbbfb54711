# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""An image and a question become a mask and a reason."""

from __future__ import annotations

import io
import os
import os.path as osp
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.infer import BaseInferencer
from mmengine.registry import DefaultScope
from PIL import Image
from torch import nn

from mmdpad.models.weights import load_strictly, read_state_dict
from mmdpad.registry import INFERENCERS, MODELS, TRANSFORMS
from mmdpad.structures import ParseFailure
from mmdpad.utils import write_atomically, write_jsonl
from mmdpad.utils.masks import encode_mask
from mmdpad.visualization import draw_answer

from .inputs import ImageInput, Query, pair_queries

# Steps of a test pipeline that need the truth.
_TRUTH_STEPS = ('LoadReasonSegMask', 'LoadInstanceMasks', 'TargetsFromMask', 'TargetsFromSolution')
_REMEDY = ('`weights` should be a checkpoint that tools/train.py wrote for this config; without it '
           'the weights which the config names are used')


@INFERENCERS.register_module()
class ReasonSegInferencer(BaseInferencer):
    """Answers questions about images with a mask, a box, two points, a caption and the reasoning.

    Args:
        model_config: Path of a config file, or a ``Config``. The images are prepared by its
            ``inference_pipeline``, or where there is none by the pipeline of its test data
            without the steps that load the truth.
        weights: A checkpoint of training; None for the weights that the config names.
        device: Where the model runs; None for a GPU if there is one.
        show_progress: Show a progress bar.

    Raises:
        FileNotFoundError, ValueError: A config or weights that are not there or do not fit.

    Example:
        >>> infer = ReasonSegInferencer('configs/dpad/tiny_shapes.py')  # doctest: +SKIP
        >>> answer, = infer('photo.jpg', 'What keeps the rain off?')  # doctest: +SKIP
        >>> answer['mask'].sum(), answer['reasoning']  # doctest: +SKIP
    """

    def __init__(self,
                 model_config: str | os.PathLike | Config,
                 weights: str | None = None,
                 device: str | None = None,
                 show_progress: bool = False) -> None:
        if not isinstance(model_config, Config):
            model_config = os.fspath(model_config)
            if not osp.isfile(model_config):
                raise FileNotFoundError(f'Config {model_config!r} does not exist; give the path of '
                                        f'a config file such as configs/dpad/tiny_shapes.py')
        # mmengine reads a config's types in the scope of the moment.
        with DefaultScope.overwrite_default_scope('mmdpad'):
            super().__init__(model_config, weights, device, scope='mmdpad',
                             show_progress=show_progress)

    def __call__(self,  # type: ignore[override]
                 images: ImageInput | Sequence[ImageInput],
                 questions: str | Sequence[str],
                 batch_size: int = 1,
                 return_vis: bool = False,
                 out_dir: str | None = None) -> list[dict[str, Any]]:
        """Answer one question about each image, several about one, or pair by pair.

        Args:
            images: A path, uint8 RGB array (H, W, 3) or PIL image, or a list of them.
            questions: A question or a list; as many as images, or one of either for all.
            batch_size: Pairs that the model sees at once.
            return_vis: Add the answer's picture to its result.
            out_dir: Folder for one picture per answer and ``results.jsonl`` (masks as COCO RLE);
                what is there already is kept, a taken name gets a number.

        Returns:
            One dict per pair, in order: ``image`` (path or None), ``question``, ``mask`` (H, W)
            bool, ``box`` (XYXY) and ``points`` (two (x, y)) in pixels of the original image,
            ``score`` (the decoder's), ``caption``, ``reasoning``, ``response`` (the model's whole
            text) and ``failure``: None, or why the response could not be used; then ``mask`` is
            empty and ``box``, ``points`` and ``score`` are None. Where an answer may name several
            objects, ``mask`` is that of all, ``objects`` has a dict of ``box``, ``points`` and
            ``score`` for each, and the three keys above are the first one's. With ``return_vis``
            also ``visualization`` (h, w, 3) uint8 RGB.

        Raises:
            ValueError, TypeError: Input that cannot be used, see :func:`pair_queries`, or a
                batch size below 1; before any work.
        """
        queries = pair_queries(images, questions)
        if batch_size < 1:
            raise ValueError(f'`batch_size` should be at least 1, but got {batch_size}')
        if out_dir is not None:
            os.makedirs(out_dir, exist_ok=True)
        batches = self.preprocess([_item(query) for query in queries], batch_size)
        if self.show_progress:
            from rich.progress import track
            batches = track(batches, 'Inference', total=-(-len(queries) // batch_size))
        results: list[dict[str, Any]] = []
        lines = []
        for batch in batches:
            answers = self.postprocess(self.forward(batch))
            for answer, image in zip(answers, batch['inputs']['image'], strict=True):
                query = queries[len(results)]
                answer = dict(image=query.path, question=query.question, **answer)
                line = dict(answer, mask=encode_mask(answer['mask']))
                if return_vis or out_dir is not None:
                    picture = self.visualize([image], [answer])[0]
                    if return_vis:
                        answer['visualization'] = picture
                    if out_dir is not None:
                        line['picture'] = _write_picture(out_dir, query, picture)
                results.append(answer)
                lines.append(line)
        if out_dir is not None:
            write_jsonl(osp.join(out_dir, 'results.jsonl'), lines)
        return results

    def visualize(self, inputs: list[torch.Tensor], preds: list[dict],  # type: ignore[override]
                  show: bool = False, **kwargs: Any) -> list[np.ndarray]:
        """One picture per answer; ``inputs`` are the images (3, H, W), uint8 RGB."""
        return [draw_answer(
            image.permute(1, 2, 0).cpu().numpy(), None if answer['failure'] else answer['mask'],
            [item['box'] for item in answer['objects']],
            [point for item in answer['objects'] for point in item['points']],
            answer['question'], answer['reasoning'], answer['caption'],
            note=answer['failure'] and f'No answer: {answer["failure"]}')
            for image, answer in zip(inputs, preds, strict=True)]

    def postprocess(self, preds: list, *args: Any,  # type: ignore[override]
                    **kwargs: Any) -> list[dict[str, Any]]:
        """The model's data samples as plain dicts, see :meth:`__call__`."""
        return [_answer(sample) for sample in preds]

    def _init_model(self, cfg: Config, weights: str | None, device: str = 'cpu') -> nn.Module:
        # The checkpoint first: building a large model takes minutes, a wrong path none.
        state = None if weights is None else read_state_dict(weights, _REMEDY)
        model = MODELS.build(cfg.model)
        if weights is not None:
            load_strictly(model, state, weights, _REMEDY)
        model.cfg = cfg
        return model.to(device).eval()

    def _init_pipeline(self, cfg: Config) -> Callable:
        steps = cfg.get('inference_pipeline')
        if steps is None:
            steps = [step for step in cfg.test_dataloader.dataset.pipeline
                     if step['type'].split('.')[-1] not in _TRUTH_STEPS]
        return Compose([TRANSFORMS.build(step) for step in steps])

    def _init_collate(self, cfg: Config) -> Callable:
        return pseudo_collate  # images of different sizes stay lists

    def _init_visualizer(self, cfg: Config) -> None:
        return None  # pictures are made by `draw_answer`; the config's visualizer logs training


def _item(query: Query) -> dict[str, Any]:
    """What the first step of a pipeline gets."""
    image = dict(img_path=query.image) if query.path else dict(img=query.image)
    return dict(image, question=query.question, texts=[query.question], img_id=query.path)


def _answer(sample: Any) -> dict[str, Any]:
    found, reasoning = sample.pred_instances, sample.reasoning
    parsed = reasoning['parsed']
    failure = f'{parsed.reason}: {parsed.detail}' if isinstance(parsed, ParseFailure) else None
    if failure is None and not len(found.masks) and parsed.objects:
        failure = 'no_mask: the decoder gave no mask'
    objects = [dict(box=box, points=points, score=score) for box, points, score in zip(
        found.bboxes.tolist(), found.points.tolist(), found.scores.tolist(), strict=True)]
    first = objects[0] if objects else dict(box=None, points=None, score=None)
    return dict(
        mask=found.masks.cpu().numpy().astype(bool).any(axis=0), **first, objects=objects,
        caption=parsed.caption, reasoning=parsed.think, response=reasoning['response'],
        failure=failure)


def _write_picture(out_dir: str, query: Query, picture: np.ndarray) -> str:
    """Write a PNG named after the image; returns its name."""
    stem = Path(query.path).stem if query.path else 'image'
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, 'PNG')
    return osp.basename(write_atomically(osp.join(out_dir, f'{stem}.png'), buffer.getvalue()))
