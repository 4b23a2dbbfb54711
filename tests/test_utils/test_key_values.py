# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""KEY=VALUE: what is typed arrives; what a list or a number is, is as mmengine has it."""
import ast
import math
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmengine.config import Config, DictAction
from yapf.yapflib.yapf_api import FormatCode

from mmdpad.utils import (
    KeyValueError,
    KeyValues,
    config_parser,
    open_config,
    override,
    parse_value,
)
from mmdpad.utils.key_values import MAX_DEPTH, parse_key_value

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r'^\| `([^`]+=[^`]*)` \| `(.+?)` \|$', (ROOT / 'docs/configs.md').read_text(
    ).split('\n### From the command line\n')[1].split('\n## ')[0], re.M)


def test_the_documented_examples_are_read_so():
    assert len(EXAMPLES) >= 15
    for typed, value in EXAMPLES:
        (argument, ) = shlex.split(typed)
        assert repr(parse_key_value(argument)[1]) == repr(ast.literal_eval(value)), typed


@pytest.mark.parametrize('text', [
    '1', '-1', '+1', '1.5', '-1e-3', '1e5', '.5', 'inf', '007', '1_000', 'true', 'True', 'FALSE',
    'None', 'none', 'null', '', 'a', 'a=b', 'C:\\new', '-a', '1,2', '1,a', 'a,b', '1,', '[1,2]',
    '(1,2)', '(1)', '()', '[]', '[1,]', '[[1,2],3]', '[a,b,c]', '[(a,b),(c,d)]', '[a, b, c]',
    '1,2,3', '[(1, 2, 3), [a, b], c]', '(1,2),a', '[a,(b)]', '["a","b"]', "'a','b'", '[True,none]',
    '1, 2', '[(1,2),(3,4)]', 'bbox,segm', 'https://a.b/c?d=e'])
def test_numbers_and_lists_are_those_of_mmengine(text):
    value = parse_value(text)
    assert repr(value) == repr(DictAction._parse_iterable(text))
    assert type(value) is type(DictAction._parse_iterable(text))


@pytest.mark.parametrize('text', [
    'Find {question} in the image', '{question}', '{question}: find it; {coordinates}',
    '{question}, please', '{{"box": [1]}} is how to answer {question}', ' a ', '\ta\n', 'a,,b',
    ',', '"',
    '[INST] {question} [/INST]', '(a) or (b)', 'dict(a=1) or so', 'f(b,c)', 'lambda:0', '3j',
    '...',
    '"yes" or "no"', 'say "a, b"', "it's, well, it", "'", 'dog, cat', 'Grüße, 世界', 'a\\nb',
    'b"x"',
    'one\ntwo, three', '5 # 6', 'Well, :( {question}', '/content/drive/My Drive/x', '\udce9 x'])
def test_a_plain_text_stays_as_typed(text):
    assert parse_value(text) == text and parse_key_value('a.0.b=' + text) == ('a.0.b', text)


@pytest.mark.parametrize('text, value', [
    ('"/data/a,b"', '/data/a,b'), ("'[1,2]'", '[1,2]'), ("'7'", '7'), ('""', ''),
    ("'it\\'s'", "it's"),
    (r'"a\nb\\\d\x41\u00e9\N{BULLET}"', 'a\nb\\\\dAé•'), ("'a\nb'", 'a\nb'), ("'{x'", '{x'),
    ("'\udce9,'", '\udce9,'), ('0xff', 255), ("'a b',c", ['a b', 'c']),
    ('f(b,c),d', ['f(b,c)', 'd']),
    ('(1,2),(3,4)', [(1, 2), (3, 4)]), ('[a b, c]', ['a b', 'c']), ("['a]', b]", ['a]', 'b']),
    ("[don't, won't]", ["don't", "won't"]), ('[{question}, a]', ['{question}', 'a']),
    ('{}', {}), ('dict()', {}), ('{1:2}', {1: 2}),
    ('{enforce_eager:True}', {'enforce_eager': True}),
    ("{'a,b:c': 'd,e', 'f': (1,)}", {'a,b:c': 'd,e', 'f': (1, )}),
    ('dict(a=[1,dict(b=c d,e="f,g")], h=i=j)', {'a': [1, {'b': 'c d', 'e': 'f,g'}], 'h': 'i=j'}),
    ('[dict(type=A),\n dict(type=B)]', [{'type': 'A'}, {'type': 'B'}])])
def test_quotes_and_brackets(text, value):
    assert repr(parse_value(text)) == repr(value)


UNREADABLE = {
    'brackets do not match': ['[1,2', '(', '{question', '[1,2)', 'a,(b', '[a,(b]', 'dict(a=1'],
    f'more than {MAX_DEPTH} deep': ['[' * 51 + ']' * 51, '[' * 99, '[a,' + 'dict(a=' * 99],
    'should be key=value': ['dict(1)', 'dict(a=)'],
    'should be key: value': ['{1, 2}', '{a,b}', '{a:1, b}'],
    'a name that occurs only once': ['dict(a=1,a=2)', 'dict(a b=1)', "{'a': 1, a: 2}",
                                      '{(1,): 2}'],
    'nothing between two commas in it': ['[1,,2]', '[,]'],
    r'`list\(...\)` is not known': ['list(1,2)'],
    'is not a character': [r'"\N{no such}"', r'"\U99999999"']}


@pytest.mark.parametrize('message, text', [
    (message, text) for message, texts in UNREADABLE.items() for text in texts],
    ids=lambda text: text[:20])
def test_what_cannot_be_understood_is_shown(message, text):
    begun = time.monotonic()
    with pytest.raises(KeyValueError, match=message) as raised:
        parse_key_value(f'a={text}')
    told = str(raised.value)
    assert repr(f'a={text}'[:200])[:-1] in told and '\n' not in told and len(told) < 800
    assert time.monotonic() - begun < 2


def test_the_deepest_brackets_are_read():
    value = parse_value('[' * MAX_DEPTH + ']' * MAX_DEPTH)
    for _ in range(MAX_DEPTH - 1):
        (value, ) = value
    assert value == []


@pytest.mark.parametrize('argument', ['a', '=1', 'a..b=1', '.a=1', 'a b=1', '{question}'])
def test_a_key_is_names_with_dots(argument):
    with pytest.raises(KeyValueError, match=re.escape(f'but got {argument!r}')):
        parse_key_value(argument)


def test_random_values_and_texts():
    hypothesis = pytest.importorskip('hypothesis')
    from hypothesis import strategies as st
    texts = st.text(st.characters(codec='utf-8') | st.sampled_from('\'"\\,[](){}:= \n'))
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
    keys = texts | st.integers() | st.none()
    values = st.recursive(scalars, lambda inner: st.lists(inner) | st.lists(inner).map(
        tuple) | st.dictionaries(keys, inner), max_leaves=12)
    words = st.text(st.characters(codec='utf-8', exclude_characters=',[](){}\'"'))
    settings = hypothesis.settings(max_examples=150, deadline=None, database=None)

    @settings
    @hypothesis.given(values)
    def whatever_python_writes_comes_back(value):
        assert repr(parse_value(repr(value))) == repr(value)

    @settings
    @hypothesis.given(words)
    def words_stay(text):
        value = parse_value(text)
        assert value == text or value is None or isinstance(value, (bool, int, float))

    @settings
    @hypothesis.given(texts)
    def anything_is_read_or_refused(text):
        try:
            value = parse_value(text)
        except KeyValueError:
            return
        # Quotes make a text of any text.
        assert parse_value(repr(text)) == text and repr(value)

    whatever_python_writes_comes_back()
    words_stay()
    anything_is_read_or_refused()


def test_options_add_up_and_the_last_one_counts():
    parser = config_parser('', 'a=1')
    args = parser.parse_args(['c', '--cfg-options', 'a=1', 'b=-1', '--cfg-options', 'a= x',
                              'p.q=a=b'])
    assert args.cfg_options == dict(a=' x', b=-1) | {'p.q': 'a=b'}
    assert list(args.cfg_options) == ['b', 'a', 'p.q']


def changed(**entries) -> Config:
    return Config(dict(size=1, model=dict(type='A', head=None, rates=[1, dict(x=1)], pair=(1, 2)),
                       same=dict(x=1), **entries))


@pytest.mark.parametrize('options, key, value', [
    (dict([('size', 'x')]), 'size', 'x'),
    ({'new.a.b': 1}, 'new', dict(a=dict(b=1))),
    ({'same': dict(y=2)}, 'same', dict(x=1, y=2)),
    ({'same': dict(_delete_=True, y=2)}, 'same', dict(y=2)),
    ({'model.head': dict(type='B')}, 'model.head', dict(type='B')),
    ({'model.head.type': 'B'}, 'model.head', dict(type='B')),
    ({'model.rates.0': 7}, 'model.rates', [7, dict(x=1)]),
    ({'model.rates.1.y': 7}, 'model.rates', [1, dict(x=1, y=7)]),
    ({'model.rates': [dict(z=dict(type='C'))]}, 'model.rates', [dict(z=dict(type='C'))]),
    ({'same': {1: 2}, 'same.y': 3}, 'same', {'x': 1, 1: 2, 'y': 3}),
    ({'size': dict(_delete_=True, a=1)}, 'size', dict(a=1))])
def test_options_change_a_config(options, key, value):
    config, found = changed(), None
    override(config, options)
    found = config
    for name in key.split('.'):
        found = getattr(found, name)
    assert found == value


def test_what_entries_share_is_left_alone():
    part = Config(dict(x=dict(list=[dict(y=1)])))
    config = Config(dict())
    config.a = part.x
    config.b = config.a
    override(config, {'a.list.0.y': 2})
    assert config.a.list[0].y == 2 and config.b.list[0].y == 1


def test_entries_of_a_list_have_names():
    config = Config(dict(hooks=[dict(type='a.Twice'), dict(type=Config),
                                dict(type='Twice', name='near')]))
    override(config, {'hooks.near.x': 1, 'hooks.Config.x': 2, 'hooks.0.x': 3})
    assert [hook.x for hook in config.hooks] == [3, 2, 1]
    with pytest.raises(KeyValueError, match=r'list of 3, .*got `Twice`, which \[0, 2\] are called'):
        override(config, {'hooks.Twice.x': 4})


@pytest.mark.parametrize('options, message', [
    ({'model.rates.2': 1}, '`model.rates` is a list of 2, .* numbered from 0, but got `2`'),
    ({'model.rates.x': 1}, '`model.rates` is a list of 2'),
    ({'model.rates.0.x': 1}, '`model.rates.0` is 1, which has no entry `x`'),
    ({'model.pair.0': 1}, r'`model.pair` is \(1, 2\), which has no entry `0`'),
    ({'size': dict(a=1)}, '`size` is 1, .*put `_delete_=True` into the dict'),
    ({'model': dict(rates=dict(a=1))}, '`model`: .*_delete_=True'),
    ({'train-cfg.x': 1}, '`train-cfg` cannot be the name'), ({'class': 1}, '`class` cannot be'),
    ({'_base_': 'x'}, '`_base_` cannot be'), ({'text': 'x'}, '`text` cannot be'),
    ({'a': ['{question} {{ fileBasename }}']}, '`a` holds .*fileBasename'),
    ({'a': '{{_base_.b}}'}, 'work dir'), ({'a': dict(b='{{$HOME:x}}')}, 'work dir')])
def test_options_that_do_not_fit(options, message):
    with pytest.raises(KeyValueError, match=message):
        override(changed(), options)


@pytest.mark.parametrize('suffix', ['py', 'json', 'yaml'])
def test_texts_come_back_from_the_config_of_a_work_dir(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.config.config.FormatCode', FormatCode)  # as outside of tests
    texts = ['Find {question}. Answer {{"box": [1, 2]}}', 'say "a" and \'b\'', 'a\nb\r\n\tc', "'''",
             'Grüße 世界 \u2028', 'C:\\new \\d', 'word ' * 60, '  # %s {0} {{}}', '$HOME ${HOME}']
    config = Config(dict(model=dict()))
    override(config, {'model.texts': texts})
    config.dump(tmp_path / f'a.{suffix}')
    assert open_config(str(tmp_path / f'a.{suffix}')).model.texts == texts


def tools_with_key_values() -> dict[str, str]:
    """Scripts that take KEY=VALUE, and an option that they take it by."""
    found = {}
    for path in (*(ROOT / 'tools').rglob('*.py'), *(ROOT / 'mmdpad/cli').glob('*.py')):
        text = path.read_text()
        if re.search('(config|experiment)_parser\\(', text):
            found[path.relative_to(ROOT).as_posix()] = '--cfg-options'
        elif option := re.search(r"'(--[\w-]+)', nargs='\+', action=KeyValues", text):
            found[path.relative_to(ROOT).as_posix()] = option[1]
    return found


def test_every_tool_reads_them_alike():
    tools = tools_with_key_values()
    assert len(tools) >= 8 and set(tools.values()) == {'--cfg-options', '--source-options'}
    (action, ) = [action for action in config_parser('', 'a=1')._actions
                  if action.dest == 'cfg_options']
    assert isinstance(action, KeyValues)
    for folder in ('mmdpad', 'tools'):
        assert not [path for path in (ROOT / folder).rglob('*.py')
                    if 'DictAction' in path.read_text()]


@pytest.mark.parametrize('tool', ['tools/train.py', 'tools/test.py', *(
    tool for tool, option in tools_with_key_values().items()
    if option == '--cfg-options' and tool.startswith('tools/'))])
def test_a_usage_error_comes_before_torch(tool):
    """Exit status 2, and a line with the argument."""
    code = ('import runpy, sys; sys.argv = sys.argv[1:]\n'
            'try: runpy.run_path(sys.argv[0], run_name="__main__")\n'
            'finally: print("torch" in sys.modules)')
    result = subprocess.run([sys.executable, '-c', code, tool, 'x.py', 'y', 'z', '--cfg-options',
                             'b=1', 'a=[1,2'], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == 'False\n'
    told = result.stderr.splitlines()[-1]
    assert "error: argument --cfg-options: 'a=[1,2' cannot be read" in told


def test_numbers_that_are_not_finite():
    assert math.isnan(parse_value('nan')) and parse_value('-inf') == -math.inf
