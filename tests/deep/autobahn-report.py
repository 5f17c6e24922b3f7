"""Counts what the Autobahn suite found, as Markdown; ends badly if a case failed or a connection was closed uncleanly."""

import collections
import json
import sys

cases = json.load(open(sys.argv[1], encoding="utf-8"))["lanyard"]
behaviour = collections.Counter(case["behavior"] for case in cases.values())
closing = collections.Counter(case["behaviorClose"] for case in cases.values())


def order(name):
    return [int(part) for part in name.split(".")]


def row(counts):
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())


print("# Autobahn\n")
print("autobahntestsuite 25.10.1, `fuzzingclient`, cases 1–7, 9 and 10, against `tests/deep/echo.rs`: the relay's accept loop,")
print("its socket settings and its fragments of 2 KiB. Made by `tests/deep/autobahn`.\n")
print("| | |\n|---|---|")
print(f"| Cases | {len(cases)} |\n| Behaviour | {row(behaviour)} |\n| Closing | {row(closing)} |\n")
print("Cases that are not plainly OK:\n")
for name in sorted(cases, key=order):
    case = cases[name]
    if (case["behavior"], case["behaviorClose"]) != ("OK", "OK"):
        print(f"- {name}: {case['behavior']}, close {case['behaviorClose']}")
good = {"OK", "NON-STRICT", "INFORMATIONAL"}
sys.exit(0 if set(behaviour) <= good and set(closing) <= good else 1)
