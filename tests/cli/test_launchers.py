"""Launchers that train in child processes are answered with the line that works, and that line works."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.trial.conftest import clusters

SITE = "/usr/lib/python3/site-packages"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("watch -m torch.distributed.run --nproc_per_node 2 train.py --lr 0.1", "torchrun --nproc_per_node 2 -m trimtab watch train.py --lr 0.1"),
        ("watch --every 5 -m torch.distributed.launch --use-env --nnodes=1 -m pkg.train x.py", "torchrun --nnodes=1 -m trimtab watch --every 5 -m pkg.train x.py"),
        ("watch torchrun --standalone train.py", "torchrun --standalone -m trimtab watch train.py"),
        ("watch /opt/bin/torchrun train.py -m", "torchrun -m trimtab watch train.py -m"),
        (f"watch {SITE}/torch/distributed/run.py --nnodes 1 train.py", "torchrun --nnodes 1 -m trimtab watch train.py"),
        ("watch -m torch.distributed.run --nproc_per_node 2", "torchrun --nproc_per_node 2 -m trimtab watch train.py ..."),
        ("watch -m accelerate.commands.launch --config_file a.yaml train.py", "accelerate launch --config_file a.yaml -m trimtab watch train.py"),
        ("watch accelerate launch -m pkg.train 3", "accelerate launch -m trimtab watch -m pkg.train 3"),
        ("watch deepspeed --num_gpus 2 train.py --deepspeed d.json", "deepspeed --num_gpus 2 --module trimtab watch train.py --deepspeed d.json"),
        ("watch mpirun -n 2 python3 train.py", "mpirun -n 2 python -m trimtab watch train.py"),
        ("watch --metric a=(\\d+) python3.12 -u train.py", "trimtab watch --metric 'a=(\\d+)' train.py"),
        ("treat uv run train.py", "uv run trimtab treat train.py"),
        ("treat --budget 3m torchrun --nproc_per_node 2 train.py --lr 1", "trimtab treat --budget 180 train.py --lr 1"),
        ("compare --with adam --with sgd(lr=0.1) -m torch.distributed.run train.py", "trimtab compare --with adam --with 'sgd(lr=0.1)' train.py"),
        ("tune --search lr=log(1,2) torchrun train.py", "trimtab tune --search 'lr=log(1,2)' train.py"),
    ],
)  # fmt: skip
def test_a_launcher_is_answered_with_the_line_that_works(trimtab, train, given, line):
    train.write_text("open('ran', 'w')")
    shown = trimtab(*given.split())
    assert shown.exit_code == 2
    assert shown.stderr.endswith(f":\n\n  {line}\n")
    assert not train.with_name("ran").exists()


@pytest.mark.parametrize("script", ["torchrun.py", "launch.py", "run.py", "python_net.py"])
def test_a_script_with_the_name_of_a_launcher_is_a_script(trimtab, train, script):
    train.with_name(script).write_text("print('hello')")
    assert trimtab("watch", script).stdout == "hello\n"


@pytest.mark.parametrize("given", ["treat train.py", "compare --with adam train.py", "tune --search adam train.py"])
def test_trials_are_not_run_by_several_processes_at_once(trimtab, train, given, monkeypatch):
    train.write_text("open('ran', 'w')")
    monkeypatch.setenv("WORLD_SIZE", "2")
    shown = trimtab(*given.split())
    assert shown.exit_code == 2
    command = given.split()[0]
    assert f"trimtab {command} runs every trial as one process, and a launcher has started 2 of it" in shown.stderr
    assert not train.with_name("ran").exists()


def test_the_line_for_torchrun_works(train):
    """Two processes; the first one reports."""
    begin = "import torch.distributed as dist\ndist.init_process_group('gloo')\n"
    train.write_text(clusters(begin=begin, end="dist.destroy_process_group()"))
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    line += ["-m", "trimtab", "watch", "--json", "found.json", "train.py"]
    shown = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("value ") == 2  # of the script, by each
    assert shown.stderr.count("Report: .trimtab/report.html\n") == 1
    assert json.loads(train.with_name("found.json").read_text())["metric"]["name"] == "val accuracy"


SPAWNS = """
import multiprocessing as mp, subprocess, sys
def work(): pass
if __name__ == "__main__":
    for _ in range({copies}):
        process = mp.get_context("{method}").Process(target=work); process.start(); process.join()
    for _ in range({programs}):
        subprocess.run([sys.executable, "-c", ""], check=True)
"""


COPIES = "but it started 2 child processes, and trimtab sees the process that it runs in. If they train: let"
PROGRAM = (
    "but it started 1 child process, and trimtab sees the process that it runs in. If one of them trains, put it there"
)


@pytest.mark.parametrize(
    ("copies", "method", "programs", "said"), [(2, "spawn", 0, COPIES), (2, "fork", 0, COPIES), (0, "fork", 1, PROGRAM)]
)
def test_children_are_named_where_no_training_was_seen(train, copies, method, programs, said):
    train.write_text(SPAWNS.format(copies=copies, programs=programs, method=method))
    command = [sys.executable, "-m", "trimtab", "watch", "train.py", "--a b"]
    shown = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"})
    assert shown.returncode == 0, shown.stderr
    told = [line for line in shown.stderr.splitlines() if line.startswith("No training was seen")]
    assert len(told) == 1 and said in told[0]
    assert ("torchrun --nproc_per_node 2 -m trimtab watch train.py '--a b'" in told[0]) == (copies == 2)
