# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import base64
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape

import numpy as np
import pytest
from html_tags import Tags
from PIL import Image

from mmdpad.analysis.pages.run_page import Evaluation, run_as_html
from mmdpad.geometry.masks import encode_mask
from mmdpad.utils import write_jsonl

HOSTILE = '</pre><script>alert("x")</script>\x1b[2J\ud800 & 苹果'
GREY = np.full((60, 80, 3), 90, np.uint8)


def train(step, **values):
    return {**dict(iter=step, step=step, reward=float(step), kl=0.5, reasoning_tokens=20 - step,
                   time=1.0, **{'reward/box_iou': 0.5}), **values}


def validate(step, giou):
    return {'step': step, 'reasonseg/giou': giou, 'reasonseg/ciou': giou - 10}


def response(iteration, group, index, text='text'):
    return dict(iter=iteration, group=group, index=index, id=f'id{group}', image='a.jpg',
                question=text, response=text, failure=None, truncated=False,
                rewards={text: 1.0}, total=float(group * index), advantage=0.0,
                signals=dict(s=None))


def answer(index, iou, text='text', **more):
    mask = np.zeros((60, 80), bool)
    mask[10:30, 10:40] = True
    return dict(index=index, image='b.jpg', question=f'{text} {index}?', iou=iou,
                intersection=1, failure=None, boxes=[[10, 10, 40, 30]],
                points=[[[20, 20], [25, 25]]], think=text, caption=text, mask=encode_mask(mask),
                target=encode_mask(mask), **more)


def evaluation(text='text', count=20):
    interval = [40.0, 60.0]
    return Evaluation('1/reasonseg.json', dict(
        protocol=dict(split='val', model_image_size=[112, 96], test_cfg=dict(temperature=0.0)),
        metrics=dict(giou=50.0, n=count), intervals=dict(giou=interval),
        provenance=dict(iter=4, versions=dict(torch='2.14', numpy=text))),
        [answer(index, index / count, text) for index in range(count)])


@pytest.fixture
def run(tmp_path):
    """Builds a run that was killed at iteration 4 and resumed from 2."""
    def build(text='text', size=(60, 80)):
        folder = tmp_path / 'my_run'
        for start, rows, iterations in (
                ('1', [train(1), train(2), validate(2, 40.0), train(3, reward=-9.0), train(4)],
                 (1, 2, 3, 4)),
                ('2', [train(3), validate(3, 50.0), train(4), validate(4, 45.0)], (3, 4))):
            write_jsonl(str(folder / start / 'vis_data/scalars.json'), rows)
            write_jsonl(str(folder / start / 'rollouts.jsonl'), [
                response(iteration, group, index, f'{text} of start {start}')
                for iteration in iterations for group in (0, 1, 2) for index in range(10)])
            (folder / start / 'vis_data/config.py').write_text(f'a = {text!r}  # {start}\n')
            (folder / start / f'{start}.log').write_text(
                f'2026/11/26 10:00:00 - mmengine - WARNING - Alarm <b>sick</b> ({start}): so\n')
        pictures = folder / '2/vis_data/vis_image'
        pictures.mkdir()
        for sample in range(8):
            for step in (2, 4):
                Image.fromarray(np.full((*size, 3), 30, np.uint8)).save(
                    pictures / f'val_answer_{sample:04}_{step}.png')
        return folder
    return build


def read(path):
    return np.asarray(Image.open(path)) if path.endswith('.png') else GREY


def cells(page):
    return [re.findall('<t[hd]>(.*?)</t[hd]>', row) for row in re.findall('<tr>(.*?)</tr>', page)]


def test_the_numbers_of_a_resumed_run(run):
    page = run_as_html(run(), [evaluation()], [evaluation()], read)
    rows = cells(page)
    assert ['first', '2', '40.0', '30.0'] in rows and ['last', '4', '45.0', '35.0'] in rows
    assert ['best gIoU', '3', '50.0', '40.0'] in rows
    # Four lines in all, of which one is a tenth; the iterations 3 and 4 of the first log are void.
    assert ['training', 'first, to iteration 1', 'last, from iteration 4'] in rows
    assert ['reward, sum of weighted terms', '1.000', '4.000'] in rows
    assert ['reasoning, tokens', '19.0', '16.0'] in rows
    assert ['1/reasonseg.json', 'val', 'iteration 4', '0.0', '20', '50.0 [40.0, 60.0]', '-', '-',
            '-'] in rows
    assert 'No validation precedes' in page
    for start in '12':
        assert f'&lt;b&gt;sick&lt;/b&gt; ({start}): so' in page
    assert '<b>model_image_size:</b> 112, 96' in page and 'torch 2.14, numpy text' in page
    assert '# 2' in page and '# 1' not in page, 'the config of the last start'


def test_responses_and_answers_that_are_shown(run):
    folder = run()
    page = run_as_html(folder, [], [evaluation()], read)
    titles = re.findall('<h3>(Iteration.*?)</h3>', page)
    kinds = ('best', 'worst', 'most contested')
    assert titles == [f'Iteration {iteration}: {kind}' for iteration in (1, 3, 4)
                      for kind in kinds]
    responses = re.findall('<pre>(text of start .)</pre>', page)
    assert responses == ['text of start 1'] * 3 * 8 + ['text of start 2'] * 6 * 8
    assert page.count('2 responses between these are not shown') == 9
    worst, best = page.split('<h3>Worst</h3>')[1].split('<h3>Best</h3>')
    assert re.findall(r'<b>text (\d+)\?', worst) == ['0', '1', '2', '3', '4', '5']
    assert re.findall(r'<b>text (\d+)\?', best) == ['19', '18', '17', '16', '15', '14']
    assert 'other(s) are listed above' not in page
    older = replace(evaluation(), name='0/reasonseg.json')
    assert '1 other(s) are listed above' in run_as_html(
        folder, [older, evaluation()], [evaluation()], read)
    few = run_as_html(folder, [], [evaluation(count=3)], read)
    assert re.findall(r'<b>text (\d+)\?', few) == ['0', '1', '2', '1'], 'one in the middle'


def test_the_page_is_one_file_of_a_bounded_size(run):
    page = run_as_html(run(size=(900, 1200)), [evaluation()], [evaluation()], read)
    kinds = re.findall('src="data:image/(png|jpeg);base64', page)
    # 5 panels, 4 samples at 2 iterations, 12 answers, 9 groups
    assert kinds.count('png') == 5 and kinds.count('jpeg') == 4 * 2 + 12 + 9
    assert len(re.findall('src=', page)) == len(kinds) and len(page) < 10e6
    assert 'https:' not in page and 'http:' not in page and "default-src 'none'" in page
    widths = [Image.open(io.BytesIO(base64.b64decode(data))).width
              for data in re.findall('image/jpeg;base64,([^"]+)"', page)]
    assert max(widths) <= 900
    for target in re.findall('href="#(.*?)"', page):
        assert f'id="{target}"' in page


@pytest.mark.filterwarnings('ignore:Glyph')
def test_no_text_leaves_its_place_in_the_page(run):
    folder = run(HOSTILE.replace('\ud800', ''))
    page = run_as_html(folder, [evaluation(HOSTILE)], [evaluation(HOSTILE)], lambda path: None)
    page.encode()  # no half surrogate is left
    tags = Tags(page)
    assert not tags.open and 'script' not in tags.seen and 'alert("x")' in tags.data
    assert '\x1b' not in page and page.count('The image is not available.') == 12
    assert page.count('The image cannot be read') == 9


def test_what_a_run_does_not_have_is_reported(tmp_path):
    write_jsonl(str(tmp_path / '1/vis_data/scalars.json'), [dict(iter=1, step=1, loss=1.0)])
    page = run_as_html(tmp_path, [], [], read)
    assert not Tags(page).open and '<img' not in page
    for said in ('no training log', 'no validation of ReasonSegMetric', 'no text log',
                 'nothing to draw', 'no result of ReasonSegMetric', 'no pictures of validations',
                 'no evaluation whose answers', 'There are none (RolloutLogHook',
                 'and there are none', 'none beside the training log'):
        assert said in page, said
    found = Evaluation('a.jsonl', {}, [dict(answer(0, 0.5), mask=None)])
    del found.rows[0]['mask']
    page = run_as_html(tmp_path, [found], [found], read)
    assert 'The masks were not saved' in page and 'The protocol is unknown' in page
    assert cells(page)[-1] == ['a.jsonl', '-', 'unknown', '-', '-', '-', '-', '-', '-']


def test_what_is_damaged_is_reported(run):
    folder = run()
    (folder / '1/rollouts.jsonl').write_text('<html>\n{}\n')
    broken = evaluation(count=1)
    broken.rows[0]['mask'] = encode_mask(np.ones((3, 5), bool))
    page = run_as_html(folder, [], [broken], read)
    assert 'They cannot be read:' in page and 'The answer cannot be drawn:' in page
    (folder / '2/vis_data/scalars.json').write_text('<html>\n{}\n')
    with pytest.raises(ValueError, match='scalars.json should hold one JSON object per line'):
        run_as_html(folder, [], [], read)


@pytest.fixture
def browse(tmp_path):
    """Opens a page in Chromium; returns what its console said and the page as it then is."""
    browser = shutil.which('chromium') or shutil.which('google-chrome')
    if browser is None:
        pytest.skip('needs chromium')

    def open_page(page):
        path = tmp_path / 'page.html'
        path.write_text(page)
        result = subprocess.run([
            browser, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic',
            '--no-first-run', '--disable-background-networking', '--disable-component-update',
            '--disable-sync', '--host-resolver-rules=MAP * ~NOTFOUND',
            f'--user-data-dir={tmp_path / "browser"}', '--enable-logging=stderr', '--dump-dom', f'file://{path}'],
            capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr
        return [line for line in result.stderr.splitlines() if 'CONSOLE' in line], result.stdout
    return open_page


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:Glyph')
def test_a_browser_runs_and_fetches_nothing_and_a_phone_shows_all(run, browse):
    page = run_as_html(run(HOSTILE.replace('\ud800', ''), size=(600, 900)), [evaluation(HOSTILE)],
                       [evaluation(HOSTILE)], read)
    console, shown = browse(page)
    assert console == [] and '<h2 id="1">Numbers</h2>' in shown
    # The console would tell of both, and the policy of the page would hinder them.
    bad = page.replace('</body>', '<script>1</script><img src="http://127.0.0.1:9/a.png"></body>')
    console, _ = browse(bad)
    assert len(console) == 2 and 'inline script' in console[0] and 'a.png' in console[1]

    policy = re.search('<meta http-equiv="Content-Security-Policy".*?>', page)[0]
    # Windows have a smallest width, frames have none.
    script = '<script>parent.document.title = document.documentElement.scrollWidth</script></body>'
    phone = escape(page.replace(policy, '').replace('</body>', script))
    console, shown = browse(f'<iframe width="390" height="800" srcdoc="{phone}"></iframe>')
    assert console == [], 'without the policy, too'
    assert 300 < int(re.search('<title>(.*?)</title>', shown)[1]) <= 390, 'nothing sticks out'
