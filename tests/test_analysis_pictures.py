# Exported from nbs/analysis/pictures.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.pictures import *  # noqa: F403

from PIL import Image


def test_untrue_objects_are_marked_and_other_words_are_not():
    marked = marked_words("a park with a dog , a cup .", {"dog"}, {"dog", "cup", "tree"})
    assert (
        [w for w, untrue in marked if untrue] == ["cup"]
        and " ".join(w for w, _ in marked) == "a park with a dog , a cup ."
    )


def test_every_answer_is_in_the_picture():
    panel = {
        "clean": Image.new("RGB", (8, 8)), "noised": Image.new("RGB", (8, 8)), "truth": {"dog"},
        "answers": {"base": ("a dog .", "a cup .")},
    }
    figure = scene_answers([panel, panel])
    words = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert words.count("cup") == 2 and words.count("dog") == 2 and words.count("base, objects noised:") == 2
    red = {text.get_text() for axis in figure.axes for text in axis.texts if text.get_color() == "#B00020"}
    assert red == {"cup"}
