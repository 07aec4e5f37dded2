#!/bin/bash
# join @PARAMETERS: one argument a line, the output first.
set -eu
mapfile -t parameters < "${1#@}"
cat "${parameters[@]:1}" > "${parameters[0]}"
