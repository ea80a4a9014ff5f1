# Exported from nbs/benchmarks/files.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.files import *  # noqa: F403


def test_a_missing_file_says_where_it_is_to_be_had():
    import tempfile
    from pathlib import Path

    import pytest

    from mfpo.benchmarks.files import check_sources, file_sha256, find_source
    from mfpo.benchmarks.records import Source

    kept = tempfile.TemporaryDirectory()
    tmp_path = Path(kept.name)
    source = Source("data/a.json", "the questions", "the authors' repository", "MIT")
    with pytest.raises(FileNotFoundError, match="a.json is not in .*the questions, to be had from the authors' repository; licence: MIT"):
        find_source(tmp_path, source)
    with pytest.raises(FileNotFoundError, match="nowhere is no folder.*a.json"):
        find_source(tmp_path / "nowhere", source)
    assert find_source(tmp_path, Source("b.json", "", "", "", needed=False)) is None
    with pytest.raises(FileNotFoundError, match="(?s)a.json.*b.json"):  # all at once
        check_sources(tmp_path, [source, Source("b.json", "more", "elsewhere", "not stated")])
    with pytest.raises(FileNotFoundError) as told:  # the folder is named once, and what has to be in it, though not all of it
        check_sources(tmp_path / "nowhere", [source, Source("b.json", "more", "elsewhere", "not stated", needed=False)])
    assert str(told.value).count("is no folder") == 1 and "b.json: more, to be had from elsewhere" in str(told.value)

    inner = tmp_path / "x" / "data"
    inner.mkdir(parents=True)
    (inner / "a.json").write_text("[1]")
    assert find_source(tmp_path, source) == inner / "a.json"
    sums, told = check_sources(tmp_path, [source])
    assert sums == {"data/a.json": file_sha256(inner / "a.json")} and not told
    _, told = check_sources(tmp_path, [Source("data/a.json", "", "", "", sha256=("0" * 64,))])
    assert len(told) == 1 and "not the published file" in told[0]
    (tmp_path / "y" / "data").mkdir(parents=True)
    (tmp_path / "y" / "data" / "a.json").write_text("[1]")  # a copy: no matter which
    assert find_source(tmp_path, source) == inner / "a.json"
    (tmp_path / "y" / "data" / "a.json").write_text("[2]")
    with pytest.raises(ValueError, match="there 2 times, and they differ"):
        find_source(tmp_path, source)


def test_three_kinds_of_json_are_one():
    import json
    import random
    import tempfile
    from pathlib import Path

    import pytest

    from mfpo.benchmarks.files import read_mapping, read_records, read_values

    values = [{"a": 1}, {"a": "é\n"}]
    kept = tempfile.TemporaryDirectory()
    path = Path(kept.name) / "f.json"
    for text in (json.dumps(values), "\n".join(map(json.dumps, values)), "\n\n".join(json.dumps(v, indent=2) for v in values)):
        path.write_text(text)
        assert read_values(path) == values
    path.write_text("")
    assert read_values(path) == []
    path.write_text('{"a": 1}')
    assert read_mapping(path) == {"a": 1} and read_records(path, ["a"]) == [{"a": 1}]
    with pytest.raises(ValueError, match="record 1: has no field b; it has a"):
        read_records(path, ["a", "b"])
    path.write_text('{"a": 1}\n{"a": 2')
    with pytest.raises(ValueError, match="line 2: is no JSON"):
        read_values(path)
    path.write_text("[1]")
    for wrong, reader in (("no JSON object", read_mapping), ("is a int, no object", lambda p: read_records(p, []))):
        with pytest.raises(ValueError, match=wrong):
            reader(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="not UTF-8 at byte 7"):
        read_values(path)

    draw = random.Random(0)
    for _ in range(300):  # whatever the bytes are: values, or an error that names the file
        path.write_bytes(bytes(draw.choice(b'[]{}":,0 1-eNaNtrue\n\\u\xc3') for _ in range(draw.randrange(30))))
        try:
            read_values(path)
        except ValueError as error:
            assert str(path) in str(error)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is no JSON"):
        read_values(path)
