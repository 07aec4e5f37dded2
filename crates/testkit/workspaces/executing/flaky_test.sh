#!/bin/bash
set -eu
echo "an attempt begins"
# Only the first attempt can make the directory.
! mkdir "$FLAKY_STATE"
