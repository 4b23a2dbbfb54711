# What the other files in this folder are links to: each gives the config of its name that stands
# below configs/ (in an installed mmdpad below .mim/configs/) to MMEngine's pure Python style:
#     with read_base():
#         from mmdpad.configs.dpad.tiny_shapes import *
from mmengine.config import Config

# MMEngine runs a pure Python config with its `__file__`, and fills in the rest in another.
__path = globals().get('__file__') or '{{ fileDirname }}/{{ fileBasename }}'
__package, __configs, __name = __path.replace('\\', '/').rpartition('/configs/')
globals().update(Config.fromfile(f'{__package}/.mim/configs/{__name}').to_dict())
del Config
