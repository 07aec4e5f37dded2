#!/bin/bash
set -eu
grep -q 'link 4' rules/joined.txt
grep -q '^lines$' rules/counted.txt
grep -q '^11$' rules/counted.txt || { cat rules/counted.txt; false; }
test "$(cat rules/forest/leaf_20.txt)" = 'leaf 20'
test -x rules/forest/a/run.sh
test "$(grep -c leaf_ rules/listed.txt)" = 20
tail -n 1 rules/listed.txt | grep -q '^run$'
