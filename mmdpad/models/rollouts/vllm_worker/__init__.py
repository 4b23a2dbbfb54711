# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What a vLLM server imports to take a policy's weights: its environment has no mmdpad, so this
folder is on its PYTHONPATH, and the modules here import only torch, safetensors and vllm."""
