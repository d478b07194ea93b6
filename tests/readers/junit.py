"""Reads JUnit's XML and prints as JSON how many cases stand how, after holding it to a schema and to the counts that the file itself gives.

usage: junit.py SCHEMA < XML
"""

import collections
import json
import sys
import xml.etree.ElementTree

import xmlschema

text = sys.stdin.read()
xmlschema.XMLSchema(sys.argv[1]).validate(text)
root = xml.etree.ElementTree.fromstring(text)
assert root.tag == "testsuites", root.tag
all_kinds = collections.Counter()
for suite in root:
    assert suite.tag == "testsuite", suite.tag
    kinds = collections.Counter()
    for case in suite:
        assert case.tag == "testcase" and case.get("name") and case.get("classname"), case.attrib
        assert float(case.get("time")) >= 0
        assert len(case) <= 1, "a case ends in one way"
        kinds[case[0].tag if len(case) else "passed"] += 1
    assert int(suite.get("tests")) == sum(kinds.values())
    for attribute, kind in [("failures", "failure"), ("errors", "error"), ("skipped", "skipped")]:
        assert int(suite.get(attribute)) == kinds[kind], (suite.get("name"), attribute)
    all_kinds += kinds
assert int(root.get("tests")) == sum(all_kinds.values())
json.dump(all_kinds, sys.stdout)
