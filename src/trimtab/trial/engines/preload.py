"""Imported once by the fork server, so that trials need not import: modules only, no tensor operation (see ``local``)."""

import atexit
import contextlib
import importlib
import os

import torch
import torch._dynamo  # the first optimizer of a process imports it, which takes two seconds

import trimtab.trial.run
from trimtab.members import load_techniques

load_techniques()
for _name in filter(None, os.environ.get("TRIMTAB_PRELOAD", "").split(",")):
    with contextlib.suppress(Exception):  # the trial will meet the same error and report it
        importlib.import_module(_name)

if "TRIMTAB_PRELOAD" in os.environ:  # in the server itself: nothing is to be torn down there, and that takes a second
    _server = os.getpid()
    atexit.register(lambda: os._exit(0) if os.getpid() == _server else None)

assert torch and trimtab
