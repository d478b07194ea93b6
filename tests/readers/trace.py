"""Reads trace events (Chrome's "Trace Event Format", as a JSON object) and prints as JSON what is in them.

It refuses what a viewer would draw wrong: an event without a key that its phase needs, time that runs backwards, an end without its begin
or the other way round, slices of a track that cross, a flow that does not go from one slice to another, forwards.

usage: trace.py < JSON
"""

import collections
import json
import sys

NEEDED = {
    "M": ["name", "args"],
    "B": ["name", "cat"],
    "E": [],
    "i": ["name", "cat", "s"],
    "s": ["name", "cat", "id"],
    "f": ["name", "cat", "id", "bp"],
}

trace = json.load(sys.stdin)
assert trace["displayTimeUnit"] in ("ms", "ns"), trace["displayTimeUnit"]
names, tracks = {}, collections.defaultdict(list)
stacks, flows, kinds = collections.defaultdict(list), {}, collections.Counter()
now = 0
for event in trace["traceEvents"]:
    phase = event["ph"]
    for key in ["pid", "tid", "ts", *NEEDED[phase]]:
        assert key in event, f"{key} is missing: {event}"
    track = (event["pid"], event["tid"])
    kinds[phase] += 1
    if phase == "M":
        if event["name"] == "thread_name":
            assert track not in names, f"a track is named twice: {event}"
            names[track] = event["args"]["name"]
        continue
    assert event["ts"] >= now, f"time runs backwards: {event} behind {now}"
    now = event["ts"]
    assert track in names, f"its track has no name: {event}"
    stack = stacks[track]
    if phase == "B":
        stack.append(event)
    elif phase == "E":
        assert stack, f"an end without a begin: {event}"
        begin = stack.pop()
        assert event.get("name", begin["name"]) == begin["name"], f"slices cross: {begin} and {event}"
        tracks[names[track]].append([begin["name"], begin["ts"], event["ts"]])
    elif phase == "s":
        assert event["id"] not in flows, f"a flow begins twice: {event}"
        assert stack, f"a flow begins outside of any slice: {event}"
        flows[event["id"]] = {"from": names[track], "name": event["name"], "sent": now}
    elif phase == "f":
        flow = flows[event["id"]]
        assert "to" not in flow and flow["name"] == event["name"], f"a flow ends twice, or as another: {event}"
        assert stack, f"a flow ends outside of any slice: {event}"
        flow |= {"to": names[track], "taken": now}
for track, stack in stacks.items():
    assert not stack, f"a begin without an end: {stack}"
for flow in flows.values():
    assert "to" in flow and flow["taken"] > flow["sent"], flow
json.dump(
    {
        "tracks": {name: tracks[name] for name in sorted(names.values())},
        "flows": sorted([flow["name"], flow["from"], flow["to"]] for flow in flows.values()),
        "kinds": kinds,
    },
    sys.stdout,
)
