"""Waits to be asked to end; the other ranks have so many seconds to agree.

python waiting.py SECONDS
"""

import os
import sys
import time

from keras_squeezenet.distributed.termination import TerminationRequest

with TerminationRequest(seconds_to_agree=float(sys.argv[1])) as request:
    print("ready", flush=True)
    end = time.monotonic() + 20
    while time.monotonic() < end and not request.received:
        time.sleep(0.01)
    if float(sys.argv[1]) < 1:
        time.sleep(20)  # waits for a rank that never answers
    os.write(2, b"saved")
    sys.exit(143)
