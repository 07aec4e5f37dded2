#!/bin/bash
echo "said before the end"
echo "said on stderr" >&2
sleep 100000
