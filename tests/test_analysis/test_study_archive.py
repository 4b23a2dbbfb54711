# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A study without its responses: the same numbers, tables and curves."""
import shutil
import tarfile
from pathlib import Path

import pytest

from mmdpad.analysis.pages.study_page import plot_training, study_as_html, study_as_markdown
from mmdpad.analysis.study import analyze_study
from mmdpad.analysis.study_archive import open_study, write_study_archive

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / 'docs/results/study.tar.xz'


@pytest.fixture
def folder(study_folder):
    study_folder('geometric')
    return study_folder('discriminative', tokens=lambda seed, scene: 5 + scene,
                        about=dict(compare_with=['geometric']))


def test_an_archive_gives_the_same_numbers_and_curves(folder, tmp_path):
    path, again = tmp_path / 'study.tar.xz', tmp_path / 'again.tar.xz'
    write_study_archive(folder, path)
    study = analyze_study(folder)
    with open_study(path) as opened:
        found = analyze_study(opened)
        assert study_as_markdown(found) == study_as_markdown(study)
        assert plot_training(found, opened) == plot_training(study, folder)
        assert 'The archive of a study has no responses' in study_as_html(
            found, opened, None, lambda path: None)
        text = (opened / 'geometric/seed_1/sampled.samples.jsonl').read_text()
        assert 'reasoning_tokens' in text and '"think"' not in text and 'a dog' not in text
        write_study_archive(opened, again)
    assert again.read_bytes() == path.read_bytes() and not opened.exists()
    with open_study(folder) as same:
        assert same == folder


def test_names_of_arms_with_numbers_are_kept_and_others_refused(folder, tmp_path):
    path = tmp_path / 'new' / 'study.tar.xz'
    (folder / 'discriminative').rename(folder / 'form 0.5')
    write_study_archive(folder, path)
    with open_study(path) as opened:
        assert study_as_markdown(analyze_study(opened)) == study_as_markdown(analyze_study(folder))
    (folder / 'form 0.5').rename(folder / '(new)')
    with pytest.raises(ValueError, match=r"but got '\(new\)'; rename its folder"):
        write_study_archive(folder, path)


def test_what_is_no_archive_of_a_study_is_refused(folder, tmp_path):
    path = tmp_path / 'study.tar.xz'
    write_study_archive(folder, path)
    whole = path.read_bytes()
    for content in (whole[:len(whole) // 2], b'text', b''):
        path.write_bytes(content)
        with pytest.raises(ValueError, match='should be a complete archive of a study'), \
                open_study(path):
            pass
    with tarfile.open(path, 'w:xz') as other:
        other.add(folder / 'geometric/arm.json', '../geometric/arm.json')
    with pytest.raises(ValueError, match="it holds '../geometric/arm.json'"), open_study(path):
        pass
    with pytest.raises(ValueError, match='has none; run `mmdpad run run_study` first'):
        write_study_archive(tmp_path / 'none', path)


def test_the_tool_writes_an_archive_and_reads_it(folder, tmp_path, run_tool):
    path, page = tmp_path / 'study.tar.xz', tmp_path / 'page.html'
    printed = run_tool('study_report', folder, '--archive', path)
    assert printed.splitlines()[-1] == str(path)
    headlines = printed.splitlines()[:-1]
    assert run_tool('study_report', path, '--html', page).splitlines() == [*headlines, str(page)]
    assert '<img' in page.read_text() and 'make study' in page.read_text()


def test_the_archive_of_the_repository_is_small():
    assert ARCHIVE.stat().st_size < 1_000_000


@pytest.mark.slow
def test_the_pages_about_the_study_are_made_from_the_archive(tmp_path, run_tool):
    names = ('study.md', 'study_appendix.md')
    short, full = (Path(shutil.copy(ROOT / 'docs' / name, tmp_path)) for name in names)
    run_tool('study_report', ARCHIVE, '--summary', short, '--markdown', full)
    for page in (short, full):
        assert page.read_text() == (ROOT / 'docs' / page.name).read_text()
