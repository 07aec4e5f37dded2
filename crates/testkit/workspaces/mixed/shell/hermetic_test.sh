#!/bin/bash
set -eu
grep -q declared shell/declared.txt
test ! -e shell/undeclared.txt
