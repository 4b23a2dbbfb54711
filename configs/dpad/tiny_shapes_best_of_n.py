# Several sampled answers to each synthetic scene, of which one is chosen, and what every selector
# would have chosen. Nothing is trained for it: test the start policy, or tiny_shapes_loose_boxes.py
# after training.
#   python tools/dataset_converters/shapes_world.py data/shapes_world
#   python tools/test.py configs/dpad/tiny_shapes_best_of_n.py
#   python tools/analysis_tools/compare_selectors.py work_dirs/tiny_shapes_best_of_n
_base_ = './tiny_shapes_loose_boxes.py'

# What people change most: the number of answers, and the weights of the selectors that choose.
# Those with the weight 0 are only measured.
num_samples = 8
selectors = dict(consensus=1.0, discrimination=0.0, decoder_score=0.0, likelihood=0.0)

model = dict(test_cfg=dict(
    num_samples=num_samples, temperature=1.0, compare_greedy=True,
    select=dict(type='WeightedSelector', selectors=selectors)))
test_evaluator = [dict(type='SelectionMetric', ignore_regions='target')]
