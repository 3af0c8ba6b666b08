"""`nlsr serve` as its clients see it: a server in a process of its own, on a port that the system chooses."""

import contextlib
import io
import queue
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nlsr
from nlsr.explain import sources

pytest.importorskip("fastapi", reason="needs the extra serve")
httpx = pytest.importorskip("httpx", reason="needs httpx, which CI installs beside the extra serve")

from tests.extras.server import Server  # noqa: E402 - it needs httpx

ROOT = Path(__file__).parents[2]
CAT = ROOT / "examples" / "cat.png"
LONG = {"model": "lcoan-light", "scale": "8", "ensemble": "true"}
"""Options with which the cat takes minutes."""


@pytest.fixture
def start(tmp_path, model):
    """start(*options) -> Server, in one folder; all are killed in the end."""
    servers = []

    def begin(*options):
        servers.append(Server(tmp_path, model, *options))
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


def test_a_job_is_cancelled_in_every_state(start):
    server = start()
    picture = CAT.read_bytes()
    running = server.send(picture, to="/api/jobs", **LONG).json()["id"]
    server.until(running, "running")
    waiting = server.send(picture, to="/api/jobs", **LONG).json()["id"]
    assert server.client.get(f"/api/jobs/{waiting}").json()["state"] == "waiting"
    assert problem(server.client.get(f"/api/jobs/{waiting}/result"))[0] == 409
    for job in (waiting, running):
        assert server.client.delete(f"/api/jobs/{job}").status_code == 204
        assert server.client.delete(f"/api/jobs/{job}").status_code == 404
    assert server.send(png()).status_code == 200  # its turn comes
    done = server.send(png(), to="/api/jobs").json()["id"]
    server.until(done, "done")
    assert server.client.delete(f"/api/jobs/{done}").status_code == 204
    assert server.left() == []


def test_who_hangs_up_cancels_and_half_an_upload_is_nothing(start):
    server = start()
    head = "POST /api/upscale HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=b\r\n"
    body = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + CAT.read_bytes()
    for name, value in LONG.items():
        body += f'\r\n--b\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
    body += b"\r\n--b--\r\n"
    for part in (len(body) // 2, len(body)):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:part])
            if part == len(body):
                while not server.client.get("/api/health").json()["jobs"]["running"]:
                    pass
    assert server.send(png()).status_code == 200
    assert server.left() == []


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


def test_every_path_is_described_with_its_form(shared):
    paths = shared.client.get("/api/openapi.json").json()
    assert set(paths["paths"]) >= {"/api/upscale", "/api/jobs", "/api/jobs/{id}", "/api/models", "/api/health"}
    form = paths["components"]["schemas"]["UpscaleForm"]["properties"]
    assert {"file", "scale", "format"} <= set(form)
    models = shared.client.get("/api/models").json()
    assert models["models"][0]["name"] == "tiny"
    assert {"name": "lcoan-light", "scales": [2, 3, 4]} in models["families"]


def test_an_estimate_comes_before_the_picture(shared):
    body = {"picture_width": 64, "picture_height": 48, "model": "tiny"}
    told = shared.client.post("/api/estimate", json=body).json()
    assert (told["new_width"], told["new_height"]) == (128, 96)
    assert told["memory"] > 0
    refused = shared.client.post("/api/estimate", json=body | {"scale": 17})
    assert problem(refused)[0] == 400


def test_a_hundred_mixed_requests_twenty_at_once(start):
    """Good and bad ones: no answer but the one that belongs to each, and nothing stays behind."""
    server = start("--max-jobs", "1000")

    def ask(number):
        side = 16 + number * 7 % 49
        if number % 5 == 3:
            return server.send(png(side, side)[: 40 + number], f"{number}.png").status_code, 422
        if number % 5 == 4:
            return server.send(png(side, side), scale="-1").status_code, 400
        if number % 5 == 2:
            job = server.send(png(side, 16, number), to="/api/jobs").json()["id"]
            state = server.until(job, "done", "failed")["state"]
            return (state, server.client.delete(f"/api/jobs/{job}").status_code), ("done", 204)
        response = server.send(png(side, 20, number))
        return (response.status_code, pixels(response.content).shape), (200, (40, 2 * side, 3))

    with ThreadPoolExecutor(20) as threads:
        outcomes = list(threads.map(ask, range(100)))
    assert [came for came, _ in outcomes] == [expected for _, expected in outcomes]
    assert server.left() == []


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
