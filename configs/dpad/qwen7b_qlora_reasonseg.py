# DPAD with a low-rank adapter on Qwen2.5-VL-7B with a 4-bit language model, otherwise as
# qwen7b_lora_reasonseg.py: about 19 GB of accelerator memory, by
# tools/analysis_tools/estimate_cost.py.
#   pip install -e .[data,qlora]
#   python tools/train.py configs/dpad/qwen7b_qlora_reasonseg.py
# Not run at full size or on a GPU. The settings are those of the QLoRA paper (arXiv 2305.14314).
_base_ = './qwen7b_lora_reasonseg.py'

model = dict(
    policy=dict(
        quantization=dict(load_in_4bit=True, bnb_4bit_quant_type='nf4',
                          bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype='bfloat16')))
