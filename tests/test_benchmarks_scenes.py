# Exported from nbs/benchmarks/scenes.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.scenes import *  # noqa: F403

import json
import tempfile
from pathlib import Path

import pytest

from mfpo.benchmarks.scenes import ExactJudge, write_amber, write_mmhal, write_pope
from mfpo.data.scenes import CAPTION_QUESTION, OBJECTS, WorldConfig, answer_text, caption_text, scene_rows

rows = list(scene_rows(WorldConfig(test=100), "test"))


def test_pope_of_the_scenes_is_balanced_and_scored_exactly():
    from mfpo.benchmarks.pope import load_pope, score_pope

    with tempfile.TemporaryDirectory() as folder:
        write_pope(rows, folder)
        items = load_pope(folder)
    truth = {f"{row['id']}.png": {thing["name"] for thing in row["objects"]} for row in rows}
    for item in items:
        name = item.question.split()[3]
        assert (name in truth[item.image]) is (item.facts["label"] == "yes")
    assert sum(i.facts["label"] == "yes" for i in items) == len(items) / 2
    right = {i.id: answer_text(i.question.split()[3], i.facts["label"] == "yes") for i in items}
    assert all(value.estimate == 100 for name, value in score_pope(items, right, n=5).values.items() if name.endswith(("F1", "accuracy")))
    yes = score_pope(items, dict.fromkeys(right, "yes , there is ."), n=5).values
    assert yes["accuracy"].estimate == 50 and yes["recall"].estimate == 100 and yes["yes_ratio"].estimate == 100
    # Popular: the commonest absent objects; adversarial: those that come with what is there. Neither is random.
    absent = {split: [i.question.split()[3] for i in items if i.facts["split"] == split and i.facts["label"] == "no"] for split in ("random", "popular", "adversarial")}
    often = {name: sum(name in names for names in truth.values()) for names in truth.values() for name in names}
    mean = {split: sum(often.get(n, 0) for n in names) / len(names) for split, names in absent.items()}
    assert mean["popular"] > mean["random"] + 5


def test_amber_of_the_scenes_counts_what_is_invented():
    from mfpo.benchmarks.amber import load_amber, score_amber

    with tempfile.TemporaryDirectory() as folder:
        write_amber(rows, folder)
        items = load_amber(folder)
    by_image = {f"{row['id']}.png": row for row in rows}
    answers, mentions, invented, bad = {}, 0, 0, 0
    for k, item in enumerate(i for i in items if i.facts["type"] == "generative"):
        names = [thing["name"] for thing in by_image[item.image]["objects"]]
        said = names + [n for n in OBJECTS if n not in names][: k % 3]
        answers[item.id] = caption_text(by_image[item.image]["scene"], said)
        mentions, invented, bad = mentions + len(said), invented + k % 3, bad + (k % 3 > 0)
    asked = [i for i in items if i.facts["type"] == "existence"]
    answers |= {item.id: "No" if k % 4 else "Yes" for k, item in enumerate(asked)}
    scores = score_amber(items, answers, n=5, nouns="offline", similar="offline")
    assert scores.values["CHAIR"].estimate == round(100 * invented / mentions, 1)  # as its script prints it
    assert scores.values["Cover"].estimate == 100
    assert scores.values["Hal"].estimate == bad  # of 100 scenes
    assert scores.values["existence_accuracy"].estimate == round(100 * sum(k % 4 > 0 for k in range(len(asked))) / len(asked), 1)


def test_the_judge_that_knows_rates_by_hand():
    from mfpo.benchmarks.judging import judge
    from mfpo.benchmarks.mmhal import load_mmhal, mmhal_requests, score_mmhal

    with tempfile.TemporaryDirectory() as folder:
        write_mmhal(rows, folder)
        items = load_mmhal(folder)
        knows = ExactJudge(rows)
        right = {item.id: item.facts["gt_answer"] for item in items}
        replies = judge(mmhal_requests(items, right), knows, Path(folder) / "a", progress=False)
        perfect = score_mmhal(items, right, replies=replies, n=5)
        assert perfect.values["score"].estimate == 6 and perfect.values["hallucination_rate"].estimate == 0
        assert perfect.how["judge"] == "exact annotation"
        yes = dict.fromkeys(right, "yes , there is .")
        replies = judge(mmhal_requests(items, yes), knows, Path(folder) / "b", progress=False)
        habit = score_mmhal(items, yes, replies=replies, n=5)
    # Yes is right where the object is there (6), made up where it is not (0), and says nothing elsewhere (3).
    assert {k: habit.values[f"score_{k}"].estimate for k in ("comparison", "other", "adversarial", "counting", "holistic")} == {
        "comparison": 6, "other": 6, "adversarial": 0, "counting": 3, "holistic": 3,
    }
    row = rows[0]
    names = [thing["name"] for thing in row["objects"]]
    other = next(name for name in OBJECTS if name not in names)
    rate = lambda said: knows.rate(row["id"], CAPTION_QUESTION, row["caption"], caption_text(row["scene"], said))
    assert [rate(names), rate(names[:1]), rate([]), rate([*names, other]), rate([names[0], other]), rate([other])] == [6, 4, 3, 2, 1, 0]
    with pytest.raises(ValueError, match="96 questions, and there are 10 scenes"):
        write_mmhal(rows[:10], "nowhere")


def test_halbench_of_the_scenes_is_the_exact_count():
    from mfpo.benchmarks.chair import load_chair, score_chair
    from mfpo.benchmarks.object_halbench import load_object_halbench, score_object_halbench
    from mfpo.benchmarks.scenes import write_coco, write_halbench
    from mfpo.evaluate.chair import score_captions

    names = [[thing["name"] for thing in row["objects"]] for row in rows]
    said = [here[k % 2 :] + [n for n in OBJECTS if n not in here][: k % 3] for k, here in enumerate(names)]
    captions = [caption_text(row["scene"], some) for row, some in zip(rows, said)]
    exact = score_captions(said, names)
    with tempfile.TemporaryDirectory() as folder:
        write_coco(rows, folder)
        write_halbench(rows, folder)
        halbench, chair = load_object_halbench(folder, lemmas="offline"), load_chair(folder, lemmas="offline")
    found = score_object_halbench(halbench, dict(zip([i.id for i in halbench], captions)), n=5).values
    for name in ("CHAIRs", "CHAIRs_all", "CHAIRi", "recall"):
        assert found[name].estimate == pytest.approx(exact[name]), name
    classical = score_chair(chair, dict(zip([i.id for i in chair], captions)), n=5).values
    assert classical["CHAIRs"].estimate == pytest.approx(exact["CHAIRs_all"]) and classical["CHAIRi"].estimate == pytest.approx(exact["CHAIRi"])
