#!/bin/sh
# Starts the service; the first start installs the packages. Arguments go to `bin/app serve`.
exec sh "$(dirname "$0")/launch.sh" start "$@"
