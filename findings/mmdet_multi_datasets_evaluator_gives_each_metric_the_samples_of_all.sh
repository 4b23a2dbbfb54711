#!/usr/bin/env bash
# mmdet: MultiDatasetsEvaluator ("evaluated on each dataset slice separately") has every metric process the samples of
# all data sets, and afterwards cuts the results of the n-th metric at the sizes of the data sets. So (1) with n data
# sets each sample is scored n times and its results are held n times: 35 times in ODinW's config; (2) a metric that
# needs a key of its own data set fails on the samples of another; (3) one that keeps no result for some samples, which
# is right by itself, gets a part of another data set, without a word: wrong values for both; (4) a single metric, which
# is allowed, is computed for the first data set alone. What to do: keep exactly one result for each sample, whatever
# its data set is, and list one metric for each data set. Exits with 0 while it is so, with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.14.1 addict==2.4.0 matplotlib==3.10.7 numpy==2.2.6 opencv-python-headless==4.11.0.86 PyYAML==6.0.2 \
    rich==13.9.4 setuptools==80.9.0 termcolor==2.5.0 yapf==0.43.0
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps \
    mmengine==0.10.7 mmdet==3.3.0

cat > show.py <<'PROGRAM'
import logging
import platform
import sys
from importlib.metadata import files, version
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

from mmengine.evaluator import BaseMetric, Evaluator

logging.disable()
# The file by itself: mmdet as a whole asks for compiled operators of mmcv, of which there is no wheel for this torch.
sys.modules.update({name: ModuleType(name) for name in ('mmdet', 'mmdet.utils')})
sys.modules['mmdet.utils'].ConfigType = dict
(path, ) = [file.locate() for file in files('mmdet') if file.name == 'multi_datasets_evaluator.py']
spec = spec_from_file_location('multi_datasets_evaluator', path)
module = module_from_spec(spec)
spec.loader.exec_module(module)
print(f'mmdet {version("mmdet")}, mmengine {version("mmengine")}, Python {platform.python_version()}')
print('source: MultiDatasetsEvaluator.process and evaluate\n')

# Images with the scores of their objects.
DATA = {'road': [dict(scores=[1.0, 1.0]), dict(scores=[])],
        'sea': [dict(scores=[0.5], depth=20), dict(scores=[0.0], depth=30)]}


class Images(BaseMetric):
    """Mean over images."""
    seen = 0

    def process(self, data_batch, data_samples):
        self.seen += len(data_samples)
        self.results += map(self.score, filter(self.counts, data_samples))

    def counts(self, sample):
        return True

    def score(self, sample):
        return sum(sample['scores']) / max(len(sample['scores']), 1)

    def compute_metrics(self, results):
        return dict(mean=sum(results) / len(results))


class Occupied(Images):
    """Mean over images that have objects."""

    def counts(self, sample):
        return len(sample['scores']) > 0


class Depth(Images):
    """Mean over images of what one data set has only."""

    def score(self, sample):
        return sample['depth']


def apart(*kinds):
    values = {}
    for (name, samples), kind in zip(DATA.items(), kinds):
        evaluator = Evaluator(kind())
        evaluator.process(samples)
        values[f'{name}/mean'] = evaluator.evaluate(len(samples))['mean']
    return values


def together(*kinds):
    metrics = [kind() for kind in kinds]
    evaluator = module.MultiDatasetsEvaluator(metrics, dataset_prefixes=list(DATA))
    evaluator.dataset_meta = dict(cumulative_sizes=[2, 4])  # as mmdet's ConcatDataset says
    try:
        for samples in DATA.values():
            evaluator.process(samples)
        values = dict(evaluator.evaluate(4))
    except KeyError as error:
        values = f'KeyError: {error}'
    return values, [metric.seen for metric in metrics]


cases = dict(images=(Images, Images), occupied=(Occupied, Occupied), depth=(Images, Depth), single=(Images, ))
seen = {}
for name, kinds in cases.items():
    alone, (values, counts) = apart(*kinds), together(*kinds)
    seen[name] = values, counts
    print(f'{name}: each data set by itself {alone}; MultiDatasetsEvaluator {values}, images seen {counts}\n')
expected = dict(images=(apart(Images, Images), [4, 4]), occupied=({'road/mean': 0.75, 'sea/mean': 0.0}, [4, 4]),
                depth=("KeyError: 'depth'", [2, 2]), single=(apart(Images), [4]))
right = apart(Occupied, Occupied) == {'road/mean': 1.0, 'sea/mean': 0.25}
raise SystemExit(0 if right and seen == expected else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: each metric processes all samples'
else
    echo 'changed: each metric processes the samples of its data set' >&2
    exit 1
fi
