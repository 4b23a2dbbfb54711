# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Asks the shipped model about a toy scene; `mmdpad doctor` runs this in a separate process."""

from mmdpad.utils import start_command

if __name__ == '__main__':
    with start_command():
        from mmdpad.apis import ReasonSegInferencer
        from mmdpad.toy.shapes_world import make_scene
        infer = ReasonSegInferencer('mmdpad::dpad/tiny_shapes.py')
    scene = make_scene('test', 3)
    answer, = infer(scene.image, scene.question.text)
    assert answer['failure'] is None, answer['failure']
    print(f'"{scene.question.text}": "{answer["caption"]}", {answer["mask"].sum()} pixels')
