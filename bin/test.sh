#!/bin/sh
# Runs every test: `bin/test.sh` all of them, `bin/test.sh e2e` only the end-to-end ones.
# Other arguments go to pytest.
exec sh "$(dirname "$0")/launch.sh" test "$@"
