# Sourced by tool.sh.
say() { printf '%s\n' "$*"; }
