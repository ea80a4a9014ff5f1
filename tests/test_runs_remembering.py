# Exported from nbs/runs/remembering.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.runs.remembering import *  # noqa: F403


def test_what_is_remembered_is_what_would_be_made():
    import torch
    from PIL import Image

    from mfpo.evaluate.answers import encode_prompts, generate_answers
    from mfpo.model.small import small_vlm_for_tests
    from mfpo.runs.remembering import RememberingProcessor

    model, processor = small_vlm_for_tests()
    pictures = [Image.new("RGB", (64, 64), (60 * k, 90, 200 - 60 * k)) for k in range(3)]
    questions = ["what is in the picture ?", "is there a dog ?", "what is in the picture ?"]
    calls = []


    class Counting:
        def __getattr__(self, name):
            return getattr(processor, name)

        def __call__(self, **given):
            calls.append(given)
            return processor(**given)


    kept = RememberingProcessor(Counting())
    plain = encode_prompts(processor, pictures, questions)
    for copies in range(2):  # the second time with copies of the pictures: content counts
        found = encode_prompts(kept, [picture.copy() for picture in pictures], questions)
        assert found.keys() == plain.keys() and all(torch.equal(found[name], plain[name]) for name in plain)
        found["input_ids"] = None  # the mapping is the caller's
    assert len(calls) == 1
    other = [pictures[1], pictures[0], pictures[2]]
    assert torch.equal(encode_prompts(kept, other, questions)["pixel_values"], encode_prompts(processor, other, questions)["pixel_values"])
    encode_prompts(kept, pictures, ["what is in the picture ?"] * 3)
    assert len(calls) == 3  # other pictures, other texts
    kept(images=pictures[0], text="<image> a", return_tensors="pt")
    kept(images=pictures[0], text="<image> a", return_tensors="pt", padding=True)
    assert len(calls) == 5  # other options
    assert generate_answers(model, kept, pictures, questions, max_new_tokens=5) == generate_answers(model, processor, pictures, questions, max_new_tokens=5)
    calls.clear()
    nothing = RememberingProcessor(Counting(), most_mb=0)
    for _ in range(2):
        encode_prompts(nothing, pictures, questions)
    assert len(calls) == 2 and not nothing._kept
