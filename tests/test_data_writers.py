# Exported from nbs/data/writers.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.data.writers import *  # noqa: F403

import email.utils, http.server, json, os, socket, threading, time
import pytest

for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
    os.environ.pop(name, None)
os.environ["NO_PROXY"] = "127.0.0.1"
KEY = "sk-very-secret"


def completion(text, **more):
    """The body of a good response."""
    usage = {"prompt_tokens": 11, "completion_tokens": 5}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"object": "chat.completion", "choices": [choice | more], "usage": usage}).encode()


class Script(http.server.BaseHTTPRequestHandler):
    """Answers as `server.script` says, a word a request; its last word goes on for ever."""

    def log_message(self, *_):
        pass

    def respond(self, status, body, kind="application/json", length=None, **headers):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": length or len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            word = self.server.script.pop(0) if len(self.server.script) > 1 else self.server.script[0]
            self.server.seen.append((time.monotonic(), asked, self.headers))
        try:
            self.act(word, asked)
        except OSError:
            pass  # the other side has gone

    def act(self, word, asked):
        said = "echo: " + asked["messages"][0]["content"]
        if word == "slow":
            time.sleep(1)
        elif word == "trickle":
            self.send_response(200)
            self.end_headers()
            for _ in range(60):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.02)
        elif word == "close":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif word == "noise":
            self.wfile.write(b"\x00\xff not HTTP \r\n\r\n")
        elif word == "html":
            self.respond(200, b"<html>Bad gateway</html>", "text/html")
        elif word == "half":
            self.respond(200, completion(said)[:-30])
        elif word == "torn":
            self.respond(200, completion(said)[:-30], length=5000)
            self.close_connection = True
        elif word == "huge":
            self.respond(200, b" " * 300_000)
        elif word == "later":
            self.respond(429, b'{"error": {"message": "slow down"}}', Retry_After=0.3)
        elif word == "spent":
            self.respond(429, b'{"error": {"message": "no money left", "code": "insufficient_quota"}}')
        elif word.isdigit():
            self.respond(int(word), json.dumps({"error": {"message": f"no: {self.headers['Authorization']}"}}).encode())
        else:
            bodies = {
                "no choices": b'{"choices": []}',
                "null": completion(None),
                "list": b"[]",
                "number": completion(7),
                "cut": completion(said, finish_reason="length"),
                "no usage": json.dumps({"choices": [{"message": {"content": said}}]}).encode(),
                "ok": completion(said),
            }
            self.respond(200, bodies[word])


class Server:
    """`with Server("500", "ok") as server:` on a free port of 127.0.0.1."""

    def __init__(self, *script):
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Script)
        self.http.daemon_threads, self.http.handle_error = True, lambda *_: None
        self.http.script, self.http.seen, self.http.lock = list(script), [], threading.Lock()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    @property
    def seen(self):
        return self.http.seen


def ask(server, count=1, **settings):
    """Outcomes by id of `count` requests."""
    defaults = {"concurrency": 1, "timeout": 20, "backoff": 0.01, "max_retries": 3, "max_bytes": 100_000}
    writer = EndpointWriter(server.url, "writer-1", **defaults | settings)
    chats = ((f"row {k}", [{"role": "user", "content": f"say {k}"}]) for k in range(count))
    return dict(writer.write(chats))


def test_every_fault_is_waited_out():
    faults = ("later", "500", "503", "close", "noise", "html", "half", "torn", "huge", "no choices", "null",
              "list", "number", "408", "429")
    for word in faults:
        with Server(word, word, "ok") as server:
            (outcome,) = ask(server).values()
            assert isinstance(outcome, Reply), (word, outcome)
            assert (outcome.text, outcome.prompt_tokens, outcome.completion_tokens) == ("echo: say 0", 11, 5), word
            assert outcome.attempts == 3 == len(server.seen), word
    for word in ("slow", "trickle"):
        with Server(word, "ok") as server:
            outcome = ask(server, timeout=0.4)["row 0"]
            assert isinstance(outcome, Reply) and outcome.attempts == len(server.seen) >= 2, (word, outcome)
    with Server("ok") as server:
        assert ask(server)["row 0"].attempts == 1


def test_what_waiting_cannot_mend_is_not_tried_again():
    for word, kind, reason in (("400", "HTTP 400", "no"), ("401", "HTTP 401", "no"), ("403", "HTTP 403", "no"),
                               ("404", "HTTP 404", "no"), ("spent", "HTTP 429", "no money left")):
        with Server(word, "ok") as server:
            (outcome,) = ask(server).values()
            assert isinstance(outcome, Failure) and outcome.kind == kind and reason in outcome.reason, outcome
            assert outcome.attempts == 1 == len(server.seen)
    for word, kind in (("500", "HTTP 500"), ("html", "not a completion"), ("null", "not a completion"), ("close", "connection"),
                       ("slow", "timeout"), ("huge", "not a completion")):
        with Server(word) as server:
            (outcome,) = ask(server, max_retries=1, timeout=0.3 if word == "slow" else 20).values()
            assert outcome.kind == kind and outcome.attempts == 2 and "(2 attempts)" in outcome.reason, outcome


def test_a_run_that_cannot_work_ends_with_one_message():
    with Server("401") as server:
        with pytest.raises(WriterError, match="the first 3 requests all failed alike: HTTP 401.*set OPENAI_API_KEY"):
            ask(server, 10_000, concurrency=4)
        assert len(server.seen) < 20
    server = Server("ok")
    server.http.server_close()  # nobody listens
    with pytest.raises(WriterError, match="connection failed.*is the server running"):
        ask(server, 100)
    # Once something has worked, single failures are the rows' own; twenty-five in a row are not.
    with Server("ok", "400", "400", "400", "400", "ok") as server:
        outcomes = ask(server, 8)
        assert [type(o).__name__ for o in outcomes.values()] == ["Reply"] + ["Failure"] * 4 + ["Reply"] * 3
    with Server("ok", "403") as server:
        with pytest.raises(WriterError, match="the last 25 requests all failed alike.*HTTP 403"):
            ask(server, 10_000, concurrency=2)


def test_the_key_is_sent_and_never_shown():
    os.environ["OPENAI_API_KEY"] = KEY
    try:
        with Server("401", "ok") as server:  # this server says the key in its message
            outcomes = ask(server, 2)
            assert server.seen[0][2]["Authorization"] == f"Bearer {KEY}"
            assert outcomes["row 0"].reason == "HTTP 401: no: Bearer [key]" and KEY not in str(outcomes)
            writer = EndpointWriter(server.url, "m")
            assert KEY not in repr(writer) + json.dumps(writer.fingerprint)
        with Server("401") as server:
            with pytest.raises(WriterError) as caught:
                ask(server, 9)
            assert KEY not in str(caught.value)
    finally:
        del os.environ["OPENAI_API_KEY"]
    with Server("ok") as server:  # a local server without a key
        assert isinstance(ask(server)["row 0"], Reply)


def test_many_at_a_time_and_each_once():
    with Server("ok") as server:
        outcomes = ask(server, 60, concurrency=8)
        assert {k: v.text for k, v in outcomes.items()} == {f"row {k}": f"echo: say {k}" for k in range(60)}
        bodies = [asked for _, asked, _ in server.seen]
        assert len(bodies) == 60 and len({b["seed"] for b in bodies}) == 60 and set(bodies[0]) == {
            "model", "messages", "temperature", "max_tokens", "seed"}
        again = ask(server, 3, concurrency=1)
        assert [b["seed"] for _, b, _ in server.seen[60:]] == [
            next(b["seed"] for b in bodies if b["messages"][0]["content"] == f"say {k}") for k in range(3)]
        seeds = {b["seed"] for _, b, _ in server.seen}
        ask(server, 3, seed=1)
        assert not seeds & {b["seed"] for _, b, _ in server.seen[63:]}
        ask(server, 1, seed=None, temperature=None, extra={"top_k": 4, "max_completion_tokens": 9})
        assert set(server.seen[-1][1]) == {"model", "messages", "top_k", "max_completion_tokens"}


def test_requests_are_read_only_a_little_ahead():
    taken = []


    def endless():
        k = 0
        while True:
            taken.append(k)
            yield f"row {k}", [{"role": "user", "content": "x"}]
            k += 1


    with Server("ok") as server:
        outcomes = EndpointWriter(server.url, "m", concurrency=2).write(endless())
        for _ in range(5):
            next(outcomes)
        assert len(taken) <= 5 + 4
        outcomes.close()


def test_retry_after_holds_every_request_back():
    from mfpo.data.writers import _Gate

    with Server("later", "ok") as server:
        outcomes = ask(server, 3)
        assert [o.attempts for o in outcomes.values()] == [2, 1, 1]
        times = [moment for moment, _, _ in server.seen]
        assert times[1] - times[0] >= 0.3, "the server asked for so much peace"
    # The gate is one for all threads: a pause that one of them was told holds for the others.
    gate, began = _Gate(), time.monotonic()
    gate.close_for(0.2)
    waiting = [threading.Thread(target=gate.wait) for _ in range(3)]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    assert time.monotonic() - began >= 0.2
    gate.close_for(3600)
    gate.stop.set()
    gate.wait()  # the end of the run opens it
    assert retry_after("2") == 2 and retry_after(None) == retry_after("soon") == retry_after("-5") == retry_after("nan") == 0
    assert 55 < retry_after(email.utils.formatdate(time.time() + 60, usegmt=True)) <= 60


def test_pauses_double_and_are_the_same_every_time():
    writer = EndpointWriter("http://localhost:1/v1", "m", backoff=1, max_backoff=10)
    for attempt, most in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (60, 10)):
        drawn = [writer.pause(f"row {k}", attempt) for k in range(50)]
        assert most / 2 <= min(drawn) < max(drawn) <= most and drawn == [writer.pause(f"row {k}", attempt) for k in range(50)]


def test_responses_that_are_cut_or_uncounted():
    with Server("cut", "no usage") as server:
        cut, plain = ask(server, 2).values()
        assert cut.cut and not plain.cut and plain.prompt_tokens is None and plain.completion_tokens is None
    for body in (b"", b"\xff", b"1", b'{"choices": {}}', b'{"choices": [1]}', b'{"choices": [{"message": "hi"}]}',
                 b'{"choices": [{"message": {"content": " "}}]}', b'{"error": {"message": "x"}}', b"[" * 100_000):
        with pytest.raises(ValueError, match="response"):
            read_completion(body)
    assert read_completion(b'{"choices": [{"message": {"content": "hi"}}], "usage": {"prompt_tokens": -1}}') == ("hi", None, None, False)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="OPENAI_BASE_URL"):
        EndpointWriter(model="m")
    for url in ("localhost:8000", "ftp://x/v1", "http://me:secret@host/v1", "http://host/v1?key=secret", "http://"):
        with pytest.raises(ValueError, match="base_url") as caught:
            EndpointWriter(url, "m")
        assert "secret" not in str(caught.value)
    for wrong in ({"concurrency": 0}, {"timeout": 0}, {"max_retries": -1}, {"temperature": 3}, {"max_tokens": 0},
                  {"extra": {"stream": True}}, {"timeout": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EndpointWriter("http://localhost:1/v1", "m", **wrong)
    with pytest.raises(ValueError, match="model is not given"):
        EndpointWriter("http://localhost:1/v1")
    os.environ["OPENAI_BASE_URL"] = "http://127.0.0.1:9/v1/"
    assert EndpointWriter(model="m").base_url == "http://127.0.0.1:9/v1" and EndpointWriter(model="m").name == "m"
    del os.environ["OPENAI_BASE_URL"]
