# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Scores stored masks against a config's test set, without a model and without pixels.

    python tools/analysis_tools/evaluate_masks.py configs/dpad/qwen7b_reasonseg.py masks.jsonl

Each line has `id` and `question` of an item and `mask`, COCO RLE, or null if the prediction
failed. Lines that ReasonSegMetric writes with `save_masks=True` have this form; their other
entries are kept. The result files are those of tools/test.py.
"""

from __future__ import annotations

from pathlib import Path

from mmdpad.utils import check_file, config_parser, load_config, read_jsonl, start_command


def main() -> None:
    parser = config_parser(__doc__.splitlines()[0], 'test_evaluator.ignore_regions=exclude')
    parser.add_argument('predictions', metavar='PREDICTIONS.jsonl', help='lines, see above')
    parser.add_argument('--out', metavar='FILE.jsonl', help='path of the result; a taken name '
                        'gets a number (default: PREDICTIONS_scored.jsonl)')
    args = parser.parse_args()
    check_file('predictions', args.predictions)
    with start_command():
        config = load_config(args)

        from mmengine.registry import init_default_scope

        from mmdpad.analysis.stored_masks import score_predictions
        from mmdpad.datasets.reasoning_dataset import for_evaluation
        from mmdpad.datasets.transforms import without_pixels
        from mmdpad.evaluation.metrics import ReasonSegMetric
        from mmdpad.evaluation.provenance import (
            dataset_switches,
            describe_data,
            describe_environment,
            hash_config,
            hash_file,
            publish,
        )
        from mmdpad.registry import DATASETS, METRICS, is_kind, scope_of
    if missing := [name for name in ('test_dataloader', 'test_evaluator') if not config.get(name)]:
        raise SystemExit(f'{args.config} should have a test set, but has no '
                         f'`{"` and no `".join(missing)}`; name another config')
    init_default_scope(scope_of(config, 'mmdpad'))
    evaluators = config.test_evaluator
    evaluators = [evaluators] if isinstance(evaluators, dict) else evaluators
    chosen = [dict(metric) for metric in evaluators
              if is_kind(metric, ReasonSegMetric, METRICS)]
    stem = Path(args.predictions).with_suffix('')
    try:
        metric = METRICS.build(dict(chosen[0] if chosen else dict(type=ReasonSegMetric),
                                    out_file=args.out or f'{stem}_scored.jsonl'))
        dataset = DATASETS.build(for_evaluation(without_pixels(config.test_dataloader.dataset)))
        publish(dict(protocol=dataset_switches(dataset), provenance=dict(
            predictions=hash_file(args.predictions), config=hash_config(config),
            **describe_data(dataset), **describe_environment(None))))
        metrics = score_predictions(dataset, list(read_jsonl(args.predictions)), metric)
    except (OSError, ValueError) as error:  # includes DatasetError
        raise SystemExit(str(error)) from error
    for name, value in metrics.items():
        print(f'{name:36}{value:10.4g}')
    print(metric.summary['samples'])


if __name__ == '__main__':
    main()
