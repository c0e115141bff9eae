"""The page of demo.py, driven as a browser does: files, predictions, what is refused; no browser
(that is benchmarks/browser.py).
"""

import io
import json

import numpy as np
import pytest
from PIL import Image
from werkzeug.test import Client

import demo
from core.errors import UserError
from core.framing import Framing
from prediction.page import Page

WORN = np.full((1, 18), 0.01)
WORN[0, 1] = 0.83  # mask worn, male, 30 to 59


class AlwaysWorn:
    """A Predictor to which all people are alike."""

    synthetic, framing = True, Framing

    def probabilities(self, photos):
        return np.repeat(WORN, len(photos), axis=0)


def two_faces(_):
    return np.array([[70, 5, 40, 50, 0.9], [10, 5, 40, 50, 0.8]])


@pytest.fixture
def client():
    return Client(Page(lambda: AlwaysWorn(), two_faces))


def png(size=(120, 160)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, "grey").save(stream, "PNG")
    return stream.getvalue()


def sent(client, data: bytes, query="", **headers):
    return client.post(f"/predict{query}", data=data, content_type="image/png", headers=headers)


def test_the_page_and_its_files_are_served_and_may_load_nothing_from_elsewhere(client):
    for path, start in (
        ("/", b"<!doctype html>"),
        ("/demo.js", b'"use strict"'),
        ("/demo.css", b":root"),
    ):
        answer = client.get(path)
        assert answer.status_code == 200 and answer.data.startswith(start)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert b"http://" not in answer.data and b"https://" not in answer.data


def test_every_person_of_a_photo_is_told_with_box_and_probabilities(client):
    said = sent(client, png()).get_json()
    assert (said["width"], said["height"]) == (120, 160)
    assert [person["box"] for person in said["people"]] == [[10, 5, 40, 50], [70, 5, 40, 50]]
    for person in said["people"]:
        assert person["best"] == [0, 0, 1]
        np.testing.assert_allclose(person["mask"], [0.88, 0.06, 0.06])
        np.testing.assert_allclose(person["gender"], [0.91, 0.09])
        np.testing.assert_allclose(person["age"], [0.06, 0.88, 0.06])


def test_a_photo_without_a_face_is_predicted_whole_and_a_camera_picture_is_empty():
    client = Client(Page(lambda: AlwaysWorn(), lambda _: np.zeros((0, 5))))
    assert [person["box"] for person in sent(client, png()).get_json()["people"]] == [None]
    assert sent(client, png(), "?live=1").get_json()["people"] == []


def test_the_page_waits_for_a_model_and_takes_it_when_it_is_there():
    found = []
    client = Client(Page(lambda: found[0] if found else None, two_faces))
    assert client.get("/status").get_json() == {"model": False, "drawn": False}
    assert sent(client, png()).status_code == 503
    found.append(AlwaysWorn())
    assert client.get("/status").get_json() == {"model": True, "drawn": True}
    assert sent(client, png()).status_code == 200


@pytest.mark.parametrize("data", [b"", b"no photo", png()[:60]])
def test_what_is_no_photo_is_told(client, data):
    answer = sent(client, data)
    assert answer.status_code == 415 and json.loads(answer.data)["error"]


def test_other_names_other_types_and_other_paths_are_refused(client):
    assert client.get("/", headers={"Host": "elsewhere.example"}).status_code == 400
    assert client.post("/predict", data=b"x", content_type="text/plain").status_code == 404
    assert client.get("/predict").status_code == client.get("/../demo.py").status_code == 404
    large = {"CONTENT_LENGTH": "60000000"}
    answer = client.post("/predict", data=b"x", content_type="image/png", environ_overrides=large)
    assert answer.status_code == 413


def test_without_a_run_there_is_no_model_and_a_wrong_name_is_told(tmp_path):
    assert demo.find_model(demo.parse_args(["--model_dir", str(tmp_path)])) is None
    with pytest.raises(UserError, match="no model in"):
        demo.find_model(demo.parse_args(["--model_dir", str(tmp_path), "--name", "gone"]))
    with pytest.raises(UserError, match="does not exist"):
        demo.find_model(demo.parse_args(["--checkpoint", str(tmp_path / "gone.onnx")]))


def test_a_port_that_is_taken_is_told_in_one_line():
    with demo.socket.socket() as taken:
        taken.bind((demo.HOST, 0))
        taken.listen()
        with pytest.raises(UserError, match=r"--port .* give another"):
            demo.check_port(taken.getsockname()[1])
    with pytest.raises(UserError, match="--port 99999"):
        demo.check_port(99999)
