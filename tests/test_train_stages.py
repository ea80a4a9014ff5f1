# Exported from nbs/train/stages.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.stages import *  # noqa: F403

from dataclasses import dataclass
from pathlib import Path

import datasets
import pytest
from PIL import Image

from mfpo.model.small import small_vlm_for_tests
from mfpo.train.config import MFPOConfig
from mfpo.train.encoder import RowEncoder
from mfpo.train.presets import preset


def plain_rows(count=4, negative=True):
    rows = [{"id": f"row-{i}", "question": "which color is it ?", "chosen": f"it is red {i} .",
             "rejected": "there is no cup .", "image": Image.new("RGB", (64, 64), "red"),
             "negative": Image.new("RGB", (64, 64), "blue")} for i in range(count)]
    rows = datasets.Dataset.from_list(rows)
    return rows if negative else rows.remove_columns("negative")


def quiet(**changes):
    return MFPOConfig(output_dir="unused", bf16=False, use_cpu=True, report_to="none", **changes)


def settled(stages, objective=None, **changes):
    encoder = RowEncoder(small_vlm_for_tests()[1])
    return settle(stages, quiet(**changes), objective, encoder, Path("folder"))


def make(model, processor, **settings):
    return plain_rows()


def test_a_stage_has_the_run_s_objective_its_own_or_that_of_its_changes():
    rows, ours = plain_rows(), preset("dpo_margin", eta=0.5)
    one, two, three = settled([
        Stage("a", rows), Stage("b", rows, objective=ours), Stage("c", rows, {"objective": "dpo", "beta": 0.3}),
    ])
    assert one.objective == preset("mfpo") and two.objective == ours and three.objective == preset("dpo", beta=0.3)
    assert [s.folder.as_posix() for s in (one, two, three)] == ["folder/1-a", "folder/2-b", "folder/3-c"]
    assert one.config.output_dir == str(Path("folder/1-a/checkpoints")) and three.config.beta == 0.3 != one.config.beta
    # what is read of the rows follows
    assert "negative" in one.reads and "negative" not in two.reads
    assert settled([Stage("a", rows)], objective=ours)[0].objective == ours
    # one objective for all, and a stage that describes another by settings: one of them would be passed over
    with pytest.raises(ValueError, match="stage c: its changes are of the configuration's objective"):
        settled([Stage("c", rows, {"beta": 0.3})], objective=ours)
    with pytest.raises(ValueError, match="stage c: .*'mfoo' is unknown"):
        settled([Stage("c", rows, {"objective": "mfoo"})])


def test_rows_that_lack_a_column_are_refused_before_training():
    with pytest.raises(ValueError, match="stage b: its rows have no column negative, which objective 'mfpo' reads"):
        settled([Stage("a", plain_rows()), Stage("b", plain_rows(negative=False))])
    settled([Stage("b", plain_rows(negative=False), objective=preset("dpo"))])
    settled([Stage("b", Made("later", make))])  # nobody knows yet
    # own tokens are proposed from the negative, or are there
    povid = settled([Stage("a", plain_rows(), objective=preset("povid_stage2"))])[0]
    assert "negative" in povid.columns(plain_rows()) and "own_tokens" not in povid.columns(plain_rows())
    there = plain_rows(negative=False).add_column("own_tokens", [[1, 2]] * 4)
    assert "own_tokens" in povid.columns(there) and "negative" not in povid.columns(there)
    assert povid.missing(there) == [] and povid.missing(plain_rows(negative=False)) == ["negative"]
    # a mixed reference needs its second one
    with pytest.raises(ValueError, match="stage a: objective 'mrpo' mixes two references"):
        settled([Stage("a", plain_rows(), objective=preset("mrpo"))])


def test_a_part_that_goes_on_has_an_order_of_its_own():
    rows = plain_rows()
    one, two, again = settled([Stage("a", rows, part=(0, 0.5)), Stage("b", rows, part=(0.5, 1)), Stage("c", rows)], seed=3)
    assert one.config.data_seed is again.config.data_seed is None and two.config.data_seed not in (None, 3)
    assert settled([Stage("b", rows, part=(0.5, 1))], seed=4)[0].config.data_seed != two.config.data_seed
    assert settled([Stage("b", rows, {"data_seed": 7}, part=(0.5, 1))])[0].config.data_seed == 7


def test_makers_are_described_by_name_and_settings():
    @dataclass(frozen=True)
    class Noise:
        step: int = 500

    described = Made("sena-1", make, {"noise": Noise(), "rows": plain_rows(2), "words": ("a", "b")}).described()
    assert described["maker"] == "sena-1" and described["settings"]["noise"] == {"step": 500}
    assert described["settings"]["words"] == ["a", "b"] and described["settings"]["rows"]["rows"] == 2
    same = Made("sena-1", lambda *_: None, {"noise": Noise(), "rows": plain_rows(2), "words": ["a", "b"]})
    assert same.described() == described
    assert Made("sena-1", make, {"rows": plain_rows(3)}).described()["settings"]["rows"] != described["settings"]["rows"]


def test_bad_stages_are_refused():
    rows = plain_rows()
    for wrong, words in [
        (lambda: Stage("a/b", rows), "becomes a folder"),
        (lambda: Stage("a", rows, {"lr": 1}), "cannot change lr"),
        (lambda: Stage("a", rows, {"output_dir": "x"}), "cannot change output_dir"),
        (lambda: Stage("a", rows.select([])), "no rows"),
        (lambda: Stage("a", make), r"stage a: rows is a function, .* give Made\(name, function, settings\)"),
        (lambda: Stage("a", rows, objective="dpo"), "stage a: objective='dpo'; give an Objective"),
        (lambda: Stage("a", rows, reference="previous"), r"reference='previous' is unknown; use one of \['initial'"),
        (lambda: Stage("a", rows, start=" "), "start is empty"),
        (lambda: Stage("a", rows, part=(0.5, 0.5)), r"part=\(0.5, 0.5\) must be"),
        (lambda: Stage("a", rows, part=(0, 1.5)), "must be two shares"),
        (lambda: Made("", make), "made rows are named ''"),
        (lambda: Made("a", make, {"by": make}), "setting by=.* cannot be written down"),
        (lambda: settled([]), "at least one"),
        (lambda: settled([Stage("a", rows)] * 2), "its own name"),
    ]:
        with pytest.raises(ValueError, match=words):
            wrong()
