"""Show a page on this machine, in the browser: photos or a webcam in, boxes and a table out.

    python demo.py --name swin                    then open http://127.0.0.1:7860
    python demo.py --checkpoint swin.onnx         without PyTorch

Nothing is stored and nothing leaves the machine. Ctrl-C ends it.
"""

import argparse
import logging
import socket
import webbrowser

from core.cli import ArgumentParser, HelpFormatter, run
from core.errors import UserError
from core.folders import folder
from prediction.flags import add_face_detector, add_models
from prediction.runs import model_files

HOST = "127.0.0.1"


def parse_args(arguments=None) -> argparse.Namespace:
    p = ArgumentParser(
        prog="demo.py",
        packages=("numpy", "PIL"),
        formatter_class=HelpFormatter,
        description=__doc__,
    )
    add_face_detector(add_models(p))
    p.add_argument("--port", type=int, default=7860, help="port of the page, on this machine only")
    p.add_argument("--open", action="store_true", help="open the page in the browser")
    return p.parse_args(arguments)


def find_model(args):
    """The Predictor of the models that inference.py would find.

    None if no run was named and none is finished.
    """
    runs = folder(args.model_dir, "SM_CHANNEL_MODEL", "SM_MODEL_DIR", default="model")
    if not (args.name or args.checkpoint or (runs / "latest.json").is_file()):
        return None
    from prediction import Predictor

    return Predictor(model_files(args)[1])


def check_port(port: int) -> None:
    """UserError unless the port can be taken; werkzeug would print lines of its own and exit."""
    try:
        with socket.socket() as test:
            test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            test.bind((HOST, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "not a port"
        raise UserError(f"--port {port}: {reason}; give another, 0 for any that is free") from None


def main(args) -> int:
    from werkzeug.serving import make_server

    from core.faces import FaceDetector
    from prediction.page import Page

    page = Page(lambda: find_model(args), FaceDetector(args.face_detector))
    if not page.load():
        print(
            "no model yet: train the small sample model with 'sh train.sh'; the page then uses it"
        )
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each picture is too much
    check_port(args.port)
    server = make_server(HOST, args.port, page, threaded=True)
    address = f"http://{HOST}:{server.port}"
    print(f"open {address} in a browser on this machine; Ctrl-C ends it", flush=True)
    if args.open:
        webbrowser.open(address)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    ARGS = parse_args()
    run(main, ARGS)
