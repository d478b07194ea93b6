"""Reads KTAP with the kernel's own parser and prints as JSON what that has understood.

usage: ktap.py FOLDER < KTAP    FOLDER has tools/testing/kunit/kunit_parser.py of Linux and what it imports
"""

import contextlib
import io
import json
import sys

sys.path.insert(0, sys.argv[1])


def tests(test, path):
    """The innermost tests, by name and status."""
    if not test.subtests:
        yield [" ".join(path), test.status.name]
    for subtest in test.subtests:
        yield from tests(subtest, [*path, subtest.name])


# It prints what it reads, to what is standard output when it is imported.
with contextlib.redirect_stdout(io.StringIO()):
    import kunit_parser

    whole = kunit_parser.parse_run_tests(sys.stdin.read().splitlines())
counts = whole.counts
json.dump(
    {
        "passed": counts.passed,
        "failed": counts.failed,
        "crashed": counts.crashed,
        "skipped": counts.skipped,
        "errors": counts.errors,
        "tests": list(tests(whole, [])),
    },
    sys.stdout,
)
