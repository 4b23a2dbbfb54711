# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import base64
import io
import math
import re

import numpy as np
import pytest
from html_tags import Tags
from PIL import Image

from mmdpad.analysis.pages.study_page import (
    MAIN,
    all_tables,
    comparison_lines,
    headlines,
    judge,
    main_tables,
    plot_training,
    study_as_html,
    study_as_markdown,
    summary_as_markdown,
)
from mmdpad.analysis.study import analyze_study, first_answers
from mmdpad.geometry.masks import encode_mask
from mmdpad.utils.markdown import put_block

HOSTILE = '</p><script>alert("x")</script> & $\\x$ \x1b[31m 苹果 \ud83d'


@pytest.fixture
def made(study_folder):
    """Builds a study of the main arm and both that it is compared with; returns its folder and
    numbers."""
    def build(change=None, **options):
        for name in ('geometric', 'caption'):
            study_folder(name, seeds=(1, 2, 3), tokens=lambda seed, scene: 20)
        about = dict(compare_with=['geometric', 'caption'], **options.pop('about', {}))
        folder = study_folder('discriminative', **{
            'seeds': (1, 2, 3), 'tokens': lambda seed, scene: 10 + seed, 'change': change,
            **options, 'about': about})
        return folder, analyze_study(folder)
    return build


@pytest.mark.parametrize('low, high, scenes, verdict', [
    (1, 2, (), 'higher'), (-2, -1, (), 'lower'), (-1, 1, (), 'not distinguishable from zero'),
    (1, 2, (-1, 3), 'not distinguishable from zero'), (-2, -1, (-3, -0.5), 'lower'),
    (0, 2, (), 'not distinguishable from zero'), (1, 2, (-2, -1), 'not distinguishable from zero'),
    (math.nan, math.nan, (), 'unknown'), (1, 2, (math.nan, math.nan), 'unknown')])
def test_a_difference_counts_if_all_its_intervals_agree(low, high, scenes, verdict):
    both = zip(('scenes_low', 'scenes_high'), scenes, strict=False)
    found = dict(low=low, high=high, **dict(both))
    assert judge(found) == verdict


def test_headlines_follow_from_the_numbers(made):
    lines = headlines(made()[1])
    # Lengths of 11, 12, 13 in place of 20: -45, -40, -35 %; half = 4.302653 * 5 / sqrt(3) = 12.42.
    assert lines[1] == ('Holds', 'sampled answers, reasoning length of discriminative compared '
                                 'with geometric: lower, -40.0 % [-52.4, -27.6] over 3 seeds, '
                                 '[-45.0, -35.0] over seeds and scenes.')
    assert 'not distinguishable from zero, +0.0 points' in lines[0][1]
    assert 'compared with caption: lower, -40.0 %' in lines[3][1]
    assert [status for status, _ in lines] == ['Not shown', 'Holds', 'Not shown', 'Holds',
                                               'Not shown'] * 2


def test_the_opposite_does_not_hold(made):
    lines = headlines(made(tokens=lambda seed, scene: 30 + seed)[1])
    assert lines[1][0] == 'Does not hold' and ': higher, +60.0 %' in lines[1][1]


def test_one_pair_is_not_known_and_missing_runs_are_reported(made):
    lines = headlines(made(seeds=(3, ), about=dict(seeds=2))[1])
    assert lines[1] == ('Unknown', 'sampled answers, reasoning length of discriminative compared '
                                     'with geometric: unknown, -35.0 % over 1 seed.')
    assert lines[-1][0] == 'Incomplete'


def test_without_the_main_arms_nothing_is_claimed(study_folder):
    about = dict(group='other', trained=False)
    study = analyze_study(study_folder('start', train=False, about=about))
    assert [status for status, _ in headlines(study)] == ['Unknown'] * 4
    assert plot_training(study, None) is None
    assert 'greedy answers: discriminative is not compared with geometric, as no seed' \
        in study_as_markdown(study)


def test_a_mode_that_only_one_arm_has_is_reported(made):
    folder, _ = made()
    for path in folder.glob('geometric/*/greedy.samples.jsonl'):
        path.unlink()
    study = analyze_study(folder)
    assert [status for status, _ in headlines(study)] == [
        'Not shown', 'Holds', 'Not shown', 'Holds', 'Not shown',
        'Unknown', 'Not shown', 'Holds', 'Not shown', 'Incomplete']
    line, = comparison_lines(study, 'discriminative', 'geometric')
    assert line.startswith('discriminative minus geometric, sampled answers: ')
    assert comparison_lines(study, 'geometric', 'discriminative') == []  # was not asked for


def test_tables(made):
    tables = all_tables(made()[1])
    assert [table.title for table in tables] == [
        f'{what}, {mode} answers, {scope}' for scope in ('all sets together', 'set by set')
        for what in ('Arms', 'Differences') for mode in ('sampled', 'greedy')]
    assert all(len(row) == len(table.head) for table in tables for row in table.rows)
    arms = dict(zip(tables[0].head, tables[0].rows[2], strict=True))
    assert arms['arm'] == 'Arm discriminative' and arms['seeds'] == '3 of 3'
    # IoU 10, 20, 30: half = 4.302653 * 10 / sqrt(3) = 24.84.
    assert arms['gIoU'] == '20.0 [-4.8, 44.8]' and arms['margin'] == '0.250 [0.250, 0.250]'
    differences = dict(zip(tables[2].head, tables[2].rows[0], strict=True))
    assert differences['difference'] == 'discriminative minus geometric'
    assert differences['reasoning, %'] == '-40.0 [-52.4, -27.6] / [-45.0, -35.0]'
    assert differences['rank'] == '+0.00 [+0.00, +0.00]'
    assert [row[2] for row in tables[4].rows] == ['many'] * 3 + ['look_alikes'] * 3


def test_main_tables_go_by_group(made, study_folder):
    study_folder('variant', seeds=(1, 2, 3), about=dict(
        group='other', compare_with=['caption', 'discriminative']))
    study_folder('control', seeds=(1, 2), about=dict(group='control'))
    arms, differences, variants, greedy, greedy_variants = main_tables(made()[1])
    assert arms.head == ['arm', 'seeds', 'gIoU', 'cIoU', 'reasoning, tokens', 'specific, %']
    assert differences.head == ['difference', 'pairs', 'gIoU', 'cIoU', 'reasoning, %',
                                'specific, %']
    assert [row[0] for row in arms.rows] == [
        f'Arm {name}' for name in ('caption', 'geometric', 'discriminative', 'control')]
    assert [row[0] for row in differences.rows] == [
        f'discriminative minus {name}' for name in ('geometric', 'caption')]
    assert [row[0] for row in variants.rows] == ['variant minus discriminative']
    assert [row[0] for row in greedy.rows] == [row[0] for row in arms.rows[:3]]
    assert [row[0] for row in greedy_variants.rows] == ['variant minus discriminative']
    assert differences.rows[0][4] == '-40.0 [-52.4, -27.6] / [-45.0, -35.0]'


def test_a_summary_leaves_empty_tables_out_and_says_what_is_missing(made):
    study = made(about=dict(seeds=4))[1]
    block = summary_as_markdown(study)
    assert 'Variants' not in block and block.count('\n### ') == 3
    assert block.endswith('\n\nMissing runs and comparisons: 1.\n\n<!-- /study -->')
    whole = dict(study, arms=[dict(arm, missing=[]) for arm in study['arms']])
    assert 'Missing' not in summary_as_markdown(whole)


def test_markdown_takes_its_place_in_a_page(made):
    block = study_as_markdown(made(about=dict(title='a|b', seeds=4))[1])
    assert '| a/b | 3 of 4 |' in block
    assert '### Missing\n\n- discriminative: 1 of 4 seeds have no folder' in block
    page = put_block('before\n<!-- study --><!-- /study -->\nafter', block)
    assert page == f'before\n{block}\nafter' and put_block(page, block) == page
    for wrong in ('none', '<!-- /study --> <!-- study -->', block + block):
        with pytest.raises(ValueError, match='should have <!-- study --> and, after it'):
            put_block(wrong, block)


def hostile(kind, row):
    if kind == 'samples':
        row.update(think=HOSTILE, caption=HOSTILE, failure=HOSTILE)


@pytest.mark.filterwarnings('ignore:Glyph')
def test_no_text_leaves_its_place_in_the_page(made):
    folder, study = made(hostile, about=dict(title=HOSTILE))
    pairs = first_answers(folder, study, MAIN)
    page = study_as_html(study, folder, pairs, lambda path: None)
    page.encode()  # no half surrogate is left
    tags = Tags(page)
    assert not tags.open and 'script' not in tags.seen and 'alert("x")' in tags.data
    assert '\x1b' not in page and page.count('The image is not available.') == 2 * 8
    assert 'unusable answer' in page and '<p><b>Reasoning:</b> think 1</p>' in page
    for text in ('name="viewport"', 'discriminative/seed_1: sampled, greedy', '<h2>Missing</h2>'):
        assert text in page
    assert not re.search('https?:', page) and str(folder) not in page
    assert page.count('<div class="scroll"><table>') == page.count('<table>') == 8


def test_answers_and_curves_are_embedded(made):
    mask = np.zeros((160, 120), bool)
    mask[20:60, 10:70] = True

    def with_mask(kind, row):
        if kind == 'samples':
            row['mask'] = encode_mask(mask)
    folder, study = made(with_mask)
    pairs = first_answers(folder, study, MAIN)
    image = np.full((160, 120, 3), 90, np.uint8)
    page = study_as_html(study, folder, pairs, lambda path: image)
    assert len(page) < 10e6
    pictures = re.findall(r'src="data:image/(\w+);base64,([^"]+)"', page)
    assert [kind for kind, _ in pictures] == ['png'] + ['jpeg'] * 16
    sizes = [Image.open(io.BytesIO(base64.b64decode(data))).size for _, data in pictures]
    assert all(max(size) <= 900 for size in sizes[1:])
    assert sizes[0] == (1100, 700), 'reward, the discriminative term, and the reasoning length'
