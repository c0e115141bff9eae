"""The page that demo.py shows: photos or a webcam in, boxes and a table out.

A small web application for one person on their own machine. A picture is decoded, predicted and
forgotten; nothing is written, nothing is fetched from elsewhere (enforced in the browser by
Content-Security-Policy)."""

import io
import json
import threading
from pathlib import Path

import numpy as np
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Request, Response

from core.labels import decode
from core.photo import PhotoError, read_photo
from prediction.people import PeopleReader
from prediction.words import attribute_probabilities

TEMPLATES = Path(__file__).parent / "templates"
FILES = {"/": "demo.html", "/demo.js": "demo.js", "/words.js": "words.js", "/demo.css": "demo.css"}
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
LARGEST = 50_000_000  # bytes of a photo


class LocalRequest(Request):
    """A request to this machine by one of its own names: other pages in the same browser cannot
    pass for ours.
    """

    trusted_hosts = ("127.0.0.1", "localhost")
    max_content_length = LARGEST


class Page:
    """A WSGI application. `find_model()` gives a Predictor, or None while there is no model.

    It is called until there is one, so that the page can be open before the first training has
    ended."""

    def __init__(self, find_model, detector):
        self.find_model, self.detector = find_model, detector
        self.reader, self.synthetic = None, False
        self.lock = threading.Lock()  # one picture at a time: two would only share the cores

    def __call__(self, environ, start_response):
        try:
            response = self.respond(LocalRequest(environ))
        except HTTPException as error:
            response = error
        return self.guarded(response, environ)(environ, start_response)

    @staticmethod
    def guarded(response, environ):
        response = response if isinstance(response, Response) else response.get_response(environ)
        response.headers["Content-Security-Policy"] = (
            "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:"
        )
        response.headers["Cache-Control"] = "no-store"
        return response

    def respond(self, request: LocalRequest) -> Response:
        request.host  # noqa: B018 (raises for a name that is not trusted)
        if request.method == "GET" and request.path in FILES:
            file = TEMPLATES / FILES[request.path]
            return Response(file.read_bytes(), content_type=f"{TYPES[file.suffix]}; charset=utf-8")
        if request.method == "GET" and request.path == "/status":
            return json_response({"model": self.load(), "drawn": self.synthetic})
        if (
            request.method == "POST"
            and request.path == "/predict"
            and request.mimetype.startswith("image/")
        ):
            return self.predict(request)
        return Response("not found", 404)

    def load(self) -> bool:
        with self.lock:
            if self.reader is None and (found := self.find_model()):
                self.reader = PeopleReader(found.probabilities, self.detector, found.framing())
                self.synthetic = found.synthetic
        return self.reader is not None

    def predict(self, request: LocalRequest) -> Response:
        if not self.load():
            return json_response({"error": "no model"}, 503)
        try:
            picture = read_photo(io.BytesIO(request.get_data()))
        except PhotoError as error:
            return json_response({"error": error.reason}, 415)
        live = request.args.get("live") == "1"
        with self.lock:
            faces, probabilities = (self.reader if live else self.reader.photo)(picture)
        people = [person(face, p) for face, p in zip(faces, probabilities, strict=True)]
        height, width = picture.shape[:2]
        return json_response({"width": width, "height": height, "people": people})


def person(face, probabilities) -> dict:
    """A person as JSON for the page: the box, and the probabilities of each attribute's
    values.
    """
    probabilities = np.asarray(probabilities, float)
    box = None if np.isnan(face[0]) else [round(float(value), 1) for value in face[:4]]
    shares = attribute_probabilities(probabilities)
    shares = {name: values[0].round(4).tolist() for name, values in shares.items()}
    return {"box": box, "best": list(decode(int(probabilities.argmax()))), **shares}


def json_response(content: dict, status: int = 200) -> Response:
    return Response(json.dumps(content), status, content_type="application/json")
