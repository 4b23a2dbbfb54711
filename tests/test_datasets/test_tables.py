# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Both forms of files, made here by pyarrow and, in tests/data/seg_zero, by `datasets` itself."""
from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmdpad.datasets import DatasetError, tables
from mmdpad.datasets.tables import TableFile, find_table_files

pa = pytest.importorskip('pyarrow')
pq = pytest.importorskip('pyarrow.parquet')

COPIES = Path(__file__).parents[1] / 'data/seg_zero'
FORMS = ['parquet', 'arrow']


def write_file(path: Path, table: pa.Table, group_size: int = 3, **options) -> Path:
    """A file in the form its suffix says, in row groups or record batches of ``group_size``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.parquet':
        pq.write_table(table, path, row_group_size=group_size, **options)
    else:
        with pa.OSFile(str(path), 'wb') as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=group_size)
    return path


@pytest.fixture(params=FORMS)
def path(request, tmp_path) -> Path:
    """A file of 8 rows, ``number`` 0 to 7 and its ``text``, in groups of 3."""
    table = pa.table(dict(number=list(range(8)), text=[f'row {i}' for i in range(8)]))
    return write_file(tmp_path / f'a.{request.param}', table)


def plain(rows) -> list[dict]:
    return [{name: value.as_py() for name, value in row.items()} for row in rows]


# A file

@pytest.mark.parametrize('start', range(9))
def test_rows_from_any_place_on(start, path):
    rows = plain(TableFile(path).rows(['number'], start))
    assert rows == [dict(number=i) for i in range(start, 8)]


def test_only_the_columns_asked_for_come(path):
    assert plain(TableFile(path).rows(('text', 'number')))[7] == dict(text='row 7', number=7)


@pytest.mark.parametrize('form', FORMS)
def test_a_file_is_never_in_memory(form, tmp_path):
    images = [bytes([i]) * 100_000 for i in range(100)]  # 10 MB in one group
    # Small pages, as recent versions of `datasets` write them.
    file = TableFile(write_file(tmp_path / f'a.{form}', pa.table(dict(image=images)), 100,
                                use_dictionary=False, write_batch_size=1))
    del images
    before = pa.total_allocated_bytes()
    for i, row in enumerate(file.rows(['image'])):
        assert row['image'].as_py()[:1] == bytes([i])
        assert pa.total_allocated_bytes() - before < 3_000_000
    assert next(file.rows(['image'], 77))['image'].as_py() == bytes([77]) * 100_000


def test_missing_columns_are_named_with_those_that_are_there(path):
    TableFile(path).check_columns(['text'])
    with pytest.raises(DatasetError, match=r'lacks the column\(s\) id, mask, but has number, text'
                       ) as caught:
        TableFile(path).check_columns(['id', 'text', 'mask'])
    assert caught.value.kind == 'missing column'


@pytest.mark.parametrize('damage', [
    lambda raw: b'', lambda raw: b'version https://git-lfs.github.com/spec/v1\n',
    lambda raw: raw[:len(raw) // 2], lambda raw: raw[:-1]
], ids=['empty', 'pointer', 'half', 'one byte short'])
def test_a_broken_file_is_named(damage, path):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match=rf'a\.{path.suffix[1:]} cannot be read as .*again'
                       ) as caught:
        list(TableFile(path).rows(['number']))
    assert caught.value.kind == 'unusable file'


def test_a_stream_cut_off_between_two_batches_is_not_taken_for_a_shorter_one(tmp_path):
    batch = pa.record_batch(dict(number=[1]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
        whole = sink.tell()
        writer.write_batch(batch)
    (tmp_path / 'a.arrow').write_bytes(sink.getvalue()[:whole])
    with pytest.raises(DatasetError, match='cannot be read as an Arrow stream .it has no end'):
        TableFile(tmp_path / 'a.arrow')


def test_a_file_that_breaks_off_inside_is_named_when_it_is_read(tmp_path):
    path = write_file(tmp_path / 'a.parquet', pa.table(dict(text=['x' * 50] * 9)))
    raw = bytearray(path.read_bytes())
    raw[4:60] = bytes(56)  # the head of the first page
    path.write_bytes(raw)
    file = TableFile(path)
    with pytest.raises(DatasetError, match=r'a\.parquet cannot be read as parquet'):
        list(file.rows(['text']))


def test_without_pyarrow_the_hint_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    monkeypatch.setitem(sys.modules, 'pyarrow.parquet', None)
    with pytest.raises(ImportError, match=r'pip install pyarrow.*\[data\]'):
        TableFile(path)


# Which files

def found(root: Path, split: str = 'train') -> list[str]:
    return [str(path.relative_to(root)) for path in find_table_files(root, split)]


def refusal(root: Path, split: str = 'train') -> tuple[str, str]:
    with pytest.raises(DatasetError) as caught:
        find_table_files(root, split)
    return caught.value.kind, str(caught.value)


@pytest.fixture
def touch(tmp_path):
    """Puts empty files of these names into the folder, and returns it."""
    def touch(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path
    return touch


def test_what_the_datasets_library_wrote_is_found():
    assert found(COPIES / 'refCOCOg_9k_840') == [
        'data/train-00000-of-00002.parquet', 'data/train-00001-of-00002.parquet']
    assert found(COPIES / 'VisionReasoner_multi_object_7k_840') == [
        'train/data-00000-of-00002.arrow', 'train/data-00001-of-00002.arrow']
    assert found(COPIES / 'refcoco_testA/test', 'test') == ['data-00000-of-00001.arrow']


def test_of_several_splits_in_a_folder_only_the_one_asked_for_is_taken(touch):
    root = touch('data/train-00000-of-00002.parquet', 'data/train-00001-of-00002.parquet',
                 'data/test-00000-of-00001-0123abcd.parquet', 'data/test_hard.parquet')
    assert found(root) == ['data/train-00000-of-00002.parquet',
                           'data/train-00001-of-00002.parquet']
    assert found(root, 'test') == ['data/test-00000-of-00001-0123abcd.parquet']
    assert found(root, 'test_hard') == ['data/test_hard.parquet']
    kind, message = refusal(root, 'val')
    assert kind == 'missing split' and "(test, train), but got 'val'" in message


def test_hidden_files_are_left_alone(touch):
    assert found(touch('._train.parquet', 'data/train.parquet')) == ['data/train.parquet']


def test_a_name_alone_may_tell_the_split(touch):
    root = touch('train.parquet', 'test.parquet')
    assert found(root, 'test') == ['test.parquet']
    assert refusal(root, 'val')[0] == 'missing split'


def test_where_no_name_gives_a_split_all_files_are_taken(touch):
    assert found(touch('0001.parquet', '0000.parquet'), 'test') == ['0000.parquet', '0001.parquet']


@pytest.mark.parametrize('names', [
    ['train-00000-of-00002.parquet'],
    ['train-00001-of-00002.parquet', 'train-00002-of-00003.parquet'],
    ['train-00000-of-00001-0123abcd.parquet', 'train-00000-of-00001.parquet'],
], ids=['one is missing', 'of two copies', 'twice'])
def test_shards_that_are_not_all_there_once_are_refused(names, touch):
    kind, message = refusal(touch(*names))
    assert kind == 'missing file' and f'but contains {min(names)}' in message


@pytest.mark.parametrize('name', [None, 'train.txt', 'train.arrow'])
def test_a_folder_without_data_is_named(name, touch, tmp_path):
    kind, message = refusal(touch(name) if name else tmp_path)
    assert kind == 'empty split'
    assert f'neither {tmp_path} nor {tmp_path / "data"} contains *.parquet, and there is' in message


def test_a_missing_folder_is_named(tmp_path):
    kind, message = refusal(tmp_path / 'no')
    assert kind == 'missing folder'
    assert f'but {tmp_path / "no"} is not a folder; download' in message


@pytest.fixture
def saved(tmp_path) -> Path:
    """A copy of the folder that `save_to_disk` wrote, to damage."""
    return Path(shutil.copytree(COPIES / 'VisionReasoner_multi_object_7k_840', tmp_path / 'saved'))


def test_a_split_that_save_to_disk_did_not_write_is_named(saved):
    kind, message = refusal(saved, 'test')
    assert kind == 'missing split' and "(train), but got 'test'" in message


@pytest.mark.parametrize('written', [None, 'train', 'test'])
def test_a_single_splits_folder_may_tell_its_name(written, saved):
    state = saved / 'train/state.json'
    state.write_text(json.dumps(json.loads(state.read_text()) | dict(_split=written)))
    if written == 'test':
        assert refusal(saved / 'train') == (
            'missing split', f"`split` should be one of those in {saved / 'train'} (test), but got "
            "'train'; set it to one of them")
    else:
        assert len(found(saved / 'train')) == 2


def test_files_that_the_state_lists_have_to_be_there(saved):
    (saved / 'train/data-00001-of-00002.arrow').unlink()
    kind, message = refusal(saved)
    assert kind == 'missing file' and 'train lacks data-00001-of-00002.arrow, which its ' in message


@pytest.mark.parametrize('name, content', [
    ('dataset_dict.json', '{'), ('dataset_dict.json', '{}'),
    ('dataset_dict.json', '{"splits": null}'), ('train/state.json', '[]'),
    ('train/state.json', '{"_data_files": ["a.arrow"]}'), ('train/state.json', None),
    ('train/state.json', '{"_data_files": null}')])
def test_a_broken_description_is_named(name, content, saved):
    if content is None:
        (saved / name).unlink()
    else:
        (saved / name).write_text(content)
    kind, message = refusal(saved)
    assert kind == 'unusable file' and str(saved / name) in message and 'again' in message


# Hostile files

BOMB = pytest.mark.promise(
    'Files', 'A parquet or Arrow file that unpacks to far more than it is',
    'an error by its metadata that names the file; nothing is unpacked')


@BOMB
@pytest.mark.parametrize('column, bounds, told', [
    (dict(image=[bytes(1000)] * 3), dict(_HARMLESS=500), 'image unpack to 3,'),
    (dict(image=[bytes(1000)] * 3), dict(_HARMLESS=2000, _MOST_PACKED=10), 'image unpack to 3,'),
    (dict(mask=[[[False] * 50] * 20]), dict(_HARMLESS=500), 'mask.* unpack to 1,000 bytes or val')],
    ids=['a row', 'packed', 'values'])
def test_a_table_that_unpacks_to_too_much_is_refused(column, bounds, told, tmp_path, monkeypatch,
                                                     tried):
    """Small ones, by bounds that are smaller."""
    path = write_file(tmp_path / 'test.parquet', pa.table(column), use_dictionary=False,
                      write_statistics=False, compression='zstd')
    TableFile(path)
    monkeypatch.setattr(tables, '_HARMLESS', 2000)
    if len(column.get('image', ())) == 3:  # more than the bound in all, but not in a row
        TableFile(path)
    for name, value in bounds.items():
        monkeypatch.setattr(tables, name, value)
    monkeypatch.setattr(pq.ParquetFile, 'iter_batches', lambda *_: pytest.fail('unpacked'))
    with pytest.raises(DatasetError, match=f'test.parquet cannot be read .*column {told}'):
        TableFile(path)
    tried('columns of bytes and of lists, by bounds that are set low')


@BOMB
@pytest.mark.parametrize('packing', ['zstd', 'lz4'])
def test_a_packed_arrow_stream_is_refused(packing, tmp_path, tried):
    table = pa.table(dict(text=['a packed row'] * 9))
    path = tmp_path / 'a.arrow'
    with (pa.OSFile(str(path), 'wb') as sink,
          pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(
              compression=packing)) as writer):
        writer.write_table(table)
    with pytest.raises(DatasetError, match='a.arrow .*it is compressed, which `save_to_disk`'):
        TableFile(path)
    tried('Arrow streams by zstd and lz4')


DAMAGED = pytest.mark.promise(
    'Files', 'A parquet or Arrow file that is damaged', 'it is read, or one kind of error names it')


@DAMAGED
def test_a_file_that_is_cut_short_anywhere_is_named(path, tried):
    good, count = path.read_bytes(), 60
    for i in range(count):
        path.write_bytes(good[:len(good) * i // count])
        with pytest.raises(DatasetError, match=rf'a\.{path.suffix[1:]} cannot be read'):
            list(TableFile(path).rows(['number', 'text']))
    tried(f'{count} files cut short in each form')


@DAMAGED
@pytest.mark.parametrize('error', [
    pa.ArrowInvalid('a row'), OSError('a row'), struct.error('a row'),
    UnicodeDecodeError('utf-8', b'', 0, 1, 'a row')], ids=lambda error: type(error).__name__)
def test_a_row_that_cannot_be_read_is_named(error, path, monkeypatch, tried):
    def refuse(batch):
        assert batch.num_rows == 1
        raise error
    monkeypatch.setattr(tables, '_validate', refuse)
    with pytest.raises(DatasetError, match=rf'a\.{path.suffix[1:]} cannot be read as .*a row'):
        next(TableFile(path).rows(['number', 'text']))
    tried('rows that pyarrow refuses')


def test_every_column_of_a_row_is_validated_and_text_as_bytes():
    seen = []

    class Column:
        def __init__(self, kind):
            self.type = kind

        def view(self, kind):
            return Column(kind)

        def validate(self, full):
            seen.append((self.type, full))

    tables._validate(SimpleNamespace(columns=[Column(pa.int64()), Column(pa.string())]))
    assert seen == [(pa.int64(), True), (pa.binary(), True)]
