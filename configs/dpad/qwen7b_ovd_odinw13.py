# ODinW-13: evaluates the model that qwen7b_ovd_coco.py trains on 13 small data sets that it has not
# seen. Every image is asked for all classes of its data set, by their own names. The log and --out
# have F1, AP and more of each data set, and the means over data sets (mean/coco/bbox_mAP).
#   python tools/test.py configs/dpad/qwen7b_ovd_odinw13.py \
#       work_dirs/qwen7b_ovd_coco/iter_187.pth --out odinw13.json
# Any other folder with exports of Roboflow, and other words for some classes: docs/detection.md.
# Needs data/odinw/ as for mmdet::grounding_dino/odinw. Not run with the published weights.
_base_ = './qwen7b_ovd_coco.py'

from mmdpad.datasets.detection_folders import ODINW13, detection_folders  # noqa: E402

datasets, test_evaluator = detection_folders('data/odinw/', ODINW13, pipeline=_base_.pipeline)
test_dataloader = dict(dataset=datasets)
