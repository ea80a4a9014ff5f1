# Exported from nbs/train/rounds.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.rounds import *  # noqa: F403

import tempfile
from pathlib import Path

import datasets
import pytest
from PIL import Image, ImageDraw

from mfpo.data.rows import read_rows
from mfpo.evaluate.noised import noised_answers
from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import lora
from mfpo.train.curriculum import train_curriculum
from mfpo.train.plans import plan
from mfpo.train.presets import preset
from mfpo.train.trainer import MFPOConfig


def drawn_rows(count=6, **more):
    rows = []
    for i in range(count):
        color = ("red", "blue", "green")[i % 3]
        image = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(image).rectangle([16 * (i % 4), 16, 16 * (i % 4) + 15, 31], fill=color)
        rows.append({"id": f"row-{i}", "image": image, "chosen": f"it is {color} .",
                     "question": ("describe the image .", "which color is it ?")[i % 2], **more})
    return datasets.Dataset.from_list(rows)


def drawing(**changes):
    return SenaConfig(**{"max_new_tokens": 4, "temperature": 1.0, "seed": 7} | changes)


def test_a_round_s_rows_are_what_the_model_says_under_noise():
    from dataclasses import replace

    model, processor = small_vlm_for_tests()
    rows, config = drawn_rows(rejected="old .", difficulty=0.5, edits="x"), drawing()
    made = sena_rows(model, processor, rows, config, 1)
    said = dict(noised_answers(model, processor, rows, config.noise(1), config.draws(1)))
    assert made["rejected"] == [said[name].text for name in rows["id"]] and "old ." not in made["rejected"]
    assert made["chosen"] == rows["chosen"] and made["caption"] == [True, False] * 3
    assert not {"difficulty", "edits"} & set(made.column_names)  # they were those of the old answers
    assert all(a != b for a, b in zip(made["rejected"], made["chosen"]))
    # each row by itself: others beside it change nothing, nor does the batch; another round or seed does
    some = sena_rows(model, processor, rows.select([4, 2]), replace(config, batch_size=1), 1)
    assert some["rejected"] == [made["rejected"][4], made["rejected"][2]]
    assert sena_rows(model, processor, rows, config, 2)["rejected"] != made["rejected"]
    assert sena_rows(model, processor, rows, replace(config, seed=8), 1)["rejected"] != made["rejected"]
    # who marks captions knows better
    marked = sena_rows(model, processor, rows.add_column("caption", [False] * 5 + [True]), config, 1)
    assert marked["caption"] == [False] * 5 + [True]


def test_questions_that_ask_for_a_caption():
    assert all(map(asks_for_caption, ["Describe the image.", "Give a detailed description.", "Write a caption for it"]))
    assert not any(map(asks_for_caption, ["Is there a cup?", "How many captains are there?", "What color is it?"]))
    assert asks_for_caption("What do you see?", ["what do you see"])


def test_rounds_of_sena_are_trained_on_what_the_last_round_left():
    objective, rows = preset("sena"), drawn_rows(8)

    def run(folder, stages):
        model, processor = small_vlm_for_tests()
        config = MFPOConfig(
            output_dir="unused", bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none",
            disable_tqdm=True, logging_steps=1, per_device_train_batch_size=2, learning_rate=1e-2, save_strategy="no",
            num_train_epochs=1,
        )
        return train_curriculum(model, stages, config, folder, processor=processor, peft_config=lora(model, r=4))

    with tempfile.TemporaryDirectory() as folder:
        finished = run(folder, plan("rounds", sena(rows, drawing()), objective, n=2))
        kept = [read_rows(place / "rows.parquet") for place in finished.folders]
        # a half of the rows each, in order
        assert [r["id"] for r in kept] == [[f"row-{i}" for i in range(4)], [f"row-{i}" for i in range(4, 8)]]
        assert kept[0]["rejected_source"][0] == "round-1:noised:noise"
        # the first round asks the initial model, the second the one that the first round left
        model, processor = small_vlm_for_tests()
        assert kept[0]["rejected"] == sena_rows(model, processor, rows.select(range(4)), drawing(), 1)["rejected"]
        from peft import PeftModel
        left = PeftModel.from_pretrained(model, str(finished.folders[0] / "weights"))
        later = rows.select(range(4, 8))
        assert kept[1]["rejected"] == sena_rows(left, processor, later, drawing(), 2)["rejected"]
        starts = {e["stage"]: e for e in reversed(finished.history) if "loss" in e}
        assert all(abs(starts[name]["loss/text"] - 0.693147) < 1e-5 for name in ("round-1", "round-2"))
        assert all(starts[name]["loss/caption"] > 0 for name in ("round-1", "round-2"))
        again = plan("rounds", sena(rows, drawing(share=False)), n=2)
        assert [len(s.rows.settings["rows"]) for s in again] == [8, 8]


def test_rows_without_an_answer_are_named():
    from dataclasses import replace

    model, processor = small_vlm_for_tests()
    rows, once = drawn_rows(3), drawing(temperature=0.0, max_new_tokens=1, samples=1)
    word = sena_rows(model, processor, rows, once, 1)["rejected"]  # one word, the likeliest
    same = rows.map(lambda row, k: {"chosen": word[k] if k == 1 else row["chosen"]}, with_indices=True)
    with pytest.raises(ValueError, match=r"round 1: 1 of 3 rows have no dispreferred answer \(1 same\). row 'row-1'"):
        sena_rows(model, processor, same, replace(once, failed="refuse"), 1)
    with pytest.warns(UserWarning, match="left out of this round"):
        made = sena_rows(model, processor, same, once, 1)
    assert made["id"] == ["row-0", "row-2"] and made["caption"] == [True, True]
    with pytest.raises(ValueError, match="3 of 3 rows .* Draw more often"):
        sena_rows(model, processor, rows.map(lambda row, k: {"chosen": word[k]}, with_indices=True), once, 1)


def test_bad_settings_are_refused():
    for wrong, words in [
        (lambda: SenaConfig(failed="drop"), "failed='drop' is unknown"),
        (lambda: SenaConfig(captions=("(",)), "'\\(' is no regular expression"),
        (lambda: SenaConfig(samples=0), "samples=0"),
        (lambda: SenaConfig(temperature=-1), "temperature=-1"),
        (lambda: sena(drawn_rows(2))(1, 3), "2 rows are too few for 3 rounds"),
    ]:
        with pytest.raises(ValueError, match=words):
            wrong()
