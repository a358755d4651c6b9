"""``python -m trimtab``: the command line, also where a launcher starts it (``torchrun -m trimtab watch train.py``)."""

from trimtab.cli import main

if __name__ == "__main__":
    main(prog_name="trimtab")
