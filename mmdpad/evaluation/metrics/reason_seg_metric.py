# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""gIoU and cIoU of reasoning segmentation, and statistics of the responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdpad.evaluation.measures import Row
from mmdpad.evaluation.scoring import FAILED_SAMPLES, score_sample
from mmdpad.evaluation.segmentation_summary import SEGMENTATION
from mmdpad.geometry.mask_iou import check_ignore_regions
from mmdpad.registry import METRICS

from .ignore_regions import IgnoreRegionsMetric
from .result_file import ResultFileMetric


@METRICS.register_module()
class ReasonSegMetric(IgnoreRegionsMetric, ResultFileMetric):
    """Scores each answer's mask against the target; no sample is ever left out.

    Metrics (prefix ``reasonseg``):

    - ``giou``, the mean IoU of the samples, and ``ciou``, total intersection / total union (0 if
      all unions are empty), as LISA defines them, in percent; the same with ``short_`` and
      ``long_`` over samples whose ``is_sentence`` is False or True; ``n``, ``n_short``, ``n_long``.
      A part without samples only has its ``n_`` (0). ``giou_low``, ``giou_high``, ``ciou_low`` and
      ``ciou_high`` bound 95 % bootstrap intervals.
    - ``pointing_accuracy``: the share of a response's points that lie on the target, averaged over
      samples; ``box_accuracy``: the share of samples with as many boxes as targets, each box with
      IoU > 0.5 after one-to-one matching. Both in percent; absent if the model gives no points or
      boxes. For a question without a target, only an answer without points or boxes is right.
    - ``no_target_accuracy``, ``target_accuracy`` (N-acc and T-acc of gRefCOCO, arXiv 2306.00968),
      in percent, if the data have questions without a target: the share of these that got a usable
      answer with an empty mask, and the share of the others that got an answer with a mask.
      ``n_no_target``: the number of samples without a target. It is also given if every sample
      should have a target but some annotations mark none
      (:class:`mmdpad.datasets.ReasoningDataset`); such samples are scored by ``ignore_regions``,
      without these accuracies.
    - ``parse_failure_rate`` in [0, 1], and ``failed_<reason>``, a count for each reason that
      occurred. A failed sample has IoU 0, intersection 0 and the target's area as union; its points
      and boxes count as wrong. An abstention (``test_cfg.abstain_below``) is a failure, but its
      empty mask is right where the question has no target.
    - ``reasoning_tokens``, ``caption_tokens``: mean length in tokens of the model's tokenizer, over
      the responses with reasoning or a caption (one that was cut off within it has none);
      ``repetition`` of the reasoning in [0, 1), see :func:`mmdpad.rewards.repetition`; absent if no
      response has any. ``truncated_rate`` in [0, 1].
    - ``fallback_rate`` in [0, 1], for a decoder that takes the caption
      (:class:`mmdpad.models.ConceptDecoder`): the share of objects that it decoded by box and
      points alone, ``n_fallback`` of ``n_objects``.
    - ``vlm_calls``, ``sam_calls``, ``generated_tokens``, for :class:`mmdpad.models.ConceptAgent`:
      the mean number of the policy's responses, of phrases that were segmented, and of tokens in
      the responses.

    With a log file (any run of mmengine's Runner) or an ``out_file``, each evaluation writes one
    JSON line per sample (:func:`mmdpad.evaluation.scoring.score_sample`), and next to it a
    ``.json`` with the protocol, the metrics, an interval for each mean or ratio, and their
    provenance, as far as :class:`ProvenanceHook` (or another caller of
    :func:`mmdpad.evaluation.provenance.publish`) reported it. Earlier files are kept; if the name
    is taken, a number is added. Lines are in data set order if samples report their ``index``
    (mmengine's ``sample_idx``, in the metainfo).

    Attributes:
        summary: The content of the last ``.json``, with the full path as ``samples`` (None if no
            file was written); only in the process that computed it.

    Args:
        ignore_regions: 'target' counts ReasonSeg's 'ignore' regions as target (like the prepared
            data that DPAD and Seg-Zero report on); 'exclude' leaves them out of intersection and
            union, and an empty union gives IoU 1 (LISA) instead of 0. 'exclude' is refused for data
            that do not keep the regions apart.
        out_file: Where the JSON lines go; None for ``reasonseg[_iter_N].jsonl`` next to the log.
        save_masks: Put the predicted mask and the target into the sample's line, as COCO RLE.
        collect_device, prefix, collect_dir: As in mmengine.

    Raises:
        ValueError: ``ignore_regions`` is unknown, or ``out_file`` does not end in .jsonl.
    """

    kind = SEGMENTATION
    default_prefix = SEGMENTATION.prefix

    def __init__(self,
                 ignore_regions: str = 'target',
                 out_file: str | None = None,
                 save_masks: bool = False,
                 collect_device: str = 'cpu',
                 prefix: str | None = None,
                 collect_dir: str | None = None) -> None:
        check_ignore_regions(ignore_regions)
        super().__init__(dict(ignore_regions=ignore_regions, failed_samples=FAILED_SAMPLES),
                         out_file, collect_device, prefix, collect_dir)
        self.ignore_regions = ignore_regions
        self.save_masks = save_masks

    @staticmethod
    def reads(sample: dict) -> bool:
        """Whether a sample has masks, the true and the predicted ones."""
        return 'masks' in sample.get('gt_instances', ()) and 'masks' in sample['pred_instances']

    def score(self, sample: dict) -> Row:
        """See :func:`mmdpad.evaluation.scoring.score_sample`."""
        return score_sample(sample, self.ignore_regions, self.save_masks)

    def row_to_draw(self, sample: dict) -> Row:
        """:meth:`score`, with the masks."""
        return score_sample(sample, self.ignore_regions, save_masks=True)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Score samples in the form of ``DetDataSample.to_dict()``: ``gt_instances``,
        ``ignored_instances`` (optional), ``pred_instances`` with masks bool (n, H, W), and
        ``reasoning`` as written by :class:`ReasoningSegmentor`."""
        self.check_samples(data_samples)
        super().process(data_batch, data_samples)
