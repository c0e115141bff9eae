"""torchrun, with the ranks' own words and exit status instead of its traceback.

    python -P core/launch.py --standalone --nproc_per_node=8 train.py --devices 8

128 + signal after SIGTERM or Ctrl-C (once the ranks have saved), else the status of the rank that
failed first. With --standalone the ranks meet at 127.0.0.1: torchrun would look up the machine's
name, and where that cannot be resolved, as in some containers, try for ten minutes. Everything else
is torchrun's own: torch.distributed.run.
"""

import logging
import os
import sys

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main


def launch() -> int:
    if "--standalone" in sys.argv:
        sys.argv.insert(1, "--local_addr=127.0.0.1")  # one that the user gives comes later
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # Seconds until a rank that was asked to stop is killed: saving Swin-Large may take over 30.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300")
    try:
        main()
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(launch())
