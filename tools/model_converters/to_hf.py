# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Converts a checkpoint to a folder that plain transformers, vLLM or peft loads.

    python tools/model_converters/to_hf.py CONFIG CHECKPOINT OUT_DIR [--dtype bfloat16]
    python tools/model_converters/to_hf.py LORA_CONFIG CHECKPOINT OUT_DIR --merge-lora

docs/checkpoints.md describes the folder. OUT_DIR only appears once it is complete, and is never
replaced. from_hf.py is the reverse.
"""

from __future__ import annotations

import json
from pathlib import Path

from mmdpad.utils import check_file, config_parser, load_config, new_folder, start_command
from mmdpad.version import __version__


def main() -> None:
    parser = config_parser(__doc__.splitlines()[0], 'model.policy.pretrained=models/Qwen2.5-VL-7B')
    parser.add_argument('checkpoint', help='checkpoint that tools/train.py wrote with this config')
    parser.add_argument('out_dir', metavar='OUT_DIR', type=Path,
                        help='the new folder; it must not exist')
    parser.add_argument('--merge-lora', action='store_true', help='merge the adapter into the '
                        'weights; without this, OUT_DIR holds only the adapter, for peft')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16', 'float16'],
                        help='type of the weights in OUT_DIR (default: as trained)')
    args = parser.parse_args()
    check_file('checkpoint', args.checkpoint)
    with start_command():
        config = load_config(args)

        from mmdpad.models.hf_folder import export_policy
    try:
        with new_folder(args.out_dir) as folder:
            export_policy(args.checkpoint, config.model.policy, folder,
                          merge_lora=args.merge_lora, dtype=args.dtype)
            (folder / 'mmdpad.json').write_text(json.dumps(about(args, config), indent=2) + '\n')
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(str(error)) from error
    print(f'{args.out_dir}: ' + ', '.join(sorted(path.name for path in args.out_dir.iterdir())))


def about(args, config) -> dict:
    """Describe where the weights come from."""
    from mmdpad.evaluation.provenance import hash_config
    from mmdpad.models.weights import load_safe
    from mmdpad.tasks import templates_of_model
    templates = templates_of_model(config.model)
    template = next(iter(templates.values())) if len(templates) == 1 else templates
    meta = load_safe(args.checkpoint).get('meta')
    policy = config.model.policy
    return dict(checkpoint=Path(args.checkpoint).name, iter=(meta or {}).get('iter'),
                start_policy=policy.pretrained, lora=policy.get('lora'), merged=args.merge_lora,
                prompt_template=template,
                dtype=args.dtype or policy.get('dtype', 'float32'), config=Path(args.config).name,
                config_hash=hash_config(config), mmdpad=__version__)


if __name__ == '__main__':
    main()
