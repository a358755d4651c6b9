"""Refuses kernels that the linker could exchange with those of another instruction set; CMake runs it before it links.

    python cpp/own_symbols.py NM SET OBJECT

NM lists the symbols of OBJECT, the kernels compiled for SET. See cpp/instruction_set.h.
"""

import re
import subprocess
import sys

# What compilers add to every object: a pointer, and a call of std::terminate that no flag changes.
SAME_EVERYWHERE = re.compile(r"_?(DW\.ref\.\w+|__clang_call_terminate)$")


def complaint(nm: str, instruction_set: str, path: str) -> str:
    """What is wrong with the object at ``path``; nothing if nothing is."""
    listed = subprocess.run([nm, "-C", path], capture_output=True, text=True, check=True).stdout
    defined = re.findall(r"^[0-9a-fA-F]+ (\w) (.+)$", listed, re.MULTILINE)
    if not any(f"trimtab::{instruction_set}::table" in name for _, name in defined):
        return f"{path} has no trimtab::{instruction_set}::table, so it is not the object of these kernels."
    shared = [
        name
        for kind, name in defined
        if (kind.isupper() or kind == "u")
        and f"trimtab::{instruction_set}::" not in name
        and not SAME_EVERYWHERE.match(name)
    ]
    if shared:
        return (
            f"The kernels for {instruction_set} define what other objects may define too, and the linker keeps only one "
            "of them, perhaps with instructions that the machine lacks:\n  " + "\n  ".join(shared) + "\n"
            "Use what is in the kernels' own namespace instead: Buffer of cpp/support.h, min and max of cpp/vec.h."
        )
    starts = [name for _, name in defined if "_GLOBAL__" in name]
    if starts:
        return (
            f"The kernels for {instruction_set} run code when the module is loaded, on machines of every kind:\n  "
            + "\n  ".join(starts)
            + "\nMake the variables at namespace scope constexpr, and leave out <iostream>."
        )
    return ""


if __name__ == "__main__":
    sys.exit(complaint(*sys.argv[1:]) or 0)
