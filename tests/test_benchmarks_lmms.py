# Exported from nbs/benchmarks/lmms.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.lmms import *  # noqa: F403

import os
import sys
import tempfile
import types
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

import mfpo.benchmarks.lmms as module
from mfpo.evaluate.answers import encode_prompts, generate_answers
from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import save_vlm

WORDS = ["describe the image .", "is there a cup ?", "what color is it ?"]


def drawn(number):
    image = Image.new("RGB", (64, 64), (40 * number % 256, 90, 200 - 20 * number))
    ImageDraw.Draw(image).rectangle([4 * number, 8, 4 * number + 20, 40], fill=(250, 30 * number, 10))
    return image


# Documents of a task: two with one picture, one with two, one with none, one with one again.
DOCUMENTS = [
    {"pictures": [drawn(k) for k in ks], "text": WORDS[n % 3]} for n, ks in enumerate([[0], [1], [2, 3], [], [4]])
]


class StandIn(ABC):
    """What lmms-eval's base class has, in 0.6 and 0.7, that an adapter meets."""

    is_simple = True

    def __init__(self):
        self._rank, self._world_size, self.task_dict = 0, 1, {}

    @abstractmethod
    def loglikelihood(self, requests): ...

    @abstractmethod
    def generate_until(self, requests): ...

    @abstractmethod
    def generate_until_multi_round(self, requests): ...


@dataclass(frozen=True)
class StandInManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@contextmanager
def stand_in():
    """Modules in the place of lmms-eval's; afterwards everything is as it was."""
    parts = {"": {}, ".api": {}, ".api.model": {"lmms": StandIn}, ".models": {},
             ".models.registry_v2": {"ModelManifest": StandInManifest}, ".api.instance": {}}
    kept = {name: sys.modules.get(f"lmms_eval{name}") for name in parts}
    for name, content in parts.items():
        sys.modules[f"lmms_eval{name}"] = types.ModuleType(f"lmms_eval{name}")
        vars(sys.modules[f"lmms_eval{name}"]).update(content)
    try:
        yield
    finally:
        for name, before in kept.items():
            sys.modules.pop(f"lmms_eval{name}")
            if before is not None:
                sys.modules[f"lmms_eval{name}"] = before
        for name in ("MfpoChat", "MfpoSimple"):
            vars(module).pop(name, None)


@contextmanager
def loaded(simple=False, **options):
    """A saved model, loaded as lmms-eval loads one."""
    with tempfile.TemporaryDirectory() as folder, stand_in():
        save_vlm(*small_vlm_for_tests(3), Path(folder) / "model")
        made = getattr(module, "MfpoSimple" if simple else "MfpoChat")(
            str(Path(folder) / "model"), **{"device": "cpu"} | options
        )
        made.task_dict["some"] = {"test": DOCUMENTS}
        yield made


def turns(document):
    """A task's doc_to_messages."""
    images = [{"type": "image", "url": picture} for picture in document["pictures"]]
    return [{"role": "user", "content": [*images, {"type": "text", "text": document["text"]}]}]


def asked(number, simple, options, task="some"):
    """A request to generate as lmms-eval makes one."""
    text = DOCUMENTS[number]["text"]
    args = (text, dict(options), lambda document: document["pictures"]) if simple else (text, turns, dict(options))
    return types.SimpleNamespace(args=(*args, number, task, "test"))


def directly(model, processor, chat, pictures, length):
    """A greedy answer to one chat by the processor and `generate` themselves."""
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    images = {"images": pictures} if pictures else {}
    inputs = processor(text=[text], return_tensors="pt", add_special_tokens=False, **images)
    out = model.generate(**inputs, max_new_tokens=length, do_sample=False, pad_token_id=0)
    return processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_answers_are_those_of_generate_answers():
    options = {"max_new_tokens": 8, "temperature": 0, "do_sample": False, "num_beams": 1, "until": ["\n\n"]}
    for simple in (False, True):
        with loaded(simple, batch_size="3") as made:
            assert made.is_simple is simple and isinstance(made, StandIn) and made.batch_size == 3
            answers = made.generate_until([asked(number, simple, options) for number in (3, 0, 2, 1, 4)])
            model, processor = made._model, made.processor
            by_hand = generate_answers(
                model, processor, [drawn(0), drawn(1), drawn(4)], [WORDS[0], WORDS[1], WORDS[1]], max_new_tokens=8
            )
            assert [answers[k] for k in (1, 3, 4)] == by_hand
            # Two pictures, and none, without any of our own code but the template.
            words = {"type": "text", "text": WORDS[2]}
            two = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, words]}]
            assert answers[2] == directly(model, processor, two, [drawn(2), drawn(3)], 8)
            none = [{"role": "user", "content": [{"type": "text", "text": WORDS[0]}]}]
            assert answers[0] == directly(model, processor, none, [], 8)
            assert len(set(answers)) == 5
            for size in (1, 64):
                made.batch_size = size
                assert made.generate_until([asked(k, simple, options) for k in (3, 0, 2, 1, 4)]) == answers
            assert made.generate_until([]) == []


def test_samples_belong_to_document_and_repetition():
    options = {"max_new_tokens": 8, "temperature": 0.9, "do_sample": True, "top_p": 0.9}
    with loaded(batch_size=4) as made:
        twice = [asked(number, False, options) for number in (0, 0, 1, 1, 2, 2)]
        answers = made.generate_until(twice)
        assert all(answers[k] != answers[k + 1] for k in (0, 2, 4))
        made.batch_size = 1
        assert made.generate_until(twice) == answers and made.generate_until(twice[2:]) == answers[2:]
        named = ["some/test/0#0", "some/test/1#1"]
        assert [answers[0], answers[3]] == generate_answers(
            made._model, made.processor, [drawn(0), drawn(1)], WORDS[:2], ids=named, max_new_tokens=8, temperature=0.9,
            top_p=0.9,
        )
        made.seed = 1
        assert made.generate_until(twice) != answers
        # Greedy and sampled requests in one call, of two lengths: each as if it were asked alone.
        kinds = [options, {"max_new_tokens": 4}, options | {"do_sample": False}, options | {"top_p": 0}]
        mixed = [asked(1, False, kind) for kind in kinds]
        assert [made.generate_until([one])[0] for one in mixed[:3]] == made.generate_until(mixed)[:3]
        assert made.generate_until(mixed)[2] == made.generate_until(mixed)[3]


def test_generation_options():
    assert decoding({}, "a") == (Decoding(1024, 0.0, 1.0, ()), [])
    given = {"max_new_tokens": 16, "temperature": 0.7, "top_p": None, "until": "Q:", "image_ratio": "pad", "top_k": 5}
    assert decoding(given, "a") == (Decoding(16, 0.7, 1.0, ("Q:",)), ["image_ratio", "top_k"])
    # What would draw the likeliest token alone is greedy; a blank line by itself is lmms-eval's filler.
    warm = {"temperature": 0.7}
    for given in (warm | {"do_sample": False}, warm | {"top_p": 0}, {"do_sample": True, "top_p": 0.5}):
        assert decoding(given, "a")[0] == Decoding()
    assert decoding({"until": ["\n\n"]}, "a")[0].until == ()
    assert decoding({"until": ["", "Q:", "\n\n"]}, "a")[0].until == ("Q:", "\n\n")
    with pytest.raises(ValueError, match="mme: num_beams=3 is not to be had; give --gen_kwargs num_beams=1"):
        decoding({"num_beams": 3}, "mme")
    settings = Decoding(until=("Q:", "\n"))
    cuts = {"a cup\nQ: b": "a cup", "a cup Q: b\n": "a cup", "a cup": "a cup", "Q: a": "", "": ""}
    assert {text: settings.cut(text) for text in cuts} == cuts
    with loaded() as made:
        (whole,) = made.generate_until([asked(0, False, {"max_new_tokens": 8})])
        stop = whole.split()[2]
        (short,) = made.generate_until([asked(0, False, {"max_new_tokens": 8, "until": [stop], "top_k": 3})])
        assert short == whole[: whole.index(stop)].strip() and made._unused == {"top_k"}


def test_pictures_go_to_their_places():
    black, white, words = drawn(0), drawn(1), lambda text: {"type": "text", "text": text}
    picture, seen = {"type": "image"}, [{"type": "image", "url": black}, {"type": "image", "url": white}]
    chat, pictures = asked_chat([{"role": "user", "content": [*seen, words("is <image> as <image> ?")]}], "w")
    assert chat[0]["content"] == [words("is "), picture, words(" as "), picture, words(" ?")]
    assert list(pictures) == [black, white]
    # Turns that are interleaved already stay as they are; a turn of plain text is one part; empty texts go.
    content = [words("this"), seen[1], words("or"), seen[0], words("")]
    chat, pictures = asked_chat([{"role": "system", "content": "be brief"}, {"role": "user", "content": content}], "w")
    assert chat == [{"role": "system", "content": [words("be brief")]},
                    {"role": "user", "content": [words("this"), picture, words("or"), picture]}]
    assert list(pictures) == [white, black]
    with tempfile.TemporaryDirectory() as folder:
        black.save(Path(folder) / "a.png")
        chat, pictures = asked_chat([{"role": "user", "content": [{"type": "image", "url": f"{folder}/a.png"}]}], "w")
        assert pictures.convert("RGB")[0].tobytes() == black.tobytes()
    for content, message in (
        ([{"type": "video", "url": "a.mp4"}], r"t, test, document 3: asks about a video \(str\).*leave the task out"),
        ([{"type": "image", "url": {"array": []}}], r"asks about a image \(dict\)"),
        ([seen[0], words("<image> and <image>")], "2 times <image> for 1 pictures"),
        ("<image> ?", "1 times <image> for 0 pictures"),
    ):
        with pytest.raises(ValueError, match=message):
            asked_chat([{"role": "user", "content": content}], "t, test, document 3")
    with loaded(True) as made:
        bad = types.SimpleNamespace(args=("what ?", {}, lambda document: ["a.mp4"], 0, "some", "test"))
        with pytest.raises(ValueError, match="some, test, document 0: asks about a video or sound"):
            made.generate_until([bad])
        text = types.SimpleNamespace(args=("what ?", {"max_new_tokens": 3}, lambda document: None, 0, "some", "test"))
        chat = [{"role": "user", "content": [words("what ?")]}]
        assert made.generate_until([text]) == [directly(made._model, made.processor, chat, [], 3)]


def test_how_likely_an_answer_is():
    # Against the model's own loss on the whole dialogue, as lmms-eval's adapters compute it.
    with loaded(True) as made:
        def scored(answer, number):
            seen = lambda document: document["pictures"]  # noqa: E731
            return types.SimpleNamespace(args=(DOCUMENTS[number]["text"], answer, seen, number, "some", "test"))

        model, processor = made._model, made.processor
        said = [" yes", " a red cup .", lambda document: "no"]
        for number in (0, 2, 3):
            found = made.loglikelihood([scored(answer, number) for answer in said])
            for (loss, greedy), answer in zip(found, ["yes", "a red cup .", "no"]):
                images = [{"type": "image"}] * len(DOCUMENTS[number]["pictures"])
                words = {"type": "text", "text": DOCUMENTS[number]["text"]}
                chat = [{"role": "user", "content": [*images, words]}]
                turn = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
                texts = [processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False),
                         processor.apply_chat_template([*chat, turn], tokenize=False)]
                given = {"images": DOCUMENTS[number]["pictures"]} if images else {}
                asked_, whole = (
                    processor(text=[text], return_tensors="pt", add_special_tokens=False, **given) for text in texts
                )
                labels = whole["input_ids"].clone()
                labels[:, : asked_["input_ids"].shape[1]] = -100
                with torch.no_grad():
                    out = model(**whole, labels=labels)
                assert loss == pytest.approx(out.loss.item(), abs=1e-5) and not greedy
                # The number of tokens of the answer, with its end: words are tokens here.
                assert (labels != -100).sum() == len(answer.split()) + 1
        # An answer that greedy decoding gives, up to its end, is greedy: "yes" becomes the likeliest word, then the end.
        end, yes = processor.tokenizer.convert_tokens_to_ids(["</s>", "yes"])
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": WORDS[0]}]}]
        state = {}
        model.lm_head.register_forward_pre_hook(lambda head, inputs: state.update(last=inputs[0][0]))
        made.loglikelihood([scored("yes", 0)])
        before, after = state["last"][-3:-1]  # the states that predict "yes" and the end
        with torch.no_grad():
            model.lm_head.weight[yes] = 50 * (before - after)
            model.lm_head.weight[end] = 50 * (after - before)
        loss, greedy = made.loglikelihood([scored(" yes", 0)])[0]
        assert greedy and loss < 1 and made.generate_until([asked(0, True, {"max_new_tokens": 4})]) == ["yes"]
        assert made.loglikelihood([scored(" no", 0)])[0][0] > loss
        assert not made.loglikelihood([scored(" yes yes", 0)])[0][1]
        with pytest.raises(ValueError, match="leave acc_mutual_info out"):
            made.loglikelihood([types.SimpleNamespace(args=("", "yes"))])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="batch_size='auto': mfpo finds none by itself"):
        with loaded(batch_size="auto"):
            pass
    with pytest.raises(TypeError, match="device_map"):
        with loaded(device_map="auto"):
            pass
    with loaded() as made, pytest.raises(NotImplementedError, match="some asks in rounds.*leave the task out"):
        made.generate_until_multi_round([asked(0, False, {})])
    with pytest.raises(AttributeError, match="no attribute 'MfpoOther'"):
        module.MfpoOther


def test_nothing_of_lmms_eval_is_needed_before_it_asks():
    with stand_in():
        found = module.manifest()
        assert found == StandInManifest(
            "mfpo", "mfpo.benchmarks.lmms.MfpoSimple", "mfpo.benchmarks.lmms.MfpoChat"
        )
        for path, simple in ((found.simple_class_path, True), (found.chat_class_path, False)):
            home, name = path.rsplit(".", 1)
            made = getattr(sys.modules[home], name)
            assert made.is_simple is simple and issubclass(made, StandIn) and made is getattr(module, name)
            assert not made.__abstractmethods__ and made.__name__ == name and made.__module__ == home
        sys.modules["lmms_eval.api.model"] = sys.modules["lmms_eval.models.registry_v2"] = None  # not to be imported
        vars(module).pop("MfpoChat")
        for ask in (module.manifest, lambda: module.MfpoChat):
            with pytest.raises(ImportError, match=r"lmms-eval 0.6 or later is needed.*pip install 'mfpo\[lmms\]'"):
                ask()


def test_an_adapter_folder_knows_its_base():
    from peft import get_peft_model

    from mfpo.model.vlm import lora

    with tempfile.TemporaryDirectory() as folder, stand_in():
        base, adapter = Path(folder) / "base", Path(folder) / "adapter"
        model, processor = small_vlm_for_tests(3)
        save_vlm(model, processor, base)
        model.config._name_or_path = model.name_or_path = str(base)
        torch.manual_seed(0)
        tuned = get_peft_model(model, lora(model, r=4))
        with torch.no_grad():
            for name, weight in tuned.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.5)
        save_vlm(tuned, processor, adapter)
        expected = generate_answers(tuned, processor, [drawn(0)], WORDS[:1], max_new_tokens=8)
        for given in ((str(adapter),), (str(base), str(adapter))):
            made = module.MfpoChat(*given, device="cpu", batch_size=1)
            made.task_dict["some"] = {"test": DOCUMENTS}
            assert made.generate_until([asked(0, False, {"max_new_tokens": 8})]) == expected
        plain = module.MfpoChat(str(base), device="cpu")
        plain.task_dict["some"] = {"test": DOCUMENTS}
        assert plain.generate_until([asked(0, False, {"max_new_tokens": 8})]) != expected


def test_lmms_evals_own_classes_take_it():
    if find_spec("lmms_eval") is None:
        told = "lmms-eval is absent: pip install 'mfpo[lmms]'"
        (pytest.skip if "PYTEST_CURRENT_TEST" in os.environ else print)(told)
    else:
        from lmms_eval.api import instance
        from lmms_eval.models.registry_v2 import ModelRegistryV2

        known = ModelRegistryV2()
        known.register_manifest(module.manifest())
        with tempfile.TemporaryDirectory() as folder:
            save_vlm(*small_vlm_for_tests(3), Path(folder) / "model")
            for simple in (False, True):
                made = known.get_model_class("mfpo", force_simple=simple).create_from_arg_string(
                    f"pretrained={folder}/model,dtype=float32,seed=0", {"batch_size": "2", "device": "cpu"}
                )
                made.task_dict["some"] = {"test": DOCUMENTS}
                requests = [
                    instance.Instance("generate_until", asked(k, simple, {"max_new_tokens": 6}).args, 0,
                                      {"task": "some", "doc_id": k, "repeats": 1})
                    for k in range(5)
                ]
                answers = made.generate_until(requests)
                pictures, words = [drawn(0), drawn(1), drawn(4)], [WORDS[0], WORDS[1], WORDS[1]]
                by_hand = generate_answers(*small_vlm_for_tests(3), pictures, words, max_new_tokens=6)
                assert [answers[k] for k in (0, 1, 4)] == by_hand and all(isinstance(text, str) for text in answers)
                if simple:
                    look = lambda document: document["pictures"]  # noqa: E731
                    args = (WORDS[0], " yes", look, 0, "some", "test")
                    (found,) = made.loglikelihood([types.SimpleNamespace(args=args)])
                    taken = getattr(instance, "unwrap_generation_output", lambda output: (output, None))(found)[0]
                    assert isinstance(taken, tuple) and taken == made._scored(*args)
                made.clean()
                assert not hasattr(made, "_model")
