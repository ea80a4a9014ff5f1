# Exported from nbs/commands/answers.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.commands.answers import *  # noqa: F403

import contextlib, hashlib, http.server, io, json, os, pathlib, random, re, signal, subprocess, sys, tempfile, threading, time
import pytest
from PIL import Image, ImageDraw
from mfpo.commands.options import BadInput
from mfpo.data.preferences import read_preferences
from mfpo.data.rows import read_note, read_rows

for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
    os.environ.pop(name, None)
os.environ["NO_PROXY"] = "127.0.0.1"
KEY = "sk-very-secret"
RUN = [sys.executable, "-c", "import sys; from mfpo.commands.answers import main; main(sys.argv[1:])"]


class Handler(http.server.BaseHTTPRequestHandler):
    """Replaces red by blue. `server.bad` says of which rows the first reply is bad, by the words in the question."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = json.loads(body["messages"][0]["content"].splitlines()[-1])
        server = self.server
        with server.lock:
            server.asked.append((asked["question"], body["seed"]))
            count = len(server.asked)
        time.sleep(server.pause)
        bad = next((what for word, what in server.bad.items() if word in asked["question"]), None)
        if server.status or bad == "500" or (server.every and count % server.every == 0):
            return self.respond(server.status or 500, b'{"error": {"message": "out of order"}}')
        edit = {"from": "red", "to": "blue", "kind": "attributes"}
        text = json.dumps({"rejected": asked["answer"].replace("red", "blue"), "edits": [edit]})
        if bad == "always" or (bad == "first" and "could not be used" not in body["messages"][0]["content"]):
            text = "I'm sorry, I can't do that."
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        reply = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}
        self.respond(200, json.dumps(reply).encode())

    def respond(self, status, body):
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


@contextlib.contextmanager
def served(bad=None, every=0, status=0, pause=0.0):
    """A writing server; `every` nth request fails, `status` fails all."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.handle_error = True, lambda *_: None
    server.bad, server.every, server.status, server.pause = bad or {}, every, status, pause
    server.asked, server.lock = [], threading.Lock()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def given(folder, count=4, chosen=True):
    """A rows file with pictures in `folder`; the words of the command that name them."""
    folder = pathlib.Path(folder)
    (folder / "photos").mkdir()
    lines = []
    for k in range(count):
        image = Image.new("RGB", (32, 24), (40 * k % 256, 90, 120))
        ImageDraw.Draw(image).rectangle([2, 2, 10 + k % 20, 12], fill="red")
        image.save(folder / "photos" / f"{k}.png")
        row = {"id": f"row-{k}", "image": f"{k}.png", "question": f"what is in picture {k} ?", "note": k}
        lines.append(row | ({"chosen": f"a red cup and {k} plates on a table ."} if chosen else {}))
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["--rows", f"{folder}/rows.jsonl", "--images", f"{folder}/photos", "--output", f"{folder}/out.parquet"]


def asking(server):
    return ["--endpoint", server.url, "--writer_model", "writer-1", "--backoff", "0.01", "--timeout", "5"]


def run(*words):
    """(standard error, standard output) of the command."""
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()) as out:
        main([str(word) for word in words])
    return err.getvalue(), out.getvalue()


def small_model(folder, seed=3):
    from mfpo.model.small import small_vlm_for_tests
    from mfpo.model.vlm import save_vlm

    save_vlm(*small_vlm_for_tests(seed), pathlib.Path(folder) / "small-vlm")
    return ["--model_name_or_path", f"{folder}/small-vlm", "--use_cpu", "--dtype", "float32", "--max_new_tokens", 8]


def test_rows_get_injected_answers():
    os.environ["OPENAI_API_KEY"] = KEY
    try:
        with tempfile.TemporaryDirectory() as folder, served({"picture 1": "first"}, every=3) as server:
            words = [*given(folder), *asking(server), "--kinds", "attributes", "objects"]
            said, shown = run(*words, "--preview", 2, "--price_in", 2, "--price_out", 10)
            rows = read_rows(f"{folder}/out.parquet")
            assert rows["rejected"][:] == [f"a blue cup and {k} plates on a table ." for k in range(4)]
            assert rows["chosen"][:] == [f"a red cup and {k} plates on a table ." for k in range(4)] and rows["note"][:] == [0, 1, 2, 3]
            assert set(rows["rejected_source"][:]) == {"inject:attributes:writer-1"} and set(rows["chosen_source"][:]) == {"rows"}
            assert rows[0]["edits"] == [{"from": "red", "to": "blue", "kind": "attributes"}] and rows[0]["image"].size == (32, 24)
            assert read_preferences(f"{folder}/out.parquet")["id"][:] == rows["id"][:], "what comes out is a preference set"
            # Five replies (row 1 twice) of 100 and 10 tokens, at 2 and 10 a million: 0.0015.
            assert "4 of 4 rows have both answers" in said and "5 replies in all runs, 1 of them refused" in said
            assert "500 tokens in, 50 out" in said and "cost of all runs: 0.0015" in said
            assert shown.startswith("row-0 (inject:attributes:writer-1)\n  what is in picture 0 ?\n  a [-red-]{+blue+} cup and 0 plates")
            assert shown.count("inject:") == 2
            asked, before = len(server.asked), pathlib.Path(folder, "out.parquet").read_bytes()
            said, _ = run(*words, "--concurrency", 1)
            assert len(server.asked) == asked and pathlib.Path(folder, "out.parquet").read_bytes() == before
            assert "this run" not in said and "going on with" in said
            names = sorted(p.name for p in pathlib.Path(folder).iterdir())
            assert names == ["out.parquet", "out.parquet.journal", "photos", "rows.jsonl"]
            assert not any(KEY.encode() in p.read_bytes() for p in pathlib.Path(folder).iterdir() if p.is_file())
            with pytest.raises(BadInput, match="another run:\n  injection.kinds: .* there, .* here"):
                run(*words[:-1])
            with pytest.raises(BadInput, match="another run:\n  writer.model: writer-1 there, writer-2 here"):
                run(*words, "--writer_model", "writer-2")
            run(*words, "--writer_model", "writer-2", "--overwrite")
            assert set(read_rows(f"{folder}/out.parquet")["rejected_source"][:]) == {"inject:attributes:writer-2"}
    finally:
        del os.environ["OPENAI_API_KEY"]


def test_a_few_first_then_the_rest():
    with tempfile.TemporaryDirectory() as folder, served() as server:
        words = [*given(folder, 6), *asking(server)]
        said, _ = run(*words, "--limit", 2)
        assert "2 of 2 rows" in said and len(server.asked) == 2 and len(read_rows(f"{folder}/out.parquet")) == 2
        said, _ = run(*words)
        assert "6 of 6 rows" in said and len(server.asked) == 6
        # A row that is changed later is asked again, alone.
        path = pathlib.Path(folder, "rows.jsonl")
        path.write_text(path.read_text().replace("a red cup and 3", "a red lamp and 3"))
        run(*words)
        assert len(server.asked) == 7 and read_rows(f"{folder}/out.parquet")["rejected"][3] == "a blue lamp and 3 plates on a table ."


def test_rows_that_fail_are_named_and_asked_again():
    with tempfile.TemporaryDirectory() as folder:
        with served({"picture 2": "500", "picture 0": "always"}) as server:
            words = given(folder)
            said, _ = run(*words, *asking(server), "--max_retries", 2, "--samples", 2, "--report", f"{folder}/report.jsonl")
            assert "2 of 4 rows" in said and "1 × HTTP 500" in said and "1 × reply: no JSON" in said and "2 rows failed" in said
            problems = [json.loads(line) for line in pathlib.Path(folder, "report.jsonl").read_text().splitlines()]
            assert {p["row"]: p["kind"] for p in problems} == {"row-2": "HTTP 500", "row-0": "reply: no JSON"}
            assert read_rows(f"{folder}/out.parquet")["id"][:] == ["row-1", "row-3"]
        with served() as server:  # on another port, and in order again
            said, _ = run(*words, *asking(server), "--samples", 2)
            assert "3 of 4 rows" in said and [q for q, _ in server.asked] == ["what is in picture 2 ?"]
            said, _ = run(*words, *asking(server), "--samples", 3)
            assert "4 of 4 rows" in said and read_rows(f"{folder}/out.parquet")["id"][:] == [f"row-{k}" for k in range(4)]


def test_where_nothing_works_nothing_is_written():
    with tempfile.TemporaryDirectory() as folder:
        words = given(folder)
        with served(status=401) as server:
            with pytest.raises(BadInput, match="the first 3 requests all failed alike: HTTP 401.*OPENAI_API_KEY"):
                run(*words, *asking(server))
        with served({"picture": "always"}) as server:
            with pytest.raises(BadInput, match="no row has an answer, so nothing is written; 4 rows failed:\n  row 'row-0'"):
                run(*words, *asking(server), "--samples", 1)
        assert sorted(p.name for p in pathlib.Path(folder).iterdir()) == ["out.parquet.journal", "photos", "rows.jsonl"]


def test_killed_at_random_moments_it_writes_the_same_bytes():
    rng = random.Random(5)
    with tempfile.TemporaryDirectory() as folder, served({"picture 7": "first", "picture 11": "always"}, every=7) as server:
        words = given(folder, 30)
        run(*words, *asking(server))
        wanted = pathlib.Path(folder, "out.parquet").read_bytes()
        once = len({(q, s) for q, s in server.asked})
        for name in ("out.parquet", "out.parquet.journal"):
            pathlib.Path(folder, name).unlink()
        server.asked.clear()
        server.pause, server.every = 0.03, 0
        deaths, journal = 0, pathlib.Path(folder, "out.parquet.journal")
        for more in (3, 6, 12):
            size = journal.read_bytes().count(b"\n") if journal.exists() else 1
            child = subprocess.Popen([*RUN, *words, *asking(server), "--concurrency", "2"], stderr=subprocess.DEVNULL)
            while child.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= size + more):
                time.sleep(0.002)
            time.sleep(rng.random() * 0.03)
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
                deaths += 1
            child.wait()
        assert deaths >= 2 and not pathlib.Path(folder, "out.parquet").exists()
        with open(journal, "ab") as file:
            file.write(b'{"key": "rejected')  # and a torn line
        server.pause = 0
        said, _ = run(*words, *asking(server))
        assert pathlib.Path(folder, "out.parquet").read_bytes() == wanted and "17 bytes of a half-written record" in said
        # What was on its way at a kill (two requests each time) may be asked again, nothing else.
        assert once <= len(server.asked) <= once + 2 * deaths, (once, len(server.asked), deaths)
        keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()[1:]]
        assert len(keys) == len(set(keys)) == once
        assert not list(pathlib.Path(folder).glob(".out*")), "nothing is left behind"


def test_rows_get_answers_under_noise():
    with tempfile.TemporaryDirectory() as folder:
        model = small_model(folder)
        words = [*given(folder, 5), *model, "--rejected", "noised", "--temperature", 0.9, "--step", 700]
        said, shown = run(*words, "--preview", 1, "--batch_size", 2)
        rows = read_rows(f"{folder}/out.parquet")
        assert len(rows) == 5 and set(rows["rejected_source"][:]) == {"noised:noise-700:small-vlm"} and "noise-700" in shown
        assert rows["edits"][:] == [[]] * 5 and "5 of 5" in said
        from mfpo.data.corruptions import Corruption
        from mfpo.evaluate.noised import DrawConfig, noised_answers
        from mfpo.model.vlm import load_vlm

        loaded = load_vlm(f"{folder}/small-vlm")
        by_hand = dict(noised_answers(*loaded, rows, Corruption(step=700), DrawConfig(8, temperature=0.9)))
        assert rows["rejected"][:] == [by_hand[i].text for i in rows["id"][:]]
        # Two rows are taken out of the journal, as a kill would: the same bytes come of it, with another batch size.
        before, journal = pathlib.Path(folder, "out.parquet").read_bytes(), pathlib.Path(folder, "out.parquet.journal")
        journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-2]))
        said, _ = run(*words, "--batch_size", 5)
        assert pathlib.Path(folder, "out.parquet").read_bytes() == before and "this run: 2 answers" in said
        with pytest.raises(BadInput, match="corruption.step: 700 there, 701 here"):
            run(*words, "--step", 701)


def test_photographs_get_both_answers():
    with tempfile.TemporaryDirectory() as folder:
        model = small_model(folder)
        words = given(folder, 3)
        photos = ["--rows", f"{folder}/photos", "--question", "describe the image .", "--output", f"{folder}/out.parquet"]
        run(*photos, *model, "--chosen", "model", "--rejected", "noised", "--temperature", 0.9)
        rows = read_rows(f"{folder}/out.parquet")
        assert rows["id"][:] == ["0.png", "1.png", "2.png"] and set(rows["question"][:]) == {"describe the image ."}
        assert set(rows["chosen_source"][:]) == {"model:small-vlm"} and all(a != b for a, b in zip(rows["chosen"][:], rows["rejected"][:]))
        from mfpo.evaluate.answers import generate_answers
        from mfpo.model.vlm import load_vlm

        greedy = generate_answers(*load_vlm(f"{folder}/small-vlm"), rows["image"][:], rows["question"][:], max_new_tokens=8)
        assert rows["chosen"][:] == greedy
        with pytest.raises(BadInput, match="--chosen model"):
            run(*photos, *model, "--rejected", "noised", "--output", f"{folder}/other.parquet")
        with pytest.raises(BadInput, match="--question is for a folder of photographs"):
            run(*words, *model, "--rejected", "noised", "--question", "what ?", "--output", f"{folder}/other.parquet")


def test_the_models_own_answers_get_mistakes_from_a_writer():
    with tempfile.TemporaryDirectory() as folder, served() as server:
        # Two rows have an answer, two get the model's; a model of random weights says nothing red, so that those fail.
        words = [*given(folder, 4), *small_model(folder)[:-2], *asking(server), "--chosen", "model", "--samples", 1]
        path = pathlib.Path(folder, "rows.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line if k < 2 else {**line, "chosen": None}) + "\n" for k, line in enumerate(lines)))
        said, _ = run(*words, "--max_new_tokens", 8)
        rows = read_rows(f"{folder}/out.parquet")
        assert rows["id"][:] == ["row-0", "row-1"] and rows["chosen_source"][:] == ["rows", "rows"]
        assert "2 × reply: same" in said and len(server.asked) == 4
        assert read_note(f"{folder}/out.parquet")["answers"]["model"]["base"]["name"] == "small-vlm"


def test_a_chat_model_of_a_folder_writes_too():
    from mfpo.model.small import CHAT_TEMPLATE, word_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        from transformers import LlamaConfig, LlamaForCausalLM

        tokenizer = word_tokenizer(["a"])
        tokenizer.chat_template = CHAT_TEMPLATE
        shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=4096, **shape)
        LlamaForCausalLM(config).save_pretrained(f"{folder}/chat", safe_serialization=True)
        tokenizer.save_pretrained(f"{folder}/chat")
        with pytest.raises(BadInput, match="no row has an answer.*\n.*holds no JSON.*raise --max_new_tokens"):  # random words
            run(*given(folder, 2), "--writer", f"{folder}/chat", "--use_cpu", "--max_new_tokens", 4, "--samples", 2)
        lines = pathlib.Path(folder, "out.parquet.journal").read_text().splitlines()
        assert len(lines) == 5 and json.loads(lines[0])["run"]["writer"]["model"]["name"] == "chat" and folder not in lines[0]
        assert all(json.loads(line)["record"]["tokens"][1] == 4 for line in lines[1:])


def test_bad_calls_are_refused():
    with tempfile.TemporaryDirectory() as folder:
        words = given(folder)
        there = ["--endpoint", "http://127.0.0.1:9/v1", "--writer_model", "m"]
        for more, message in (
            ([], "--endpoint URL and --writer_model"),
            (["--writer", "x", *there], "not both"),
            (["--rejected", "noised"], "need --model_name_or_path"),
            (["--rejected", "noised", *there], "belongs to --rejected inject"),
            ([*there, "--chosen", "model"], "need --model_name_or_path"),
            ([*there, "--kinds", "style"], "kinds=\\('style',\\)"),
            ([*there, "--step", 1000], "step=1000"),
            ([*there, "--limit", 0], "limit=0"),
            ([*there, "--samples", 0], "samples=0"),
            ([*there, "--writer_options", "[1]"], "give an object"),
            ([*there, "--writer_options", "{"], "is not JSON"),
            ([*there, "--price_in", -1], "price_in=-1"),
        ):
            with contextlib.redirect_stderr(io.StringIO()) as err, pytest.raises(SystemExit) as ended:
                main([str(word) for word in [*words, *more]])
            assert ended.value.code == 2 and re.search(message, err.getvalue()), (more, err.getvalue())
        for more, message in (
            ([*there, "--endpoint", "http://me:secret@host/v1"], "without name, password"),
            ([*there, "--output", f"{folder}/out.csv"], "name a .parquet file"),
            ([*there, "--concurrency", 0], "concurrency=0"),
            ([*there, "--images", f"{folder}/none"], "no such folder"),
            (["--writer", f"{folder}/none"], "is no folder"),
            ([*there, "--writer_options", '{"stream": true}'], "is set by the writer"),
        ):
            with pytest.raises(BadInput, match=message) as caught:
                run(*words, *more)
            assert "secret" not in str(caught.value)
        with pytest.raises(BadInput, match="is the input"):
            run("--rows", f"{folder}/x.parquet", "--output", f"{folder}/x.parquet", *there)
        pathlib.Path(folder, "out.parquet.journal").write_text("my notes\n")
        with pytest.raises(BadInput, match="is no journal of answers"):
            run(*words, *there)
        assert pathlib.Path(folder, "out.parquet.journal").read_text() == "my notes\n"
        pathlib.Path(folder, "out.parquet.journal").unlink()
        pathlib.Path(folder, "rows.jsonl").write_text('{"id": "a", "image": "0.png", "question": "Q?"}\n')
        with pytest.raises(BadInput, match="no column chosen|it has no 'chosen'"):
            run(*words, *there)
        assert sorted(p.name for p in pathlib.Path(folder).iterdir()) == ["photos", "rows.jsonl"], "no empty journal is left"
    with tempfile.TemporaryDirectory() as folder, served() as server:
        words = [*given(folder, 1), *asking(server)]
        run(*words)
        pathlib.Path(folder, "out.parquet.journal").unlink()
        with pytest.raises(BadInput, match="would be asked for again"):
            run(*words)
        run(*words, "--overwrite")
        assert len(server.asked) == 2
