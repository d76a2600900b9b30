"""What the fork server imports, once for all processes: the stages, and the plugins' modules named to it.

A plugin that cannot be imported is left to the stage that needs it: here it would take the server down.
"""

import contextlib
import importlib
import os

import torch._inductor.config  # noqa: F401 - what torch imports when it is made deterministic: seconds

from urbancross_bench.execution import stages  # noqa: F401
from urbancross_bench.execution.local import MODULES

for _name in filter(None, os.environ.get(MODULES, "").split(",")):
    with contextlib.suppress(BaseException):
        importlib.import_module(_name)
