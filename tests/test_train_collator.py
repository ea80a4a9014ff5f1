# Exported from nbs/train/collator.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.collator import *  # noqa: F403

from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw

from mfpo.model.logps import arm_logps
from mfpo.model.small import small_vlm_for_tests
from mfpo.train.arms import CHOSEN, NEGATIVE, REJECTED
from mfpo.train.own import own_column, own_ids
from mfpo.train.presets import preset


def drawn_row(number, **changes):
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).rectangle([8 * (number % 4), 16, 40, 40], fill=("red", "blue", "green")[number % 3])
    row = {"id": f"row-{number}", "question": ["describe the image .", "is there a cup on the table ?"][number % 2],
           "image": image, "negative": Image.new("RGB", (64, 64), (40 * (number % 5), 0, 0)),
           "chosen": "a kitchen with a red cup .", "rejected": "no , there is no cup ."}
    return row | changes

import datasets
import numpy as np

from mfpo.train.arms import MIRROR, Arm, Span
from mfpo.train.objectives import Objective
from mfpo.train.terms import Guide, Term, count_name


def lies_like(batch, answer):
    """Where an answer has tokens, bool (rows, tokens)."""
    return batch["answers"][answer]["attention_mask"].bool()


def regions(*worse):
    return [{"keyword": word, "found": True, "box": [0, 0, 8, 8]} for word in worse]


def test_the_batch_is_what_the_plain_processor_gives():
    _, processor = small_vlm_for_tests()
    encoder, rows = RowEncoder(processor), [drawn_row(i) for i in range(3)]
    batch = PreferenceCollator(encoder)(rows)
    texts = [encoder.texts(r["question"]) for r in rows]
    for image, column in (("original", "image"), ("negative", "negative")):
        expected = processor(
            images=[r[column] for r in rows], text=texts,
            padding=True, padding_side="right", return_tensors="pt", add_special_tokens=False,
        )
        assert set(expected) == set(batch["prompts"][image])
        assert all(torch.equal(expected[k], batch["prompts"][image][k]) for k in expected)


def test_only_what_the_arms_need_is_read():
    _, processor = small_vlm_for_tests()
    row = drawn_row(0)
    del row["negative"]
    batch = PreferenceCollator(RowEncoder(processor), arms=preset("dpo").arms)([row])
    assert set(batch["prompts"]) == {"original"} and set(batch["answers"]) == {"chosen", "rejected"}
    with pytest.raises(ValueError, match="'row-0': column negative is missing"):
        PreferenceCollator(RowEncoder(processor))([row])


def test_rows_are_processed_once_and_memory_is_bounded():
    _, processor = small_vlm_for_tests()
    encoder = RowEncoder(processor)
    collate = PreferenceCollator(encoder)
    rows = [drawn_row(i) for i in range(4)]
    first = collate(rows)
    kept = dict(encoder._cache)
    second = PreferenceCollator(encoder, arms=preset("dpo").arms)(rows)
    assert encoder._cache.keys() == kept.keys() and all(encoder._cache[k] is kept[k] for k in kept)
    assert torch.equal(first["prompts"]["original"]["pixel_values"], second["prompts"]["original"]["pixel_values"])
    # the key is the content: another picture under the same id is another prompt
    changed = collate([drawn_row(0, image=drawn_row(1)["image"])])
    assert not torch.equal(
        changed["prompts"]["original"]["pixel_values"][0], first["prompts"]["original"]["pixel_values"][0]
    )
    forgetful = RowEncoder(processor, cache_mb=0)
    again = PreferenceCollator(forgetful)(rows)
    assert not forgetful._cache and torch.equal(
        again["prompts"]["negative"]["pixel_values"], first["prompts"]["negative"]["pixel_values"]
    )


def test_a_long_row_is_refused_or_its_answer_cut_but_never_its_image():
    model, processor = small_vlm_for_tests()
    row, encoder = drawn_row(0), RowEncoder(processor)
    prompt = encoder.prompt(row["question"], row["image"])["input_ids"].shape[1]
    answer = len(encoder.answer(row["question"], row["chosen"]))
    fits = PreferenceCollator(encoder, arms=[CHOSEN], max_length=prompt + answer)
    fits.check([row])
    with pytest.raises(
        ValueError, match=f"'row-0', chosen: prompt of {prompt} tokens .* answer of {answer} exceed max_length"
    ):
        replace(fits, max_length=prompt + answer - 1).check([row])
    cut = replace(fits, max_length=prompt + 2, truncation="answer")([row])
    assert cut["answers"]["chosen"]["input_ids"].shape == (1, 2)
    assert (cut["prompts"]["original"]["input_ids"] == model.config.image_token_id).sum() == 16
    assert torch.isfinite(arm_logps(model, cut, [CHOSEN])[CHOSEN]).all()
    with pytest.raises(ValueError, match="exceed max_length"):  # no room for any answer
        replace(fits, max_length=prompt, truncation="answer").check([row])


def test_bad_settings_and_rows_are_refused():
    _, processor = small_vlm_for_tests()
    encoder = RowEncoder(processor)
    for make, words in [
        (lambda: PreferenceCollator(encoder, truncation="left"), "truncation='left'"),
        (lambda: PreferenceCollator(encoder, arms=[("chosen", "cropped")]), "cropped"),
        (lambda: PreferenceCollator(encoder, max_length=1), "max_length=1"),
        (lambda: RowEncoder(processor, cache_mb=-1), "cache_mb=-1"),
        (lambda: RowEncoder(processor.tokenizer), "no tokenizer"),
        (lambda: PreferenceCollator(encoder)([drawn_row(0, rejected="  ")]), "'row-0': the answer rejected is blank"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()


def test_undecoded_images_of_datasets_are_read():
    import datasets
    _, processor = small_vlm_for_tests()
    rows = [drawn_row(i) for i in range(2)]
    features = {"image": datasets.Image(), "negative": datasets.Image()}
    table = (
        datasets.Dataset.from_list(rows)
        .cast_column("image", datasets.Image(decode=False)).cast_column("negative", datasets.Image())
    )
    batch, expected = (PreferenceCollator(RowEncoder(processor))(r) for r in ([table[0], table[1]], rows))
    assert all(
        torch.equal(batch["prompts"][k]["pixel_values"], expected["prompts"][k]["pixel_values"])
        for k in ("original", "negative")
    )


def test_nothing_new_is_asked_by_the_published_text_and_image_terms():
    _, processor = small_vlm_for_tests()
    encoder, rows = RowEncoder(processor), [drawn_row(i) for i in range(3)]
    for name in ("dpo", "mfpo", "mdpo", "margin", "sft"):
        objective = preset(name)
        made, plain = PreferenceCollator.of(objective, encoder), PreferenceCollator(encoder, objective.arms)
        assert made.columns == plain.columns and made.arms == plain.arms == made.readings
        assert [made.key(row) for row in rows] == [plain.key(row) for row in rows]
        one, two = made(rows), plain(rows)
        assert one.keys() == two.keys() == {"prompts", "answers", "pad_token_id", "sizes", "images"}
        for kind in ("prompts", "answers"):
            for part in one[kind]:
                assert all(torch.equal(one[kind][part][key], two[kind][part][key]) for key in two[kind][part])
    assert made.columns == ["question", "chosen", "image"] and made.reference_arms == ()


def test_spans_lie_along_the_answers():
    _, processor = small_vlm_for_tests()
    encoder = RowEncoder(processor)
    rows = [drawn_row(0, chosen="a kitchen with a red cup .", rejected="a kitchen with a blue cup ."),
            drawn_row(1, chosen="yes .", rejected="no , there is no cup .")]
    readings = [CHOSEN, Span("chosen", "negative", "changed"), Span("rejected", "original", "diverged")]
    counts = (("chosen", "changed"), ("chosen", "all"), ("rejected", "diverged"))
    collate = PreferenceCollator(encoder, readings, counts=counts)
    assert collate.arms == (CHOSEN, NEGATIVE, REJECTED) and len(collate.readings) == 3
    batch = collate(rows)
    spans = batch["spans"]
    assert {answer: list(names) for answer, names in spans.items()} == {"chosen": ["changed"], "rejected": ["diverged"]}
    # a kitchen with a red cup . </s>: "red" alone; yes . </s>: all but the end
    assert spans["chosen"]["changed"].tolist() == [[0, 0, 0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    assert spans["rejected"]["diverged"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]]
    assert all(w.dtype == torch.float32 for names in spans.values() for w in names.values())
    counted = {name: values.tolist() for name, values in batch["rows"].items()}
    assert counted == {"tokens/chosen/changed": [1, 2], "tokens/chosen": [8, 3], "tokens/rejected/diverged": [4, 8]}
    # the end is counted, as in TRL
    assert batch["rows"]["tokens/chosen"].tolist() == lies_like(batch, "chosen").sum(1).tolist()


def test_a_span_may_need_an_answer_that_no_arm_has():
    _, processor = small_vlm_for_tests()
    collate = PreferenceCollator(RowEncoder(processor), [Span("chosen", "original", "changed")])
    assert collate.columns == ["question", "chosen", "image", "rejected"]
    batch = collate([drawn_row(0)])
    assert set(batch["answers"]) == {"chosen"}
    assert batch["spans"]["chosen"]["changed"].shape == lies_like(batch, "chosen").shape
    without = drawn_row(0)
    del without["rejected"]
    with pytest.raises(ValueError, match="'row-0': column rejected is missing .* span 'changed' reads it: .* both answers"):
        collate([without])
    with pytest.raises(ValueError, match="'row-0': the answer rejected is blank"):
        collate([drawn_row(0, rejected=" ")])


def test_weighted_readings_of_a_model_add_up():
    model, processor = small_vlm_for_tests()
    encoder, rows = RowEncoder(processor), [drawn_row(i, regions=regions("cup")) for i in range(3)]
    readings = [CHOSEN, Span(*CHOSEN, "changed"), Span(*NEGATIVE, "objects"), Span(*REJECTED, "diverged")]
    batch = PreferenceCollator(encoder, readings)(rows)
    rest = {answer: {f"not {name}": 1 - w for name, w in spans.items()} for answer, spans in batch["spans"].items()}
    batch["spans"] = {answer: spans | rest[answer] for answer, spans in batch["spans"].items()}
    for route in ("plain", "tree"):
        asked = [*readings, *(Span(*r[:2], f"not {r.tokens}") for r in readings[1:]), NEGATIVE, REJECTED]
        logps = arm_logps(model, batch, asked, route=route)
        for reading in readings[1:]:
            both = logps[reading] + logps[Span(*reading[:2], f"not {reading.tokens}")]
            assert torch.allclose(both, logps[reading[:2]], atol=1e-5) and (logps[reading] < 0).all()


def test_an_objective_gets_what_it_reads():
    _, processor = small_vlm_for_tests()
    encoder = RowEncoder(processor)
    objective = Objective((
        Term(CHOSEN, REJECTED, tokens={"all": 1, "changed": 4}, per_token=True),
        Term(CHOSEN, NEGATIVE, tokens="objects", name="image", rows="sure"),
        Term(CHOSEN, Span("chosen", "original", "own"), name="own", weight=0.5),
        Term(CHOSEN, REJECTED, name="guided", guide=Guide(2.0)),
        Term(CHOSEN, MIRROR, name="kl", kl=0.1),
    ))
    collate = PreferenceCollator.of(objective, encoder, max_length=200, truncation="answer")
    assert collate.max_length == 200 and collate.truncation == "answer"
    assert collate.columns == ["question", "chosen", "rejected", "image", "negative", "regions", "own_tokens", "sure"]
    row = drawn_row(0, regions=regions("cup"), sure=True)
    row["own_tokens"] = encoder.answer(row["question"], row["chosen"]).tolist()
    batch = collate([row])
    assert set(batch["prompts"]) == {"original", "negative", "blank"} and set(batch["answers"]) == {"chosen", "rejected"}
    assert {name: set(spans) for name, spans in batch["spans"].items()} == {
        "chosen": {"changed", "objects"}, "rejected": {"changed"},
    }
    assert torch.equal(batch["own"]["chosen"], batch["answers"]["chosen"]["input_ids"])
    counts = {f"tokens/{answer}{span}" for answer in ("chosen", "rejected") for span in ("", "/changed")}
    assert batch["rows"].keys() == counts | {"sure"}
    assert batch["rows"]["sure"].tolist() == [1.0]
    assert collate.reference_arms == objective.reference_readings and set(collate.reference_arms) <= set(collate.readings)
    # where models propose their own tokens in each step, rows need none, and the reference's are not known beforehand
    for own in ("policy", "each"):
        stepwise = PreferenceCollator.of(replace(objective, own=own), encoder)
        assert "own_tokens" not in stepwise.columns and "own" not in stepwise([row])
        assert set(objective.reference_readings) - set(stepwise.reference_arms) == {Span("chosen", "original", "own")}


def test_every_preset_gets_a_batch_of_what_it_names():
    from mfpo.train.presets import PRESETS

    _, processor = small_vlm_for_tests()
    encoder, row = RowEncoder(processor), drawn_row(0, regions=regions("cup"))
    row["own_tokens"] = encoder.answer(row["question"], row["chosen"]).tolist()
    for name in PRESETS:
        objective = preset(name)
        collate = PreferenceCollator.of(objective, encoder)
        batch = collate([row | {column: 0.5 for column in objective.columns}])
        assert set(batch["answers"]) == {arm.answer for arm in collate.arms}, name
        assert set(batch["prompts"]) == {arm.image for arm in collate.arms} >= {arm.image for arm in objective.arms}, name
        spans = {(r.answer, r.tokens) for r in collate.readings if isinstance(r, Span) and r.tokens not in ("own", "top")}
        assert {(a, t) for a, marks in batch.get("spans", {}).items() for t in marks} >= spans, name
        assert set(batch.get("rows", {})) == {*objective.columns, *(count_name(*count) for count in objective.counts)}, name


def test_what_is_cut_is_cut_along_with_the_answer():
    _, processor = small_vlm_for_tests()
    encoder = RowEncoder(processor)
    row = drawn_row(0, chosen="a kitchen with a red cup .", rejected="a kitchen with a cup .")
    row["own_tokens"] = list(range(8))
    long = encoder.prompt(row["question"], row["image"])["input_ids"].shape[1]
    readings = [Span("chosen", "original", "changed"), Span("chosen", "original", "own")]
    collate = PreferenceCollator(encoder, readings, long + 5, "answer", counts=[("chosen", "all"), ("chosen", "changed")])
    batch = collate([row])
    # the change is told from whole answers: a cut one would differ at its end
    assert batch["spans"]["chosen"]["changed"].tolist() == [[0, 0, 0, 0, 1]]
    assert batch["own"]["chosen"].tolist() == [[0, 1, 2, 3, 4]]
    assert {k: v.tolist() for k, v in batch["rows"].items()} == {"tokens/chosen": [5], "tokens/chosen/changed": [1]}


def test_own_tokens_of_another_answer_are_refused():
    _, processor = small_vlm_for_tests()
    collate = PreferenceCollator(RowEncoder(processor), [Span("chosen", "original", "own")])
    row = drawn_row(0, own_tokens=[5, 6])
    with pytest.raises(ValueError, match="'row-0': column own_tokens has 2 token ids, and the answer chosen has 8 tokens"):
        collate.check([row])
    with pytest.raises(ValueError, match="'row-0': column own_tokens holds .* not a list of token ids"):
        collate([row | {"own_tokens": "56"}])
    del row["own_tokens"]
    with pytest.raises(ValueError, match="'row-0': column own_tokens is missing .* mfpo.train.own.with_own_tokens adds it"):
        collate([row])
    batch = collate([drawn_row(0, own_tokens=[9] * 8), drawn_row(1, chosen="yes .", own_tokens=np.array([7, 7, 7]))])
    pad = processor.tokenizer.pad_token_id
    assert batch["own"]["chosen"].tolist() == [[9] * 8, [7] * 3 + [pad] * 5] and batch["own"]["chosen"].dtype == torch.int64


def test_rows_are_weighed_by_numbers():
    _, processor = small_vlm_for_tests()
    collate = PreferenceCollator(RowEncoder(processor), [CHOSEN], row_weights=("sure",))
    assert collate.columns == ["question", "chosen", "image", "sure"]
    good = [True, False, 1, 0.25, np.float32(2), np.bool_(True), torch.tensor(3), -1]
    batch = collate([drawn_row(k, sure=value) for k, value in enumerate(good)])
    assert batch["rows"]["sure"].tolist() == [1, 0, 1, 0.25, 2, 1, 3, -1] and batch["rows"]["sure"].dtype == torch.float32
    for bad in ("1", float("nan"), float("inf"), 1e39, [1], np.array([1, 2])):
        with pytest.raises(ValueError, match="row 'row-0': column sure holds .* a finite number, or true or false, is"):
            collate.check([drawn_row(0, sure=bad)])
    for bad in (None, "absent"):
        row = drawn_row(0) if bad == "absent" else drawn_row(0, sure=None)
        with pytest.raises(ValueError, match="row 'row-0': column sure is missing or empty; rows are weighed by it"):
            collate([row])


def test_the_blank_picture_is_the_originals_without_its_pixels():
    model, processor = small_vlm_for_tests()
    rows = [drawn_row(i) for i in range(3)]
    for row in rows:
        del row["negative"]
    blank = Arm("chosen", "blank")
    collate = PreferenceCollator(RowEncoder(processor), [CHOSEN, blank, REJECTED])
    assert collate.columns == ["question", "chosen", "rejected", "image"]
    batch = collate(rows)
    original, zeroed = batch["prompts"]["original"], batch["prompts"]["blank"]
    assert torch.equal(zeroed["pixel_values"], torch.zeros_like(original["pixel_values"]))
    assert all(torch.equal(zeroed[key], original[key]) for key in original if key != "pixel_values")
    assert batch["sizes"]["blank"] == batch["sizes"]["original"]
    # blank pictures of one size are one picture, and none of the others
    assert len(set(batch["images"]["blank"])) == 1 and len({*batch["images"]["original"], *batch["images"]["blank"]}) == 4
    by_hand = {**batch, "prompts": {"original": {**original, "pixel_values": torch.zeros_like(original["pixel_values"])}},
               "images": {"original": [0, 0, 0]}}
    expected = arm_logps(model, by_hand, [CHOSEN], route="plain")[CHOSEN]
    for route in ("plain", "tree"):
        logps = arm_logps(model, batch, [CHOSEN, blank, REJECTED], route=route)
        assert torch.allclose(logps[blank], expected, atol=1e-5) and not torch.allclose(logps[CHOSEN], expected, atol=1e-5)


def test_blank_pictures_of_other_sizes_are_other_pictures():
    from mfpo.model.tiny import tiny_processor

    for family, shared in (("qwen2_vl", "image_grid_thw"), ("llava_next", "image_sizes")):
        rows = [drawn_row(k, image=Image.new("RGB", size, "red")) for k, size in enumerate([(24, 16), (24, 16), (16, 40)])]
        collate = PreferenceCollator(RowEncoder(tiny_processor(family)), [CHOSEN, ("chosen", "blank")])
        batch = collate([row | {"image": row["image"].copy()} for row in rows])
        names, sizes = batch["images"]["blank"], batch["prompts"]["blank"][shared].tolist()
        assert names[0] == names[1] != names[2] and not set(names) & set(batch["images"]["original"])
        assert sizes == batch["prompts"]["original"][shared].tolist()
        assert not batch["prompts"]["blank"]["pixel_values"].any()
        assert batch["sizes"]["blank"] == batch["sizes"]["original"]


def test_the_key_covers_what_is_read_and_nothing_else():
    _, processor = small_vlm_for_tests()
    readings = [Span("chosen", "negative", "objects"), Span("chosen", "original", "own")]
    collate = PreferenceCollator(RowEncoder(processor), readings, row_weights=("sure",))
    row = drawn_row(0, regions=regions("cup"), own_tokens=[1, 2, 3], sure=1)
    key = collate.key(row)
    for same in ({"id": "other"}, {"rejected": "a dog ."}, {"own_tokens": np.array([1, 2, 3])}, {"own_tokens": (1, 2, 3)},
                 {"sure": True}, {"sure": np.float64(1)}, {"regions": tuple(regions("cup"))}):
        assert collate.key(row | same) == key
    for other in ({"own_tokens": [1, 2, 4]}, {"own_tokens": [1, 2]}, {"sure": 2}, {"regions": regions("table")},
                  {"regions": regions()}, {"chosen": "a cup ."}, {"negative": row["image"]}):
        assert collate.key(row | other) != key
    # rows of a data set have the same keys, whichever way their lists come
    table = datasets.Dataset.from_list([row])
    arrays = table.with_format("numpy", columns=["own_tokens"], output_all_columns=True)
    assert isinstance(arrays[0]["own_tokens"], np.ndarray) and collate.key(arrays[0]) == collate.key(table[0])


def test_columns_of_a_reading():
    _, processor = small_vlm_for_tests()
    collate = PreferenceCollator(RowEncoder(processor))
    for reading, columns in [
        (NEGATIVE, ("question", "chosen", "negative")), (("chosen", "blank"), ("question", "chosen", "image")),
        (Span("rejected", "original", "changed"), ("question", "rejected", "image", "chosen")),
        (Span("chosen", "negative", "objects"), ("question", "chosen", "negative", "regions")),
        (Span("chosen", "original", "own"), ("question", "chosen", "image", "own_tokens")),
        (Span("second", "original", "own"), ("question", "second", "image", "own_tokens_second")),
        (Span("chosen", "original", "top"), ("question", "chosen", "image")),
    ]:
        assert collate.columns_of(reading) == columns


def test_what_there_is_not_is_refused():
    _, processor = small_vlm_for_tests()
    encoder, changed = RowEncoder(processor), Span("chosen", "original", "changed")
    for settings, words in [
        ({"arms": [Span(*CHOSEN, "colours")]}, r"name spans .'colours'.; there are .'changed', .*registers others"),
        ({"arms": [CHOSEN], "counts": [("chosen", "colours")]}, "name spans .'colours'."),
        ({"arms": [CHOSEN], "counts": [("rejected", "all")]}, "counts name answers .'rejected'.; the arms have .'chosen'."),
        ({"arms": [CHOSEN], "counts": [("chosen", "own")]}, "counts=.* must be pairs of an answer and 'all', or one of"),
        ({"arms": [CHOSEN], "counts": ["chosen"]}, "counts=.* must be pairs"),
        ({"arms": [CHOSEN], "own": "rejected"}, "own names answers .'rejected'."),
        ({"arms": [CHOSEN], "reference_arms": [REJECTED]}, "reference_arms name .'rejected_original'.; which are none"),
        ({"arms": [("chosen",)]}, "is no arm"),
    ]:
        with pytest.raises(ValueError, match=words):
            PreferenceCollator(encoder, **settings)
    objects = PreferenceCollator(encoder, [Span("chosen", "original", "objects")])
    with pytest.raises(ValueError, match="'row-0': column regions is missing .* span 'objects' .*: .*build_negatives"):
        objects([drawn_row(0)])
    with pytest.raises(ValueError, match="row 'row-1': span 'objects' of chosen: KeyError: 'found'; mend the row"):
        objects.check([drawn_row(0, regions=[]), drawn_row(1, regions=[{"keyword": "cup"}])])


def test_rows_without_a_token_in_a_span_are_counted():
    from unittest import mock

    _, processor = small_vlm_for_tests()
    collate = PreferenceCollator(RowEncoder(processor), [Span("rejected", "original", "objects"), Span(*CHOSEN, "changed")])
    rows = [drawn_row(k, regions=regions("table" if k else "cup")) for k in range(6)]  # the rejected answers say cup
    with mock.patch.object(logger, "warning") as warned:
        collate.check(rows)
    (said,) = [call.args[0] % call.args[1:] for call in warned.call_args_list]
    assert said == ("the span objects has no token of the answer rejected in 5 of 6 rows ('row-1', 'row-2', 'row-3', …); "
                    "they have no part in terms over it")


def test_replaced_settings_keep_readings_and_changed_arms_win():
    _, processor = small_vlm_for_tests()
    changed = Span("chosen", "original", "changed")
    more = {"counts": [("chosen", "changed")], "row_weights": ["sure"]}
    collate = PreferenceCollator(RowEncoder(processor), [CHOSEN, changed], **more)
    longer = replace(collate, max_length=99)
    assert longer.readings == collate.readings == (CHOSEN, changed) and longer.columns == collate.columns
    assert longer.reference_arms == (CHOSEN, changed) and longer.counts == (("chosen", "changed"),)
    other = replace(collate, arms=[CHOSEN, NEGATIVE])
    assert other.readings == other.reference_arms == other.arms == (CHOSEN, NEGATIVE) and other.row_weights == ("sure",)
    spanned = replace(PreferenceCollator(collate.encoder, [CHOSEN]), arms=[changed])
    assert spanned.readings == spanned.reference_arms == (changed,) and spanned.arms == (CHOSEN,)
    fewer = replace(collate, reference_arms=[CHOSEN])
    with pytest.raises(ValueError, match="reference_arms name .'chosen_original'.; .* None for all"):
        replace(fewer, arms=[NEGATIVE])
    assert replace(fewer, arms=[NEGATIVE], reference_arms=None).reference_arms == (NEGATIVE,)


def test_references_of_readings_join_by_label():
    _, processor = small_vlm_for_tests()
    changed, rows = Span("chosen", "original", "changed"), [drawn_row(0), drawn_row(1)]
    collate = PreferenceCollator(RowEncoder(processor), [CHOSEN, REJECTED, changed], reference_arms=[changed, REJECTED])
    collate.reference |= {collate.key(row): (-1.0 - k, -5.0 - k) for k, row in enumerate(rows)}
    batch = collate(rows)
    assert {name: v.tolist() for name, v in batch["reference"].items()} == {
        "chosen_original_changed": [-1, -2], "rejected_original": [-5, -6],
    }
    collate.reference |= {collate.key(rows[0]): (-1.0,)}
    with pytest.raises(ValueError, match=r"reference holds \[1, 2\] log-probs a row for 2 reference_arms; score the rows"):
        collate(rows)


def test_known_reference_log_probs_join_the_batch():
    _, processor = small_vlm_for_tests()
    collate = PreferenceCollator(RowEncoder(processor), arms=[CHOSEN, REJECTED])
    rows = [drawn_row(0), drawn_row(1)]
    collate.reference |= {collate.key(rows[0]): (-3.25, -4.5)}
    assert {k: v.tolist() for k, v in collate(rows[:1])["reference"].items()} == {
        "chosen_original": [-3.25], "rejected_original": [-4.5],
    }
    # a batch with a row that is not known, or that was changed, is scored anew
    assert "reference" not in collate(rows) and "reference" not in collate([rows[0] | {"chosen": "a dog ."}])
