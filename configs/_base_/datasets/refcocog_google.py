# RefCOCOg with Google's splits, train and val (the test split is not public).
_base_ = './refcocog.py'

val_dataloader = dict(dataset=dict(split_file='refcocog/refs(google).p'))
test_dataloader = dict(dataset=dict(split_file='refcocog/refs(google).p', split='val'))
