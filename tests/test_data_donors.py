# Exported from nbs/data/donors.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.donors import *  # noqa: F403

import itertools
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from mfpo.data.rows import dataset_of


def picture(seed, size=(8, 6)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def some_rows(n, same=lambda k: k):
    """Rows r00, r01, … whose picture is number `same(k)`."""
    return dataset_of({"id": f"r{k:02d}", "image": picture(same(k)), "note": k} for k in range(n))


def refused(function, *args, **kwargs):
    """The message of the `ValueError` that the call raises."""
    try:
        function(*args, **kwargs)
    except ValueError as error:
        return str(error)
    raise AssertionError("not refused")


class ByTable:
    """An embedding that knows the vector of each picture, counts pictures, and dies when told."""

    fingerprint = "by table"

    def __init__(self, vectors, dies_after=None):
        self.vectors = {np.asarray(picture(k)).tobytes(): v for k, v in enumerate(vectors)}
        self.count, self.dies_after = 0, dies_after

    def __call__(self, images):
        if self.dies_after is not None and self.count >= self.dies_after:
            raise KeyboardInterrupt
        self.count += len(images)
        return np.array([self.vectors[np.asarray(image).tobytes()] for image in images], np.float32)


def test_random_donors():
    # Four rows of three pictures: r03 has r00's. Every row gets every row with another picture, and no other.
    rows = some_rows(4, same=lambda k: k % 3)
    allowed = {"r00": {"r01", "r02"}, "r01": {"r00", "r02", "r03"}, "r02": {"r00", "r01", "r03"}, "r03": {"r01", "r02"}}
    got = {name: set() for name in allowed}
    for seed in range(60):
        donors = RandomDonors(rows, seed, progress=False)
        for row in rows:
            name, image = donors(row)
            got[row["id"]].add(name)
            assert np.array_equal(np.asarray(image), np.asarray(picture(int(name[1:]) % 3))) and image.mode == "RGB"
    assert got == allowed


def test_random_is_uniform():
    # 3000 rows ask, each drawing from the 9 with another picture: each gets 333 with standard deviation 17.2.
    donors = RandomDonors(some_rows(10), 0, progress=False)
    ask = donors._draws
    counts = np.bincount([next(ask({"id": f"x{k}"}, 4)) for k in range(3000)], minlength=10)
    assert counts[4] == 0 and np.abs(np.delete(counts, 4) - 3000 / 9).max() < 4.5 * np.sqrt(3000 * 8 / 81)


def test_order_does_not_matter():
    rows = some_rows(12, same=lambda k: k // 2)
    embed = ByTable(np.random.default_rng(0).standard_normal((12, 5)))
    for make in (lambda rows: RandomDonors(rows, 3, progress=False), lambda rows: RetrievedDonors(rows, embed, progress=False)):
        first = make(rows)
        for order in (range(11, -1, -1), np.random.default_rng(1).permutation(12)):
            second = make(rows.select(order))
            assert second.fingerprint == first.fingerprint
            assert [second(row)[0] for row in rows] == [first(row)[0] for row in rows]
    assert RandomDonors(rows, 4, progress=False).fingerprint != RandomDonors(rows, 3, progress=False).fingerprint
    assert RandomDonors(some_rows(12), 3, progress=False).fingerprint != RandomDonors(rows, 3, progress=False).fingerprint


def test_never_the_picture_itself():
    # Other bytes, the same pixels: the second row's PNG has a comment.
    import io

    from PIL import PngImagePlugin

    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("comment", "saved anew")
    picture(0).save(buffer, "PNG", pnginfo=info)
    rows = dataset_of([{"id": "a", "image": picture(0)}, {"id": "b", "image": buffer.getvalue()}, {"id": "c", "image": picture(1)}])
    donors = [RandomDonors(rows, seed, progress=False) for seed in range(20)]
    assert len(donors[0].pool.first) == 3
    assert all(d(rows[k])[0] == "c" for d in donors for k in (0, 1)) and {d(rows[2])[0] for d in donors} == {"a", "b"}
    table = ByTable([(1.0, 0.0), (0.9, 0.1)])
    assert all(RetrievedDonors(rows, table, duplicate_above=1.0, progress=False)(rows[k])[0] == "c" for k in (0, 1))
    for only in (rows.select([0, 1]), rows.select([0]), some_rows(3, same=lambda k: 0)):
        name = only[0]["id"]
        assert repr(name) in refused(RandomDonors(only, 0, progress=False), only[0])
        assert repr(name) in refused(RetrievedDonors(only, table, progress=False), only[0])
    # a row that is not one of the rows: compared by its pixels
    assert all(d({"id": "new", "image": picture(1)})[0] in "ab" for d in donors)
    assert "new" in refused(RetrievedDonors(rows, table, progress=False), {"id": "new", "image": picture(1)})


def test_retrieved_by_hand():
    # Angles of the vectors in degrees: 0, 3, 20, 30, 90, 50. Cosines: 3° .9986, 10° .985, 17° .956, 20° .940, 40° .766.
    angles = np.deg2rad([0, 3, 20, 30, 90, 50])
    embed = ByTable(5 * np.stack([np.cos(angles), np.sin(angles)], 1))  # lengths do not matter
    rows = some_rows(6)
    near = lambda **settings: [RetrievedDonors(rows, embed, progress=False, **settings).nearest(i)[0] for i in rows["id"]]
    assert near(duplicate_above=0.99) == ["r02", "r02", "r03", "r02", "r05", "r03"]  # 3° is a duplicate
    assert near(duplicate_above=1.0) == ["r01", "r00", "r03", "r02", "r05", "r03"]
    assert near(duplicate_above=0.98) == ["r02", "r02", "r01", "r05", "r05", "r03"]  # 10° is one too
    assert near(duplicate_above=0.99, rank=2) == ["r03", "r03", "r01", "r05", "r03", "r02"]
    donors = RetrievedDonors(rows, embed, duplicate_above=0.99, progress=False)
    assert abs(donors.nearest("r00")[1] - np.cos(np.deg2rad(20))) < 1e-6
    name, image = donors(rows[0])
    assert name == "r02" and np.array_equal(np.asarray(image), np.asarray(picture(2)))


def test_ties_by_id():
    # Four pictures at one distance from r00, and duplicates of one another: the first by id, whatever the order of rows.
    vectors = [(1, 0, 0, 0, 0)] + [tuple(np.eye(5)[k] + np.eye(5)[0]) for k in (1, 2, 3, 4)]
    embed = ByTable(vectors)
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 13):
        donors = RetrievedDonors(some_rows(5).select(order), embed, progress=False)
        assert donors.nearest("r00")[0] == "r01" and donors.nearest("r04")[0] == "r00"


def test_search_is_exact():
    # Against a plain search in float64, with many equal vectors, at every rank; and past the first neighbours asked for.
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 6))
    vectors[100:140] = vectors[7]  # forty duplicates: more than are asked for at first
    vectors[200:230] = vectors[8] + 0.3 * vectors[7]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    cosines = (vectors.astype(np.float64) @ vectors.astype(np.float64).T).round(6)
    for rank, limit in ((1, 0.98), (3, 0.98), (1, 1.0), (250, 0.9)):
        chosen, similarity = nearest_others(vectors, rank, limit)
        for k in range(300):
            allowed = [j for j in range(300) if j != k and cosines[k, j] <= limit and cosines[k, j] < 1 - 1e-6]
            ranked = sorted(allowed, key=lambda j: (-cosines[k, j], j))
            expected = ranked[rank - 1] if len(ranked) >= rank else -1
            assert chosen[k] == expected, (rank, limit, k)
            assert np.isnan(similarity[k]) if expected < 0 else abs(similarity[k] - cosines[k, expected]) < 2e-6


def test_vectors_are_kept_and_resumed():
    vectors, rows = np.random.default_rng(0).standard_normal((11, 5)), some_rows(11)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "sub" / "vectors.safetensors"
        make = lambda embed, rows=rows: embed_pool(Pool(rows, False), embed, cache, 3, False, part=4)
        try:
            make(ByTable(vectors, dies_after=6))  # in the second part of three
            raise AssertionError("did not die")
        except KeyboardInterrupt:
            pass
        assert not cache.exists() and sorted(p.name for p in cache.parent.glob(".*/*")) == ["000000.safetensors", "run.json"]
        other = ByTable(vectors)
        other.fingerprint = "another"
        assert "by table there, another here" in refused(make, other)
        second = ByTable(vectors)
        assert np.allclose(make(second), unit, atol=1e-6)
        assert second.count == 11 - 4 and cache.exists() and not list(cache.parent.glob(".*"))
        third = ByTable(vectors)
        assert np.array_equal(make(third), embed_pool(Pool(rows, False), third, None, 11, False)) and third.count == 11
        assert "rows" in refused(make, third, some_rows(10)) and "another" in refused(make, other)
        cache.write_bytes(cache.read_bytes()[:100])
        assert "delete it" in refused(make, third)
        cache.unlink()
        parts = cache.parent / ".vectors.safetensors.parts"
        parts.mkdir()
        (parts / "000000.safetensors").write_bytes(b"left from a run that was never marked")
        make(third)
        assert third.count == 22 and cache.exists()
        cache.unlink()
        donors = RetrievedDonors(rows, third, cache=cache, progress=False)
        again, fresh = RetrievedDonors(rows, third, cache=cache, progress=False), RetrievedDonors(rows, third, progress=False)
        assert third.count == 44 and donors.fingerprint == again.fingerprint == fresh.fingerprint
        assert np.array_equal(donors.chosen, again.chosen) and np.array_equal(donors.chosen, fresh.chosen)


def test_equal_pictures_are_embedded_once():
    embed = ByTable(np.random.default_rng(0).standard_normal((3, 5)))
    donors = RetrievedDonors(some_rows(30, same=lambda k: k % 3), embed, duplicate_above=1.0, progress=False)
    assert embed.count == 3 and {donors.nearest(f"r{k:02d}")[0] for k in range(30)} <= {"r00", "r01", "r02"}


def test_bad_rows_and_vectors_are_named():
    rows = some_rows(3)
    assert "image" in refused(RandomDonors, rows.remove_columns("image"), progress=False)
    twice = dataset_of([{"id": "a", "image": picture(0)}, {"id": "a", "image": picture(1)}])
    assert "'a'" in refused(RandomDonors, twice, progress=False)
    none = dataset_of([{"id": "a", "image": picture(0)}, {"id": "b", "image": None}])
    assert "'b'" in refused(RandomDonors, none, progress=False)
    for values, said in (((0, 0), "'r01'"), ((1, float("nan")), "'r01'")):
        assert said in refused(RetrievedDonors, rows, ByTable([(1, 0), values, (1, 1)]), progress=False)
    assert "shape" in refused(RetrievedDonors, rows, lambda images: np.ones((2, 2)), progress=False)
    embed = ByTable(np.eye(3))
    for wrong in (dict(rank=0), dict(rank=1.0), dict(duplicate_above=0), dict(duplicate_above=1.1), dict(duplicate_above="x"),
                  dict(batch_size=0)):
        assert refused(RetrievedDonors, rows, embed, progress=False, **wrong).startswith(next(iter(wrong)))
