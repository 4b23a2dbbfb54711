# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Chat templates of every kind, in each of the files that may hold one."""

from pathlib import Path

from chat_templates import NO_TURN, OPENED, TEXT_ONLY
from policy_folders import case, change_json

REFUSED = dict.fromkeys(TEXT_ONLY, 'should render |cannot be rendered') | {
    'ignores add_generation_prompt': 'but ignores it: the policy would have to write'}
FILES = ('chat_template.jinja', 'chat_template.json', 'processor_config.json')


def write(folder: Path, template: str, file: str = FILES[0]) -> None:
    (folder / FILES[0]).unlink()
    if file.endswith('.jinja'):
        (folder / file).write_text(template)
    else:
        change_json(folder / file, chat_template=template)


for kind, (opens, _) in OPENED.items():
    @case(f'the chat template of {kind}', same=False, slow=True)
    def _(folder: Path, template: str = opens) -> None:
        write(folder, template)

for kind, template in {**TEXT_ONLY, 'ignores add_generation_prompt': NO_TURN}.items():
    @case(f'a chat template that {kind}', refused=REFUSED[kind], slow=True)
    def _(folder: Path, template: str = template) -> None:
        write(folder, template)

for name in FILES:
    @case(f'a thinking model by {name}', same=False)
    def _(folder: Path, name: str = name) -> None:
        write(folder, OPENED['a thinking model'][0], name)

    @case(f'a template for text only in {name}', refused=rf'\({name}\) should render the image')
    def _(folder: Path, name: str = name) -> None:
        write(folder, TEXT_ONLY['takes the texts only'], name)


@case('an end that is no token', refused='`eos_token_id` of config.json in .* but got 99999')
def _(folder: Path) -> None:
    change_json(folder / 'config.json', eos_token_id=99999)


@case('an end of the generation alone that differs')
def _(folder: Path) -> None:
    change_json(folder / 'generation_config.json', eos_token_id=504)
