# Exported from nbs/train/own.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.own import *  # noqa: F403

import datasets
import pytest
import torch
from PIL import Image, ImageDraw

from mfpo.model.layout import arm_inputs
from mfpo.model.logps import arm_logps
from mfpo.model.small import small_vlm_for_tests
from mfpo.train.arms import Span
from mfpo.train.collator import PreferenceCollator, RowEncoder


def drawn_rows(count=5):
    rows = []
    for k in range(count):
        image = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(image).rectangle([8 * (k % 4), 16, 40, 40], fill=("red", "blue", "green")[k % 3])
        rows.append({
            "id": f"row-{k}", "question": ["describe the image .", "is there a cup on the table ?"][k % 2],
            "image": image, "negative": Image.new("RGB", (64, 64), (50 * k, 0, 90)),
            "chosen": "a kitchen with a red cup ." if k % 2 else "yes , a cup on the table .",
            "rejected": ["a dog .", "no , there is no cup .", "a white car and a tree ."][k % 3],
        })
    return rows


def likeliest(model, encoder, row, image, answer):
    """The oracle: one row at a time, whole logits, the argmax before each of the answer's tokens."""
    batch = PreferenceCollator(encoder, [(answer, image)])([row])
    inputs, is_answer = arm_inputs(batch, [(answer, image)])
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    places = is_answer[0].nonzero()[:, 0]
    return logits[places - 1].argmax(-1).tolist()


def test_tokens_are_those_of_whole_logits():
    model, processor = small_vlm_for_tests()
    with torch.no_grad():  # answers that depend on place and picture, unlike those of the first random weights
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    encoder, rows = RowEncoder(processor), drawn_rows()
    for image, answer, column in (("negative", "chosen", "own_tokens"), ("original", "rejected", "own_tokens_rejected"),
                                  ("blank", "chosen", "own_tokens")):
        expected = [likeliest(model, encoder, row, image, answer) for row in rows]
        for route in ("plain", "tree"):
            made = with_own_tokens(rows, model, encoder, image=image, answer=answer, batch_size=2, route=route)
            assert list(made[column]) == expected
            assert made.features[column] == datasets.List(datasets.Value("int64"))
        assert len({tuple(ids) for ids in expected}) > 1 and len({k for ids in expected for k in ids}) > 1
        assert own_column(answer) == column


def test_rows_keep_their_columns_and_the_model_its_mode():
    model, processor = small_vlm_for_tests()
    encoder, rows = RowEncoder(processor), drawn_rows()
    table = datasets.Dataset.from_list(rows).shuffle(seed=1)
    model.train()
    made = with_own_tokens(table, model, encoder, progress="own")
    assert model.training and made["id"] == table["id"] and made.column_names == [*table.column_names, "own_tokens"]
    again = {row["id"]: ids for row, ids in zip(rows, with_own_tokens(rows, model, encoder)["own_tokens"])}
    assert [again[name] for name in made["id"]] == list(made["own_tokens"])
    assert all(p.grad is None for p in model.parameters())


def test_own_tokens_are_scored_in_the_answers_places():
    model, processor = small_vlm_for_tests()
    encoder = RowEncoder(processor)
    made = with_own_tokens(drawn_rows(), model, encoder)
    reading = Span("chosen", "original", "own")
    batch = PreferenceCollator(encoder, [reading])([made[k] for k in range(5)])
    mask = batch["answers"]["chosen"]["attention_mask"].bool()
    assert batch["own"]["chosen"][mask].tolist() == [k for ids in made["own_tokens"] for k in ids]
    assert (batch["own"]["chosen"][~mask] == encoder.pad_token_id).all()
    with torch.no_grad():
        logps = arm_logps(model, batch, [reading, ("chosen", "original")], route="plain")
    inputs, is_answer = arm_inputs(batch, [("chosen", "original")])
    with torch.no_grad():
        table = torch.log_softmax(model(**inputs).logits.double(), -1)
    for row in range(5):
        places = is_answer[row].nonzero()[:, 0]
        expected = table[row, places - 1, torch.tensor(made["own_tokens"][row])].sum().item()
        assert logps[reading][row].item() == pytest.approx(expected, abs=1e-4)


def test_rows_that_have_them_keep_them_where_they_fit():
    model, processor = small_vlm_for_tests()
    encoder, rows = RowEncoder(processor), drawn_rows(2)
    made = with_own_tokens(rows, model, encoder)
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    kept = with_own_tokens(made, model, encoder)
    assert kept is made and not calls
    assert len(with_own_tokens(made.remove_columns("negative"), model, encoder)) == 2  # nothing is proposed
    handle.remove()
    first, second = (len(ids) for ids in made["own_tokens"])
    short = [made[0], made[1] | {"own_tokens": [1, 2]}]
    for wrong, words in [
        (short, f"row 'row-1': column own_tokens has 2 token ids, and the answer chosen has {second} tokens with its end"),
        ([made[0], rows[1]], "row 'row-1': column own_tokens holds 'None'"),
        ([made[0] | {"chosen": "a dog ."}], f"row 'row-0': column own_tokens has {first} token ids, and .* 4 tokens"),
    ]:
        with pytest.raises(ValueError, match=words):
            with_own_tokens(wrong, model, encoder)


def test_what_is_no_list_of_tokens_is_refused():
    row = {"own_tokens": [1, 2, 3]}
    assert own_ids(row, "chosen", 3, "'a'").tolist() == [1, 2, 3]
    assert own_ids({"own_tokens_rejected": torch.tensor([4])}, "rejected", 1, "'a'").dtype == torch.int64
    refused = "row 'a': column own_tokens holds .* not a list of token ids, .* 3 tokens"
    for bad in (None, "123", [1, 2.5, 3], [1, True, 3], [1, None, 3], [-1, 2, 3], [[1], 2, 3], 3, {"a": 1}):
        with pytest.raises(ValueError, match=refused):
            own_ids({"own_tokens": bad}, "chosen", 3, "'a'")
    with pytest.raises(ValueError, match="has 3 token ids, and the answer chosen has 4 tokens .*with_own_tokens make"):
        own_ids(row, "chosen", 4, "'a'")


def test_streams_and_bad_rows_are_refused_and_none_is_fine():
    model, processor = small_vlm_for_tests()
    encoder, rows = RowEncoder(processor), drawn_rows(2)
    with pytest.raises(ValueError, match="a stream of rows has no end"):
        with_own_tokens(datasets.Dataset.from_list(rows).to_iterable_dataset(), model, encoder)
    with pytest.raises(ValueError, match="batch_size=0"):
        with_own_tokens(rows, model, encoder, batch_size=0)
    with pytest.raises(ValueError, match="row 'row-1': the answer chosen is blank"):
        with_own_tokens([rows[0], rows[1] | {"chosen": " "}], model, encoder)
    del rows[1]["negative"]
    with pytest.raises(ValueError, match="row 'row-1': column negative is missing"):
        with_own_tokens(rows, model, encoder)
    empty = datasets.Dataset.from_list(drawn_rows(1)).select([])
    assert with_own_tokens(empty, model, encoder).column_names[-1] == "own_tokens"
