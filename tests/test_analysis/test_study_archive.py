# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A study without its responses: the same numbers, tables and curves."""
import shutil
import tarfile
from itertools import chain
from pathlib import Path

import pytest

from mmdpad.analysis.pages.study_page import plot_training, study_as_html, study_as_markdown
from mmdpad.analysis.study import analyze_study
from mmdpad.analysis.study_archive import open_study, write_study_archive

ROOT = Path(__file__).parents[2]
ARCHIVES = dict(study={'--summary': 'study.md', '--markdown': 'study_appendix.md'},
                signal={'--summary': 'results_signal.md'})
"""Each archive's name, and which part of its report is in which page."""


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


def test_runs_behind_links_are_kept(folder, tmp_path):
    path, linked, links = tmp_path / 'a.tar.xz', tmp_path / 'b.tar.xz', tmp_path / 'links'
    write_study_archive(folder, path)
    for run in folder.glob('*/seed_*'):
        place = links / run.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(run, target_is_directory=True)
        shutil.copy(run.parent / 'arm.json', place.parent)
    write_study_archive(links, linked)
    assert linked.read_bytes() == path.read_bytes()


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


@pytest.mark.parametrize('name', ARCHIVES)
def test_the_archives_of_the_repository_are_small(name):
    assert (ROOT / f'docs/results/{name}.tar.xz').stat().st_size < 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize('name', ARCHIVES)
def test_the_pages_about_studies_are_made_from_their_archives(name, tmp_path, run_tool):
    pages = {part: Path(shutil.copy(ROOT / 'docs' / page, tmp_path))
             for part, page in ARCHIVES[name].items()}
    run_tool('study_report', ROOT / f'docs/results/{name}.tar.xz', *chain(*pages.items()))
    for page in pages.values():
        assert page.read_text() == (ROOT / 'docs' / page.name).read_text()
