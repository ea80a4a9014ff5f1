# Exported from nbs/benchmarks/answering.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.answering import *  # noqa: F403

import io
import json
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from mfpo.benchmarks.answering import ModelAnswerer, EndpointAnswerer, answers_run, asked, collect, questions_digest
from mfpo.benchmarks.pictures import Pictures
from mfpo.benchmarks.records import Asking, Item


def some_items(folder, count=5):
    for k in range(count):
        Image.new("RGB", (64, 64), (40 * k, 200, 255 - 40 * k)).save(Path(folder) / f"{k}.png")
    return [Item(f"q/{k}", "what is in the picture ?", f"{k}.png", f"{k}.png") for k in range(count)]


def test_answers_are_the_models_and_are_kept():
    from mfpo.data.journal import Journal
    from mfpo.evaluate.answers import generate_answers
    from mfpo.model.small import small_vlm_for_tests

    model, processor = small_vlm_for_tests()
    asking = Asking(max_new_tokens=6)
    with tempfile.TemporaryDirectory() as folder:
        items = some_items(folder)
        pictures = Pictures(folder)
        source = ModelAnswerer(model, processor, pictures, asking, batch=2)
        expected = generate_answers(
            model, processor, [pictures.open(i) for i in items], [i.question for i in items], max_new_tokens=6
        )
        run = answers_run("x", {"name": "small"}, items, asking)
        with Journal(Path(folder) / "journal", run) as journal:
            assert list(collect(items, source, journal, progress=False).values()) == expected

        class Counting:  # after a kill only the rest is asked
            batch, asked = 2, []

            def answers(self, items):
                self.asked += [item.id for item in items]
                return source.answers(items)

        part = Path(folder) / "part"
        with Journal(part, run) as journal:
            journal.add(*((f"q/{k}", {"answer": expected[k]}) for k in (0, 3)))
        with Journal(part, run) as journal:
            assert list(collect(items, Counting(), journal, progress=False).values()) == expected
            assert Counting.asked == ["q/1", "q/2", "q/4"] and len(journal) == 5
        with pytest.raises(ValueError, match="asking.max_new_tokens: 6 there, 7 here"):
            Journal(part, answers_run("x", {"name": "small"}, items, Asking(max_new_tokens=7)))


def test_an_error_keeps_what_came_before_it():
    from mfpo.data.journal import Journal


    class Breaking:
        batch = 2

        def answers(self, items):
            for item in items:
                if item.id == "q/3":
                    raise ValueError("item 'q/3': its picture is gone")
                yield item.id, "a dog"


    with tempfile.TemporaryDirectory() as folder:
        items = some_items(folder)
        with Journal(Path(folder) / "journal", {}) as journal:
            with pytest.raises(ValueError, match="its picture is gone"):
                collect(items, Breaking(), journal, progress=False)
            assert sorted(journal) == ["q/0", "q/1", "q/2"]


def test_a_question_without_a_picture_is_asked_in_words():
    import torch

    from mfpo.model.small import small_vlm_for_tests

    model, processor = small_vlm_for_tests()
    items = [Item("a", "is the sky blue ?", None, "a"), Item("b", "what is a dog ?", None, "b")]
    found = dict(ModelAnswerer(model, processor, Pictures(None), Asking(max_new_tokens=5)).answers(items))
    for item in items:  # each alone, by hand: no image token, no pixels, greedy
        chat = [{"role": "user", "content": [{"type": "text", "text": item.question}]}]
        text = processor.apply_chat_template([chat], add_generation_prompt=True, tokenize=False)
        ids = processor.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        assert processor.tokenizer.convert_tokens_to_ids("<image>") not in ids
        start = ids.shape[1]
        for _ in range(5):
            with torch.no_grad():
                token = model(input_ids=ids).logits[0, -1].argmax()
            if token == processor.tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, token[None, None]], dim=1)
        assert found[item.id] == processor.batch_decode(ids[:, start:], skip_special_tokens=True)[0].strip()


def test_questions_are_put_with_their_suffix_and_told_apart():
    asking = Asking(suffix=" In one word.")
    plain, own = Item("a", "Is it?", "x", "x"), Item("b", "Is it?", "x", "x", {"suffix": ""})
    assert asked(plain, asking) == "Is it? In one word." and asked(own, asking) == "Is it?"
    assert questions_digest([plain], asking) == questions_digest([plain], Asking(suffix=" In one word.", max_new_tokens=1))
    assert len({questions_digest(i, a) for i, a in (([plain], asking), ([plain], Asking()), ([own], asking), ([plain, own], asking))}) == 4


def test_a_service_is_sent_the_picture_and_the_question():
    import base64
    import http.server
    import threading

    from mfpo.data.writers import EndpointWriter

    pytest.importorskip("openai")


    class Service(http.server.BaseHTTPRequestHandler):
        got = []

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            Service.got.append(body)
            parts = body["messages"][0]["content"]
            failing = parts[-1]["text"].startswith("fail")
            text = "seen" if parts[0]["type"] == "image_url" else "blind"
            data = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
            self.send_response(400 if failing else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass


    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            items = some_items(folder, 2) + [Item("t", "what is red ?", None, "t")]
            writer = EndpointWriter(f"http://127.0.0.1:{server.server_port}/v1", "m", temperature=0.0, max_tokens=7, seed=None, backoff=0.0)
            source = EndpointAnswerer(writer, Pictures(folder), Asking(max_new_tokens=7))
            assert collect(items, source, None, progress=False) == {"q/0": "seen", "q/1": "seen", "t": "blind"}
            sent = next(body for body in Service.got if body["messages"][0]["content"][0]["type"] == "image_url")
            url = sent["messages"][0]["content"][0]["image_url"]["url"]
            picture = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
            assert picture.size == (64, 64) and sent["max_tokens"] == 7 and sent["temperature"] == 0
            with pytest.raises(ValueError, match="1 items got no answer, the first is 'bad'.*HTTP 400"):
                collect([Item("bad", "fail", None, "x"), *items], source, None, progress=False)
    finally:
        server.shutdown()
        server.server_close()
