# Exported from nbs/commands/difficulty.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.commands.difficulty import *  # noqa: F403

import contextlib, io, json, math, pathlib, tempfile
from unittest import mock
import numpy as np
import pytest
from PIL import Image
from mfpo.commands.options import BadInput
from mfpo.data.rows import dataset_of, read_note, read_rows, write_rows
from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import save_vlm
from mfpo.train.difficulty import agreement, cluster_answers, semantic_entropy, thirds, weighted_entropy

def given(folder, count=6, **changes):
    """Rows and a small model in `folder`; the words of the command that name them. `changes`: columns to set."""
    folder = pathlib.Path(folder)
    rows = [
        {
            "id": f"row-{k}", "image": Image.new("RGB", (64, 64), (40 * k % 256, 90, 255 - 30 * k % 256)), "kind": "xy"[k % 2],
            "question": ("what is it ?", "is there a cup ?")[k % 2], "chosen": ("a cat", "yes")[k % 2], "rejected": ("a dog", "no")[k % 2],
        }
        for k in range(count)
    ]
    for name, values in changes.items():
        rows = [row | {name: value} for row, value in zip(rows, values)]
    write_rows(dataset_of(rows), folder / "rows.parquet")
    if not (folder / "model").exists():
        save_vlm(*small_vlm_for_tests(), folder / "model")
    return ["--dataset_name", f"{folder}/rows.parquet", "--model_name_or_path", f"{folder}/model", "--output", f"{folder}/out.parquet",
            "--use_cpu", "--dtype", "float32", "--max_new_tokens", "3", "--temperature", "0.05", "--samples", "4"]


def run(*words):
    """(standard error, standard output) of the command."""
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()) as out:
        main([str(word) for word in words])
    return err.getvalue(), out.getvalue()


def said(folder):
    """The records of a journal by the beginning of their keys."""
    lines = pathlib.Path(folder, "out.parquet.journal").read_text().splitlines()[1:]
    return [json.loads(line)["key"].split("\x1f")[0] for line in lines]


def small_judge(folder, head=True, entails=None, seed=4):
    """A small BERT of random weights; `entails` True or False makes it say so always."""
    import torch, transformers
    from mfpo.model.small import word_tokenizer

    place, tokenizer = pathlib.Path(folder) / f"judge-{head}-{entails}-{seed}", word_tokenizer("a cup dog is it".split())
    labels = ["neutral", "entailment", "contradiction"]
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=128, id2label=dict(enumerate(labels)), label2id={v: k for k, v in enumerate(labels)},
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = (transformers.BertForSequenceClassification if head else transformers.BertModel)(config)
        if entails is not None:
            model.classifier.weight.zero_()
            model.classifier.bias.copy_(torch.tensor([0.0, 9.0 if entails else -9.0, 0.0]))
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def test_the_file_is_what_the_library_says():
    from mfpo.evaluate.answers import generate_answers
    with tempfile.TemporaryDirectory() as folder:
        words = given(folder)
        err, out = run(*words, "--preview", 2)
        rows, source = read_rows(f"{folder}/out.parquet"), read_rows(f"{folder}/rows.parquet")
        assert rows.column_names == ["id", "difficulty", "stage", "answers", "clusters"]
        model, processor = small_vlm_for_tests()
        wanted = generate_answers(model, processor, source["image"], source["question"], ids=source["id"], samples=4, temperature=0.05,
                                  max_new_tokens=3)
        assert rows["answers"][:] == wanted and rows["id"][:] == source["id"][:]
        clusters = [cluster_answers(answers) for answers in wanted]
        assert rows["clusters"][:] == clusters
        entropies = [semantic_entropy(c) for c in clusters]
        assert rows["difficulty"][:] == entropies and len(set(entropies)) > 1
        assert rows["stage"][:] == thirds(entropies, source["id"]).tolist()
        assert "easy 2 rows, " in err and f"train with it: mfpo train --dataset_name {folder}/rows.parquet" in err
        assert f"--difficulty {folder}/out.parquet" in err and "--max_new_tokens is longer" in err
        hardest = source["id"][int(np.argmax(entropies))]
        assert out.startswith(f"{hardest} ({max(entropies):.3f} nats)\n  ") and out.count(" nats)") == 2 and "\n  0: " in out
        # The same command asks for nothing and writes the same bytes.
        before, journal = pathlib.Path(folder, "out.parquet").read_bytes(), pathlib.Path(folder, "out.parquet.journal").read_bytes()
        with mock.patch("mfpo.evaluate.answers.generate_answers", side_effect=AssertionError):
            assert "going on with 12 records" in run(*words)[0]
        assert pathlib.Path(folder, "out.parquet").read_bytes() == before
        assert pathlib.Path(folder, "out.parquet.journal").read_bytes() == journal
        assert sorted(p.name for p in pathlib.Path(folder).iterdir()) == ["model", "out.parquet", "out.parquet.journal", "rows.parquet"]


def test_entropies_by_likelihood_and_next_words():
    from mfpo.train.scoring import score_answers
    with tempfile.TemporaryDirectory() as folder:
        words = given(folder)
        run(*words, "--entropy", "weighted", "--likelihood", "sum")
        rows, source = read_rows(f"{folder}/out.parquet"), read_rows(f"{folder}/rows.parquet")
        assert rows.column_names == ["id", "difficulty", "stage", "answers", "clusters", "logps", "tokens"]
        model, processor = small_vlm_for_tests()
        for row, asked in zip(rows, source):
            alone = score_answers(model, processor, [asked["image"]] * 4, [asked["question"]] * 4, row["answers"])
            assert np.allclose(row["logps"], alone, atol=1e-4)
            assert row["difficulty"] == weighted_entropy(row["clusters"], row["logps"], row["answers"])
        assert said(folder).count("answers") == 6
        with pytest.raises(BadInput, match="another run:\n  count_repeats: False there, True here\n  likelihood: sum there, mean here"):
            run(*words, "--entropy", "weighted", "--count_repeats")
        with mock.patch("mfpo.evaluate.answers.generate_answers", side_effect=AssertionError):  # answers and likelihoods are there
            run(*words, "--entropy", "weighted", "--count_repeats", "--overwrite")
            for row in read_rows(f"{folder}/out.parquet"):
                mean = np.divide(row["logps"], row["tokens"])
                assert row["difficulty"] == weighted_entropy(row["clusters"], mean)
            run(*words, "--entropy", "predictive", "--overwrite")
            for row in read_rows(f"{folder}/out.parquet"):
                assert "clusters" not in row and abs(row["difficulty"] + np.divide(row["logps"], row["tokens"]).mean()) < 1e-15
            err, _ = run(*words, "--entropy", "tokens", "--overwrite")
        rows = read_rows(f"{folder}/out.parquet")
        assert rows.column_names == ["id", "difficulty", "stage"] and "entropy 0" not in err
        # Random weights are unsure of every word: nearly log vocabulary.
        assert all(0.5 * math.log(len(processor.tokenizer)) < value < math.log(len(processor.tokenizer)) for value in rows["difficulty"])


def test_judges_by_checkpoint():
    with tempfile.TemporaryDirectory() as folder:
        words = given(folder)
        yes, no, vectors = small_judge(folder, entails=True), small_judge(folder, entails=False), small_judge(folder, head=False)
        run(*words, "--same", "nli", "--judge", yes)
        rows = read_rows(f"{folder}/out.parquet")
        for row in rows:
            # all alike, but for answers that say nothing
            assert row["clusters"] == cluster_answers(row["answers"], lambda a, b: bool(a) == bool(b))
        with pytest.raises(BadInput, match="judge.model.files: .* there, .* here"):
            run(*words, "--same", "nli", "--judge", no)
        assert sum(key.startswith("same ") for key in said(folder)) == 6
        with mock.patch("mfpo.evaluate.answers.generate_answers", side_effect=AssertionError):  # the answers are used again
            run(*words, "--same", "nli", "--judge", no, "--overwrite")
            for row in read_rows(f"{folder}/out.parquet"):
                assert row["clusters"] == cluster_answers(row["answers"], lambda a, b: False)
            run(*words, "--same", "embeddings", "--judge", vectors, "--judge_threshold", "-0.999", "--overwrite")
            assert read_rows(f"{folder}/out.parquet")["clusters"][:] == rows["clusters"][:]
        assert sum(key.startswith("same ") for key in said(folder)) == 18 and said(folder).count("answers") == 6
        with pytest.raises(BadInput, match="judge-False-None-4: 2 weights are missing"):
            run(*words, "--same", "nli", "--judge", vectors, "--overwrite")
        with pytest.raises(BadInput, match="none is no folder|none: cannot be loaded"):
            run(*words, "--same", "nli", "--judge", f"{folder}/none", "--overwrite")


def test_cut_off_at_any_block_it_writes_the_same_bytes():
    import mfpo.evaluate.answers as sampling
    import mfpo.train.difficulty as measuring
    with tempfile.TemporaryDirectory() as folder:
        words = [*given(folder, 7), "--entropy", "weighted", "--batch_size", "8"]  # two rows at a time
        run(*words)
        out, journal = pathlib.Path(folder, "out.parquet"), pathlib.Path(folder, "out.parquet.journal")
        wanted, whole = out.read_bytes(), journal.read_bytes()
        out.unlink(), journal.unlink()
        def killed(function, after):
            calls = []
            def wrapped(*args, **kwargs):
                calls.append(1)
                if len(calls) > after:
                    raise KeyboardInterrupt
                return function(*args, **kwargs)
            return wrapped
        for place, name, after, records in ((sampling, "generate_answers", 1, 2), (sampling, "generate_answers", 2, 6), (measuring, "answer_logps", 1, 9)):
            with mock.patch.object(place, name, killed(getattr(place, name), after)), pytest.raises(KeyboardInterrupt):
                run(*words)
            assert len(said(folder)) == records and not out.exists()
            assert sorted(p.name for p in pathlib.Path(folder).iterdir()) == ["model", "out.parquet.journal", "rows.parquet"]
        with open(journal, "ab") as file:
            file.write(b'{"key": "likelihood')  # and a torn line
        assert "19 bytes of a half-written record" in run(*words)[0]
        assert out.read_bytes() == wanted and journal.read_bytes() == whole


def test_other_settings_and_strange_files_are_refused():
    with tempfile.TemporaryDirectory() as folder:
        words = given(folder)
        run(*words)
        out, before = pathlib.Path(folder, "out.parquet"), pathlib.Path(folder, "out.parquet").read_bytes()
        for more, message in (
            (["--samples", 5], "sampling.samples: 4 there, 5 here"), (["--seed", 1], "sampling.seed: 0 there, 1 here"),
            (["--entropy", "weighted"], "entropy: discrete there, weighted here"), (["--group_by", "kind"], "group_by: None there, kind here"),
        ):
            with pytest.raises(BadInput, match=message):
                run(*words, *more)
        assert out.read_bytes() == before
        out.unlink()  # a part file alone: answers of other settings are not mixed
        with pytest.raises(BadInput, match="out.parquet.journal belongs to another run:\n  sampling.temperature: 0.05 there, 0.5 here"):
            run(*words, "--temperature", 0.5)
        run(*words, "--temperature", 0.5, "--overwrite")
        assert len(said(folder)) == 12
        save_vlm(*small_vlm_for_tests(1), pathlib.Path(folder, "other"))
        with pytest.raises(BadInput, match="model.base.files: .* there, .* here"):
            run(*words, "--temperature", 0.5, "--model", f"{folder}/other")
        pathlib.Path(folder, "out.parquet.journal").unlink()
        with pytest.raises(BadInput, match="its journal out.parquet.journal is not"):
            run(*words, "--temperature", 0.5)
        with pytest.raises(BadInput, match="was not made by mfpo difficulty"):
            write_rows(read_rows(f"{folder}/rows.parquet"), f"{folder}/mine.parquet")
            run(*words, "--out", f"{folder}/mine.parquet")
        for name, message in (("out.csv", "name a .parquet file"), ("rows.parquet", "is the input")):
            with pytest.raises(BadInput, match=message):
                run(*words, "--out", f"{folder}/{name}")


def test_rows_that_cannot_be_used():
    with tempfile.TemporaryDirectory() as folder:
        words = given(folder, id=["same"] * 2 + list("abcd"))
        with pytest.raises(BadInput, match="same"):
            run(*words)
        words = given(folder, chosen=["a cat", "", "a cat", "yes", "a cup", "yes"])
        with pytest.raises(BadInput, match="1 of 6 rows cannot be used"):
            run(*words)
        assert "going on with the other 5 rows" in run(*words, "--skip_bad")[0]
        assert read_rows(f"{folder}/out.parquet")["id"][:] == ["row-0", "row-2", "row-3", "row-4", "row-5"]
        assert not list(pathlib.Path(folder).glob(".*")), "nothing is left beside"


def test_rows_that_are_new_or_changed_are_asked_alone():
    with tempfile.TemporaryDirectory() as folder:
        words = given(folder)
        run(*words, "--limit", 4)
        assert len(read_rows(f"{folder}/out.parquet")) == 4 and said(folder).count("answers") == 4
        run(*words)
        first = read_rows(f"{folder}/out.parquet")
        assert len(first) == 6 and said(folder).count("answers") == 6
        given(folder, question=["what is it ?", "what is it ?"] + ["what color is it ?"] + ["is there a cup ?", "what is it ?", "is there a cup ?"])
        run(*words)
        assert said(folder).count("answers") == 8, "the rows 1 and 2 have another question"
        again = read_rows(f"{folder}/out.parquet")
        assert again["answers"][3:] == first["answers"][3:]


def test_kinds_of_rows_are_ranked_by_themselves():
    with tempfile.TemporaryDirectory() as folder:
        words = [*given(folder, note=["n"] * 5 + [None]), "--entropy", "predictive"]
        run(*words, "--group_by", "kind")
        rows = read_rows(f"{folder}/out.parquet").to_pandas()
        assert rows["group"].tolist() == list("xyxyxy") and all(sorted(part["stage"]) == [0, 1, 2] for _, part in rows.groupby("group"))
        for column, message in (("sort", "no such column to rank by; the rows have id, "), ("note", r"1 rows have nothing there \('row-5'\)"), ("image", "no such column")):
            with pytest.raises(BadInput, match=message):
                run(*words, "--group_by", column, "--overwrite")


def test_a_model_that_says_nothing_or_nonsense_is_noticed():
    with tempfile.TemporaryDirectory() as folder:
        words = given(folder)
        nothing = lambda model, processor, images, questions, *, samples, **_: [[""] * samples for _ in images]
        with mock.patch("mfpo.evaluate.answers.generate_answers", nothing):
            err, _ = run(*words)
        assert "24 of 24 sampled answers are empty" in err and "100.0% of the rows have entropy 0" in err
        assert "6 rows of 0.000 nats lie on both sides of the border between easy and medium" in err
        run(*words, "--entropy", "weighted", "--overwrite")  # an empty answer is scored by its end
        assert set(read_rows(f"{folder}/out.parquet")["tokens"][0]) == {1}
        model, processor = small_vlm_for_tests()
        import torch
        with torch.no_grad():
            model.lm_head.weight.fill_(float("nan"))
        save_vlm(model, processor, pathlib.Path(folder) / "broken")
        with pytest.raises(BadInput, match="not finite for rows 'row-0', 'row-1', .*: try --dtype float32"):
            run(*words, "--entropy", "tokens", "--model", f"{folder}/broken", "--out", f"{folder}/broken.parquet")
        assert not list(pathlib.Path(folder).glob("broken.parquet*"))


def test_options_that_do_not_fit_end_with_2():
    with tempfile.TemporaryDirectory() as folder:
        words = given(folder)
        for more, message in (
            (["--same", "nli"], "--same nli needs --judge"), (["--judge", "x"], "--judge: belongs to --same nli or embeddings"),
            (["--samples", "1"], "samples=1: must be 2 or more"), (["--temperature", "0"], "temperature=0.0 (above 0"),
            (["--same", "nli", "--judge", "x", "--judge_threshold", "-0.5"], "judge_threshold=-0.5: must be above 0"),
            (["--same", "meaning"], "invalid choice: 'meaning'"), (["--entropy", "semantic"], "invalid choice"), (["--batch_size", "0"], "batch_size=0"),
        ):
            with contextlib.redirect_stderr(io.StringIO()) as err, pytest.raises(SystemExit) as ended:
                main([*words, *more])
            assert ended.value.code == 2 and message in err.getvalue(), (more, err.getvalue())
        for k in (0, 2, 4):
            with contextlib.redirect_stderr(io.StringIO()) as err, pytest.raises(SystemExit) as ended:
                main(words[:k] + words[k + 2 :])
            assert ended.value.code == 2 and "must be given" in err.getvalue()


def test_the_file_is_what_mfpo_train_takes():
    from mfpo.train.difficulty import read_difficulty
    with tempfile.TemporaryDirectory() as folder:
        words = given(folder)
        run(*words)
        rows = read_rows(f"{folder}/out.parquet")
        values, stages = read_difficulty(f"{folder}/out.parquet", rows["id"][:][::-1])
        assert values.tolist() == rows["difficulty"][::-1] and stages.tolist() == rows["stage"][::-1]
        assert read_note(f"{folder}/out.parquet")["difficulty"]["sampling"]["samples"] == 4
