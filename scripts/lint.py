#!/usr/bin/env python3
"""House numbers that the formatter does not check: scripts/lint.py [PATH...] (without a path: all that git tracks).

ASCII, 120 columns, files of at most 500 lines, Swift functions of at most 60, no trailing blanks, no notes to
ourselves.
"""
import re
import subprocess
import sys

COLUMNS, FILE_LINES, FUNCTION_LINES = 120, 500, 60
SOURCES = (".swift", ".c", ".h", ".py", ".sh", "Makefile", ".ci/run")
TEXTS = SOURCES + (".md", ".yml", ".json", ".swift-format", ".modulemap") + tuple(f".{n}" for n in range(1, 9))
NOTE = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
WORDS = r"^( *)(?:[@\w()]+ )*"
FUNCTION = re.compile(WORDS + r"(?:func |init[?(<]|deinit\b).*\{$|" + WORDS + r"(?:func |init[?(<])[^{}]*$")


def tracked():
    out = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True).stdout
    return [name for name in out.decode().split("\0") if name]


def long_functions(lines):
    """Relies on the formatter: the closing brace stands in the column where the declaration began."""
    for start, line in enumerate(lines):
        match = FUNCTION.match(line)
        if not match:
            continue
        closing = (match.group(1) or match.group(2) or "") + "}"
        for end in range(start + 1, len(lines)):
            if lines[end].rstrip() == closing:
                if end - start + 1 > FUNCTION_LINES:
                    yield start + 1, end - start + 1
                break
            if lines[end].strip() and len(lines[end]) - len(lines[end].lstrip()) < len(closing) - 1:
                break  # A requirement of a protocol: it has no body.


def problems(path):
    with open(path, "rb") as file:
        data = file.read()
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        yield line, f"byte 0x{data[error.start]:02x} is not ASCII"
        return
    lines = text.split("\n")
    if lines[-1] != "":
        yield len(lines), "no newline at the end"
    source = path.endswith(SOURCES)
    if source and len(lines) - 1 > FILE_LINES:
        yield FILE_LINES, f"{len(lines) - 1} lines: at most {FILE_LINES}"
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            yield number, "blanks at the end"
        if source and len(line) > COLUMNS:
            yield number, f"{len(line)} columns: at most {COLUMNS}"
        if "\t" in line and not path.endswith("Makefile"):
            yield number, "a tab"
        if NOTE.search(line):
            yield number, "a note to ourselves: do it or file it"
    if path.endswith(".swift"):
        for number, length in long_functions(lines):
            yield number, f"a function of {length} lines: at most {FUNCTION_LINES}"


def main():
    count = 0
    for path in sys.argv[1:] or tracked():
        if not path.endswith(TEXTS) or path.startswith("Fixtures/") and not path.endswith((".md", ".sh", ".py")):
            continue
        for number, text in problems(path):
            print(f"{path}:{number}: {text}")
            count += 1
    print(f"{count} problems" if count else "lint: nothing to say")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
