# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What a model writes is data: no text ends a run, takes long, or gets a value out of its range."""
import json
import os
import random
import re
import subprocess
import sys
import time
import tracemalloc
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import open_clip
import pytest
from hostile_texts import GOOD, PIECES, hostile_texts, long_texts
from text_readers import (
    SOLUTION,
    SWITCHES,
    TERMS,
    Drawing,
    check_all,
    check_parsing,
    check_rewards,
    rollout_of,
)

from mmdpad.geometry.boxes import box_iou, box_l1, match_boxes
from mmdpad.geometry.coordinates import to_model_frame
from mmdpad.models.discriminators.caption_tokens import CaptionTokens
from mmdpad.prompts import follows_template, parse_response
from mmdpad.rewards import build_term, distinct_n, score_response
from mmdpad.visualization import draw_answer

ANY_TEXT = pytest.mark.promise(
    'Model text', 'Any text as a response: broken tags and JSON, hostile numbers, Unicode',
    'no exception; every reward, metric and logged value is in its range')
LONG_TEXT = pytest.mark.promise(
    'Model text', 'Responses of megabytes: loops, nesting, one word, thousands of objects',
    'time and memory are linear in the length, 50 ms per megabyte for the parser and for each '
    'reward')
BATCH = 32


def check_hostile(seed: int, count: int, shown_each: int) -> int:
    """Read texts in batches, pages and masks too of each so many; returns the longest's length."""
    texts, drawing, longest = hostile_texts(seed), Drawing(), 0
    for number in range(count // BATCH):
        batch = list(islice(texts, BATCH))
        longest = max(longest, *map(len, batch))
        try:
            check_all(batch, drawing, several=number % 2 == 1, shown=number % shown_each == 0)
        except Exception as error:
            raise AssertionError(f'seed {seed}, batch {number}: {batch}') from error
    return longest


def test_a_few_hostile_texts():
    check_hostile(seed=0, count=1024, shown_each=8)


@pytest.mark.slow
@ANY_TEXT
def test_a_million_hostile_texts(tried):
    seed, count = random.SystemRandom().randrange(2**32), 1_000_000
    longest = check_hostile(seed, count, shown_each=60)
    tried(f'{count:,} good responses changed by chance (seed {seed}), up to {longest:,} characters')


@pytest.mark.slow
@ANY_TEXT
def test_properties_hold_of_drawn_texts(tried):
    hypothesis = pytest.importorskip('hypothesis')
    from hypothesis import strategies as st
    characters = st.text(st.characters(), max_size=20)  # half surrogates too
    loose = st.lists(st.sampled_from(PIECES) | characters, max_size=20).map(''.join)
    number = st.integers() | st.floats() | st.integers(0, 840)
    leaf = number | st.none() | st.booleans() | characters
    keys = st.sampled_from(('bbox', 'points_1', 'points_2', 'bbox_2d', 'point_2d')) | characters
    value = st.recursive(leaf, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(
        keys, inner, max_size=5), max_leaves=20)
    pair, box = (st.lists(number, min_size=size, max_size=size) for size in (2, 4))
    single = st.fixed_dictionaries(dict(bbox=box, points_1=pair, points_2=pair | value))
    listed = st.lists(st.fixed_dictionaries(dict(bbox_2d=box, point_2d=pair)), max_size=8)
    answer = (single | listed | value).map(json.dumps) | loose
    response = loose | st.builds(
        '<think>{}</think>{}<answer>{}</answer>{}<caption>{}</caption>'.format, loose,
        st.sampled_from(('', '\n', ' x')), answer, st.sampled_from(('', '\n', 'x')), loose)
    drawing, count = Drawing(), 0

    @hypothesis.settings(max_examples=1500, deadline=None, database=None,
                         suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(st.lists(response, min_size=4, max_size=4), st.booleans())
    def check(texts, several):
        nonlocal count
        count += len(texts)
        check_all(texts, drawing, several, shown=True)

    check()
    tried(f'{count:,} texts of hypothesis')


@pytest.mark.slow
@ANY_TEXT
def test_properties_of_boxes(tried):
    hypothesis = pytest.importorskip('hypothesis')
    from hypothesis import strategies as st
    number = st.floats(-1e9, 1e9) | st.integers(0, 50).map(float)
    boxes = st.lists(st.tuples(number, number, number, number), max_size=6)

    @hypothesis.settings(max_examples=3000, deadline=None, database=None)
    @hypothesis.given(boxes, boxes)
    def check(found, wanted):
        wanted = [(x1, y1, x1 + abs(w) + 1, y1 + abs(h) + 1) for x1, y1, w, h in wanted]
        for target in wanted:
            for own in found:
                assert 0 <= box_iou(own, target) <= 1 and 0 <= box_l1(own, target) < 4e9
                if own[0] >= own[2] or own[1] >= own[3]:
                    assert box_iou(own, target) == 0
            assert box_iou(target, target) == 1
        pairs = match_boxes(found, wanted)
        assert len(pairs) == min(len(found), len(wanted))
        assert all(len(set(side)) == len(pairs) for side in zip(*pairs, strict=True))

    check()
    tried('boxes up to 1e9 pixels away and inside out: 3000 sets of hypothesis')


@pytest.mark.slow
@ANY_TEXT
def test_no_path_through_the_parser_fails(tried, tmp_path):
    """Coverage-guided, in a process of its own."""
    pytest.importorskip('atheris')
    corpus, words = tmp_path / 'corpus', tmp_path / 'words.dict'
    corpus.mkdir()
    for number, text in enumerate(GOOD):
        (corpus / str(number)).write_text(text)
    quoted = {''.join(f'\\x{byte:02x}' for byte in piece.encode(errors='surrogatepass'))
              for piece in PIECES if len(piece) < 100}
    words.write_text(''.join(f'"{word}"\n' for word in sorted(quoted)))
    seed = random.SystemRandom().randrange(1, 2**31)
    folder = Path(__file__).parent
    paths = [str(folder.parent), str(folder.parents[1]), os.environ.get('PYTHONPATH', '')]
    run = subprocess.run(
        [sys.executable, folder / 'fuzz_parsing.py', corpus, '-max_total_time=40', '-timeout=20',
         '-rss_limit_mb=0',  # it counts what this process has had, too
         '-max_len=3000', f'-seed={seed}', f'-dict={words}', f'-artifact_prefix={tmp_path}/'],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths)), capture_output=True, text=True,
        errors='replace')
    done = re.search(r'Done (\d+) runs', run.stderr)
    assert run.returncode == 0 and done, f'seed {seed}\n{run.stdout[-3000:]}{run.stderr[-9000:]}'
    tried(f'{int(done[1]):,} texts of atheris, guided by coverage')


@pytest.mark.slow
@ANY_TEXT
def test_pictures_tokens_and_captions_of_any_text(tried, head):
    caption_tokens = CaptionTokens(open_clip.tokenizer.SimpleTokenizer())
    image = np.zeros((60, 80, 3), np.uint8)
    boxes, points = [(-1e9, -1e9, 1e9, 1e9), (5, 5, 2, 2)], [(1e9, -1e9)]
    texts = long_texts(10_000)
    for text in texts.values():
        picture = draw_answer(image, None, boxes, points, 'which?', text, text)
        assert max(picture.shape) < 10_000
        assert head.count_tokens(text) >= 1 and not caption_tokens.fits(text.strip() + ' x' * 100)
    tried(f'{len(texts)} pictures of texts of 10,000 bytes')


def readers(text: str) -> dict:
    """Name -> what is to be called, of the parser and of each reward."""
    calls = {f'parser {switches}': partial(parse_response, text, **switches)
             for switches in SWITCHES}
    calls['template'] = partial(follows_template, text)
    calls['published scorer'] = partial(score_response, text, SOLUTION)
    for several in (False, True):
        rollout = rollout_of([text], several)
        calls[f'coordinates {several}'] = partial(
            to_model_frame, rollout.parsed[0], 'relative_1000', (840, 1260))
        for name, config in TERMS.items():
            calls[f'{name} {several}'] = partial(build_term(config), rollout)
    calls['distinct_n'] = partial(distinct_n, [rollout.parsed[0].think or ''], 2)
    return calls


def seconds(call, repeats: int = 5) -> float:
    """The least of some runs, of this thread alone: others may be busy."""
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return min(times)


@pytest.mark.slow
@LONG_TEXT
def test_a_megabyte_takes_no_long_time(tried):
    texts = long_texts(1_000_000)
    taken = {(kind, name): seconds(call) for kind, text in texts.items()
             for name, call in readers(text).items()}
    slowest = sorted(taken, key=taken.get)[-3:]
    tried(f'{len(texts)} kinds of 1 MB: at most ' + ', '.join(
        f'{1000 * taken[which]:.0f} ms ({which[1]}, {which[0]})' for which in reversed(slowest)))
    assert taken[slowest[-1]] < 0.2, 'four times what is promised, for machines that are busy'

    quarter, double = long_texts(250_000), long_texts(2_000_000)
    costly = [which for which in taken if taken[which] > 0.01]
    ratios = {(kind, name): seconds(readers(double[kind])[name]) / seconds(
        readers(quarter[kind])[name]) for kind, name in costly}
    tried(f'a text 8 times as long took at most {max(ratios.values()):.0f} times as long')
    assert max(ratios.values()) < 32, (ratios, 'quadratic time would be 64')


@pytest.mark.slow
@LONG_TEXT
def test_ten_megabytes_are_read(tried):
    texts = long_texts(10_000_000)
    for text in texts.values():
        check_parsing(text)
        check_rewards([text, '', '', ''], several=True)
    tried(f'{len(texts)} texts of 10 MB')


@pytest.mark.slow
@LONG_TEXT
def test_memory_is_a_multiple_of_the_length(tried):
    length, peaks = 200_000, {}
    for kind, text in long_texts(length).items():
        for name, call in readers(text).items():
            tracemalloc.start()
            call()
            peaks[kind, name] = tracemalloc.get_traced_memory()[1] / length
            tracemalloc.stop()
    most = max(peaks, key=peaks.get)
    tried(f'at most {peaks[most]:.0f} bytes for each byte of text ({most[1]}, {most[0]})')
    assert peaks[most] < 200
