"""`nlsr serve` as its clients see it: a server in a process of its own, on a port that the system chooses."""

import base64
import contextlib
import io
import json
import queue
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nlsr
from nlsr.explain import explain, sources

pytest.importorskip("fastapi", reason="needs the extra serve")
httpx = pytest.importorskip("httpx", reason="needs httpx, which CI installs beside the extra serve")

from tests.extras.server import Server  # noqa: E402

from nlsr.serve import answers  # noqa: E402 - these need the extra
from nlsr.serve.app import different  # noqa: E402 - these need the extra
from nlsr.serve.asked import Asked  # noqa: E402
from nlsr.serve.computing import Cancelled, Computing  # noqa: E402
from nlsr.serve.explaining import Explorer  # noqa: E402
from nlsr.serve.jobs import Jobs  # noqa: E402
from nlsr.serve.settings import Settings  # noqa: E402
from nlsr.serve.store import Store  # noqa: E402

ROOT = Path(__file__).parents[2]
CAT = ROOT / "examples" / "cat.png"
LONG = {"model": "lcoan-light", "scale": "8", "ensemble": "true"}
"""Options with which the cat takes minutes."""


@pytest.fixture
def start(tmp_path, model):
    """start(*options) -> Server, in one folder; all are killed in the end."""
    servers = []

    def begin(*options, **more):
        servers.append(Server(tmp_path, model, *options, **more))
        return servers[-1]

    yield begin
    for server in servers:
        server.client.close()
        server.process.kill()
        server.process.wait()
        server.process.stdout.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory, model):
    """One server for the tests that change nothing of it."""
    server = Server(tmp_path_factory.mktemp("shared"), model)
    yield server
    server.end()
    server.process.stdout.close()


def png(width=17, height=13, seed=0):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def bomb(width=100_000, height=100_000):
    """A PNG that says it is large."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def pixels(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image).astype(int)


def problem(response):
    """The status and what is said, of a problem as RFC 9457 has it."""
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    assert told["status"] == response.status_code
    assert told["detail"]
    assert "\n" not in told["detail"]
    return response.status_code, told["detail"]


def test_a_picture_comes_back_as_the_library_makes_it(shared, model):
    response = shared.send(png(), "my photo.png")
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert "my%20photo_34x26.png" in response.headers["content-disposition"]
    expected = np.asarray(nlsr.Upscaler(model)(Image.open(io.BytesIO(png())))).astype(int)
    assert abs(pixels(response.content) - expected).max() <= 1
    assert shared.left() == []


def test_options_are_those_of_the_command(shared):
    response = shared.send(png(), width="51", format="jpg", quality="50")
    with Image.open(io.BytesIO(response.content)) as image:
        assert (image.size, image.format) == ((51, 39), "JPEG")


def test_a_job_tells_what_happens_until_its_result_is_there(shared):
    response = shared.send(png(), to="/api/jobs")
    assert response.status_code == 201
    job = response.json()
    assert response.headers["location"] == f"/api/jobs/{job['id']}"
    assert (job["estimate"]["new_width"], job["estimate"]["new_height"]) == (34, 26)
    assert job["estimate"]["memory"] > 0
    seen = list(shared.events(job["id"]))
    order = ["waiting", "running", "done"]
    places = [order.index(event["state"]) for event in seen]
    assert places == sorted(places)
    assert seen[-1]["state"] == "done"
    assert seen[-1]["progress"] == 1
    result = shared.client.get(f"/api/jobs/{job['id']}/result")
    assert pixels(result.content).shape == (26, 34, 3)
    assert len(result.content) == seen[-1]["result"]["bytes"]
    assert shared.client.get(f"/api/jobs/{job['id']}/picture").content == png()
    assert job["id"] in [each["id"] for each in shared.client.get("/api/jobs").json()]
    assert shared.client.delete(f"/api/jobs/{job['id']}").status_code == 204
    assert problem(shared.client.get(f"/api/jobs/{job['id']}"))[0] == 404
    assert shared.left() == []


def test_results_come_in_one_file_under_different_names(shared):
    import zipfile

    jobs = [shared.send(png(seed=seed), "same.png", to="/api/jobs").json()["id"] for seed in (0, 1)]
    for job in jobs:
        shared.until(job, "done")
    response = shared.client.get("/api/results.zip", params={"id": jobs})
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.namelist() == ["same_34x26.png", "same_34x26_2.png"]
    for job in jobs:
        shared.client.delete(f"/api/jobs/{job}")
    assert shared.left() == []


@pytest.mark.parametrize(
    ("content", "options", "status", "says"),
    [
        (b"", {}, 422, "a.png: "),
        (b"words", {}, 422, "a.png: expected PNG, JPEG"),
        (png()[:200], {}, 422, "a.png: expected a whole PNG image, got damaged or truncated data"),
        (bomb(), {}, 422, "a.png: has 100000×100000 pixels"),
        (png(), {"scale": "17"}, 400, "--scale 17.0: expected a number above 0 and up to 16"),
        (png(), {"scale": "2", "width": "9"}, 400, "expected one of --scale, --width"),
        (png(), {"fit": "large"}, 400, "--fit large: expected a box like 3840x2160"),
        (png(), {"tile": "3"}, 400, "--tile 3: expected"),
        (png(), {"background": "nowhere"}, 400, "--background nowhere: expected a colour"),
        (png(), {"model": "../../etc/passwd"}, 400, "no model is named '../../etc/passwd'; there are: tiny, "),
        (png(), {"quality": "101"}, 422, "quality: "),
        (png(), {"format": "exe"}, 422, "format: "),
        (png(), {"output": "/tmp/x.png"}, 422, "output: extra inputs are not permitted"),
    ],
)
@pytest.mark.parametrize("to", ["/api/upscale", "/api/jobs"])
def test_what_the_command_refuses_is_refused_in_its_words(shared, content, options, status, says, to):
    response = shared.send(content, to=to, **options)
    if response.status_code == 201:  # seen when the pixels are decoded
        event = shared.until(response.json()["id"], "failed")
        shared.client.delete(f"/api/jobs/{event['id']}")
        came, said = event["problem"]["status"], event["problem"]["detail"]
    else:
        came, said = problem(response)
    assert (came, said[: len(says)]) == (status, says)
    assert str(shared.folder) not in said
    assert shared.left() == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("id", ["none", "..", "%2e%2e%2f%2e%2e", "a" * 3000])
def test_there_is_nothing_under_an_id_that_no_job_has(shared, method, id):
    assert problem(shared.client.request(method, f"/api/jobs/{id}"))[0] in (404, 405)


@pytest.mark.parametrize("name", ["../../evil.png", "..\\..\\evil.png", "/etc/evil.png", "evil\n.png", "C:evil.png"])
def test_the_name_of_an_upload_is_only_shown(shared, name):
    job = shared.send(png(), name, to="/api/jobs").json()
    assert job["name"] in ("evil.png", "evil%0A.png", "C:evil.png")
    shared.until(job["id"], "done")
    files = {path.name for path in shared.folder.glob("*/*/*")}
    assert files == {"picture", "result.png", "record.json"}
    shared.client.delete(f"/api/jobs/{job['id']}")


@pytest.mark.parametrize("path", ["/../../../etc/passwd", "/%2e%2e/%2e%2e/app.py", "/..%2f..%2fapp.py", "//etc/passwd"])
def test_no_path_leads_out_of_the_page(shared, path):
    with socket.create_connection(("127.0.0.1", shared.port)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        answer = raw.makefile("rb").read()
    assert answer.split()[1] in (b"404", b"405", b"400")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "localhost.evil.example:8000"}, 421),
        ({"host": "192.168.0.7"}, 421),
        ({"host": "[::1"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_other_sites_and_other_names_are_refused(shared, headers, status, method):
    response = shared.client.request(method, "/api/jobs", headers=headers)
    assert problem(response)[0] == status
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_page_may_load_nothing_from_elsewhere_and_nobody_may_frame_it(shared):
    response = shared.client.get("/", headers={"origin": shared.url, "sec-fetch-site": "same-origin"})
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    static = ROOT / "src" / "nlsr" / "serve" / "static"
    for path in static.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(["']?http|from ["']http""", text), path


def test_another_address_needs_the_token(start):
    server = start("--host", "0.0.0.0")
    token = re.search(r"#token=(\S+)", server.line)[1]
    assert len(token) > 20
    url = f"http://127.0.0.1:{server.port}"
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {token}"}):
        assert problem(httpx.get(f"{url}/api/jobs", headers=headers))[0] == 401
    assert problem(httpx.post(f"{url}/api/upscale", files={"file": png()}))[0] == 401
    assert httpx.get(f"{url}/api/jobs", headers={"authorization": f"Bearer {token}"}).json() == []
    assert httpx.get(f"{url}/api/health").json()["token"] is True


def test_what_is_no_form_is_small(shared):
    for content in (b"[" * 70_000, b'{"picture_width": ' + b" " * 70_000 + b"1}"):
        assert problem(shared.client.post("/api/estimate", content=content))[0] == 413
    json = {"content-type": "application/json"}
    assert problem(shared.client.post("/api/estimate", content=b"[" * 60_000, headers=json))[0] in (400, 422)


def raw(server, *parts):
    """What a server answers to these bytes, sent one after another over a connection of their own."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        with contextlib.suppress(ConnectionError):
            return connection.makefile("rb").read()
    return b""


@pytest.mark.parametrize(
    "head",
    [
        b"x: " + b"a" * 200_000,
        b"\r\n".join(b"x-%d: a" % number for number in range(20_000)),
        b"content-length: " + b"9" * 5000,
        b"content-length: -1",
        b"host: localhost",
        b"no header",
    ],
)
def test_heads_that_are_too_large_or_wrong_are_refused_and_the_server_goes_on(shared, head):
    answer = raw(shared, b"GET /api/health HTTP/1.1\r\nhost: localhost\r\n", head, b"\r\nconnection: close\r\n\r\n")
    assert not answer or answer.split()[1] in (b"400", b"413", b"431")
    assert shared.client.get("/api/health").status_code == 200


def test_limits_hold(start):
    server = start("--max-upload", "1", "--max-pixels", "5000", "--max-jobs", "2")
    large = bytes(3 * 2**20)
    assert problem(server.send(large)) == (
        413,
        "expected a request of at most 1 MiB; send a smaller file, or see --max-upload",
    )
    parts = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n', large, b"\r\n--b--\r\n"
    counted = server.client.post(
        "/api/upscale", content=iter(parts), headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert problem(counted)[0] == 413
    assert problem(server.send(png(100, 60)))[0] == 422
    for status in (201, 201, 429):
        assert server.send(png(), to="/api/jobs").status_code == status


def test_a_job_is_cancelled_in_every_state(shared):
    picture = CAT.read_bytes()
    running = shared.send(picture, to="/api/jobs", **LONG).json()["id"]
    shared.until(running, "running")
    waiting = shared.send(picture, to="/api/jobs", **LONG).json()["id"]
    assert shared.client.get(f"/api/jobs/{waiting}").json()["state"] == "waiting"
    assert problem(shared.client.get(f"/api/jobs/{waiting}/result"))[0] == 409
    for job in (waiting, running):
        assert shared.client.delete(f"/api/jobs/{job}").status_code == 204
        assert shared.client.delete(f"/api/jobs/{job}").status_code == 404
    assert shared.send(png()).status_code == 200  # its turn comes
    done = shared.send(png(), to="/api/jobs").json()["id"]
    shared.until(done, "done")
    assert shared.client.delete(f"/api/jobs/{done}").status_code == 204
    assert shared.left() == []


def test_who_hangs_up_cancels_and_half_an_upload_is_nothing(shared):
    head = "POST /api/upscale HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=b\r\n"
    body = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + CAT.read_bytes()
    for name, value in LONG.items():
        body += f'\r\n--b\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
    body += b"\r\n--b--\r\n"
    for part in (len(body) // 2, len(body)):
        with socket.create_connection(("127.0.0.1", shared.port)) as raw:
            raw.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:part])
            if part == len(body):
                while not shared.client.get("/api/health").json()["jobs"]["running"]:
                    pass
    assert shared.send(png()).status_code == 200
    assert shared.left() == []


def test_connections_that_are_cut_while_the_answer_is_sent_leave_nothing(shared):
    body = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + png(250, 250)
    for name, value in {"model": "tiny", "scale": "4", "format": "bmp"}.items():
        body += f'\r\n--b\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
    body += b"\r\n--b--\r\n"
    head = f"POST /api/upscale HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    head += "content-type: multipart/form-data; boundary=b\r\n\r\n"
    job = shared.send(png(250, 250), to="/api/jobs", scale="4", format="bmp").json()["id"]
    shared.until(job, "done")
    for request in (
        head.encode() + body,
        f"GET /api/results.zip?id={job} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode(),
        f"GET /api/jobs/{job}/result HTTP/1.1\r\nhost: localhost\r\n\r\n".encode(),
        b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ):
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # the server cannot send all
            connection.connect(("127.0.0.1", shared.port))
            connection.sendall(request)
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
    shared.client.delete(f"/api/jobs/{job}")
    assert shared.left() == []
    assert [path.name for path in shared.folder.glob("*/*")] == ["lock"]


def test_results_are_removed_when_they_are_old(start):
    server = start("--keep", "0.02")
    job = server.send(png(), to="/api/jobs").json()["id"]
    server.until(job, "done")
    assert server.left() == []
    assert problem(server.client.get(f"/api/jobs/{job}"))[0] == 404


FULL_DISK = """
import errno, os
from nlsr.serve.jobs import Jobs
def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
os.fsync = full
Jobs.counts = lambda self: 1 / 0
"""


def test_a_full_disk_and_a_mistake_are_problems_too(start):
    server = start(first=FULL_DISK)
    full = 507, "the disk of the server is full; delete finished jobs, or wait until they are removed"
    assert problem(server.send(png())) == full  # the result cannot be written
    assert problem(server.send(png(), to="/api/jobs")) == full  # nor that there is a job
    assert server.left() == []
    mistake = server.client.get("/api/health")
    assert problem(mistake) == (500, "ZeroDivisionError: this is a mistake of nlsr, please report it")
    assert mistake.headers["content-security-policy"].startswith("default-src 'none'")
    assert mistake.headers["cache-control"] == "no-store"
    assert "ZeroDivisionError" in server.end()[1]  # with its traceback, for the report


def test_a_killed_server_is_followed_by_one_that_says_what_happened(start):
    server = start()
    picture = CAT.read_bytes()
    done = server.send(png(), "done.png", to="/api/jobs").json()["id"]
    server.until(done, "done")
    running = server.send(picture, "running.png", to="/api/jobs", **LONG).json()["id"]
    server.until(running, "running")
    waiting = server.send(png(), "waiting.png", to="/api/jobs").json()["id"]
    server.end(signal.SIGKILL)
    following = start()
    following.until(waiting, "done")
    jobs = {job["id"]: job for job in following.client.get("/api/jobs").json()}
    assert {id: job["state"] for id, job in jobs.items()} == {done: "done", running: "failed", waiting: "done"}
    assert "the server was ended while this was computed" in jobs[running]["problem"]["detail"]
    assert pixels(following.client.get(f"/api/jobs/{done}/result").content).shape == (26, 34, 3)
    assert len(list(following.folder.iterdir())) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_server_ends_cleanly_whatever_it_does(start, number):
    server = start()
    job = server.send(CAT.read_bytes(), to="/api/jobs", **LONG).json()["id"]
    server.until(job, "running")
    seen = queue.Queue()

    def listen():
        with contextlib.suppress(httpx.HTTPError):
            for event in server.events(job):
                seen.put(event)
        seen.put(None)

    listener = threading.Thread(target=listen)
    listener.start()
    seen.get()
    code, said = server.end(number)
    listener.join()
    assert (code, said) == (128 + number, "serve: stopped; 1 unfinished job was abandoned\n")
    assert list(server.folder.iterdir()) == []


def test_a_port_that_is_taken_is_one_line(shared, model):
    command = [sys.executable, "-m", "nlsr", "serve", "--port", str(shared.port), "-m", str(model)]
    taken = subprocess.run(command, capture_output=True, text=True, check=False)
    assert taken.returncode == 1
    assert re.fullmatch(r"serve: cannot listen on 127.0.0.1 port \d+ \(.*\); choose another with --.*\n", taken.stderr)


def test_a_pixel_draws_on_what_the_library_says_and_the_picture_is_sent_once(shared, model):
    response = shared.client.post("/api/explain", files={"file": png(40, 30)}, data={"model": "tiny", "x": 7, "y": 9})
    told = response.json()
    image = torch.from_numpy(pixels(png(40, 30)) / 255).float().permute(2, 0, 1)[None]
    network = nlsr.load(model)
    for at in ((7, 9), (31, 2)):
        if at != (7, 9):
            form = {"picture": (None, told["picture"]), "model": (None, "tiny"), "x": (None, "31"), "y": (None, "2")}
            told = shared.client.post("/api/explain", files=form).json()
        drawn = sources(network, image, at, count=12)
        assert [(each["x"], each["y"]) for each in told["affinity"]["strongest"]] == [
            tuple(place) for place in drawn.strongest.tolist()
        ]
        assert told["affinity"]["operator"] == "kmeans"
        assert told["affinity"]["group"] == [int(codes[at[1], at[0]]) for codes in drawn.groups]
        assert told["affinity"]["sum"] == pytest.approx(float(drawn.heat.sum()))


def test_a_job_is_asked_about_until_it_is_deleted(shared):
    job = shared.send(png(40, 30), to="/api/jobs").json()["id"]
    shared.until(job, "done")
    form = {"model": (None, "tiny"), "x": (None, "7"), "y": (None, "9")}
    told = shared.client.post("/api/explain", files=form | {"job": (None, job)}).json()
    assert shared.client.post("/api/explain", files=form | {"picture": (None, told["picture"])}).status_code == 200
    shared.client.delete(f"/api/jobs/{job}")
    for place in ("job", "picture"):
        assert problem(shared.client.post("/api/explain", files=form | {place: (None, job)}))[0] == 404


def test_an_attribution_is_what_the_library_says(shared, model):
    form = {"model": "tiny", "x": 7, "y": 9, "attribution_steps": 3}
    told = shared.client.post("/api/explain", files={"file": png(40, 30)}, data=form).json()["attribution"]
    image = torch.from_numpy(pixels(png(40, 30)) / 255).float().permute(2, 0, 1)[None]
    found = explain(nlsr.load(model), image, (7, 9), steps=3)
    assert told["diffusion_index"] == pytest.approx(found.attribution.diffusion_index, rel=1e-3)
    assert (told["region"]["width"], told["region"]["height"]) == (40, 30)
    map = found.attribution.map
    assert abs(pixels(base64.b64decode(told["map"])) - 255 * (map / map.max()).sqrt().numpy()).max() <= 2


def test_what_has_no_attention_is_told_and_something_that_has_is_explained_unasked(start, model, plain):
    inside = {"lcoan-light-x2": str(plain), "attentive-x2": str(model)}  # the weights inside the package
    patch = "import nlsr.weights as w, nlsr.weights.catalogue as c, pathlib\n"
    patch += f"w.packaged = c.packaged = lambda: {{n: pathlib.Path(p) for n, p in {inside}.items()}}"
    server = start("-m", str(plain), first=patch)
    models = server.client.get("/api/models").json()
    assert (models["default"], models["explained"]) == ("lcoan-light", "attentive")
    attention = {each["name"]: each["attention"] for each in models["models"] + models["families"]}
    assert attention == {
        "tiny": ["kmeans"],
        "plain": [],
        "lcoan-light-x2": [],
        "attentive-x2": ["kmeans"],
        "lcoan-light": [],
        "attentive": ["kmeans"],
    }
    told = server.client.post("/api/explain", files={"file": png(40, 30)}, data={"x": 7, "y": 9}).json()
    assert (told["model"], told["affinity"]["operator"]) == ("attentive", "kmeans")
    form = {"x": 7, "y": 9, "model": "plain", "attribution_steps": 1}
    told = server.client.post("/api/explain", files={"file": png(40, 30)}, data=form).json()
    assert told["affinity"] is None
    assert told["attribution"]["diffusion_index"] > 0


class Later:
    """An event that is set after it was asked a few times: while something is computed."""

    def __init__(self):
        self.asked = 0

    def is_set(self):
        self.asked += 1
        return self.asked > 3


def test_an_explanation_that_nobody_waits_for_ends(tmp_path, model):
    (tmp_path / "a.png").write_bytes(png(40, 30))
    computing = Computing(Settings(models={"tiny": model}))
    explorer = Explorer(computing)
    picture = explorer.add(tmp_path / "a.png")
    asked = {"model": "tiny", "affinity": 0, "count": 3}
    with pytest.raises(Cancelled):
        explorer.ask(picture, (1, 1), cancelled=Later(), **asked)
    with pytest.raises(Cancelled):
        explorer.attribution(picture, (1, 1), model="tiny", steps=5, cancelled=Later())
    assert explorer.ask(picture, (1, 1), cancelled=threading.Event(), **asked)["picture"] == picture
    computing.closing.set()
    with pytest.raises(Cancelled):
        explorer.attribution(picture, (1, 1), model="tiny", steps=5, cancelled=threading.Event())


def test_a_job_that_is_forgotten_in_its_last_moment_is_not_done(tmp_path, model):
    settings = Settings(models={"tiny": model})
    computing, store = Computing(settings), Store(tmp_path)
    jobs = Jobs(settings, store, computing)
    told = queue.Queue()
    jobs.changed = lambda job: told.put(job.state)
    upscale = computing.upscale

    def upscale_and_forget(*arguments, **more):
        done = upscale(*arguments, **more)
        jobs.delete(jobs.all()[0])
        return done

    computing.upscale = upscale_and_forget
    folder = store.new()
    (folder / "picture").write_bytes(png())
    jobs.add(folder, "a.png", Asked(model="tiny"), "client")
    jobs.start()
    states = [told.get() for _ in range(4)]
    jobs.close()
    assert states[:2] == ["waiting", "running"]
    assert "done" not in states
    assert not folder.exists()
    store.close()


@pytest.mark.parametrize("estimated", [True, False])  # which measures the layers
def test_progress_moves_within_a_tile(tmp_path, model, monkeypatch, estimated):
    monkeypatch.setattr("nlsr.serve.computing.PULSE", 0)  # however quick the layers are
    (tmp_path / "a.png").write_bytes(png(40, 30))
    computing, parts, asked = Computing(Settings(models={"tiny": model})), [], Asked(model="tiny")
    if estimated:
        assert computing.estimate(asked, computing.header(tmp_path / "a.png")).tiles == 1
    waiting = {"cancelled": threading.Event(), "report": parts.append}
    computing.upscale(tmp_path / "a.png", tmp_path / "b.png", asked, **waiting)
    assert parts == sorted(parts)
    assert len({part for part in parts if 0 < part < 1}) > 3
    assert parts[-1] == 1


@pytest.mark.parametrize(
    ("names", "come"),
    [
        (["a.png", "b.png"], ["a.png", "b.png"]),
        (["a.png", "a.png", "a_2.png", "A.PNG"], ["a.png", "a_2.png", "a_2_2.png", "A_3.PNG"]),
    ],
)
def test_no_two_files_of_an_archive_have_one_name(names, come):
    assert different(names) == come


def test_the_server_starts_without_what_computes():
    code = "import sys, nlsr.serve.running; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_engine_that_is_not_there_is_said_before_anything_begins(shared, model):
    command = [sys.executable, "-m", "nlsr", "serve", "--port", str(shared.port), "-m", str(model), "--engine", "steam"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (
        2,
        "serve: --engine steam: expected auto, torch, onnxruntime, openvino\n",
    )


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_that_is_missing_is_said_with_what_installs_it(shared, model, engine):
    missing = f"""
import importlib.util as util, sys
find_spec = util.find_spec
util.find_spec = lambda name, *more: None if name == {engine!r} else find_spec(name, *more)
from nlsr.cli import main
sys.exit(main())
"""
    command = [sys.executable, "-c", missing, "serve", "--port", str(shared.port), "-m", str(model), "--engine", engine]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert re.fullmatch(f"serve: this needs '{engine}'; install it with: .*pip install .*\n", refused.stderr)


@pytest.mark.parametrize(
    ("form", "status", "says"),
    [
        ({"x": "1", "y": "1"}, 400, "expected one of file, job and picture, got none"),
        ({"x": "1", "y": "1", "picture": "none"}, 404, "this picture is not in memory any more; send it again"),
        ({"x": "1", "y": "1", "job": "none"}, 404, "there is no such job"),
        ({"x": "40", "y": "1", "file": png(40, 30)}, 400, "40,1 lies outside the picture of 40x30"),
        ({"x": "1", "y": "1", "affinity": "1", "file": png(40, 30)}, 400, "affinity 1: this network has one affinity"),
        ({"x": "1", "y": "1", "file": png(5, 5)}, 422, "expected a picture of at least 16x16 pixels"),
        ({"x": "-1", "y": "1", "file": png(40, 30)}, 422, "x: "),
    ],
)
def test_a_question_about_a_pixel_that_has_no_answer(shared, form, status, says):
    parts = {name: (name, value) if isinstance(value, bytes) else (None, value) for name, value in form.items()}
    response = shared.client.post("/api/explain", files=parts | {"model": (None, "tiny")})
    came, said = problem(response)
    assert (came, said[: len(says)]) == (status, says)


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def examples(document, content):
    """What OpenAPI shows for contents of one media type: its own example, or those of its schema."""
    if "example" in content:
        return [content["example"]]
    schema = content["schema"]
    if schema.get("type") == "array":
        return [[each] for each in examples(document, {"schema": schema["items"]})]
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["examples"]


def test_every_operation_is_described_with_an_example(shared):
    document = shared.client.get("/api/openapi.json").json()
    described = dict(operations(document))
    assert len(described) == 15
    for name, operation in described.items():
        assert operation["description"], name
        bodies = operation.get("requestBody", {}).get("content", {})
        assert all(examples(document, content) for content in bodies.values()), name
        for status, answer in operation["responses"].items():
            for media_type, content in answer.get("content", {}).items():
                binary = content.get("schema", {}).get("format") == "binary"
                assert binary or examples(document, content), (name, status, media_type)
    body = described["POST /api/estimate"]["requestBody"]["content"]["application/json"]
    for example in examples(document, body):
        assert shared.client.post("/api/estimate", json=example).status_code == 200


def same_shape(example, answer):
    if isinstance(example, dict) and isinstance(answer, dict):
        return set(example) == set(answer) and all(same_shape(example[name], answer[name]) for name in example)
    return not (isinstance(example, list) and isinstance(answer, list)) or all(map(same_shape, example, answer))


def test_the_examples_look_like_what_is_answered(shared):
    job = shared.until(shared.send(png(), to="/api/jobs", scale="2").json()["id"], "done")
    asked = {"model": "tiny", "x": 7, "y": 9, "attribution_steps": 1}
    explained = shared.client.post("/api/explain", files={"file": png(40, 30)}, data=asked).json()
    models = shared.client.get("/api/models").json()
    for model, answer in {
        answers.JobShown: job | {"options": {"scale": 2}},
        answers.Explained: explained,
        answers.Models: models,
        answers.Health: shared.client.get("/api/health").json(),
        answers.Estimated: job["estimate"],
        answers.Enlarged: job["result"],
        answers.ProblemDetails: shared.client.get("/api/jobs/none").json(),
    }.items():
        (example,) = model.model_config["json_schema_extra"]["examples"]
        assert same_shape(example, answer), model
    assert models["models"][0]["name"] == "tiny"
    assert ("lcoan-light", [2, 3, 4]) in [(family["name"], family["scales"]) for family in models["families"]]
    shared.client.delete(f"/api/jobs/{job['id']}")


def test_an_estimate_comes_before_the_picture(shared):
    body = {"picture_width": 64, "picture_height": 48, "model": "tiny"}
    told = shared.client.post("/api/estimate", json=body).json()
    assert (told["new_width"], told["new_height"]) == (128, 96)
    assert told["memory"] > 0
    refused = shared.client.post("/api/estimate", json=body | {"scale": 17})
    assert problem(refused)[0] == 400


def test_a_hundred_mixed_requests_twenty_at_once():
    """Good and bad ones: no answer but the one that belongs to each, and nothing stays behind."""
    command = [sys.executable, str(ROOT / "benchmarks" / "serve.py"), "--count", "100"]
    crowd = subprocess.run(command, capture_output=True, text=True, check=False)
    told = json.loads(crowd.stdout)
    assert (told["wrong"], crowd.returncode, crowd.stderr) == ([], 0, "")
    assert sum(told["requests"].values()) == 100


def blocks(language):
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("language", ["python", "sh"])
def test_the_clients_of_the_documentation_work(shared, tmp_path, language):
    (tmp_path / "photo.jpg").write_bytes(b"")
    Image.open(io.BytesIO(png(20, 16))).save(tmp_path / "photo.jpg")
    clients = [block for block in blocks(language) if "/api/" in block]
    assert clients
    for client in clients:
        text = client.replace("127.0.0.1:8000", f"127.0.0.1:{shared.port}")
        command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "large.png") as image:
        assert image.size == (40, 32)
