#!/usr/bin/env bash
# globox: `AnnotationSet.from_coco` leaves out `iscrowd` and COCOEvaluator counts a crowd as one object that should be
# found, and detections within it as wrong, without a word. COCO's own evaluation ignores both: a detector that finds
# each object has AP 1.0 there and 0.25 here. Exits with 0 while it does, with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    globox==2.9.0 pycocotools==2.0.11 numpy==2.2.6

cat > show.py <<'PROGRAM'
import contextlib
import io
import json
import platform
from importlib.metadata import version

from globox import AnnotationSet, COCOEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(f'globox {version("globox")}, pycocotools {version("pycocotools")}, Python {platform.python_version()}')
print('source: AnnotationSet.from_coco(truth).from_results(found), COCOEvaluator(...).ap() and .ar_100()\n')


def write(name, content):
    with open(name, 'w') as file:
        json.dump(content, file)


# One person, and a crowd of which the file has one box, as in COCO.
person = dict(id=1, image_id=1, category_id=1, iscrowd=0, area=400, bbox=[10, 10, 20, 20])
crowd = dict(id=2, image_id=1, category_id=1, iscrowd=1, area=2000, bbox=[70, 10, 50, 40])
for name, annotations in (('person.json', [person]), ('person_and_crowd.json', [person, crowd])):
    write(name, dict(images=[dict(id=1, width=128, height=64, file_name='street.png')],
                     categories=[dict(id=1, name='person')], annotations=annotations))
# The person, and three people of the crowd; the detector is surer of the last.
boxes = [([10, 10, 20, 20], 0.6), ([72, 12, 10, 20], 0.9), ([90, 20, 10, 20], 0.5), ([105, 15, 10, 20], 0.4)]
results = [dict(image_id=1, category_id=1, bbox=box, score=score) for box, score in boxes]
write('person_found.json', results[:1])
write('all_found.json', results)

seen = {}
for truth, found in (('person.json', 'person_found.json'), ('person_and_crowd.json', 'all_found.json')):
    annotations = AnnotationSet.from_coco(truth)
    evaluator = COCOEvaluator(ground_truths=annotations, predictions=annotations.from_results(found))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
        run = COCOeval(coco, coco.loadRes(found), 'bbox')
        run.evaluate(), run.accumulate(), run.summarize()
    seen[truth] = dict(globox=[round(float(value), 2) for value in (evaluator.ap(), evaluator.ar_100())],
                       pycocotools=[round(float(value), 2) for value in (run.stats[0], run.stats[8])])
    print(f'{truth:22} [AP, AR] {seen[truth]}')
raise SystemExit(0 if seen == {
    'person.json': dict(globox=[1.0, 1.0], pycocotools=[1.0, 1.0]),
    'person_and_crowd.json': dict(globox=[0.25, 0.5], pycocotools=[1.0, 1.0])} else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: crowds count as objects'
else
    echo 'changed: crowds no longer count as objects' >&2
    exit 1
fi
