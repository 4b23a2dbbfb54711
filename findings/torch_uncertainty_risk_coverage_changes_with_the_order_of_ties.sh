#!/usr/bin/env bash
# torch-uncertainty: AURC, AUGRC, RiskAtxCov, and CovAtxRisk sort by confidence and leave the order of equal confidences
# to the sort, which is not stable. Shares of votes among N samples, or softmax values that reach 1.0, have few
# different values: so the area under the risk-coverage curve changes with the order of the data, without a word, by
# more than the difference between two methods. A confidence that says nothing does not get the error rate, as it
# should, but anything around it. Average over shuffled data. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   torch-uncertainty 0.13.0, torch 2.13.0, Python 3.11.7
#   error rate 0.25; lowest and highest value of the same predictions in 22 orders: AURC, risk at 25 % coverage,
#     coverage at 10 % risk
#   shares of votes: 0.13 to 0.24, 0.00 to 0.39, 0.00 to 0.36
#   one confidence for all: 0.12 to 0.31, 0.00 to 0.34, 0.00 to 0.56
#   all confidences different: {(0.09, 0.0, 0.44)}
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.13.0 torchmetrics==1.9.0 matplotlib==3.10.7 numpy==2.2.6
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps \
    torch-uncertainty==0.13.0

cat > show.py <<'PROGRAM'
import platform
import warnings
from importlib.metadata import files, version
from importlib.util import module_from_spec, spec_from_file_location

warnings.simplefilter('ignore')
import torch

# The file by itself: the package as a whole asks for Lightning.
(path, ) = [file.locate() for file in files('torch-uncertainty') if file.name == 'risk_coverage.py']
spec = spec_from_file_location('risk_coverage', path)
module = module_from_spec(spec)
spec.loader.exec_module(module)
print(f'torch-uncertainty {version("torch-uncertainty")}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: torch_uncertainty/metrics/classification/risk_coverage.py, scores.argsort(descending=True)\n')
# Answers to 400 questions with two choices, each by four samples; 80 % of those with 4 votes are right, 70 % with 3.
VOTES = torch.tensor([1.0] * 200 + [0.75] * 200)
RIGHT = torch.tensor([1] * 160 + [0] * 40 + [1] * 140 + [0] * 60)


def values(confidence, order):
    probabilities = torch.stack([1 - confidence, confidence], 1)[order]
    seen = []
    for metric in (module.AURC(), module.RiskAtxCov(cov_threshold=0.25), module.CovAtxRisk(risk_threshold=0.1)):
        metric.update(probabilities, RIGHT[order])
        seen.append(round(float(metric.compute()), 2))
    return seen


ORDERS = [RIGHT.argsort(stable=True), RIGHT.argsort(stable=True, descending=True)] + [
    torch.randperm(400, generator=torch.Generator().manual_seed(seed)) for seed in range(20)]
print(f'error rate {1 - float(RIGHT.float().mean()):.2f}; lowest and highest value of the same predictions in '
      f'{len(ORDERS)} orders: AURC, risk at 25 % coverage, coverage at 10 % risk')
spread = []
for name, confidence in {'shares of votes': VOTES, 'one confidence for all': torch.full((400, ), 0.9)}.items():
    columns = list(zip(*(values(confidence, order) for order in ORDERS)))
    print(f'{name}: ' + ', '.join(f'{min(column):.2f} to {max(column):.2f}' for column in columns))
    spread.append(max(columns[0]) - min(columns[0]))
# With all confidences different the order of the data has no influence.
distinct = VOTES - torch.arange(400) / 2000
alone = {tuple(values(distinct, order)) for order in ORDERS}
print(f'all confidences different: {alone}')
same = min(spread) > 0.05 and len(alone) == 1
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
