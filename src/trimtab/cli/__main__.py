"""``python -m trimtab.cli``: the command line where its console script is not installed."""

from trimtab.cli import main

if __name__ == "__main__":
    main(prog_name="trimtab")
