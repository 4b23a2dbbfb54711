# VisionReasoner's training data with several objects per question, prepared at 840 x 840
# (Ricky06662/VisionReasoner_multi_object_7k_840): all rows, in the formats of refcocog_9k_840.py.
# The model also needs `several_objects=True`.
_base_ = './refcocog_9k_840.py'

train_dataloader = dict(
    dataset=dict(data_root='data/VisionReasoner_multi_object_7k_840/', num_samples=None,
                 several_objects=True))
