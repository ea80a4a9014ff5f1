# Exported from nbs/benchmarks/judging.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.benchmarks.judging import *  # noqa: F403

import collections
import http.server
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from mfpo.benchmarks import judging
from mfpo.benchmarks.judging import JudgeError, Replies, Requests, endpoint_judge, judge
from mfpo.data.journal import Journal
from mfpo.data.writers import EndpointWriter, Reply, WriterError

for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
    os.environ.pop(name, None)
os.environ["NO_PROXY"] = "127.0.0.1"
KEY = "sk-very-secret"


class Judge(http.server.BaseHTTPRequestHandler):
    """A number is an HTTP status, "slow" no reply in time; anything else is the reply's text."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = asked["messages"][-1]["content"]
        with self.server.lock:
            self.server.seen.append(asked)
            self.server.count[question] += 1
            said = self.server.reply(question, self.server.count[question])
        try:
            if said == "slow":
                self.server.over.wait(30)
            status = int(said) if said.isdigit() else 200
            choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
            body = {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
            if status != 200:
                body = {"error": {"message": f"no: {self.headers['Authorization']}"}}
            body = json.dumps(body).encode()
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "0.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # the other side has gone


class Server:
    """`with Server(reply) as server:` on a free port."""

    def __init__(self, reply=lambda question, times: f"to {question}"):
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
        self.http.daemon_threads, self.http.handle_error = True, lambda *_: None
        self.http.reply, self.http.lock, self.http.over = reply, threading.Lock(), threading.Event()
        self.seen, self.count = [], collections.Counter()
        self.http.seen, self.http.count = self.seen, self.count
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.over.set()
        self.http.shutdown()
        self.http.server_close()

    def writer(self, **settings):
        quick = {"concurrency": 1, "timeout": 20, "backoff": 0.01, "max_retries": 2, "temperature": 0.0}
        return EndpointWriter(self.url, "judge-1", **quick | settings)


class Dumb:
    """A writer that forgets a request."""

    name, fingerprint = "dumb", {"model": "dumb"}

    def write(self, requests):
        for identity, _ in list(requests)[1:]:
            yield identity, Reply("ok", None, None, 0.0, 1)


def chats(count, about=None):
    pairs = tuple((f"row {k}", [{"role": "user", "content": f"q{k}"}]) for k in range(count))
    return Requests(pairs, {"benchmark": "b", "template_sha256": "0" * 64} if about is None else about)


def test_a_template_is_filled_as_format_fills_it():
    import tempfile
    from pathlib import Path

    import pytest

    from mfpo.benchmarks.judging import Template, template_from

    fields = ("question", "answer")
    values = {"question": "Is {this} 100 %?", "answer": "{} {question}"}  # braces in the values are text
    for text in ("Q: {question}\nA: {answer}", "{question} {answer} {question}", "{{json}} {question}{answer}"):
        assert Template(text, fields).chat(values) == [{"role": "user", "content": text.format(**values)}]
    official = "Q {} | A {} | {{}}"
    assert Template(official, fields).chat(values)[-1]["content"] == official.format(*values.values())
    asked = Template(official, fields, system="Be fair.").chat(values)
    assert asked[0] == {"role": "system", "content": "Be fair."} and len(asked) == 2
    assert Template(official, fields).digest != Template(official, fields, system="Be fair.").digest

    for text, reason in (
        ("{question}", "lacks {answer}"), ("none", "lacks {question}"), ("{} {} {}", "3 times {} for 2 fields"),
        ("{question} {}", "mixes {} with fields by name"), ("{question} {answer} {other}", "unknown field 'other'"),
        ("{question.__class__} {answer}", "unknown field 'question.__class__'"), ("{0} {1}", "unknown field '0'"),
        ("{question} {answer} }", "written twice"), ("{question} {answer", "written twice"),
        ("{question!r} {answer}", "'question' has a format"), ("{question:>9} {answer}", "'question' has a format"),
    ):
        with pytest.raises(ValueError) as caught:
            Template(text, fields, name="t.txt")
        assert reason in str(caught.value) and str(caught.value).startswith("t.txt: "), (text, caught.value)

    own = Template("{question}{answer}", fields, system="Be fair.")
    assert template_from(own) == own
    assert template_from(own, system="").system == "" and "another system message" in template_from(own, system="").name
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "official.txt"
        path.write_bytes("\ufeff{}\r\nä{}\n".encode())
        read = template_from(own, path)
        assert (read.text, read.name, read.system) == ("{}\r\nä{}\n", "official.txt", "Be fair.")
        path.write_bytes(b"{} {} \xff")
        with pytest.raises(ValueError, match="official.txt: is not UTF-8 at byte 6"):
            template_from(own, path)
        path.write_text("{}")
        with pytest.raises(ValueError, match="official.txt: has 1 times {} for 2 fields: question, answer"):
            template_from(own, path)
        for wrong in (folder, Path(folder) / "none.txt"):
            with pytest.raises(FileNotFoundError, match="cannot be read"):
                template_from(own, wrong)


def test_replies_have_to_fit_the_answers():
    import pytest

    from mfpo.benchmarks.judging import Replies, judged
    from mfpo.benchmarks.records import Item

    items = [Item(name, "?", None, name) for name in "abc"]
    answers, said = {"a": "1", "b": "2", "c": "3"}, {"c": "z", "a": "x", "b": "y"}
    found, how = judged(items, answers, Replies(said, {"judge": "j", "date": "2026-01-02"}), "bench")
    assert [(item.id, text, reply) for item, text, reply in found] == [("a", "1", "x"), ("b", "2", "y"), ("c", "3", "z")]
    assert how == {"judge": "j", "date": "2026-01-02", "items": 3, "answered": 3, "judged": 3}
    assert judged(items, answers, said, "bench")[1]["judge"] == "not named"
    with pytest.raises(ValueError, match="bench: is scored from a judge's replies"):
        judged(items, answers, None, "bench")
    with pytest.raises(ValueError, match="bench: 1 of 3 items have no answer"):
        judged(items, {"a": "1", "b": "2"}, said, "bench")
    with pytest.raises(ValueError, match="1 replies belong to no answer, the first to 'c'"):
        judged(items, {"a": "1", "b": "2"}, said, "bench", partial=True)
    with pytest.raises(ValueError, match="2 of 3 answers were not judged, the first is 'a'"):
        judged(items, answers, {"b": "y"}, "bench")
    part, how = judged(items, {"a": "1", "b": "2"}, {"b": "y"}, "bench", partial=True)
    assert [item.id for item, *_ in part] == ["b"] and (how["items"], how["answered"], how["judged"]) == (3, 2, 1)
    with pytest.raises(ValueError, match="2 of 2 answers were not judged"):
        judged(items, {"a": "1", "b": "2"}, {}, "bench", partial=True)
    with pytest.raises(ValueError, match="the reply to 'b' is None"):
        judged(items, answers, {**said, "b": None}, "bench")


def test_replies_come_once_and_name_the_judge():
    judging._today, kept = (lambda: "2026-02-03"), judging._today
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        path = Path(folder) / "made" / "b.journal"
        replies = judge(chats(9), server.writer(concurrency=4), path, progress=False)
        assert dict(replies) == {f"row {k}": f"to q{k}" for k in range(9)} and list(replies)[0] == "row 0"
        how = dict(replies.how)
        assert how["date"] == how["last_date"] == "2026-02-03"
        assert (how["judge"], how["temperature"], how["benchmark"], how["template_sha256"]) == ("judge-1", 0.0, "b", "0" * 64)
        assert how["settings"] == {"temperature": 0.0, "max_tokens": 1024, "seed": 0, "extra": {}}
        assert (how["cut"], how["asked_again"], how["failed"]) == (0, 0, {}) and json.loads(json.dumps(how)) == how
        assert set(server.count.values()) == {1}
        # Again, some days later: nothing is asked, and the date is still that of the first reply.
        judging._today = lambda: "2099-12-31"
        try:
            assert judge(chats(9), server.writer(), path, progress=False) == replies and len(server.seen) == 9
        finally:
            judging._today = kept
        # Another address is the same judge; another temperature, prompt or answer is another run.
        for requests, settings, reason in (
            (chats(9), {"temperature": 0.5}, "judge.temperature: 0.0 there, 0.5 here"),
            (chats(8), {}, "requests: "),
            (chats(9, {"benchmark": "b", "template_sha256": "1" * 64}), {}, "about.template_sha256: 0000"),
        ):
            with pytest.raises(ValueError, match="belongs to another run") as caught:
                judge(requests, server.writer(**settings), path, progress=False)
            assert reason in str(caught.value)
        assert len(server.seen) == 9
        assert len(judge(chats(2), server.writer(), path, overwrite=True, progress=False)) == 2 and len(server.seen) == 11


def test_faults_are_waited_out_or_named():
    faults = {"q1": "500", "q2": "429", "q3": "slow"}  # each once, then a reply
    with tempfile.TemporaryDirectory() as folder, Server(lambda q, n: faults.get(q, "ok") if n == 1 else "ok") as server:
        replies = judge(chats(5), server.writer(timeout=2, concurrency=2), Path(folder) / "j", progress=False)
        assert set(replies.values()) == {"ok"} and len(replies) == 5
        assert min(server.count[q] for q in faults) >= 2

    # One that never gets a reply is named, with the reason; the others are kept, and not asked again.
    for word, reason in (("400", "HTTP 400"), ("503", "HTTP 503.*2 attempts"), ("429", "HTTP 429"), ("slow", "no response within|was not there after")):
        working, quick = False, {"timeout": 2, "max_retries": 1} if word == "slow" else {"max_retries": 1}
        with tempfile.TemporaryDirectory() as folder, Server(lambda q, n: word if q == "q2" and not working else "ok") as server:
            path = Path(folder) / "j"
            with pytest.raises(JudgeError, match=rf"judge-1: 1 of 6 requests got no reply: 'row 2' \(({reason})") as caught:
                judge(chats(6), server.writer(**quick), path, progress=False)
            assert f"kept in {path}" in str(caught.value) and "--partial" in str(caught.value)
            before = dict(server.count)
            part = judge(chats(6), server.writer(**quick | {"max_retries": 0}), path, partial=True, progress=False)
            assert "row 2" not in part and len(part) == 5 and list(part.how["failed"]) == ["row 2"]
            working = True
            assert len(judge(chats(6), server.writer(**quick), path, progress=False)) == 6
            assert {q: n for q, n in server.count.items() if q != "q2"} == {q: n for q, n in before.items() if q != "q2"}


def test_a_wrong_key_ends_the_run_and_is_never_shown():
    os.environ["OPENAI_API_KEY"] = KEY
    try:
        with tempfile.TemporaryDirectory() as folder, Server(lambda q, n: "401") as server:
            path = Path(folder) / "j"
            with pytest.raises(WriterError, match="the first 3 requests all failed alike: HTTP 401.*set OPENAI_API_KEY") as caught:
                judge(chats(50), server.writer(), path, progress=False)
            assert len(server.seen) < 10 and KEY not in str(caught.value) and KEY.encode() not in path.read_bytes()
            with pytest.raises(JudgeError, match="HTTP 401") as caught:  # two only: too few to call the key wrong
                judge(chats(2), server.writer(), Path(folder) / "other", progress=False)
            assert KEY not in str(caught.value)
            with pytest.raises(JudgeError, match="2 of 2 requests got no reply"):  # nothing at all is no part
                judge(chats(2), server.writer(), Path(folder) / "other", partial=True, progress=False)
        with tempfile.TemporaryDirectory() as folder, Server(lambda q, n: "403" if q == "q0" else "ok") as server:
            path = Path(folder) / "j"
            replies = judge(chats(3), server.writer(), path, partial=True, progress=False)
            assert "HTTP 403" in replies.how["failed"]["row 0"]
            assert KEY not in repr(replies) + path.read_text() and len(replies) == 2
    finally:
        del os.environ["OPENAI_API_KEY"]


def test_a_killed_run_goes_on():
    script = """
    import sys
    from pathlib import Path
    from mfpo.benchmarks.judging import Requests, judge
    from mfpo.data.writers import EndpointWriter
    pairs = tuple((f"row {k}", [{"role": "user", "content": f"q{k}"}]) for k in range(12))
    requests = Requests(pairs, {"benchmark": "b", "template_sha256": "0" * 64})
    judge(requests, EndpointWriter(sys.argv[1], "judge-1", concurrency=1, temperature=0.0), sys.argv[2], progress=False)
    """
    children = []


    def until_the_sixth(question, times):
        if question == "q5" and children and times == 1:
            while len(journal_lines()) < 6:  # the run's own line and five replies
                time.sleep(0.01)
            os.kill(children[0].pid, signal.SIGKILL)
            children[0].wait()
        return f"to {question}"


    with tempfile.TemporaryDirectory() as folder, Server(until_the_sixth) as server:
        path = Path(folder) / "j"
        journal_lines = lambda: path.read_bytes().splitlines() if path.is_file() else []
        with server.http.lock:  # so that the child is known before its first request is answered
            children.append(subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), server.url, str(path)]))
        assert children[0].wait() == -signal.SIGKILL
        before = path.read_bytes()
        assert before.count(b"\n") == 6
        replies = judge(chats(12), server.writer(), path, progress=False)
        assert dict(replies) == {f"row {k}": f"to q{k}" for k in range(12)}
        assert path.read_bytes().startswith(before)
        # q5 was on its way when the run was killed; of the others none was asked twice.
        assert server.count == {f"q{k}": 2 if k == 5 else 1 for k in range(12)}
        # A line that a kill has cut in half is asked again, and nothing else.
        path.write_bytes(path.read_bytes()[:-20])
        assert judge(chats(12), server.writer(), path, progress=False).texts == replies.texts and len(server.seen) == 14


def test_replies_of_no_use_are_asked_again_where_that_is_wanted():
    use = lambda text: "rating" in text
    with tempfile.TemporaryDirectory() as folder, Server(lambda q, n: "rating: 3" if q != "q1" or n == 3 else "hm") as server:
        once = judge(chats(3), server.writer(), Path(folder) / "once", readable=use, progress=False)
        assert once["row 1"] == "hm" and len(server.seen) == 3  # a reply is a reply
        own = Requests(chats(3).chats, {}, {}, use)  # the requests know what can be read
        assert judge(own, server.writer(), Path(folder) / "own", tries=3, progress=False)["row 1"] == "rating: 3"
    with tempfile.TemporaryDirectory() as folder, Server(lambda q, n: "rating: 3" if q != "q1" or n == 3 else "hm") as server:
        path = Path(folder) / "j"
        second = judge(chats(3), server.writer(), path, readable=use, tries=2, progress=False)
        assert second["row 1"] == "hm" and second.how["asked_again"] == 1 and len(server.seen) == 4
        third = judge(chats(3), server.writer(), path, readable=use, tries=9, progress=False)  # more tries: the same journal
        assert third["row 1"] == "rating: 3" and len(server.seen) == 5
        assert judge(chats(3), server.writer(), path, readable=use, tries=9, progress=False) == third and len(server.seen) == 5
        seeds = [asked["seed"] for asked in server.seen if asked["messages"][0]["content"] == "q1"]
        assert len(set(seeds)) == 3  # each is drawn by itself
        with open(path) as file:
            assert sorted(json.loads(line)["key"] for line in list(file)[1:]) == ["1 row 0", "1 row 1", "1 row 2", "2 row 1", "3 row 1"]


def test_requests_are_checked_before_anything_is_asked():
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        path = Path(folder) / "j"
        chat = [{"role": "user", "content": "q"}]
        for requests, options, reason in (
            ([], {}, "nothing to judge"), ([("a", chat), ("a", chat)], {}, "'a'.*each is there once"), ([(1, chat)], {}, "ids are texts"),
            (chats(1), {"tries": 0}, "tries=0"), (chats(1), {"tries": True}, "tries=True"), (chats(1), {"tries": 2}, "give `readable`"),
        ):
            with pytest.raises(ValueError, match=reason):
                judge(requests, server.writer(), path, progress=False, **options)
        assert not server.seen and not path.exists()
        with pytest.raises(JudgeError, match="dumb: 1 of 3 requests got no reply: 'row 0' .the writer gave no outcome"):
            judge(chats(3), Dumb(), path, progress=False)
        path.unlink()
        assert dict(judge([("a", chat)], server.writer(), path, progress=False)) == {"a": "to q"}  # plain pairs will do
        official = Requests((), {}, {"temperature": 0.2, "max_tokens": None})
        made = endpoint_judge(official, "m", server.url)
        assert (made.temperature, made.max_tokens, made.name) == (0.2, None, "m")
        assert endpoint_judge(official, "m", server.url, temperature=None, seed=None).fingerprint["temperature"] is None
