"""What the server imports that the kit's processes are forked from: once, and whatever becomes of it.

A library that cannot be imported is left to the plugin that needs it. What libraries say then is nobody's output.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import sys

gc.disable()  # it would look for garbage among all that is imported, time and again
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
_nowhere = os.open(os.devnull, os.O_WRONLY)
os.dup2(_nowhere, 1)
os.dup2(_nowhere, 2)

_path, *_modules = json.loads(os.environ.get("URBANCROSS_TESTING_PRELOAD", "[[]]"))
sys.path[:] = _path or sys.path
for _name in _modules:
    with contextlib.suppress(BaseException):
        importlib.import_module(_name)

atexit.register(os._exit, 0)  # nothing of it has to end in order, and that takes seconds
gc.freeze()  # else the first collection in a process would touch, and so copy, every object there is
gc.enable()
