#!/bin/sh
# Runs the quick tests, in five minutes on two cores: `bin/test.sh all` runs every test, `bin/test.sh e2e` only the
# end-to-end check, `bin/test.sh --help` tells the rest.
exec sh "$(dirname "$0")/launch.sh" test "$@"
