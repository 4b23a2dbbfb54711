# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What the documents link to and name is there."""
import pkgutil
import re
from pathlib import Path

import pytest

from mmdpad import registry
from mmdpad.cli import COMMANDS
from mmdpad.cli.run import find_tools
from mmdpad.datasets.conversion import SOURCES, TARGETS
from mmdpad.models.cost.shapes import PUBLISHED
from mmdpad.models.heads.families import FAMILIES
from mmdpad.prompts import TEMPLATES

ROOT = Path(__file__).parents[2]
SITE = sorted(ROOT.glob('docs/*.md')) + sorted(ROOT.glob('docs/api/*.md'))
PAGES = [*ROOT.glob('*.md'), *SITE, *ROOT.glob('configs/**/*.md')]
OPTION = re.compile(r'(?<!\S)(--[a-z][\w-]+)')


def slugs_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).strip().replace(' ', '-')
            for heading in re.findall(r'^#+ (.*)', text, re.M)}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in re.findall(r'\]\(([^)]+)\)', page.read_text()):
        if '://' in link:
            continue
        path, _, anchor = link.partition('#')
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in slugs_of(target), link


def test_every_page_is_in_the_site():
    entries = [line for block in re.findall(r'```{toctree}\n(.*?)```',
                                            (ROOT / 'docs/index.md').read_text(), re.S)
               for line in block.splitlines() if line and not line.startswith(':')]
    pages = [str(page.relative_to(ROOT / 'docs').with_suffix('')) for page in SITE]
    assert sorted(entries) == sorted(set(pages) - {'index'})


def test_lines_have_the_width_of_the_hook():
    """pre-commit runs it on changed files only."""
    (hook, ) = re.findall(r"docs-width.*?entry: '(.*?)'",
                          (ROOT / '.pre-commit-config.yaml').read_text(), re.S)
    for page in {*PAGES, *ROOT.glob('mmdpad/**/*.md'), *ROOT.glob('tests/**/*.md')}:
        assert not re.findall(hook, page.read_text(), re.M), page


def test_the_architecture_page_names_every_folder_of_the_package():
    """Once in its tree, once in its table of imports."""
    page = (ROOT / 'docs/architecture.md').read_text()
    tree = re.search(r'^mmdpad/\n(.*?)^configs/', page, re.M | re.S)[1]
    rows = re.findall(r'^   \| ([a-z, ]+) \|', page.split('| folders of')[1], re.M)
    there = sorted(path.parent.name for path in ROOT.glob('mmdpad/*/__init__.py'))
    assert sorted(re.findall(r'^  (\w+)/ ', tree, re.M)) == there
    assert sorted(re.findall(r'\w+', ' '.join(rows))) == there
    (commands, ) = re.findall(r'the command mmdpad: (.*(?:\n {5}.*)*)', tree)
    assert sorted(re.split(r',\s+', commands)) == sorted(COMMANDS)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_is_there(page):
    """Of what is in code: files of the repository by their path, or configs by their name."""
    for path in re.findall(r'`((?:configs|docs|mmdpad|tests|tools)/[^\s`*{]*)`', page.read_text()):
        assert (ROOT / path.split('#')[0].split('::')[0]).exists(), path
    configs = {path.name for path in ROOT.glob('configs/**/*.py')}
    for name in re.findall(r'`((?:qwen|tiny_shapes)\w*\.py)`', page.read_text()):
        assert name in configs, name


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_can_be_typed(page):
    """Its script and its config are there, and the script, or what it shares, knows its flags."""
    shared = (ROOT / 'mmdpad/utils/experiments.py').read_text()
    text = re.sub(r'mmdpad run ([a-z]\w+)\b(?!::)',
                  lambda match: str(find_tools()[match[1]].relative_to(ROOT)),
                  page.read_text().replace('\\\n', ' '))
    for script, rest in re.findall(r'((?:tools/)[\w/]+\.(?:py|sh))([^\n`|]*)', text):
        source = (ROOT / script).read_text()
        rest = rest.split('#')[0].split('--cfg-options')[0]
        if script.endswith('.sh'):
            source = f'from mmdpad.cli.{script.split("_")[-1][:-3]} import main'
        for command in re.findall(r'from mmdpad\.cli\.(\w+) import main', source):
            source = (ROOT / f'mmdpad/cli/{command}.py').read_text()
        if 'add_before(' in source:
            source += (ROOT / 'tools/benchmarks/builds.py').read_text()
        for flag in OPTION.findall(rest):
            made = "f'--{" in source  # such as --train, from the names of splits
            assert made or f"'{flag}'" in source + shared, f'{script} {flag}'
        for config in re.findall(r'configs/[\w/+]+\.py', rest):
            assert (ROOT / config).is_file(), config
    for command, rest in re.findall(r'^(?:\$ )?mmdpad ([\w-]+)([^\n`|]*)', text, re.M):
        module = ROOT / 'mmdpad/cli' / command.replace('-', '_')
        source = (module / '__init__.py' if module.is_dir() else
                  module.with_suffix('.py')).read_text()
        for flag in OPTION.findall(rest.split('#')[0].split('--cfg-options')[0]):
            assert f"'{flag}'" in source + shared, f'mmdpad {command} {flag}'
    makefile = (ROOT / 'Makefile').read_text()
    for target in re.findall(r'`make ([\w-]+)`|^make ([\w-]+)', text, re.M):
        assert re.search(rf'^{"".join(target)}:', makefile, re.M), target


CODE = {path: path.read_text() for folder in ('mmdpad', 'tools')
        for path in (ROOT / folder).rglob('*.py')}
DEFINED = {name for text in CODE.values() for name in re.findall(r'^class (\w+)', text, re.M)}
REGISTRIES = [part for part in vars(registry).values() if isinstance(part, registry.Registry)]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_class_and_module_exists(page):
    text = page.read_text()
    known = DEFINED | set(re.findall(r'^class (\w+)', text, re.M))  # a tutorial's
    kinds = ('Dataset|Decoder|Discriminator|Head|Hook|Loop|Loss|Metric|Reward|Rollout|Sampler|'
             'Scorer|Segmentor|Strategy')
    for name in re.findall(rf'`(?:mmdpad\.)?([A-Z]\w*(?:{kinds}))\b', text):
        assert name in known or any(part.get(name) for part in REGISTRIES), name
    for dotted in re.findall(r'`(mmdpad(?:\.\w+)+)(?=[`(])', text):
        module, _, name = dotted.rpartition('.')
        # A config's `mmdpad.Name` is a class of ours; `mmdpad.json` is a file.
        if module != 'mmdpad' or name not in known | {'Name', 'json'}:
            pkgutil.resolve_name(dotted)


def test_the_table_of_formats_says_what_is_written():
    page = (ROOT / 'docs/data.md').read_text()
    written = dict(re.findall(r'^\| [^|]+ \| `(\w+)` \| `(\w+)` \|', page, re.M))
    assert written == {SOURCES[name][0]: name for name in TARGETS}


def test_every_message_is_one_of_ours():
    """The fragments in the table of messages stand in the code."""
    page = (ROOT / 'docs/troubleshooting.md').read_text()
    table = re.search(r'^## Error messages\n(.*?)^## ', page, re.M | re.S)[1]
    fragments = re.findall(r'^\| (?:`` (.+?)``|`([^`]+)`) \|', table, re.M)
    assert len(fragments) >= 15
    source = re.sub(r'''['"]\s*\n\s*f?['"]''', '', '\n'.join(CODE.values()))
    for fragment in map(''.join, fragments):
        assert fragment in source, fragment


def ours(part: registry.Registry, ending: str = '') -> list[str]:
    """The names that the package itself registers, for configs to name."""
    part.import_from_location()
    return [name for name, kind in part.module_dict.items() if name.endswith(ending)
            and re.match(r'mmdpad\.(?!preflight\.)', kind.__module__)]


# Page -> what it lists, each in code.
LISTED = {
    'method': [*ours(registry.REWARDS), *ours(registry.MODELS, 'Loss')],
    'decoders': ours(registry.MODELS, 'Decoder') + ours(registry.MODELS, 'Discriminator'),
    'rollouts': ours(registry.ROLLOUTS), 'detection': ours(registry.MODELS, 'Scorer'),
    'evaluation': ours(registry.METRICS),
    'data': ours(registry.DATASETS, 'Dataset'), 'policies': [*FAMILIES],
    'configs': [*ours(registry.HOOKS), *map(repr, TEMPLATES)]}
assert all(LISTED.values())


@pytest.mark.parametrize('page, name', [(page, name) for page in LISTED for name in LISTED[page]])
def test_every_part_is_in_its_list(page, name):
    assert re.search(rf"`(mmdpad\.)?{re.escape(name)}[`(]", (ROOT / f'docs/{page}.md').read_text())


@pytest.mark.parametrize('kind', FAMILIES)
def test_the_sizes_of_a_family_are_those_that_the_estimate_knows(kind):
    row = re.search(rf'^\|.*`{kind}` \| (.*?) \|', (ROOT / 'docs/policies.md').read_text(), re.M)
    known = [re.sub('^.*?-(VL-|4.1V-)?', '', name) for name, shape in PUBLISHED.items()
             if shape[0] == kind]
    assert row[1].split(', ') == known or not known
