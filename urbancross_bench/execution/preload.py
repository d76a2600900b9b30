"""What the fork server imports, once for all processes: the stages, and the plugins' modules named to it.

A plugin that cannot be imported is left to the stage that needs it: here it would take the server down.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import sys

gc.disable()  # it would look for garbage among all that is imported, time and again: a sixth of the time

import torch._inductor.config  # noqa: E402, F401 - what torch imports when it is made deterministic: seconds
from PIL import Image  # noqa: E402

from urbancross_bench.execution import provenance, stages, worker  # noqa: E402, F401
from urbancross_bench.execution.local import PRELOAD  # noqa: E402
from urbancross_bench.modelling import runtime  # noqa: E402

_PATIENCE = 120  # seconds for a plugin's module: then the server ends, and another one imports none

# Imported late where they stand, for commands that rank nothing.
for _name in ("counting", "directions", "masks", "screening", "threads", "toplists", "vectors"):
    importlib.import_module(f"urbancross_bench.evaluation.{_name}")

_path, *_modules = json.loads(os.environ.get(PRELOAD, "[[]]"))
sys.path[:] = _path or sys.path  # that of the processes to be, else each would look for plugins anew
worker.registry()
provenance.machine()
for _name in _modules:
    signal.alarm(_PATIENCE)
    with contextlib.suppress(BaseException):
        importlib.import_module(_name)
signal.alarm(0)
runtime.products()
Image.preinit()  # the readers of common formats, imported when the first image is read

# The server's own end is no concern: libraries tell of what they leaked, on the user's screen.
atexit.register(os._exit, 0)
gc.freeze()  # else the first collection in a process would touch, and so copy, every object there is
gc.enable()
