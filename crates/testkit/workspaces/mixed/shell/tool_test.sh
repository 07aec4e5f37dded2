#!/bin/bash
set -eu
test "$(shell/tool)" = "tool reads MORTAR"
test -n "$TEST_TMPDIR"
echo scratch > "$TEST_TMPDIR/scratch"
