#!/bin/bash
set -eu
touch "$TEST_SHARD_STATUS_FILE"
test "$TEST_TOTAL_SHARDS" = 2
