"""Every figure that speed is judged by, in one table.

python -m benchmarks [GROUP ...] [--repeat 5]
"""

import argparse
import sys
import time

from benchmarks.arguments import whole
from benchmarks.groups import GROUPS, MORE, in_a_new_process
from benchmarks.table import machine, markdown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = ", ".join([*GROUPS, *MORE])
    parser.add_argument("groups", nargs="*", help=f"of {every}; all of the former")
    parser.add_argument("--repeat", type=whole(1), default=5)
    arguments = parser.parse_args()
    unknown = set(arguments.groups) - {*GROUPS, *MORE}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {every}.")
    before, found = machine(), []
    for name in arguments.groups or GROUPS:
        started = time.perf_counter()
        for row in in_a_new_process(name, arguments.repeat):
            found.append(row)
            print("  ".join(cell for cell in row.cells() if cell), file=sys.stderr)
        print(f"[{name}: {time.perf_counter() - started:.0f} s]", file=sys.stderr)
    print(f"Before: {before}\nAfter: {machine()}\n\n{markdown(found)}")


if __name__ == "__main__":
    main()
