# Exported from nbs/train/reference.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.reference import *  # noqa: F403

import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from peft import get_peft_model
from PIL import Image, ImageDraw

import mfpo.train.reference as reference  # some tests put a watched function into the module
from mfpo.model.reference import ReferenceFileError, part_of, read_reference, rounding
from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import load_vlm, lora, save_vlm
from mfpo.train.collator import PreferenceCollator, RowEncoder
from mfpo.train.arms import CHOSEN, NEGATIVE, REJECTED, Span
from mfpo.train.config import MFPOConfig
from mfpo.train.preparation import undecoded
from mfpo.train.scoring import score_arms
from mfpo.train.spans import SPANS


def drawn_rows(count=6, **changes):
    """Pictures of a square; `changes` maps a row number to new cells."""
    rows = []
    for i in range(count):
        color = ("red", "blue", "green")[i % 3]
        image, negative = Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64), (9 * i, 0, 0))
        ImageDraw.Draw(image).rectangle([8 * (i % 4), 16, 8 * (i % 4) + 15, 31], fill=color)
        rows.append({
            "id": f"row-{i}", "question": "which color is it ?", "image": image, "negative": negative,
            "chosen": f"it is {color} ." * (1 + i % 2), "rejected": "there is no cup .",
            "negative_kind": "black", "negative_where": "global",
        } | changes.get(f"row{i}", {}))
    return datasets.Dataset.from_list(rows)


CHANGED, OBJECTS = Span("chosen", "original", "changed"), Span("chosen", "negative", "objects")
OWN = Span("chosen", "original", "own")


def with_spans(rows):
    """The columns that these three read."""
    lengths = [len(RowEncoder(small_vlm_for_tests()[1]).answer(row["question"], row["chosen"])) for row in rows]
    regions = [[{"keyword": row["chosen"].split()[2], "found": True, "box": [0, 0, 9, 9]}] for row in rows]
    return rows.add_column("own_tokens", [[7] * n for n in lengths]).add_column("regions", regions)


def made(path, rows=None, model=None, processor=None, collator=None, **options):
    """The table of the small model, in batches of 2 and shards of 2 batches."""
    model = model or small_vlm_for_tests()[0]
    collator = collator or PreferenceCollator(RowEncoder(processor or small_vlm_for_tests()[1], 0), max_length=60)
    options = {"batch_size": 2, "shard_batches": 2, "route": "plain"} | options
    rows = drawn_rows() if rows is None else rows
    return reference.cached_reference(model, rows, collator, path, **options)


def test_the_file_says_what_scoring_says():
    with tempfile.TemporaryDirectory() as folder:
        path, (model, processor) = Path(folder) / "reference.parquet", small_vlm_for_tests()
        collator, rows = PreferenceCollator(RowEncoder(processor), max_length=60), drawn_rows()
        stored = undecoded(rows, ["id", *collator.columns])
        table = made(path, rows, model, collator=collator)
        # the same numbers, bit for bit, as scored into memory in the same batches; and again when read
        assert table == reference_table(model, stored, collator, batch_size=2, route="plain")
        assert made(path, rows, model, collator=collator) == table == made(path)
        assert list(table) == [collator.key(row) for row in stored]
        scores = read_reference(path)
        assert scores.notes == {"model": "", "revision": None, "negatives": "6 black in global"}
        assert scores.made_with["route"] == "plain" and scores.made_with["max_length"] == 60
        # rows as a list of decoded pictures are known by their pixels, which is another file
        with pytest.raises(ReferenceFileError, match="another image, negative"):
            made(path, [dict(row) for row in rows])


def test_a_lora_run_reads_what_the_bare_base_wrote():
    with tempfile.TemporaryDirectory() as folder:
        path, (model, processor) = Path(folder) / "reference.parquet", small_vlm_for_tests()
        table = made(path)
        wrapped = get_peft_model(model, lora(model, r=4, projector=True))
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(generator=torch.Generator().manual_seed(0))
        wrapped.train()
        assert made(path, model=wrapped) == table and wrapped.training
        save_vlm(small_vlm_for_tests()[0], processor, Path(folder) / "base")
        assert made(path, model=load_vlm(Path(folder) / "base")[0]) == table
        # TRL's copy of the initial adapter is another reference
        wrapped.add_adapter("ref", wrapped.peft_config["default"])
        with pytest.raises(ReferenceFileError, match="adapter.settings"):
            made(path, model=wrapped)


def test_a_stale_file_is_refused_naming_what_is_stale_and_made_again_when_it_is_gone():
    def weight(model, processor):
        with torch.no_grad():
            model.get_parameter("model.language_model.layers.1.mlp.up_proj.weight")[-1, -1] += 1e-4

    def template(model, processor):
        processor.chat_template = processor.chat_template.replace(" assistant :", " assistant : :")

    def tokenizer(model, processor):
        processor.tokenizer.add_tokens(["zebra"])

    def pixels(model, processor):
        processor.image_processor.resample = 2

    def eager(model, processor):
        model.set_attn_implementation("eager")

    def pixel(row):
        picture = row["negative"].copy()
        picture.putpixel((5, 5), (1, 2, 3))
        return {"negative": picture}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.parquet"
        first = made(path)
        before = path.read_bytes()
        for change, words in (
            (weight, r"model.weights.model.language_model: \w{32} there, \w{32} here"),
            (template, "processor.chat_template: "), (tokenizer, "processor.tokenizer: "),
            (pixels, "processor.settings.image_processor.resample: 3 there, 2 here"),
            (eager, "attention: sdpa there, eager here"),
            (lambda m, p: m.bfloat16(), "dtype: float32 there, bfloat16 here"),
            (lambda m, p: setattr(m.config.text_config, "rms_norm_eps", 1e-5), "model.config.text_config.rms_norm_eps"),
        ):
            model, processor = small_vlm_for_tests()
            change(model, processor)
            with pytest.raises(ReferenceFileError, match=f"reference.parquet is out of date .*{words}.*Remove the file"):
                made(path, model=model, processor=processor)
        encoder = RowEncoder(small_vlm_for_tests()[1])
        for collator, words in (
            (PreferenceCollator(encoder, max_length=61), "max_length: 60 there, 61 here"),
            (PreferenceCollator(encoder, max_length=60, truncation="answer"), "truncation: refuse there, answer here"),
        ):
            with pytest.raises(ReferenceFileError, match=words):
                made(path, collator=collator)
        with pytest.raises(ReferenceFileError, match="route: plain there, tree here"):
            made(path, route="tree")
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(ReferenceFileError, match="autocast: None there"):
            made(path)
        rows = drawn_rows()
        for changed, words in (
            (
                drawn_rows(row3=pixel(rows[3])),
                r"\(its negatives: 6 black in global\) does not hold 1 of 6 rows: 'row-3' \(another negative\)",
            ),
            (
                drawn_rows(row1={"chosen": "it is ."}, row2={"question": "what ?"}),
                r"'row-1' \(another chosen\), 'row-2' \(another question\)",
            ),
            (drawn_rows(8), r"2 of 8 rows: 'row-6' \(unknown\), 'row-7' \(unknown\)"),
        ):
            with pytest.raises(ReferenceFileError, match=words):
                made(path, changed)
        assert path.read_bytes() == before and made(path) == first  # nothing was spoilt by being asked
        model, _ = small_vlm_for_tests(1)
        with pytest.raises(ReferenceFileError):
            made(path, model=model)
        path.unlink()
        assert made(path, model=model) != first and path.read_bytes() != before


def test_fewer_arms_fewer_rows_and_other_negatives_are_served_by_one_file():
    with tempfile.TemporaryDirectory() as folder:
        path, (model, processor) = Path(folder) / "reference.parquet", small_vlm_for_tests()
        whole = made(path)
        order = {arm: k for k, arm in enumerate(PreferenceCollator(RowEncoder(processor)).arms)}
        dpo = PreferenceCollator(RowEncoder(processor), (REJECTED, CHOSEN), max_length=60)
        rows = drawn_rows().remove_columns("negative").select([4, 1])
        table = made(path, rows, model, collator=dpo)
        values = list(whole.values())
        assert list(table.values()) == [tuple(values[k][order[arm]] for arm in (REJECTED, CHOSEN)) for k in (4, 1)]
        assert list(table) == [dpo.key(row) for row in undecoded(rows, dpo.columns)]
        with pytest.raises(ReferenceFileError, match="lacks the arm rejected_negative"):
            arms = (CHOSEN, ("rejected", "negative"))
            made(path, collator=PreferenceCollator(RowEncoder(processor), arms, max_length=60))
        # several sets, one after the other, equal rows scored once
        several = Path(folder) / "several.parquet"
        sets = (drawn_rows(3), None, drawn_rows(5), iter(()))
        assert len(made(several, sets)) == 5 and len(read_reference(several).rows) == 5


def test_a_killed_scoring_goes_on_and_scores_every_row_once():
    seen, left, kept = [], [None], reference.score_arms

    def watched(model, rows, *args, **options):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] = None if left[0] is None else left[0] - 1
        seen.extend(row["id"] for row in rows)
        return kept(model, rows, *args, **options)

    with tempfile.TemporaryDirectory() as folder:
        straight = made(Path(folder) / "straight.parquet", drawn_rows(10))
        reference.score_arms = watched
        try:
            for stop in range(1, 5):
                path = Path(folder) / f"killed-{stop}.parquet"
                seen.clear()
                left[0] = stop
                with pytest.raises(KeyboardInterrupt):
                    made(path, drawn_rows(10), checked_rows=0)
                assert not path.exists() and part_of(path).is_dir()
                finished = 4 * (stop // 2)  # rows in whole shards
                del seen[finished:]
                left[0] = None
                table = made(path, drawn_rows(10), checked_rows=0)
                assert seen == [f"row-{k}" for k in range(10)] and table == straight
                assert sorted(p.name for p in Path(folder).glob(f"*killed-{stop}*")) == [path.name]
            path = Path(folder) / "stale.parquet"
            left[0] = 3
            with pytest.raises(KeyboardInterrupt):
                made(path, drawn_rows(10))
            left[0] = None
            with pytest.raises(ReferenceFileError, match="stale.parquet.part is unfinished .*route: plain there, tree"):
                made(path, drawn_rows(10), route="tree")
        finally:
            reference.score_arms = kept


def test_a_model_that_says_something_else_is_found_out_by_scoring_again():
    with tempfile.TemporaryDirectory() as folder:
        path, (model, processor) = Path(folder) / "reference.parquet", small_vlm_for_tests()
        made(path, drawn_rows(9), model)
        # what no description shows: a layer that was replaced by code
        layer = model.model.language_model.layers[1].mlp
        layer.forward = lambda hidden, forward=layer.forward: 1.5 * forward(hidden)
        with pytest.raises(ReferenceFileError, match="not hold what the model says: row 'row-.', .* rounding in float32"):
            made(path, drawn_rows(9), model)
        assert len(made(path, drawn_rows(9), model, checked_rows=0)) == 9


def test_batches_and_routes_move_a_number_by_rounding_alone():
    model, processor = small_vlm_for_tests()
    collator = PreferenceCollator(RowEncoder(processor))
    rows = undecoded(drawn_rows(12), collator.columns)
    one, four = (score_arms(model, rows, collator, batch_size=b, route="plain") for b in (1, 5))
    tree = score_arms(model, rows, collator, batch_size=5, route="tree")
    for arm in collator.arms:
        assert (np.abs(one[arm] - four[arm]) < 0.1 * rounding(one[arm], "float32")).all()
        assert (np.abs(one[arm] - tree[arm]) < 0.1 * rounding(one[arm], "float32")).all()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.parquet"
        table = made(path, route="auto")  # in the file stands what was chosen
        assert read_reference(path).made_with["route"] == "tree" and made(path, route="tree", batch_size=5) == table


def test_two_runs_that_want_one_absent_file_make_it_once():
    with tempfile.TemporaryDirectory() as folder:
        path, calls, tables = Path(folder) / "reference.parquet", [], []
        kept = reference.score_reference
        def counted(*args, **options):
            calls.append(1)
            return kept(*args, **options)
        reference.score_reference = counted
        try:
            # models are drawn before: threads share the random numbers
            own = [(small_vlm_for_tests()[0], PreferenceCollator(RowEncoder(small_vlm_for_tests()[1]))) for _ in range(3)]
            runs = [
                threading.Thread(target=lambda m=model, c=collator: tables.append(made(path, drawn_rows(), m, collator=c)))
                for model, collator in own
            ]
            [run.start() for run in runs], [run.join(120) for run in runs]
        finally:
            reference.score_reference = kept
        assert len(calls) == 1 and len(tables) == 3 and tables[0] == tables[1] == tables[2]
        assert [p.name for p in Path(folder).iterdir()] == ["reference.parquet"]


def test_what_is_no_reference_file_is_refused_and_left_alone():
    with tempfile.TemporaryDirectory() as folder:
        for name in ("table.parquet", "folder.parquet", "empty.parquet"):
            path = Path(folder) / name
            path.mkdir() if name.startswith("folder") else path.write_bytes(b"")
            if name.startswith("table"):
                pd.DataFrame({"id": [1]}).to_parquet(path)
            with pytest.raises(ReferenceFileError, match=name):
                made(path)
            assert path.exists()
        with pytest.raises(ValueError, match="row 'row-2': column negative is missing"):
            made(Path(folder) / "rows.parquet", drawn_rows(3, row2={"negative": None}))
        assert len(made(Path(folder) / "none.parquet", drawn_rows(2).select([]))) == 0


def test_cells_are_known_by_what_is_stored():
    with tempfile.TemporaryDirectory() as folder:
        picture, file = Image.new("RGB", (3, 2), "red"), Path(folder) / "a.png"
        picture.save(file)
        stored = file.read_bytes()
        assert cell_digest({"bytes": stored, "path": None}) == cell_digest(stored)
        assert cell_digest({"bytes": None, "path": str(file)}) == cell_digest(stored)
        Image.new("RGB", (3, 2), "blue").save(file)
        assert cell_digest({"bytes": None, "path": str(file)}) != cell_digest(stored)
    assert cell_digest(picture) != cell_digest(picture.resize((2, 3))) and cell_digest("a") != cell_digest("b")


def test_stages_share_a_file_and_may_not_change_what_decides_it():
    with tempfile.TemporaryDirectory() as folder:
        config = MFPOConfig(
            output_dir=folder, bf16=True, use_cpu=True, report_to="none", disable_tqdm=True, route="plain",
            per_device_train_batch_size=2, max_length=60,
        )
        config.reference_cache = str(Path(folder) / "reference.parquet")
        model, processor = small_vlm_for_tests()
        collator = PreferenceCollator(RowEncoder(processor), max_length=60)
        rows = drawn_rows(6)
        stages = [
            SimpleNamespace(name=name, rows=rows.select(part), changes={})
            for name, part in (("easy", range(3)), ("hard", range(3, 6)))
        ]
        reference_of_stages(model, stages, config, collator, {"near": drawn_rows(8), "none": None})
        scores = read_reference(config.reference_cache)
        assert len(scores.rows) == 8 and scores.made_with["autocast"] == "bfloat16"
        assert scores.notes["negatives"] == "14 black in global"
        stages[1].changes = {"max_length": 50, "learning_rate": 1.0}
        with pytest.raises(ValueError, match="stage hard changes max_length, so"):
            reference_of_stages(model, stages, config, collator)
        stages[1].changes, config.fsdp = {}, True
        with pytest.raises(ValueError, match="under DeepSpeed or FSDP"):
            reference_of_stages(model, stages, config, collator)


def test_spans_join_the_file_and_leave_files_of_arms_alone():
    from dataclasses import replace as changed_copy

    processor = small_vlm_for_tests()[1]
    encoder = RowEncoder(processor)
    arms = PreferenceCollator(encoder, max_length=60)
    spans = PreferenceCollator(encoder, (CHOSEN, NEGATIVE, CHANGED, OBJECTS, OWN), max_length=60)
    assert reading_columns(arms) == {
        "chosen_original": ("question", "chosen", "image"), "rejected_original": ("question", "rejected", "image"),
        "chosen_negative": ("question", "chosen", "negative"),
    }
    assert reading_columns(spans) == {
        "chosen_original": ("question", "chosen", "image"), "chosen_negative": ("question", "chosen", "negative"),
        "chosen_original_changed": ("question", "chosen", "image", "rejected"),
        "chosen_negative_objects": ("question", "chosen", "negative", "regions"),
        "chosen_original_own": ("question", "chosen", "image", "own_tokens"),
    }
    some = PreferenceCollator(encoder, spans.readings, max_length=60, reference_arms=(CHOSEN, OWN))
    assert list(reading_columns(some)) == ["chosen_original", "chosen_original_own"]  # what the reference is asked for
    with tempfile.TemporaryDirectory() as folder:
        rows = with_spans(drawn_rows())
        path, file = Path(folder) / "reference.parquet", Path(folder) / "arms.parquet"
        made(file, rows.remove_columns(["regions", "own_tokens"]), collator=arms)
        again = Path(folder) / "again.parquet"
        made(again, rows, collator=arms)
        assert again.read_bytes() == file.read_bytes() and "spans" not in read_reference(file).made_with
        table = made(path, rows, collator=spans)
        scores = read_reference(path)
        assert scores.made_with["spans"] == {"changed": 1, "objects": 1} and list(scores.logps) == list(reading_columns(spans))
        assert {k: v for k, v in scores.made_with.items() if k != "spans"} == read_reference(file).made_with
        model = small_vlm_for_tests()[0]
        direct = score_arms(model, undecoded(rows, ["id", *spans.columns]), spans, batch_size=2, route="plain")
        assert list(table.values()) == list(zip(*(direct[reading].tolist() for reading in spans.readings)))
        assert made(path, rows, collator=PreferenceCollator(encoder, (CHOSEN,), 60)) == {  # a file may hold more than is asked for
            PreferenceCollator(encoder, (CHOSEN,)).key(r): (t[0],) for r, t in zip(undecoded(rows, arms.columns), table.values())}
        assert made(path, rows, collator=some) == {some.key(r): (t[0], t[4]) for r, t in zip(undecoded(rows, some.columns), table.values())}
        for name, cell, columns in (
            ("rejected", "there is a cup .", "rejected"), ("own_tokens", [3] * 5, "own_tokens"),
            ("regions", [{"keyword": "cup", "found": True, "box": [0, 0, 1, 1]}], "regions"),
        ):
            other = rows.to_list()
            other[0][name] = cell
            with pytest.raises(ReferenceFileError, match=rf"1 of 6 rows: 'row-0' \(another {columns}\)"):
                made(path, datasets.Dataset.from_list(other, features=rows.features), collator=spans)
        diverged = PreferenceCollator(encoder, (CHOSEN, Span("chosen", "original", "diverged")), 60)
        with pytest.raises(ReferenceFileError, match="lacks the arm chosen_original_diverged; it has chosen_original, "):
            made(path, rows, collator=diverged)
        kept = SPANS["changed"]
        try:
            SPANS["changed"] = changed_copy(kept, version=2)
            with pytest.raises(ReferenceFileError, match="spans.changed: 1 there, 2 here"):
                made(path, rows, collator=spans)
        finally:
            SPANS["changed"] = kept


def test_a_file_whose_model_is_not_at_hand_is_read_by_its_rows():
    with tempfile.TemporaryDirectory() as folder:
        path, rows, other = Path(folder) / "second.parquet", drawn_rows(), small_vlm_for_tests(1)[0]
        encoder = RowEncoder(small_vlm_for_tests()[1])
        collator = PreferenceCollator(encoder, (CHOSEN, REJECTED), max_length=60)
        table = made(path, rows, other, collator=collator)
        assert kept_reference(rows, collator, path) == table
        assert kept_reference((rows.select([4]), None, rows.select([1])), collator, path) == {
            key: values for k, (key, values) in enumerate(table.items()) if k in (1, 4)}
        longer = PreferenceCollator(encoder, (CHOSEN, REJECTED), max_length=80)  # refuses longer rows, and cuts none
        assert kept_reference(rows, longer, path) == table
        for rows_, collator_, words in (
            (drawn_rows(7), collator, r"does not hold 1 of 7 rows: 'row-6' \(unknown\)"),
            (rows, PreferenceCollator(encoder, max_length=60), "lacks the arm chosen_negative"),
            (rows, PreferenceCollator(encoder, (CHOSEN, REJECTED), 60, "answer"), "this run has 'answer' and 60, so that answers end"),
        ):
            with pytest.raises(ReferenceFileError, match=words):
                kept_reference(rows_, collator_, path)
        with pytest.raises(FileNotFoundError, match="no such file of reference log-probs"):
            kept_reference(rows, collator, Path(folder) / "none.parquet")


def test_own_tokens_are_made_where_rows_come_without():
    from mfpo.train.own import with_own_tokens
    with tempfile.TemporaryDirectory() as folder:
        config = MFPOConfig(
            output_dir=folder, bf16=False, use_cpu=True, report_to="none", disable_tqdm=True, route="plain", objective="povid_stage2",
            per_device_train_batch_size=2, max_length=60, reference_cache=str(Path(folder) / "reference.parquet"),
        )
        model, processor = small_vlm_for_tests()
        collator = PreferenceCollator.of(config.make_objective(), RowEncoder(processor), 60)
        rows, held_out = drawn_rows(5), drawn_rows(3)
        made_rows, none, made_out = own_tokens_of_run(model, (rows, None, held_out), config, collator)
        assert none is None and made_out["own_tokens"] == made_rows["own_tokens"][:3]
        assert made_rows["own_tokens"] == with_own_tokens(rows, model, collator.encoder, batch_size=2, route="plain")["own_tokens"]
        table = reference_of_run(model, (rows, None, held_out), config, collator)
        assert len(table) == 5 and list(read_reference(config.reference_cache).logps) == [
            "chosen_original", "rejected_original", "chosen_original_own"]
        assert reference_of_run(model, made_rows, config, collator) == table
