# Exported from nbs/data/rejected.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.rejected import *  # noqa: F403

import json, pathlib, tempfile
import pytest
from PIL import Image
from mfpo.data.journal import Journal
from mfpo.data.rows import dataset_of, write_tables, read_rows
from mfpo.data.writers import Failure, Reply

PAIRS = [{"id": f"row {k}", "question": "What is there?", "chosen": f"A red cup and {k} plates on a table."} for k in range(12)]


class Fake:
    """Replaces red by blue; `faults` says by row and turn what else it does. It counts what it is asked."""

    name, fingerprint = "fake", {"model": "fake"}

    def __init__(self, faults=None, dies_after=None):
        self.faults, self.dies_after, self.asked = faults or {}, dies_after, []

    def write(self, requests):
        for identity, messages in requests:
            if len(self.asked) == self.dies_after:
                raise KeyboardInterrupt
            self.asked.append((identity, messages[0]["content"]))
            yield identity, self.reply(identity, messages)

    def reply(self, identity, messages):
        row, _, turn = identity.partition(SEPARATOR)
        fault = self.faults.get((row, int(turn[4:] or 0)))
        if isinstance(fault, Failure):
            return fault
        answer = json.loads(messages[0]["content"].splitlines()[-1])["answer"]
        reply = {"rejected": answer.replace("red", "blue"), "edits": [{"from": "red", "to": "blue", "kind": "attributes"}]}
        return Reply(fault or json.dumps(reply), 100, 20, 0.5, 2)


def journal_in(folder):
    return Journal(pathlib.Path(folder) / "journal", {"writer": "fake"})


def test_every_pair_gets_its_answer_and_is_asked_once():
    with tempfile.TemporaryDirectory() as folder, journal_in(folder) as journal:
        writer, ticks = Fake(), []
        assert inject_answers(PAIRS, writer, journal, tick=ticks.append) == {} and ticks == [True] * 12
        record = journal[row_key("rejected", PAIRS[3])]
        assert record["text"] == "A blue cup and 3 plates on a table." and record["tokens"] == [100, 20]
        assert record["edits"] == [{"from": "red", "to": "blue", "kind": "attributes"}]
        assert inject_answers(PAIRS, writer, journal) == {} and len(writer.asked) == 12
        assert usage_of(journal) == Usage(replies=12, retries=12, tokens_in=1200, tokens_out=240)
        # A row whose preferred answer has changed is asked again, and no other.
        changed = [PAIRS[0] | {"chosen": "A red cat."}, *PAIRS[1:]]
        assert inject_answers(changed, writer, journal) == {} and len(writer.asked) == 13
        assert journal[row_key("rejected", changed[0])]["text"] == "A blue cat."


def test_refused_replies_are_asked_again_and_told_why():
    same = json.dumps({"rejected": PAIRS[1]["chosen"], "edits": [{"from": "red", "to": "red", "kind": "attributes"}]})
    faults = {("row 0", 0): "Gladly!", ("row 1", 0): same, ("row 1", 1): "Sure!", ("row 2", 0): Failure("timeout", "slow", 7)}
    faults |= {("row 3", turn): "no" for turn in range(3)}
    with tempfile.TemporaryDirectory() as folder, journal_in(folder) as journal:
        writer, ticks = Fake(faults), []
        failures = inject_answers(PAIRS[:5], writer, journal, tries=3, tick=ticks.append)
        assert [i.replace(SEPARATOR, " ") for i, _ in writer.asked] == [
            "row 0", "row 1", "row 2", "row 3", "row 4", "row 0 try 1", "row 1 try 1", "row 3 try 1", "row 1 try 2", "row 3 try 2"]
        assert "An earlier reply could not be used: the reply holds no JSON" in writer.asked[5][1]
        assert "the answer is the same but for case" in writer.asked[6][1] and "earlier" not in writer.asked[0][1]
        assert failures == {"row 2": Failure("timeout", "slow", 7), "row 3": Failure(
            "reply: no JSON", 'the reply holds no JSON object with "rejected" (3 replies)', 3)}
        assert sorted(ticks) == [False, False, True, True, True] and counted(failures) == {"timeout": 1, "reply: no JSON": 1}
        # 9 replies, of which 6 were refused: rows 0, 1 twice, 3 three times. All are paid.
        assert usage_of(journal) == Usage(replies=9, refused=6, retries=9, tokens_in=900, tokens_out=180)
        # The next run asks for what failed on the way, not for what was refused three times; with more tries it does.
        writer = Fake()
        assert list(inject_answers(PAIRS[:5], writer, journal, tries=3)) == ["row 3"] and len(writer.asked) == 1
        assert inject_answers(PAIRS[:5], writer, journal, tries=4) == {} and writer.asked[1][0] == f"row 3{SEPARATOR}try 3"


def test_killed_after_any_request_it_goes_on_and_asks_nothing_twice():
    faults = {("row 1", 0): "no", ("row 5", 0): "no", ("row 5", 1): "no"}


    def records(journal):
        """In the order of the keys: turns may be interleaved otherwise after a kill."""
        return sorted(journal.items())


    with tempfile.TemporaryDirectory() as folder, journal_in(folder) as journal:
        whole = Fake(faults)
        inject_answers(PAIRS, whole, journal)
        wanted = records(journal)
    for death in range(len(whole.asked) + 1):
        with tempfile.TemporaryDirectory() as folder, journal_in(folder) as journal:
            first, second = Fake(faults, death), Fake(faults)
            try:
                inject_answers(PAIRS, first, journal)
            except KeyboardInterrupt:
                pass
            assert inject_answers(PAIRS, second, journal) == {} and records(journal) == wanted
            assert sorted(i for i, _ in first.asked + second.asked) == sorted(i for i, _ in whole.asked)


def test_computed_answers_are_kept_with_their_failures():
    with tempfile.TemporaryDirectory() as folder, journal_in(folder) as journal:
        keys = {pair["id"]: row_key("rejected", pair, b"picture") for pair in PAIRS[:3]}
        outcomes = [("row 0", Reply("a dog", None, 2, 0.1, 3)), ("row 1", Failure("same", "the same", 4)),
                    ("row 2", Reply("a cat", None, None, 0.1, 1, True))]
        keep_answers(outcomes, keys, journal, samples=4)
        assert journal[keys["row 0"]]["text"] == "a dog" and keys["row 1"] not in journal
        assert kept_failure(journal, keys["row 1"], 4) == Failure("same", "the same", 4)
        assert kept_failure(journal, keys["row 1"], 5) is None and kept_failure(journal, keys["row 0"], 4) is None
        assert usage_of(journal) == Usage(replies=2, retries=5, tokens_out=2, uncounted=1, cut=1)
        keep_answers([("row 5", Reply("a cup", None, 7, 0.1, 1))], {"row 5": row_key("chosen", PAIRS[5])}, journal, samples=4)
        assert usage_of(journal) == Usage(replies=3, retries=5, tokens_out=2, uncounted=1, cut=1), "not the writer's tokens"
    assert Usage(tokens_in=2_000_000, tokens_out=500_000).cost(0.15, 0.6) == pytest.approx(0.6)  # 2 × 0.15 + 0.5 × 0.6


def test_keys_tell_what_an_answer_is_made_from():
    row = {"id": "a", "question": "Q?", "chosen": "C"}
    keys = {
        row_key("rejected", row), row_key("rejected", row, b"x"), row_key("rejected", row | {"chosen": "D"}),
        row_key("rejected", row | {"question": "R?"}), row_key("rejected", row | {"id": "b"}), row_key("chosen", row),
        row_key("rejected", {"id": "a", "question": "Q?C", "chosen": ""}),
    }
    assert len(keys) == 7
    assert row_key("chosen", row) == row_key("chosen", row | {"chosen": None}), "a chosen answer does not depend on itself"


def test_rows_and_journal_become_one_file():
    image = Image.new("RGB", (8, 8), "teal")
    rows = dataset_of([{**pair, "image": image, "rejected": "old", "difficulty": 0.5, "note": k} for k, pair in enumerate(PAIRS[:4])])
    rows = rows.map(lambda row: {"chosen": None if row["note"] == 2 else row["chosen"]})
    with tempfile.TemporaryDirectory() as folder, journal_in(folder) as journal:
        picture = rows.with_format("arrow")[:].to_pylist()[2]["image"]["bytes"]
        pairs = [dict(pair) for pair in PAIRS[:4]]
        journal.add((row_key("chosen", pairs[2], picture), {"text": "A red dog.", "tokens": [None, 3], "attempts": 1, "cut": False}))
        pairs[2]["chosen"] = "A red dog."
        inject_answers(pairs, Fake({("row 1", 0): Failure("timeout", "slow", 7)}), journal)
        sources = Sources("inject:{kind}:fake", "model:tiny")
        features = answered_features(rows.features)
        out = write_tables(answered_tables(rows, journal, sources, features), features, f"{folder}/out.parquet")
        made = read_rows(out)
        assert made["id"][:] == ["row 0", "row 2", "row 3"] and made["note"][:] == [0, 2, 3] and "difficulty" not in made.features
        assert made["chosen"][:] == [PAIRS[0]["chosen"], "A red dog.", PAIRS[3]["chosen"]]
        assert made["rejected"][:] == ["A blue cup and 0 plates on a table.", "A blue dog.", "A blue cup and 3 plates on a table."]
        assert made["chosen_source"][:] == ["rows", "model:tiny", "rows"]
        assert set(made["rejected_source"][:]) == {"inject:attributes:fake"}
        assert made[0]["edits"] == [{"from": "red", "to": "blue", "kind": "attributes"}] and made[0]["image"].size == (8, 8)
        again = write_tables(answered_tables(rows, journal, sources, features), features, f"{folder}/again.parquet")
        assert out.read_bytes() == again.read_bytes()
