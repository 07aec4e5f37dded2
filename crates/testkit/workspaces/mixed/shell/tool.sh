#!/bin/bash
set -eu
. shell/lib.sh
say "tool reads $(cat gen/upper.txt)"
