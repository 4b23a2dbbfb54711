# VisionReasoner's training data, several objects a question, prepared at 840 x 840
# (Ricky06662/VisionReasoner_multi_object_7k_840): all rows, in the forms of refcocog_9k_840.py. The
# model needs `several_objects=True`, too.
_base_ = './refcocog_9k_840.py'

train_dataloader = dict(
    dataset=dict(data_root='data/VisionReasoner_multi_object_7k_840/', num_samples=None,
                 several_objects=True))
