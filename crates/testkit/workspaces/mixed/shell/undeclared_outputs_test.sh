#!/bin/bash
set -eu
echo kept > "$TEST_UNDECLARED_OUTPUTS_DIR/kept.txt"
