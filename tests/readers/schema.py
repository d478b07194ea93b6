"""Holds JSON to a schema; a document that does not keep to it ends this with an error.

usage: schema.py SCHEMA < JSON
"""

import json
import sys

import jsonschema

with open(sys.argv[1], encoding="utf-8") as file:
    schema = json.load(file)
jsonschema.Draft202012Validator.check_schema(schema)
jsonschema.Draft202012Validator(schema).validate(json.load(sys.stdin))
