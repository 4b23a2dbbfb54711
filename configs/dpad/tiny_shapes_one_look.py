# As tiny_shapes_zoom.py, but the policy answers at once: its prompt offers no call.
_base_ = './tiny_shapes_zoom.py'
model = dict(policy=dict(prompt_template='find "{question}"'), conversation=dict(max_turns=1))
