#!/bin/sh
# Starts the service; the first time it installs what is needed. Arguments go to `python -m app serve`.
exec sh "$(dirname "$0")/launch.sh" start "$@"
