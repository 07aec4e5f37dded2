#!/usr/bin/python3
"""Copies a file, and tells which request to this process that was."""

import json
import sys


def say(source, target, which):
    with open(source) as text, open(target, "w") as out:
        out.write(f"{text.read().strip()} by {which}\n")


def main():
    if "--persistent_worker" not in sys.argv:
        with open(sys.argv[1][1:]) as flags:
            say(*flags.read().split(), "itself")
        return
    for number, line in enumerate(sys.stdin, 1):
        say(*json.loads(line)["arguments"], f"request {number}")
        print(json.dumps({"exitCode": 0, "output": ""}), flush=True)


main()
