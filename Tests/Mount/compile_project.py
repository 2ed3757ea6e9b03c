#!/usr/bin/env python3
"""A C project of many files, built by make: compile_project.py MOUNTPOINT"""
import os
import time

from harness import check, fresh, main, missing_tool, pick, run

FILES = pick(20, 200)
MAKEFILE = """\
SOURCES := $(wildcard *.c)
OBJECTS := $(SOURCES:.c=.o)
program: libsum.a main.o
\tcc -o $@ main.o libsum.a
libsum.a: $(filter-out main.o,$(OBJECTS))
\tar rcs $@ $^
%.o: %.c sum.h
\tcc -O1 -Wall -Werror -c -o $@ $<
"""


def project(base):
    def write(name, text):
        with open(os.path.join(base, name), "w", encoding="ascii") as file:
            file.write(text)
    write("Makefile", MAKEFILE)
    write("sum.h", "".join(f"int part_{number}(int);\n" for number in range(FILES)))
    for number in range(FILES):
        write(f"part_{number}.c", f'#include "sum.h"\nint part_{number}(int x) {{ return x * {number} + 1; }}\n')
    calls = " + ".join(f"part_{number}(2)" for number in range(FILES))
    write("main.c", f'#include <stdio.h>\n#include "sum.h"\nint main(void) {{ printf("%d\\n", {calls}); return 0; }}\n')
    return FILES + FILES * (FILES - 1)


@check("make builds a project that runs, builds nothing twice, and sees each change",
       need=missing_tool("make", "cc", "ar"))
def build(mountpoint):
    base = fresh(mountpoint, "project")
    expected = project(base)
    environment = {**os.environ, "MAKEFLAGS": ""}
    run("make", "-C", base, "-j2", env=environment)
    assert run(os.path.join(base, "program")).strip() == str(expected)
    assert "is up to date" in run("make", "-C", base, env=environment)
    time.sleep(0.02)
    os.utime(os.path.join(base, "part_3.c"))
    output = run("make", "-C", base, env=environment)
    assert output.count("cc -O1") == 1 and "part_3.c" in output, output
    assert run(os.path.join(base, "program")).strip() == str(expected)
    run("find", base, "-name", "*.o", "-delete")
    run("make", "-C", base, "-j2", env=environment)


if __name__ == "__main__":
    main()
