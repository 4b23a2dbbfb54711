# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools/benchmarks/report.py'


def report(*arguments):
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], check=True,
                          capture_output=True, text=True).stdout


def test_tables_by_hand(tmp_path):
    about = dict(command='python x.py', date='2026-01-02T03:04:05', python='3.11', torch='2.14',
                 transformers='5.23', cpu='a CPU', threads=1, cpu_count=2)
    (tmp_path / '1_an_update.json').write_text(json.dumps(dict(
        median=dict(mmdpad=2.0, naive=9.0), ratio=dict(naive=4.5), ratio_range=dict(naive=[4, 5]),
        memory_mb=dict(mmdpad=dict(update=100.7), naive=dict(update=400)),
        memory_ratio=dict(naive=0.25), environment=about)))
    (tmp_path / '2_a_busy_machine.json').write_text(json.dumps(dict(
        median=dict(mmdpad={'0': 1.0, '6': 5.5}), ratio_to_idle=dict(mmdpad={'0': 1.0, '6': 5.5}),
        environment=about)))
    (tmp_path / '3_start-up.json').write_text(json.dumps(dict(
        cases=dict(help=dict(median=dict(mmdpad=0.5, before=4.0), ratio=dict(before=8.0),
                             ratio_range=dict(before=[7.5, 9]))), environment=about)))
    (tmp_path / '4_builds.json').write_text(json.dumps(dict(
        median=dict(mmdpad=2.0, before=3.0), ratio=dict(before=1.5),
        ratio_range=dict(before=[1.4, 1.6]), unit='1000 tokens',
        cpu_time=dict(median=dict(mmdpad=1.0, before=2.0), ratio=dict(before=2.0),
                      ratio_range=dict(before=[1.9, 2.1])),
        peak_memory_mb=dict(mmdpad=10.6, before=20), environment=about)))
    same = dict(passes=dict(mmdpad=0.5), tokens=dict(mmdpad=1.5),
                same_tokens=dict(mmdpad=True, before=False),
                cpu_seconds=dict(median=dict(mmdpad=2.0, before=3.0), ratio=dict(before=1.5),
                                 ratio_range=dict(before=[1.4, 1.6])))
    (tmp_path / '5_guesses.json').write_text(json.dumps(dict(train=same, evaluate=same,
                                                             environment=about)))
    counts = dict(passes=8, tokens_fed=16, prompt_passes=2)
    (tmp_path / '6_batching.json').write_text(json.dumps(dict(
        batch_after_batch=counts, continuous=dict(counts, most_batches_held=3), fewest_passes=7,
        ratio=dict(passes=0.25, tokens_fed=1), environment=about)))
    (tmp_path / '7_conversations.json').write_text(json.dumps(dict(
        seconds={}, share=dict(saved=0.5), share_range=dict(saved=[0.4, 0.625]),
        environment=about)))
    page = tmp_path / 'page.md'
    page.write_text('before\n<!-- tables -->\nold\n<!-- /tables -->\nafter')
    report(tmp_path, '--write', page)
    cpu = ' | CPU seconds | times as long | in single turns | peak MB |'
    assert page.read_text() == f'''before
<!-- tables -->
### an update

|  | seconds | times as long | in single turns | MB of the update | ours / this |
| --- | --- | --- | --- | --- | --- |
| mmdpad | 2 |  |  | 100 |  |
| naive | 9 | 4.5 | 4.00 - 5.00 | 400 | 0.25 |

`python x.py`, 2026-01-02; python 3.11, torch 2.14, transformers 5.23; a CPU, 1 of 2 cores.

### a busy machine

|  | 0 busy, s | times idle | 6 busy, s | times idle |
| --- | --- | --- | --- | --- |
| mmdpad | 1 | 1 | 5.5 | 5.5 |

`python x.py`, 2026-01-02; python 3.11, torch 2.14, transformers 5.23; a CPU, 1 of 2 cores.

### start-up

|  | mmdpad, s | before, s | times as long | in single turns |
| --- | --- | --- | --- | --- |
| help | 0.5 | 4 | 8 | 7.50 - 9.00 |

`python x.py`, 2026-01-02; python 3.11, torch 2.14, transformers 5.23; a CPU, 1 of 2 cores.

### builds

|  | seconds per 1000 tokens | times as long | in single turns{cpu}
| --- | --- | --- | --- | --- | --- | --- | --- |
| mmdpad | 2 |  |  | 1 |  |  | 10 |
| before | 3 | 1.5 | 1.40 - 1.60 | 2 | 2 | 1.90 - 2.10 | 20 |

`python x.py`, 2026-01-02; python 3.11, torch 2.14, transformers 5.23; a CPU, 1 of 2 cores.

### guesses

|  | passes | tokens in them | CPU seconds | times as long | in single turns | same tokens |
| --- | --- | --- | --- | --- | --- | --- |
| training, mmdpad | 0.5 | 1.5 | 2 |  |  | yes |
| training, before |  |  | 3 | 1.5 | 1.40 - 1.60 | no |
| greedy, mmdpad | 0.5 | 1.5 | 2 |  |  | yes |
| greedy, before |  |  | 3 | 1.5 | 1.40 - 1.60 | no |

`python x.py`, 2026-01-02; python 3.11, torch 2.14, transformers 5.23; a CPU, 1 of 2 cores.

### batching

|  | passes | tokens in them | passes of prompts |
| --- | --- | --- | --- |
| batch after batch | 8 | 16 | 2 |
| continuous | 8 | 16 | 2 |
| ratio | 0.25 | 1 |  |
| fewest possible | 7 |  |  |

`python x.py`, 2026-01-02; python 3.11, torch 2.14, transformers 5.23; a CPU, 1 of 2 cores.

### conversations

|  | share of the time | in single turns |
| --- | --- | --- |
| saved | 0.5 | 0.40 - 0.62 |

`python x.py`, 2026-01-02; python 3.11, torch 2.14, transformers 5.23; a CPU, 1 of 2 cores.
<!-- /tables -->
after'''


def test_the_page_shows_what_was_measured():
    page = (ROOT / 'docs/performance.md').read_text()
    tables = report(ROOT / 'docs/benchmarks')
    assert tables.count('###') >= 5 and tables.strip() in page
